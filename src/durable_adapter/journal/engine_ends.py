"""The end of a task that its engine ended on purpose before it began: revoked, expired, rejected.

The task is never sent again automatically, and what comes after it does not run. One transaction cancels both, and marks the run
for a person's attention, whose `retry` makes the step due.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    Alert,
    Attention,
    Cause,
    Event,
    StepRow,
    StepStatus,
    WorkflowStatus,
    having,
)
from . import troubles
from .database import Database
from .events import Events
from .schema import event, step, workflow
from .transitions import Transitions, moving, this
from .undo import UNSENT, Undo

#: The `who` of verdicts that a probe gives.
PROBE = "probe"
#: The statuses of a step that has not begun.
_NOT_BEGUN = (StepStatus.PLANNED, StepStatus.WAITING)


class EngineEnds:
    """The transition of a step whose engine ended its task before it began."""

    def __init__(self, db: Database, events: Events, transitions: Transitions, undo: Undo) -> None:
        self._db = db
        self._events = events
        self._transitions = transitions
        self._undo = undo

    def end(self, row: StepRow, why: str, *, who: str | None = None) -> bool:
        """Cancels a member that has not begun, and what comes after it. One commit.

        Members that do not come after it go on, and the run ends when they have ended. A run with nothing left to do is
        cancelled at once. If an earlier attempt may have had its effect, that stays unknown.

        Args:
            row: the member as last read.
            why: the engine's reason, as people read it.
            who: the process that reports it.

        Returns:
            False, with nothing changed, if it has begun meanwhile or its run no longer goes forward.
        """

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, row.ref)
            steps = self._undo.steps(conn, row.ref)
            found = next((s for s in steps if s.key == row.key), None)
            if run is None or found is None:
                return False
            if found.cause == Cause.ENDED_BY_ENGINE and found.status not in OPEN_STEPS:
                return True  # committed before, and only the answer was lost
            if run.status not in FORWARD_WORKFLOWS or found.status not in _NOT_BEGUN:
                return False
            if (found.token, found.attempt) != (row.token, row.attempt):
                return False
            gone = {s.key for s in after(found, steps)} | {found.key}
            self._undo.cancel_planned(conn, row.ref, keys=gone)
            conn.execute(
                sa.update(step).where(this(row)).values(cause=Cause.ENDED_BY_ENGINE.value, evidence=why, next_check_at=None)
            )
            marked = {"attention": Attention.ENDED_BY_ENGINE.value}
            if any(s.status in OPEN_STEPS and s.key not in gone and not s.kind.undoes for s in steps):
                conn.execute(sa.update(workflow).where(workflow.c.ref == row.ref).values(**marked))
            else:
                self._transitions.move_run(conn, row.ref, WorkflowStatus.CANCELLED, marked)
            self._events.write(conn, Event.ENDED_BY_ENGINE, ref=row.ref, key=row.key, token=row.token, who=who, why=why)
            troubles.add(conn, Alert.ENDED_BY_ENGINE, row.ref, row.key, why)
            return True

        return self._db.transaction(write)

    def not_taken(self, ref: str, task_id: str, why: str, *, who: str | None = None) -> bool:
        """Records that a worker discarded a step's message unread, and makes the run due soon. One commit.

        The body therefore did not run, and the message is sent again for another worker.

        Returns:
            False if the step has begun meanwhile, is over, or is unmarked (never sent again automatically).
        """

        def write(conn: Connection) -> bool:
            self._undo.lock(conn, ref)
            planned = sa.and_(step.c.ref == ref, step.c.task_id == task_id, step.c.status == StepStatus.PLANNED.value)
            planned = sa.and_(planned, step.c.kind.in_(having("marked")))
            changed = conn.execute(sa.update(step).where(planned).values(cause=Cause.NOT_TAKEN.value, evidence=why)).rowcount
            if not changed:
                return False
            key = sa.select(step.c.key).where(planned).limit(1)
            self._events.write(conn, Event.NOT_TAKEN, ref=ref, key=conn.execute(key).scalar_one(), who=who, why=why)
            open_run = sa.and_(workflow.c.ref == ref, workflow.c.next_check_at > self._db.now + UNSENT)
            conn.execute(sa.update(workflow).where(open_run).values(next_check_at=self._db.now + UNSENT))
            return True

        return self._db.transaction(write)

    def begins_again(self, ref: str, task_id: str) -> None:
        """Counts another delivery of an unmarked member's message, which may kill its worker each time. One commit."""
        planned = sa.and_(
            step.c.ref == ref,
            step.c.task_id == task_id,
            step.c.kind.in_(having("marked", False)),
            step.c.status == StepStatus.PLANNED.value,
        )
        again = sa.update(step).where(planned).values(attempt=step.c.attempt + 1, begun_at=self._db.now)
        self._db.transaction(lambda conn: conn.execute(again))

    def taken_up(self, row: StepRow) -> None:
        """Clears *not taken* from a step whose message is about to be sent again. One commit."""
        not_taken = sa.and_(this(row), step.c.cause == Cause.NOT_TAKEN.value)
        self._db.transaction(lambda conn: conn.execute(sa.update(step).where(not_taken).values(cause=None, evidence=None)))

    def send_again(self, ref: str, task_id: str) -> None:
        """Makes a task due whose message its engine discarded although it is to run. One commit.

        A step that waits for its next attempt keeps its time. An end that the engine stored for the task before now is
        ignored from here on.
        """
        its_step = sa.and_(step.c.ref == ref, step.c.task_id == task_id)
        waits = sa.and_(its_step, step.c.status == StepStatus.WAITING.value)

        def write(conn: Connection) -> None:
            conn.execute(sa.update(step).where(waits).values(sent_at=None, sends=0))  # its message has not vanished
            due = {"next_check_at": self._db.now, "sends": 0}
            conn.execute(moving(StepStatus.WAITING, due, its_step, of=(StepStatus.PLANNED,)))
            key = conn.execute(sa.select(step.c.key).where(its_step).limit(1)).scalar_one_or_none()
            why = "it is to run, and its message was discarded"
            self._events.write(conn, Event.SENT_AGAIN, ref=ref, key=key, why=why, overruled=True)

        self._db.transaction(write)

    def ordered_again_at(self, ref: str) -> int | None:
        """Returns when a person last ordered a run to go on or gave a verdict in it, or a worker carried that out; else None."""
        ordered = sa.and_(event.c.kind == Event.OPERATOR.value, event.c.detail.contains('"retry"'))
        decided = sa.and_(event.c.kind == Event.VERDICT.value, event.c.who != PROBE)
        obeyed = sa.and_(event.c.kind == Event.SENT_AGAIN.value, event.c.detail.contains('"overruled"'))
        said = sa.or_(ordered, decided, obeyed)
        rows = self._db.select(sa.select(sa.func.max(event.c.at).label("at")).where(event.c.ref == ref, said))
        return None if rows[0].at is None else int(rows[0].at)


def is_ended_by_engine(row: StepRow) -> bool:
    """Returns whether the engine ended a step's task before it began, and nobody has ordered it to run since."""
    return row.cause == Cause.ENDED_BY_ENGINE and row.status not in OPEN_STEPS


def is_left_behind(member: StepRow) -> bool:
    """Returns whether a canvas no longer waits for a member: it succeeded, was cancelled, or its engine ended it."""
    return member.status in (StepStatus.SUCCEEDED, StepStatus.CANCELLED) or is_ended_by_engine(member)


def after(row: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """Returns all members that come after a member, directly or indirectly; after a function, all others."""
    members = [s for s in steps if not s.kind.undoes and s.key != row.key]
    if row.kind.makes_calls or all(s.after is None for s in steps):  # a function, or a chain of revision 0001
        return [s for s in members if row.kind.makes_calls or s.position > row.position]
    gone = {row.key}
    for s in sorted(members, key=lambda s: s.position):
        if gone & set(s.after or ()):
            gone.add(s.key)
    return [s for s in members if s.key in gone]
