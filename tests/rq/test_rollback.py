"""Compensations: in reverse, as jobs of their own."""

from __future__ import annotations

from rq.job import JobStatus

from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import saga, steps
from tests.rq.world import Shop


def test_a_chain_is_undone_in_reverse(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(saga.charge, order)
    reserve = shop.queue.enqueue(saga.reserve, order, depends_on=charge)
    ship = shop.queue.enqueue(saga.ship, order, depends_on=reserve)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=ship)
    shop.work()
    assert ledger.names(order) == ["charge", "reserve", "ship", "release", "refund"]
    assert shop.status(charge) is WorkflowStatus.COMPENSATED
    assert [e["result"] for e in ledger.entries(order) if "result" in e] == [f"rs-{order}", f"ch-{order}"]
    assert shop.rq_status(mail) is JobStatus.CANCELED
    assert shop.queue.deferred_job_registry.count == 0


def test_a_compensation_that_redis_lost_is_sent_again(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(saga.charge, order)
    shop.queue.enqueue(saga.ship, order, depends_on=charge)
    shop.work(jobs=2)
    assert shop.status(charge) is WorkflowStatus.ROLLING_BACK
    shop.flush()
    shop.sweep_and_work(20, 700)
    assert ledger.names(order) == ["charge", "ship", "refund"]
    assert shop.status(charge) is WorkflowStatus.COMPENSATED
