"""Doubt: an attempt began, and whether its effect happened is unknown (P4).

Doubt and hold keep the token: the attempt's own outcome is accepted until a verdict or a new claim commits. A verdict is
a compare-and-set on status and token, so that of two verdicts, or of a verdict and a late success, one wins.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import UnreadableRow
from ..model import (
    CLAIMABLE,
    OPEN_STEPS,
    SECOND,
    Alert,
    Attention,
    Cause,
    Death,
    Effect,
    Event,
    Safety,
    StepRow,
    StepStatus,
    Stored,
    WorkflowStatus,
    having,
)
from . import troubles
from .database import Database
from .ends import Ended, new_key
from .events import Events
from .losses import Doubtful, doubtful, put_in_doubt
from .rows import readable, step_row
from .schema import literals, step, worker, workflow
from .transitions import Transitions, same_token, this
from .turns import Turns, count_end
from .undo import Undo

#: How soon a step in doubt whose attempt is over is looked at.
SOON = 0
#: How long after being looked at a step in doubt is looked at again, while its probe has not decided.
AGAIN = 30 * SECOND
#: The longest that such a wait becomes by doubling.
LONGEST = 3600 * SECOND
#: When an attempt is over of which only its time-out is known: not before its body returns or its process is dead.
#: The year 9000 rather than no time at all, so that whoever compares it with a clock finds it in the future.
NOT_OVER = 221_845_392_000 * SECOND
#: When an attempt is over whose worker fell silent, where no time-out says how long a body lasts: nobody knows. Silence is no
#: end of a body: the process may have lost its database alone. As late as `NOT_OVER`, and told apart from it.
SILENT = NOT_OVER + SECOND


class Doubts:
    """The step table's transitions into doubt, into hold and out of them."""

    def __init__(self, db: Database, events: Events, transitions: Transitions, undo: Undo, turns: Turns) -> None:
        self._db = db
        self._events = events
        self._move = transitions.move
        self._undo = undo
        self._turns = turns

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
        """Turns *begun* into *in doubt*, or says of a step in doubt that its attempt is over after all. One commit.

        Args:
            row: the step as last read.
            token: the attempt's claim; None for a step that took none, whose row is planned.
            why: in words, for people.
            cause: the same, for rules.
            over: the attempt is certainly over; otherwise it is over when its time-out has passed, and without one it is not
                known to be over (`SILENT`).
            error: what the attempt raised, if it did.
            who: the worker or sweeper that says so.

        Returns:
            True when the step is now in doubt, or held, for this reason.
        """

        def write(conn: Connection) -> bool:
            return self._raise(conn, row, token, why, cause=cause, over=over, error=error, who=who)

        return self._db.transaction(write)

    def _raise(
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
        # An attempt that is not certainly over is so when its time-out, counted from its begin, has passed as well.
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
            "look_at": now + SOON,
            "sends": 0,
            "deadline_at": None,
            "error": error,
            "attempt": step.c.attempt + (1 if token is None else 0),
        }
        told: dict[str, Any] = {"event": Event.IN_DOUBT, "token": token, "who": who, "why": why, "cause": cause.value}
        if self._move(conn, row, StepStatus.IN_DOUBT, values, *conditions, of=of, **told):
            return True
        return self._is(conn, row, step.c.cause == cause.value, step.c.doubt == why, _DOUBTED, token=token)

    @staticmethod
    def _is(conn: Connection, row: StepRow, *conditions: Any, token: str | None) -> bool:
        """Whether a change that found nothing to change had been committed already, and only its answer was lost."""
        same = same_token(row) if token is None else step.c.token == token
        return conn.execute(sa.select(step.c.key).where(this(row), same, *conditions)).one_or_none() is not None

    def hold(self, row: StepRow, evidence: str, *, who: str | None = None) -> bool:
        """Turns *in doubt* into *held*: only a person may decide. One commit."""

        values = {"evidence": evidence, "look_at": None}
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
        """Turns one of some statuses into *held*. One commit."""

        def write(conn: Connection) -> bool:
            told: dict[str, Any] = {"event": event, "alert": alert, "token": row.token, "who": who, "why": why}
            if self._move(conn, row, StepStatus.HELD, values, *where, of=of, **told):
                return True
            held = step.c.status == StepStatus.HELD.value
            return self._is(conn, row, held, step.c.evidence == why, token=row.token)

        return self._db.transaction(write)

    def hold_unbegun(self, row: StepRow, evidence: str, *, who: str | None = None) -> bool:
        """Turns *planned* or *waiting* into *held*: what its transaction left behind is for a person to say. One commit."""
        now = self._db.now
        values = {"doubt": evidence, "doubt_at": now, "over_at": now, "evidence": evidence, "look_at": None}
        values["cause"] = Cause.TRANSACTION_LOST.value
        return self._hold(row, values, of=CLAIMABLE, why=evidence, who=who)

    def doubt_failed(self, row: StepRow, why: str, *, who: str | None = None) -> bool:
        """Turns a failure whose effect is unknown into doubt: something wants to repeat the step after all. One commit."""
        unknown = step.c.effect == Effect.UNKNOWN.value
        return self._doubt_the_ended(row, StepStatus.FAILED, why, Cause.RAISED, who, unknown)

    def doubt_waiting(self, row: StepRow, why: str, *, cause: Cause, who: str | None = None) -> bool:
        """Turns a wait for a next attempt into doubt: an earlier one may have had its effect, and repeating is not safe now.

        One commit.
        """
        return self._doubt_the_ended(row, StepStatus.WAITING, why, cause, who)

    def _doubt_the_ended(self, row: StepRow, of: StepStatus, why: str, cause: Cause, who: str | None, *where: Any) -> bool:
        """Puts a step in doubt whose attempts have all ended."""
        now = self._db.now
        values: dict[str, Any] = {"doubt": why, "cause": cause.value, "doubt_at": now, "over_at": now, "look_at": now, "sends": 0}
        values |= {"ended_at": None, "attention": None}

        def write(conn: Connection) -> bool:
            told: dict[str, Any] = {"event": Event.IN_DOUBT, "token": row.token, "who": who, "why": why, "cause": cause.value}
            if self._move(conn, row, StepStatus.IN_DOUBT, values, same_token(row), *where, of=(of,), **told):
                return True
            return self._is(conn, row, _DOUBTED, step.c.cause == cause.value, step.c.doubt == why, token=row.token)

        return self._db.transaction(write)

    def hold_drift(self, row: StepRow, evidence: str) -> bool:
        """Stops a workflow whose finished step was called with other arguments: its function is held. One commit."""
        values: dict[str, Any] = {"doubt": evidence, "cause": Cause.DRIFT.value, "doubt_at": self._db.now, "evidence": evidence}
        values |= {"attention": Attention.DRIFT.value, "look_at": None}
        of = (StepStatus.PLANNED, StepStatus.WAITING, StepStatus.BEGUN)
        return self._hold(row, values, of=of, why=evidence, event=Event.DRIFT, alert=Alert.WORKFLOW_DRIFTED)

    def ask_later(self, row: StepRow, at: int, evidence: str | None = None) -> bool:
        """Sets when a step in doubt is looked at again. One commit."""
        values: dict[str, Any] = {"look_at": at if at < NOT_OVER else self._db.now + AGAIN, "sends": 0}
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
            False where it was decided otherwise first, or where the run no longer goes forward and nothing of it may
            begin: what may have happened is then a failure with its effect unknown.
        """

        def write(conn: Connection) -> bool:
            values: dict[str, Any] = {
                "takeovers": step.c.takeovers + 1,
                "effect": Effect.UNKNOWN.value if row.safety is Safety.IDEMPOTENT else None,
                "look_at": self._db.now + delay,
                "sent_at": None,
                "sends": 0,
                "evidence": why,
            }
            told: dict[str, Any] = {"event": Event.TAKEN_OVER, "token": row.token, "who": who, "why": why}
            if not self._move(conn, row, StepStatus.WAITING, values, same_token(row), of=(StepStatus.IN_DOUBT,), **told):
                waits = step.c.status == StepStatus.WAITING.value
                return self._is(conn, row, waits, step.c.evidence == why, token=row.token)
            return row.kind.undoes or self._undo.goes_forward(conn, row.ref)

        return self._db.transaction(write)

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
            if row.status is StepStatus.FAILED:
                return Ended(True, self._again(conn, row))
            wakes = row.completes_run and count_end(self._db, conn, row.ref, row.key)
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
        said = self._is(conn, row, step.c.verdict == verdict, token=row.token)
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

    def take_due(
        self,
        now: int,
        limit: int,
        engines: Collection[str] | None = None,
        *,
        namespace: str | None = None,
        leave: Collection[str] = (),
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[StepRow]:
        """Steps whose next look is due, each pushed on to its following look before it is returned. One commit.

        Waiting steps, steps in doubt, and finished steps whose message a verdict wants sent once more: that request stays until
        `wish_is_over`. A waiting step stays due, so that the message that is now sent for it may begin it. Begun steps whose
        time-out has passed come back in doubt: timed out, not over.

        Args:
            now: the time.
            limit: how many at the most.
            engines: of these engines only, because whoever asks can send no other's messages; None takes any.
            namespace: of this one only: another's messages go elsewhere. None takes any.
            leave: references of runs that are left alone.
            unreadable: is given those that cannot be read here; they are left as they are.
        """
        due_by_look = step.c.look_at <= now
        due_by_look = sa.and_(due_by_look, *_not_of(leave))

        # A scalar, looked up for each step that is due: a semi-join would be free to read the whole history instead.
        def of_its_run(column: Any) -> Any:
            return sa.select(column).where(workflow.c.ref == step.c.ref).correlate(step).scalar_subquery()

        if namespace is not None:
            due_by_look = sa.and_(due_by_look, of_its_run(workflow.c.namespace) == namespace)
        if engines is not None:
            engine = sa.func.coalesce(step.c.engine, of_its_run(workflow.c.engine))
            due_by_look = sa.and_(due_by_look, engine.in_(sorted(engines)))
        # Of what stays due, what was sent a moment ago is left alone; each further wait is twice as long as the last.
        doubled = sa.and_(step.c.sent_at <= now - AGAIN, 2 * step.c.sent_at - step.c.look_at <= now)
        untaken = sa.or_(
            step.c.status.not_in(literals(CLAIMABLE)), step.c.sent_at.is_(None), doubled, step.c.sent_at <= now - LONGEST
        )
        due = sa.select(step).where(due_by_look, untaken).order_by(step.c.look_at).limit(limit)
        if not self._db.select(sa.select(step.c.ref).where(due_by_look, untaken).limit(1)):
            return []

        def write(conn: Connection) -> list[StepRow]:
            found = conn.execute(due.with_for_update(skip_locked=True)).all()
            rows = [row for _, row in readable(step_row, found, unreadable)]
            taken = []
            for row in sorted(rows, key=lambda r: (r.ref, r.key)):
                if row.status is StepStatus.UNDONE:  # never due; an earlier release left it so
                    conn.execute(sa.update(step).where(this(row)).values(look_at=None))
                    continue
                if row.status is StepStatus.BEGUN:
                    self._raise(conn, row, row.token, _overdue(row), cause=Cause.TIMED_OUT, over=None)
                    continue
                if row.status in CLAIMABLE:
                    since = sa.case((step.c.look_at > self._db.now, self._db.now), else_=step.c.look_at)
                    conn.execute(sa.update(step).where(this(row)).values(look_at=since, sent_at=now))
                else:
                    known = row.doubt_at if row.status is StepStatus.IN_DOUBT else row.ended_at
                    wait = min(max(AGAIN, now - (known or now)), LONGEST)
                    row.look_at = None if row.status is StepStatus.CANCELLED else now + wait
                    conn.execute(sa.update(step).where(this(row)).values(look_at=row.look_at))
                taken.append(row)
            return taken

        return self._db.transaction(write)

    def give_back(self, rows: Collection[StepRow], now: int) -> None:
        """Makes steps due again that `take_due` returned and that were not looked after. One commit.

        Args:
            rows: the steps as `take_due` returned them: one that has changed since then is left as it is.
            now: the time that it was given.
        """

        def write(conn: Connection) -> None:
            for row in sorted(rows, key=lambda r: (r.ref, r.key)):
                if row.status in CLAIMABLE:
                    conn.execute(sa.update(step).where(_as_read(row), step.c.sent_at == now).values(sent_at=row.sent_at))
                else:
                    as_taken = step.c.look_at.is_not_distinct_from(row.look_at)
                    conn.execute(sa.update(step).where(_as_read(row), as_taken).values(look_at=now))

        self._db.transaction(write)

    def count_send(self, row: StepRow, by: int = 1) -> None:
        """Counts that the message of a step is about to be sent; -1 takes that back, where it could not be. One commit."""
        counted = sa.update(step).where(_as_read(row)).values(sends=step.c.sends + by)
        self._db.transaction(lambda conn: conn.execute(counted))

    def wish_is_over(self, row: StepRow) -> None:
        """The message that a verdict on a finished step wanted sent was sent, or never can be. One commit.

        Args:
            row: the step as `take_due` returned it: a verdict given since then has a request of its own.
        """
        if row.status not in (StepStatus.SUCCEEDED, StepStatus.FAILED):
            return
        stands = sa.and_(this(row), step.c.status == row.status.value, step.c.look_at == row.look_at)
        over = sa.update(step).where(stands).values(look_at=None)
        self._db.transaction(lambda conn: conn.execute(over))

    def of_the_dead(self, limit: int, *, leave: Collection[str] = ()) -> list[tuple[StepRow, str | None]]:
        """Begun steps, and timed-out ones, whose worker is dead or has stopped, with how that is known.

        That is None where the worker's row is gone. A step that is in doubt for its worker's silence is found once more
        where that worker's parent sees it end later.
        """
        ended_since = sa.and_(
            step.c.status.in_(literals((StepStatus.IN_DOUBT,))),
            step.c.over_at == SILENT,
            worker.c.death == Death.PARENT_SAW.value,
        )
        dead = (
            sa.select(step)
            .join(worker, worker.c.id == step.c.worker, isouter=True)
            .where(
                sa.or_(_RUNNING, ended_since),
                sa.or_(worker.c.dead_at.is_not(None), worker.c.stopped_at.is_not(None), worker.c.id.is_(None)),
                *_not_of(leave),
            )
            .limit(limit)
        )
        stopped = sa.case((worker.c.stopped_at.is_not(None), Death.STOPPED.value), else_=worker.c.death).label("its_death")
        rows = self._db.select(dead.with_only_columns(*step.c, stopped))
        return [(found, row._mapping["its_death"]) for row, found in readable(step_row, rows)]

    def begun_by_the_living(self, limit: int, *, leave: Collection[str] = ()) -> list[tuple[StepRow, int]]:
        """Begun steps, and timed-out ones, that the last two beats of their living worker do not name.

        As far as times can tell: after the database's clock went back, an attempt may seem older than beats that were
        before it. Whoever acts on that waits until the worker has beaten twice more.

        Returns:
            Each with its worker's beat counter.
        """
        name = step.c.ref + " " + sa.func.coalesce(step.c.token, "")
        rows = self._db.select(
            sa.select(*step.c, worker.c.beats)
            .join(worker, worker.c.id == step.c.worker)
            .where(
                _RUNNING,
                worker.c.dead_at.is_(None),
                worker.c.stopped_at.is_(None),
                step.c.begun_at < worker.c.previous_beat_at,
                ~worker.c.running.contains(name),
                ~worker.c.previously_running.contains(name),
                *_not_of(leave),
            )
            .limit(limit)
        )
        return [(found, row._mapping["beats"]) for row, found in readable(step_row, rows)]

    def put_before_people(self, ref: str, key: str, attention: Attention, why: str) -> bool:
        """Puts a step that is over in front of people; nothing else changes. One commit, and none where it is there."""
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

    def would_doubt(self, namespace: str, since: int, *, until: int | None = None) -> Doubtful:
        """What `doubt_unfinished` would put in doubt. Writes nothing."""
        found = Doubtful()
        for _ in doubtful(self._db.select, self._db.now, namespace, since, until, found):
            pass
        return found

    def doubt_unfinished(self, namespace: str, since: int, *, until: int | None = None, who: str, why: str) -> Doubtful:
        """Puts everything unfinished in doubt: after a restore, or a fail-over that lost commits. One commit.

        What looks planned may have run, and its record be lost. Steps become in doubt; a workflow function, of whose
        calls even the rows may be lost, is held until a person lets it go on. Transactional steps are as true as the
        rest of their database. A run is left alone that has slept since before, until a time that is still to come.

        Args:
            namespace: whose runs.
            since: from when on commits may be lost, in microseconds: earlier is the safe side.
            until: when the database was there again: runs started later are whole. None where none was.
            who: the person.
            why: and why.
        """
        before: list[Doubtful] = []

        def write(conn: Connection) -> Doubtful:
            found = Doubtful()
            for refs in doubtful(lambda query: conn.execute(query).all(), self._db.now, namespace, since, until, found):
                put_in_doubt(conn, refs, why, self._db.now, NOT_OVER)
            if before and not found.runs:
                return before[-1]  # it had been committed, and only its answer was lost
            before.append(found)
            detail: dict[str, Any] = {"namespace": namespace, "since": since, "until": until}
            detail |= {"steps": found.steps, "functions": found.functions, "runs": found.runs}
            self._events.write(conn, Event.OPERATOR, who=who, why=why, action="doubt", **detail)
            return found

        return self._db.transaction(write)


#: Steps whose attempt may be running, as far as the journal knows.
_RUNNING = sa.or_(
    step.c.status.in_(literals((StepStatus.BEGUN,))),
    sa.and_(step.c.status.in_(literals((StepStatus.IN_DOUBT,))), step.c.over_at == NOT_OVER),
)
_DOUBTED = step.c.status.in_(literals((StepStatus.IN_DOUBT, StepStatus.HELD)))
#: What a verdict may be about.
_DECIDABLE = frozenset({StepStatus.IN_DOUBT, StepStatus.HELD, StepStatus.FAILED})


def _not_of(refs: Collection[str]) -> list[sa.ColumnElement[bool]]:
    """The condition that a step is of none of some runs."""
    return [step.c.ref.not_in(sorted(refs))] if refs else []


def _overdue(row: StepRow) -> str:
    """Why an attempt whose deadline has passed is in doubt."""
    timeout, heartbeat = row.options.get("timeout"), row.options.get("heartbeat")
    # A statement reads the clock anew for each column: two that are meant to be one differ by microseconds.
    if heartbeat is not None and (timeout is None or (row.deadline_at or 0) < (row.begun_at or 0) + timeout - SECOND // 1000):
        return f"its body has said nothing for {heartbeat / SECOND:g} s"
    return "its time-out has passed"


def _as_read(row: StepRow) -> Any:
    """The condition that a step stands as it was read, under the same claim."""
    return sa.and_(this(row), step.c.status == row.status.value, same_token(row))
