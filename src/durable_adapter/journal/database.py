"""The connection to the journal: one engine a process, autocommit statements, explicit transactions, dialect differences.

Every statement of the hot path is compiled once and runs in autocommit: one round trip. A transaction is explicit
(`BEGIN IMMEDIATE` on SQLite). Every operation may safely be repeated when its answer was lost.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler

from ..errors import JournalBusy, JournalUnmigrated, JournalUnreachable, SettingError, UnserialisableValue
from ..urls import safe_url, scrubbed
from .forking import GATE
from .outages import aborted, table_missing, unreachable, unwritable, waited_in_vain
from .troubles import Observer, Trouble, taken, tell

T = TypeVar("T")

#: Attempts at a transaction that the database aborts (deadlock, serialisation).
ABORTED_ATTEMPTS: Final = 8
#: Value size in bytes that every database accepts, so that the limit need not be queried (MySQL's usual packet is 4 MB).
SURELY_TAKEN: Final = 1024 * 1024
#: Largest value in bytes where the database itself accepts more: PostgreSQL and SQLite allow 1 GB, but several copies of
#: the value are in memory while it is written.
LARGEST: Final = 256 * 1024 * 1024
#: Bytes of a packet that are reserved for the rest of a statement.
_REST: Final = 64 * 1024
#: Seconds that a statement on SQLite waits for another writer.
SQLITE_BUSY: Final = 30.0

_NOW: Final = {
    "postgresql": "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    "sqlite": "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000",
}
_BEGIN: Final = {"postgresql": "BEGIN", "mysql": "START TRANSACTION", "sqlite": "BEGIN IMMEDIATE"}
#: Seconds for which a sweeper waits for a row that another transaction has locked; whole seconds, as MySQL requires.
LOCK_WAIT: Final = 1
#: Statements that set this lock timeout for a transaction, and that reset it (None: it ends with the transaction).
_LOCK_TIMEOUT: Final = {
    "postgresql": (f"SET LOCAL lock_timeout = '{LOCK_WAIT}s'", None),
    "mysql": (
        f"SET @durable_wait = @@SESSION.innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = {LOCK_WAIT}",
        "SET SESSION innodb_lock_wait_timeout = @durable_wait",
    ),
    # SQLite has one lock for the whole database and no queue: one of many writers can wait longer than the others.
    "sqlite": (f"PRAGMA busy_timeout = {5 * LOCK_WAIT * 1000}", "PRAGMA busy_timeout = {busy}"),
}
#: True where the operations of this context wait for locks no longer than `LOCK_WAIT`.
_IN_A_HURRY: ContextVar[bool] = ContextVar("durable_in_a_hurry", default=False)
#: The open transaction that the transactions of this context join, with its database.
_JOINED: ContextVar[tuple[Database, Connection] | None] = ContextVar("durable_joined", default=None)
#: Seconds for which an operation is retried when the database aborts it, or SQLite is locked.
ABORTED_FOR: Final = 60.0
#: TCP keepalive: idle seconds, interval in seconds, probes. A host that died keeps its locks no longer than a minute.
KEEPALIVE: Final = (30, 10, 3)


class Hot:
    """A statement that is compiled once for one dialect and run through the driver.

    Where parameters have names, constants are written into the text: each call passes only the other values.
    """

    __slots__ = ("_constants", "_order", "columns", "sql")

    def __init__(self, statement: sa.sql.ClauseElement, dialect: sa.engine.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        constants = {name: bind for name, bind in compiled.binds.items() if not bind.required}
        self.sql = str(compiled)
        #: The names of a SELECT's columns.
        self.columns = tuple(statement.selected_columns.keys()) if isinstance(statement, sa.Select) else ()
        self._order = compiled.positiontup
        if self._order is None:
            for name, bind in constants.items():
                # SQLAlchemy before 2.0.23 renders no None.
                text = "NULL" if bind.value is None else compiled.render_literal_value(bind.value, bind.type)
                self.sql = self.sql.replace(f"%({name})s", text)
            constants = {}
        self._constants = {name: bind.value for name, bind in constants.items()}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> sa.CursorResult[Any]:
        """Runs the statement on *connection* with the named *values*."""
        return connection.exec_driver_sql(self.sql, self.parameters(values))

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Runs the statement once for each of *rows*, batched by the driver."""
        given = [self.parameters(row) for row in rows]
        connection.exec_driver_sql(self.sql, given if len(given) > 1 else given[0])

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Returns the named *values* in the form that the driver takes."""
        if self._order is None:
            return values
        merged = {**self._constants, **values}
        return tuple([merged[name] for name in self._order])


class AtHand(NamedTuple):
    """A connection from the pool that is kept ready for the next statement, with its cursor."""

    connection: PoolProxiedConnection
    cursor: Any

    def give_back(self) -> None:
        """Returns the connection to the pool."""
        self.cursor.close()
        self.connection.close()


class Database:
    """One journal's database. It connects when first used, and again after a fork.

    Args:
        url: SQLAlchemy URL: `postgresql+psycopg://`, `mysql+pymysql://`, `sqlite:///`.
        schema: the schema of the tables; default: the connection's.
        pool_size: connections kept open per process.
        connect_args: passed to the driver (for instance `{"prepare_threshold": None}` behind a transaction pooler).
    """

    def __init__(
        self,
        url: str | URL,
        *,
        schema: str | None = None,
        pool_size: int = 2,
        connect_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = _parsed(url)
        name = self.url.get_backend_name()
        self.dialect_name = "mysql" if name == "mariadb" else name
        if self.dialect_name not in _NOW:
            raise SettingError(
                f"the journal's URL names the database {name!r}; supported are postgresql, mysql, mariadb and sqlite"
            )
        if self.dialect_name == "sqlite" and self.url.database in (None, "", ":memory:"):
            raise SettingError(
                "a journal in memory is lost with its process; name a file: 'sqlite:////path/journal.db' "
                "(tests: use the durable_journal fixture of durable_adapter.testing)"
            )
        if schema and not self.is_postgresql:
            raise SettingError(f"schema={schema!r} is for PostgreSQL; on {name} name the database in the journal's URL")
        self.schema = schema
        self.now = sa.literal_column(_NOW[self.dialect_name], sa.BigInteger)
        self._pool_size = pool_size
        self._connect_args = dict(connect_args or {})
        self._engine: Engine | None = None
        self._pid = 0
        #: True once SQLAlchemy has queried the server's version; a forked child reuses the answer and connects faster.
        self._has_met_server = False
        self._lock = threading.Lock()
        self._hot: dict[int, Hot] = {}
        #: One connection is kept outside the pool: the pool and a new cursor make a short statement a quarter slower.
        #: A thread removes it to run a statement, and puts it back. It counts towards `pool_size`.
        self._at_hand: list[AtHand] = []
        #: The parent process's connections after a fork: neither used nor closed here.
        self._inherited: list[AtHand] = []
        #: Largest value in bytes, once it was queried.
        self._largest: int | None = None
        #: Called after each commit; tests count commits with it.
        self.on_commit: Callable[[], None] | None = None
        #: Called with what needs a person's attention, after the commit.
        self.observers: list[Observer] = []
        #: Called with each new driver connection; the test journal replaces SQLite's clock with it.
        self.on_connect: Callable[[Any], None] | None = None

    @property
    def is_sqlite(self) -> bool:
        """True for SQLite, which has one lock for all writers."""
        return self.dialect_name == "sqlite"

    @property
    def is_postgresql(self) -> bool:
        """True for PostgreSQL."""
        return self.dialect_name == "postgresql"

    @property
    def engine(self) -> Engine:
        """This process's engine. A forked child opens its own connections and does not touch its parent's sockets."""
        if self._engine is None or self._pid != os.getpid():
            if self._pid not in (0, os.getpid()):
                self._lock = threading.Lock()  # a thread of the parent may have held the old one at the fork
            with self._lock:
                if self._engine is None or self._pid != os.getpid():
                    self._inherited += self._at_hand
                    self._at_hand = []
                    if self._engine is not None:
                        self._engine.dispose(close=False)
                    if self._engine is None or not self._has_met_server:
                        self._engine = self._create()
                    self._pid = os.getpid()
        return self._engine

    def _create(self) -> Engine:
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
        arguments = dict(self._connect_args)
        if self.is_sqlite:
            arguments = {"timeout": SQLITE_BUSY, "check_same_thread": False, **arguments}
            options["poolclass"] = sa.pool.QueuePool
            GATE.install(self._close_idle)
        elif self.is_postgresql:
            idle, interval, count = KEEPALIVE
            kept: dict[str, Any] = {"connect_timeout": 10}
            if self.url.drivername != "postgresql+pg8000":  # libpq's parameters
                kept |= {"keepalives": 1, "keepalives_idle": idle, "keepalives_interval": interval, "keepalives_count": count}
            arguments = {**kept, **arguments}
            if self.url.get_driver_name() in ("psycopg", "psycopg2"):
                options["use_native_hstore"] = False  # it costs a round trip, and no column uses it
        else:
            arguments = {"connect_timeout": 10, **arguments}
        pooled = max(1, self._pool_size - 1)  # besides the one in `_at_hand`; 0 would mean no limit
        options |= {"pool_size": pooled, "max_overflow": self._pool_size + 20 - pooled, "pool_timeout": 30}
        # Error texts go into logs and error trackers: they must not contain a user's values.
        options["hide_parameters"] = True
        try:
            engine = sa.create_engine(self.url, connect_args=arguments, **options)
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise SettingError(
                f"the driver of the journal's URL ({self.url.drivername}) is not installed: {error}. "
                "Install durable-adapter[postgres] or durable-adapter[mysql], and name the driver in the URL "
                "(postgresql+psycopg://, mysql+pymysql://)."
            ) from error
        sa.event.listen(engine, "connect", self._prepare)
        if self.is_sqlite:
            sa.event.listen(engine, "do_connect", _open_existing)
        return engine

    def _prepare(self, connection: Any, _record: Any) -> None:
        """Sets the isolation level, time zone and keepalive of a new connection."""
        cursor = connection.cursor()
        if self.is_sqlite:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
        elif self.is_postgresql:
            given = {"default_transaction_isolation": "read committed"}
            # On the server's side: it ends the transaction of a host that died, and so releases its locks.
            kept = zip(("idle", "interval", "count"), KEEPALIVE, strict=True)
            given |= {f"tcp_keepalives_{name}": str(number) for name, number in kept}
            if self.schema:
                given["search_path"] = quoted_name(self.schema)
            # One round trip for all of them.
            settings = ", ".join(f"set_config('{name}', %s, false)" for name in given)
            cursor.execute(f"SELECT {settings}", tuple(given.values()))
        else:
            cursor.execute("SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'")
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            _keep_alive(connection)
        cursor.close()
        if self.on_connect is not None:
            self.on_connect(connection)
        self._has_met_server = True

    def hot(self, statement: Any) -> Hot:
        """Returns *statement* compiled. It is cached by `id`, so *statement* must live as long as this object."""
        found = self._hot.get(id(statement))
        if found is None:
            found = self._hot[id(statement)] = Hot(statement, self.engine.dialect)
        return found

    def execute(self, statement: Hot, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> int:
        """Runs one writing statement in autocommit, and returns how many rows it matched.

        *values* may be a function: it is called again each time that the statement is repeated.
        """
        if _IN_A_HURRY.get():  # the lock timeout is set for a transaction
            return self.transaction(
                lambda conn: statement.run(conn, values() if callable(values) else values).rowcount,
            )

        def write() -> int:
            count = int(self._driven(statement, values() if callable(values) else values, _count))
            self._committed()
            return count

        return self.repeat(write)

    def execute_counting(self, statement: Hot, values: Mapping[str, Any]) -> int:
        """Runs one writing statement in autocommit, and returns the number that it returns."""
        if _IN_A_HURRY.get():
            return self.transaction(lambda conn: int(statement.run(conn, values).scalar_one()))

        def write() -> int:
            found = int(self._driven(statement, values, _rows)[0][0])
            self._committed()
            return found

        return self.repeat(write)

    def fetch_tuples(self, statement: Hot, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Runs one SELECT and returns its rows as the driver's tuples."""
        return self.repeat(lambda: self._driven(statement, values, _rows))

    def fetch(self, statement: Hot, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Runs one SELECT and returns its rows as dictionaries."""
        return [dict(zip(statement.columns, row, strict=True)) for row in self.fetch_tuples(statement, values)]

    def _driven(self, statement: Hot, values: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Runs one statement in autocommit directly through the driver; SQLAlchemy's own execution doubles the cost.

        Where the engine has event listeners (tracing, tests), SQLAlchemy runs it, so that they are called.
        """
        with self._apart_from_forks():
            return self._driven_now(statement, values, read)

    def _driven_now(self, statement: Hot, values: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        engine = self.engine
        if engine.dispatch.before_cursor_execute:
            with self._connection() as connection:
                return read(statement.run(connection, values))
        driver, taken = engine.dialect.loaded_dbapi, None
        try:
            taken = self._take(engine)
            taken.cursor.execute(statement.sql, statement.parameters(values))
            found = read(taken.cursor)
        except driver.Error as error:
            lost = engine.dialect.is_disconnect(error, taken.connection if taken is not None else None, None)
            if lost and taken is not None:
                taken.connection.invalidate(error)
                self._drop(engine)  # the other connections were lost with it
            elif taken is not None:
                taken.connection.close()  # not its cursor: closing it may raise another error and hide this one
            raise sa.exc.DBAPIError.instance(
                statement.sql, None, error, driver.Error, connection_invalidated=lost, dialect=engine.dialect
            ) from error
        except BaseException:
            if taken is not None:
                taken.connection.invalidate()
            raise
        self._at_hand.append(taken)
        if len(self._at_hand) > 1 or self._pool_size < 2 or engine is not self._engine:
            self._release()
        return found

    def _take(self, engine: Engine) -> AtHand:
        """Returns the ready connection, or one from the pool."""
        try:
            return self._at_hand.pop()
        except IndexError:
            connection = engine.raw_connection()
            return AtHand(connection, connection.cursor())

    def _close_idle(self) -> None:
        """Closes the idle connections. Each thread opens a new one when it needs it."""
        if self._engine is not None and self._pid == os.getpid():
            self._drop(self._engine)

    def _drop(self, engine: Engine) -> None:
        """Closes all connections; those in use are closed when they are returned."""
        while self._at_hand:
            with contextlib.suppress(IndexError):  # another thread took it
                self._at_hand.pop().connection.invalidate()
        engine.dispose()

    def _connect(self) -> Connection:
        """Returns a SQLAlchemy connection. The ready one goes back to the pool first, so that it is reused."""
        engine = self.engine
        if self._at_hand:
            self._release()
        return engine.connect()

    def _release(self) -> None:
        """Returns the ready connection to the pool."""
        with contextlib.suppress(IndexError):  # another thread took it
            self._at_hand.pop().give_back()

    def select(
        self, statement: sa.Select[Any] | sa.CompoundSelect[Any], values: Mapping[str, Any] | None = None
    ) -> Sequence[sa.Row[Any]]:
        """Runs a SELECT that is compiled at each call: for reports and the sweeper, not for the hot path."""

        def read() -> Sequence[sa.Row[Any]]:
            with self._connection() as connection:
                return connection.execute(statement, values or {}).all()

        return self.repeat(read)

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Runs *work* in one transaction, or in the transaction of `joined`. *work* runs again after an abort."""
        joined = _JOINED.get()
        if joined is not None and joined[0] is self:
            return work(joined[1])

        unanswered: list[Trouble] = []

        def run() -> T:
            with self.open_transaction(unanswered) as connection:
                return work(connection)

        return self._report_unanswered(self.repeat(run), unanswered)

    def _report_unanswered(self, result: T, unanswered: list[Trouble]) -> T:
        """Reports the troubles of a commit whose answer was lost, and which the next attempt found done; returns *result*."""
        tell(self.observers, unanswered)
        return result

    def joined(self, work: Callable[[Connection], T]) -> T:
        """Runs *work* in one transaction. Every `transaction` inside it joins that transaction."""
        unanswered: list[Trouble] = []

        def run() -> T:
            with self.open_transaction(unanswered) as connection:
                before = _JOINED.set((self, connection))
                try:
                    return work(connection)
                finally:
                    _JOINED.reset(before)

        return self._report_unanswered(self.repeat(run), unanswered)

    @contextlib.contextmanager
    def with_short_lock_waits(self) -> Iterator[None]:
        """Limits each lock wait in the block to `LOCK_WAIT`; for code that handles many runs.

        A transactional step locks its row for as long as its body runs, and a frozen process locks it indefinitely.

        Raises:
            JournalBusy: a lock was not released in that time.
        """
        before = _IN_A_HURRY.set(True)
        try:
            yield
        finally:
            _IN_A_HURRY.reset(before)

    def _apart_from_forks(self) -> contextlib.AbstractContextManager[None]:
        """Prevents a fork inside the block on SQLite, whose locks do not survive one."""
        return GATE.passed() if self.is_sqlite else contextlib.nullcontext()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Yields a connection for one statement. It is discarded if anything but a SQLAlchemy error interrupts it.

        A soft time limit raises in a signal handler and can interrupt the driver in a reply: the connection's next
        statement could read the rest of that reply.
        """
        with self._apart_from_forks(), self._connect() as connection:
            try:
                yield connection
            except SQLAlchemyError:
                raise
            except BaseException:
                connection.invalidate()
                raise

    @property
    def keeps_nothing_after_an_abort(self) -> bool:
        """True if writes after the server aborted a transaction of `open_transaction(users=True)` are rolled back, too.

        MySQL begins a new transaction implicitly there. Elsewhere the body itself ended the transaction, and later
        statements were committed one by one.
        """
        return self.dialect_name == "mysql"

    @contextlib.contextmanager
    def open_transaction(self, unanswered: list[Trouble] | None = None, *, users: bool = False) -> Iterator[Connection]:
        """Opens a transaction as a block: commits at its end, rolls back when the block raises.

        Args:
            unanswered: receives the troubles of a commit whose answer was lost, for the next attempt.
            users: the block runs a user's statements. On MySQL autocommit is off inside it: after a deadlock the server ends
                the transaction, and a body that continued would commit its later statements one by one.
        """
        troubles: list[Trouble] = []
        with (
            self._apart_from_forks(),
            self._connect() as connection,
            self._lock_wait(connection) as only_here,
            self._without_autocommit(connection, off=users and self.dialect_name == "mysql"),
        ):
            try:
                connection.exec_driver_sql(_BEGIN[self.dialect_name])
                if only_here is not None:
                    connection.exec_driver_sql(only_here)
                yield connection
                troubles = taken(connection)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                if unanswered is not None:
                    unanswered[:] = troubles
                self._abandon(connection)
                raise
        self._committed()
        if troubles:
            if unanswered is not None:
                unanswered.clear()
            tell(self.observers, troubles)

    @contextlib.contextmanager
    def _lock_wait(self, connection: Connection) -> Iterator[str | None]:
        """Limits lock waits within `with_short_lock_waits`; yields the statement to run in the transaction, if there is one."""
        limit, reset = _LOCK_TIMEOUT[self.dialect_name]
        if not _IN_A_HURRY.get() or reset is None:
            yield limit if _IN_A_HURRY.get() else None
            return
        busy = int(float(self._connect_args.get("timeout", SQLITE_BUSY)) * 1000)
        connection.exec_driver_sql(limit)
        try:
            yield None
        finally:
            try:
                connection.exec_driver_sql(reset.format(busy=busy))
            except Exception:
                connection.invalidate()

    @staticmethod
    @contextlib.contextmanager
    def _without_autocommit(connection: Connection, *, off: bool) -> Iterator[None]:
        """Turns autocommit off in the block (MySQL). The connection is discarded if it cannot be turned on again."""
        if not off:
            yield
            return
        connection.exec_driver_sql("SET autocommit = 0")
        try:
            yield
        finally:
            try:
                if not connection.invalidated:
                    connection.exec_driver_sql("SET autocommit = 1")
            except Exception:
                connection.invalidate()

    @staticmethod
    def _abandon(connection: Connection) -> None:
        """Rolls back. A connection on which that fails is discarded, not returned to the pool."""
        try:
            taken(connection)
            connection.exec_driver_sql("ROLLBACK")
        except Exception:
            connection.invalidate()

    def repeat(self, operation: Callable[[], T]) -> T:
        """Runs an operation that may safely run twice: again after an abort, and once more on a new connection.

        Raises:
            JournalUnreachable: the database did not answer, refused the connection, or aborted every attempt.
            JournalBusy: within `with_short_lock_waits`, a lock was not released in time.
        """
        reconnected, attempt, since = False, 0, time.monotonic()
        while True:
            try:
                return operation()
            except IntegrityError:
                raise
            except (OperationalError, InterfaceError, DBAPIError) as error:
                if aborted(error):
                    attempt += 1
                    if _IN_A_HURRY.get() and waited_in_vain(error):
                        raise JournalBusy(f"another transaction on {self.safe_url} keeps a row: {error.orig}") from error
                    if attempt >= ABORTED_ATTEMPTS or time.monotonic() - since > ABORTED_FOR:
                        raise JournalUnreachable(
                            f"the journal {self.safe_url} aborted the same transaction {attempt} times: {error.orig}"
                        ) from error
                    time.sleep(random.uniform(0.001, 0.02 * attempt))  # noqa: S311 - spreading load
                    continue
                if (missing := self.missing_file) is not None:
                    raise JournalUnmigrated(missing_text(self.safe_url, missing)) from error
                if table_missing(error):
                    raise JournalUnmigrated(
                        f"the journal {self.safe_url} lacks tables or columns that this version of durable-adapter needs. "
                        "Run `durable-adapter migrate`, then check with `durable-adapter doctor`."
                    ) from error
                if not unreachable(error):
                    raise
                if error.connection_invalidated and not reconnected:
                    reconnected = True
                    continue
                raise JournalUnreachable(self._unreachable_text(error)) from error
            except sa.exc.TimeoutError as error:
                raise JournalUnreachable(self._unreachable_text(error)) from error

    def _committed(self) -> None:
        if self.on_commit is not None:
            self.on_commit()

    @property
    def safe_url(self) -> str:
        """The URL without its secrets, for logs and messages."""
        return safe_url(self._whole_url)

    @property
    def _whole_url(self) -> str:
        return self.url.render_as_string(hide_password=False)

    @property
    def missing_file(self) -> Path | None:
        """The path of SQLite's file, if the file does not exist but its directory does."""
        path = _sqlite_path(self.url) if self.is_sqlite else None
        return path if path is not None and not path.exists() and path.parent.is_dir() else None

    def make_file(self) -> None:
        """Creates SQLite's file, if it does not exist. Only a migration does so: otherwise a missing file means a wrong path.

        Only its owner may read it, because it holds arguments and results. SQLite gives its other files the same mode.

        Raises:
            JournalUnreachable: the file cannot be created.
        """
        path = self.missing_file
        if path is None:
            return
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return  # another migration was first
        except OSError as error:
            raise JournalUnreachable(f"the journal {self.safe_url} cannot be made: {error}") from error

    def _reason(self, error: BaseException) -> str:
        """Returns the first line of the database's error, without the URL's secrets."""
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        return scrubbed(lines[0] if lines else type(error).__name__, self._whole_url)

    def _unreachable_text(self, error: BaseException) -> str:
        reason = self._reason(error)
        path = _sqlite_path(self.url) if self.is_sqlite else None
        if path is not None and not path.absolute().parent.is_dir():
            reason = f"there is no directory {path.absolute().parent}"
        what = "written" if unwritable(error) else "reached"
        return (
            f"the journal {self.safe_url} cannot be {what}: {reason}. "
            "Check the URL and the database, then `durable-adapter doctor`."
        )

    def check_size(self, data: bytes | None) -> None:
        """Refuses a value that is too large for this database.

        MySQL and MariaDB close the connection when a statement is larger than a packet, which looks like an outage. The
        driver writes up to two bytes for each byte of a value.

        Raises:
            UnserialisableValue: the value is too large; the message names its size and the limit.
        """
        if data is None or len(data) <= SURELY_TAKEN:
            return
        if self._largest is None:
            self._largest = LARGEST
            if self.dialect_name == "mysql":
                packet = int(self.select(sa.text("SELECT @@max_allowed_packet"))[0][0])  # type: ignore[arg-type]
                self._largest = max(SURELY_TAKEN, min(LARGEST, (packet - _REST) // 2))
        if len(data) > self._largest:
            limit = "half of the server's max_allowed_packet" if self.dialect_name == "mysql" else "the journal's limit"
            raise UnserialisableValue(
                f"it has {len(data)} bytes; this journal's limit for a value is {self._largest} ({limit}). Store it somewhere "
                "else, and record where."
            )

    def time(self) -> int:
        """Returns the database's time in microseconds since 1970 (UTC)."""
        return int(self.select(sa.select(self.now))[0][0])

    def dispose(self) -> None:
        """Closes this process's connections."""
        engine, self._engine = self._engine, None  # connections in use are closed after their statement
        if engine is not None and self._pid == os.getpid():
            self._drop(engine)


def _parsed(url: str | URL) -> URL:
    """Parses a journal's URL. The error shows neither its password nor the parser's own message.

    Raises:
        SettingError: it is not a URL, or a character of its password is not escaped.
    """
    shown = safe_url(url if isinstance(url, str) else url.render_as_string(hide_password=False))
    try:
        found = make_url(url)
        found.get_backend_name()
    except (ArgumentError, ValueError):
        found = None
    if found is None or "@" in (found.host or ""):
        raise SettingError(
            f"the journal's URL {shown!r} is not one: expected e.g. 'postgresql+psycopg://user@host/db', "
            "'mysql+pymysql://user@host/db' or 'sqlite:////path/journal.db'. In a user or a password, write %40 for @, "
            "%3A for :, %2F for /, %3F for ?, %23 for # and %25 for %."
        )
    return found


def _count(cursor: Any) -> int:
    return int(cursor.rowcount)


def _rows(cursor: Any) -> Sequence[tuple[Any, ...]]:
    found: Sequence[tuple[Any, ...]] = cursor.fetchall()
    return found


def _open_existing(_dialect: Any, _record: Any, args: list[Any], given: dict[str, Any]) -> None:
    """Makes SQLite open existing files only. By default it creates an empty file for a mistyped path."""
    name = str(args[0])
    if not given.get("uri"):
        args[0] = f"{Path(name).absolute().as_uri()}?mode=rw"
        given["uri"] = True
    elif _names_a_file(name) and "mode=" not in name:
        args[0] = f"{name}{'&' if '?' in name else '?'}mode=rw"


def _names_a_file(uri: str) -> bool:
    """Returns whether an SQLite URI names a file, not a database in memory."""
    return not any(word in uri for word in (":memory:", "mode=memory", "vfs="))


def _sqlite_path(url: URL) -> Path | None:
    """Returns the file that an SQLite URL names, None for a database in memory."""
    name = url.database or ""
    if not name.startswith("file:"):
        return Path(name)
    if not _names_a_file(f"{name}?{urlencode(dict(url.query))}"):
        return None
    return Path(unquote(urlsplit(name).path))


def missing_text(journal: str, path: Path) -> str:
    """Returns the message for a journal whose file does not exist."""
    return (
        f"the journal {journal} is not there: the file {path.absolute()} does not exist, and nothing was made. Correct the "
        "path, or make a new journal of it with `durable-adapter migrate`."
    )


def quoted_name(name: str) -> str:
    """Returns a schema's name quoted for PostgreSQL's search_path."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _keep_alive(connection: Any) -> None:
    """Turns TCP keepalive on for a PyMySQL connection."""
    its = getattr(connection, "_sock", None)
    if its is None or its.family not in (socket.AF_INET, socket.AF_INET6):
        return
    its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE, strict=True):
        if hasattr(socket, name):  # not on every system
            its.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
