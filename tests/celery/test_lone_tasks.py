"""A task by itself: the smallest workflow."""

from __future__ import annotations

import pytest

from durable_adapter.model import STAMP, Effect, StepStatus, WorkflowStatus, make_stamp, new_ref
from tests.celery.ledger import Ledger
from tests.celery.shop import app, steps
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually


def test_a_marked_task_runs_once_and_its_result_is_recorded(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.charge.delay(order)
    assert result.get(timeout=SOON) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]
    run = shop.of(result)
    assert run.status is WorkflowStatus.SUCCEEDED
    assert shop.story(run) == [("charge", "step", "succeeded")]


def test_the_happy_path_writes_no_event(shop: Runs, order: str) -> None:
    result = steps.charge.delay(order)
    result.get(timeout=SOON)
    assert shop.events(shop.of(result)) == []


def test_an_unmarked_task_leaves_no_trace_in_the_journal(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.mail.delay(order)
    assert result.get(timeout=SOON) == f"mail-{order}"
    assert ledger.names(order) == ["mail"]
    assert shop.find(result) is None


def test_a_message_that_is_delivered_again_hands_back_the_recorded_value(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.charge.delay(order)
    result.get(timeout=SOON)
    run = shop.of(result)
    app.backend.delete(app.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    again = app.AsyncResult(result.id)
    assert again.get(timeout=SOON) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]


def test_a_message_that_is_delivered_again_raises_the_recorded_error(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.fail.delay(order)
    with pytest.raises(ValueError, match="out of paper"):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result))
    app.backend.delete(app.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    with pytest.raises(ValueError, match="out of paper"):
        app.AsyncResult(result.id).get(timeout=SOON)
    assert ledger.names(order) == ["fail"]


def test_two_calls_with_the_same_arguments_are_two_runs(shop: Runs, ledger: Ledger, order: str) -> None:
    first, second = steps.charge.delay(order), steps.charge.delay(order)
    assert first.get(timeout=SOON) == second.get(timeout=SOON)
    assert ledger.names(order) == ["charge", "charge"]
    assert shop.of(first).ref != shop.of(second).ref


def test_a_task_id_of_the_callers_own_names_no_workflow(shop: Runs, ledger: Ledger, order: str) -> None:
    for _ in range(2):
        steps.charge.apply_async((order,), task_id=f"mine-{order}")
    eventually(lambda: ledger.count(order, "charge") == 2, SOON)


def test_a_marked_task_sent_by_its_name_is_durable(shop: Runs, ledger: Ledger, order: str) -> None:
    result = app.send_task("tests.celery.shop.steps.charge", (order,), {"amount": 5})
    assert result.get(timeout=SOON) == f"ch-{order}"
    assert shop.of(result).status is WorkflowStatus.SUCCEEDED
    assert ledger.entries(order)[0]["amount"] == 5


def test_a_failing_task_fails_as_before_and_its_effect_is_recorded_as_unknown(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.fail.delay(order)
    with pytest.raises(ValueError, match="out of paper"):
        result.get(timeout=SOON)
    assert result.state == "FAILURE"
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    failed = shop.steps(run)[0]
    assert (failed.status, failed.effect, failed.attention) == (StepStatus.FAILED, Effect.UNKNOWN, "effect_unknown")
    assert ledger.names(order) == ["fail"]


def test_a_message_without_a_run_becomes_one_at_first_touch(shop: Runs, ledger: Ledger, order: str) -> None:
    """A producer without the plugin, or a message from before the deploy."""
    result = shop.binding.send_task("tests.celery.shop.steps.charge", (order,), {})
    assert result.get(timeout=SOON) == f"ch-{order}"
    run = shop.of(result)
    assert run.status is WorkflowStatus.SUCCEEDED
    assert shop.story(run) == [("charge", "step", "succeeded")]


def test_a_message_whose_run_the_journal_does_not_have_is_refused_and_reported(shop: Runs, ledger: Ledger, order: str) -> None:
    ref = new_ref()
    stamp = {"stamped_headers": [STAMP], STAMP: make_stamp(ref)}
    shop.binding.send_task("tests.celery.shop.steps.charge", (order,), {}, **stamp)
    eventually(lambda: shop.events(ref) == ["refused"], SOON)
    assert "which this journal does not have" in shop.why(ref)
    (refusal,) = shop.journal.events.of(ref)
    assert refusal["detail"] == {"name": "tests.celery.shop.steps.charge", "namespace": "default"}, "no run says whose it is"
    assert ledger.names(order) == []
