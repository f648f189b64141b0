"""Lone jobs of every sort of safety, with the faults that a test asks them for, and some that are not marked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from rq import Retry

import durable_adapter as durable
from durable_adapter.declare.verdicts import Verdict
from tests.celery.ledger import ledger


class Declined(Exception):
    """The bank understood, and did not do it."""


class Unserialisable:
    """Nothing that a codec knows."""


def _charged(order: str, fault: str | None, key: str | None = None) -> str:
    """The effect, and after it what a test wants to go wrong: once, or with `always` each time."""
    first = ledger().count(order, "charge") == 0
    ledger().record("charge", order, key=key)
    what, _, always = (fault or "").partition(" ")
    if what and (first or always):
        _go_wrong(what, order)
    return f"ch-{order}"


def _go_wrong(what: str, order: str) -> None:
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise TimeoutError("no answer")
        case "gate":
            ledger().wait_at("gate", order)


@durable.step
def charge(order: str, fault: str | None = None) -> str:
    return _charged(order, fault)


@durable.step(idempotent=True)
def charge_idempotent(order: str, fault: str | None = None) -> str:
    return _charged(order, fault, durable.idempotency_key())


def find_charge(order: str, fault: str | None = None) -> Verdict:
    """The probe: asks the ledger."""
    found = ledger().entries(order, "charge")
    return durable.happened(f"ch-{order}") if found else durable.did_not_happen()


@durable.step(probe=find_charge, settle=0)
def charge_probed(order: str, fault: str | None = None) -> str:
    return _charged(order, fault)


#: The same charge, by what was declared of it.
CHARGES: dict[str, Callable[..., str]] = {
    "undeclared": charge,
    "idempotent": charge_idempotent,
    "probe": charge_probed,
}


def charges(order: str) -> int:
    """How often the customer paid: a provider that is sent the same key again charges once."""
    return len({entry["key"] or number for number, entry in enumerate(ledger().entries(order, "charge"))})


@durable.step
def book(order: str) -> str:
    ledger().record("book", order)
    return f"bk-{order}"


@durable.step
def mail(order: str) -> str:
    ledger().record("mail", order)
    return f"ml-{order}"


@durable.step
def says_its_environment(order: str) -> None:
    ledger().record("environment", order, names=sorted(name for name in os.environ if name.startswith("DURABLE_RQ")))


@durable.step(did_not_happen=Declined)
def declines_once(order: str) -> str:
    if ledger().count(order, "decline") == 0:
        ledger().record("decline", order)
        raise Declined("insufficient funds")
    return _charged(order, None)


@durable.step
def raises_once(order: str) -> str:
    return _charged(order, "raise")


@durable.step
def on_a_day(order: str, day: str) -> str:
    ledger().record(day, order)
    return day


def unmarked(order: str, what: str = "unmarked") -> str:
    ledger().record(what, order)
    return f"{what}-{order}"


def unmarked_polls(order: str) -> Any:
    ledger().record("poll", order)
    return Retry(max=10, interval=60 * 86_400)


def unmarked_fails(order: str) -> None:
    ledger().record("unmarked", order)
    raise ValueError("out of paper")


@durable.step
def fail(order: str) -> None:
    ledger().record("fail", order)
    raise ValueError("out of paper")


@durable.step(did_not_happen=Declined)
def decline(order: str) -> None:
    ledger().record("decline", order)
    raise Declined("insufficient funds")


@durable.step(idempotent=True, retry=durable.RetryPolicy(maximum_attempts=1))
def keyed(order: str, failures: int = 0) -> str:
    """Left to RQ's own retries; the first attempts fail."""
    ledger().record("charge", order, key=durable.idempotency_key())
    if ledger().count(order, "charge") <= failures:
        raise TimeoutError("no answer")
    return f"ch-{order}"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.02, maximum_attempts=3))
def retried_by_policy(order: str, failures: int = 2) -> str:
    ledger().record("charge", order, key=durable.idempotency_key())
    if ledger().count(order, "charge") <= failures:
        raise TimeoutError("no answer")
    return f"ch-{order}"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=3600, maximum_attempts=2))
def retried_in_an_hour(order: str) -> str:
    """Fails once, where the bank cannot be reached."""
    ledger().record("charge", order, key=durable.idempotency_key())
    if ledger().count(order, "charge") == 1:
        raise ConnectionRefusedError("the bank is away")
    return f"ch-{order}"


@durable.step
async def awaited(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.step
def polls(order: str, times: int = 2, most: int = 10, interval: int = 0) -> Any:
    """Returns RQ's own `Retry` until it is done."""
    ledger().record("poll", order)
    if ledger().count(order, "poll") <= times:
        return Retry(max=most, interval=interval)
    return "done"


@durable.step
def returns_what_cannot_be_recorded(order: str) -> Any:
    ledger().record("charge", order)
    return Unserialisable()


@durable.step
def slow(order: str, seconds: float) -> str:
    ledger().record("charge", order)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    return f"ch-{order}"


@durable.step
def key_of(order: str) -> str:
    return durable.idempotency_key()


def always_raises(job: Any, connection: Any, result: Any, *args: Any) -> None:
    """A success callback that fails each time."""
    ledger().record("callback", job.args[0])
    raise RuntimeError("the webhook is down")


def once_raises(job: Any, connection: Any, result: Any, *args: Any) -> None:
    """A success callback that fails the first time."""
    order = job.args[0]
    ledger().record("callback", order)
    if ledger().count(order, "callback") == 1:
        raise RuntimeError("the webhook is down")


def told_of_failure(job: Any, connection: Any, *error: Any) -> None:
    """A failure callback."""
    ledger().record("failure", job.args[0])


def told_of_exception(job: Any, *error: Any) -> bool:
    """An exception handler of a worker."""
    ledger().record(f"exception {error[0].__name__}", job.args[0])
    return True


@durable.step(idempotent=True)
def fail_idempotent(order: str) -> None:
    ledger().record("fail", order)
    raise ValueError("out of paper")


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05, maximum_attempts=3))
def fail_idempotent_three_times(order: str) -> None:
    ledger().record("fail", order)
    raise ValueError("out of paper")
