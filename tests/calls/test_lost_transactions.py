"""A transactional step whose transaction ends without the step: never a success, never tried without end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred, TransactionMisuse
from durable_adapter.journal import Journal
from durable_adapter.model import Effect, Safety, StepStatus
from durable_adapter.runtime import host as hosts
from durable_adapter.runtime.alerts import Held
from durable_adapter.runtime.transactions import MAX_LOSSES
from tests.calls.conftest import Workplace
from tests.journal.making import a_function, a_run, a_step, statuses, the, the_run

TRANSACTIONAL = StepPolicy(transactional=True)
NO_RETRY = StepPolicy(transactional=True, retry=durable.RetryPolicy(maximum_attempts=1))


@pytest.fixture(autouse=True)
def ledger(journal: Journal, at_work: Workplace) -> Iterator[None]:
    """A table of the user's, and a host that does not pause."""
    at_work.host.pause = lambda _seconds: None
    on_mysql = " ENGINE=InnoDB" if journal.db.dialect_name == "mysql" else ""
    journal.db.transaction(
        lambda conn: conn.exec_driver_sql(f"CREATE TABLE test_ledger (id INTEGER PRIMARY KEY, n INTEGER){on_mysql}")
    )
    yield
    journal.db.transaction(lambda conn: conn.exec_driver_sql("DROP TABLE test_ledger"))


def booked(journal: Journal) -> list[int]:
    return [row[0] for row in journal.db.select(sa.text("SELECT id FROM test_ledger ORDER BY id"))]  # type: ignore[arg-type]


def book(number: int) -> None:
    durable.session().execute(sa.text(f"INSERT INTO test_ledger VALUES ({number}, 0)"))


