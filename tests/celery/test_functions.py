"""Workflow functions: ordinary tasks that call steps in their own order, suspend, and run from the top on every wake."""

from __future__ import annotations

import pytest
from celery import chain

from durable_adapter.errors import UnsupportedCanvas
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import app, chains, functions, steps
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually


def test_a_function_with_a_template_id_starts_once_and_both_callers_get_the_one_result(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    first, second = functions.in_place.delay(order), functions.in_place.delay(order=order)
    assert first.id == second.id
    assert first.get(timeout=SOON) == second.get(timeout=SOON)
    assert ledger.count(order, "body") == 1


def test_sleeping_functions_hold_no_worker_slot(shop: Runs, order: str) -> None:
    """Six sleep at once where only three can run."""
    results = [functions.sleeper.delay(f"{order}-{number}", seconds=1.5) for number in range(6)]

    def all_asleep() -> bool:
        stories = [shop.story(run) for run in map(shop.find, results) if run is not None]
        return sum(("sleep", "sleep", "waiting") in story for story in stories) == 6

    eventually(all_asleep, SOON)
    assert [result.get(timeout=SOON)[0] for result in results] == [f"ch-{order}-{number}" for number in range(6)]


def test_get_on_a_dispatched_step_gives_the_worker_slot_back_until_the_result_is_there(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    result = functions.dispatcher.delay(order)
    run = shop.settled(eventually(lambda: shop.find(result), SOON), WorkflowStatus.SUSPENDED)
    assert (run.waiting_for or "").startswith("step:")
    assert ledger.count(order, "body") == 1
    ledger.open("pack", order)
    assert result.get(timeout=SOON) == f"got packed-{order}"
    assert (ledger.count(order, "pack"), ledger.count(order, "meanwhile")) == (1, 1)
    assert [(name, kind) for name, kind, _ in shop.story(run)] == [
        ("dispatcher", "function"),
        ("slow_pack", "dispatch"),
        ("plain_step", "step"),
    ]


def test_an_unmarked_task_that_a_function_sends_is_sent_once(shop: Runs, ledger: Ledger, order: str) -> None:
    result = functions.mails_once.delay(order)
    assert result.get(timeout=SOON) == "mailed"
    assert ledger.count(order, "body") == 2
    eventually(lambda: ledger.count(order, "mail"), SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.count(order, "mail") == 1


def test_a_retry_of_the_function_itself_repeats_no_step(shop: Runs, ledger: Ledger, order: str) -> None:
    result = functions.retries_itself.delay(order)
    assert result.get(timeout=SOON) == "done"
    assert (ledger.count(order, "body"), ledger.count(order, "charge")) == (2, 1)


def test_a_workflow_that_a_function_starts_is_started_once(shop: Runs, ledger: Ledger, order: str) -> None:
    result = functions.starts_others.delay(order)
    assert result.get(timeout=SOON) == "started"
    child = shop.settled(shop.named(f"in-place-{order}-child"), WorkflowStatus.SUCCEEDED)
    assert child.parent == shop.of(result).ref
    assert ledger.count(f"{order}-child", "body") == 1
    assert ledger.count(order, "body") == 2


@pytest.mark.parametrize("place", ["head", "tail"])
def test_a_workflow_function_in_a_chain_is_refused_and_nothing_is_sent(
    idle_shop: Runs, ledger: Ledger, order: str, place: str
) -> None:
    members = [functions.nested.si(order), chains.note.si(order)]
    if place == "tail":
        members.reverse()
    with pytest.raises(UnsupportedCanvas, match="is a workflow function and"):
        chain(*members).apply_async()
    assert idle_shop.traces(order) == []
    assert ledger.names(order) == []


def test_a_finished_functions_message_hands_back_its_result(shop: Runs, ledger: Ledger, order: str) -> None:
    result = functions.in_place.delay(order)
    expected = result.get(timeout=SOON)
    run = shop.settled(shop.of(result))
    result.backend.delete(result.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    assert app.AsyncResult(result.id).get(timeout=SOON) == expected
    assert ledger.count(order, "body") == 1
