"""Makes races happen: an operation is stopped at a statement of its own, another runs into it, then the first goes on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import psycopg
import pymysql
import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.database import _BEGIN
from tests.servers import eventually

T = TypeVar("T")

WAIT = 30.0
#: Seconds between two looks.
POLL = 0.01


class Run(Generic[T]):
    """An operation in a thread of its own, on connections of its own.

    Args:
        journal: used by this operation alone.
        operation: called with that journal.
        stop: part of the statement at which it stops; None if it does not.
        before: stop before the statement is sent, rather than after it was answered.
        skip: how many such statements it lets pass first.
    """

    def __init__(self, journal: Journal, operation: Callable[[Journal], T], stop: str | None, *, before: bool, skip: int) -> None:
        self.journal = journal
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.sent = threading.Event()
        self._go = threading.Event()
        self._stop = stop
        self._before = before
        self._skip = skip
        self._operation = operation
        self._result: T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> Self:
        engine = self.journal.db.engine
        sa.event.listen(engine, "before_cursor_execute", self._statement if self._before else self._note)
        if not self._before:
            sa.event.listen(engine, "after_cursor_execute", self._statement)
        self._thread.start()
        return self

    def go(self) -> Self:
        """Let it go on from where it stopped."""
        self._stop = None
        self._go.set()
        return self

    def result(self) -> T:
        """Wait for its end and return what it returned; raises what it raised."""
        self.go()
        self._thread.join(WAIT)
        assert self.ended.is_set(), "the operation did not end"
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._operation(self.journal)
        except BaseException as error:
            self._error = error
        finally:
            self.ended.set()

    def _note(self, *_: Any) -> None:
        self.sent.set()

    def _statement(self, _conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.sent.set()
        if self._stop is None or self._stop not in statement or threading.current_thread() is not self._thread:
            return
        if self._skip:
            self._skip -= 1
            return
        self.stopped.set()
        assert self._go.wait(WAIT), "the stopped operation was never let go"


class Interleaving:
    """Operations on one journal that run into each other in a chosen order.

    Example:
        first = meanwhile.stopped_after("UPDATE durable_step", lambda journal: journal.claims.begin(...))
        second = meanwhile.run(lambda journal: journal.verdicts.happened(...))      # waits for the first, or is done
        assert [first.result(), second.result()] == [True, False]
    """

    def __init__(self, journal: Journal, elsewhere: Callable[[], Journal]) -> None:
        self._journal = journal
        self._elsewhere = elsewhere
        self._sent = 0

    def stopped_after(self, statement: str, operation: Callable[[Journal], T], *, skip: int = 0) -> Run[T]:
        """Run an operation up to the answer to a statement that contains this text."""
        return self._stopped(operation, statement, before=False, skip=skip)

    def stopped_before(self, statement: str, operation: Callable[[Journal], T], *, skip: int = 0) -> Run[T]:
        """Run an operation up to a statement that contains this text."""
        return self._stopped(operation, statement, before=True, skip=skip)

    def run(self, operation: Callable[[Journal], T]) -> Run[T]:
        """Run an operation until it is done, or waits for a lock that another one has."""
        waiting = self._waiting()
        started = Run(self._elsewhere(), operation, None, before=False, skip=0).start()
        eventually(
            lambda: started.ended.is_set() or (started.sent.is_set() and self._waiting() > waiting),
            timeout=WAIT,
            message="the second operation neither ended nor waits for a lock",
            interval=POLL,
        )
        return started

    def _stopped(self, operation: Callable[[Journal], T], statement: str, *, before: bool, skip: int) -> Run[T]:
        started = Run(self._elsewhere(), operation, statement, before=before, skip=skip).start()
        eventually(
            lambda: started.stopped.is_set() or started.ended.is_set(),
            timeout=WAIT,
            message=f"the first operation never came to {statement!r}",
            interval=0.002,
        )
        if started.ended.is_set():
            started.result()
            raise AssertionError(f"the first operation ended without {statement!r}")
        return started

    def _waiting(self) -> int:
        """How many sessions of this database wait for a lock. On SQLite a writer that was sent waits: one lock is all."""
        match self._journal.db.dialect_name:
            case "postgresql":
                query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            case "mysql":
                # Not from information_schema.innodb_trx: that is a copy, and whoever polls it keeps it from being renewed.
                with self._journal.db.engine.connect() as connection:
                    status = connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()[2]
                    ours = "SELECT id FROM information_schema.processlist WHERE db = database()"
                    threads = set(connection.exec_driver_sql(ours).scalars())
                parts = [part for part in status.split("---TRANSACTION ") if "LOCK WAIT" in part]
                waiting = {int(found) for part in parts for found in re.findall(r"thread id (\d+)", part)[:1]}
                return len(waiting & threads)
            case _:
                self._sent += 1
                return self._sent
        with self._journal.db.engine.connect() as connection:
            return int(connection.exec_driver_sql(query).scalar_one())


def together(*operations: Callable[[], T]) -> list[T]:
    """Run operations in threads that start at the same moment, and return what they returned, in order."""
    start = threading.Barrier(len(operations))
    results: list[Any] = [None] * len(operations)
    errors: list[BaseException] = []

    def run(place: int, operation: Callable[[], T]) -> None:
        try:
            start.wait(WAIT)
            results[place] = operation()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=given, daemon=True) for given in enumerate(operations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive(), "an operation did not end"
    if errors:
        raise errors[0]
    return results


@contextlib.contextmanager
def statements(journal: Journal) -> Iterator[list[str]]:
    """The statements that a journal sends within the block."""
    sent: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(" ".join(statement.split()))

    engine = journal.db.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


@contextlib.contextmanager
def aborted_once(journal: Journal, meanwhile: Callable[[], object]) -> Iterator[None]:
    """The database aborts the next transaction at its commit; before the second try of it, *meanwhile* happens elsewhere."""
    deadlock: Exception = pymysql.err.OperationalError(1213, "deadlock found")
    if journal.db.is_postgresql:
        deadlock = psycopg.errors.DeadlockDetected("deadlock detected")
    seen: list[str] = []

    def statement(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement == "COMMIT" and not seen:
            seen.append("aborted")
            raise sa.exc.OperationalError(statement, None, deadlock)
        if statement in _BEGIN.values() and seen == ["aborted"]:
            seen.append("meanwhile")
            meanwhile()

    sa.event.listen(journal.db.engine, "before_cursor_execute", statement)
    try:
        yield
    finally:
        sa.event.remove(journal.db.engine, "before_cursor_execute", statement)
    assert seen == ["aborted", "meanwhile"]
