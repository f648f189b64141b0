"""Claiming a step: the only way in which an attempt begins (P3).

A claim takes planned rows and due waiting rows only. It never decides whether another worker is alive: only the sweeper
turns *begun* into *in doubt*. The token identifies the winner, also when the answer to the claim was lost.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from ..model import (
    CLAIMABLE,
    FORWARD_WORKFLOWS,
    REPEATABLE,
    UNSETTLED_STEPS,
    Effect,
    Expected,
    Safety,
    StepRow,
    StepStatus,
)
from .database import Database
from .rows import STEP_COLUMNS, inserting_step, step_row, step_values
from .schema import literals, step, worker, workflow
from .transitions import moving

_P = sa.bindparam
_GOES_FORWARD = sa.select(workflow.c.ref).where(workflow.c.ref == _P("ref"), workflow.c.status.in_(literals(FORWARD_WORKFLOWS)))
_GOES_FORWARD_LOCKED = _GOES_FORWARD.with_for_update(read=True)


def lives(worker_id: Any, *, locked: bool = True) -> Any:
    """Returns the condition that a worker's row exists and is neither dead nor stopped.

    The row stays locked until the claim is committed, so that a claim and a death are ordered: a sweeper that records the
    death finds every claim, and no claim succeeds after it. A claim whose transaction lasts as long as the body takes no
    lock: it leaves nothing for a sweeper to find, and a frozen body must not block the sweeper.
    """
    living = sa.select(1).select_from(worker).where(worker.c.id == worker_id, worker.c.alive == 1)
    return sa.exists(living.with_for_update(read=True, key_share=True) if locked else living)


def first_use() -> Any:
    """Returns when a step's idempotency key was first used; rows of revision 0001 have only their creation time."""
    return sa.func.coalesce(step.c.first_begun_at, step.c.created_at)


def goes_forward(conn: Connection, ref: str, *, locked: bool) -> bool:
    """Returns whether a run goes forward; with *locked*, that stays so until the transaction ends."""
    return conn.execute(_GOES_FORWARD_LOCKED if locked else _GOES_FORWARD, {"ref": ref}).one_or_none() is not None


def _matching_conditions() -> list[Any]:
    """Returns the conditions that a row matches the message. A field that the message leaves out matches."""
    own, without_result = _P("b_print", type_=sa.String), _P("b_print_behind", type_=sa.String)
    name, completes = _P("b_name", type_=sa.String), _P("b_completes", type_=sa.Boolean)
    return [
        sa.or_(name.is_(None), step.c.name == name),
        sa.or_(name.is_(None), step.c.kind.in_([_P("b_kind", type_=sa.String), _P("b_kind_too", type_=sa.String)])),
        sa.or_(sa.not_(completes), step.c.completes_run.is_(None), step.c.completes_run),
        sa.or_(step.c.fingerprint.is_(None), own.is_(None), step.c.fingerprint == own, step.c.fingerprint == without_result),
    ]


def _expected_values(expected: Expected | None) -> dict[str, Any]:
    """Returns a claim's parameters for what the message says."""
    if expected is None:
        return dict.fromkeys(("b_name", "b_kind", "b_kind_too", "b_print", "b_print_behind")) | {"b_completes": False}
    kind, kind_too = expected.kinds
    own, behind = expected.fingerprints
    return {
        "b_name": expected.name, "b_kind": kind.name, "b_kind_too": kind_too.name, "b_completes": expected.completes_run,
        "b_print": own, "b_print_behind": behind,
    }  # fmt: skip


def _seen_values(row: StepRow | None) -> dict[str, Any]:
    """Returns a claim's parameters for the row that its caller has read."""
    return {"b_seen_generation": row.generation if row else None, "b_seen_attempt": row.attempt if row else None}


#: The columns that a time-out sets.
_UNTIL = ("deadline_at", "next_check_at")


