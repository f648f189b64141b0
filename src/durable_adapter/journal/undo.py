"""Fails a run, and rolls it back in reverse order (P8).

The final failure of a step decides in one transaction: every planned step is cancelled, and no forward claim succeeds
after it. Steps are locked in key order, then the workflow.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    ENDED_WORKFLOWS,
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    SECOND,
    UNDOING_WORKFLOWS,
    UNSETTLED_STEPS,
    Alert,
    Attention,
    Effect,
    Event,
    Kind,
    Safety,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
    bounded_key,
    derive,
    having,
    undo_key,
)
from . import troubles
from .database import Database
from .events import Events
from .rows import step_row, step_values, workflow_row
from .schema import event, step, workflow
from .transitions import Transitions, moving

#: Delay before a rollback that waits for a person is checked again.
REST = 600 * SECOND
#: Delay before the sweeper checks a compensation that was planned and perhaps never sent.
UNSENT = 15 * SECOND


@dataclass(frozen=True, slots=True)
class Decision:
    """The status of a run, and the compensation to send next, if there is one."""

    status: WorkflowStatus
    undo: StepRow | None = None
    target: StepRow | None = None


class Undo:
    """The transitions of a run that failed for good."""

    def __init__(self, db: Database, events: Events, transitions: Transitions) -> None:
        self._db = db
        self._events = events
        self._transitions = transitions
        self._move_run = transitions.move_run

    def lock(self, conn: Connection, ref: str) -> None:
        """Locks every step of a run in key order."""
        conn.execute(sa.select(step.c.key).where(step.c.ref == ref).order_by(step.c.key).with_for_update()).all()

    def lock_run(self, conn: Connection, ref: str) -> WorkflowRow | None:
        """Locks every step of a run in key order, then the run. Callers must read the steps after that.

        A step inserted while this waits for locks (a function's step, a sibling's compensation) is not locked. An insert
        holds the run's lock, so that a later read sees it.
        """
        self.lock(conn, ref)
        found = conn.execute(sa.select(workflow).where(workflow.c.ref == ref).with_for_update()).one_or_none()
        return None if found is None else workflow_row(found)

    def steps(self, conn: Connection, ref: str) -> list[StepRow]:
        """Returns the current steps of a run, by position."""
        rows = conn.execute(sa.select(step).where(step.c.ref == ref).order_by(step.c.position, step.c.key)).all()
        return [step_row(row) for row in rows]

    def decide(self, conn: Connection, ref: str, *, error: bytes | None = None) -> Decision | None:
        """Ends the forward part of a run after a step failed for good: fails it, rolls it back, or waits for its pivot.

        Returns:
            None if the run was no longer going forward, or does not exist.
        """
        run = self.lock_run(conn, ref)
        if run is None:
            return None
        if run.status is WorkflowStatus.ROLLING_BACK:
            return self._advance(conn, ref)
        if run.status not in (WorkflowStatus.RUNNING, WorkflowStatus.SUSPENDED, WorkflowStatus.FAILING):
            return None
        self.cancel_planned(conn, ref)
        steps = self.steps(conn, ref)
        status = outcome_of_failure(steps)
        values: dict[str, Any] = {"error": error if error is not None else run.error}
        if status not in ENDED_WORKFLOWS:
            values |= {"next_check_at": self._db.now + REST, "wake_at": None, "waiting_for": None}
        self._move_run(conn, ref, status, values)
        if status is not WorkflowStatus.ROLLING_BACK:
            return Decision(status)
        self._events.write(conn, Event.ROLLBACK, ref=ref, why="a step failed for good", steps=len(steps))
        return self._advance(conn, ref)

    def advance(self, ref: str) -> Decision | None:
        """Continues a rollback by one step, or ends it. One commit."""
        return self.reconsider(ref)

    def reconsider(self, ref: str) -> Decision | None:
        """Decides again about a run that is failing or rolling back: a pivot or a compensation may have ended. One commit."""

        def write(conn: Connection) -> Decision | None:
            status = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == ref)).scalar_one_or_none()
            if status not in (WorkflowStatus.FAILING.value, WorkflowStatus.ROLLING_BACK.value):
                return None
            return self.decide(conn, ref)

        return self._db.transaction(write)

    def decision(self, ref: str) -> Decision:
        """Returns the status of a run after a step's failure, and the compensation that is due, if there is one."""
        again = self.reconsider(ref)
        return again if again is not None else Decision(WorkflowStatus.FAILED)

    def begin(self, ref: str, *, who: str, why: str) -> Decision | None:
        """Begins a rollback by a person's order. One commit.

        Returns:
            None, with nothing changed, if a pivot has or may have succeeded, or the run is being undone already.
        """

        def write(conn: Connection) -> Decision | None:
            run = self.lock_run(conn, ref)
            if run is None:
                return None
            if run.status in UNDOING_WORKFLOWS:
                return self._begun_before(conn, run, who, why)
            if passed_pivot(self.steps(conn, ref)) is not None:
                return None
            self.cancel_planned(conn, ref)
            values = {"ended_at": None, "next_check_at": self._db.now, "wake_at": None, "waiting_for": None, "attention": None}
            self._move_run(conn, ref, WorkflowStatus.ROLLING_BACK, values)
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="rollback")
            return self._advance(conn, ref)

        return self._db.transaction(write)

    def _begun_before(self, conn: Connection, run: WorkflowRow, who: str, why: str) -> Decision | None:
        """Returns the decision of this order if it was committed before and its answer lost; None for another's rollback."""
        said = sa.select(event.c.id).where(event.c.ref == run.ref, event.c.kind == Event.OPERATOR.value, event.c.who == who)
        if conn.execute(said.where(event.c.why == why, event.c.detail.contains('"rollback"'))).first() is None:
            return None
        return self._advance(conn, run.ref) if run.status is WorkflowStatus.ROLLING_BACK else Decision(run.status)

    def settle(self, conn: Connection, ref: str, target: str, *, undone: bool) -> Decision | None:
        """Records that a compensation undid its target, or failed to, and continues the rollback."""
        target_row = sa.and_(step.c.ref == ref, step.c.key == target)
        change = sa.update(step).where(target_row, step.c.status == StepStatus.SUCCEEDED.value)
        change = change.values(attention=Attention.UNDO_FAILED.value)
        if undone:  # its message is not sent any more, even if a verdict requested it
            change = moving(StepStatus.UNDONE, {"attention": None, "next_check_at": None}, target_row)
        if conn.execute(change).rowcount and not undone:
            troubles.add(
                conn, Alert.UNDO_FAILED, ref, target, "its compensation failed for good: the step's effect is not undone"
            )
        run = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == ref).with_for_update()).one_or_none()
        if run is None or WorkflowStatus(run.status) is not WorkflowStatus.ROLLING_BACK:
            return None
        return self._advance(conn, ref)

    def resume(self, conn: Connection, ref: str, *, also_failed: bool = False) -> None:
        """Reopens a rollback that had ended without undoing a step, because that step is settled now.

        The run is locked in any status. Otherwise a concurrent last compensation, which has not seen this success, could
        end a rollback that is still open.

        Args:
            conn: the caller's transaction.
            ref: the run.
            also_failed: a run that had failed with nothing to undo begins its rollback now.
        """
        ended = [WorkflowStatus.COMPENSATED, WorkflowStatus.COMPENSATION_FAILED]
        if also_failed:
            ended += [WorkflowStatus.FAILED, WorkflowStatus.CANCELLED]
        conn.execute(sa.select(workflow.c.ref).where(workflow.c.ref == ref).with_for_update()).all()
        values = {"ended_at": None, "next_check_at": self._db.now, "attention": None}
        self._move_run(conn, ref, WorkflowStatus.ROLLING_BACK, values, of=ended)

    def check_now(self, conn: Connection, ref: str) -> None:
        """Makes an unfinished run due for the next sweep."""
        conn.execute(
            sa.update(workflow)
            .where(workflow.c.ref == ref, workflow.c.next_check_at.is_not(None))
            .values(next_check_at=self._db.now)
        )

    def goes_forward(self, conn: Connection, ref: str) -> bool:
        """Returns whether the run goes forward; if not, cancels a step that was just made due like the others.

        Callers must write the step's row first: a decision locks the steps, so that it either waits for that write and
        cancels the step, or is committed and seen here.
        """
        if self.is_forward(conn, ref):
            return True
        self.cancel_planned(conn, ref)
        return False

    def is_forward(self, conn: Connection, ref: str) -> bool:
        """Returns whether a run still goes forward."""
        status = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == ref)).scalar_one_or_none()
        return status is not None and WorkflowStatus(status) in FORWARD_WORKFLOWS

    def cancel_planned(self, conn: Connection, ref: str, *, keys: Collection[str] | None = None) -> None:
        """Cancels steps that have not begun. A step whose earlier attempt may have had its effect fails, effect unknown.

        Args:
            conn: the caller's transaction.
            ref: the run.
            keys: only these steps; None for all.
        """
        not_begun = sa.and_(step.c.ref == ref, step.c.kind.in_(having("undoes", False)))
        if keys is not None:
            not_begun = sa.and_(not_begun, step.c.key.in_(sorted(keys)))
        may_have_run = sa.and_(
            not_begun,
            step.c.status == StepStatus.WAITING.value,
            step.c.effect == Effect.UNKNOWN.value,
        )
        for row in conn.execute(sa.select(step.c.key).where(may_have_run).order_by(step.c.key)).all():
            unknown: dict[str, Any] = {
                "attention": Attention.EFFECT_UNKNOWN.value,
                "ended_at": self._db.now,
                "next_check_at": None,
            }
            failed = moving(StepStatus.FAILED, unknown, may_have_run, step.c.key == row.key, of=(StepStatus.WAITING,))
            if conn.execute(failed).rowcount:
                why = "it is not tried again, and an earlier attempt of it may have had its effect"
                troubles.add(conn, Alert.EFFECT_UNKNOWN, ref, row.key, why)
        cancelled = {
            "ended_at": self._db.now,
            # A timer's end is kept, because a person may reopen the run.
            "deadline_at": sa.case((step.c.kind.in_(having("timed")), step.c.next_check_at), else_=sa.null()),
            # An engine may send all messages at the start: this step's may wait in a queue, so a check follows.
            "next_check_at": sa.case((step.c.message.is_not(None), self._db.now + UNSENT), else_=sa.null()),
        }
        conn.execute(moving(StepStatus.CANCELLED, cancelled, not_begun))

    def _advance(self, conn: Connection, ref: str) -> Decision:
        """Plans the next compensation, in reverse order of completion, or ends the rollback if nothing is left to undo."""
        steps = self.steps(conn, ref)
        for s in steps:
            if happened_after_all(s):  # no replay needs the failure any more
                self._transitions.move(conn, s, StepStatus.SUCCEEDED, {}, of=(s.status,))
                s.status = StepStatus.SUCCEEDED
        following = next_of_rollback(steps)
        if following.target is not None and following.undo is None:
            planned = self._plan(conn, following.target)
            conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(next_check_at=self._db.now + UNSENT))
            return Decision(following.status, planned, following.target)
        if following.status is WorkflowStatus.ROLLING_BACK:
            return following
        attention = attention_at_end(following.status, steps)
        values = {"attention": attention.value if attention is not None else None}
        self._move_run(conn, ref, following.status, values)
        return following

    def _plan(self, conn: Connection, target: StepRow) -> StepRow:
        """Writes the row of the compensation of *target*."""
        undo = planned_undo(target)
        conn.execute(sa.insert(step).values(**step_values(undo), created_at=self._db.now))
        return undo


