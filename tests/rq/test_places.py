"""Several database numbers of one Redis, and queues with a key prefix of their own: a job is sent to its own place alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from redis import Redis
from rq import Queue
from rq.job import JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import SECOND, WorkflowStatus
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.recovery import Sweeper
from durable_adapter.rq import hooks
from durable_adapter.rq.command import Witness
from durable_adapter.rq.jobs import db_of
from durable_adapter.runtime.binding import LOOK_AFTER
from tests.celery.ledger import Ledger
from tests.journal.making import age
from tests.rq.shop import functions, saga, steps
from tests.rq.world import IMPATIENT, SOON, InProcess, Shop
from tests.rq_versions import WAITING
from tests.servers.waiting import eventually


class Prefixed(Queue):
    """A queue class of somebody's own."""

    redis_queue_namespace_prefix = "mine:queue:"


@pytest.fixture
def other(shop: Shop) -> Iterator[Queue]:
    """A queue of the same name, in another database of the same Redis."""
    given = dict(shop.redis.connection_pool.connection_kwargs)
    number = next(number for number in (5, 6) if number != db_of(shop.redis))
    connection = Redis(host=given["host"], port=given["port"], password=given.get("password"), db=number)
    queue = Queue(shop.name, connection=connection)
    yield queue
    queue.empty()
    queue.delete(delete_jobs=False)
    connection.close()


