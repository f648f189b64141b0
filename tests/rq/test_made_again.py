"""A job that is made again from the journal is the job that it was: with its limits, its group, its hooks, its serializer."""

from __future__ import annotations

from typing import Any

import pytest
from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

import durable_adapter.rq as durable_rq
from durable_adapter.model import STAMP, StepStatus, WorkflowStatus
from durable_adapter.rq import hooks
from durable_adapter.runtime.publication import publishing
from tests.celery.ledger import Ledger
from tests.rq.shop import saga, steps
from tests.rq.world import Shop

rate_limit = pytest.importorskip("rq.rate_limit", reason="this RQ has no rate limits")
webhook = pytest.importorskip("rq.webhook", reason="this RQ has no webhooks")

#: What RQ writes of a job that is not kept, and why.
LEFT = {
    "enqueued_at": "it is enqueued anew",
    "started_at": "of a delivery that nobody remembers",
    "ended_at": "likewise",
    "last_heartbeat": "likewise",
    "worker_name": "likewise",
    "number_of_retries": "how often it was put aside in the Redis that is gone",
    "status": "it is queued, or waits for what it depends on",
}


def test_everything_that_rq_writes_of_a_job_is_kept_or_left_for_a_reason(shop: Shop, order: str) -> None:
    before = shop.queue.enqueue(steps.charge, order)
    job = Job.create(
        steps.book,
        (order,),
        connection=shop.redis,
        origin=shop.name,
        result_ttl=77,
        ttl=888,
        failure_ttl=999,
        timeout=55,
        description="a booking",
        depends_on=before,
        meta={"tenant": "shop"},
        group_id="a-group",
        on_success=Callback(steps.once_raises, timeout=7),
        on_failure=Callback(steps.once_raises, timeout=8),
        on_stopped=Callback(steps.unmarked, timeout=9),
        webhooks=[webhook.Webhook("https://shop.test/hook", "finished", method="POST", headers={"x": "y"})],
    )
    job.rate_limit_key, job.rate_limit_concurrency = "bank", 2
    from rq import Repeat

    retry, repeat = Retry(max=3, interval=[1, 2], enqueue_at_front=True), Repeat(times=2, interval=[3, 4])
    job.retries_left, job.retry_intervals = retry.max, retry.intervals
    job.enqueue_at_front_on_retry, job.enqueue_at_front = True, True
    job.repeats_left, job.repeat_intervals = repeat.times, repeat.intervals
    shop.queue.enqueue_job(job)
    told = job.to_dict()
    run = shop.of(job)
    step = next(s for s in shop.steps(run) if s.task_id == job.id)
    with publishing(is_repeated=True):
        made = shop.binding.engine._made(shop.binding.here, run, step, shop.steps(run))
    again = made.to_dict()
    assert set(told) >= {"rate_limit_key", "webhooks", "repeats_left", "retry_intervals", "dependency_ids", "durable_run"}
    assert {name for name in {*told, *again} if again.get(name) != told.get(name)} <= set(LEFT) | {"data", "meta"}
    assert (made.func_name, list(made.args), made.kwargs) == (job.func_name, list(job.args), job.kwargs)
    assert made.meta == job.meta
    assert made.meta == {"tenant": "shop", STAMP: made.meta[STAMP]}


