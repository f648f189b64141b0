"""Workflow functions on RQ: from the top on every wake."""

from __future__ import annotations

import pytest
from rq import Queue, Retry
from rq.job import JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.errors import SameIdOtherArguments
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import functions
from tests.rq.world import Shop
from tests.rq_versions import WAITING


@WAITING
def test_a_sleep_gives_the_worker_back_and_the_sweeper_wakes_it(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.sleeps, order, 3600)
    shop.work()
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    for moment in (10, 70, 1000, 3500):
        assert not shop.sweep(moment).woken
    assert not shop.work()
    shop.sweep_and_work(3601)
    assert shop.value(job) == f"bk-{order}"
    assert ledger.names(order) == ["charge", "book"]


@WAITING
def test_a_sleep_survives_the_loss_of_redis(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.sleeps, order, 3600)
    shop.work()
    shop.flush()
    shop.sweep_and_work(3601)
    assert shop.value(job) == f"bk-{order}"
    assert ledger.names(order) == ["charge", "book"]


@WAITING
def test_asking_a_dispatched_job_for_its_result_suspends(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.dispatches, order, shop.name)
    shop.work()
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}"]
    assert sorted(ledger.names(order)) == ["book", "charge", "unmarked"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


@WAITING
def test_dispatched_jobs_survive_the_loss_of_redis(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.dispatches, order, f"{shop.name}-slow")
    shop.work()
    assert ledger.names(order) == []
    shop.flush()
    shop.sweep(70, queues=[f"{shop.name}-slow"])
    shop.work(queues=[shop.name, f"{shop.name}-slow"])
    shop.sweep_and_work(140)
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}"]
    assert [ledger.count(order, what) for what in ("charge", "book")] == [1, 1]


@WAITING
def test_a_dispatched_job_whose_dependency_failed_does_not_keep_the_function_waiting(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(functions.dispatches_in_order, order, shop.name)
    shop.work()
    shop.sweep_and_work(70, 140)
    assert ledger.names(order) == ["decline"]
    assert shop.status(job) is not WorkflowStatus.SUSPENDED
    assert shop.queue.deferred_job_registry.count == 0


def test_an_error_of_the_function_is_tried_again_by_rqs_retry_and_its_steps_are_memos(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(functions.fails_once, order, retry=Retry(max=2))
    shop.work()
    assert ledger.names(order) == ["charge", "attempt", "attempt", "book"]
    assert shop.value(job) == f"bk-{order}"


def test_a_template_names_the_workflow(shop: Shop, ledger: Ledger, order: str) -> None:
    first = shop.queue.enqueue(functions.templated, order)
    again = shop.queue.enqueue(functions.templated, order)
    assert again.id == first.id
    shop.work()
    assert ledger.names(order) == ["charge"]
    assert durable_rq.handle(f"order-{order}").status is WorkflowStatus.SUCCEEDED
    assert shop.queue.enqueue(functions.templated, order).id == first.id
    assert not shop.work()
    with pytest.raises(SameIdOtherArguments):
        shop.queue.enqueue(functions.templated, order, amount=2)
    assert shop.count_runs() == 1


def test_a_template_that_was_started_before_is_refused_where_many_are_enqueued(shop: Shop, ledger: Ledger, order: str) -> None:
    from durable_adapter.errors import UnsupportedCanvas

    shop.queue.enqueue(functions.templated, order)
    with pytest.raises(UnsupportedCanvas, match="started before"):
        shop.queue.enqueue_many([Queue.prepare_data(functions.templated, (given,)) for given in (f"other-{order}", order)])
    assert shop.count_runs() == 1
    assert shop.queue.count == 1


def test_a_function_that_redis_lost_before_it_began_is_sent_again(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.in_place, order)
    shop.flush()
    shop.sweep_and_work(70)
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}", f"ml-{order}"]


@WAITING
def test_a_step_that_is_a_coroutine_is_awaited_where_a_plain_function_calls_it(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.calls_a_coroutine, order)
    shop.work()
    shop.sweep_and_work(3601)
    assert ledger.names(order) == ["charge"]
    assert shop.value(job) == f"ch-{order}"


@WAITING
def test_a_coroutine_may_call_plain_steps(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.is_a_coroutine, order)
    shop.work()
    shop.sweep_and_work(3601)
    assert ledger.names(order) == ["charge", "book"]
    assert shop.value(job) == f"bk-{order}"


def test_a_coroutine_that_awaits_a_step_is_told_why_it_cannot_and_nothing_has_begun(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(functions.awaits_a_coroutine, order)
    shop.work()
    assert shop.status(job) is WorkflowStatus.FAILED
    assert "was not begun" in str(job.latest_result().exc_string)
    assert len(shop.steps(job)) == 1
    assert ledger.names(order) == []
