"""The ends of an attempt: succeeded, failed, to be tried again. Every write names its token (P2, P3).

An end and what it releases are one transaction: one autocommit statement where the end releases nothing or only counts
down the run's counter. A write under a stale token changes no outcome; it is kept as an event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    CLAIMABLE,
    OPEN_STEPS,
    SECOND,
    UNSETTLED_STEPS,
    Alert,
    Attention,
    Cause,
    Effect,
    Event,
    Safety,
    StepRow,
    StepStatus,
    Stored,
)
from . import troubles
from .claims import goes_forward
from .database import Database
from .events import Events
from .rows import step_row
from .schema import literals, step
from .transitions import Transitions, moving, same_token, this
from .turns import Turns, count_down, count_end, needle
from .undo import Decision, Undo

_P = sa.bindparam
#: A step that no attempt holds.
_UNCLAIMED = OPEN_STEPS - {StepStatus.BEGUN}


def new_key(*, unless: Any = None) -> dict[str, Any]:
    """Returns the columns that give a step a new idempotency key: it did not happen, and is tried again.

    Args:
        unless: a condition on the row. The key stays where it holds and an earlier attempt may have had its effect.
    """
    if unless is None:
        return {"generation": step.c.generation + 1, "first_begun_at": None}
    stays = sa.and_(step.c.effect.is_not(None), unless)
    return {
        "generation": sa.case((stays, step.c.generation), else_=step.c.generation + 1),
        "first_begun_at": sa.case((stays, step.c.first_begun_at)),
    }


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of recording an end: what it released, besides the next message that the engine itself sends."""

    recorded: bool
    decision: Decision | None = None
    wakes: bool = False


