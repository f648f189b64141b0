"""What a step's body enqueues is sent once, however often the body runs."""

from __future__ import annotations

import pytest
from rq import Retry

from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import senders
from tests.rq.world import Shop


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_chain_is_sent_once(shop: Shop, ledger: Ledger, order: str, failures: int) -> None:
    job = shop.queue.enqueue(senders.send_chain, order, shop.name, failures, retry=Retry(max=3))
    shop.work()
    assert [name for name in ledger.names(order) if name != "send"] == ["charge", "book", "unmarked"]
    assert ledger.count(order, "send") == failures + 1
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert shop.count_runs() == 2


def test_what_an_attempt_did_not_come_to_send_is_sent_by_the_next(shop: Shop, ledger: Ledger, order: str) -> None:
    shop.queue.enqueue(senders.send_more_each_time, order, shop.name, 2, retry=Retry(max=3))
    shop.work()
    assert ledger.count(order, "charge") == 1
    assert ledger.count(order, "mail") == 3


def test_what_redis_lost_between_two_attempts_is_sent_again(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(senders.send_chain, order, shop.name, 1, retry=Retry(max=3, interval=30))
    shop.work(jobs=1)
    shop.flush()
    shop.sweep_and_work(31, 100, 300)
    assert [name for name in ledger.names(order) if name != "send"] == ["charge", "book", "unmarked"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


@pytest.mark.parametrize("failures", [0, 1])
def test_a_start_under_an_id_is_the_same_start(shop: Shop, ledger: Ledger, order: str, failures: int) -> None:
    shop.queue.enqueue(senders.send_under_an_id, order, shop.name, failures, retry=Retry(max=3))
    shop.work()
    assert [name for name in ledger.names(order) if name != "send"] == ["charge", "book"]
