"""What RQ writes into Redis for jobs that are not marked is the same with and without the plugin, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rq import Callback, Retry
from rq.job import Dependency, Job
from rq.queue import Queue
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from durable_adapter.rq import install, uninstall
from tests.rq_unchanged import jobs
from tests.rq_unchanged.custom import LoudJob, OwnWayJob, Readable
from tests.rq_unchanged.stage import RQ, Stage, prepare, rows_of
from tests.servers.fixtures import FreshDatabase

Scenario = Callable[[Stage], None]
SCENARIOS: list[Scenario] = []
#: In an hour: RQ's times are masked, what it computes from them is not.
LATER = timedelta(hours=1)


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


@scenario
def every_option(rq: Stage) -> None:
    rq.queue().enqueue(
        jobs.add,
        args=(1,),
        kwargs={"b": 2},
        job_id="one",
        job_timeout=77,
        result_ttl=600,
        failure_ttl=700,
        ttl=800,
        description="adds",
        meta={"colour": "red"},
        retry=Retry(max=3, interval=[1, 2, 3]),
        on_success=Callback(jobs.succeeded, timeout=9),
        on_failure=Callback(jobs.failed, timeout=8),
        on_stopped=Callback(jobs.stopped, timeout=7),
    )


@scenario
def functions_of_every_sort(rq: Stage) -> None:
    queue = rq.queue()
    queue.enqueue("tests.rq_unchanged.jobs.add", 1, job_id="name")
    queue.enqueue(jobs.later, 1, job_id="coroutine")
    queue.enqueue(jobs.Till("a").ring, 5, job_id="bound")
    queue.enqueue(jobs.Till.open, 5, job_id="static")
    queue.enqueue(len, [1, 2], job_id="builtin")
    queue.enqueue_call(jobs.add, args=(1,), job_id="call")
    queue.enqueue_job(Job.create(jobs.add, args=(2,), id="made", connection=rq.connection, origin=queue.name))


@scenario
def finished(rq: Stage) -> None:
    functions_of_every_sort(rq)
    rq.work(options={"name": "w"})


@scenario
def failed(rq: Stage) -> None:
    rq.queue().enqueue(jobs.fail, "no stock", job_id="one", on_failure=Callback(jobs.failed))
    rq.work(options={"name": "w"})


@scenario
def failed_in_a_horse(rq: Stage) -> None:
    rq.queue().enqueue(jobs.fail, "no stock", job_id="one")
    rq.work(kind="Worker", options={"name": "w"})


@scenario
def not_importable(rq: Stage) -> None:
    rq.queue().enqueue("tests.rq_unchanged.jobs.gone", job_id="one")
    rq.queue().enqueue("nowhere.at_all", job_id="two")
    rq.work(options={"name": "w"})


@scenario
def wrong_arguments(rq: Stage) -> None:
    rq.queue().enqueue(jobs.add, 1, 2, 3, 4, job_id="one")
    rq.work(options={"name": "w"})


@scenario
def broken_data(rq: Stage) -> None:
    rq.queue().enqueue(jobs.add, 1, job_id="one")
    rq.connection.hset("rq:job:one", "data", b"nonsense")
    rq.work(options={"name": "w"})


@scenario
def retried(rq: Stage) -> None:
    rq.queue().enqueue(jobs.fail_until, 2, job_id="one", retry=Retry(max=3))
    rq.work(options={"name": "w"})


@scenario
def retries_scheduled(rq: Stage) -> None:
    rq.queue().enqueue(jobs.fail_until, 2, job_id="one", retry=Retry(max=3, interval=[60, 120]))
    rq.work(options={"name": "w"})


@scenario
def retries_used_up(rq: Stage) -> None:
    rq.queue().enqueue(jobs.fail, job_id="one", retry=Retry(max=2))
    rq.work(options={"name": "w"})


@scenario
def retry_returned(rq: Stage) -> None:
    rq.queue().enqueue(jobs.ask_again, 2, job_id="one")
    rq.queue().enqueue(jobs.ask_again, 2, 60, job_id="two")
    rq.work(options={"name": "w"})


@scenario
def not_serialisable(rq: Stage) -> None:
    rq.queue().enqueue(jobs.unserialisable, job_id="one")
    rq.work(options={"name": "w"})


@scenario
def bad_callback(rq: Stage) -> None:
    rq.queue().enqueue(jobs.add, 1, job_id="one", on_success=Callback(jobs.bad_callback))
    rq.work(options={"name": "w"})


@scenario
def dependents(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.add, 1, job_id="one")
    queue.enqueue(jobs.child_result, depends_on=first, job_id="two")
    queue.enqueue(jobs.named, "3", depends_on=["one", "two"], job_id="three")
    rq.work(options={"name": "w"})


@scenario
def dependents_of_a_failure(rq: Stage) -> None:
    queue = rq.queue()
    first = queue.enqueue(jobs.fail, job_id="one")
    queue.enqueue(jobs.named, "waits", depends_on=first, job_id="two")
    allowed = Dependency(jobs=[first], allow_failure=True, enqueue_at_front=True)
    queue.enqueue(jobs.named, "runs", depends_on=allowed, job_id="three")
    rq.work(options={"name": "w"})


@scenario
def scheduled(rq: Stage) -> None:
    queue = rq.queue()
    queue.enqueue_at(datetime.now(UTC) + LATER, jobs.add, 1, job_id="at")
    queue.enqueue_in(LATER, jobs.add, 1, job_id="in", meta={"a": 1})


@scenario
def repeated(rq: Stage) -> None:
    if RQ < (2, 3):
        pytest.skip("Repeat came with RQ 2.3")
    from rq import Repeat

    rq.queue().enqueue(jobs.named, "tick", job_id="one", repeat=Repeat(times=2, interval=60))
    rq.work(options={"name": "w"})
    rq.make_due()
    rq.work(with_scheduler=True, options={"name": "w"})


@scenario
def many(rq: Stage) -> None:
    if RQ < (2, 0):
        pytest.skip("groups came with RQ 2.0")
    from rq.group import Group

    prepare = Queue.prepare_data
    group = Group.create(connection=rq.connection, name="g")
    group.enqueue_many(rq.queue(), [prepare(jobs.add, (1,), job_id="one"), prepare(jobs.fail, job_id="two", retry=Retry(max=1))])
    rq.queue().enqueue_many([prepare(jobs.named, ("m",), job_id="three", at_front=True)])
    rq.work(options={"name": "w"})


@scenario
def synchronous(rq: Stage) -> None:
    queue = rq.queue(is_async=False)
    queue.enqueue(jobs.add, 1, job_id="one")
    queue.enqueue(jobs.later, 1, job_id="two", on_success=Callback(jobs.succeeded))
    queue.enqueue(jobs.fail, job_id="three", on_failure=Callback(jobs.failed))


@scenario
def one_in_another(rq: Stage) -> None:
    rq.queue().enqueue(jobs.enqueue_another, "a", job_id="one")
    rq.work(options={"name": "w"})


@scenario
def canceled_and_requeued(rq: Stage) -> None:
    queue = rq.queue()
    queue.enqueue(jobs.add, 1, job_id="one").cancel()
    queue.enqueue(jobs.fail, job_id="two")
    rq.work(options={"name": "w"})
    FailedJobRegistry(queue=queue).requeue("two")


@scenario
def meta_saved(rq: Stage) -> None:
    rq.queue().enqueue(jobs.note_progress, 4, job_id="one", meta={"colour": "red"})
    rq.work(options={"name": "w"})


@scenario
def in_json(rq: Stage) -> None:
    queue = rq.queue(serializer=JSONSerializer)
    queue.enqueue(jobs.add, 1, job_id="one", meta={"a": 1})
    queue.enqueue(jobs.fail, job_id="two")
    rq.work(queue, options={"name": "w", "serializer": JSONSerializer})


@scenario
def in_a_serializer_of_ones_own(rq: Stage) -> None:
    queue = rq.queue(serializer=Readable)
    queue.enqueue(jobs.add, 1, job_id="one", meta={"a": 1})
    rq.work(queue, options={"name": "w", "serializer": Readable})


@scenario
def jobs_of_ones_own_class(rq: Stage) -> None:
    for kind, name in ((LoudJob, "loud"), (OwnWayJob, "own")):
        queue = rq.queue(name, job_class=kind)
        queue.enqueue(jobs.add, 1, job_id=name)
        queue.enqueue(jobs.fail, job_id=f"{name}-fails")
        rq.work(queue, options={"name": "w", "job_class": kind})


@scenario
def too_long(rq: Stage) -> None:
    rq.queue().enqueue(jobs.too_long, job_id="one", job_timeout=1)
    rq.work(options={"name": "w"})


@scenario
def horse_that_died(rq: Stage) -> None:
    rq.queue().enqueue(jobs.die, job_id="one", retry=Retry(max=1))
    rq.work(kind="Worker", options={"name": "w"})


@scenario
def unique(rq: Stage) -> None:
    if RQ < (2, 8):
        pytest.skip("unique= came with RQ 2.8")
    from rq.exceptions import DuplicateJobError

    rq.queue().enqueue(jobs.add, 1, job_id="one", unique=True)
    with pytest.raises(DuplicateJobError):
        rq.queue().enqueue(jobs.add, 2, job_id="one", unique=True)


@scenario
def rate_limited(rq: Stage) -> None:
    if RQ < (3, 0):
        pytest.skip("rate limits came with RQ 3.0")
    from rq import RateLimit

    limit = RateLimit("bank", concurrency=1)
    for number in range(3):
        rq.queue().enqueue(jobs.named, str(number), job_id=f"job-{number}", rate_limit=limit)
    rq.work(max_jobs=2, options={"name": "w"})


@pytest.mark.parametrize("publish", SCENARIOS, ids=lambda it: it.__name__)
def test_all_of_redis_is_the_same_to_the_byte(publish: Scenario, plain: Stage, fresh_database: FreshDatabase) -> None:
    """Hashes, lists, registries, results with the text of their errors, workers: but for times and random ids."""

    def told() -> Any:
        publish(plain)
        found = plain.everything(), plain.ledger()
        plain.connection.flushall()
        return found

    without = told()
    plain.journal = fresh_database("sqlite", prepare)
    install(journal=plain.journal)
    try:
        with_plugin = told()
    finally:
        uninstall()
    (keys, ledger), (keys_before, ledger_before) = with_plugin, without
    assert ledger == ledger_before
    assert keys.keys() == keys_before.keys()
    assert {key: (keys[key], was) for key, was in keys_before.items() if keys[key] != was} == {}
    assert rows_of(plain.journal) == {"workflow": 0, "step": 0}
