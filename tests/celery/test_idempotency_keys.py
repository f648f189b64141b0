"""The key that a provider sees: the same in every attempt, another in each run, and the same for ever (P4)."""

from __future__ import annotations

import uuid

import durable_adapter as durable
from durable_adapter.model import NAMESPACE
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, steps
from tests.celery.world import SOON, Runs


def keys(ledger: Ledger, order: str) -> list[str]:
    """The keys that the bank saw, in their order."""
    return [entry["key"] for entry in ledger.entries(order, "charge")]


def golden(*parts: object) -> str:
    """The derivation, written out: uuid5 over the parts with a unit separator between them."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(["idempotency", *map(str, parts)])))


def test_every_attempt_has_the_key_that_the_declared_workflow_and_the_step_give(shop: Runs, ledger: Ledger, order: str) -> None:
    durable.start(order, steps.keyed_charge.s(order, failures=2)).get(timeout=SOON)
    run = shop.named(order)
    (step,) = shop.steps(run)
    assert keys(ledger, order) == [golden("default", order, 1, step.key)] * 3


def test_a_run_without_an_id_of_its_own_is_named_by_its_reference(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.keyed_charge.delay(order)
    result.get(timeout=SOON)
    run = shop.of(result)
    assert keys(ledger, order) == [golden("default", run.ref, 1, shop.steps(run)[0].key)]


def test_a_members_key_names_its_place_and_its_name(shop: Runs, ledger: Ledger, order: str) -> None:
    result = (chains.reserve.s(order) | steps.keyed_charge.s()).delay()
    result.get(timeout=SOON)
    key = "2:tests.celery.shop.steps.keyed_charge"
    assert [step.key for step in shop.steps(shop.of(result))][1] == key
    assert keys(ledger, order) == [golden("default", shop.of(result).ref, 1, key)]


def test_a_message_that_comes_again_asks_for_no_new_key(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.keyed_charge.delay(order)
    result.get(timeout=SOON)
    run = shop.settled(shop.of(result))
    result.backend.delete(result.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    assert type(result)(result.id).get(timeout=SOON) == f"ch-{order}"
    assert len(keys(ledger, order)) == 1
