"""Steps that enqueue others from their own body, and fail after it as often as a test asks them to."""

from __future__ import annotations

import os

import redis
from rq import Queue

import durable_adapter as durable
import durable_adapter.rq as durable_rq
from tests.celery.ledger import ledger
from tests.rq.shop import steps
from tests.rq.shop.chains import URL


def _queue(name: str) -> Queue:
    return Queue(name, connection=redis.Redis.from_url(os.environ[URL]))


def _fails(order: str, times: int) -> None:
    ledger().record("send", order)
    if ledger().count(order, "send") <= times:
        raise TimeoutError("no answer")


@durable.step(idempotent=True)
def send_chain(order: str, to: str, failures: int) -> None:
    queue = _queue(to)
    charge = queue.enqueue(steps.charge, order)
    book = queue.enqueue(steps.book, order, depends_on=charge)
    queue.enqueue(steps.unmarked, order, depends_on=book)
    _fails(order, failures)


@durable.step
def runs_others(order: str, to: str) -> None:
    """Enqueues where jobs run at once: what runs inside of a step is part of it."""
    queue = Queue(to, connection=redis.Redis.from_url(os.environ[URL]), is_async=False)
    first = queue.enqueue(steps.charge, order, result_ttl=0)
    queue.enqueue(steps.book, order, depends_on=first)
    queue.enqueue_many([Queue.prepare_data(steps.mail, (order,))])


@durable.step(idempotent=True)
def send_more_each_time(order: str, to: str, failures: int) -> None:
    """An attempt gets one job further than the last one did."""
    queue = _queue(to)
    charge = queue.enqueue(steps.charge, order)
    for _ in range(1 + ledger().count(order, "send")):
        queue.enqueue(steps.mail, order, depends_on=charge)
    _fails(order, failures)


@durable.step(idempotent=True)
def send_under_an_id(order: str, to: str, failures: int) -> None:
    queue = _queue(to)
    charge = durable_rq.start(f"{order}-sent", queue, steps.charge, order)
    queue.enqueue(steps.book, order, depends_on=charge)
    _fails(order, failures)
