"""Order, dependencies, groups, repetition, schedules and registries of unmarked jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rq import Queue
from rq.decorators import job as job_decorator
from rq.job import Dependency, JobStatus
from rq.registry import StartedJobRegistry

from tests.rq_unchanged import jobs
from tests.rq_unchanged.stage import RQ, Stage
from tests.rq_versions import GROUPS, REPEATS, needs_rq


def test_jobs_run_in_their_order_and_at_front_comes_first(rq: Stage) -> None:
    for name in "ab":
        rq.queue().enqueue(jobs.named, name)
    rq.queue().enqueue(jobs.named, "first", at_front=True)
    rq.work()
    assert rq.ledger() == ["first", "a", "b"]


def test_queues_are_served_in_the_order_in_which_they_are_given(rq: Stage) -> None:
    low, high = rq.queue("low"), rq.queue("high")
    low.enqueue(jobs.named, "low")
    high.enqueue(jobs.named, "high")
    rq.work(high, low)
    assert rq.ledger() == ["high", "low"]


def test_the_decorator_sends(rq: Stage) -> None:
    sends = job_decorator(rq.queue(), connection=rq.connection, result_ttl=77)(jobs.add)
    sent = sends.delay(1, b=1)
    rq.work()
    assert (sent.return_value(), rq.job(sent.id).result_ttl) == (2, 77)


def test_a_worker_stops_after_as_many_jobs_as_it_was_told(rq: Stage) -> None:
    for name in "abc":
        rq.queue().enqueue(jobs.named, name)
    rq.work(max_jobs=2)
    assert (rq.ledger(), rq.queue().count) == (["a", "b"], 1)


def test_a_worker_that_was_idle_for_long_enough_stops(rq: Stage) -> None:
    rq.queue().enqueue(jobs.named, "a")
    rq.work(burst=False, max_idle_time=1)
    assert rq.ledger() == ["a"]


def test_a_dependent_waits_is_told_the_result_and_runs(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.add, 1)
    second = queue.enqueue(jobs.child_result, depends_on=first)
    third = queue.enqueue(jobs.named, "third", depends_on=[first, second])
    assert second.get_status() == JobStatus.DEFERRED
    assert sorted(queue.deferred_job_registry.get_job_ids()) == sorted([second.id, third.id])
    rq.work()
    assert rq.ledger() == ["add 1 0", "child", "third"]
    assert second.return_value() == 1


def test_a_dependent_of_a_failure_stays_deferred_unless_it_allows_it(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.fail)
    waits = queue.enqueue(jobs.named, "waits", depends_on=first)
    runs = queue.enqueue(jobs.named, "runs", depends_on=Dependency(jobs=[first], allow_failure=True))
    rq.work()
    assert waits.get_status(refresh=True) == JobStatus.DEFERRED
    assert runs.get_status(refresh=True) == JobStatus.FINISHED
    assert rq.ledger() == ["fail no stock", "runs"]


def test_a_dependent_at_front_overtakes(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.named, "first")
    queue.enqueue(jobs.named, "second")
    queue.enqueue(jobs.named, "overtakes", depends_on=Dependency(jobs=[first], enqueue_at_front=True))
    rq.work()
    assert rq.ledger() == ["first", "overtakes", "second"]


def test_a_cancelled_job_releases_its_dependents_if_asked(rq: Stage) -> None:
    first = rq.queue().enqueue(jobs.add, 1)
    second = rq.queue().enqueue(jobs.named, "second", depends_on=first)
    first.cancel(enqueue_dependents=True)
    rq.work()
    if RQ >= (3, 0):
        assert second.get_status(refresh=True) in (JobStatus.FINISHED, JobStatus.DEFERRED)
    assert "add 1 0" not in rq.ledger()


@GROUPS
def test_the_jobs_of_a_group_are_found_by_it(rq: Stage) -> None:
    from rq.group import Group

    group = Group.create(connection=rq.connection)
    sent = group.enqueue_many(rq.queue(), [Queue.prepare_data(jobs.add, (1,)), Queue.prepare_data(jobs.fail)])
    rq.work()
    assert {job.id for job in Group.fetch(group.name, connection=rq.connection).get_jobs()} == {job.id for job in sent}
    assert [job.get_status(refresh=True) for job in sent] == [JobStatus.FINISHED, JobStatus.FAILED]
    assert {job.group_id for job in sent} == {group.name}


def test_many_jobs_are_sent_at_once(rq: Stage) -> None:
    sent = rq.queue().enqueue_many([Queue.prepare_data(jobs.named, (name,), job_id=name) for name in "abc"])
    assert [job.id for job in sent] == ["a", "b", "c"]
    rq.work()
    assert rq.ledger() == ["a", "b", "c"]


def test_jobs_sent_through_a_callers_pipeline_are_sent_with_it(rq: Stage) -> None:
    with rq.connection.pipeline() as pipe:
        rq.queue().enqueue(jobs.named, "piped", pipeline=pipe)
        assert rq.queue().count == 0
        pipe.execute()
    rq.work()
    assert rq.ledger() == ["piped"]


@REPEATS
def test_a_repeated_job_runs_as_often_as_it_was_told(rq: Stage) -> None:
    from rq import Repeat

    job = rq.queue().enqueue(jobs.named, "tick", repeat=Repeat(times=2, interval=60))
    for ticks in (1, 2):
        rq.work(with_scheduler=True)
        assert rq.ledger() == ["tick"] * ticks
        assert rq.queue().scheduled_job_registry.get_job_ids() == [job.id]
        rq.make_due()
    rq.work(with_scheduler=True)
    assert rq.ledger() == ["tick"] * 3
    assert rq.queue().scheduled_job_registry.get_job_ids() == []


def test_jobs_for_later_are_enqueued_by_the_scheduler_when_they_are_due(rq: Stage) -> None:
    queue = rq.queue()
    past = queue.enqueue_at(datetime.now(UTC) - timedelta(seconds=1), jobs.named, "at")
    soon = queue.enqueue_in(timedelta(hours=1), jobs.named, "in")
    assert past.get_status() == JobStatus.SCHEDULED
    rq.work(with_scheduler=True)
    assert rq.ledger() == ["at"]
    rq.make_due()
    rq.work(with_scheduler=True)
    assert (rq.ledger(), soon.get_status(refresh=True)) == (["at", "in"], JobStatus.FINISHED)


@needs_rq("2.5", "cron scheduler whose jobs are counted")
def test_rqs_cron_sends_what_is_due(rq: Stage) -> None:
    from rq.cron import CronScheduler

    cron = CronScheduler(connection=rq.connection)
    cron.register(jobs.named, "shop", args=("every",), interval=3600)
    cron.register(jobs.named, "shop", args=("at midnight",), cron="0 0 1 1 *")
    assert [job.func for job in cron.enqueue_jobs()] == [jobs.named]
    rq.work()
    assert rq.ledger() == ["every"]


def test_a_job_sends_another(rq: Stage) -> None:
    outer = rq.queue().enqueue(jobs.enqueue_another, "inner")
    rq.work()
    assert rq.ledger() == ["outer", "inner"]
    assert rq.job(outer.return_value()).get_status() == JobStatus.FINISHED


def test_a_fixed_id_names_a_new_job_each_time(rq: Stage) -> None:
    for number in (1, 2):
        rq.queue().enqueue(jobs.add, number, job_id="nightly")
        rq.work()
    assert rq.ledger() == ["add 1 0", "add 2 0"]
    assert rq.job("nightly").return_value() == 2


def test_a_job_that_was_abandoned_is_found_by_the_maintenance_of_the_next_worker(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.named, "a")
    worker = rq.worker()
    queue = rq.queue()
    assert queue.pop_job_id() == job.id
    if RQ >= (2, 0):
        worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    registry = StartedJobRegistry(queue.name, connection=rq.connection)
    member = rq.connection.zrange(registry.key, 0, -1)[0]
    rq.connection.zadd(registry.key, {member: 1})
    registry.cleanup()
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert queue.failed_job_registry.get_job_ids() == [job.id]
    assert rq.ledger() == []


@pytest.mark.skipif(RQ < (3, 0), reason="rate limits came with RQ 3.0")
def test_a_rate_limit_lets_so_many_run_and_the_others_wait(rq: Stage) -> None:
    from rq import RateLimit

    limit = RateLimit("bank", concurrency=1)
    sent = [rq.queue().enqueue(jobs.named, name, job_id=f"job-{name}", rate_limit=limit) for name in "abc"]
    assert [job.get_status().value for job in sent] == ["queued", "rate_limited", "rate_limited"]
    rq.work()
    assert rq.ledger() == ["a", "b", "c"]


@pytest.mark.skipif(RQ < (3, 0), reason="the state came with RQ 3.0")
def test_a_dependent_that_was_left_ready_is_sent_by_maintenance(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.named, "first")
    second = queue.enqueue(jobs.named, "second", depends_on=first)
    rq.work(max_jobs=1)
    assert second.get_status(refresh=True) == JobStatus.QUEUED
    rq.work()
    assert rq.ledger() == ["first", "second"]