def a_canvas(journal: Journal) -> str:
    return a_run(journal, a_step("book", safety=Safety.TRANSACTIONAL), "ship")


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_a_body_that_rolls_back_by_itself_and_goes_on_is_held_and_never_a_success(
    journal: Journal, at_work: Workplace, told: list[Held]
) -> None:
    ref = a_canvas(journal)

    def body() -> str:
        book(1)
        durable.session().connection().exec_driver_sql("ROLLBACK")
        book(2)
        return "booked"

    with pytest.raises(Deferred, match="ended its transaction itself"):
        at_work.step(ref, "book", body, TRANSACTIONAL)
    row = the(journal, ref, "book")
    assert (row.status, row.outcome, at_work.ran) == (StepStatus.HELD, None, {"book": 1})
    assert booked(journal) == [2], "what it wrote after its own rollback is committed, and a person has to know"
    assert [held.step for held in told] == ["book"]
    assert the_run(journal, ref).status == "running"


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_so_it_is_for_a_step_of_a_function_which_has_no_row_before(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    @durable.step(transactional=True)
    def books() -> None:
        book(1)
        durable.session().connection().exec_driver_sql("ROLLBACK")
        book(2)

    assert "ended its transaction itself" in str(at_work.leaves(ref, books))
    assert [s.status for s in journal.reads.steps(ref) if s.key != "function"] == [StepStatus.HELD]


@pytest.mark.parametrize("dialect", ["mariadb"])
def test_on_mysql_nothing_is_left_of_a_body_that_swallows_a_deadlock(journal: Journal, at_work: Workplace) -> None:
    journal.db.transaction(lambda conn: conn.exec_driver_sql("INSERT INTO test_ledger VALUES (101, 0), (102, 0)"))
    ref = a_canvas(journal)
    other = Journal(journal.db.url)
    has_first, wants_second = threading.Event(), threading.Event()

    def rival() -> None:
        with other.db.open_transaction() as conn:
            for number in range(200, 260):  # more to undo than the body has, so that the body is the victim
                conn.exec_driver_sql(f"INSERT INTO test_ledger VALUES ({number}, 0)")
            conn.exec_driver_sql("UPDATE test_ledger SET n = 1 WHERE id = 102")
            has_first.set()
            wants_second.wait(30)
            conn.exec_driver_sql("UPDATE test_ledger SET n = 1 WHERE id = 101")

    thread = threading.Thread(target=rival)

    def body() -> str:
        book(1)
        session = durable.session()
        session.execute(sa.text("UPDATE test_ledger SET n = 2 WHERE id = 101"))
        thread.start()
        has_first.wait(30)
        wants_second.set()
        with contextlib.suppress(SQLAlchemyError):  # whoever asks second waits, and the server picks the body
            session.execute(sa.text("UPDATE test_ledger SET n = 2 WHERE id = 102"))
        session.connection().exec_driver_sql("INSERT INTO test_ledger VALUES (2, 0)")
        return "booked"

    with pytest.raises(TransactionMisuse, match="ended the transaction"):
        at_work.step(ref, "book", body, NO_RETRY)
    thread.join(30)
    row = the(journal, ref, "book")
    assert (row.status, row.effect) == (StepStatus.FAILED, Effect.DID_NOT_HAPPEN)
    assert [number for number in booked(journal) if number < 100] == [], "neither what came before the deadlock nor after"
    assert the_run(journal, ref).status == "failed"
    other.close()


def killer(journal: Journal) -> Callable[[], None]:
    """Ends the server's side of the step's connection, as `idle_in_transaction_session_timeout` or a pooler does."""
    if journal.db.is_postgresql:
        ask, end = "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"
    else:
        ask, end = "SELECT CONNECTION_ID()", "KILL {}"

    def kill() -> None:
        number = durable.session().execute(sa.text(ask)).scalar_one()
        journal.db.transaction(lambda conn: conn.exec_driver_sql(end.format(number)))

    return kill


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
@pytest.mark.parametrize("where", ["inside the body", "at the commit"])
def test_a_transaction_that_is_lost_each_time_is_held_after_a_few_tries(
    journal: Journal, at_work: Workplace, told: list[Held], where: str
) -> None:
    ref, kill = a_canvas(journal), killer(journal)

    def body() -> str:
        book(1)
        kill()
        if where == "inside the body":
            book(2)
        return "booked"

    with pytest.raises(Deferred, match="lost"):
        at_work.step(ref, "book", body, TRANSACTIONAL)
    row = the(journal, ref, "book")
    assert (row.status, row.losses, row.attempt, at_work.ran) == (StepStatus.HELD, MAX_LOSSES, MAX_LOSSES, {"book": MAX_LOSSES})
    assert booked(journal) == []
    assert len(told) == 1


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_connection_that_is_lost_inside_the_body_is_no_failure_of_the_bodys(journal: Journal, at_work: Workplace) -> None:
    ref, kill = a_canvas(journal), killer(journal)

    def body() -> str:
        book(1)
        if at_work.ran["book"] == 1:
            kill()
            book(2)
        return "booked"

    assert at_work.step(ref, "book", body, NO_RETRY) == "booked"
    assert (at_work.ran, booked(journal)) == ({"book": 2}, [1])
    assert statuses(journal, ref)["book"] == "succeeded"


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_so_it_is_for_a_step_of_a_function(journal: Journal, at_work: Workplace) -> None:
    ref, kill = a_function(journal), killer(journal)
    times: list[int] = []

    @durable.step(transactional=True)
    def books() -> str:
        times.append(1)
        book(len(times))
        if len(times) < 3:
            kill()
            book(10)
        return "booked"

    assert at_work.function(ref, books) == "booked"
    assert (len(times), booked(journal)) == (3, [3])


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_worker_that_is_told_to_stop_leaves_a_transaction_that_is_lost(journal: Journal, at_work: Workplace) -> None:
    ref, kill = a_canvas(journal), killer(journal)

    def body() -> None:
        at_work.host.is_stopping = lambda: True
        kill()

    with pytest.raises(Deferred, match="shutting down"):
        at_work.step(ref, "book", body, TRANSACTIONAL)
    assert (the(journal, ref, "book").status, at_work.ran) == (StepStatus.PLANNED, {"book": 1})


@pytest.mark.parametrize("dialect", ["postgresql"])  # elsewhere the new row itself is what a cancellation waits for
def test_a_run_can_be_cancelled_while_a_transactional_step_of_its_function_runs(
    journal: Journal, at_work: Workplace, elsewhere: Callable[[], Journal]
) -> None:
    """The run's row is locked only at the end of the step, which then finds that it no longer goes forward."""
    ref, other = a_function(journal), elsewhere()
    seen: list[Any] = []

    @durable.step(transactional=True)
    def books() -> str:
        book(1)
        with other.db.with_short_lock_waits():
            seen.append(other.runs.cancel(ref, who="me", why="the customer left"))
        return "booked"

    with pytest.raises(Deferred):
        at_work.function(ref, books)
    assert (len(seen), booked(journal), the_run(journal, ref).status) == (1, [], "cancelled")


@pytest.fixture
def reads_only(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A database that reads and does not write until the test says otherwise, and the pauses that were made meanwhile."""
    pauses: list[float] = []

    def read_only() -> None:
        journal.db.dispose()
        journal.db.on_connect = lambda connection: connection.execute("PRAGMA query_only=ON")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            journal.db.on_connect = None
            journal.db.dispose()

    read_only()
    monkeypatch.setattr(hosts.time, "sleep", pause)
    return pauses


def away(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage().split()[0] for r in caplog.records if r.getMessage().startswith("journal_")]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_where_nothing_can_be_written_it_waits_for_the_journal_with_growing_pauses_and_tells_once(
    journal: Journal, at_work: Workplace, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    ref = a_canvas(journal)
    pauses = request.getfixturevalue("reads_only")
    assert at_work.step(ref, "book", lambda: book(1), TRANSACTIONAL) is None
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert away(caplog) == ["journal_away", "journal_back"]
    row = the(journal, ref, "book")
    assert (row.status, row.losses, row.attempt, at_work.ran) == (StepStatus.SUCCEEDED, 0, 1, {"book": 1})


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("why", ["is_off", "is_stopping"])
def test_a_worker_that_is_switched_off_or_stopped_does_not_wait_for_that(
    journal: Journal, at_work: Workplace, request: pytest.FixtureRequest, why: str
) -> None:
    ref = a_canvas(journal)
    request.getfixturevalue("reads_only")
    setattr(at_work.host, why, lambda: True)
    with pytest.raises(Deferred, match="switched off" if why == "is_off" else "shutting down"):
        at_work.step(ref, "book", lambda: book(1), TRANSACTIONAL)
    assert at_work.ran == {}
    journal.db.on_connect = None
    journal.db.dispose()
