"""Which call a job is, and which worker has it, comes from the journal: not from what a body writes, nor from a worker's name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Retry
from rq import Worker as RQWorker
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import STAMP, StepStatus, WorkflowStatus
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.rq.stamps import FIELD
from tests.celery.ledger import Ledger
from tests.rq.shop import identity, steps
from tests.rq.test_deaths import DiesBeforeItCommits as DiesForReal
from tests.rq.test_scenarios import DiesBeforeItCommits, abandoned
from tests.rq.world import IMPATIENT, SOON, Shop, installed
from tests.servers.waiting import eventually


def dies_behind_its_step(shop: Shop) -> None:
    """Runs what is queued: the first body returns, and nobody tells Redis."""
    shop.work(DiesBeforeItCommits)


class TestABodyThatWritesItsMeta:
    @pytest.mark.parametrize("writes", [identity.assigns_meta, identity.saves_meta, identity.assigns_another_jobs_meta])
    def test_keeps_its_memo_when_rq_runs_it_again(self, shop: Shop, ledger: Ledger, order: str, writes: Any) -> None:
        other = shop.queue.enqueue(steps.book, f"{order}-other")
        shop.work()
        job = shop.queue.enqueue(writes, order, other.id, retry=Retry(max=3))
        after = shop.queue.enqueue(steps.mail, order, depends_on=job)
        dies_behind_its_step(shop)
        abandoned(shop)
        shop.work()
        assert ledger.names(order) == ["charge", "mail"]
        assert [run.status for run in shop.runs_of(job)] == [WorkflowStatus.SUCCEEDED]
        assert [shop.rq_status(each) for each in (job, after)] == [JobStatus.FINISHED] * 2
        assert shop.count_runs() == 2

    def test_and_what_it_wrote(self, shop: Shop, order: str) -> None:
        job = shop.queue.enqueue(identity.saves_meta, order, "")
        shop.work()
        assert Job.fetch(job.id, connection=shop.redis).meta["progress"] == 1

    def test_on_a_real_worker_that_dies_with_its_horse(self, busy_shop: Shop, ledger: Ledger, order: str) -> None:
        shop = busy_shop
        job = shop.queue.enqueue(identity.assigns_meta, order, "", retry=Retry(max=3))
        with shop.worker(f"{DiesForReal.__module__}.{DiesForReal.__name__}") as dying:
            shop.step_is(job, StepStatus.SUCCEEDED)
            dying.wait(SOON)
        abandoned(shop)
        with shop.worker():
            eventually(lambda: shop.rq_status(job) is JobStatus.FINISHED, SOON, lambda: shop.told(job))
        assert ledger.names(order) == ["charge"]
        assert len(shop.runs_of(job)) == 1


class TestTheStampOfAnOlderRelease:
    """It stands in `meta` alone."""

    def test_counts(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        shop.redis.hdel(job.key, FIELD)
        shop.work()
        assert ledger.names(order) == ["charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED
        assert shop.count_runs() == 1

    def test_is_not_handed_on_with_the_meta_of_another_job(self, shop: Shop, ledger: Ledger, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        plain = shop.queue.enqueue(steps.unmarked, order, meta=job.meta)
        assert STAMP not in Job.fetch(plain.id, connection=shop.redis).meta
        shop.work()
        assert sorted(ledger.names(order)) == ["charge", "unmarked"]
        assert "refused" not in shop.events(job)


def test_an_id_that_is_used_again_without_the_plugin_is_not_the_step_that_had_it(shop: Shop, ledger: Ledger, order: str) -> None:
    """RQ leaves the field in the hash, which says when the job was made that it belongs to."""
    job_id = f"nightly-{order}"
    shop.queue.enqueue(steps.charge, order, job_id=job_id)
    shop.work()
    durable_rq.uninstall()
    shop.queue.enqueue(steps.charge, order, job_id=job_id)
    assert shop.redis.hexists(f"rq:job:{job_id}", FIELD)
    shop.binding = installed(shop.journal_url)
    shop.work()
    assert ledger.names(order) == ["charge", "charge"]
    assert len(shop.runs_of(job_id)) == 2


class TestAHashThatIsLostWhileItsJobRuns:
    """Redis threw it away, because it is full."""

    @pytest.mark.parametrize("killed", [False, True], ids=["ends", "killed"])
    def test_does_not_stop_its_chain(self, busy_shop: Shop, ledger: Ledger, order: str, killed: bool) -> None:
        shop = busy_shop
        charge = shop.queue.enqueue(steps.charge_idempotent, order, "gate")
        book = shop.queue.enqueue(steps.book, order, depends_on=charge)
        with shop.worker() as worker:
            eventually(lambda: ledger.count(order, "at gate"), SOON)
            shop.redis.delete(charge.key, *([book.key] if killed else []))
            if killed:
                _kill_horse(worker.pid)
            ledger.open("gate", order)
            shop.step_is(charge, StepStatus.SUCCEEDED)
            eventually(lambda: _swept(shop, book), SOON, lambda: shop.told(charge))
        assert steps.charges(order) == 1
        assert ledger.count(order, "book") == 1
        assert look_for_trouble(shop.journal, namespace="default").findings == []

    def test_is_not_taken_for_another_jobs(self, busy_shop: Shop, ledger: Ledger, order: str) -> None:
        """What RQ writes anew of it has no `meta`, and says nothing of a run where a worker without the plugin writes it."""
        shop = busy_shop
        charge = shop.queue.enqueue(steps.charge, order, "gate")
        with shop.worker():
            eventually(lambda: ledger.count(order, "at gate"), SOON)
            shop.redis.delete(charge.key)
            ledger.open("gate", order)
            shop.step_is(charge, StepStatus.SUCCEEDED)
            eventually(lambda: shop.rq_status(charge) is JobStatus.FINISHED, SOON, lambda: shop.told(charge))
        shop.redis.hdel(charge.key, FIELD)
        engine, (step,) = shop.binding.engine, shop.steps(charge)
        assert engine.outcome(step) is not None
        found = shop.binding.here.job_of(step)
        assert found is not None
        assert "meta" not in [name.decode() for name in shop.redis.hkeys(charge.key)]


class TestAWorkerUnderTheNameOfADeadOne:
    def test_does_not_keep_what_that_had_started(self, busy_shop: Shop, ledger: Ledger, order: str) -> None:
        shop = busy_shop
        charge = shop.queue.enqueue(steps.charge, order)
        book = shop.queue.enqueue(steps.book, order, depends_on=charge)
        named = {"options": (*IMPATIENT, "--name", f"worker-of-{order}")}
        with shop.worker(f"{DiesForReal.__module__}.{DiesForReal.__name__}", **named) as dying:
            shop.step_is(charge, StepStatus.SUCCEEDED)
            dying.wait(SOON)
        _forgotten_by_rq(shop.redis, f"worker-of-{order}")
        assert shop.rq_status(charge) is JobStatus.STARTED
        with shop.worker(**named):
            eventually(lambda: shop.rq_status(book) is JobStatus.FINISHED, SOON, lambda: shop.told(charge))
        assert ledger.names(order) == ["charge", "book"]


def _swept(shop: Shop, last: Job) -> bool:
    """Sweeps as if a while had passed; returns whether the last job of a chain has ended."""
    ends = [row.ended_at or 0 for row in shop.steps(last)]
    if any(row.beat_at > max(ends) for row in shop.journal.workers.alive() if row.role != "sweeper"):  # it listens still
        shop.sweep(90)
    return shop.rq_status(last) is JobStatus.FINISHED


def _forgotten_by_rq(connection: Redis, name: str) -> None:
    """RQ's hash of a dead worker has expired, so that its name is free."""
    key = f"{RQWorker.redis_worker_namespace_prefix}{name}"
    connection.srem("rq:workers", key)
    connection.delete(key)


def _kill_horse(worker: int) -> None:
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