def _typed(db: Database, column: sa.Column[Any]) -> Any:
    """Returns a parameter for a column. In a SELECT, PostgreSQL treats an untyped parameter as text."""
    bound: sa.BindParameter[Any] = _P(column.name)
    is_text = isinstance(column.type, (sa.String, sa.types.TypeDecorator))
    return bound if is_text or not db.is_postgresql else sa.cast(bound, column.type)


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of a claim; true if it is held.

    Attributes:
        held: the token now holds the step.
        found: the step's row, if the claim took nothing at first; None if there is no row.
    """

    held: bool
    found: StepRow | None = None

    def __bool__(self) -> bool:
        return self.held


class Claims:
    """The step table's transitions to *begun*."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._get = sa.select(step).where(step.c.ref == _P("ref"), step.c.key == _P("key"))
        self._look_locked = self._get.with_for_update()
        self._hear = self._hearing(db)
        self._begin = self._beginning(db, lives(_P("b_worker")))
        self._begin_in_body = self._beginning(db, lives(_P("b_worker"), locked=False))
        self._begin_new = self._beginning_new(db)
        self._insert_planned = inserting_step(db.now)
        self._insert_begun = self._insert_planned.values({"begun_at": db.now, "first_begun_at": db.now})
        self._begin_in_turn = self._beginning(db, lives(_P("b_worker")), step.c.pending == 0)

    @staticmethod
    def _beginning(db: Database, alive: Any, *conditions: Any) -> sa.Update:
        """Returns the statement of a claim.

        If an earlier attempt may have had its effect, both must be declared with the same repeatable safety, and the
        provider must still remember the key.
        """
        window = _P("b_window", type_=sa.BigInteger)
        generation, attempt = _P("b_seen_generation", type_=sa.Integer), _P("b_seen_attempt", type_=sa.Integer)
        begun_before = sa.case((sa.and_(step.c.attempt > 0, step.c.generation == 0), step.c.created_at))
        harmless = sa.or_(
            step.c.effect.is_(None),
            step.c.effect != Effect.UNKNOWN.value,
            sa.and_(
                step.c.safety == _P("b_safety"),
                step.c.safety.in_(literals(REPEATABLE)),
                sa.or_(window.is_(None), first_use() > db.now - window),
            ),
        )
        values = {
            # A begun row of revision 0001 has no such time.
            "first_begun_at": sa.func.coalesce(step.c.first_begun_at, begun_before, db.now),
            "token": _P("b_token"),
            "worker": _P("b_worker"),
            "safety": _P("b_safety"),
            "attempt": step.c.attempt + 1,
            "begun_at": db.now,
            "deadline_at": db.now + _P("b_timeout", type_=sa.BigInteger),
            "next_check_at": db.now + _P("b_timeout", type_=sa.BigInteger),
            "over_at": None,
            "cause": None,
            "doubt": None,
            "doubt_at": None,
            # An earlier attempt's unknown effect stays unknown until a verdict.
            "effect": sa.case((step.c.effect == Effect.UNKNOWN.value, Effect.UNKNOWN.value), else_=sa.null()),
        }
        return moving(
            StepStatus.BEGUN,
            values,
            step.c.ref == _P("b_ref"),
            step.c.key == _P("b_key"),
            sa.or_(step.c.next_check_at.is_(None), step.c.next_check_at <= db.now),
            harmless,
            sa.or_(generation.is_(None), step.c.generation == generation),
            sa.or_(attempt.is_(None), step.c.attempt == attempt),
            *_matching_conditions(),
            alive,
            *conditions,
            of=CLAIMABLE,
        )

    @staticmethod
    def _beginning_new(db: Database) -> Any:
        """Returns the statement that claims a step without a row: it inserts the row if the run goes forward."""
        timeout = _P("b_timeout", type_=sa.BigInteger)
        given = {name: _typed(db, step.c[name]) for name in STEP_COLUMNS}
        given |= dict.fromkeys(("created_at", "begun_at", "first_begun_at"), db.now)
        given |= dict.fromkeys(_UNTIL, db.now + timeout)
        running = workflow.c.status.in_(literals(FORWARD_WORKFLOWS))
        rows = sa.select(*given.values()).select_from(workflow).where(workflow.c.ref == _P("ref"), running, lives(_P("b_worker")))
        # SQLAlchemy renders OF for MySQL too, whose LOCK IN SHARE MODE does not accept it.
        rows = rows.with_for_update(read=True, of=workflow if db.is_postgresql else None)
        match db.dialect_name:
            case "postgresql":
                return postgresql.insert(step).from_select(list(given), rows).on_conflict_do_nothing()
            case "sqlite":
                return sqlite.insert(step).from_select(list(given), rows).on_conflict_do_nothing()
            case _:
                return sa.insert(step).from_select(list(given), rows)

    @staticmethod
    def _hearing(db: Database) -> sa.Update:
        """Returns the statement of a heartbeat. An attempt in doubt stays in doubt; its details are kept."""
        silent = db.now + _P("b_heartbeat", type_=sa.BigInteger)
        timeout = _P("b_timeout", type_=sa.BigInteger)
        timed_out = step.c.begun_at + timeout
        until = sa.case((timed_out.is_(None), silent), (silent < timed_out, silent), else_=timed_out)
        begun = step.c.status == StepStatus.BEGUN.value
        return (
            sa.update(step)
            .where(
                step.c.ref == _P("b_ref"),
                step.c.key == _P("b_key"),
                step.c.token == _P("b_token"),
                step.c.status.in_(literals(UNSETTLED_STEPS)),
            )
            .values(
                heartbeat_at=db.now,
                details=sa.func.coalesce(_P("b_details", type_=sa.Text), step.c.details),
                deadline_at=sa.case((begun, until), else_=step.c.deadline_at),
                next_check_at=sa.case((begun, until), else_=step.c.next_check_at),
            )
        )

    def heartbeat(
        self, ref: str, key: str, token: str, *, heartbeat: int, timeout: int | None = None, details: str | None = None
    ) -> bool:
        """Records an attempt's heartbeat: the attempt is in doubt only after *heartbeat* without another one. One commit.

        Args:
            ref: the run.
            key: the step.
            token: the claim.
            heartbeat: microseconds within which the next heartbeat must come.
            timeout: microseconds after its begin at which the attempt is in doubt in any case.
            details: the heartbeat's details as JSON; None keeps the last ones.

        Returns:
            False if the claim no longer holds: the step was decided otherwise, or taken over.
        """
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_heartbeat": heartbeat, "b_timeout": timeout, "b_details": details,
        }  # fmt: skip
        return bool(self._db.execute(self._db.hot(self._hear), values))

    def get(self, ref: str, key: str) -> StepRow | None:
        """Returns one step, or None if it has no row. Writes nothing."""
        rows = self._db.fetch(self._db.hot(self._get), {"ref": ref, "key": key})
        return step_row(rows[0]) if rows else None

    def begin(
        self,
        ref: str,
        key: str,
        token: str,
        worker_id: str,
        timeout: int | None = None,
        *,
        expected: Expected | None = None,
        seen: StepRow | None = None,
        safety: Safety = Safety.PROTECTED,
        window: int | None = None,
        in_turn: bool = False,
    ) -> Claim:
        """Claims a planned or due waiting step. One statement, one commit.

        Args:
            ref: the run.
            key: the step.
            token: the new claim.
            worker_id: the claiming worker.
            timeout: microseconds after which the attempt is in doubt.
            expected: what the message says; the row must match it. None if there is no message.
            seen: the row as the caller last read it. The claim fails if another attempt has been made since, or the
                idempotency key has changed. None if nothing was read.
            safety: the attempt's declared safety, which decides what happens if it is in doubt.
            window: microseconds for which the provider remembers the key of an idempotent step that was begun before.
            in_turn: claim only if no step that it comes after is open.

        Returns:
            The claim; if it is not held, with the row that was found, whatever the reason.
        """
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_worker": worker_id, "b_timeout": timeout,
            "b_safety": safety.value, "b_window": window, **_expected_values(expected), **_seen_values(seen),
        }  # fmt: skip
        if self._db.execute(self._db.hot(self._begin_in_turn if in_turn else self._begin), values):
            return Claim(held=True)
        return self._found(ref, key, token, worker_id)

    def _found(self, ref: str, key: str, token: str | None, worker_id: str | None) -> Claim:
        """Returns the result of a claim that took nothing. It is held if its first answer was lost and its worker is alive."""
        found = self.get(ref, key)
        if found is None or token is None or found.token != token or found.status is not StepStatus.BEGUN:
            return Claim(held=False, found=found)
        alive = self._db.select(sa.select(worker.c.id).where(worker.c.id == worker_id, worker.c.alive == 1))
        return Claim(held=bool(alive), found=found)

    def begin_new(self, row: StepRow) -> Claim:
        """Claims a step of a workflow function that has no row yet, by inserting it as begun. One statement, one commit.

        The workflow row is locked for reading: no step begins after a rollback has been decided.
        """
        self._db.check_size(row.message)
        values = step_values(row)
        values |= {"attempt": 1, "b_timeout": values["deadline_at"], "b_worker": row.worker}
        with contextlib.suppress(IntegrityError):  # on MySQL, which has no ON CONFLICT DO NOTHING
            if self._db.execute(self._db.hot(self._begin_new), values):
                return Claim(held=True)
        return self._found(row.ref, row.key, row.token, row.worker)

    def plan_new(self, row: StepRow) -> bool:
        """Inserts a planned step of a workflow function: a dispatch or a sleep. One commit.

        Args:
            row: the step, planned or waiting.

        Raises:
            UnserialisableValue: its message is too large for this database.
        """
        self._db.check_size(row.message)
        values = step_values(row)

        def write(conn: Connection) -> bool:
            running = [status.value for status in FORWARD_WORKFLOWS]
            run = conn.execute(
                sa.select(workflow.c.ref)
                .where(workflow.c.ref == row.ref, workflow.c.status.in_(running))
                .with_for_update(read=not row.completes_run)
            ).one_or_none()
            if run is None:
                return False
            self._db.hot(self._insert_planned).run(conn, values)
            if row.completes_run:
                conn.execute(sa.update(workflow).where(workflow.c.ref == row.ref).values(open_steps=workflow.c.open_steps + 1))
            return True

        try:
            return self._db.transaction(write)
        except IntegrityError:
            return False

    def lock(
        self,
        conn: Connection,
        ref: str,
        key: str,
        token: str,
        worker_id: str,
        *,
        expected: Expected | None = None,
        in_turn: bool = False,
    ) -> StepRow | None:
        """Claims a transactional step inside its own transaction. A concurrent claim waits, then finds the memo.

        Args:
            conn: the transaction.
            ref: the run.
            key: the step.
            token: the new claim.
            worker_id: the claiming worker.
            expected: see `begin`.
            in_turn: see `begin`.

        Returns:
            The row as it was before; if it could be claimed, with the new token, which is not committed yet. None if there
            is no row.
        """
        found = conn.execute(self._look_locked, {"ref": ref, "key": key}).one_or_none()
        if found is None:
            return None
        row = step_row(found)
        if row.status not in CLAIMABLE or (in_turn and row.pending != 0):
            return row
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_worker": worker_id, "b_timeout": None,
            "b_safety": Safety.TRANSACTIONAL.value, "b_window": None, **_expected_values(expected), **_seen_values(row),
        }  # fmt: skip
        taken = self._db.hot(self._begin_in_body).run(conn, values).rowcount
        if taken:
            row.token = token
            row.attempt += 1
        return row

    def is_claimed(self, conn: Connection, ref: str, key: str, token: str) -> bool:
        """Returns whether this transaction sees the claim on the row, ended or not."""
        here = sa.select(step.c.key).where(step.c.ref == ref, step.c.key == key, step.c.token == token)
        return conn.execute(here).first() is not None

    def refer(self, ref: str, key: str, token: str, reference: str) -> None:
        """Records the provider's reference for what an attempt did. One commit.

        Changes nothing if another token holds the step, or the step is to be tried again: that attempt is over.
        """
        mine = sa.and_(step.c.token == token, step.c.status.not_in(literals(CLAIMABLE)))
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(step).where(step.c.ref == ref, step.c.key == key, mine).values(reference=reference)
            )
        )

    def lock_new(self, conn: Connection, row: StepRow) -> bool:
        """Inserts a function's transactional step inside its own transaction. A concurrent insert of the key waits.

        The run is not locked while the body runs: `Ends.succeed_locked` locks it at the end.

        Returns:
            False if the row exists already, or the workflow no longer goes forward. The transaction must then end.
        """
        if not goes_forward(conn, row.ref, locked=False):
            return False
        try:
            self._db.hot(self._insert_begun).run(conn, step_values(row) | {"attempt": 1})
        except IntegrityError:
            return False
        return True
