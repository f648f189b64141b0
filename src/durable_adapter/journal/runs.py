"""The writes to a run as a whole: suspend, wake, mark for attention, cancel, reopen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from ..model import (
    FORWARD_WORKFLOWS,
    LEGAL_RUNS,
    OPEN_STEPS,
    SLEEPS,
    Alert,
    Attention,
    Cause,
    Effect,
    Event,
    Shape,
    StepRow,
    StepStatus,
    WorkflowStatus,
    forward,
    having,
)
from . import troubles
from .database import Database
from .ends import new_key
from .engine_ends import is_ended_by_engine, is_left_behind
from .events import Events
from .rows import inserting_step, step_values
from .schema import step, workflow
from .transitions import Transitions, moving
from .turns import is_counted
from .undo import Undo, happened_after_all, undecided

#: The statuses from which a person may reopen a run: to go forward (False), or to continue its rollback (True).
REOPENED_FROM = {
    False: FORWARD_WORKFLOWS | {WorkflowStatus.FAILING, WorkflowStatus.FAILED, WorkflowStatus.CANCELLED},
    True: frozenset({WorkflowStatus.ROLLING_BACK, WorkflowStatus.COMPENSATION_FAILED}),
}


class Runs:
    """Writes to the workflow table."""

    def __init__(
        self,
        db: Database,
        events: Events,
        transitions: Transitions,
        undo: Undo,
        resend_after: int,
    ) -> None:
        self._db = db
        self._transitions = transitions
        self._events = events
        self._undo = undo
        self._resend_after = resend_after
        self._insert_step = inserting_step(db.now)

    def suspend(
        self,
        ref: str,
        *,
        waiting_for: str,
        wake_at: int | None,
        unless_ended: str | None = None,
        sent: Sequence[str] = (),
    ) -> bool:
        """Commits that a function waits. One commit; locks the run, then reads it again.

        Args:
            ref: the run.
            waiting_for: what it waits for, as `explain` shows it. The end of a step wakes `step:<key>` and `steps`; a timer
                wakes `sleep:<key>`.
            wake_at: database time at which it is woken at the latest; None for no such time.
            unless_ended: a step's key, or `*` for every dispatched step: do not suspend if it has ended meanwhile.
            sent: the keys of steps whose messages this wake sent.

        Returns:
            False if the function need not wait any more.
        """

        def write(conn: Connection) -> bool:
            self._note_sent(conn, ref, sent)
            run = conn.execute(
                sa.select(workflow.c.status, workflow.c.open_steps).where(workflow.c.ref == ref).with_for_update()
            ).one_or_none()
            if run is None or WorkflowStatus(run.status) not in (WorkflowStatus.RUNNING, WorkflowStatus.SUSPENDED):
                return True
            if unless_ended == "*" and run.open_steps <= 1:
                return False
            if unless_ended not in (None, "*"):
                status = conn.execute(
                    sa.select(step.c.status).where(step.c.ref == ref, step.c.key == unless_ended)
                ).scalar_one_or_none()
                if status is not None and StepStatus(status) not in OPEN_STEPS:
                    return False
            self._suspend(conn, ref, waiting_for, wake_at, alone=run.open_steps <= 1)
            return True

        return self._db.transaction(write)

    def _note_sent(self, conn: Connection, ref: str, keys: Sequence[str]) -> None:
        """Records that the messages of planned steps were sent, in the transaction of the suspension."""
        if not keys:
            return
        unsent = sa.and_(step.c.status == StepStatus.PLANNED.value, step.c.sent_at.is_(None))
        here = sa.and_(step.c.ref == ref, step.c.key.in_(list(keys)), unsent)
        conn.execute(sa.select(step.c.key).where(here).order_by(step.c.key).with_for_update()).all()
        conn.execute(sa.update(step).where(here).values(sent_at=self._db.now))

    def sleep(self, timer: StepRow, *, sent: Sequence[str] = ()) -> bool:
        """Commits a function's timer and suspends the function on it. One commit.

        The timer's own next check wakes the function. The run is checked after that, or at the usual interval where
        another open step may be lost meanwhile.

        Args:
            timer: the sleep's row, waiting until its `next_check_at`.
            sent: the keys of steps whose messages this wake sent.

        Returns:
            False, with nothing changed, if the sleep has a row already or the run no longer goes forward.
        """

        def write(conn: Connection) -> bool:
            self._note_sent(conn, timer.ref, sent)
            forward = workflow.c.status.in_([status.value for status in FORWARD_WORKFLOWS])
            open_steps = conn.execute(
                sa.select(workflow.c.open_steps).where(workflow.c.ref == timer.ref, forward).with_for_update()
            ).scalar_one_or_none()
            if open_steps is None:
                return False
            self._db.hot(self._insert_step).run(conn, step_values(timer))
            self._suspend(conn, timer.ref, f"{SLEEPS}{timer.key}", timer.next_check_at, alone=open_steps <= 1)
            return True

        try:
            return self._db.transaction(write)
        except IntegrityError:
            return False

    def _suspend(self, conn: Connection, ref: str, waiting_for: str, wake_at: int | None, *, alone: bool) -> None:
        """Suspends a run. A run whose only open step is a timer is next checked after that timer."""
        next_check_at: Any = self._db.now + self._resend_after
        if wake_at is not None and waiting_for.startswith(SLEEPS):
            next_check_at = wake_at + self._resend_after if alone else next_check_at
        elif wake_at is not None:
            next_check_at = wake_at
        values = {"waiting_for": waiting_for, "wake_at": wake_at, "next_check_at": next_check_at}
        self._transitions.move_run(conn, ref, WorkflowStatus.SUSPENDED, values)

    def woken(self, ref: str, key: str) -> None:
        """Commits that a function's own retry has begun, so that its message is not sent again. One commit.

        `waiting_for` and `next_check_at` of a suspended run stay, so that they survive the death of this wake. The next
        suspension replaces them; the run's end clears them.

        Args:
            ref: the run.
            key: the function's own step.
        """
        here = sa.and_(step.c.ref == ref, step.c.key == key, step.c.status == StepStatus.WAITING.value)
        self._db.transaction(lambda conn: conn.execute(sa.update(step).where(here).values(next_check_at=None)))

    def mark(self, ref: str, attention: str | None) -> None:
        """Sets or clears (None) a run's attention. One commit."""
        self.mark_all([ref], attention)

    def mark_all(self, refs: Collection[str], attention: str | None) -> None:
        """Sets or clears (None) the attention of several runs. One commit."""
        other = workflow.c.attention.is_not(None) if attention is None else workflow.c.attention.is_distinct_from(attention)

        def write(conn: Connection) -> None:
            changing = sa.select(workflow.c.ref).where(workflow.c.ref.in_(sorted(refs)), other).order_by(workflow.c.ref)
            found = [row.ref for row in conn.execute(changing.with_for_update()).all()]
            if not found:
                return
            conn.execute(sa.update(workflow).where(workflow.c.ref.in_(found)).values(attention=attention))
            for ref in found if attention == Attention.UNMARKED else ():
                troubles.add(conn, Alert.STOPPED_AT_UNMARKED, ref, None, "it stopped at a task that is not marked durable")

        self._db.transaction(write)

    def cancel(self, ref: str, *, who: str, why: str) -> list[str]:
        """Cancels a run and its steps that have not begun. One commit. A rollback that was decided goes on.

        Returns:
            The keys of steps that had begun, or whose effect may have happened. A person must still settle them.
        """

        def write(conn: Connection) -> list[str]:
            if self._undo.lock_run(conn, ref) is None:
                return []
            self._undo.cancel_planned(conn, ref)
            self._transitions.move_run(conn, ref, WorkflowStatus.CANCELLED, {}, of=LEGAL_RUNS[WorkflowStatus.CANCELLED])
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="cancel")
            return [s.key for s in self._undo.steps(conn, ref) if undecided(s)]

        return self._db.transaction(write)

    def reopen(self, ref: str, keys: Sequence[str], *, who: str, why: str, now: int) -> bool:
        """Makes failed steps due again, and plans the cancelled steps behind them again, by a person's order. One commit.

        If failed compensations are named, only they are reopened, and the run continues its rollback.

        Returns:
            False, with nothing changed, if the run succeeded or is being undone, or if compensations and other steps are
            named together.
        """

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            if run is None:
                return False
            named = [s for s in self._undo.steps(conn, ref) if s.key in keys]
            undoing = [s for s in named if s.kind.undoes]
            if len(undoing) not in (0, len(named)) or run.status not in REOPENED_FROM[bool(undoing)]:
                return False
            failed = [s for s in named if s.status is StepStatus.FAILED and not happened_after_all(s)]
            # The message of an unmarked step is sent by the member before it: it is planned again below.
            failed += [s for s in named if _is_to_begin(s)]
            due: dict[str, Any] = {
                "next_check_at": now,
                "sent_at": None,
                "sends": 0,
                "losses": 0,
                "attention": None,
                "ended_at": None,
            }
            conn.execute(moving(StepStatus.WAITING, due, step.c.ref == ref, step.c.key.in_([s.key for s in failed])))
            anew = [s.key for s in failed if s.effect is Effect.DID_NOT_HAPPEN and s.attempt]
            conn.execute(sa.update(step).where(step.c.ref == ref, step.c.key.in_(anew)).values(**new_key()))
            if run.status not in FORWARD_WORKFLOWS:  # else its function has received the failure, and goes on from it
                done = step.c.key.in_([s.key for s in named if happened_after_all(s)])
                conn.execute(moving(StepStatus.SUCCEEDED, {}, step.c.ref == ref, done, of=(StepStatus.FAILED,)))
            self._forget_engine_ends(conn, ref)
            if not undoing:
                self._take_back_cancellation(conn, ref)
            going_on: dict[str, Any] = {}
            if not undoing:  # else nothing goes forward, and cancelled steps stay counted
                going_on = {"error": None, "open_steps": sum(is_counted(s) for s in self._undo.steps(conn, ref))}
            going_on |= {"ended_at": None, "next_check_at": now, "attention": None}
            if run.status in FORWARD_WORKFLOWS:
                conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(**going_on))
            else:
                status = WorkflowStatus.ROLLING_BACK if undoing else WorkflowStatus.RUNNING
                self._transitions.move_run(conn, ref, status, going_on)
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="retry", keys=list(keys))
            if not undoing:
                self._go_on(conn, ref)
                self._sleep_on(conn, ref, named=bool(failed))
            return True

        return self._db.transaction(write)

    def complete(self, ref: str) -> bool:
        """Ends a canvas that has no open step: its last member ended before one that was tried again. One commit."""

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            steps = forward(self._undo.steps(conn, ref))
            if run is None or run.status is not WorkflowStatus.RUNNING or run.shape is not Shape.CANVAS or not steps:
                return False
            if not all(is_left_behind(s) for s in steps):
                return False
            self._complete(conn, ref, as_ended=any(is_ended_by_engine(s) for s in steps))
            return True

        return self._db.transaction(write)

    def _complete(self, conn: Connection, ref: str, *, as_ended: bool = False) -> None:
        """Ends a run. Steps that were skipped, because a step ended its chain early, stay skipped.

        Args:
            conn: the caller's transaction.
            ref: the run.
            as_ended: the engine ended one of its members: the run is cancelled, not succeeded.
        """
        status = WorkflowStatus.CANCELLED if as_ended else WorkflowStatus.SUCCEEDED
        self._transitions.move_run(conn, ref, status, {"open_steps": 0})
        self._undo.cancel_planned(conn, ref)

    @staticmethod
    def _forget_engine_ends(conn: Connection, ref: str) -> None:
        """Removes the cause and evidence of steps that the engine ended, and that are to run after all."""
        ended = sa.and_(step.c.ref == ref, step.c.cause == Cause.ENDED_BY_ENGINE.value)
        conn.execute(sa.update(step).where(ended).values(cause=None, evidence=None))

    def _take_back_cancellation(self, conn: Connection, ref: str) -> None:
        """Plans cancelled steps again. A timer keeps the time that it was set to."""
        cancelled = sa.and_(step.c.ref == ref, step.c.status == StepStatus.CANCELLED.value)
        timer = step.c.kind.in_(having("timed"))
        until = sa.func.coalesce(step.c.deadline_at, self._db.now)
        running = {"ended_at": None, "next_check_at": until, "deadline_at": None}
        conn.execute(moving(StepStatus.WAITING, running, cancelled, timer))
        conn.execute(moving(StepStatus.PLANNED, {"ended_at": None, "next_check_at": None}, cancelled, ~timer))

    def _sleep_on(self, conn: Connection, ref: str, *, named: bool) -> None:
        """Suspends a function that slept when it was cancelled on its timer again, unless one of its steps is tried again."""
        steps = self._undo.steps(conn, ref)
        timer = next((s for s in steps if s.kind.timed and s.status is StepStatus.WAITING), None)
        if timer is not None and not named:
            alone = sum(is_counted(s) for s in steps) <= 1
            self._suspend(conn, ref, f"{SLEEPS}{timer.key}", timer.next_check_at, alone=alone)

    def _go_on(self, conn: Connection, ref: str) -> None:
        """Lets a run go forward: its last finished step sends what follows. A run with nothing left to do is completed."""
        steps = forward(self._undo.steps(conn, ref))
        counting = [s for s in steps if s.completes_run]
        if counting and all(s.status is StepStatus.SUCCEEDED for s in counting):
            if any(s.status is StepStatus.WAITING for s in steps):
                # A step that does not complete the run is tried again. Once it has ended, a sweeper ends the run.
                conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(open_steps=1))
                return
            self._complete(conn, ref)
            return
        begun = [s for s in steps if s.status is not StepStatus.PLANNED]
        if any(s.status is not StepStatus.SUCCEEDED for s in begun):
            return
        marked = [s for s in begun if s.kind.member and s.kind.marked]
        if marked and marked[-1] is begun[-1]:
            # Its own message, sent again, is a memo hit, which sends what follows.
            here = sa.and_(step.c.ref == ref, step.c.key == marked[-1].key)
            conn.execute(sa.update(step).where(here).values(next_check_at=self._db.now))

    def acknowledge(self, ref: str, *, who: str, why: str) -> None:
        """Records that a person has seen a run's trouble; the run need not be in the journal. One commit."""

        def write(conn: Connection) -> None:
            conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(attention=None))
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="acknowledge")

        self._db.transaction(write)


def _is_to_begin(row: StepRow) -> bool:
    """Returns whether the engine ended a marked step before it began, so that a retry makes it due."""
    return row.status is StepStatus.CANCELLED and is_ended_by_engine(row) and row.kind.marked
