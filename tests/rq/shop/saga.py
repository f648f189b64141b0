"""Steps that can be undone."""

from __future__ import annotations

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.rq.shop.steps import Declined


def refund(result: str, order: str) -> str:
    """Called with what it undoes, then with its arguments."""
    ledger().record("refund", order, result=result)
    return "refunded"


def release(result: str, order: str) -> str:
    ledger().record("release", order, result=result)
    return "released"


@durable.step(compensate=refund)
def charge(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.step(compensate="tests.rq.shop.saga.release")
def reserve(order: str) -> str:
    ledger().record("reserve", order)
    return f"rs-{order}"


@durable.step(did_not_happen=Declined)
def ship(order: str) -> None:
    ledger().record("ship", order)
    raise Declined("no such address")


@durable.workflow
def buy_and_sleep(order: str) -> str:
    charge(order)
    reserve(order)
    durable.sleep(3600)
    return "gone"
