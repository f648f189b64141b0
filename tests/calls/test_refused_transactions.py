"""What a database refuses of a transactional step's body is the body's failure, whenever it says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import TransactionMisuse
from durable_adapter.journal import Journal
from durable_adapter.model import Effect, Safety, StepStatus
from tests.calls.conftest import Workplace
from tests.journal.making import a_function, a_run, a_step, statuses, the, the_run

TWICE = StepPolicy(transactional=True, retry=durable.RetryPolicy(initial_interval=0, maximum_attempts=2))
REFUSED = r"test_booking|FOREIGN KEY"
TABLES = (
    "CREATE TABLE test_account (id INTEGER PRIMARY KEY)",
    "CREATE TABLE test_booking (id INTEGER, account INTEGER REFERENCES test_account (id) DEFERRABLE INITIALLY DEFERRED)",
)


@pytest.fixture(autouse=True)
def tables(journal: Journal, at_work: Workplace) -> Iterator[None]:
    """Accounts, and bookings whose account is looked for at the commit."""
    db = journal.db

    def drop(conn: sa.Connection) -> None:
        for name in ("test_booking", "test_account"):
            conn.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")

    db.transaction(drop)
    for statement in TABLES:
        db.transaction(lambda conn, statement=statement: conn.exec_driver_sql(statement))  # type: ignore[misc]
    if db.is_sqlite:
        db.dispose()
        db.on_connect = lambda connection: connection.execute("PRAGMA foreign_keys=ON")
    yield
    db.on_connect = None
    db.transaction(drop)


def books_nowhere() -> None:
    durable.session().execute(sa.text("INSERT INTO test_booking VALUES (1, 99)"))


def opens_twice() -> str:
    session = durable.session()
    session.execute(sa.text("INSERT INTO test_account VALUES (1)"))
    with contextlib.suppress(IntegrityError):  # "it is there already"
        session.execute(sa.text("INSERT INTO test_account VALUES (1)"))
    return "opened"


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_what_is_refused_at_the_commit_is_the_bodys_failure(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, a_step("book", safety=Safety.TRANSACTIONAL), "ship")
    for _ in range(3):
        with pytest.raises(Exception, match=REFUSED):
            at_work.step(ref, "book", books_nowhere, TWICE)
    row = the(journal, ref, "book")
    assert (row.status, row.effect, at_work.ran) == (StepStatus.FAILED, Effect.DID_NOT_HAPPEN, {"book": 2})
    assert statuses(journal, ref) == {"run": "failed", "book": "failed", "ship": "cancelled"}


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_body_that_goes_on_behind_an_error_is_told_how_not_to(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, a_step("book", safety=Safety.TRANSACTIONAL), "ship")
    with pytest.raises(TransactionMisuse, match="begin_nested"):
        at_work.step(ref, "book", opens_twice, TWICE)
    assert (the(journal, ref, "book").status, at_work.ran) == (StepStatus.FAILED, {"book": 2})


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_where_a_database_goes_on_behind_an_error_so_does_the_body(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, a_step("book", safety=Safety.TRANSACTIONAL), "ship")
    assert at_work.step(ref, "book", opens_twice, TWICE) == "opened"


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
@pytest.mark.parametrize("caught", [True, False])
def test_a_function_may_catch_it(journal: Journal, at_work: Workplace, caught: bool) -> None:
    ref = a_function(journal)
    book: Callable[[], Any] = durable.step(transactional=True, retry=TWICE.retry)(books_nowhere)

    def order() -> str:
        try:
            book()
        except Exception:
            if not caught:
                raise
        return "later"

    if caught:
        assert at_work.function(ref, order) == "later"
    else:
        with pytest.raises(Exception, match=REFUSED):
            at_work.function(ref, order)
    assert the_run(journal, ref).status == ("succeeded" if caught else "failed")
