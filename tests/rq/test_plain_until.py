"""What began plain, or without the plugin, ends plain for `plain_until` after its function was first recorded as enforced."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from rq import Retry
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.journal.schema import event
from durable_adapter.model import SECOND, Event, StepStatus
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import SOON, Shop
from tests.servers.waiting import eventually

DAY = 86_400 * SECOND
NAME = "tests.rq.shop.steps.raises_once"


def ran_plain(shop: Shop) -> list[str]:
    """The functions of the deliveries that were counted."""
    return [e["detail"]["name"] for e in shop.journal.events.since(Event.RAN_PLAIN, 0)]


def tried_before(shop: Shop, order: str) -> Job:
    """A job whose first attempt a worker without the plugin ran: it failed, and RQ has queued it again."""
    durable_rq.uninstall()
    job = shop.queue.enqueue(steps.raises_once, order, retry=Retry(max=3))
    shop.work_plainly(jobs=1)
    hooks.install(shop.binding)
    shop.binding.seen(shop.redis)
    assert shop.ledger.count(order, "charge") == 1
    return job


def test_a_job_between_retries_goes_on_plain_on_a_worker_with_the_plugin(busy_shop: Shop, ledger: Ledger, order: str) -> None:
    shop = busy_shop
    job = tried_before(shop, order)
    with shop.worker():
        eventually(lambda: shop.rq_status(job) is JobStatus.FINISHED, SOON)
    assert ledger.count(order, "charge") == 2  # as without the plugin
    assert shop.runs_of(job) == []
    assert ran_plain(shop) == [NAME]


@pytest.mark.parametrize("later", [False, True])
def test_later_it_is_in_doubt(shop: Shop, ledger: Ledger, order: str, later: bool) -> None:
    shop.queue.enqueue(steps.raises_once, f"{order}-x")
    shop.work()
    if later:
        enforced = event.c.kind == Event.ENFORCED.value
        shop.journal.db.transaction(lambda conn: conn.execute(sa.update(event).where(enforced).values(at=event.c.at - DAY)))
    job = tried_before(shop, order)
    shop.work()
    if later:
        shop.step_is(job, StepStatus.HELD)
    assert ledger.count(order, "charge") == (1 if later else 2)
    assert ran_plain(shop) == ([] if later else [NAME])


def test_what_was_tried_before_by_a_worker_with_the_plugin_is_no_new_run(shop: Shop, ledger: Ledger, order: str) -> None:
    """Adopted at first touch, it is the journal's from then on."""
    durable_rq.uninstall()
    job = shop.queue.enqueue(steps.raises_once, order, retry=Retry(max=3))
    hooks.install(shop.binding)
    shop.binding.seen(shop.redis)
    shop.work()
    shop.sweep_and_work(0, 70)
    shop.step_is(job, StepStatus.HELD)
    assert ledger.count(order, "charge") == 1
    assert ran_plain(shop) == []
