"""The journal of the explorer: a real one, whose every operation is a switch point, and whose clock is the schedule's.

One stage serves many schedules, one after the other: it is emptied in between, which is much cheaper than a new database.
While a transactional step's body runs, its transaction keeps the write lock, as in SQLite, on every dialect: who wants to write
meanwhile waits in the scheduler, and a sweeper, which waits for nobody, is told that the journal is busy.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from durable_adapter.errors import JournalBusy, JournalUnreachable, Killed
from durable_adapter.journal import Journal, database, schema
from durable_adapter.journal.migrations import migrate
from tests.servers.databases import Databases

from .clock import Clock
from .scheduler import HERE, Actor, Scheduler

Dialect = Literal["sqlite", "postgresql", "mariadb"]

#: How the journal reads the schedule's clock on a server: from a row.
_READ = "(SELECT at FROM explorer_clock)"
#: Where the effects of transactional steps are.
EFFECTS = sa.Table("explorer_effect", sa.MetaData(), sa.Column("name", sa.String(100)), sa.Column("attempt", sa.Integer))

_READS = ("fetch_tuples", "select")
_WRITES = ("execute", "transaction", "joined")


class Depth(threading.local):
    """How many of the journal's operations the current thread is inside of."""

    inside = 0


class Stage:
    """One journal, and the schedule that uses it now.

    Args:
        dialect: which database.
    """

    def __init__(self, dialect: Dialect = "sqlite") -> None:
        self.dialect = dialect
        self.clock = Clock()
        self._exit = contextlib.ExitStack()
        memory = Path("/dev/shm")
        folder = Path(tempfile.mkdtemp(prefix="durable-explorer-", dir=memory if memory.is_dir() else None))
        self._exit.callback(shutil.rmtree, folder, ignore_errors=True)
        databases = self._exit.enter_context(Databases(folder))
        url = databases.fresh(dialect)
        self.journal = self._open(url)
        self._exit.callback(self.journal.close)
        own = self.journal.db.engine.raw_connection()
        self._exit.callback(own.invalidate)
        self._cursor = own.cursor()
        if dialect != "sqlite":
            # In MariaDB a transaction that reads a row of InnoDB in an update locks it, and the clock would stand still.
            engine = " ENGINE=MEMORY" if dialect == "mariadb" else ""
            self._cursor.execute(f"CREATE TABLE explorer_clock (at BIGINT NOT NULL){engine}")
            self._cursor.execute(f"INSERT INTO explorer_clock VALUES ({self.clock.now})")
            self.clock.moved = self._tell_clock
        migrate(self.journal)
        EFFECTS.create(self.journal.db.engine)
        self._depth = Depth()
        self._scheduler: Scheduler | None = None
        self._owner: Actor | None = None
        #: Called after each operation that may have written.
        self.written: Callable[[], None] | None = None
        #: Asked before each operation, and before it is answered: whether the connection is lost there.
        self.cut: Callable[[bool], bool] | None = None
        db = self.journal.db
        for name in _READS:
            setattr(db, name, self._watched(name, getattr(db, name), writes=False))
        for name in _WRITES:
            setattr(db, name, self._watched(name, getattr(db, name), writes=True))
        self._open_transaction = db.open_transaction
        db.open_transaction = self._transaction  # type: ignore[method-assign]

    def _open(self, url: str) -> Journal:
        names = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mysql"}
        real = dict(database._NOW)
        if self.dialect != "sqlite":
            database._NOW[names[self.dialect]] = _READ
        try:
            journal = Journal(url, resend_after=600, pool_size=8)
        finally:
            database._NOW.update(real)
        if self.dialect == "sqlite":
            journal.db.on_connect = self._prepare_sqlite
        return journal

    def _prepare_sqlite(self, connection: Any) -> None:
        connection.create_function("julianday", 1, self.clock.julian_day)
        connection.execute("PRAGMA synchronous=OFF")

    def _tell_clock(self) -> None:
        """Has the server know what time it is."""
        self._cursor.execute(f"UPDATE explorer_clock SET at = {self.clock.now}")

    def close(self) -> None:
        """Drops everything."""
        self._exit.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def taken_by(self, scheduler: Scheduler) -> Iterator[None]:
        """A block in which a schedule has the stage, empty."""
        self.clear()
        self._scheduler, self._owner = scheduler, None
        try:
            yield
        finally:
            self._scheduler = self._owner = None

    def clear(self) -> None:
        """Deletes every row."""
        for table in (schema.workflow, schema.step, schema.worker, schema.event, EFFECTS):
            self._cursor.execute(f"DELETE FROM {table.name}")
        self.clock.restart()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Reads beside the schedule, on a connection of its own: no switch point."""
        self._cursor.execute(sql)
        return list(self._cursor.fetchall())

    def rows_changed(self, sql: str) -> int:
        """Changes rows beside the schedule; returns how many."""
        self._cursor.execute(sql)
        return int(self._cursor.rowcount)

    def locked_by(self, actor: Actor) -> bool:
        """Whether an actor's own transaction is open."""
        return self._owner is actor

    def _watched(self, name: str, operation: Callable[..., Any], *, writes: bool) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return operation(*args, **kwargs)
            label = self._label(name)
            self._before(label, writes=writes)
            self._depth.inside += 1
            try:
                answer = operation(*args, **kwargs)
            finally:
                self._depth.inside -= 1
            self._after(label, writes=writes)
            return answer

        return run

    @contextlib.contextmanager
    def _transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """A transaction that its caller keeps open: a transactional step's. Its body switches; who else writes has to wait."""
        if self._is_inside:
            with self._open_transaction(*args, **kwargs) as connection:
                yield connection
            return
        label = self._label("open_transaction")
        self._before(label, writes=True)
        self._owner = HERE.actor
        try:
            with self._open_transaction(*args, **kwargs) as connection:
                yield connection
                self._point(f"{label}: before its commit")
                self._cut(label, answered=False)
        finally:
            self._owner = None
        self._after(label, writes=True)

    @property
    def _is_inside(self) -> bool:
        return self._scheduler is None or HERE.actor is None or self._depth.inside > 0

    def _point(self, label: str) -> None:
        assert self._scheduler is not None
        self._scheduler.point(label)

    def _before(self, label: str, *, writes: bool) -> None:
        self._point(f"before {label}")
        self._cut(label, answered=False)
        if not writes or self._owner in (None, HERE.actor):
            return
        if database._IN_A_HURRY.get():
            raise JournalBusy("another transaction keeps the write lock")
        assert self._scheduler is not None
        self._scheduler.wait(lambda: self._owner is None, f"{label}: waits for the lock")

    def _after(self, label: str, *, writes: bool) -> None:
        if writes and self.written is not None:
            self.written()
        self._cut(label, answered=True)
        self._point(f"after {label}")

    def _cut(self, label: str, *, answered: bool) -> None:
        """Loses the connection where the schedule says so: before an operation was made, or before it was answered."""
        if self.cut is not None and self.cut(answered):
            what = "was made, and its answer is lost" if answered else "was not made"
            raise JournalUnreachable(f"the connection is cut: {label} {what}")

    def _label(self, name: str) -> str:
        """Which of the journal's methods runs an operation: only where somebody reads it."""
        if self._scheduler is None or self._scheduler.tell is None:
            return name
        frame = sys._getframe(2)
        found = name
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("durable_adapter.journal.") and not module.endswith((".database", ".sessions")):
                found = f"{module.rpartition('.')[2]}.{frame.f_code.co_name}"
            elif found != name:
                break
            frame = frame.f_back  # type: ignore[assignment]
        return found


__all__ = ["EFFECTS", "Dialect", "Killed", "Stage"]
