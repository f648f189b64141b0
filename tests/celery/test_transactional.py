"""Transactional steps: effect and record are one commit in the journal's own database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from durable_adapter.errors import TransactionMisuse
from tests.celery.ledger import Ledger
from tests.celery.shop import sql, steps
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually


def bookings(shop: Runs, order: str) -> int:
    """How many rows the shop's own table has for an order."""
    count = sa.select(sa.func.count()).select_from(sql.bookings).where(sql.bookings.c.order == order)
    return int(shop.journal.db.select(count)[0][0])


def test_a_message_that_comes_again_writes_no_second_row(shop: Runs, ledger: Ledger, order: str) -> None:
    result = sql.book.delay(order)
    result.get(timeout=SOON)
    run = shop.settled(shop.of(result))
    result.backend.delete(result.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    assert type(result)(result.id).get(timeout=SOON) == "booked"
    assert (bookings(shop, order), ledger.count(order, "book")) == (1, 1)


def test_the_body_cannot_commit_and_the_error_says_what_to_do(shop: Runs, order: str) -> None:
    result = sql.commits_itself.delay(order)
    with pytest.raises(TransactionMisuse, match=r"cannot be committed.*session\.begin_nested\(\)"):
        result.get(timeout=SOON)
    assert bookings(shop, order) == 0


def test_a_savepoint_is_the_bodys_own(shop: Runs, order: str) -> None:
    assert sql.uses_a_savepoint.delay(order).get(timeout=SOON) == "booked"
    assert bookings(shop, order) == 1


def test_what_the_body_publishes_goes_out_after_the_commit(shop: Runs, ledger: Ledger, order: str) -> None:
    result = sql.publishes.delay(order)
    eventually(lambda: ledger.count(order, "at before commit"), SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["attempt", "at before commit"]
    ledger.open("before commit", order)
    assert result.get(timeout=SOON) == "published"
    eventually(lambda: ledger.count(order, "charge") and ledger.count(order, "mail"), SOON)
