"""Every change of a status: one legal transition, its event, and the alert that people get after the commit.

A statement that moves a row names the statuses that it takes, so that an illegal change matches no row. Naming a status
from which the change is not legal is an error. The hot path builds its statements once (`moving`); everything else calls `move`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import IllegalTransition
from ..model import ENDED_WORKFLOWS, LEGAL, LEGAL_RUNS, Alert, Event, StepRow, StepStatus, WorkflowStatus
from . import troubles
from .database import Database
from .events import Events
from .schema import literals, step, workflow


class Keyed(Protocol):
    """A step, identified by its run and its key."""

    @property
    def ref(self) -> str: ...

    @property
    def key(self) -> str: ...


def moving(
    to: StepStatus | WorkflowStatus,
    values: Mapping[str, Any],
    *where: Any,
    of: Collection[StepStatus] | Collection[WorkflowStatus] | None = None,
) -> sa.Update:
    """Returns the statement that moves rows to a status.

    MySQL assigns from left to right: the values are assigned in their order, and the status last.

    Args:
        to: the new status, of a step or of a run.
        values: the other changes, by column.
        where: conditions on the row.
        of: the old statuses; default all from which the change is legal.

    Raises:
        IllegalTransition: the change is not legal from one of them.
    """
    table, legal = (step, LEGAL[to]) if isinstance(to, StepStatus) else (workflow, LEGAL_RUNS[to])
    sources = legal if of is None else frozenset(of)
    if not sources <= legal:
        wrong, allowed = (", ".join(sorted(some)) for some in (sources - legal, legal))
        raise IllegalTransition(f"nothing goes from {wrong} to {to}: it is reached from {allowed} only")
    given = [(table.c[name], value) for name, value in values.items()]
    return (
        sa.update(table).where(*where, table.c.status.in_(literals(sources))).ordered_values(*given, (table.c.status, to.value))
    )


def this(row: Keyed) -> Any:
    """Returns the condition that a row is this step's."""
    return sa.and_(step.c.ref == row.ref, step.c.key == row.key)


def same_token(row: StepRow) -> Any:
    """Returns the condition that nobody has claimed a step since it was read."""
    return step.c.token.is_(None) if row.token is None else step.c.token == row.token


class Transitions:
    """Moves steps and runs, writes events, and adds alerts for people."""

    def __init__(self, db: Database, events: Events) -> None:
        self._db = db
        self._events = events

    def move(
        self,
        conn: Connection,
        row: Keyed,
        to: StepStatus,
        values: Mapping[str, Any],
        *where: Any,
        of: Collection[StepStatus] | None = None,
        event: Event | None = None,
        alert: Alert | None = None,
        token: str | None = None,
        who: str | None = None,
        why: str | None = None,
        **detail: Any,
    ) -> bool:
        """Moves one step in the caller's transaction.

        Args:
            conn: the transaction.
            row: the step; only its run and key are read.
            to: its new status.
            values: the other changes, by column, in the order of assignment.
            where: further conditions on the row.
            of: the old statuses; default all from which the change is legal.
            event: the event to write if the step moved.
            alert: the alert for the observers after the commit, if the step moved.
            token: the claim, for the event.
            who: the person or process, for the event.
            why: the reason, as people read it.
            detail: names and numbers for the event.

        Returns:
            True if the step moved.
        """
        if not conn.execute(moving(to, values, this(row), *where, of=of)).rowcount:
            return False
        if event is not None:
            self._events.write(conn, event, ref=row.ref, key=row.key, token=token, who=who, why=why, **detail)
        if alert is not None:
            troubles.add(conn, alert, row.ref, row.key, why)
        return True

    def move_run(
        self,
        conn: Connection,
        ref: str,
        to: WorkflowStatus,
        values: Mapping[str, Any],
        *,
        of: Collection[WorkflowStatus] | None = None,
    ) -> bool:
        """Moves a run in the caller's transaction, which has locked it.

        Args:
            conn: the transaction.
            ref: the run.
            to: its new status.
            values: the other changes, by column. For an ended run, the columns of waiting and of the next check are cleared.
            of: the old statuses; None if it must move.

        Returns:
            True if it moved.

        Raises:
            IllegalTransition: it had to move, and the change is not legal from its status.
        """
        if to in ENDED_WORKFLOWS:
            values = {"ended_at": self._db.now, "next_check_at": None, "wake_at": None, "waiting_for": None, **values}
        if conn.execute(moving(to, values, workflow.c.ref == ref, of=of)).rowcount:
            return True
        if of is None:
            found = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == ref)).scalar_one_or_none()
            raise IllegalTransition(f"run {ref} cannot go from {found} to {to}")
        return False


def stands(conn: Connection, row: StepRow, *conditions: Any, token: str | None) -> bool:
    """Returns whether a change that matched no row had been committed before, and only its answer was lost."""
    same = same_token(row) if token is None else step.c.token == token
    return conn.execute(sa.select(step.c.key).where(this(row), same, *conditions)).one_or_none() is not None
