"""Members of chains."""

from __future__ import annotations

from typing import Any

from celery import Task

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app


@durable.step
@app.task
def reserve(order: str) -> str:
    ledger().record("reserve", order)
    return order


@durable.step
@app.task
def book(order: str, *extra: Any) -> str:
    ledger().record("book", order, extra=extra)
    return order


@durable.step
@app.task
def ship(order: str) -> str:
    ledger().record("ship", order)
    return order


@app.task
def note(order: str) -> str:
    """Not marked."""
    ledger().record("note", order)
    return order


@app.task
def failing_note(order: str) -> str:
    """Not marked."""
    ledger().record("failing_note", order)
    raise LookupError(f"no such order: {order}")


@durable.step
@app.task(bind=True)
def stops_the_chain(self: Task, order: str) -> str:
    """As legacy code does where there is nothing more to do."""
    ledger().record("stop", order)
    self.request.chain = None
    return order


@durable.step
@app.task
def breaks(order: str) -> None:
    ledger().record("break", order)
    raise ValueError("out of stock")


@app.task
def on_error(request: Any, error: Any, traceback: Any, order: str) -> None:
    """An errback, not marked."""
    ledger().record("on_error", order, error=str(error))


@app.task
def on_done(result: Any, order: str) -> None:
    """A callback, not marked."""
    ledger().record("on_done", order, result=result)


@durable.step
@app.task
def marked_on_done(result: Any, order: str) -> None:
    """A callback, marked."""
    ledger().record("marked_on_done", order, result=result)
