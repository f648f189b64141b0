"""Queues without a worker (`is_async=False`), as tests and small scripts use them."""

from __future__ import annotations

import pytest
from rq import Queue
from rq.job import JobStatus

from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.runtime.values import encode
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, senders, steps
from tests.rq.world import Shop
from tests.rq_versions import WAITING


def synchronous(shop: Shop) -> Queue:
    return Queue(shop.name, connection=shop.redis, is_async=False)


def test_a_step_runs_at_once_and_is_recorded(shop: Shop, ledger: Ledger, order: str) -> None:
    job = synchronous(shop).enqueue(steps.charge, order)
    assert shop.value(job) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_function_that_need_not_wait_runs_at_once(shop: Shop, ledger: Ledger, order: str) -> None:
    job = synchronous(shop).enqueue(functions.in_place, order)
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}", f"ml-{order}"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_failing_step_fails_as_before(shop: Shop, order: str) -> None:
    job = synchronous(shop).enqueue(steps.fail, order)
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.steps(job)[0].status is StepStatus.FAILED


@WAITING
def test_what_must_wait_says_so(shop: Shop, ledger: Ledger, order: str) -> None:
    job = synchronous(shop).enqueue(functions.sleeps, order, 3600)
    assert shop.rq_status(job) is JobStatus.FAILED
    assert "its queue is synchronous" in str(job.latest_result().exc_string)
    assert ledger.names(order) == ["charge"]
    assert shop.value(job) is None


@WAITING
def test_what_said_that_it_must_wait_is_finished_by_a_worker(shop: Shop, ledger: Ledger, order: str) -> None:
    job = synchronous(shop).enqueue(functions.sleeps, order, 3600)
    shop.sweep_and_work(3601)
    assert shop.value(job) == f"bk-{order}"
    assert ledger.names(order) == ["charge", "book"]


@pytest.mark.parametrize("target", ["steps.charge", "functions.in_place"])
def test_a_workflow_function_cannot_enqueue_a_marked_job_there(shop: Shop, ledger: Ledger, order: str, target: str) -> None:
    job = shop.queue.enqueue(functions.dispatches_to_itself, order, shop.name, f"tests.rq.shop.{target}")
    shop.work()
    shop.sweep_and_work(70, 700)
    assert ledger.names(order) == ["body"]
    assert shop.status(job) is WorkflowStatus.FAILED
    assert shop.count_runs() == 1
    assert "Call it instead of enqueueing it" in str(job.latest_result().exc_string)


def test_a_workflow_function_may_enqueue_an_unmarked_job_there(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.dispatches_to_itself, order, shop.name, "tests.rq.shop.steps.unmarked")
    shop.work()
    assert ledger.names(order) == ["body", "unmarked"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_what_a_step_enqueues_there_is_part_of_it(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(senders.runs_others, order, shop.name)
    shop.work()
    shop.flush()
    shop.sweep_and_work(70, 700)
    assert ledger.names(order) == ["charge", "book", "mail"]
    assert shop.count_runs() == 1
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_step_that_is_held_says_so_and_is_finished_by_a_worker(shop: Shop, ledger: Ledger, order: str) -> None:
    job = synchronous(shop).enqueue(steps.returns_what_cannot_be_recorded, order)
    assert shop.rq_status(job) is JobStatus.FAILED
    assert "its queue is synchronous" in str(job.latest_result().exc_string)
    held = shop.steps(job)[0]
    assert held.status is StepStatus.HELD
    shop.journal.verdicts.happened(held, encode("a person's word"), who="ann", why="the bank says so")
    shop.sweep_and_work(1)
    assert shop.value(job) == "a person's word"
    assert ledger.names(order) == ["charge"]
