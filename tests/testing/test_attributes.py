"""`durable.attributes`: what is started in the block carries them, whatever it is and however it is started."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from celery import chain

import durable_adapter as durable
from durable_adapter.errors import DeclarationError
from durable_adapter.reconcile.finding import at_stake
from durable_adapter.reconcile.survey import look_for_trouble
from durable_adapter.testing import TestJournal
from tests.testing.shop import Shop

TOTAL = {"order": "42", "total": "74.00"}


@pytest.mark.parametrize("how", ["delay", "chain", "start", "apply", "direct"])
def test_whatever_starts_in_the_block_carries_them(durable_journal: TestJournal, shop: Shop, how: str) -> None:
    start: dict[str, Any] = {
        "delay": lambda: shop.charge.delay("42"),
        "chain": lambda: chain(shop.charge.s("42"), shop.mail.s()).apply_async(),
        "start": lambda: durable.start("order-42", chain(shop.charge.s("42"), shop.mail.s()), app=shop.app),
        "apply": lambda: shop.charge.apply(("42",)),
        "direct": lambda: shop.charge("42"),
    }
    with durable.attributes(order="42", total=Decimal("74.00"), amount="total"):
        start[how]()
    shop.ship.delay("ch-43")
    first, second = durable_journal.workflows()
    assert (first.attributes, second.attributes) == (TOTAL, {})
    assert durable_journal._run(first.id).amount == "total"


def test_reconcile_says_what_is_at_stake_in_a_chain(durable_journal: TestJournal, shop: Shop) -> None:
    shop.trouble = [TimeoutError("no answer")]
    for order, total in (("42", Decimal("74.00")), ("43", 10)):
        shop.trouble = [None, ValueError("no paper")]
        with durable.attributes(order=order, total=total, amount="total"):
            chain(shop.charge.s(order), shop.ship.s()).apply_async()
    here = durable_journal._here
    found = look_for_trouble(here.journal, namespace=here.journal.namespace).findings
    assert sorted(f.amount or "" for f in found) == ["10", "74.00"]
    assert at_stake(found) == Decimal("84.00")


def test_a_function_keeps_its_own_beside_them(durable_journal: TestJournal, shop: Shop) -> None:
    with durable.attributes(customer="c-7", order="not this"):
        shop.fulfil.delay("42")
    assert durable_journal.workflow("order-42").attributes == {"customer": "c-7", "order": "42"}


def test_blocks_add_up_and_end(durable_journal: TestJournal, shop: Shop) -> None:
    with durable.attributes(shop="north", total=1, amount="total"):
        with durable.attributes(order="42", fee=2, amount="fee"):
            shop.charge.delay("42")
        shop.charge.delay("43")
    inner, outer = durable_journal.workflows()
    assert (inner.attributes, outer.attributes) == (
        {"shop": "north", "total": 1, "order": "42", "fee": 2},
        {"shop": "north", "total": 1},
    )
    assert [durable_journal._run(w.id).amount for w in (inner, outer)] == ["fee", "total"]


def test_a_second_start_with_others_is_the_first_one(durable_journal: TestJournal, shop: Shop) -> None:
    for total in (1, 2):
        with durable.attributes(total=total, amount="total"):
            durable.start("order-42", shop.charge.s("42"), app=shop.app)
    (workflow,) = durable_journal.workflows()
    assert workflow.attributes == {"total": 1}


def test_they_are_kept_as_plain_values(durable_journal: TestJournal, shop: Shop) -> None:
    with durable.attributes(day=dt.date(2025, 11, 23), paid=True, nothing=None, rate=0.5, count=3):
        shop.charge.delay("42")
    (workflow,) = durable_journal.workflows()
    assert workflow.attributes == {"day": "2025-11-23", "paid": True, "nothing": None, "rate": 0.5, "count": 3}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"order": object()}, r"durable\.attributes\(order=.*an attribute is a text .* this is a object"),
        ({"order": ["42"]}, "this is a list"),
        ({"total": float("nan")}, "finite number"),
        ({"total": Decimal("Infinity")}, "finite number"),
        ({"order": "x" * 1001}, "1000 characters at the most"),
        ({"x" * 65: 1}, "64 characters at the most"),
        ({"order": "42", "amount": "total"}, r"amount='total'\): amount names one of the attributes.*here they are order"),
        ({"amount": Decimal("74")}, r"durable\.attributes\(total=Decimal\('74'\), amount='total'\); here they are none"),
        ({"amount": True}, "amount names one of the attributes"),
    ],
)
def test_what_is_none_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says), durable.attributes(**given):
        pass


def test_what_a_body_starts_does_not_carry_what_was_said_around_its_own_start(durable_journal: TestJournal, shop: Shop) -> None:
    """A worker runs it, which knows nothing of the block."""
    with durable.attributes(customer="c-7"):
        durable_journal.call(lambda: shop.fulfil.delay("42").id)
    assert durable_journal.workflow("order-42").attributes == {"order": "42"}
