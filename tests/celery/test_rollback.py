"""Failing for good, and undoing in reverse (P8)."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain

from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, saga
from tests.celery.world import SOON, Runs


def failed(result: Any) -> None:
    """Waits for the failure that the caller sees."""
    with pytest.raises((saga.Declined, TimeoutError)):
        result.get(timeout=SOON)


def test_what_was_done_is_undone_in_reverse_and_what_was_planned_is_cancelled(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(saga.charge.s(order), saga.reserve.s(), saga.decline.s(), chains.ship.s()).apply_async()
    failed(result)
    run = shop.settled(shop.of(result), WorkflowStatus.COMPENSATED)
    assert ledger.names(order) == ["charge", "reserve", "decline", "release", "refund"]
    assert {(name, kind): status for name, kind, status in shop.story(run)} == {
        ("charge", "step"): "undone",
        ("reserve", "step"): "undone",
        ("decline", "step"): "failed",
        ("ship", "step"): "cancelled",
        ("refund", "compensation"): "succeeded",
        ("release", "compensation"): "succeeded",
    }
    assert "rollback" in shop.events(run)


def test_a_compensation_gets_the_result_first_and_then_the_arguments(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(saga.charge.s(order, amount=3), saga.decline.s()).apply_async()
    failed(result)
    shop.settled(shop.of(result), WorkflowStatus.COMPENSATED)
    (refund,) = ledger.entries(order, "refund")
    assert (refund["charged"], refund["args"], refund["kwargs"]) == (order, [order], {"amount": 3})


def test_a_compensation_given_as_a_signature_gets_the_result_before_its_own_arguments(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    result = chain(saga.by_signature.s(order), saga.decline.s()).apply_async()
    failed(result)
    shop.settled(shop.of(result), WorkflowStatus.COMPENSATED)
    (refund,) = ledger.entries("fixed", "refund")[-1:]
    assert (refund["charged"], refund["args"], refund["kwargs"]) == (order, ["fixed"], {"reason": "out of stock"})


def test_an_immutable_compensation_gets_its_own_arguments_only(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(saga.by_immutable.s(order), saga.decline.s()).apply_async()
    failed(result)
    shop.settled(shop.of(result), WorkflowStatus.COMPENSATED)
    assert ledger.entries("cancelled", "call")


def test_a_compensation_given_by_name_is_found(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(saga.by_name.s(order), saga.decline.s()).apply_async()
    failed(result)
    shop.settled(shop.of(result), WorkflowStatus.COMPENSATED)
    assert ledger.names(order) == ["by_name", "decline", "refund"]