def work_at(queue: Queue) -> None:
    """Runs what is queued there."""
    InProcess([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")


class TestAnotherDatabase:
    def test_is_left_alone_by_who_does_not_know_it(self, shop: Shop, other: Queue, ledger: Ledger, order: str) -> None:
        job = other.enqueue(steps.charge, order)
        shop.queue.enqueue(steps.charge, f"{order}-here")
        del shop.binding.connections[db_of(other.connection)]
        for lost in (False, True):
            if lost:
                other.connection.delete(job.key, other.key)
            for after in (70, 200, 700):
                assert shop.sweep(after).errors == []
            assert len(shop.queue.job_ids) == 1
            assert other.count == (0 if lost else 1)
        shop.binding.connections[db_of(other.connection)] = other.connection
        shop.sweep(2000)
        assert other.job_ids == [job.id]
        assert job.id not in shop.queue.job_ids
        work_at(other)
        assert ledger.names(order) == ["charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED

    @pytest.mark.parametrize("lost", [False, True], ids=["there", "lost"])
    def test_that_nobody_here_knows_is_told_of(
        self, shop: Shop, other: Queue, ledger: Ledger, order: str, lost: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        here, job = shop.queue.enqueue(steps.charge, f"{order}-here"), other.enqueue(steps.charge, order)
        place = f"database {db_of(other.connection)} of Redis"
        del shop.binding.connections[db_of(other.connection)]
        if lost:
            other.connection.delete(job.key, other.key)
        assert shop.binding.engine.is_gone(shop.steps(job)[0]) is None
        assert shop.binding.engine.is_gone(shop.steps(here)[0]) is False
        now = [0.0]
        sweeper = Sweeper(shop.journal, [shop.binding.engine], monotonic=lambda: now[0])
        began = shop.journal.time()
        looks: list[tuple[int, list[str]]] = []
        for seconds in (LOOK_AFTER - 1, LOOK_AFTER + 1, LOOK_AFTER + 2, 2 * LOOK_AFTER + 2):
            now[0] = seconds
            assert sweeper.sweep(now=began + int(seconds * SECOND)).errors == []
            told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("out_of_reach")]
            looks.append((len(told), shop.events(job)))
        assert [number for number, _ in looks] == [0, 1, 1, 2]
        assert place in told[-1]
        assert shop.of(job).ref in told[-1]
        assert [events for _, events in looks] == [[]] * 4  # nothing was counted as sent
        for key in (None, shop.steps(job)[0].key):
            age(shop.journal, shop.of(job).ref, key)
        found = look_for_trouble(shop.journal, namespace="default", witnesses={"rq": Witness(shop.binding)}).findings
        assert f"is in {place}, which was not asked" in next(f for f in found if f.ref == shop.of(job).ref).certain
        shop.binding.connections[db_of(other.connection)] = other.connection
        shop.sweep(2 * LOOK_AFTER + 2)  # it stayed due for who knows the place
        assert other.job_ids == [job.id]
        work_at(other)
        assert ledger.names(order) == ["charge"]

    def test_keeps_what_waits_to_be_tried_again(self, shop: Shop, other: Queue, ledger: Ledger, order: str) -> None:
        job = other.enqueue(steps.retried_in_an_hour, order)
        work_at(other)
        other.connection.delete(job.key)
        shop.binding.works_at(shop.redis, None, [shop.queue])
        del shop.binding.connections[db_of(other.connection)]
        for after in (3700, 3800, 4500):
            assert shop.sweep(after).woken == 0
        assert shop.steps(job)[0].sends == 0
        assert shop.queue.job_ids == []
        shop.binding.connections[db_of(other.connection)] = other.connection
        shop.sweep(4600)
        assert other.job_ids == [job.id]

    def test_keeps_a_whole_chain(self, shop: Shop, other: Queue, ledger: Ledger, order: str) -> None:
        shop.queue.enqueue(steps.mail, f"{order}-first")  # the one that this process sees first
        charge = other.enqueue(saga.charge, order)
        book = other.enqueue(steps.book, order, depends_on=charge.id)
        other.enqueue(saga.ship, order, depends_on=book)
        other.connection.delete(charge.key, book.key, other.key)
        for after in (70, 200, 500, 1200, 3000):
            shop.sweep(after)
            work_at(other)
        assert ledger.names(order) == ["charge", "book", "ship", "refund"]
        assert shop.status(charge) is WorkflowStatus.COMPENSATED
        assert [row.engine for row in shop.steps(charge) if row.engine] == []

    def test_is_not_claimed_to_have_lost_its_job(self, shop: Shop, other: Queue, order: str) -> None:
        shop.binding.seen(shop.redis)
        job = other.enqueue(steps.charge, order)
        del shop.binding.connections[db_of(other.connection)]
        told = Witness(shop.binding).says(shop.steps(job)[0])
        assert told == f"job {job.id} is in database {db_of(other.connection)} of Redis, which was not asked"

    @WAITING
    def test_a_worker_looks_after_its_own(self, shop: Shop, other: Queue, ledger: Ledger, order: str) -> None:
        """Whatever its process has enqueued before."""
        shop.queue.enqueue(steps.mail, f"{order}-first")
        job = other.enqueue(functions.sleeps, order, 0.2)
        work_at(other)
        assert db_of(shop.binding.here.connection) == db_of(other.connection)
        eventually(lambda: shop.sweep(1) and work_at(other) is None and shop.status(job) is WorkflowStatus.SUCCEEDED, SOON)
        assert ledger.names(order) == ["charge", "book"]


class TestAKeyPrefix:
    def test_is_kept_when_a_job_is_sent_again(self, shop: Shop, ledger: Ledger, order: str) -> None:
        queue = Prefixed(shop.name, connection=shop.redis)
        charge = queue.enqueue(steps.charge, order)
        book = queue.enqueue(steps.book, order, depends_on=charge)
        assert queue.key.startswith("mine:queue:")
        assert shop.redis.llen(queue.key) == 1
        shop.redis.delete(charge.key, book.key, queue.key)
        shop.sweep(70)
        assert (queue.job_ids, shop.queue.job_ids) == ([charge.id], [])
        for after in (200, 500, 1200):
            InProcess([queue], connection=shop.redis, queue_class=Prefixed).work(burst=True, logging_level="CRITICAL")
            shop.sweep(after)
        assert ledger.names(order) == ["charge", "book"]
        assert shop.redis.llen(shop.queue.key) == 0

    def test_of_jobs_that_are_sent_together(self, shop: Shop, order: str) -> None:
        queue = Prefixed(shop.name, connection=shop.redis)
        jobs = queue.enqueue_many([Queue.prepare_data(steps.charge, (order,)), Queue.prepare_data(steps.book, (order,))])
        shop.redis.delete(queue.key, *(job.key for job in jobs))
        shop.sweep(70)
        assert sorted(queue.job_ids) == sorted(job.id for job in jobs)
        assert shop.queue.job_ids == []

    def test_on_a_real_worker(self, busy_shop: Shop, ledger: Ledger, order: str) -> None:
        """A job that was enqueued without the plugin, is tried again later, and is lost meanwhile."""
        shop = busy_shop
        queue = Prefixed(shop.name, connection=shop.redis)
        durable_rq.uninstall()
        job = queue.enqueue(steps.retried_in_an_hour, order)
        hooks.install(shop.binding)
        options = (*IMPATIENT, "--queue-class", f"{__name__}.Prefixed")
        with shop.worker(options=options):
            eventually(lambda: ledger.count(order, "charge") == 1, SOON)
            eventually(lambda: shop.runs_of(job) and shop.rq_status(job) is JobStatus.SCHEDULED, SOON)
        shop.redis.delete(job.key)
        shop.binding.seen(shop.redis)
        shop.sweep(3700)
        assert (queue.job_ids, shop.queue.job_ids) == ([job.id], [])
        with shop.worker(options=options):
            shop.settled(job, WorkflowStatus.SUCCEEDED)
        assert ledger.count(order, "charge") == 2