def planned_undo(target: StepRow) -> StepRow:
    """Returns the row of the compensation that undoes a step, before it is written."""
    return StepRow(
        ref=target.ref,
        key=bounded_key(undo_key(target.key)),
        position=target.position,
        name=target.compensation or "",
        engine=target.engine,
        kind=Kind.COMPENSATION,
        status=StepStatus.PLANNED,
        safety=Safety(target.options.get("undo_safety", Safety.PROTECTED.value)),
        queue=target.queue,
        task_id=derive("undo", target.ref, target.key),
        target=target.key,
        options=target.options.get("undo_options", {}),
    )


def outcome_of_failure(steps: Sequence[StepRow]) -> WorkflowStatus:
    """Returns the status of a run that a step's failure ended, from its steps after the planned ones were cancelled."""
    pivots = [s for s in steps if s.pivot]
    if any(undecided(s) for s in pivots):
        return WorkflowStatus.FAILING
    if any(s.status is StepStatus.SUCCEEDED for s in pivots):
        return WorkflowStatus.FAILED
    if any(s.compensation and (s.status is StepStatus.SUCCEEDED or undecided(s) or happened_after_all(s)) for s in steps):
        return WorkflowStatus.ROLLING_BACK
    return WorkflowStatus.FAILED


def still_to_undo(steps: Sequence[StepRow]) -> list[StepRow]:
    """Returns the steps that happened and have a compensation, in the order in which they are undone."""
    done = [s for s in steps if s.compensation and s.status is StepStatus.SUCCEEDED]
    return sorted(done, key=lambda s: (s.ended_at or 0, s.position), reverse=True)


