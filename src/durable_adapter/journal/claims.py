"""Taking a step: the one way in which an attempt begins (P3).

A claim takes planned or due waiting rows only and never judges whether another worker lives: only the sweeper turns
*begun* into *in doubt*. The winner is known by its token, also when the answer to the claim was lost.
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
    """The condition that a worker's row is there, and neither dead nor stopped.

    The row is locked for as long as the claim is not committed, so that a death and a claim have an order: whatever was
    claimed is there for a sweeper to find once the death is written, and nothing is claimed after it. Not so for a claim
    whose transaction lasts as long as the body: there is nothing to find of it, and a frozen body must keep no sweeper
    waiting that wants to write the death.
    """
    living = sa.select(1).select_from(worker).where(worker.c.id == worker_id, worker.c.alive == 1)
    return sa.exists(living.with_for_update(read=True, key_share=True) if locked else living)


def first_use() -> Any:
    """The moment from which the window of a step's idempotency key runs; a row of revision 0001 knows only when it was made."""
    return sa.func.coalesce(step.c.first_begun_at, step.c.created_at)


def goes_forward(conn: Connection, ref: str, *, locked: bool) -> bool:
    """Whether a run goes forward. Locked for reading, it does so until the transaction ends."""
    return conn.execute(_GOES_FORWARD_LOCKED if locked else _GOES_FORWARD, {"ref": ref}).one_or_none() is not None


def _fits() -> list[Any]:
    """The conditions that a row is what the message says. What a message leaves open counts as fitting."""
    own, without_result = _P("b_print", type_=sa.String), _P("b_print_behind", type_=sa.String)
    name, completes = _P("b_name", type_=sa.String), _P("b_completes", type_=sa.Boolean)
    return [
        sa.or_(name.is_(None), step.c.name == name),
        sa.or_(name.is_(None), step.c.kind.in_([_P("b_kind", type_=sa.String), _P("b_kind_too", type_=sa.String)])),
        sa.or_(sa.not_(completes), step.c.completes_run.is_(None), step.c.completes_run),
        sa.or_(step.c.fingerprint.is_(None), own.is_(None), step.c.fingerprint == own, step.c.fingerprint == without_result),
    ]


def _told(expected: Expected | None) -> dict[str, Any]:
    """What a message says, as parameters of a claim."""
    if expected is None:
        return dict.fromkeys(("b_name", "b_kind", "b_kind_too", "b_print", "b_print_behind")) | {"b_completes": False}
    kind, kind_too = expected.kinds
    own, behind = expected.fingerprints
    return {
        "b_name": expected.name, "b_kind": kind.name, "b_kind_too": kind_too.name, "b_completes": expected.completes_run,
        "b_print": own, "b_print_behind": behind,
    }  # fmt: skip


def _seen(row: StepRow | None) -> dict[str, Any]:
    """What a claim's caller has read of the step, as parameters of the claim."""
    return {"b_seen_generation": row.generation if row else None, "b_seen_attempt": row.attempt if row else None}


#: The columns that a time-out sets.
_UNTIL = ("deadline_at", "look_at")


