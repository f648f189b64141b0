"""Doubt: an attempt began, and whether its effect happened is unknown (P4).

Doubt and hold keep the token: the attempt's own outcome is accepted until a verdict or a new claim commits.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    CLAIMABLE,
    SECOND,
    Alert,
    Attention,
    Cause,
    Effect,
    Event,
    Safety,
    StepRow,
    StepStatus,
)
from . import troubles
from .database import Database
from .events import Events
from .losses import Doubtful, doubtful, put_in_doubt
from .schema import literals, step
from .transitions import Transitions, same_token, stands, this
from .undo import Undo

#: Delay before a step that has just become in doubt is checked.
SOON = 0
#: Shortest delay between two checks of a step in doubt whose probe has not decided.
AGAIN = 30 * SECOND
#: `over_at` of an attempt that timed out: it is over only when its body returns or its process is dead.
#: The year 9000 instead of NULL, so that comparisons with a clock find it in the future.
NOT_OVER = 221_845_392_000 * SECOND
#: `over_at` of an attempt without a time-out whose worker stopped beating: the end of its body is unknown, because the
#: process may have lost only its database. A value that differs from `NOT_OVER`.
SILENT = NOT_OVER + SECOND


class Doubts:
    """The step table's transitions into doubt and hold."""

    def __init__(self, db: Database, events: Events, transitions: Transitions, undo: Undo) -> None:
        self._db = db
        self._events = events
        self._move = transitions.move
        self._undo = undo

    def raise_doubt(
        self,
        row: StepRow,
        token: str | None,
        why: str,
        *,
        cause: Cause,
        over: bool,
        error: bytes | None = None,
        who: str | None = None,
    ) -> bool:
        """Turns *begun* into *in doubt*, or records that the attempt of a step in doubt is over. One commit.

        Args:
            row: the step as last read.
            token: the attempt's claim; None for a step that took none, whose row is planned.
            why: the reason, as people read it.
            cause: the reason, as rules read it.
            over: the attempt is certainly over; otherwise it is over when its time-out has passed, or at an unknown time if
                it has none (`SILENT`).
            error: the error that the attempt raised, if any.
            who: the worker or sweeper that reports it.

        Returns:
            True if the step is now in doubt, or held, for this reason.
        """

        def write(conn: Connection) -> bool:
            return self.raise_in(conn, row, token, why, cause=cause, over=over, error=error, who=who)

        return self._db.transaction(write)

    def raise_in(
        self,
        conn: Connection,
        row: StepRow,
        token: str | None,
        why: str,
        *,
        cause: Cause,
        over: bool | None,
        error: bytes | None = None,
        who: str | None = None,
    ) -> bool:
        now = self._db.now
        timeout = row.options.get("timeout")
        # An attempt that may still run is over when its time-out, counted from its begin, has passed.
        over_at: Any = SILENT if timeout is None else sa.func.coalesce(step.c.begun_at, now) + int(timeout)
        if over or token is None:
            over_at = now
        elif over is None:
            over_at = NOT_OVER
        of, conditions = [StepStatus.PLANNED], [same_token(row)]
        if token is not None:
            unended = (NOT_OVER, SILENT) if over else (NOT_OVER,)
            begun = step.c.status == StepStatus.BEGUN.value
            of = [StepStatus.BEGUN] if over is None else [StepStatus.BEGUN, StepStatus.IN_DOUBT]
            conditions = [step.c.token == token, sa.or_(begun, step.c.over_at.in_(unended))]
        values: dict[str, Any] = {
            "doubt": why,
            "cause": cause.value,
            "doubt_at": now,
            "over_at": over_at,
            "next_check_at": now + SOON,
            "sends": 0,
            "deadline_at": None,
            "error": error,
            "attempt": step.c.attempt + (1 if token is None else 0),
        }
        log: dict[str, Any] = {"event": Event.IN_DOUBT, "token": token, "who": who, "why": why, "cause": cause.value}
        if self._move(conn, row, StepStatus.IN_DOUBT, values, *conditions, of=of, **log):
            return True
        return stands(conn, row, step.c.cause == cause.value, step.c.doubt == why, _DOUBTED, token=token)

    def hold(self, row: StepRow, evidence: str, *, who: str | None = None) -> bool:
        """Turns *in doubt* into *held*: only a person may decide. One commit."""

        values = {"evidence": evidence, "next_check_at": None}
        return self._hold(row, values, same_token(row), of=(StepStatus.IN_DOUBT,), why=evidence, who=who)

    def _hold(
        self,
        row: StepRow,
        values: dict[str, Any],
        *where: Any,
        of: Collection[StepStatus],
        why: str,
        event: Event = Event.HELD,
        alert: Alert = Alert.STEP_HELD,
        who: str | None = None,
    ) -> bool:
        """Turns a step in one of the statuses *of* into *held*. One commit."""

        def write(conn: Connection) -> bool:
            log: dict[str, Any] = {"event": event, "alert": alert, "token": row.token, "who": who, "why": why}
            if self._move(conn, row, StepStatus.HELD, values, *where, of=of, **log):
                return True
            held = step.c.status == StepStatus.HELD.value
            return stands(conn, row, held, step.c.evidence == why, token=row.token)

        return self._db.transaction(write)

    def hold_unbegun(self, row: StepRow, evidence: str, *, who: str | None = None) -> bool:
        """Turns *planned* or *waiting* into *held*: a person must say what its lost transaction did. One commit."""
        now = self._db.now
        values = {"doubt": evidence, "doubt_at": now, "over_at": now, "evidence": evidence, "next_check_at": None}
        values["cause"] = Cause.TRANSACTION_LOST.value
        return self._hold(row, values, of=CLAIMABLE, why=evidence, who=who)

    def doubt_failed(self, row: StepRow, why: str, *, who: str | None = None) -> bool:
        """Turns a failure whose effect is unknown into doubt, because the step is to be repeated. One commit."""
        unknown = step.c.effect == Effect.UNKNOWN.value
        return self._doubt_ended(row, StepStatus.FAILED, why, Cause.RAISED, who, unknown)

    def doubt_waiting(self, row: StepRow, why: str, *, cause: Cause, who: str | None = None) -> bool:
        """Turns *waiting* into *in doubt*: an earlier attempt may have had its effect, and repeating is not safe. One commit."""
        return self._doubt_ended(row, StepStatus.WAITING, why, cause, who)

    def _doubt_ended(self, row: StepRow, of: StepStatus, why: str, cause: Cause, who: str | None, *where: Any) -> bool:
        """Puts a step whose attempts have all ended in doubt."""
        now = self._db.now
        values: dict[str, Any] = {
            "doubt": why,
            "cause": cause.value,
            "doubt_at": now,
            "over_at": now,
            "next_check_at": now,
            "sends": 0,
        }
        values |= {"ended_at": None, "attention": None}

        def write(conn: Connection) -> bool:
            log: dict[str, Any] = {"event": Event.IN_DOUBT, "token": row.token, "who": who, "why": why, "cause": cause.value}
            if self._move(conn, row, StepStatus.IN_DOUBT, values, same_token(row), *where, of=(of,), **log):
                return True
            return stands(conn, row, _DOUBTED, step.c.cause == cause.value, step.c.doubt == why, token=row.token)

        return self._db.transaction(write)

    def hold_drift(self, row: StepRow, evidence: str) -> bool:
        """Holds a function that called a finished step with other arguments. One commit."""
        values: dict[str, Any] = {"doubt": evidence, "cause": Cause.DRIFT.value, "doubt_at": self._db.now, "evidence": evidence}
        values |= {"attention": Attention.DRIFT.value, "next_check_at": None}
        of = (StepStatus.PLANNED, StepStatus.WAITING, StepStatus.BEGUN)
        return self._hold(row, values, of=of, why=evidence, event=Event.DRIFT, alert=Alert.WORKFLOW_DRIFTED)

    def ask_later(self, row: StepRow, at: int, evidence: str | None = None) -> bool:
        """Sets the next check of a step in doubt. One commit."""
        values: dict[str, Any] = {"next_check_at": at if at < NOT_OVER else self._db.now + AGAIN, "sends": 0}
        if evidence:
            values["evidence"] = evidence
        return bool(
            self._db.transaction(
                lambda conn: (
                    conn.execute(
                        sa.update(step).where(this(row), step.c.status == StepStatus.IN_DOUBT.value).values(**values)
                    ).rowcount
                )
            )
        )

    def take_over(self, row: StepRow, why: str, *, who: str | None = None, delay: int = 0) -> bool:
        """Makes a step in doubt due for a new attempt, because repeating it is safe. One commit.

        Returns:
            False if it was decided otherwise first, or the run no longer goes forward. In a run that no longer goes
            forward, a step that may have happened becomes a failure with its effect unknown.
        """

        def write(conn: Connection) -> bool:
            values: dict[str, Any] = {
                "takeovers": step.c.takeovers + 1,
                "effect": Effect.UNKNOWN.value if row.safety is Safety.IDEMPOTENT else None,
                "next_check_at": self._db.now + delay,
                "sent_at": None,
                "sends": 0,
                "evidence": why,
            }
            log: dict[str, Any] = {"event": Event.TAKEN_OVER, "token": row.token, "who": who, "why": why}
            if not self._move(conn, row, StepStatus.WAITING, values, same_token(row), of=(StepStatus.IN_DOUBT,), **log):
                waits = step.c.status == StepStatus.WAITING.value
                return stands(conn, row, waits, step.c.evidence == why, token=row.token)
            return row.kind.undoes or self._undo.goes_forward(conn, row.ref)

        return self._db.transaction(write)

    def raise_attention(self, ref: str, key: str, attention: Attention, why: str) -> bool:
        """Marks an ended step for a person's attention. One commit; none if it is marked already."""
        unmarked = sa.and_(step.c.ref == ref, step.c.key == key, step.c.attention.is_(None))
        if not self._db.select(sa.select(step.c.ref).where(unmarked)):
            return False

        def write(conn: Connection) -> bool:
            changed = conn.execute(sa.update(step).where(unmarked).values(attention=attention.value)).rowcount
            if changed:
                alert = Alert.CALLBACK_FAILED if attention is Attention.CALLBACK else Alert.WORKFLOW_DRIFTED
                troubles.add(conn, alert, ref, key, why)
            return bool(changed)

        return self._db.transaction(write)

    def would_doubt(self, namespace: str, since: int, *, until: int | None = None) -> Doubtful:
        """Returns what `doubt_unfinished` would put in doubt. Writes nothing."""
        found = Doubtful()
        for _ in doubtful(self._db.select, self._db.now, namespace, since, until, found):
            pass
        return found

    def doubt_unfinished(self, namespace: str, since: int, *, until: int | None = None, who: str, why: str) -> Doubtful:
        """Puts everything unfinished in doubt after a restore, or after a fail-over that lost commits. One commit.

        A planned step may have run, with its record lost. Steps become in doubt. A workflow function is held until a person
        lets it go on, because the rows of its calls may be lost. Transactional steps are consistent with the rest of their
        database. A run that has slept since before the loss, and still sleeps, is left as it is.

        Args:
            namespace: the namespace of the runs.
            since: the time after which commits may be lost, in microseconds. An earlier time is safer.
            until: when the database was available again: runs started later are complete. None if none was.
            who: the person.
            why: the person's reason.
        """
        before: list[Doubtful] = []

        def write(conn: Connection) -> Doubtful:
            found = Doubtful()
            for refs in doubtful(lambda query: conn.execute(query).all(), self._db.now, namespace, since, until, found):
                put_in_doubt(conn, refs, why, self._db.now, NOT_OVER)
            if before and not found.runs:
                return before[-1]  # the first try was committed; only its answer was lost
            before.append(found)
            detail: dict[str, Any] = {"namespace": namespace, "since": since, "until": until}
            detail |= {"steps": found.steps, "functions": found.functions, "runs": found.runs}
            self._events.write(conn, Event.OPERATOR, who=who, why=why, action="doubt", **detail)
            return found

        return self._db.transaction(write)


_DOUBTED = step.c.status.in_(literals((StepStatus.IN_DOUBT, StepStatus.HELD)))
