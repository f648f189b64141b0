"""Every change of a status: one legal transition, the event that tells of it, and what people are told after the commit.

A statement that moves a row names the statuses that it takes, so that an illegal change hits no row; naming one from which the
change is not legal is an error. The happy path builds its statements once (`moving`); everything else calls `move`.
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
    """A step, known by its run and its key."""

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
        values: what changes with it, by column.
        where: conditions on the row.
        of: the statuses that it takes; default all from which the change is legal.

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
    """The condition that a row is this step's."""
    return sa.and_(step.c.ref == row.ref, step.c.key == row.key)


def same_token(row: StepRow) -> Any:
    """The condition that nobody has claimed a step since it was read."""
    return step.c.token.is_(None) if row.token is None else step.c.token == row.token


class Transitions:
    """Moves steps and runs, and writes and tells what that means for people."""

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
            row: the step; only its run and key are looked at.
            to: its new status.
            values: what changes with it, by column, in the order of assignment.
            where: further conditions on the row.
            of: the statuses that it takes; default all from which the change is legal.
            event: written to the log where the step moved.
            alert: told to the observers after the commit, where the step moved.
            token: the claim that the event tells of.
            who: who did it.
            why: in words, for people.
            detail: names and numbers for the event.

        Returns:
            Whether the step moved.
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
            values: what changes with it, by column. Whatever has ended waits for nothing and has no look: that is cleared here.
            of: the statuses that it takes; where none are given, it must move.

        Returns:
            Whether it moved.

        Raises:
            IllegalTransition: it had to move, and stands where that is not legal.
        """
        if to in ENDED_WORKFLOWS:
            values = {"ended_at": self._db.now, "look_at": None, "wake_at": None, "waiting_for": None, **values}
        if conn.execute(moving(to, values, workflow.c.ref == ref, of=of)).rowcount:
            return True
        if of is None:
            found = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == ref)).scalar_one_or_none()
            raise IllegalTransition(f"run {ref} cannot go from {found} to {to}")
        return False


def stands(conn: Connection, row: StepRow, *conditions: Any, token: str | None) -> bool:
    """Whether a change that found nothing to change had been committed already, and only its answer was lost."""
    same = same_token(row) if token is None else step.c.token == token
    return conn.execute(sa.select(step.c.key).where(this(row), same, *conditions)).one_or_none() is not None