def _typed(db: Database, column: sa.Column[Any]) -> Any:
    """A parameter for a column. In a SELECT, PostgreSQL takes one without a type for a text."""
    bound: sa.BindParameter[Any] = _P(column.name)
    is_text = isinstance(column.type, (sa.String, sa.types.TypeDecorator))
    return bound if is_text or not db.is_postgresql else sa.cast(bound, column.type)


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a claim. True where it is held now.

    Attributes:
        held: whether it is.
        found: the row that was found where it is not, so that nobody reads it again; None where there is none.
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
        """The claim, as one statement.

        Where an earlier attempt may have had its effect, that and this one must be declared alike, and to be repeatable; and
        the provider must still know the key.
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
            # A row of revision 0001 that was begun does not know when.
            "first_begun_at": sa.func.coalesce(step.c.first_begun_at, begun_before, db.now),
            "token": _P("b_token"),
            "worker": _P("b_worker"),
            "safety": _P("b_safety"),
            "attempt": step.c.attempt + 1,
            "begun_at": db.now,
            "deadline_at": db.now + _P("b_timeout", type_=sa.BigInteger),
            "look_at": db.now + _P("b_timeout", type_=sa.BigInteger),
            "over_at": None,
            "cause": None,
            "doubt": None,
            "doubt_at": None,
            # What an earlier attempt may have done stays unknown until somebody says.
            "effect": sa.case((step.c.effect == Effect.UNKNOWN.value, Effect.UNKNOWN.value), else_=sa.null()),
        }
        return moving(
            StepStatus.BEGUN,
            values,
            step.c.ref == _P("b_ref"),
            step.c.key == _P("b_key"),
            sa.or_(step.c.look_at.is_(None), step.c.look_at <= db.now),
            harmless,
            sa.or_(generation.is_(None), step.c.generation == generation),
            sa.or_(attempt.is_(None), step.c.attempt == attempt),
            *_fits(),
            alive,
            *conditions,
            of=CLAIMABLE,
        )

    @staticmethod
    def _beginning_new(db: Database) -> Any:
        """The claim of a step without a row, as one statement: it inserts the row where the run goes forward."""
        timeout = _P("b_timeout", type_=sa.BigInteger)
        given = {name: _typed(db, step.c[name]) for name in STEP_COLUMNS}
        given |= dict.fromkeys(("created_at", "begun_at", "first_begun_at"), db.now)
        given |= dict.fromkeys(_UNTIL, db.now + timeout)
        running = workflow.c.status.in_(literals(FORWARD_WORKFLOWS))
        rows = sa.select(*given.values()).select_from(workflow).where(workflow.c.ref == _P("ref"), running, lives(_P("b_worker")))
        # SQLAlchemy writes an OF for MySQL too, beside a LOCK IN SHARE MODE that takes none.
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
        """A heartbeat, as one statement. An attempt that is in doubt already stays so: what it says is kept all the same."""
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
                look_at=sa.case((begun, until), else_=step.c.look_at),
            )
        )

    def heartbeat(
        self, ref: str, key: str, token: str, *, heartbeat: int, timeout: int | None = None, details: str | None = None
    ) -> bool:
        """An attempt says that it is alive: it is in doubt only after another silence of *heartbeat*. One commit.

        Args:
            ref: the run.
            key: the step.
            token: the claim.
            heartbeat: microseconds for which it may be silent.
            timeout: microseconds after its begin at which it is in doubt whatever it says.
            details: what it says, as JSON; None leaves what was said last.

        Returns:
            False where the claim no longer holds: it was decided otherwise, or taken over.
        """
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_heartbeat": heartbeat, "b_timeout": timeout, "b_details": details,
        }  # fmt: skip
        return bool(self._db.execute(self._db.hot(self._hear), values))

    def get(self, ref: str, key: str) -> StepRow | None:
        """One step, or None where the journal has no row for it. Writes nothing."""
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
            worker_id: whose it is.
            timeout: microseconds after which the attempt is in doubt.
            expected: what the message says; the row must say the same. None where there is no message.
            seen: the row as the caller last read it, on which its decision rests: no attempt has been made since then, and
                the provider's key is the same. None where nothing was read.
            safety: what the attempt is declared to be, which decides about it should it be in doubt.
            window: microseconds for which a provider remembers the key, of an idempotent step that was begun before.
            in_turn: only if nothing that it comes after is counted as open.

        Returns:
            Whether *token* now holds the claim; else what was found in its place, whatever the reason.
        """
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_worker": worker_id, "b_timeout": timeout,
            "b_safety": safety.value, "b_window": window, **_told(expected), **_seen(seen),
        }  # fmt: skip
        if self._db.execute(self._db.hot(self._begin_in_turn if in_turn else self._begin), values):
            return Claim(held=True)
        return self._found(ref, key, token, worker_id)

    def _found(self, ref: str, key: str, token: str | None, worker_id: str | None) -> Claim:
        """What there is where a claim took nothing: it may be mine after all, if its answer was lost, and still counts."""
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
        with contextlib.suppress(IntegrityError):  # on MySQL, which has no way to insert only what is not there
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
        """Takes a transactional step inside its own transaction: a rival waits here, then finds the memo.

        Args:
            conn: the transaction.
            ref: the run.
            key: the step.
            token: the new claim.
            worker_id: whose it is.
            expected: as `begin` has it.
            in_turn: likewise.

        Returns:
            The row as it was before, with the claim written but not committed; None where it is not to be had.
        """
        found = conn.execute(self._look_locked, {"ref": ref, "key": key}).one_or_none()
        if found is None:
            return None
        row = step_row(found)
        if row.status not in CLAIMABLE or (in_turn and row.pending != 0):
            return row
        values = {
            "b_ref": ref, "b_key": key, "b_token": token, "b_worker": worker_id, "b_timeout": None,
            "b_safety": Safety.TRANSACTIONAL.value, "b_window": None, **_told(expected), **_seen(row),
        }  # fmt: skip
        taken = self._db.hot(self._begin_in_body).run(conn, values).rowcount
        if taken:
            row.token = token
            row.attempt += 1
        return row

    def is_claimed(self, conn: Connection, ref: str, key: str, token: str) -> bool:
        """Whether a claim stands as this transaction sees it, ended or not."""
        here = sa.select(step.c.key).where(step.c.ref == ref, step.c.key == key, step.c.token == token)
        return conn.execute(here).first() is not None

    def refer(self, ref: str, key: str, token: str, reference: str) -> None:
        """Records the provider's own name for what an attempt did. One commit.

        Changes nothing under another token, nor under one whose step is to be tried again: that attempt was over.
        """
        mine = sa.and_(step.c.token == token, step.c.status.not_in(literals(CLAIMABLE)))
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(step).where(step.c.ref == ref, step.c.key == key, mine).values(reference=reference)
            )
        )

    def lock_new(self, conn: Connection, row: StepRow) -> bool:
        """Inserts a transactional step of a function inside its own transaction: a rival waits for the key.

        The run is not locked for as long as the body takes: `Ends.succeed_locked` does that at the end.

        Returns:
            False where the row is there already, or the workflow no longer goes forward; the transaction is then of no
            use and must end.
        """
        if not goes_forward(conn, row.ref, locked=False):
            return False
        try:
            self._db.hot(self._insert_begun).run(conn, step_values(row) | {"attempt": 1})
        except IntegrityError:
            return False
        return True
