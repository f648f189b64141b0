"""What plain RQ does wrong when something dies at the wrong moment, made to happen one by one; A to N as the notes name them.

Here stand those in which the test's own process plays the worker. Those in which a process must die are in
`test_deaths.py`. The bank is the ledger: the same key sent twice is charged once.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.rq.fields import PUT_ASIDE, increment
from tests.celery.ledger import Ledger
from tests.rq.shop import chains, steps
from tests.rq.world import InProcess, Shop
from tests.rq_versions import needs_rq

SAFETIES = list(steps.CHARGES)


class Died(BaseException):
    """Where a process would have died: nothing after it is done."""


class DiesBeforeItCommits(InProcess):
    """F: the function returned, and nobody tells Redis."""

    def handle_job_success(self, *args: Any, **kwargs: Any) -> None:
        raise Died

    def _finalize_failure(self, *args: Any, **kwargs: Any) -> None:
        raise Died

    def handle_job_failure(self, *args: Any, **kwargs: Any) -> None:
        raise Died


class LosesRedisBeforeItCommits(InProcess):
    """G: the connection breaks while the success is written; RQ calls the job failed."""

    def handle_job_success(self, *args: Any, **kwargs: Any) -> None:
        raise redis.exceptions.ConnectionError("connection reset by peer")


class DiesAfterItTookAJob(InProcess):
    """I and J: the job is out of its queue, and nothing says that it runs."""

    def execute_job(self, *args: Any, **kwargs: Any) -> None:
        raise Died


def chain(shop: Shop, order: str, safety: str = "undeclared", fault: str | None = None, **options: Any) -> list[Job]:
    """charge, then book, then mail."""
    charge = shop.queue.enqueue(steps.CHARGES[safety], order, fault, **options)
    book = shop.queue.enqueue(steps.book, order, depends_on=charge, **options)
    return [charge, book, shop.queue.enqueue(steps.mail, order, depends_on=book, **options)]


def is_whole(shop: Shop, jobs: list[Job], order: str) -> bool:
    """Every job was done once, for the customer, for the journal and for RQ."""
    assert [steps.charges(order), shop.ledger.count(order, "book"), shop.ledger.count(order, "mail")] == [1, 1, 1]
    assert shop.status(jobs[0]) is WorkflowStatus.SUCCEEDED
    assert [shop.rq_status(job) for job in jobs] == [JobStatus.FINISHED] * len(jobs)
    assert shop.value(jobs[0]) == f"ch-{order}"
    return True


def abandoned(shop: Shop) -> None:
    """What a worker's maintenance does one hour later."""
    StartedJobRegistry(shop.name, connection=shop.redis).cleanup(timestamp=time.time() + 3600)


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
@pytest.mark.parametrize("safety", SAFETIES)
def test_d_an_error_after_the_effect(shop: Shop, ledger: Ledger, order: str, safety: str, retry: Retry | None) -> None:
    jobs = chain(shop, order, safety, "raise", retry=retry)
    shop.work()
    shop.sweep_and_work(0, 5, 70)
    if safety != "undeclared":
        assert is_whole(shop, jobs, order)
        return
    assert steps.charges(order) == 1
    assert ledger.count(order, "book") == 0
    if retry is not None:
        assert shop.steps(jobs[0])[0].status is StepStatus.HELD
    else:
        assert shop.status(jobs[0]) is WorkflowStatus.FAILED
        assert [shop.rq_status(job) for job in jobs[1:]] == [JobStatus.CANCELED] * 2


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
def test_e_a_callback_that_fails(shop: Shop, ledger: Ledger, order: str, retry: Retry | None) -> None:
    charge = shop.queue.enqueue(steps.charge, order, retry=retry, on_success=Callback(steps.once_raises))
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=book)
    shop.work()
    shop.sweep_and_work(70, 140)
    assert is_whole(shop, [charge, book, mail], order)


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
@pytest.mark.parametrize("safety", SAFETIES)
def test_f_death_before_the_success_is_committed(
    shop: Shop, ledger: Ledger, order: str, safety: str, retry: Retry | None
) -> None:
    jobs = chain(shop, order, safety, retry=retry)
    shop.work(DiesBeforeItCommits)
    assert [shop.rq_status(job) for job in jobs] == [JobStatus.STARTED, JobStatus.DEFERRED, JobStatus.DEFERRED]
    shop.sweep_and_work(70, 140)
    assert is_whole(shop, jobs, order)


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
def test_f_death_before_the_success_is_committed_after_rq_has_looked(
    shop: Shop, ledger: Ledger, order: str, retry: Retry | None
) -> None:
    jobs = chain(shop, order, retry=retry)
    shop.work(DiesBeforeItCommits)
    abandoned(shop)
    assert shop.rq_status(jobs[0]) is (JobStatus.FAILED if retry is None else JobStatus.QUEUED)
    shop.work()
    shop.sweep_and_work(70, 140)
    assert is_whole(shop, jobs, order)


