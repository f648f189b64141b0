"""A job id that is used again while an earlier run of it is not over: what Redis holds under it is the later run's."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from rq import Retry
from rq.job import JobStatus
from rq.results import Result

import durable_adapter.rq as durable_rq
from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.runtime.values import decode
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop
from tests.rq_versions import RETURNED_RETRY


def values(shop: Shop, job_id: str) -> list[object]:
    """What each run of an id recorded, from the first to the last."""
    return [decode(shop.steps(run)[0].outcome) for run in shop.runs_of(job_id)]


def test_what_an_earlier_job_left_under_the_id_is_not_the_outcome_of_this_one(shop: Shop, ledger: Ledger, order: str) -> None:
    """Before RQ 2.2 an abandoned job is called failed and has no result: the latest there is is the earlier job's."""
    job_id = f"nightly-{order}"
    first = shop.queue.enqueue(steps.on_a_day, order, "monday", job_id=job_id, result_ttl=-1)
    shop.work()
    kept = shop.redis.xrange(Result.get_key(job_id))
    second = shop.queue.enqueue(steps.on_a_day, order, "tuesday", job_id=job_id, result_ttl=-1)
    shop.redis.delete(Result.get_key(job_id))
    for _, fields in kept:
        shop.redis.xadd(Result.get_key(job_id), fields, id=f"{int((time.time() - 3600) * 1000)}-0")
    shop.redis.lrem(shop.queue.key, 0, job_id)
    second.set_status(JobStatus.FAILED)
    assert second.latest_result() is not None
    step = shop.steps(shop.runs_of(second)[-1])[0]
    assert shop.binding.engine.outcome(step) is None
    shop.sweep_and_work(80, 700)
    assert ledger.count(order, "monday") == 1
    assert ledger.count(order, "tuesday") == 1
    assert first.id == second.id


def test_both_of_two_jobs_that_were_queued_under_one_id_run(shop: Shop, ledger: Ledger, order: str) -> None:
    job_id = f"nightly-{order}"
    for day in ("monday", "tuesday"):
        shop.queue.enqueue(steps.on_a_day, order, day, job_id=job_id)
    shop.work()
    assert ledger.names(order) == ["tuesday"]
    shop.sweep_and_work(70, 700)
    assert ledger.names(order) == ["tuesday", "monday"]
    assert values(shop, job_id) == ["monday", "tuesday"]


def test_the_result_of_an_earlier_run_is_not_taken_over(shop: Shop, ledger: Ledger, order: str) -> None:
    job_id = f"nightly-{order}"
    shop.queue.enqueue(steps.on_a_day, order, "monday", job_id=job_id)
    shop.work()
    shop.queue.enqueue(steps.on_a_day, order, "tuesday", job_id=job_id)
    assert shop.sweep(70).adopted == 0
    shop.work()
    assert values(shop, job_id) == ["monday", "tuesday"]


@pytest.mark.parametrize("flushed", [False, True])
def test_an_earlier_run_that_is_due_waits_for_the_later_one(shop: Shop, ledger: Ledger, order: str, flushed: bool) -> None:
    job_id = f"nightly-{order}"
    shop.queue.enqueue(steps.keyed, order, 1, job_id=job_id, retry=Retry(max=3, interval=30))
    shop.work()
    shop.queue.enqueue(steps.book, order, job_id=job_id)
    shop.sweep(31)
    later = shop.queue.fetch_job(job_id)
    assert later is not None
    assert later.func_name == "tests.rq.shop.steps.book"
    if flushed:
        shop.flush()
    shop.work()
    shop.sweep_and_work(100, 300, 700, 1500)
    assert ledger.count(order, "book") == 1
    assert [run.status for run in shop.runs_of(job_id)] == [WorkflowStatus.SUCCEEDED] * 2


def test_a_handle_on_an_earlier_run_does_not_hand_out_the_later_runs_job(shop: Shop, order: str) -> None:
    first = durable_rq.start(order, shop.queue, steps.charge, order, job_id=f"fixed-{order}")
    shop.queue.enqueue(steps.book, order, job_id=first.id)
    found = durable_rq.handle(order).job()
    assert (found.id, found.func_name) == (first.id, "tests.rq.shop.steps.charge")


def test_only_the_run_whose_job_it_is_is_withdrawn(shop: Shop, ledger: Ledger, order: str) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    shop.queue.enqueue(steps.book, order, depends_on=fail, job_id=f"fixed-{order}")
    later = shop.queue.enqueue(steps.mail, order, job_id=f"fixed-{order}")
    shop.work()
    shop.sweep_and_work(20, 70)
    assert shop.rq_status(later) is JobStatus.FINISHED
    assert [s.status for s in shop.steps(fail)] == [StepStatus.FAILED, StepStatus.CANCELLED]
    assert ledger.names(order) == ["fail", "mail"]


@RETURNED_RETRY
def test_what_was_counted_for_one_run_is_not_held_against_the_next(shop: Shop, ledger: Ledger, order: str) -> None:
    """RQ leaves in the hash of an id what the next job under it does not set."""
    job_id = f"nightly-{order}"
    for night in range(3):
        shop.queue.enqueue(steps.polls, f"{order}-{night}", 2, most=2, job_id=job_id)
        shop.work()
        assert ledger.names(f"{order}-{night}") == ["poll"] * 3
    later = shop.queue.enqueue_in(timedelta(hours=1), steps.charge, order, job_id=job_id)
    assert shop.sweep(700).sent_again == 0
    assert shop.rq_status(later) is JobStatus.SCHEDULED