class Ends:
    """The step table's transitions out of an attempt."""

    def __init__(self, db: Database, events: Events, transitions: Transitions, undo: Undo, turns: Turns) -> None:
        self._db = db
        self._events = events
        self._move = transitions.move
        self._undo = undo
        self._turns = turns
        its_row = sa.and_(step.c.ref == _P("b_ref"), step.c.key == _P("b_key"))
        outcome: dict[str, Any] = {
            "outcome": _P("b_outcome"),
            "outcome_codec": _P("b_codec"),
            "ended_at": db.now,
            "next_check_at": None,
            "deadline_at": None,
            "attention": None,  # the end settles it
        }
        untaken = outcome | {
            "token": _P("b_token"),
            "worker": _P("b_worker"),
            "attempt": step.c.attempt + 1,
            "begun_at": db.now,
        }
        by_token = step.c.token == _P("b_token")
        self._succeed = moving(StepStatus.SUCCEEDED, outcome, its_row, by_token, of=UNSETTLED_STEPS)
        self._succeed_unclaimed = moving(StepStatus.SUCCEEDED, untaken, its_row, of=OPEN_STEPS)
        self._count_down = count_down(db, _P("b_ref"))
        self._succeed_member: Any = None
        self._succeed_unclaimed_last: sa.Update | None = None
        if db.is_postgresql:
            self._succeed_member = turns.in_one(self._succeed)
            self._succeed_unclaimed_last = self._in_one(self._succeed_unclaimed)

    def _in_one(self, ending: sa.Update) -> sa.Update:
        """Returns one statement that ends a step and its run."""
        ended = ending.returning(step.c.ref).cte("ended")
        return count_down(self._db, _P("b_ref")).where(sa.exists(sa.select(ended.c.ref)))

    def succeed(
        self, ref: str, key: str, token: str, outcome: Stored, *, member: bool = True, completes_run: bool = False
    ) -> bool:
        """Records a claimed step's success, and what that releases. One commit.

        Args:
            ref: the run.
            key: the step.
            token: the claim; a success under any other token is refused.
            outcome: the encoded value.
            member: it is a member of a canvas; else a function calls it in place, and its end releases nothing.
            completes_run: the run ends with it; used where its row does not say so.

        Returns:
            True if the journal now holds this outcome for this claim.
        """
        values = {"b_ref": ref, "b_key": key, "b_token": token, "b_outcome": outcome.data, "b_codec": outcome.codec}
        if self._ended(values, member=member, completes_run=completes_run):
            return True
        return self._is_mine(ref, key, token, outcome)

    def _ended(self, values: dict[str, Any], *, member: bool, completes_run: bool) -> bool:
        hot = self._db.hot
        if not member:
            return bool(self._db.execute(hot(self._succeed), values))
        if self._succeed_member is not None:
            return bool(
                self._db.execute_counting(
                    hot(self._succeed_member), values | {"b_needle": needle(values["b_key"]), "b_last": completes_run}
                )
            )

        def write(conn: Connection) -> bool:
            ended = bool(hot(self._succeed).run(conn, values).rowcount)
            if ended:
                self._turns.after_end(conn, values["b_ref"], values["b_key"], completes_run=completes_run)
            return ended

        return self._db.transaction(write)

    def succeed_unclaimed(self, ref: str, key: str, token: str, worker_id: str, outcome: Stored, *, completes_run: bool) -> bool:
        """Records the success of a function or a timer, which take no claim. The first recorded outcome wins. One commit."""
        values = {
            "b_ref": ref,
            "b_key": key,
            "b_token": token,
            "b_worker": worker_id,
            "b_outcome": outcome.data,
            "b_codec": outcome.codec,
        }
        if self._write(self._succeed_unclaimed, self._succeed_unclaimed_last, values, completes_run=completes_run):
            return True
        return self._is_mine(ref, key, token, outcome)

    def _write(self, ending: sa.Update, in_one: sa.Update | None, values: dict[str, Any], *, completes_run: bool) -> bool:
        hot = self._db.hot
        if not completes_run:
            return bool(self._db.execute(hot(ending), values))
        if in_one is not None:
            return bool(self._db.execute(hot(in_one), values))

        def write(conn: Connection) -> bool:
            ended = hot(ending).run(conn, values).rowcount
            if ended:
                hot(self._count_down).run(conn, values)
            return bool(ended)

        return self._db.transaction(write)

    def _is_mine(
        self, ref: str, key: str, token: str | None, outcome: Stored | None, status: StepStatus = StepStatus.SUCCEEDED
    ) -> bool:
        """Returns whether this end had been committed before, and only the answer was lost.

        A verdict keeps the token, so the outcome must be the same as well.
        """
        rows = self._db.select(sa.select(step).where(step.c.ref == ref, step.c.key == key))
        if not rows:
            return False
        found = step_row(rows[0])
        return (found.token, found.outcome, found.status) == (token, outcome, status)

    def succeed_locked(self, conn: Connection, row: StepRow, outcome: Stored, *, completes_run: bool, new: bool = False) -> Ended:
        """Records a transactional step's success, and what it releases, in its own transaction. The caller commits.

        Args:
            conn: the step's transaction.
            row: the step, with the claim that was written in that transaction.
            outcome: the encoded value.
            completes_run: the run's counter counts this step.
            new: the row was inserted in this transaction, by a function. Its run is locked only now.

        Returns:
            Not recorded, if the transaction that wrote the claim was lost or the run of a new row no longer goes forward.
            The caller must then roll back.
        """
        values = {
            "b_ref": row.ref,
            "b_key": row.key,
            "b_token": row.token,
            "b_outcome": outcome.data,
            "b_codec": outcome.codec,
        }
        if not self._db.hot(self._succeed).run(conn, values).rowcount:
            return Ended(recorded=False)
        if new and not goes_forward(conn, row.ref, locked=True):
            return Ended(recorded=False)
        if row.reference is not None:
            conn.execute(sa.update(step).where(this(row)).values(reference=row.reference))
        if row.target is not None:
            return Ended(recorded=True, decision=self._undo.settle(conn, row.ref, row.target, undone=True))
        if row.kind.awaited:
            return Ended(recorded=True, wakes=count_end(self._db, conn, row.ref, row.key))
        if not new:
            self._turns.after_end(conn, row.ref, row.key, completes_run=completes_run)
        return Ended(recorded=True)

    def succeed_dispatched(self, ref: str, key: str, token: str, outcome: Stored) -> Ended:
        """Records the success of a step that a function dispatched, and wakes the function if it waits. One commit."""

        def write(conn: Connection) -> Ended:
            values = {"b_ref": ref, "b_key": key, "b_token": token, "b_outcome": outcome.data, "b_codec": outcome.codec}
            if not self._db.hot(self._succeed).run(conn, values).rowcount:
                return Ended(recorded=False)
            return Ended(recorded=True, wakes=count_end(self._db, conn, ref, key))

        ended = self._db.transaction(write)
        if ended.recorded:
            return ended
        mine = self._is_mine(ref, key, token, outcome)
        return Ended(recorded=mine, wakes=mine)

    def succeed_undo(self, ref: str, key: str, token: str, target: str, outcome: Stored) -> Ended:
        """Records that a compensation succeeded and its target is undone. One commit."""

        def write(conn: Connection) -> Ended:
            self._lock(conn, ref, key, target)
            values = {"b_ref": ref, "b_key": key, "b_token": token, "b_outcome": outcome.data, "b_codec": outcome.codec}
            if not self._db.hot(self._succeed).run(conn, values).rowcount:
                return Ended(recorded=False)
            return Ended(recorded=True, decision=self._undo.settle(conn, ref, target, undone=True))

        ended = self._db.transaction(write)
        if ended.recorded or not self._is_mine(ref, key, token, outcome):
            return ended
        return Ended(recorded=True, decision=self._undo.advance(ref))

    def fail(
        self,
        row: StepRow,
        token: str | None,
        error: bytes,
        effect: Effect,
        *,
        fails_run: bool,
        who: str | None = None,
        why: str | None = None,
        send: bool = True,
        worker_id: str | None = None,
    ) -> Ended:
        """Records that a step failed for good, and the consequence for its run. One commit.

        Args:
            row: the step as last read.
            token: the claim under which it ran; None for a step that took none, or for a person's verdict.
            error: the recorded failure.
            effect: what is known about the step's effect.
            fails_run: the run fails with this step; False for a step whose error its workflow function may still catch.
            who: the person who gave the verdict, if one did.
            why: the person's reason.
            send: for a verdict: send the step's message again, so that the engine stores the failure. False where a worker
                is processing that message.
            worker_id: the worker that ran the attempt. An attempt that took no claim is counted now; a failure that comes
                too late is kept as an event.
        """

        def write(conn: Connection) -> Ended:
            if row.target is not None:
                self._lock(conn, row.ref, row.key, row.target)
            elif fails_run:
                self._undo.lock(conn, row.ref)
            (claim, of), known = _still(row, token), _all_attempts(effect)
            if who:  # a verdict overrides what attempts knew: a compare-and-set on status and token
                claim, of, known = same_token(row), frozenset({row.status}) & _UNCLAIMED, sa.literal(effect.value)
            values: dict[str, Any] = {
                "attention": sa.case((known == Effect.UNKNOWN.value, Attention.EFFECT_UNKNOWN.value), else_=sa.null()),
                "effect": known,
                "error": error,
                "attempt": step.c.attempt + (1 if token is None and worker_id is not None else 0),
                "ended_at": self._db.now,
                "next_check_at": self._db.now if who and send else None,
                "deadline_at": None,
                "verdict": why if who else step.c.verdict,
            }
            log: dict[str, Any] = {"event": Event.STEP_FAILED, "token": token, "who": who, "why": why, "effect": effect.value}
            changed = self._move(conn, row, StepStatus.FAILED, values, claim, of=of, **log)
            if not changed and not self._failed_before(conn, row, token, error):
                self._late_failure(conn, row, token, worker_id, why)
                return Ended(recorded=False)
            if changed:
                self._tell_unknown(conn, row)
            if row.target is not None:
                return Ended(True, self._undo.settle(conn, row.ref, row.target, undone=False))
            if fails_run:
                return Ended(True, self._undo.decide(conn, row.ref, error=error))
            if not row.kind.awaited:
                return Ended(True)
            return Ended(True, wakes=count_end(self._db, conn, row.ref, row.key) if changed else True)

        return self._db.transaction(write)

    def _tell_unknown(self, conn: Connection, row: StepRow) -> None:
        """Reports a failed step whose effect may have happened. A compensation is reported with its target instead."""
        failed = self._found(conn, row.ref, row.key) if row.target is None else None
        if failed is not None and failed.effect is Effect.UNKNOWN:
            why = "it failed for good, and its effect may have happened"
            troubles.add(conn, Alert.EFFECT_UNKNOWN, row.ref, row.key, why)

    def _failed_before(self, conn: Connection, row: StepRow, token: str | None, error: bytes) -> bool:
        """Returns whether this failure had been committed before, and only the answer was lost."""
        found = self._found(conn, row.ref, row.key)
        if found is None or found.token != (row.token if token is None else token):
            return False
        return found.status is StepStatus.FAILED and found.error == error

    def try_again(
        self,
        row: StepRow,
        token: str | None,
        delay: int,
        error: bytes | None,
        why: str,
        *,
        effect: Effect | None = None,
        arguments: Stored | None = None,
        print_: str | None = None,
        sent: bool = False,
        worker_id: str | None = None,
    ) -> bool:
        """Records that an attempt ended and may be repeated, and when the next is due. One commit.

        Args:
            row: the step as last read.
            token: the claim under which it ran; None for an attempt that took none.
            delay: microseconds until the next attempt is due.
            error: the recorded failure, if there was one.
            why: the reason, as people read it.
            effect: what is known about the attempt's effect, if anything.
            arguments: the step's arguments, if its row does not have them yet or the next attempt has others.
            print_: the fingerprint of new arguments; None if they are the same.
            sent: the caller sends or makes the next attempt itself: the sweeper leaves it alone for a while.
            worker_id: the worker that ran the attempt; an end that comes too late is kept as an event.

        Returns:
            False if another outcome was recorded first, or the run no longer goes forward. There is no next attempt then;
            the step is closed with its run.
        """

        kept = {} if arguments is None else {"arguments": arguments.data, "arguments_codec": arguments.codec}
        kept |= {} if print_ is None else {"fingerprint": print_}
        # The provider may have stored the refusal under the old key. A retry that the body requested keeps its key.
        anew = new_key(unless=step.c.effect == Effect.UNKNOWN.value)

        def write(conn: Connection) -> bool:
            values: dict[str, Any] = {
                **kept,
                **(anew if error is not None and effect is Effect.DID_NOT_HAPPEN else {}),
                "next_check_at": self._db.now + delay,
                "sent_at": self._db.now + delay if sent else None,
                "sends": 1 if sent else 0,
                "deadline_at": None,
                "error": error,
                "effect": _all_attempts(effect),
                "attempt": step.c.attempt + (1 if token is None else 0),
            }
            claim, of = _still(row, token)
            if not self._move(
                conn, row, StepStatus.WAITING, values, claim, of=of,
                event=Event.ATTEMPT_FAILED, token=token, why=why, next_in_seconds=delay / SECOND,
            ):  # fmt: skip
                found = self._found(conn, row.ref, row.key)
                mine = found is not None and token is not None and found.token == token
                if mine and found is not None and found.status is StepStatus.WAITING and found.error == error:
                    return True  # committed, its answer was lost
                self._late_failure(conn, row, token, worker_id, why)
                return False
            return row.kind.undoes or self._undo.goes_forward(conn, row.ref)

        return self._db.transaction(write)

    def count_loss(self, row: StepRow, why: str, worker_id: str) -> int:
        """Counts an attempt whose transaction was lost after its body had run. One commit.

        Returns:
            The number of such losses since a person's last decision about the step; 0 if it is not to be tried again.
        """

        def write(conn: Connection) -> int:
            lost = (
                sa.update(step)
                .where(this(row), step.c.status.in_(literals(CLAIMABLE)))
                .values(losses=step.c.losses + 1, attempt=step.c.attempt + 1)
            )
            if not conn.execute(lost).rowcount:
                return 0
            self._events.write(conn, Event.ATTEMPT_FAILED, ref=row.ref, key=row.key, who=worker_id, why=why)
            return int(conn.execute(sa.select(step.c.losses).where(this(row))).scalar_one())

        return self._db.transaction(write)

    def _late_failure(self, conn: Connection, row: StepRow, token: str | None, worker_id: str | None, why: str | None) -> None:
        """Keeps, as an event, that an attempt failed after another outcome was recorded."""
        found = self._found(conn, row.ref, row.key)
        if worker_id is None or found is None:
            return
        why = f"the step was already {found.status}; {why}"
        self._events.write(conn, Event.LATE_FAILURE, ref=row.ref, key=row.key, token=token, who=worker_id, why=why)

    def late_failure(self, row: StepRow, token: str | None, worker_id: str, why: str) -> None:
        """Keeps a late failure like `fail`, for an attempt that would have put the step in doubt. One commit."""
        self._db.transaction(lambda conn: self._late_failure(conn, row, token, worker_id, why))

    def late(
        self, ref: str, key: str, token: str, outcome: Stored, worker_id: str, *, generation: int | None = None
    ) -> StepRow | None:
        """Records a success whose token no longer holds the step. One commit.

        It prevents a new attempt that has not been claimed yet. If a verdict or another attempt says otherwise, the step
        is reported as *may have happened twice*, unless the verdict was that this attempt had its effect. The late success
        of a compensation undoes its target.

        Args:
            ref: the run.
            key: the step.
            token: the claim that no longer holds.
            outcome: the encoded value.
            worker_id: the worker that ran the attempt.
            generation: the generation of the idempotency key that the provider saw; None if the attempt's row was not read.

        Returns:
            The step's current row.
        """

        def write(conn: Connection) -> StepRow | None:
            seen = self._found(conn, ref, key)
            self._lock(conn, ref, key, *([seen.target] if seen is not None and seen.target is not None else []))
            row = self._found(conn, ref, key)
            if row is None:
                return None
            known = row.status in (StepStatus.SUCCEEDED, StepStatus.UNDONE)
            if known and row.token == token and row.outcome == outcome:
                return row
            self._events.write(
                conn, Event.LATE_SUCCESS, ref=ref, key=key, token=token, who=worker_id,
                why=f"the step was already {row.status}", outcome=outcome.data.decode("utf-8", "replace"),
                codec=outcome.codec,
            )  # fmt: skip
            if known and row.token == token:
                return row  # a verdict confirmed it before, perhaps with another value: it happened once
            # The provider treats both attempts as one only if both used the same key.
            idempotent = row.safety is Safety.IDEMPOTENT and row.generation == (generation or 0)
            if idempotent and row.status is StepStatus.SUCCEEDED:
                return row  # the provider saw one key, thus one effect: the first recorded outcome stays
            cancelled = row.status is StepStatus.CANCELLED
            # A function may have gone on after its step's failure, which therefore stays.
            given_up = cancelled or (row.status is StepStatus.FAILED and not self._undo.is_forward(conn, ref))
            taken = given_up or row.status in CLAIMABLE
            if taken:
                values = {
                    "token": token,
                    "outcome": outcome.data,
                    "outcome_codec": outcome.codec,
                    "ended_at": self._db.now,
                    "attention": None,
                    "next_check_at": None,  # the late worker is processing the message, and sends what follows
                }
                self._move(conn, row, StepStatus.SUCCEEDED, values, of=(row.status,))
            # A step that was cancelled while it ran, or is to be repeated under the same key, happened once. Any other status
            # came from another attempt or from a verdict.
            once = cancelled or (idempotent and row.status in CLAIMABLE)
            if not once and row.twice_at is None:
                conn.execute(sa.update(step).where(this(row)).values(twice_at=self._db.now))
                why = f"an attempt reported success after the step was {row.status}"
                troubles.add(conn, Alert.MAY_HAVE_HAPPENED_TWICE, ref, key, why)
            if row.target is not None and taken:
                self._undo.resume(conn, ref)
                self._undo.settle(conn, ref, row.target, undone=True)
                self._undo.check_now(conn, ref)
            elif given_up and row.compensation is not None:
                passed = any(s.pivot and s.status is StepStatus.SUCCEEDED for s in self._undo.steps(conn, ref))
                self._undo.resume(conn, ref, also_failed=not passed)
            elif taken and not given_up and row.completes_run:
                count_end(self._db, conn, ref, key)
            if taken:
                self._turns.release(conn, ref, key)
            return self._found(conn, ref, key)

        return self._db.transaction(write)

    def happened_without_value(self, row: StepRow, token: str | None, reason: str, worker_id: str) -> bool:
        """Holds a step that happened but whose value cannot be recorded, so that the fact is not lost (P10)."""

        values: dict[str, Any] = {
            "effect": Effect.HAPPENED.value,
            "attention": Attention.VALUE_MISSING.value,
            "cause": Cause.VALUE_MISSING.value,
            "doubt": reason,
            "doubt_at": self._db.now,
            "next_check_at": None,
            "deadline_at": None,
            "worker": worker_id,
        }
        claim = [] if token is None else [step.c.token == token]
        log: dict[str, Any] = {"event": Event.VALUE_MISSING, "alert": Alert.VALUE_MISSING, "token": token, "why": reason}
        return self._db.transaction(lambda conn: self._move(conn, row, StepStatus.HELD, values, *claim, of=OPEN_STEPS, **log))

    @staticmethod
    def _lock(conn: Connection, ref: str, *keys: str) -> None:
        conn.execute(
            sa.select(step.c.key).where(step.c.ref == ref, step.c.key.in_(keys)).order_by(step.c.key).with_for_update()
        ).all()

    @staticmethod
    def _found(conn: Connection, ref: str, key: str) -> StepRow | None:
        row = conn.execute(sa.select(step).where(step.c.ref == ref, step.c.key == key)).one_or_none()
        return None if row is None else step_row(row)


def _still(row: StepRow, token: str | None) -> tuple[Any, frozenset[StepStatus]]:
    """Returns the condition and the statuses for an attempt's end: its claim holds, or it took none and nobody has since."""
    return (same_token(row), _UNCLAIMED) if token is None else (step.c.token == token, UNSETTLED_STEPS)


def _all_attempts(effect: Effect | None) -> Any:
    """Returns the effect column after an attempt that ended with *effect*.

    If an earlier attempt may have had its effect (a time-out, and now a refused connection), it stays unknown until a
    verdict.
    """
    last = sa.literal(None if effect is None else effect.value, sa.String)
    return sa.case((step.c.effect == Effect.UNKNOWN.value, sa.literal(Effect.UNKNOWN.value)), else_=last)
