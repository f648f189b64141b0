"""What Celery was told of retries counts: where it declines to try again, nothing tries again behind its back."""

from __future__ import annotations

import pytest

from durable_adapter.model import Effect, StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import habits
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually


def stored(task_id: str) -> object:
    """What the result backend holds now."""
    return habits.app.backend.get_task_meta(task_id, cache=False).get("result")


@pytest.mark.parametrize(
    ("task", "attempts", "error"),
    [
        (habits.retries_once, 2, habits.Transient),
        (habits.never_retries, 1, habits.Transient),
        (habits.is_declined, 1, habits.Declined),
        (habits.autoretries_once, 2, habits.Transient),
        (habits.retries_without_limit, 3, habits.Transient),
        (habits.retries_because_the_step_says_so, 2, habits.Transient),
    ],
    ids=lambda given: getattr(given, "name", "").rpartition(".")[2] or None,
)
def test_a_step_is_tried_as_often_as_celery_and_its_own_declaration_allow(
    shop: Runs, ledger: Ledger, order: str, task: habits.Task, attempts: int, error: type[Exception]
) -> None:
    result = task.delay(order)
    with pytest.raises(error):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert ledger.names(order) == ["attempt"] * attempts
    assert shop.steps(run)[0].attempt == attempts


@pytest.mark.parametrize(("most", "attempts"), [(0, 1), (1, 2)])
def test_the_limit_that_a_call_of_retry_is_given_counts(shop: Runs, ledger: Ledger, order: str, most: int, attempts: int) -> None:
    result = habits.retries_as_often_as_the_call_says.delay(order, most)
    with pytest.raises(habits.Transient):
        result.get(timeout=SOON)
    shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert ledger.names(order) == ["attempt"] * attempts


def test_what_celery_declined_is_not_tried_again_because_a_probe_says_that_it_did_not_happen(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    result = habits.is_probed_and_never_retried.delay(order)
    run = eventually(lambda: shop.find(result), SOON)
    failed = shop.step_is(run, "is_probed_and_never_retried", StepStatus.FAILED)
    assert failed.effect is Effect.DID_NOT_HAPPEN
    assert ledger.names(order) == ["attempt"]


def test_the_limits_count_where_a_workflow_function_calls_the_task_in_place(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.catches_what_is_declined.delay(order)
    assert result.get(timeout=SOON) == "Transient Declined Transient"
    assert ledger.names(order) == ["attempt"] * 4


def test_input_that_does_not_fit_a_model_is_tried_once(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.wants_a_model.delay(order, {"value": "many"})
    with pytest.raises(Exception, match="ValidationError"):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert shop.steps(run)[0].attempt == 1
    assert ledger.names(order) == []


def test_arguments_that_do_not_fit_the_task_are_tried_once(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.app.send_task(habits.never_retries.name, (order, "and another"))
    with pytest.raises(TypeError):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert shop.steps(run)[0].attempt == 1


def test_a_value_that_is_returned_beside_a_retry_is_stored_until_the_step_has_its_own(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    result = habits.returns_and_is_retried.delay(order)
    eventually(lambda: ledger.count(order, "at last attempt") == 1, SOON)
    assert result.get(timeout=SOON) == "not yet"
    ledger.open("last attempt", order)
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    assert shop.steps(run)[0].attempt == 2
    eventually(lambda: stored(result.id) == "done", SOON)


def test_a_retry_for_an_error_that_does_not_throw_is_granted(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.returns_and_is_retried_for_an_error.delay(order)
    shop.settled(eventually(lambda: shop.find(result), SOON), WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["attempt"] * 2
    eventually(lambda: stored(result.id) == "done", SOON)
