"""Steps that can be undone."""

from __future__ import annotations

from typing import Any

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app
from tests.celery.shop.steps import Declined


@durable.step
@app.task
def refund(charged: Any, *args: Any, **kwargs: Any) -> str:
    """Called as a link: the result first, then the arguments of the step."""
    order = args[0] if args else kwargs["order"]
    ledger().record("refund", order, charged=charged, args=args, kwargs=kwargs)
    return "refunded"


@app.task
def release(order: str, *args: Any) -> None:
    """A compensation that is not marked itself."""
    ledger().record("release", order.removeprefix("res-"), args=args)


@durable.step
@app.task
def call_the_warehouse(order: str = "", **kwargs: Any) -> None:
    ledger().record("call", kwargs.get("about", order), **kwargs)


@durable.step(did_not_happen=RuntimeError)
@app.task
def undo_fails(result: Any, order: str) -> None:
    ledger().record("undo_fails", order)
    raise RuntimeError("the provider refuses")


@durable.step(compensate=refund)
@app.task
def charge(order: str, amount: int = 1) -> str:
    ledger().record("charge", order)
    return order


@durable.step(compensate=release)
@app.task
def reserve(order: str) -> str:
    ledger().record("reserve", order)
    return order


@durable.step(compensate=refund.s("fixed", reason="out of stock"))
@app.task
def by_signature(order: str) -> str:
    ledger().record("by_signature", order)
    return order


@durable.step(compensate=call_the_warehouse.si(about="cancelled"))
@app.task
def by_immutable(order: str) -> str:
    ledger().record("by_immutable", order)
    return order


@durable.step(compensate="tests.celery.shop.saga.refund")
@app.task
def by_name(order: str) -> str:
    ledger().record("by_name", order)
    return order


@durable.step(compensate=undo_fails)
@app.task
def cannot_be_undone(order: str) -> str:
    ledger().record("cannot_be_undone", order)
    return order


@durable.step(pivot=True)
@app.task
def hand_over(order: str) -> str:
    """After this there is no way back."""
    ledger().record("hand_over", order)
    return order


@durable.step(did_not_happen=Declined)
@app.task
def decline(order: str) -> None:
    ledger().record("decline", order)
    raise Declined("out of stock")


@durable.step
@app.task
def break_down(order: str) -> None:
    """Fails, and nobody knows whether its effect happened."""
    ledger().record("break_down", order)
    raise TimeoutError("no answer")
