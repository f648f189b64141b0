"""The key that a provider sees."""

from __future__ import annotations

from rq import Retry

import durable_adapter.rq as durable_rq
from durable_adapter.model import idempotency_key, member_key
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import Shop


def test_every_attempt_sends_the_same_key(shop: Shop, ledger: Ledger, order: str) -> None:
    shop.queue.enqueue(steps.keyed, order, 3, retry=Retry(max=3))
    shop.work()
    keys = [entry["key"] for entry in ledger.entries(order, "charge")]
    assert len(keys) == 4
    assert len(set(keys)) == 1


def test_a_job_that_was_made_again_in_an_empty_redis_sends_the_same_key(shop: Shop, ledger: Ledger, order: str) -> None:
    job = durable_rq.start(order, shop.queue, steps.key_of, order)
    run = shop.of(job)
    expected = idempotency_key(run.namespace, order, 1, run.ref, member_key(0, "tests.rq.shop.steps.key_of"))
    shop.flush()
    shop.sweep_and_work(70)
    assert shop.value(job) == expected
