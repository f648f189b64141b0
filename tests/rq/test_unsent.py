"""What the caller never sent is not sent by anybody else: jobs that were only saved, and pipelines that were not executed."""

from __future__ import annotations

import gc

import pytest
from redis.exceptions import WatchError
from rq import Queue
from rq.job import Job, JobStatus

from durable_adapter.model import STAMP, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop
from tests.rq_versions import GROUPS, needs_rq

#: An older one begins a transaction in a caller's pipeline each time.
SEVERAL = needs_rq("2.5", "means to send several jobs, or to watch a key, in one pipeline")


class CallerChangedItsMind(Exception):
    """Raised where a caller gives up what it has begun."""


def test_a_job_that_was_only_saved_begins_no_run(shop: Shop, ledger: Ledger, order: str) -> None:
    job = Job.create(steps.charge, (order,), connection=shop.redis, origin=shop.name)
    job.save()
    shop.flush()
    shop.sweep_and_work(70, 700)
    assert shop.count_runs() == 0
    assert ledger.names(order) == []


@pytest.mark.parametrize("fetched", [False, True])
def test_it_begins_when_it_is_sent(shop: Shop, ledger: Ledger, order: str, fetched: bool) -> None:
    job = Job.create(steps.charge, (order,), connection=shop.redis, origin=shop.name)
    job.save()
    assert STAMP not in Job.fetch(job.id, connection=shop.redis).meta
    shop.queue.enqueue_job(Job.fetch(job.id, connection=shop.redis) if fetched else job)
    assert shop.count_runs() == 1
    shop.flush()
    shop.sweep_and_work(70)
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"]


def send_one(shop: Shop, order: str, pipeline: object) -> None:
    shop.queue.enqueue(steps.charge, order, pipeline=pipeline)


def send_a_chain(shop: Shop, order: str, pipeline: object) -> None:
    for step in (steps.charge, steps.book):
        shop.queue.enqueue(step, order, pipeline=pipeline)


def send_many(shop: Shop, order: str, pipeline: object) -> None:
    shop.queue.enqueue_many([Queue.prepare_data(steps.charge, (order,))], pipeline=pipeline)  # type: ignore[arg-type]


@pytest.mark.parametrize("send", [send_one, pytest.param(send_a_chain, marks=SEVERAL), send_many])
class TestPipelines:
    def test_what_is_executed_is_sent(self, shop: Shop, ledger: Ledger, order: str, send: object) -> None:
        with shop.redis.pipeline() as pipeline:
            send(shop, order, pipeline)  # type: ignore[operator]
            assert shop.count_runs() > 0
            pipeline.execute()
        shop.work()
        assert ledger.count(order, "charge") == 1
        assert {run.status for run in shop.journal.reads.listed()} == {WorkflowStatus.SUCCEEDED}

    def test_what_the_caller_gives_up_is_taken_back(self, shop: Shop, ledger: Ledger, order: str, send: object) -> None:
        with pytest.raises(CallerChangedItsMind), shop.redis.pipeline() as pipeline:
            send(shop, order, pipeline)  # type: ignore[operator]
            raise CallerChangedItsMind
        assert shop.count_runs() == 0
        shop.sweep_and_work(70, 700)
        assert ledger.names(order) == []

    def test_so_is_what_is_forgotten(self, shop: Shop, order: str, send: object) -> None:
        send(shop, order, shop.redis.pipeline())  # type: ignore[operator]
        gc.collect()
        assert shop.count_runs() == 0

    @SEVERAL
    def test_so_is_a_transaction_that_redis_refuses(self, shop: Shop, ledger: Ledger, order: str, send: object) -> None:
        key = f"rq:{shop.name}:watched"
        with shop.redis.pipeline() as pipeline:
            pipeline.watch(key)
            pipeline.multi()
            send(shop, order, pipeline)  # type: ignore[operator]
            shop.redis.set(key, 1)
            with pytest.raises(WatchError):
                pipeline.execute()
        assert shop.count_runs() == 0


def test_a_pipeline_may_be_used_again(shop: Shop, ledger: Ledger, order: str) -> None:
    pipeline = shop.redis.pipeline()
    shop.queue.enqueue(steps.charge, order, pipeline=pipeline)
    pipeline.execute()
    shop.queue.enqueue(steps.book, order, pipeline=pipeline)
    pipeline.reset()
    shop.work()
    assert ledger.names(order) == ["charge"]
    assert shop.count_runs() == 1


@GROUPS
def test_a_group_in_a_callers_pipeline_is_taken_back_too(shop: Shop, order: str) -> None:
    from rq.group import Group

    group = Group(connection=shop.redis)
    pipeline = shop.redis.pipeline()
    group.enqueue_many(shop.queue, [Queue.prepare_data(steps.charge, (order,))], pipeline=pipeline)
    assert shop.count_runs() == 1  # RQ executes a caller's pipeline here itself
    assert [job.get_status() for job in group.get_jobs()] == [JobStatus.QUEUED]


def test_a_time_to_live_is_no_longer_when_a_job_is_sent_again(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order, ttl=50)
    shop.redis.delete(job.key)  # as Redis does when it has passed
    shop.work()
    shop.sweep(70)
    assert 0 < int(str(shop.redis.ttl(job.key))) <= 50
    shop.work()
    assert ledger.names(order) == ["charge"]
