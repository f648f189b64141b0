"""Verdicts of a person, a probe or the result backend on a step: it happened, it did not, or it may go on (P4).

A verdict is a compare-and-set on status and token: of two verdicts, or of a verdict and a late success, one wins.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    OPEN_STEPS,
    Attention,
    Cause,
    Effect,
    Event,
    StepRow,
    StepStatus,
    Stored,
    WorkflowStatus,
    having,
)
from .database import Database
from .ends import Ended, new_key
from .events import Events
from .schema import literals, step, workflow
from .transitions import Transitions, same_token, stands, this
from .turns import Turns, count_end, is_counted
from .undo import Undo

#: The statuses in which a verdict may be given.
_DECIDABLE = frozenset({StepStatus.IN_DOUBT, StepStatus.HELD, StepStatus.FAILED})


class Verdicts:
    """The step table's transitions out of doubt and hold."""

    def __init__(self, db: Database, events: Events, transitions: Transitions, undo: Undo, turns: Turns) -> None:
        self._db = db
        self._events = events
        self._move = transitions.move
        self._undo = undo
        self._turns = turns

    def happened(
        self, row: StepRow, outcome: Stored, *, who: str, why: str, send: bool = True, cause: Cause | None = None
    ) -> Ended:
        """Records the verdict that the step's effect happened, with this value. One commit; compare-and-set.

        Args:
            row: the step as last read.
            outcome: the encoded value.
            who: the giver of the verdict.
            why: the reason, as people read it.
            send: send the step's message again: a memo hit that stores the engine's result and sends what follows. False if
                the engine has that result already; the step may then be one that was never begun here.
            cause: the cause of the doubt, if the row does not have it.
        """
        verdict = f"{who}: happened: {why}"

        def write(conn: Connection) -> Ended:
            self._undo.lock(conn, row.ref)
            if row.status not in (_DECIDABLE if send else {*_DECIDABLE, StepStatus.PLANNED}):
                return self._given_before(conn, row, verdict)
            values: dict[str, Any] = {"outcome": outcome.data, "outcome_codec": outcome.codec, "effect": Effect.HAPPENED.value}
            values |= {"verdict": verdict, "attention": None, "next_check_at": None}
            given: dict[str, Any] = {"who": who, "why": why, "verdict": "happened"}
            if cause is not None:
                values["cause"] = given["cause"] = cause.value
            if row.status is StepStatus.FAILED and self._function_has_failure(conn, row):
                said = self._annotate(conn, row, values, **given)
                return Ended(True) if said else self._given_before(conn, row, verdict)
            values |= {"ended_at": self._db.now, "next_check_at": self._db.now if send else None}
            if not self._move(
                conn, row, StepStatus.SUCCEEDED, values, same_token(row), of=(row.status,),
                event=Event.VERDICT, token=row.token, **given,
            ):  # fmt: skip
                return self._given_before(conn, row, verdict)
            if row.target is not None:
                self._undo.resume(conn, row.ref)
                return Ended(True, self._undo.settle(conn, row.ref, row.target, undone=True))
            self._turns.release(conn, row.ref, row.key)
            wakes = is_counted(row) and count_end(self._db, conn, row.ref, row.key)
            if row.status is not StepStatus.FAILED:
                self._undo.check_now(conn, row.ref)
            return Ended(True, self._decide_again(conn, row), wakes)

        return self._db.transaction(write)

    def did_not_happen(self, row: StepRow, *, who: str, why: str, again: bool = True, delay: int = 0) -> Ended:
        """Records the verdict that the step's effect did not happen; a new attempt becomes due. One commit; compare-and-set.

        If the run no longer goes forward, the step is cancelled instead.
        """
        verdict = f"{who}: did not happen: {why}"

        def write(conn: Connection) -> Ended:
            self._undo.lock(conn, row.ref)
            failed = row.status is StepStatus.FAILED
            values: dict[str, Any] = {"verdict": verdict, "effect": Effect.DID_NOT_HAPPEN.value, "attention": None}
            given: dict[str, Any] = {"who": who, "why": why, "verdict": "did not happen"}
            if failed:
                said = self._annotate(conn, row, values, **given)
            else:
                values |= {"next_check_at": self._db.now + delay, "sent_at": None, "sends": 0, "losses": 0, **new_key()}
                said = row.status in _DECIDABLE and self._move(
                    conn, row, StepStatus.WAITING, values, same_token(row), of=(row.status,),
                    event=Event.VERDICT, token=row.token, **given,
                )  # fmt: skip
            if not said:
                return self._given_before(conn, row, verdict)
            if not failed and not row.kind.undoes:
                self._undo.goes_forward(conn, row.ref)
            self._undo.check_now(conn, row.ref)
            return Ended(True, self._decide_again(conn, row))

        return self._db.transaction(write)

    def _function_has_failure(self, conn: Connection, row: StepRow) -> bool:
        """Returns whether the failure may have been raised in a workflow function that has not finished.

        The function may have caught it and gone on, so that replacing it by a success would make its replay differ. The
        verdict is kept beside the failure, and a rollback undoes the step (`Undo`).
        """
        if not row.kind.called:
            return False
        unfinished = (step.c.kind.in_(having("makes_calls")), step.c.status.in_(literals(OPEN_STEPS)))
        return conn.execute(sa.select(step.c.key).where(step.c.ref == row.ref, *unfinished)).first() is not None

    def _given_before(self, conn: Connection, row: StepRow, verdict: str) -> Ended:
        said = stands(conn, row, step.c.verdict == verdict, token=row.token)
        return Ended(said, self._decide_again(conn, row) if said else None)

    def _decide_again(self, conn: Connection, row: StepRow) -> Any:
        """Decides again about a run that is failing or rolling back, and may have waited for this verdict."""
        run = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == row.ref)).scalar_one_or_none()
        waiting = (WorkflowStatus.FAILING.value, WorkflowStatus.ROLLING_BACK.value)
        return self._undo.decide(conn, row.ref) if run in waiting else None

    def _annotate(self, conn: Connection, row: StepRow, values: dict[str, Any], **given: Any) -> bool:
        """Records a verdict on a failed step, which stays failed."""
        failed = step.c.status == StepStatus.FAILED.value
        if not conn.execute(sa.update(step).where(this(row), failed, same_token(row)).values(**values)).rowcount:
            return False
        self._events.write(conn, Event.VERDICT, ref=row.ref, key=row.key, token=row.token, **given)
        return True

    def acknowledge(self, ref: str, key: str, *, who: str, why: str) -> bool:
        """Clears a step's attention by a person's order; nothing else changes. One commit."""

        def write(conn: Connection) -> bool:
            marked = sa.or_(step.c.attention.is_not(None), step.c.twice_at.is_not(None))
            changed = conn.execute(
                sa.update(step).where(step.c.ref == ref, step.c.key == key, marked).values(attention=None, twice_at=None)
            ).rowcount
            if changed:
                self._events.write(conn, Event.OPERATOR, ref=ref, key=key, who=who, why=why, action="acknowledge")
            return bool(changed)

        return self._db.transaction(write)

    def release(self, row: StepRow, *, who: str, why: str) -> bool:
        """Lets a function that was held for drift run again, by a person's order. One commit.

        Returns:
            False if it is no longer held for drift.
        """

        def write(conn: Connection) -> bool:
            values: dict[str, Any] = {"next_check_at": self._db.now, "sent_at": None, "sends": 0}
            values |= dict.fromkeys(("attention", "cause", "doubt", "doubt_at", "evidence"))
            drifted = step.c.attention == Attention.DRIFT.value
            log: dict[str, Any] = {"event": Event.OPERATOR, "who": who, "why": why, "action": "retry"}
            changed = self._move(conn, row, StepStatus.WAITING, values, drifted, same_token(row), of=(StepStatus.HELD,), **log)
            if changed:
                self._undo.goes_forward(conn, row.ref)
                self._undo.check_now(conn, row.ref)
            return changed

        return self._db.transaction(write)
