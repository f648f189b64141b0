"""What a person, a probe or the result backend says of a step: it happened, it did not, or it may go on (P4).

A verdict is a compare-and-set on status and token, so that of two verdicts, or of a verdict and a late success, one wins.
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

#: What a verdict may be about.
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
        """A verdict: the step's effect happened, with this value. One commit; compare-and-set on status and token.

        Args:
            row: the step as last read.
            outcome: the encoded value.
            who: who says so.
            why: in words, for people.
            send: its own message is sent once more: a memo hit that stores the engine's result and sends what follows.
                False where the engine has that result already; the step may then be one that was never begun here.
            cause: why anybody had to say so, where the row does not have it.
        """
        verdict = f"{who}: happened: {why}"

        def write(conn: Connection) -> Ended:
            self._undo.lock(conn, row.ref)
            if row.status not in (_DECIDABLE if send else {*_DECIDABLE, StepStatus.PLANNED}):
                return self._said_before(conn, row, verdict)
            values: dict[str, Any] = {"outcome": outcome.data, "outcome_codec": outcome.codec, "effect": Effect.HAPPENED.value}
            values |= {"verdict": verdict, "attention": None, "look_at": None}
            given: dict[str, Any] = {"who": who, "why": why, "verdict": "happened"}
            if cause is not None:
                values["cause"] = given["cause"] = cause.value
            if row.status is StepStatus.FAILED and self._was_told(conn, row):
                said = self._say(conn, row, values, **given)
                return Ended(True) if said else self._said_before(conn, row, verdict)
            values |= {"ended_at": self._db.now, "look_at": self._db.now if send else None}
            if not self._move(
                conn, row, StepStatus.SUCCEEDED, values, same_token(row), of=(row.status,),
                event=Event.VERDICT, token=row.token, **given,
            ):  # fmt: skip
                return self._said_before(conn, row, verdict)
            if row.target is not None:
                self._undo.resume(conn, row.ref)
                return Ended(True, self._undo.settle(conn, row.ref, row.target, undone=True))
            self._turns.release(conn, row.ref, row.key)
            wakes = is_counted(row) and count_end(self._db, conn, row.ref, row.key)
            if row.status is not StepStatus.FAILED:
                self._undo.look_now(conn, row.ref)
            return Ended(True, self._again(conn, row), wakes)

        return self._db.transaction(write)

    def did_not_happen(self, row: StepRow, *, who: str, why: str, again: bool = True, delay: int = 0) -> Ended:
        """A verdict: the step's effect did not happen; a new attempt becomes due. One commit; compare-and-set.

        Where the run no longer goes forward, the step is cancelled instead: nothing of it may begin.
        """
        verdict = f"{who}: did not happen: {why}"

        def write(conn: Connection) -> Ended:
            self._undo.lock(conn, row.ref)
            failed = row.status is StepStatus.FAILED
            values: dict[str, Any] = {"verdict": verdict, "effect": Effect.DID_NOT_HAPPEN.value, "attention": None}
            given: dict[str, Any] = {"who": who, "why": why, "verdict": "did not happen"}
            if failed:
                said = self._say(conn, row, values, **given)
            else:
                values |= {"look_at": self._db.now + delay, "sent_at": None, "sends": 0, "losses": 0, **new_key()}
                said = row.status in _DECIDABLE and self._move(
                    conn, row, StepStatus.WAITING, values, same_token(row), of=(row.status,),
                    event=Event.VERDICT, token=row.token, **given,
                )  # fmt: skip
            if not said:
                return self._said_before(conn, row, verdict)
            if not failed and not row.kind.undoes:
                self._undo.goes_forward(conn, row.ref)
            self._undo.look_now(conn, row.ref)
            return Ended(True, self._again(conn, row))

        return self._db.transaction(write)

    def _was_told(self, conn: Connection, row: StepRow) -> bool:
        """Whether a failure is part of the story of a workflow function that has not finished.

        It may have caught the error and gone on; a success in its place would be another story on its next wake. What a
        verdict says is kept beside the failure, and a rollback undoes it (`Undo`).
        """
        if not row.kind.called:
            return False
        unfinished = (step.c.kind.in_(having("makes_calls")), step.c.status.in_(literals(OPEN_STEPS)))
        return conn.execute(sa.select(step.c.key).where(step.c.ref == row.ref, *unfinished)).first() is not None

    def _said_before(self, conn: Connection, row: StepRow, verdict: str) -> Ended:
        said = stands(conn, row, step.c.verdict == verdict, token=row.token)
        return Ended(said, self._again(conn, row) if said else None)

    def _again(self, conn: Connection, row: StepRow) -> Any:
        """A verdict may be what a rollback, or the decision about one, was waiting for."""
        run = conn.execute(sa.select(workflow.c.status).where(workflow.c.ref == row.ref)).scalar_one_or_none()
        waiting = (WorkflowStatus.FAILING.value, WorkflowStatus.ROLLING_BACK.value)
        return self._undo.decide(conn, row.ref) if run in waiting else None

    def _say(self, conn: Connection, row: StepRow, values: dict[str, Any], **given: Any) -> bool:
        """Keeps a verdict beside a failure, which stays one."""
        failed = step.c.status == StepStatus.FAILED.value
        if not conn.execute(sa.update(step).where(this(row), failed, same_token(row)).values(**values)).rowcount:
            return False
        self._events.write(conn, Event.VERDICT, ref=row.ref, key=row.key, token=row.token, **given)
        return True

    def acknowledge(self, ref: str, key: str, *, who: str, why: str) -> bool:
        """Takes a step out of the findings by a person's word; nothing else changes. One commit."""

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
        """Lets a function that was held because its code no longer fitted run again, by a person's order. One commit.

        Returns:
            False where it is no longer held for that reason.
        """

        def write(conn: Connection) -> bool:
            values: dict[str, Any] = {"look_at": self._db.now, "sent_at": None, "sends": 0}
            values |= dict.fromkeys(("attention", "cause", "doubt", "doubt_at", "evidence"))
            drifted = step.c.attention == Attention.DRIFT.value
            told: dict[str, Any] = {"event": Event.OPERATOR, "who": who, "why": why, "action": "retry"}
            changed = self._move(conn, row, StepStatus.WAITING, values, drifted, same_token(row), of=(StepStatus.HELD,), **told)
            if changed:
                self._undo.goes_forward(conn, row.ref)
                self._undo.look_now(conn, row.ref)
            return changed

        return self._db.transaction(write)
