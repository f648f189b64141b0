"""Steps that share the journal's own transaction."""

from __future__ import annotations

import sqlalchemy as sa
from rq.job import JobStatus

from durable_adapter.model import StepStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import sql
from tests.rq.world import Shop


def lines(shop: Shop, order: str) -> int:
    return len(shop.journal.db.select(sa.select(sql.bookings).where(sql.bookings.c.order == order)))


def test_jobs_that_it_enqueues_leave_after_the_commit(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(sql.write, order, shop.name)
    shop.work()
    assert shop.value(job) == f"written-{order}"
    assert lines(shop, order) == 1
    assert sorted(ledger.names(order)) == ["charge", "told"]


def test_nothing_leaves_where_it_fails(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(sql.write, order, shop.name, fails=True)
    shop.work()
    shop.sweep_and_work(2, 5, 20, 70)
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.steps(job)[0].status is StepStatus.FAILED
    assert lines(shop, order) == 0
    assert ledger.names(order) == []
    assert shop.count_runs() == 1


def test_a_marked_job_that_redis_lost_after_the_commit_is_sent_again(shop: Shop, ledger: Ledger, order: str) -> None:
    shop.queue.enqueue(sql.write, order, shop.name)
    shop.work(jobs=1)
    shop.flush()
    shop.sweep_and_work(70)
    assert ledger.names(order) == ["charge"]
    assert lines(shop, order) == 1
