"""What legacy Celery code does goes on working: options, links, results, classes, recursion, mapping, pydantic."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import VERSION, chain

from durable_adapter.errors import UnsupportedCanvas
from durable_adapter.model import Attention, StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import app, chains, habits, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.waiting import eventually


def test_a_countdown_is_kept(shop: Runs, ledger: Ledger, order: str) -> None:
    began = time.monotonic()
    result = steps.charge.apply_async((order,), countdown=1)
    assert result.get(timeout=SOON) == f"ch-{order}"
    assert time.monotonic() - began >= 1
    assert ledger.names(order) == ["charge"]


def test_an_eta_is_kept(shop: Runs, order: str) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    assert steps.charge.apply_async((order,), eta=at).get(timeout=SOON) == f"ch-{order}"
    assert datetime.now(UTC) >= at


def test_a_message_that_expired_is_not_run(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.charge.apply_async((order,), expires=datetime.now(UTC) - timedelta(seconds=5))
    eventually(lambda: result.state == "REVOKED", SOON)
    assert ledger.names(order) == []


def test_priority_queue_and_headers_reach_the_task(shop: Runs, world: World, order: str) -> None:
    result = habits.bound.apply_async((order,), queue=world.queue, priority=3, headers={"tenant": "acme"})
    seen = result.get(timeout=SOON)
    assert seen == {"id": result.id, "retries": 0, "priority": 3, "queue": world.queue, "headers": "acme"}


def test_a_bound_task_sees_its_own_request(shop: Runs, order: str) -> None:
    result = habits.bound.delay(order)
    assert result.get(timeout=SOON)["id"] == result.id


def test_a_link_and_a_link_error_are_called(shop: Runs, ledger: Ledger, order: str) -> None:
    steps.charge.apply_async((order,), link=chains.on_done.s(order))
    steps.fail.apply_async((order,), link_error=chains.on_error.s(order))
    eventually(lambda: ledger.count(order, "on_done") and ledger.count(order, "on_error"), SOON)
    assert ledger.entries(order, "on_done")[0]["result"] == f"ch-{order}"
    assert ledger.entries(order, "on_error")[0]["error"] == "out of paper"


def test_an_ignored_result_is_recorded_in_the_journal_and_nowhere_else(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.ignored.delay(order)
    run = shop.settled(eventually(lambda: shop.find(result), SOON), WorkflowStatus.SUCCEEDED)
    assert app.AsyncResult(result.id).state == "PENDING"
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["ignored"]


def test_a_result_is_found_again_by_its_id(shop: Runs, order: str) -> None:
    result = steps.charge.delay(order)
    again = app.AsyncResult(result.id)
    assert again.get(timeout=SOON) == f"ch-{order}"
    assert again.successful()
    assert again.name == "tests.celery.shop.steps.charge"


@pytest.mark.skipif(VERSION < (5, 7), reason="models are dumped when they are published since Celery 5.7")
def test_a_pydantic_task_gets_its_model_and_its_caller_gets_plain_data(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.with_model.delay(order, habits.Amount(value=41))
    assert result.get(timeout=SOON) == {"value": 42}
    assert ledger.entries(order)[0] | {"pid": 0} == {
        "what": "with_model", "order": order, "pid": 0, "value": 41, "type": "Amount",
    }  # fmt: skip


def test_a_task_class_with_its_own_call_wraps_the_step(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.in_context.delay(order)
    assert result.get(timeout=SOON) == "done"
    assert ledger.names(order) == ["enter context", "in_context", "leave context"]
    assert shop.of(result).status is WorkflowStatus.SUCCEEDED


def test_a_class_based_task_is_durable(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.classic.delay(order)
    assert result.get(timeout=SOON) == f"classic-{order}"
    assert shop.story(shop.of(result)) == [("classic", "step", "succeeded")]


def test_a_task_that_calls_itself_recurses_as_a_function(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.countdown_by_recursion.delay(order, 4)
    assert result.get(timeout=SOON) == 10
    assert ledger.names(order) == [f"recursion {number}" for number in (4, 3, 2, 1, 0)]
    assert len(shop.steps(shop.of(result))) == 1


def test_a_task_that_calls_another_one_as_a_function_is_one_step(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.calls_another_task.delay(order)
    assert result.get(timeout=SOON) == f"called ch-{order}"
    assert [name for name, _, _ in shop.story(shop.of(result))] == ["calls_another_task"]


def test_an_unmarked_task_that_calls_a_step_as_a_function_calls_it_plainly(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.unmarked_calls_a_step.delay(order)
    assert result.get(timeout=SOON) == f"called ch-{order}"
    assert ledger.names(order) == ["charge"]
    assert shop.find(result) is None


def test_map_starmap_and_chunks_of_a_marked_task_run_every_item(shop: Runs, ledger: Ledger, order: str) -> None:
    assert habits.single.map([[order, 1], [order, 2]]).delay().get(timeout=SOON) == [10, 20]
    assert habits.one.starmap([(order, 1), (order, 2)]).delay().get(timeout=SOON) == [10, 20]
    chunks = habits.one.chunks([(order, number) for number in range(4)], 2).apply_async()
    assert chunks.get(timeout=SOON) == [[0, 10], [20, 30]]
    assert len(ledger.names(order)) == 8


def test_a_task_that_a_step_sends_from_its_body_is_a_run_of_its_own(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.launches.delay(order)
    result.get(timeout=SOON)
    eventually(lambda: ledger.count(order, "charge"), SOON)
    assert len(shop.steps(shop.of(result))) == 1


def test_a_task_that_two_attempts_of_a_step_send_runs_once(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.launches_then_fails.delay(order)
    assert result.get(timeout=SOON) == "launched"
    eventually(lambda: ledger.count(order, "charge"), SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert (ledger.count(order, "launches"), ledger.count(order, "charge")) == (2, 1)


def test_a_chain_that_two_attempts_of_a_step_send_is_one_chain(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.launches_a_chain_then_fails.delay(order)
    assert result.get(timeout=SOON) == "launched"
    eventually(lambda: ledger.count(order, "mail"), SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert sorted(ledger.names(order)) == ["charge", "launches", "launches", "mail"]
    sent = next(run for run in shop.journal.reads.listed() if run.parent == shop.of(result).ref)
    assert "refused" not in shop.events(shop.settled(sent.ref))


def test_a_marked_task_that_replaces_itself_fails_with_a_reason(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.replaces_itself.delay(order)
    with pytest.raises(UnsupportedCanvas, match="a durable task cannot be replaced yet"):
        result.get(timeout=SOON)
    assert ledger.names(order) == ["replaces"]


def test_the_result_of_every_member_can_be_collected(shop: Runs, order: str) -> None:
    result = chain(chains.reserve.s(order), chains.note.s(), chains.ship.s()).apply_async()
    assert result.get(timeout=SOON) == order
    assert [value for _, value in result.parent.parent.collect()] == [order] * 3


def test_a_revoked_task_does_not_run_and_is_shown(shop: Runs, ledger: Ledger, order: str) -> None:
    """Revoked by its id before it began: begun by nobody, so that a person may still decide."""
    result = steps.charge.apply_async((order,), countdown=0.5)
    app.control.revoke(result.id)
    eventually(lambda: result.state == "REVOKED", SOON)
    assert ledger.names(order) == []
    shop.step_is(shop.of(result), "charge", StepStatus.CANCELLED)
    assert shop.of(result).attention == Attention.ENDED_BY_ENGINE