class TestRateLimits:
    def limited(self, shop: Shop, order: str) -> list[Job]:
        limit = rate_limit.RateLimit(f"bank-{order}", 1)
        return [shop.queue.enqueue(step, order, rate_limit=limit) for step in (steps.charge, steps.book, steps.mail)]

    def test_a_job_that_waits_for_its_limit_is_not_lost(self, shop: Shop, ledger: Ledger, order: str) -> None:
        jobs = self.limited(shop, order)
        assert shop.sweep(70).sent_again == 0
        assert [shop.rq_status(job) for job in jobs] == [JobStatus.QUEUED, *[JobStatus.RATE_LIMITED] * 2]
        shop.work()
        assert sorted(ledger.names(order)) == ["book", "charge", "mail"]

    def test_one_that_is_made_again_keeps_its_limit(self, shop: Shop, ledger: Ledger, order: str) -> None:
        jobs = self.limited(shop, order)
        shop.flush()
        shop.sweep(70)
        assert sorted(shop.rq_status(job) for job in jobs) == ["queued", "rate_limited", "rate_limited"]
        shop.work()
        assert sorted(ledger.names(order)) == ["book", "charge", "mail"]

    def test_one_that_lost_its_place_gets_another(self, shop: Shop, ledger: Ledger, order: str) -> None:
        jobs = self.limited(shop, order)
        shop.redis.delete(shop.queue.key, f"rq:rl:bank-{order}:rate_limited")
        shop.sweep_and_work(70)
        assert sorted(ledger.names(order)) == ["book", "charge", "mail"]
        assert {shop.status(job) for job in jobs} == {WorkflowStatus.SUCCEEDED}

    def test_one_that_is_put_aside_frees_its_place_and_gets_it_back(self, shop: Shop, ledger: Ledger, order: str) -> None:
        limit = rate_limit.RateLimit(f"bank-{order}", 1)
        first = shop.queue.enqueue(steps.keyed, order, 1, retry=Retry(max=3, interval=30), rate_limit=limit)
        shop.queue.enqueue(steps.book, order, rate_limit=limit)
        shop.work()
        assert ledger.names(order) == ["charge", "book"]
        shop.sweep_and_work(31, 70)
        assert shop.status(first) is WorkflowStatus.SUCCEEDED


def test_a_job_is_in_its_group_again(shop: Shop, order: str) -> None:
    from rq.group import Group

    group = Group.create(connection=shop.redis)
    jobs = group.enqueue_many(shop.queue, [Queue.prepare_data(steps.charge, (order,)) for _ in range(2)])
    shop.flush()
    shop.sweep(70)
    found = Group.fetch(group.name, shop.redis).get_jobs()
    assert {job.id for job in found} == {job.id for job in jobs}
    assert group.name in {g.name for g in Group.all(shop.redis)}


class OwnSerializer(JSONSerializer):
    """A serializer of the user's own."""


class TestTwoSerializersInOneRedis:
    @pytest.fixture(params=[JSONSerializer, OwnSerializer])
    def json(self, shop: Shop, request: pytest.FixtureRequest) -> Queue:
        shop.queue.enqueue(steps.mail, "another")  # so that this process has learned RQ's own first
        return Queue(f"{shop.name}-json", connection=shop.redis, serializer=request.param)

    def work(self, shop: Shop, queue: Queue) -> None:
        shop.work(queues=[queue.name], serializer=queue.serializer)

    def test_a_job_is_made_again_with_its_own(self, shop: Shop, ledger: Ledger, order: str, json: Queue) -> None:
        job = json.enqueue(steps.charge, order)
        shop.flush()
        shop.sweep(70, queues=[json.name])
        self.work(shop, json)
        assert ledger.names(order) == ["charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED

    def test_so_is_one_that_joined_a_run_and_one_that_a_publisher_without_the_plugin_sent(
        self, shop: Shop, ledger: Ledger, order: str, json: Queue
    ) -> None:
        charge = json.enqueue(steps.charge, order)
        json.enqueue(steps.book, order, depends_on=charge.id)
        durable_rq.uninstall()
        keyed = json.enqueue(steps.keyed, f"{order}-k", 1, retry=Retry(max=2, interval=30))
        hooks.install(shop.binding)
        self.work(shop, json)
        assert shop.steps(keyed)[0].status is StepStatus.WAITING
        shop.flush()
        shop.sweep(31, queues=[json.name])
        self.work(shop, json)
        assert shop.status(keyed) is WorkflowStatus.SUCCEEDED
        assert ledger.names(order) == ["charge", "book"]
        assert len(shop.steps(charge)) == 2

    def test_so_is_a_compensation(self, shop: Shop, ledger: Ledger, order: str, json: Queue) -> None:
        charge = json.enqueue(saga.charge, order)
        ship = json.enqueue(saga.ship, order, depends_on=charge)
        self.work(shop, json)
        for moment in (20, 70):
            shop.flush()
            shop.sweep(moment, queues=[json.name])
            self.work(shop, json)
        assert ledger.names(order) == ["charge", "ship", "refund"]
        assert shop.status(ship) is WorkflowStatus.COMPENSATED

    def test_a_second_start_finds_the_first(self, shop: Shop, order: str, json: Queue) -> None:
        first = durable_rq.start(order, json, steps.charge, order)
        found: list[Any] = [durable_rq.start(order, json, steps.charge, order), durable_rq.handle(order).job()]
        assert [(job.id, list(job.args)) for job in found] == [(first.id, [order])] * 2
