"""A workflow function that has to wait, on an RQ that cannot give its worker back: RQ before 2.1, or what says so here."""

from __future__ import annotations

import pytest
from rq import Retry
from rq.job import JobStatus

from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.rq import versions
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, saga
from tests.rq.world import Shop
from tests.rq_versions import VERSION, since


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> str:
    """The RQ that the errors name: an RQ that can suspend says what one would say that cannot."""
    if not since("2.1"):
        return VERSION

    def as_an_old_one_says_it() -> str | None:
        with monkeypatch.context() as old:
            old.setattr(versions, "FOUND", (2, 0))
            old.setattr(versions, "VERSION", "2.0.0")
            return versions.cannot_suspend()

    monkeypatch.setattr("durable_adapter.rq.engine.cannot_suspend", as_an_old_one_says_it)
    return "2.0.0"


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
def test_a_function_that_sleeps_fails_with_what_was_found_what_is_needed_and_the_cure(
    shop: Shop, ledger: Ledger, order: str, found: str, retry: Retry | None
) -> None:
    job = shop.queue.enqueue(functions.sleeps, order, 3600, retry=retry)
    shop.work()
    shop.sweep_and_work(0, 70, 3700)
    said = str(job.latest_result().exc_string)
    for words in ("CannotSuspend", "tests.rq.shop.functions.sleeps sleeps for 3600 s", f"RQ {found}", "RQ 2.1", "pip install"):
        assert words in said
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.status(job) is WorkflowStatus.FAILED
    assert [status for _, status in shop.story(job)] == [StepStatus.FAILED, StepStatus.SUCCEEDED]
    assert ledger.names(order) == ["charge"]


def test_a_function_that_sends_a_step_fails_before_anything_is_sent(shop: Shop, ledger: Ledger, order: str, found: str) -> None:
    job = shop.queue.enqueue(functions.dispatches, order, f"{shop.name}-other")
    shop.work()
    shop.work(queues=[f"{shop.name}-other"])
    assert "sends tests.rq.shop.steps.charge to a worker of its own" in str(job.latest_result().exc_string)
    assert [status for _, status in shop.story(job)] == [StepStatus.FAILED]
    assert len(shop.sent()) == 1
    assert ledger.names(order) == []


def test_what_it_did_before_is_undone(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(saga.buy_and_sleep, order)
    shop.work()
    assert ledger.names(order) == ["charge", "reserve", "release", "refund"]
    assert shop.status(job) is WorkflowStatus.COMPENSATED


def test_a_function_that_need_not_wait_runs(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.sends_what_is_not_marked, order, shop.name)
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert sorted(ledger.names(order)) == ["charge", "unmarked"]
