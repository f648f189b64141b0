"""What RQ keeps of jobs that nobody runs: how often it is taken up, when it is let go of, and what a round costs."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from redis.exceptions import ResponseError
from rq import Callback, Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.utils import now

import durable_adapter.rq as durable_rq
from durable_adapter.model import Attention, StepStatus, WorkflowStatus, new_token
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.rq import hooks, orphans
from durable_adapter.rq.fields import HANDED_BACK, WORKER_ROW, increment
from durable_adapter.rq.orphans import DEATH_NOTICES, OrphanRecovery
from durable_adapter.runtime.orphans import HAND_BACK_AFTER, HAND_BACKS
from durable_adapter.runtime.values import encode
from tests.celery.ledger import Ledger
from tests.journal.making import a_worker
from tests.rq.shop import functions, steps
from tests.rq.world import Shop
from tests.rq_versions import REPEATS, WAITING, since


def killed_behind_its_step(shop: Shop, job: Job, *, ago: float = 0) -> None:
    """What RQ writes when a horse dies in a job's success callback."""
    job.refresh()
    job.ended_at = now() - timedelta(seconds=ago)
    job._status = JobStatus.FAILED
    job.save()
    shop.redis.zrem(shop.queue.finished_job_registry.key, job.id)
    shop.redis.zadd(FailedJobRegistry(shop.name, connection=shop.redis).key, {job.id: time.time() + 1000 - ago})
    Result.create_failure(job, ttl=1000, exc_string=f"{DEATH_NOTICES[0]}; waitpid returned 9")


def take_up(shop: Shop, made: OrphanRecovery | None = None) -> OrphanRecovery:
    shop.binding.queues = [shop.name]
    found = made or OrphanRecovery(shop.binding)
    found.recover()
    return found


