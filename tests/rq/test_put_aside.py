"""A job that is put aside: nothing of it is used up, nobody is told that it failed, and it comes back.

RQ 2.1 and newer put it aside because it returns a `Retry`, older ones because it raises `PutAside`. What holds is the same.
"""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
import rq
from rq import Callback, Retry
from rq.job import Dependency, Job, JobStatus

from durable_adapter.errors import PutAside
from durable_adapter.model import StepRow, StepStatus, WorkflowStatus
from durable_adapter.rq.deferring import UNTIL_WOKEN
from durable_adapter.runtime.values import encode
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, saga, steps
from tests.rq.test_scenarios import chain, is_whole
from tests.rq.world import IMPATIENT, SOON, InProcess, Shop
from tests.rq_versions import since
from tests.servers.waiting import eventually

RETRY = Retry(max=3, interval=[10, 20, 30])


def unchanged(job: Job) -> dict[str, Any]:
    """What RQ keeps of a job, and of which putting it aside may change nothing."""
    names = (
        "retries_left",
        "retry_intervals",
        "_success_callback_name",
        "_failure_callback_name",
        "timeout",
        "result_ttl",
        "meta",
    )
    fresh = Job.fetch(job.id, connection=job.connection)
    return {name: getattr(fresh, name) for name in names} | {"value": fresh.return_value()}


def is_aside(shop: Shop, job: Job) -> bool:
    """Whether a job stands among the scheduled ones, for no known time, and nowhere else."""
    due = shop.redis.zscore(shop.queue.scheduled_job_registry.key, job.id)
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    assert due is not None
    assert due - datetime.now(UTC).timestamp() > UNTIL_WOKEN / 2
    assert shop.queue.failed_job_registry.count == 0
    assert shop.queue.started_job_registry.count == 0
    assert shop.redis.ttl(job.key) == -1
    last = job.latest_result()
    assert last is None or last.type.name == "RETRIED"
    return True


def held(shop: Shop, job: Job) -> StepRow:
    """A job's own step, which is held."""
    row = shop.steps(job)[0]
    assert row.status is StepStatus.HELD
    return row


def finished(shop: Shop, jobs: list[Job]) -> None:
    """Waits until RQ calls jobs finished."""
    eventually(lambda: {shop.rq_status(job) for job in jobs} == {JobStatus.FINISHED}, SOON, lambda: shop.told(jobs[0]))


def a_held_chain(shop: Shop, order: str) -> list[Job]:
    """A chain whose first step ended in an error, wants RQ to try it again, and is in doubt instead."""
    charge = shop.queue.enqueue(
        steps.charge, order, "raise", retry=RETRY, on_failure=Callback(steps.told_of_failure), meta={"mine": 1}
    )
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    return [charge, book, shop.queue.enqueue(steps.mail, order, depends_on=book)]


