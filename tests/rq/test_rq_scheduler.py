"""Jobs that rq-scheduler sends: each tick is a run of its own, and a tick that is delivered again is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq import Retry
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop

rq_scheduler = pytest.importorskip("rq_scheduler", reason="rq-scheduler is not installed")


def soon(seconds: float = 0) -> datetime:
    """As rq-scheduler wants its times."""
    return datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=seconds)


class Clock:
    """An rq-scheduler that a test moves on; where it has the plugin is up to the test."""

    def __init__(self, shop: Shop, hooked: set[str]) -> None:
        self.shop = shop
        self.hooked = hooked
        self.scheduler = rq_scheduler.Scheduler(queue_name=shop.name, connection=shop.redis)

    def schedule(self, function: Callable[..., Any], order: str, **options: Any) -> Job:
        """A job of every minute."""
        with_plugin(self.shop, "publisher" in self.hooked)
        job: Job = self.scheduler.schedule(soon(), function, args=[order], **{"interval": 60, **options})
        with_plugin(self.shop, True)
        return job

    def tick(self) -> None:
        """Sends everything that is scheduled, due or not."""
        with_plugin(self.shop, "scheduler" in self.hooked)
        for job_id in self.shop.redis.zrange(self.scheduler.scheduled_jobs_key, 0, -1):
            job = Job.fetch(job_id.decode(), connection=self.shop.redis)
            if job.origin == self.shop.name:
                self.scheduler.enqueue_job(job)
        with_plugin(self.shop, True)


def with_plugin(shop: Shop, wanted: bool) -> None:
    if wanted and not shop.binding.is_installed:
        hooks.install(shop.binding)
    elif not wanted:
        durable_rq.uninstall()


@pytest.fixture(params=["everywhere", "in workers alone", "in publisher and worker"])
def clock(shop: Shop, request: pytest.FixtureRequest) -> Clock:
    hooked = {"everywhere": {"publisher", "scheduler"}, "in workers alone": set(), "in publisher and worker": {"publisher"}}
    return Clock(shop, hooked[request.param])


def test_each_tick_is_a_run_of_its_own(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    job = clock.schedule(steps.charge, order)
    for _ in range(3):
        clock.tick()
        shop.work()
    assert ledger.names(order) == ["charge"] * 3
    assert [run.status for run in shop.runs_of(job)] == [WorkflowStatus.SUCCEEDED] * 3


def test_a_tick_that_failed_does_not_stop_the_next(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    job = clock.schedule(steps.declines_once, order)
    for _ in range(3):
        clock.tick()
        shop.work()
    assert ledger.names(order) == ["decline", "charge", "charge"]
    statuses = [run.status for run in shop.runs_of(job)]
    assert statuses == [WorkflowStatus.FAILED, WorkflowStatus.SUCCEEDED, WorkflowStatus.SUCCEEDED]


def test_a_tick_that_is_delivered_again_is_the_same(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    job = clock.schedule(steps.charge, order)
    for number in range(1, 3):
        clock.tick()
        shop.work()
        run = shop.of(job)
        shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
        shop.work()
        assert ledger.names(order) == ["charge"] * number
        assert shop.rq_status(job) is JobStatus.FINISHED


def test_a_failed_tick_that_somebody_requeues_is_the_same(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    job = clock.schedule(steps.fail, order)
    clock.tick()
    shop.work()
    job.refresh()
    job.requeue()
    shop.work()
    assert ledger.names(order) == ["fail"]
    clock.tick()
    shop.work()
    assert ledger.names(order) == ["fail"] * 2


def test_a_tick_that_is_held_is_decided_before_the_next_begins(clock: Clock, ledger: Ledger, order: str) -> None:
    """What comes in meanwhile cannot be told from the held one, and is put aside with it."""
    shop = clock.shop
    job = clock.schedule(steps.raises_once, order)
    job.retries_left = 1
    job.save()
    clock.tick()
    shop.work()
    clock.tick()
    shop.work()
    assert ledger.names(order) == ["charge"]
    held = shop.steps(job)[0]
    assert held.status is StepStatus.HELD
    shop.journal.verdicts.did_not_happen(held, who="a person", why="looked")
    shop.sweep_and_work(1, 70)
    assert ledger.names(order) == ["charge"] * 2
    clock.tick()
    shop.work()
    assert ledger.names(order) == ["charge"] * 3
    assert [run.status for run in shop.runs_of(job)] == [WorkflowStatus.SUCCEEDED] * 2


def test_two_ticks_that_wait_at_once_are_one(clock: Clock, ledger: Ledger, order: str) -> None:
    clock.schedule(steps.charge, order)
    clock.tick()
    clock.tick()
    clock.shop.work()
    assert ledger.names(order) == ["charge"]


def test_a_tick_that_was_retried_is_the_same_and_the_next_is_not(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    job = clock.schedule(steps.keyed, order, kwargs={"failures": 1})
    job.retries_left = 3
    job.save()
    clock.tick()
    shop.work()
    assert ledger.count(order, "charge") == 2
    assert len(shop.runs_of(job)) == 1
    clock.tick()
    shop.work()
    assert len(shop.runs_of(job)) == 2
    assert shop.steps(shop.runs_of(job)[1])[0].attempt == 1


@pytest.mark.parametrize("periodic", [False, True])
def test_what_is_scheduled_is_not_sent_before_its_time(clock: Clock, ledger: Ledger, order: str, periodic: bool) -> None:
    shop = clock.shop
    if periodic:
        clock.scheduler.cron("0 0 1 1 *", steps.charge, args=[order])
    else:
        clock.scheduler.enqueue_at(soon(7 * 86_400), steps.charge, order)
    shop.sweep_and_work(70, 700)
    shop.flush()
    shop.sweep_and_work(1000, 10_000)
    assert ledger.names(order) == []
    assert shop.count_runs() == 0


def test_what_was_scheduled_once_is_a_run(clock: Clock, ledger: Ledger, order: str) -> None:
    shop = clock.shop
    with_plugin(shop, "publisher" in clock.hooked)
    job = clock.scheduler.enqueue_at(soon(), steps.charge, order)
    with_plugin(shop, True)
    clock.tick()
    shop.work()
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_retry_of_rqs_own_needs_no_help(shop: Shop, ledger: Ledger, order: str) -> None:
    """Nothing of this concerns a job that merely has `interval` in its meta from somebody else, and is enqueued once."""
    job = shop.queue.enqueue(steps.keyed, order, 1, retry=Retry(max=2), meta={"interval": 5})
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert len(shop.runs_of(job)) == 1