def test_a_callback_that_kills_its_process_each_time_is_not_tried_for_ever(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    killed_behind_its_step(shop, job)
    shop.queue.enqueue(steps.book, order, depends_on=job)
    handed_back = 0
    for ago in (0, 2 * HAND_BACK_AFTER, 4 * HAND_BACK_AFTER, 8 * HAND_BACK_AFTER):
        killed_behind_its_step(shop, job, ago=ago)
        take_up(shop)
        handed_back += shop.queue.job_ids.count(job.id)
        shop.redis.lrem(shop.queue.key, 0, job.id)
    assert handed_back == HAND_BACKS
    assert shop.rq_status(job) is JobStatus.FAILED
    charge = shop.steps(job)[0]
    assert charge.attention == Attention.CALLBACK
    shop.journal.verdicts.acknowledge(charge.ref, charge.key, who="me", why="looked")
    take_up(shop)
    assert shop.steps(job)[0].attention is None
    shop.sweep_and_work(20, 100)
    assert ledger.names(order) == ["charge", "book"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_between_two_tries_it_waits_and_is_not_forgotten(shop: Shop, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    killed_behind_its_step(shop, job)
    made = take_up(shop)
    assert shop.queue.job_ids == [job.id]
    shop.queue.empty()
    job.save()
    killed_behind_its_step(shop, job, ago=HAND_BACK_AFTER / 2)
    increment(job, HANDED_BACK)
    take_up(shop, made)
    assert shop.queue.job_ids == []
    shop.redis.hset(job.key, "ended_at", (now() - timedelta(seconds=HAND_BACK_AFTER)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    take_up(shop, made)
    assert shop.queue.job_ids == [job.id]


def test_a_callback_that_always_fails_does_not_keep_what_follows(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order, on_success=Callback(steps.always_raises))
    shop.queue.enqueue(steps.book, order, depends_on=job)
    shop.work()
    for moment in (70, 200, 500, 1000, 2000, 5000, 10_000):
        shop.sweep(moment)
        if shop.rq_status(job) is JobStatus.FAILED:  # RQ's verdict is as old as the sweep says
            shop.redis.hset(job.key, "ended_at", "2026-01-01T00:00:00.000000Z")
        shop.work()
    assert [name for name in ledger.names(order) if name != "callback"] == ["charge", "book"]
    assert ledger.count(order, "callback") == 1 + HAND_BACKS
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    found = {f.kind: f for f in look_for_trouble(shop.journal, namespace="default").findings}
    assert "--acknowledge" in found["called_failed"].command  # type: ignore[index]


def test_a_callback_that_fails_once_is_called_again(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order, on_success=Callback(steps.once_raises))
    shop.queue.enqueue(steps.book, order, depends_on=job)
    shop.work()
    shop.sweep_and_work(70)
    assert ledger.names(order) == ["charge", "callback", "callback", "book"]
    assert shop.steps(job)[0].attention is None


class TestLettingGo:
    def test_a_job_of_a_cancelled_run(self, shop: Shop, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        shop.journal.runs.cancel(shop.of(job).ref, who="me", why="enough")
        shop.work()
        assert shop.rq_status(job) is JobStatus.SCHEDULED
        self.is_let_go(shop, job)

    def test_a_held_job_whose_run_is_cancelled(self, shop: Shop, order: str) -> None:
        job = shop.queue.enqueue(steps.fail, order, retry=Retry(max=1))
        shop.work()
        held = shop.steps(job)[0]
        assert held.status is StepStatus.HELD
        take_up(shop)
        assert shop.rq_status(job) is JobStatus.SCHEDULED
        shop.journal.runs.cancel(held.ref, who="me", why="enough")
        shop.journal.verdicts.did_not_happen(held, who="me", why="looked", again=True)
        assert shop.steps(job)[0].status is StepStatus.CANCELLED
        self.is_let_go(shop, job)

    def test_a_job_whose_run_the_journal_does_not_have(self, shop: Shop, order: str) -> None:
        job = shop.queue.enqueue(steps.charge, order)
        shop.journal.starts.forget(shop.of(job).ref)
        shop.work()
        self.is_let_go(shop, job)

    def is_let_go(self, shop: Shop, job: Job) -> None:
        take_up(shop)
        assert shop.rq_status(job) is JobStatus.CANCELED
        assert ScheduledJobRegistry(shop.name, connection=shop.redis).count == 0
        assert int(str(shop.redis.ttl(job.key))) > 0

    @WAITING
    def test_but_nothing_that_still_waits(self, shop: Shop, ledger: Ledger, order: str) -> None:
        held = shop.queue.enqueue(steps.fail, order, retry=Retry(max=1))
        asleep = shop.queue.enqueue(functions.sleeps, order, 30 * 86_400)
        polls = shop.queue.enqueue(steps.polls, order, 1, interval=30 * 86_400)
        plain = shop.queue.enqueue(steps.unmarked_polls, order)
        shop.work()
        take_up(shop)
        assert [shop.rq_status(job) for job in (held, asleep, polls, plain)] == [JobStatus.SCHEDULED] * 4


@REPEATS
def test_the_next_tick_of_a_repeated_job_is_left_where_rq_has_scheduled_it(shop: Shop, ledger: Ledger, order: str) -> None:
    from rq import Repeat

    job = shop.queue.enqueue(steps.charge, order, repeat=Repeat(times=1, interval=30 * 86_400))
    shop.work()
    shop.redis.hset(job.key, "number_of_retries", 1)  # what RQ counts is none of this
    take_up(shop)
    assert shop.queue.scheduled_job_registry.get_job_ids() == [job.id]
    assert ledger.names(order) == ["charge"]


def test_what_was_delivered_too_early_is_taken_up_when_it_may_begin(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    shop.redis.delete(charge.key)
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    shop.work()
    take_up(shop)
    assert shop.rq_status(book) is JobStatus.SCHEDULED
    shop.sweep(70)
    shop.work(jobs=1)
    take_up(shop)
    shop.work()
    assert ledger.names(order) == ["charge", "book"]


def test_many_that_wait_do_not_hide_one_that_need_not(shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    held = [shop.queue.enqueue(steps.fail, f"{order}-{n}", retry=Retry(max=1)) for n in range(5)]
    shop.work()
    for job in held:
        shop.journal.runs.cancel(shop.of(job).ref, who="me", why="enough")
    last = shop.steps(held[2])[0]
    shop.journal.verdicts.did_not_happen(last, who="me", why="looked", again=True)
    made = OrphanRecovery(shop.binding)
    for _ in range(4):
        take_up(shop, made)
    assert [shop.rq_status(job) is JobStatus.CANCELED for job in held] == [False, False, True, False, False]


@pytest.mark.parametrize("many", [3, 30])
def test_a_round_costs_the_same_however_many_jobs_there_are(shop: Shop, order: str, many: int) -> None:
    jobs = [shop.queue.enqueue(steps.charge, order) for _ in range(many)]
    shop.binding.queues = [shop.name]
    _ = shop.binding.host.worker
    shop.redis.hset(f"rq:worker:{shop.name}", WORKER_ROW, shop.binding.host.row or "")
    started = StartedJobRegistry(shop.name, connection=shop.redis)
    for job in jobs:
        shop.redis.hset(job.key, mapping={"status": "started", "worker_name": shop.name})
        shop.redis.zadd(started.key, {f"{job.id}:execution": time.time() + 90})
    reads: list[Any] = []

    def count(*_: Any) -> None:
        reads.append(1)

    sa.event.listen(shop.journal.db.engine, "before_cursor_execute", count)
    try:
        OrphanRecovery(shop.binding).recover()
    finally:
        sa.event.remove(shop.journal.db.engine, "before_cursor_execute", count)
    assert len(reads) <= 2
    durable_rq.uninstall()
    hooks.install(shop.binding)


@pytest.mark.parametrize("lives", [True, False])
def test_a_job_at_its_callbacks_is_left_to_its_worker_as_long_as_that_lives(
    shop: Shop, ledger: Ledger, order: str, lives: bool
) -> None:
    """Its success is recorded, and RQ does not have it yet: what depends on it waits for nobody else."""
    job = shop.queue.enqueue(steps.charge, order)
    behind = shop.queue.enqueue(steps.book, order, depends_on=job)
    ref, charge = shop.of(job).ref, shop.steps(job)[0]
    shop.redis.lrem(shop.queue.key, 0, job.id)
    shop.binding.host.introduce()
    row = a_worker(shop.journal, f"w-{order}", engine="rq")
    shop.redis.hset(f"rq:worker:{order}", WORKER_ROW, row)
    job.worker_name = order
    job._status = JobStatus.STARTED
    job.save()
    started = StartedJobRegistry(shop.name, connection=shop.redis)
    shop.redis.zadd(started.key, {f"{job.id}:1" if since("2.0") else job.id: time.time() + 90})
    token = new_token()
    assert shop.journal.claims.begin(ref, charge.key, token, row)
    assert shop.journal.ends.succeed(ref, charge.key, token, encode("ch-1"), completes_run=True)
    if not lives:
        assert shop.journal.workers.stood_still(row, 0, "its beat stood still")
    for after in (70, 700):
        assert shop.sweep(after).errors == []
    assert shop.redis.zcard(started.key) == (1 if lives else 0)
    assert shop.queue.job_ids == ([] if lives else [job.id])
    assert shop.rq_status(behind) is JobStatus.DEFERRED
    assert ledger.names(order) == []


def test_a_redis_that_cannot_look_into_a_list_is_asked_for_all_of_it(
    shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LPOS came with Redis 6.0.6."""

    def unknown(*_args: Any) -> Any:
        raise ResponseError("unknown command `LPOS`")

    job = shop.queue.enqueue(steps.charge, order)
    monkeypatch.setattr(type(shop.redis), "lpos", unknown)
    step, engine = shop.steps(job)[0], shop.binding.engine
    assert engine.is_gone(step) is False
    shop.redis.lrem(shop.queue.key, 0, job.id)
    assert engine.is_gone(step) is True
