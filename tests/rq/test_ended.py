"""What RQ ends on purpose before it begins is never sent again by itself: cancelled, stopped, deleted, expired."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rq.job import Job, JobStatus, cancel_job
from rq.registry import DeferredJobRegistry
from rq.results import Result

import durable_adapter.rq as durable_rq
from durable_adapter.errors import JournalUnreachable
from durable_adapter.model import Cause, Effect, StepStatus, WorkflowStatus
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.reconcile.finding import Trouble
from durable_adapter.rq import ended
from tests.celery.ledger import Ledger
from tests.rq.shop import ends, functions, steps
from tests.rq.world import ROOT, SOON, InProcess, Shop, installed
from tests.rq_versions import WAITING
from tests.servers.waiting import eventually

End = Callable[[Shop, Job], Any]
#: Each way in which somebody ends a job that waits in its queue.
ENDS: dict[str, End] = {
    "cancelled": lambda _, job: job.cancel(),
    "cancelled by id": lambda shop, job: cancel_job(job.id, connection=shop.redis),
    "cancelled, with what depends on it sent": lambda _, job: job.cancel(enqueue_dependents=True),
    "deleted": lambda _, job: job.delete(),
    "deleted by another process": lambda shop, job: Job.fetch(job.id, connection=shop.redis).delete(),
    "deleted with what depends on it": lambda _, job: job.delete(delete_dependents=True),
    "queue emptied": lambda shop, _: shop.queue.empty(),
    "queue deleted": lambda shop, _: shop.queue.delete(),
    "its registry emptied": lambda shop, job: shop.queue.remove(job) and job.cancel(),
}


def ordered_again(shop: Shop, job: Job) -> None:
    """A person's `retry`, as `reconcile` prints it."""
    words = [sys.executable, "-m", "durable_adapter.cli", "-u", shop.url, "--import", "tests.rq.shop.steps", "retry"]
    words += [shop.of(job).ref, "--by", "me", "--why", "it is to run after all", "--apply"]
    environment = {**os.environ, "DURABLE_ADAPTER_JOURNAL": shop.journal_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done


def is_ended(shop: Shop, ledger: Ledger, job: Job, order: str) -> bool:
    """Nothing of a chain has run, and nothing of it will; a person is told how to start it."""
    assert ledger.names(order) == []
    rows = shop.steps(job)
    assert {row.status for row in rows} == {StepStatus.CANCELLED}
    assert [row.cause for row in rows] == [Cause.ENDED_BY_ENGINE, *[None] * (len(rows) - 1)]
    assert shop.status(job) is WorkflowStatus.CANCELLED
    (found,) = look_for_trouble(shop.journal, namespace="default").findings
    assert found.kind == Trouble.ENDED_BY_ENGINE
    assert "retry" in str(found.command)
    return True


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_is_not_sent_again_and_a_person_can_start_it(shop: Shop, ledger: Ledger, order: str, end: End) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=job)
    end(shop, job)
    shop.work()
    shop.sweep_and_work(0, 70, 700, 7000)
    assert is_ended(shop, ledger, job, order)
    assert DeferredJobRegistry(shop.name, connection=shop.redis).count == 0
    ordered_again(shop, job)
    shop.work()
    shop.sweep_and_work(0, 70, 700)
    assert ledger.names(order) == ["charge", "book"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert look_for_trouble(shop.journal, namespace="default").findings == []
    assert [shop.rq_status(each) for each in (job, book)] == [JobStatus.FINISHED] * 2


def test_on_a_real_worker_while_it_is_busy(busy_shop: Shop, ledger: Ledger, order: str) -> None:
    shop = busy_shop
    with shop.worker():
        before = shop.queue.enqueue(steps.charge, f"{order}-before", "gate")
        eventually(lambda: ledger.count(f"{order}-before", "at gate"), SOON)
        jobs = [shop.queue.enqueue(steps.charge, order) for _ in range(2)]
        jobs[0].cancel()
        jobs[1].delete()
        ledger.open("gate", f"{order}-before")
        shop.settled(before, WorkflowStatus.SUCCEEDED)
        shop.sweep(90)
        for job in jobs:
            shop.settled(job, WorkflowStatus.CANCELLED)
        after = shop.queue.enqueue(steps.charge, f"{order}-after")
        shop.settled(after, WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == []


@pytest.mark.parametrize("member", [0, 1], ids=["marked", "unmarked"])
def test_what_rq_deletes_once_its_body_has_returned_was_not_ended_before_it_began(
    shop: Shop, order: str, member: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 3.0 RQ deletes a job with result_ttl=0 while its status still says that it runs."""
    charge = shop.queue.enqueue(steps.charge, order, result_ttl=0)
    unmarked = shop.queue.enqueue(steps.unmarked, order, depends_on=charge, result_ttl=0)
    fetched = Job.fetch((charge, unmarked)[member].id, connection=shop.redis)
    fetched.perform()
    told: list[str] = []
    monkeypatch.setattr(ended, "ended_by_engine", lambda _journal, ref, *_args, **_named: told.append(ref))
    fetched.delete()
    assert told == []


def test_a_job_that_waits_for_its_next_attempt_is_not_tried_again(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.retried_in_an_hour, order)
    shop.work()
    assert shop.steps(job)[0].status is StepStatus.WAITING
    Job.fetch(job.id, connection=shop.redis).cancel()
    shop.sweep_and_work(3601, 7200, 10_000)
    assert ledger.names(order) == ["charge"]
    (row,) = shop.steps(job)
    assert row.cause == Cause.ENDED_BY_ENGINE
    assert row.effect in (Effect.UNKNOWN, Effect.DID_NOT_HAPPEN)
    ordered_again(shop, job)
    shop.sweep_and_work(0, 70)
    assert ledger.count(order, "charge") == 2
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_what_has_begun_is_not_ended_by_that(busy_shop: Shop, ledger: Ledger, order: str) -> None:
    shop = busy_shop
    with shop.worker():
        for end in (Job.cancel, Job.delete):
            name = f"{order}-{end.__name__}"
            job = shop.queue.enqueue(steps.charge, name, "gate")
            eventually(lambda name=name: ledger.count(name, "at gate"), SOON)  # type: ignore[misc]
            end(Job.fetch(job.id, connection=shop.redis))
            shop.sweep(90)
            ledger.open("gate", name)
            shop.settled(job, WorkflowStatus.SUCCEEDED)


@WAITING
def test_a_job_that_a_function_sent_fails_there(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.dispatches, order, shop.name)
    shop.work(jobs=1)
    sent = next(s for s in shop.steps(job) if s.name.endswith("charge"))
    Job.fetch(str(sent.task_id), connection=shop.redis).cancel()
    shop.work()
    shop.sweep_and_work(0, 70, 140, 700)
    assert sorted(ledger.names(order)) == ["book", "unmarked"]
    assert shop.status(job) is WorkflowStatus.FAILED
    assert "EndedByEngine" in str(Job.fetch(job.id, connection=shop.redis).latest_result().exc_string)


class TestATimeToLive:
    def test_that_has_passed(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order, ttl=1)
        shop.queue.enqueue(steps.book, order, depends_on=job)
        eventually(lambda: not shop.redis.exists(job.key), SOON)
        shop.work()
        shop.work(InProcess)  # one with the plugin has served the queue: it was there, and took nothing
        shop.sweep_and_work(70, 700)
        assert is_ended(shop, ledger, job, order)

    def test_is_not_begun_anew_by_a_flush(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order, ttl=3000)
        shop.flush()
        shop.work()
        shop.sweep(70)
        left = int(str(shop.redis.ttl(job.key)))
        assert 2900 < left < 3000
        shop.work()
        assert ledger.names(order) == ["charge"]


def test_without_the_journal_nothing_is_deleted(shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = shop.queue.enqueue(steps.charge, order)

    def away(*_: Any) -> Any:
        raise JournalUnreachable("the journal is away")

    monkeypatch.setattr(shop.journal.db, "select", away)
    monkeypatch.setattr(shop.journal.reads, "steps", away)
    for end in (job.delete, shop.queue.empty):
        with pytest.raises(JournalUnreachable):
            end()
    assert shop.queue.job_ids == [job.id]
    assert shop.redis.exists(job.key)


class TestWhatIsNoEnd:
    """Whatever kept the body from running by mistake."""

    def test_data_that_cannot_be_read_is_written_anew(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        shop.queue.enqueue(steps.book, order, depends_on=job)
        shop.redis.hset(job.key, "data", b"not what a serializer wrote")
        shop.work()
        assert shop.rq_status(job) is JobStatus.FAILED
        shop.sweep_and_work(70, 140)
        assert ledger.names(order) == ["charge", "book"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED

    def test_a_worker_without_the_plugin_that_lacks_the_function_has_not_run_it(
        self, shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        durable_rq.uninstall()
        with monkeypatch.context() as without:
            without.delattr(steps, "charge")
            shop.work_plainly()
        shop.binding = installed(shop.journal_url)
        shop.binding.seen(shop.redis)
        assert shop.rq_status(job) is JobStatus.FAILED
        shop.sweep(70)
        assert shop.steps(job)[0].status is StepStatus.PLANNED
        shop.work()
        assert ledger.names(order) == ["charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED

    def test_but_one_whose_body_raised_the_same_error_may_have(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(ends.charge, order, "ImportError")
        durable_rq.uninstall()
        shop.work_plainly()
        shop.binding = installed(shop.journal_url)
        shop.binding.seen(shop.redis)
        shop.sweep(70)
        assert shop.steps(job)[0].status in (StepStatus.IN_DOUBT, StepStatus.HELD)
        assert ledger.names(order) == ["charge"]


class TestAStopCommand:
    def stopped(self, shop: Shop, job: Job) -> None:
        """What RQ writes where the horse is killed; nothing says that its body began."""
        with shop.redis.pipeline() as pipe:
            job.prepare_for_execution("a-worker", pipe)
            job.set_status(JobStatus.STOPPED, pipeline=pipe)
            pipe.zadd(shop.queue.failed_job_registry.key, {job.id: 2**31})
            pipe.execute()

    @pytest.mark.parametrize("charge", [steps.charge, steps.charge_idempotent])
    def test_before_the_body_ends_the_step(self, shop: Shop, ledger: Ledger, order: str, charge: Any) -> None:
        job = shop.queue.enqueue(charge, order)
        assert shop.binding.host.introduce()
        self.stopped(shop, job)
        shop.queue.remove(job)
        shop.sweep_and_work(70, 700)
        assert is_ended(shop, ledger, job, order)

    def test_on_a_worker_without_the_plugin_may_have_come_too_late(self, shop: Shop, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        durable_rq.uninstall()
        self.stopped(shop, job)
        Result.create_failure(job, ttl=1000, exc_string="Job stopped by user, work-horse terminated.")
        shop.binding = installed(shop.journal_url)
        shop.binding.seen(shop.redis)
        shop.queue.remove(job)
        shop.sweep(70)
        assert shop.steps(job)[0].status in (StepStatus.IN_DOUBT, StepStatus.HELD)
