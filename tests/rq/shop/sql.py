"""Transactional steps."""

from __future__ import annotations

import os

import redis
import sqlalchemy as sa
from rq import Queue

import durable_adapter as durable
from tests.rq.shop import steps
from tests.rq.shop.chains import URL

bookings = sa.Table(
    "bookings",
    sa.MetaData(),
    sa.Column("order", sa.String(80)),
    sa.Column("what", sa.String(80)),
)


@durable.step(transactional=True)
def write(order: str, to: str, fails: bool = False) -> str:
    """Writes a line, and enqueues a marked and an unmarked job."""
    queue = Queue(to, connection=redis.Redis.from_url(os.environ[URL]))
    durable.session().execute(sa.insert(bookings).values(order=order, what="line"))
    queue.enqueue(steps.charge, order)
    queue.enqueue(steps.unmarked, order, "told")
    if fails:
        raise ValueError("no")
    return f"written-{order}"


@durable.step(transactional=True)
def adds_to_a_run(order: str, to: str, behind: str) -> None:
    Queue(to, connection=redis.Redis.from_url(os.environ[URL])).enqueue(steps.book, order, depends_on=behind)
