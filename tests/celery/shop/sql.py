"""Transactional steps: their effect is a row in the journal's own database."""

from __future__ import annotations

import sqlalchemy as sa

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app, steps

bookings = sa.Table("bookings", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("order", sa.String(80)))


def write(order: str) -> None:
    durable.session().execute(sa.insert(bookings).values(order=order))


@durable.step(transactional=True)
@app.task
def book(order: str) -> str:
    ledger().record("book", order)
    write(order)
    return "booked"


@durable.step(transactional=True, retry=durable.RetryPolicy(maximum_attempts=1))
@app.task
def commits_itself(order: str) -> None:
    write(order)
    durable.session().commit()


@durable.step(transactional=True)
@app.task
def uses_a_savepoint(order: str) -> str:
    """A part that may fail by itself."""
    write(order)
    session = durable.session()
    try:
        with session.begin_nested():
            write(order)
            raise LookupError("only this part")
    except LookupError:
        pass
    return "booked"


@durable.step(transactional=True, retry=durable.RetryPolicy(initial_interval=0.05, maximum_attempts=2))
@app.task
def publishes(order: str, fail: bool = False) -> str:
    """Sends a marked and an unmarked task: both go out after the commit, or not at all."""
    ledger().record("attempt", order)
    write(order)
    steps.charge.delay(order)
    steps.mail.delay(order)
    if fail:
        raise ValueError("after publishing")
    ledger().wait_at("before commit", order)
    return "published"
