"""`self.retry` and `autoretry_for` are requests: granted where repeating is safe, refused where it may charge twice."""

from __future__ import annotations

import time

import pytest

from durable_adapter.celery import HeldTimeout
from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import habits
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually


def test_a_retry_with_an_error_of_a_safe_step_is_granted(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.retries_with_error.delay(order)
    assert result.get(timeout=SOON) == "done"
    assert [entry["retries"] for entry in ledger.entries(order)] == [0, 1]
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    assert shop.steps(run)[0].attempt == 2
    assert shop.events(run) == ["attempt_failed"]


def test_a_retry_with_an_error_of_a_protected_step_is_refused_and_held(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.retries_protected.delay(order)
    held = shop.step_is(eventually(lambda: shop.find(result), SOON), "retries_protected", StepStatus.HELD)
    assert "TimeoutError: no answer" in (held.doubt or "")
    with pytest.raises(HeldTimeout, match="a person must decide"):
        result.get(timeout=0.5)
    assert ledger.names(order) == ["attempt"]


def test_a_retry_without_an_error_means_not_done_yet_and_is_granted(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.polls.delay(order)
    assert result.get(timeout=SOON) == "done"
    assert [entry["retries"] for entry in ledger.entries(order)] == [0, 1, 2]


def test_a_retry_that_does_not_throw_is_granted_too(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.polls_without_throwing.delay(order)
    run = shop.settled(eventually(lambda: shop.find(result), SOON), WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["attempt"] * 3
    assert shop.steps(run)[0].attempt == 3
    # As in Celery, get() may have an earlier attempt's value; what is stored at last is the step's own.
    eventually(lambda: habits.app.backend.get_task_meta(result.id, cache=False).get("result") == "done", SOON)


def test_autoretry_with_backoff_goes_on_until_it_succeeds(shop: Runs, ledger: Ledger, order: str) -> None:
    began = time.monotonic()
    result = habits.autoretries.delay(order, failures=1)
    assert result.get(timeout=SOON) == "done"
    assert ledger.names(order) == ["attempt"] * 2
    assert time.monotonic() - began >= 0.05


def test_exhausted_retries_fail_with_the_original_error(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.retries_with_error.delay(order, failures=10)
    with pytest.raises(TimeoutError, match="no answer"):
        result.get(timeout=SOON)
    assert [entry["retries"] for entry in ledger.entries(order)] == [0, 1, 2, 3]
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert shop.steps(run)[0].attempt == 4


def test_autoretry_of_a_protected_step_is_refused_and_held(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.autoretries_protected.delay(order)
    shop.step_is(eventually(lambda: shop.find(result), SOON), "autoretries_protected", StepStatus.HELD)
    assert ledger.names(order) == ["attempt"]