def undoable(steps: Sequence[StepRow]) -> list[StepRow]:
    """Returns the steps that a rollback would undo if it began now: none where a pivot has succeeded, or may have."""
    return [] if passed_pivot(steps) is not None else still_to_undo(steps)


def next_of_rollback(steps: Sequence[StepRow]) -> Decision:
    """Returns the next action of a rollback: send a compensation, plan the one of `target`, wait, or end."""
    undos = {s.target: s for s in steps if s.kind.undoes}
    done = still_to_undo(steps)
    for target in done:
        undo = undos.get(target.key)
        if undo is None or undo.status in (StepStatus.PLANNED, StepStatus.WAITING):
            return Decision(WorkflowStatus.ROLLING_BACK, undo, target)
        if undo.status in OPEN_STEPS and undo.status is not StepStatus.HELD:
            return Decision(WorkflowStatus.ROLLING_BACK)
    if any(s.compensation and undecided(s) for s in steps) or any(u.status in OPEN_STEPS for u in undos.values()):
        return Decision(WorkflowStatus.ROLLING_BACK)
    # The compensation of each remaining step has ended without undoing it.
    return Decision(WorkflowStatus.COMPENSATION_FAILED if done else WorkflowStatus.COMPENSATED)


def attention_at_end(status: WorkflowStatus, steps: Sequence[StepRow]) -> Attention | None:
    """Returns the attention of a run whose rollback has ended: a step that was not undone, or that happened twice.

    One compensation undoes one effect. A person must decide about the other.
    """
    if status is WorkflowStatus.COMPENSATION_FAILED:
        return Attention.UNDO_FAILED
    return Attention.TWICE if any(s.twice_at is not None for s in steps) else None


def passed_pivot(steps: Sequence[StepRow]) -> StepRow | None:
    """Returns the pivot that has or may have succeeded, after which a run can only go forward; None if there is none."""
    return next((s for s in steps if s.pivot and (s.status is StepStatus.SUCCEEDED or undecided(s))), None)


def happened_after_all(row: StepRow) -> bool:
    """Returns whether a verdict says that a failed step happened. It stays failed, because its function has the failure."""
    return row.status is StepStatus.FAILED and row.effect is Effect.HAPPENED and row.outcome is not None


def undecided(row: StepRow) -> bool:
    """Returns whether it is unknown if the step's effect happened."""
    return row.status in UNSETTLED_STEPS or (row.status is StepStatus.FAILED and row.effect is Effect.UNKNOWN)
