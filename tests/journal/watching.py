"""Lets the database itself write down every change of a status, of steps and of runs, whichever statement makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from durable_adapter.errors import IllegalTransition
from durable_adapter.journal import Journal
from durable_adapter.model import LEGAL_RUNS, StepStatus, WorkflowStatus, check_transition

#: A change of a status; from None where a row was made.
Change = tuple[StepStatus | None, StepStatus] | tuple[WorkflowStatus | None, WorkflowStatus]

_TABLE = "CREATE TABLE test_seen (of_what VARCHAR(16), old_status VARCHAR(20), new_status VARCHAR(20))"
_STATUSES: dict[str, type[StepStatus] | type[WorkflowStatus]] = {"step": StepStatus, "workflow": WorkflowStatus}


def _make(dialect: str, what: str) -> list[str]:
    table, made, changed = f"durable_{what}", f"test_made_{what}", f"test_changed_{what}"
    into = f"INSERT INTO test_seen VALUES ('{what}', "
    if dialect == "postgresql":
        return [
            f"CREATE FUNCTION {changed}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_OP = 'INSERT' THEN {into} NULL,"
            f" NEW.status); ELSE {into} OLD.status, NEW.status); END IF; RETURN NULL; END $$",
            f"CREATE TRIGGER {changed} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {changed}()",
        ]
    begin, end = ("FOR EACH ROW", "") if dialect == "mysql" else ("BEGIN", "; END")
    return [
        f"CREATE TRIGGER {changed} AFTER UPDATE ON {table} {begin} {into} OLD.status, NEW.status){end}",
        f"CREATE TRIGGER {made} AFTER INSERT ON {table} {begin} {into} NULL, NEW.status){end}",
    ]


def _take_away(dialect: str, what: str) -> list[str]:
    made, changed = f"test_made_{what}", f"test_changed_{what}"
    if dialect == "postgresql":
        return [f"DROP TRIGGER {changed} ON durable_{what}", f"DROP FUNCTION {changed}"]
    return [f"DROP TRIGGER {changed}", f"DROP TRIGGER {made}"]


@contextmanager
def every_change(journal: Journal) -> Iterator[set[Change]]:
    """The changes of status made within the block, filled in at its end."""
    dialect = journal.db.dialect_name
    seen: set[Change] = set()
    with journal.db.engine.connect() as connection:
        for statement in (_TABLE, *(one for what in _STATUSES for one in _make(dialect, what))):
            connection.exec_driver_sql(statement)
    try:
        yield seen
        with journal.db.engine.connect() as connection:
            for what, old, new in connection.exec_driver_sql("SELECT DISTINCT of_what, old_status, new_status FROM test_seen"):
                status = _STATUSES[what]
                seen.add((status(old) if old else None, status(new)))  # type: ignore[arg-type]
    finally:
        with journal.db.engine.connect() as connection:
            for statement in (*(one for what in _STATUSES for one in _take_away(dialect, what)), "DROP TABLE test_seen"):
                connection.exec_driver_sql(statement)


def illegal(seen: set[Change]) -> list[str]:
    """The changes among these that the tables of legal transitions do not have."""
    found = []
    for old, new in seen:
        if old is new:  # a write that leaves the status alone
            continue
        if isinstance(new, WorkflowStatus):
            if old not in LEGAL_RUNS[new] and (old, new) != (None, WorkflowStatus.RUNNING):
                found.append(f"a run went from {old} to {new}")
            continue
        try:
            check_transition(old, new)  # type: ignore[arg-type]
        except IllegalTransition as error:
            found.append(str(error))
    return sorted(found)
