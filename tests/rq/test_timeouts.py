"""RQ's time limit for a job: an exception out of a signal handler, at any instruction."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
from rq import Retry
from rq.job import JobStatus

from durable_adapter.model import Effect, StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, steps
from tests.rq.world import Shop


def test_a_step_that_takes_too_long_fails_as_before_and_its_effect_is_unknown(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.slow, order, 10, job_timeout=1)
    shop.work()
    assert shop.rq_status(job) is JobStatus.FAILED
    assert "JobTimeoutException" in str(job.latest_result().exc_string)
    failed = shop.steps(job)[0]
    assert (failed.status, failed.effect) == (StepStatus.FAILED, Effect.UNKNOWN)


def test_a_step_that_takes_too_long_is_held_where_rq_would_repeat_it(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.slow, order, 10, job_timeout=1, retry=Retry(max=3))
    shop.work()
    assert shop.steps(job)[0].status is StepStatus.HELD
    assert ledger.names(order) == ["charge"]


def _at_the_alarm(write: Callable[..., Any]) -> Callable[..., Any]:
    """A write during which the time limit passes."""

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return write(*args, **kwargs)

    return interrupted


@pytest.mark.parametrize("what", ["begin", "succeed"])
def test_a_time_limit_that_passes_while_the_journal_is_written_to_loses_nothing(
    shop: Shop, ledger: Ledger, order: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: Any = shop.journal.claims if what == "begin" else shop.journal.ends
    monkeypatch.setattr(where, what, _at_the_alarm(getattr(where, what)))
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    recorded = shop.steps(job)[0]
    if what == "succeed":
        assert shop.value(job) == f"ch-{order}"
        assert shop.status(job) is WorkflowStatus.SUCCEEDED
    else:  # it is let in where the user's code begins
        assert recorded.status is StepStatus.FAILED
        assert ledger.names(order) == []


def test_a_time_limit_in_a_function_leaves_its_steps_recorded(
    shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.journal.ends, "succeed", _at_the_alarm(shop.journal.ends.succeed))
    job = shop.queue.enqueue(functions.in_place, order, retry=Retry(max=3))
    shop.work()
    assert ledger.names(order) == ["charge", "book", "mail"]
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}", f"ml-{order}"]
