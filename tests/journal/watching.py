"""Lets the database itself write down every change of a step's status, whichever statement makes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from durable_adapter.errors import IllegalTransition
from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus, check_transition

_TABLE = "CREATE TABLE test_seen (old_status VARCHAR(16), new_status VARCHAR(16))"
_INTO = "INSERT INTO test_seen VALUES"
_MAKE = {
    "sqlite": [
        f"CREATE TRIGGER test_changed AFTER UPDATE ON durable_step BEGIN {_INTO} (OLD.status, NEW.status); END",
        f"CREATE TRIGGER test_made AFTER INSERT ON durable_step BEGIN {_INTO} (NULL, NEW.status); END",
    ],
    "mysql": [
        f"CREATE TRIGGER test_changed AFTER UPDATE ON durable_step FOR EACH ROW {_INTO} (OLD.status, NEW.status)",
        f"CREATE TRIGGER test_made AFTER INSERT ON durable_step FOR EACH ROW {_INTO} (NULL, NEW.status)",
    ],
    "postgresql": [
        f"CREATE FUNCTION test_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF TG_OP = 'INSERT' THEN {_INTO} (NULL,"
        f" NEW.status); ELSE {_INTO} (OLD.status, NEW.status); END IF; RETURN NULL; END $$",
        "CREATE TRIGGER test_changed AFTER INSERT OR UPDATE ON durable_step FOR EACH ROW EXECUTE FUNCTION test_note()",
    ],
}
_ON_TABLE = {"sqlite": "", "mysql": "", "postgresql": " ON durable_step"}


@contextmanager
def every_change(journal: Journal) -> Iterator[set[tuple[StepStatus | None, StepStatus]]]:
    """The changes of status made within the block, filled in at its end."""
    dialect = journal.db.dialect_name
    seen: set[tuple[StepStatus | None, StepStatus]] = set()
    with journal.db.engine.connect() as connection:
        for statement in (_TABLE, *_MAKE[dialect]):
            connection.exec_driver_sql(statement)
    try:
        yield seen
        with journal.db.engine.connect() as connection:
            for old, new in connection.exec_driver_sql("SELECT DISTINCT old_status, new_status FROM test_seen"):
                seen.add((StepStatus(old) if old else None, StepStatus(new)))
    finally:
        with journal.db.engine.connect() as connection:
            connection.exec_driver_sql(f"DROP TRIGGER test_changed{_ON_TABLE[dialect]}")
            if dialect == "postgresql":
                connection.exec_driver_sql("DROP FUNCTION test_note")
            else:
                connection.exec_driver_sql("DROP TRIGGER test_made")
            connection.exec_driver_sql("DROP TABLE test_seen")


def illegal(seen: set[tuple[StepStatus | None, StepStatus]]) -> list[str]:
    """The changes among these that the table of legal transitions does not have."""
    found = []
    for old, new in seen:
        try:
            if old is not new:  # a write that leaves the status alone
                check_transition(old, new)
        except IllegalTransition as error:
            found.append(str(error))
    return sorted(found)
