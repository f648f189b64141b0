"""The connection to the journal: one engine a process, autocommit statements, explicit transactions, dialect differences.

Every statement of the hot path is compiled once and runs in autocommit: one round trip. A transaction is spelled out
(`BEGIN IMMEDIATE` on SQLite). Every operation above is written so that it may be repeated when its answer was lost.
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

#: How often a transaction that the database chose to abort (deadlock, serialisation) is tried again.
ABORTED_ATTEMPTS: Final = 8
#: Bytes that every database takes in one value, so that nobody has to ask it: MySQL's smallest usual packet is 4 MB.
SURELY_TAKEN: Final = 1024 * 1024
#: Bytes that a value may have where the database itself would take more: PostgreSQL and SQLite end at 1 GB, and the same
#: value is in memory several times on its way there. A journal is no file store.
LARGEST: Final = 256 * 1024 * 1024
#: Bytes of a packet that are left for the rest of a statement.
_REST: Final = 64 * 1024
#: Seconds that a statement on SQLite waits for another writer.
SQLITE_BUSY: Final = 30.0

_NOW: Final = {
    "postgresql": "(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
    "sqlite": "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000",
}
_BEGIN: Final = {"postgresql": "BEGIN", "mysql": "START TRANSACTION", "sqlite": "BEGIN IMMEDIATE"}
#: Seconds for which a sweeper waits for a row that somebody else's transaction keeps; whole, because MySQL knows no others.
LOCK_WAIT: Final = 1
#: How a transaction is told to wait for a lock no longer than that, and how its connection forgets it again.
_IMPATIENT: Final = {
    "postgresql": (f"SET LOCAL lock_timeout = '{LOCK_WAIT}s'", None),
    "mysql": (
        f"SET @durable_wait = @@SESSION.innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = {LOCK_WAIT}",
        "SET SESSION innodb_lock_wait_timeout = @durable_wait",
    ),
    # All of SQLite is one lock, and its writers do not queue: who is unlucky among many waits a while.
    "sqlite": (f"PRAGMA busy_timeout = {5 * LOCK_WAIT * 1000}", "PRAGMA busy_timeout = {busy}"),
}
#: Whether the operations of this context wait for locks no longer than `LOCK_WAIT`.
_IN_A_HURRY: ContextVar[bool] = ContextVar("durable_in_a_hurry", default=False)
#: The transaction that the transactions of this context are parts of, with its database.
_JOINED: ContextVar[tuple[Database, Connection] | None] = ContextVar("durable_joined", default=None)
#: Seconds for which an operation is tried again that the database aborts, or that finds SQLite locked, time after time.
ABORTED_FOR: Final = 60.0
#: Seconds of silence after which a connection is asked whether its other end is there, between two such questions, and how
#: many of them go unanswered before it is given up: a host that died keeps its locks no longer than a minute.
KEEPALIVE: Final = (30, 10, 3)


class Hot:
    """A statement compiled once for one dialect and run through the driver, without building it again.

    Where parameters have names, constants are written into the text: only what differs is handed over with each call.
    """

    __slots__ = ("_constants", "_order", "columns", "sql")

    def __init__(self, statement: sa.sql.ClauseElement, dialect: sa.engine.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        constants = {name: bind for name, bind in compiled.binds.items() if not bind.required}
        self.sql = str(compiled)
        #: What a reading statement's columns are called.
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
        """The named *values* as the driver takes them."""
        if self._order is None:
            return values
        merged = {**self._constants, **values}
        return tuple([merged[name] for name in self._order])


class AtHand(NamedTuple):
    """A connection that is borrowed from the pool and ready for the next statement, with the cursor for it."""

    connection: PoolProxiedConnection
    cursor: Any

    def give_back(self) -> None:
        """Lets the pool have it."""
        self.cursor.close()
        self.connection.close()


class Database:
    """One journal's database: makes connections when first used, and makes new ones after a fork.

    Args:
        url: SQLAlchemy URL: `postgresql+psycopg://`, `mysql+pymysql://`, `sqlite:///`.
        schema: the schema that holds the tables, where it is not the connection's default one.
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
        #: SQLAlchemy has asked the server what it is: a forked child need not ask again, which is most of a first connection.
        self._has_met_server = False
        self._lock = threading.Lock()
        self._hot: dict[int, Hot] = {}
        #: One connection is kept in front of the pool: its bookkeeping and a new cursor cost a short statement a quarter more.
        #: Whoever runs a statement takes it away, and puts it back; it is one of the `pool_size` that stay open.
        self._at_hand: list[AtHand] = []
        #: Those of the process that this one was forked from: not to be used here, nor closed.
        self._inherited: list[AtHand] = []
        #: Bytes that a value may have, once somebody had to ask.
        self._largest: int | None = None
        #: Counts commits, when a test asks: called with the number of commits that an operation made.
        self.on_commit: Callable[[], None] | None = None
        #: They are told what needs a person, once it is committed.
        self.observers: list[Observer] = []
        #: Prepares each of the driver's connections further; the test journal moves SQLite's clock this way.
        self.on_connect: Callable[[Any], None] | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, where writers queue for one lock."""
        return self.dialect_name == "sqlite"

    @property
    def is_postgresql(self) -> bool:
        """Whether this is PostgreSQL."""
        return self.dialect_name == "postgresql"

    @property
    def engine(self) -> Engine:
        """This process's engine; a forked child has connections of its own and leaves its parent's sockets alone."""
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
            if self.url.drivername != "postgresql+pg8000":  # libpq's own words
                kept |= {"keepalives": 1, "keepalives_idle": idle, "keepalives_interval": interval, "keepalives_count": count}
            arguments = {**kept, **arguments}
            if self.url.get_driver_name() in ("psycopg", "psycopg2"):
                options["use_native_hstore"] = False  # it would cost each first connection a round trip; no column has one
        else:
            arguments = {"connect_timeout": 10, **arguments}
        pooled = max(1, self._pool_size - 1)  # beside the one at hand; 0 would be no bound at all
        options |= {"pool_size": pooled, "max_overflow": self._pool_size + 20 - pooled, "pool_timeout": 30}
        # The text of an error goes into logs and trackers: never with a user's values in it.
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
        """Gives a new connection the isolation, time zone and waiting that the journal's statements rely on."""
        cursor = connection.cursor()
        if self.is_sqlite:
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
        elif self.is_postgresql:
            given = {"default_transaction_isolation": "read committed"}
            # The server's side: it ends the transaction of a host that is gone, and with it that one's locks.
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
        """The compiled form of *statement*, which must live as long as this object (a module's or an attribute's)."""
        found = self._hot.get(id(statement))
        if found is None:
            found = self._hot[id(statement)] = Hot(statement, self.engine.dialect)
        return found

    def execute(self, statement: Hot, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> int:
        """Runs one writing statement in autocommit, and returns how many rows it matched.

        *values* may be what tells them: it is asked anew where the statement has to be repeated.
        """

        if _IN_A_HURRY.get():  # how long to wait is said to a transaction
            return self.transaction(
                lambda conn: statement.run(conn, values() if callable(values) else values).rowcount,
            )

        def write() -> int:
            count = int(self._driven(statement, values() if callable(values) else values, _count))
            self._committed()
            return count

        return self.repeat(write)

    def execute_counting(self, statement: Hot, values: Mapping[str, Any]) -> int:
        """Runs one writing statement in autocommit, and returns the number that it selects."""
        if _IN_A_HURRY.get():
            return self.transaction(lambda conn: int(statement.run(conn, values).scalar_one()))

        def write() -> int:
            found = int(self._driven(statement, values, _rows)[0][0])
            self._committed()
            return found

        return self.repeat(write)

    def fetch_tuples(self, statement: Hot, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Runs one reading statement and returns its rows as the driver has them."""
        return self.repeat(lambda: self._driven(statement, values, _rows))

    def fetch(self, statement: Hot, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Runs one reading statement and returns its rows by the names of their columns."""
        return [dict(zip(statement.columns, row, strict=True)) for row in self.fetch_tuples(statement, values)]

    def _driven(self, statement: Hot, values: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Runs one statement in autocommit straight through the driver: SQLAlchemy's own execution costs as much again.

        Where somebody listens to the engine (tracing, tests), it takes that way all the same, so that they hear of it.
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
                self._drop(engine)  # its other connections are as old, and as dead
            elif taken is not None:
                taken.connection.close()  # not its cursor: a driver may raise again there, and this error is the one to tell
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
        """The connection at hand, or one from the pool."""
        try:
            return self._at_hand.pop()
        except IndexError:
            connection = engine.raw_connection()
            return AtHand(connection, connection.cursor())

    def _close_idle(self) -> None:
        """Closes the connections that nobody uses. Each thread gets a new one when it needs it."""
        if self._engine is not None and self._pid == os.getpid():
            self._drop(self._engine)

    def _drop(self, engine: Engine) -> None:
        """Has all connections made anew; those that are in use, once they are done."""
        while self._at_hand:
            with contextlib.suppress(IndexError):  # another thread took it
                self._at_hand.pop().connection.invalidate()
        engine.dispose()

    def _connect(self) -> Connection:
        """A connection as SQLAlchemy has it: the one at hand, where there is one, by way of the pool."""
        engine = self.engine
        if self._at_hand:
            self._release()
        return engine.connect()

    def _release(self) -> None:
        """Lets the pool have what is at hand."""
        with contextlib.suppress(IndexError):  # another thread took it
            self._at_hand.pop().give_back()

    def select(
        self, statement: sa.Select[Any] | sa.CompoundSelect[Any], values: Mapping[str, Any] | None = None
    ) -> Sequence[sa.Row[Any]]:
        """Runs a reading statement that is built where it is used: reports and the sweeper, not the hot path."""

        def read() -> Sequence[sa.Row[Any]]:
            with self._connection() as connection:
                return connection.execute(statement, values or {}).all()

        return self.repeat(read)

    def transaction(self, work: Callable[[Connection], T]) -> T:
        """Runs *work* in one transaction; all of it happens or nothing. *work* may run again if it was aborted.

        Within `joined`, it is a part of that transaction.
        """
        joined = _JOINED.get()
        if joined is not None and joined[0] is self:
            return work(joined[1])

        unanswered: list[Trouble] = []

        def run() -> T:
            with self.open_transaction(unanswered) as connection:
                return work(connection)

        return self._told(self.repeat(run), unanswered)

    def _told(self, result: T, unanswered: list[Trouble]) -> T:
        """Tells of a commit whose answer was lost, and which the next try found done."""
        tell(self.observers, unanswered)
        return result

    def joined(self, work: Callable[[Connection], T]) -> T:
        """Runs *work* in one transaction that every `transaction` which it calls joins."""

        unanswered: list[Trouble] = []

        def run() -> T:
            with self.open_transaction(unanswered) as connection:
                before = _JOINED.set((self, connection))
                try:
                    return work(connection)
                finally:
                    _JOINED.reset(before)

        return self._told(self.repeat(run), unanswered)

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """Within the block, no operation waits for somebody else's lock for longer than `LOCK_WAIT`.

        For whoever looks after many runs: a transactional step holds the lock on its row for as long as its body takes,
        and a process that is frozen in one for ever.

        Raises:
            JournalBusy: a lock was not to be had in that time.
        """
        before = _IN_A_HURRY.set(True)
        try:
            yield
        finally:
            _IN_A_HURRY.reset(before)

    def _apart_from_forks(self) -> contextlib.AbstractContextManager[None]:
        """SQLite's locks do not survive a fork that happens while they are held."""
        return GATE.passed() if self.is_sqlite else contextlib.nullcontext()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection for one statement. One that was interrupted inside the driver is thrown away.

        A soft time limit is an exception out of a signal handler: it can leave a statement half answered, and whoever
        got that connection next would fail, or read what was meant for somebody else.
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
        """Whether what is written after the server aborted a transaction of `open_transaction(users=True)` is rolled back.

        MySQL begins a new transaction by itself there. Elsewhere the body ended the transaction, and what followed was
        committed statement by statement.
        """
        return self.dialect_name == "mysql"

    @contextlib.contextmanager
    def open_transaction(self, unanswered: list[Trouble] | None = None, *, users: bool = False) -> Iterator[Connection]:
        """One transaction as a block: commits at its end, rolls back when the block raises.

        Args:
            unanswered: gets the troubles of a commit to which no answer came, for whoever tries again.
            users: the block runs a user's statements. On MySQL autocommit is off inside it: the server ends a transaction by
                itself (a deadlock), and the statements of a body that goes on behind that would be committed one by one.
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
        """Bounds a connection's waiting for locks where that is wanted; yields what only its transaction can be told."""
        hurry, calm = _IMPATIENT[self.dialect_name]
        if not _IN_A_HURRY.get() or calm is None:
            yield hurry if _IN_A_HURRY.get() else None
            return
        busy = int(float(self._connect_args.get("timeout", SQLITE_BUSY)) * 1000)
        connection.exec_driver_sql(hurry)
        try:
            yield None
        finally:
            try:
                connection.exec_driver_sql(calm.format(busy=busy))
            except Exception:
                connection.invalidate()

    @staticmethod
    @contextlib.contextmanager
    def _without_autocommit(connection: Connection, *, off: bool) -> Iterator[None]:
        """A block on MySQL in which autocommit is off; a connection on which it cannot be put back is thrown away."""
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
        """Rolls back; a connection on which even that fails is thrown away, never put back into the pool."""
        try:
            taken(connection)
            connection.exec_driver_sql("ROLLBACK")
        except Exception:
            connection.invalidate()

    def repeat(self, operation: Callable[[], T]) -> T:
        """Runs an operation that may safely run twice: again after an abort, and once more on a fresh connection.

        Raises:
            JournalUnreachable: the database did not answer, refused the connection, or aborted the operation every time.
            JournalBusy: within `in_a_hurry`, a lock was not to be had.
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
                        raise JournalBusy(f"somebody else's transaction on {self.safe_url} keeps a row: {error.orig}") from error
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
                        "Run `durable-adapter migrate`, and look with `durable-adapter doctor`."
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
        """The URL without its secrets, fit for logs and messages."""
        return safe_url(self._whole_url)

    @property
    def _whole_url(self) -> str:
        return self.url.render_as_string(hide_password=False)

    @property
    def missing_file(self) -> Path | None:
        """SQLite's file, where there is none, although there is the directory that it would be in."""
        path = _sqlite_path(self.url) if self.is_sqlite else None
        return path if path is not None and not path.exists() and path.parent.is_dir() else None

    def make_file(self) -> None:
        """Makes SQLite's file, where there is none. Only a migration does: elsewhere a file that is missing is a wrong path.

        Its owner alone may read it, and the files that SQLite puts beside it take its mode: it holds arguments and results.

        Raises:
            JournalUnreachable: it cannot be made.
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
        """The first line of what the database says, without the URL's secrets."""
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

        MySQL and MariaDB end the connection where a statement is larger than a packet, so that nobody could tell such a
        value from a database that went away; and the driver writes up to two bytes for each of a value.

        Raises:
            UnserialisableValue: says how large it is, and how large it may be.
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
                f"it has {len(data)} bytes, and {self._largest} ({limit}) is what a value may have in this journal. Keep it "
                "somewhere else, and record where."
            )

    def time(self) -> int:
        """The database's clock: microseconds since 1970 in UTC."""
        return int(self.select(sa.select(self.now))[0][0])

    def dispose(self) -> None:
        """Closes this process's connections."""
        engine, self._engine = self._engine, None  # what is in the middle of a statement is not kept after it
        if engine is not None and self._pid == os.getpid():
            self._drop(engine)


def _parsed(url: str | URL) -> URL:
    """A journal's URL. One that cannot be parsed is told without its password, and without the parser's own error.

    Raises:
        SettingError: it is no URL, or a character of its password is not escaped.
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
    """Has SQLite open a file that is there: by itself it makes an empty one of every path that is mistyped."""
    name = str(args[0])
    if not given.get("uri"):
        args[0] = f"{Path(name).absolute().as_uri()}?mode=rw"
        given["uri"] = True
    elif _names_a_file(name) and "mode=" not in name:
        args[0] = f"{name}{'&' if '?' in name else '?'}mode=rw"


def _names_a_file(uri: str) -> bool:
    """Whether a URI of SQLite's names a file, and not a database in memory."""
    return not any(word in uri for word in (":memory:", "mode=memory", "vfs="))


def _sqlite_path(url: URL) -> Path | None:
    """The file that a URL of SQLite's names."""
    name = url.database or ""
    if not name.startswith("file:"):
        return Path(name)
    if not _names_a_file(f"{name}?{urlencode(dict(url.query))}"):
        return None
    return Path(unquote(urlsplit(name).path))


def missing_text(journal: str, path: Path) -> str:
    """How it is told that a journal's file is not there."""
    return (
        f"the journal {journal} is not there: the file {path.absolute()} does not exist, and nothing was made. Correct the "
        "path, or make a new journal of it with `durable-adapter migrate`."
    )


def quoted_name(name: str) -> str:
    """A schema's name as PostgreSQL's search_path wants it."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _keep_alive(connection: Any) -> None:
    """Has the system ask a connection of PyMySQL's now and then whether its other end is there."""
    its = getattr(connection, "_sock", None)
    if its is None or its.family not in (socket.AF_INET, socket.AF_INET6):
        return
    its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE, strict=True):
        if hasattr(socket, name):  # not on every system
            its.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