@pytest.mark.parametrize("retry", [None, Retry(max=3)], ids=["", "retry"])
def test_g_redis_away_while_the_success_is_committed(shop: Shop, ledger: Ledger, order: str, retry: Retry | None) -> None:
    jobs = chain(shop, order, retry=retry)
    shop.work(LosesRedisBeforeItCommits, jobs=1)
    shop.work()
    shop.sweep_and_work(70, 140)
    assert is_whole(shop, jobs, order)


@needs_rq("3.0", "moment at which dependents are in no list")
def test_h_death_before_the_dependents_are_pushed(
    shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = chain(shop, order)
    with monkeypatch.context() as dying:
        dying.setattr(Queue, "enqueue_ready_jobs_by_queue", lambda _queue, _ids: None)
        shop.work(jobs=1)
    assert shop.rq_status(jobs[1]) is JobStatus.READY_TO_ENQUEUE
    shop.queue.acquire_maintenance_lock()  # no worker's own maintenance for ten minutes, as with RQ's defaults
    shop.sweep_and_work(70)
    assert is_whole(shop, jobs, order)
    assert shop.queue.ready_job_registry.count == 0


@pytest.mark.parametrize("safety", SAFETIES)
def test_i_death_between_taking_a_job_and_saying_so(shop: Shop, ledger: Ledger, order: str, safety: str) -> None:
    jobs = chain(shop, order, safety)
    shop.work(DiesAfterItTookAJob)
    assert shop.redis.lrange(shop.queue.intermediate_queue_key, 0, -1) == [jobs[0].id.encode()]
    shop.sweep(10)
    assert shop.queue.count == 0
    shop.sweep_and_work(70)
    assert is_whole(shop, jobs, order)
    assert shop.redis.llen(shop.queue.intermediate_queue_key) == 0


@pytest.mark.parametrize("safety", SAFETIES)
def test_j_the_same_with_two_queues(shop: Shop, ledger: Ledger, order: str, safety: str) -> None:
    jobs = chain(shop, order, safety)
    shop.work(DiesAfterItTookAJob, queues=[shop.name, f"{shop.name}-other"])
    assert shop.rq_status(jobs[0]) is JobStatus.QUEUED
    assert shop.queue.count == 0
    shop.sweep_and_work(70)
    assert is_whole(shop, jobs, order)


@pytest.mark.parametrize("safety", SAFETIES)
def test_k_redis_is_flushed_while_a_job_runs(shop: Shop, ledger: Ledger, order: str, safety: str) -> None:
    class Flushes(InProcess):
        def perform_job(self, job: Job, *args: Any, **kwargs: Any) -> bool:
            if job.id == jobs[0].id:
                job_perform = job.perform

                def perform() -> Any:
                    value = job_perform()
                    shop.flush()
                    return value

                job.perform = perform  # type: ignore[method-assign]
            return super().perform_job(job, *args, **kwargs)

    jobs = chain(shop, order, safety)
    shop.work(Flushes)
    assert ledger.names(order) == ["charge"]
    shop.sweep_and_work(70, 300)
    assert is_whole(shop, jobs, order)


def test_k_a_chain_that_was_lost_reads_its_results_by_rqs_own_means(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    read = shop.queue.enqueue(chains.reads_as_rq_does, order, depends_on=charge)
    shop.work(jobs=1)
    shop.flush()
    shop.sweep_and_work(70)
    assert shop.value(read) == f"ch-{order}"
    assert ledger.names(order) == ["charge", "read"]


def test_k_a_chain_that_was_lost_before_it_began(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = chain(shop, order)
    shop.flush()
    shop.sweep_and_work(70, 140, 300)
    assert is_whole(shop, jobs, order)


def test_k_what_was_lost_is_in_doubt_where_nobody_with_the_plugin_listened(shop: Shop, ledger: Ledger, order: str) -> None:
    """A worker without the plugin may have run it."""
    jobs = chain(shop, order)
    shop.flush()
    shop.sweep(70, queues=["another"])
    assert shop.steps(jobs[0])[0].status is StepStatus.IN_DOUBT
    shop.sweep_and_work(71)
    assert ledger.names(order) == []


def test_a_job_that_was_put_aside_before_it_began_comes_back(shop: Shop, ledger: Ledger, order: str) -> None:
    """The journal went away while its worker was shutting down: RQ keeps it for thirty days."""
    job = shop.queue.enqueue(steps.charge, order)
    shop.queue.remove(job.id)
    shop.queue.schedule_job(job, job.created_at.replace(year=job.created_at.year + 1))
    increment(job, PUT_ASIDE)
    shop.sweep_and_work(70)
    assert shop.value(job) == f"ch-{order}"


def test_the_same_job_twice_in_a_queue_has_one_effect(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = chain(shop, order)
    shop.redis.rpush(Queue(shop.name, connection=shop.redis).key, jobs[0].id)
    shop.work()
    assert is_whole(shop, jobs, order)
