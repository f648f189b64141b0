"""Lone tasks of every sort of safety, and one that is not marked."""

from __future__ import annotations

from typing import Any

import durable_adapter as durable
from durable_adapter.declare.verdicts import Verdict
from durable_adapter.runtime.alerts import Held
from tests.celery.ledger import ledger
from tests.celery.shop import app


class Declined(Exception):
    """The bank understood, and did not do it."""


class Unserialisable:
    """Nothing that a codec knows."""


@durable.step
@app.task
def charge(order: str, amount: int = 1) -> str:
    ledger().record("charge", order, amount=amount)
    return f"ch-{order}"


@app.task
def mail(order: str) -> str:
    """Not marked."""
    ledger().record("mail", order)
    return f"mail-{order}"


@durable.step
@app.task
def fail(order: str, text: str = "out of paper") -> None:
    ledger().record("fail", order)
    raise ValueError(text)


@durable.step(did_not_happen=Declined)
@app.task
def decline(order: str) -> None:
    ledger().record("decline", order)
    raise Declined("insufficient funds")


@durable.step
@app.task
def slow_charge(order: str) -> str:
    """Charges after the test has opened the gate."""
    ledger().wait_at("slow", order)
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05, maximum_attempts=3))
@app.task
def keyed_charge(order: str, failures: int = 0) -> str:
    """Sends the provider its key; the first attempts fail."""
    ledger().record("charge", order, key=durable.idempotency_key())
    if ledger().count(order, "charge") <= failures:
        raise TimeoutError("no answer")
    return f"ch-{order}"


def find_charge(order: str, **_: Any) -> Verdict:
    """The probe: asks the ledger."""
    ledger().record("probe", order)
    if ledger().is_open("probe-cannot-tell", order):
        return durable.cannot_tell(evidence="the bank's search is down")
    found = ledger().entries(order, "charge")
    return durable.happened(f"found-{order}") if found else durable.did_not_happen()


@durable.step(probe=find_charge, settle=0)
@app.task
def probed_charge(order: str, effect: bool = True) -> str:
    """Has its effect or not, then fails with an error that does not say which."""
    ledger().record("attempt", order)
    if effect or ledger().count(order, "attempt") > 1:
        ledger().record("charge", order)
    if ledger().count(order, "attempt") == 1:
        raise TimeoutError("no answer")
    return f"ch-{order}"


@durable.step
@app.task
def returns_what_cannot_be_recorded(order: str) -> Any:
    ledger().record("charge", order)
    return Unserialisable()


@durable.on_held.connect
def page_somebody(held: Held) -> None:
    """What a team would connect to its pager."""
    ledger().record("on_held", held.workflow, step=held.step, why=held.why, command=held.command)