def test_nothing_of_a_job_that_is_put_aside_is_used_up(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = a_held_chain(shop, order)
    before = unchanged(jobs[0])
    assert before["retries_left"] == 3
    for moment in (0, 70, 700, 7000):
        shop.work()
        assert is_aside(shop, jobs[0])
        assert unchanged(jobs[0]) == before
        assert [shop.rq_status(job) for job in jobs[1:]] == [JobStatus.DEFERRED] * 2
        assert shop.sweep(moment).errors == []
    assert not shop.work()
    assert ledger.names(order) == ["charge"]


def test_a_verdict_brings_it_back_and_its_chain_goes_on(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = a_held_chain(shop, order)
    shop.work()
    shop.journal.verdicts.happened(held(shop, jobs[0]), encode(f"ch-{order}"), who="ann", why="the bank says so")
    shop.sweep_and_work(1)
    assert is_whole(shop, jobs, order)


def test_after_a_verdict_that_it_did_not_happen_it_has_the_retries_that_it_had(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = a_held_chain(shop, order)
    before = unchanged(jobs[0])
    shop.work()
    shop.journal.verdicts.did_not_happen(held(shop, jobs[0]), who="ann", why="the bank says so")
    assert shop.sweep(1).errors == []
    assert unchanged(jobs[0]) == before
    shop.work()
    assert ledger.names(order) == ["charge", "charge", "book", "mail"]
    assert shop.status(jobs[0]) is WorkflowStatus.SUCCEEDED


def test_requeueing_it_by_hand_over_and_over_does_nothing_twice(shop: Shop, ledger: Ledger, order: str) -> None:
    jobs = a_held_chain(shop, order)
    shop.work()
    before = unchanged(jobs[0])
    for _ in range(4):
        shop.redis.rpush(shop.queue.key, jobs[0].id)
        shop.work()
        assert is_aside(shop, jobs[0])
    assert unchanged(jobs[0]) == before
    assert ledger.names(order) == ["charge"]


def test_a_failed_step_with_a_policy_of_ours_is_put_aside_without_a_word_to_its_callback(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(steps.retried_in_an_hour, order, on_failure=Callback(steps.told_of_failure))
    shop.work()
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    assert ledger.names(order) == ["charge"]
    shop.sweep_and_work(3700)
    assert shop.value(job) == f"ch-{order}"
    assert ledger.names(order) == ["charge", "charge"]


def test_a_delivery_beside_a_running_one_is_put_aside_and_taken_up_when_that_has_ended(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    jobs = chain(shop, order, retry=RETRY)
    row = shop.steps(jobs[0])[0]
    shop.journal.claims.begin(row.ref, row.key, "token of another", shop.binding.host.worker, None)
    shop.work()
    assert is_aside(shop, jobs[0])
    assert ledger.names(order) == []
    row = shop.steps(jobs[0])[0]
    shop.journal.ends.succeed(row.ref, row.key, "token of another", encode(f"ch-{order}"), completes_run=True)
    ledger.record("charge", order, key=None)
    with shop.worker():  # whose rounds over what RQ keeps take it up
        finished(shop, jobs)
    assert is_whole(shop, jobs, order)


def test_a_dependent_that_may_run_although_its_parent_fails_does_not_run_while_that_is_aside(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    charge = shop.queue.enqueue(steps.charge, order, "raise", retry=RETRY)
    book = shop.queue.enqueue(steps.book, order, depends_on=Dependency(jobs=[charge], allow_failure=True))
    shop.work()
    assert is_aside(shop, charge)
    assert shop.rq_status(book) is JobStatus.DEFERRED
    assert ledger.names(order) == ["charge"]


def test_a_rollback_waits_for_a_step_that_is_held_and_goes_on_after_the_verdict(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(saga.charge, order)
    doubtful = shop.queue.enqueue(steps.fail, order, depends_on=charge, retry=RETRY)
    shop.work()
    assert is_aside(shop, doubtful)
    row = next(step for step in shop.steps(charge) if step.status is StepStatus.HELD)
    shop.journal.verdicts.did_not_happen(row, who="ann", why="the printer says so")
    shop.sweep(1)
    assert [shop.work(), ledger.names(order)] == [True, ["charge", "fail", "fail"]]


@pytest.mark.parametrize("kind", ["Worker", "SimpleWorker"])
def test_no_exception_handler_of_our_workers_is_told(busy_shop: Shop, ledger: Ledger, order: str, kind: str) -> None:
    jobs = a_held_chain(busy_shop, order)
    options = (*IMPATIENT, "--exception-handler", "tests.rq.shop.steps.told_of_exception")
    with busy_shop.worker(f"durable_adapter.rq.{kind}", options=options) as worker:
        busy_shop.step_is(jobs[0], StepStatus.HELD)
        eventually(lambda: busy_shop.rq_status(jobs[0]) is JobStatus.SCHEDULED, SOON)
        busy_shop.redis.rpush(busy_shop.queue.key, jobs[0].id)
        after = busy_shop.queue.enqueue(steps.mail, f"{order}-2")
        finished(busy_shop, [after])
        assert is_aside(busy_shop, jobs[0])
        assert "Traceback" not in worker.output
    assert ledger.names(order) == ["charge"]


class Plain(rq.SimpleWorker):
    """A worker of RQ's own, in a process in which the plugin is installed all the same."""

    pubsub_thread = None

    def subscribe(self) -> None: ...

    def _install_signal_handlers(self) -> None: ...


def test_rqs_own_worker_puts_it_aside_just_the_same_and_its_handlers_may_hear_of_it(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    heard: list[type[BaseException]] = []
    jobs = a_held_chain(shop, order)
    before = unchanged(jobs[0])

    def handler(_job: Job, kind: type[BaseException], *_: Any) -> bool:
        heard.append(kind)
        return True

    shop.work(Plain, exception_handlers=[handler])
    assert is_aside(shop, jobs[0])
    assert unchanged(jobs[0]) == before
    assert heard == ([] if since("2.1") else [PutAside])
    assert ledger.names(order) == ["charge"]


@pytest.mark.parametrize("retry", [None, RETRY], ids=["", "retry"])
def test_a_horse_that_is_killed_in_the_middle_is_held_and_comes_back(
    busy_shop: Shop, ledger: Ledger, order: str, retry: Retry | None
) -> None:
    jobs = chain(busy_shop, order, "undeclared", "gate", retry=retry)
    with busy_shop.worker():
        eventually(lambda: ledger.count(order, "at gate"), SOON)
        os.kill(ledger.entries(order, "at gate")[0]["pid"], signal.SIGKILL)
        row = busy_shop.step_is(jobs[0], StepStatus.HELD)
        busy_shop.journal.verdicts.happened(row, encode(f"ch-{order}"), who="ann", why="the bank says so")
        finished(busy_shop, jobs)
    assert is_whole(busy_shop, jobs, order)


def test_a_worker_that_is_asked_to_stop_hands_a_function_on(shop: Shop, ledger: Ledger, order: str) -> None:
    class AskedToStop(InProcess):
        def execute_job(self, *args: Any, **kwargs: Any) -> None:
            shop.binding.host.is_stopping = lambda: bool(ledger.names(order))  # after the first step
            super().execute_job(*args, **kwargs)

    job = shop.queue.enqueue(functions.in_place, order)
    shop.work(AskedToStop, jobs=1)
    assert ledger.names(order) == ["charge"]
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    shop.sweep_and_work(1)
    assert shop.value(job) == [f"ch-{order}", f"bk-{order}", f"ml-{order}"]
    assert ledger.names(order) == ["charge", "book", "mail"]
