"""Workflow functions, well behaved and not."""

from __future__ import annotations

from typing import Any

from celery import Task

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app, steps


@durable.step
def plain_step(order: str, what: str = "plain") -> str:
    """No task: a function."""
    ledger().record(what, order)
    return f"{what}-{order}"


@durable.step(key="{sku}")
def pick(order: str, sku: str) -> str:
    ledger().record(f"pick {sku}", order)
    return f"picked-{sku}"


@durable.step
@app.task
def pack(order: str, box: str = "small") -> str:
    ledger().record("pack", order, box=box)
    return f"packed-{order}"


@durable.step
@app.task
def slow_pack(order: str) -> str:
    ledger().wait_at("pack", order)
    ledger().record("pack", order)
    return f"packed-{order}"


@durable.step
@app.task
def outer(order: str) -> str:
    """A step that calls another one: that is a part of it."""
    ledger().record("outer", order)
    return steps.charge(order)


@durable.workflow(id="in-place-{order}")
@app.task
def in_place(order: str) -> list[str]:
    ledger().record("body", order)
    return [steps.charge(order), plain_step(order), pack(order, box="large")]


@durable.workflow
@app.task
def nested(order: str) -> str:
    return outer(order)


@durable.workflow(id="sleeper-{order}", attributes=("order",), amount="amount")
@app.task
def sleeper(order: str, amount: int = 7, seconds: float = 0.6) -> list[str]:
    ledger().record("body", order)
    before = steps.charge(order)
    durable.sleep(seconds)
    return [before, pack(order)]


@durable.workflow
@app.task
def dispatcher(order: str) -> str:
    """Dispatches a step and waits for it."""
    ledger().record("body", order)
    result = slow_pack.delay(order)
    plain_step(order, "meanwhile")
    return f"got {result.get()}"


@durable.workflow
@app.task
def mails_once(order: str) -> str:
    """Sends an unmarked task, and is replayed."""
    ledger().record("body", order)
    steps.mail.delay(order)
    durable.sleep(0.3)
    return "mailed"


@durable.workflow
@app.task
def fails(order: str) -> None:
    steps.charge(order)
    steps.fail(order, "for good")


@durable.step(drift="record")
def tolerant(order: str, box: str) -> str:
    ledger().record("tolerant", order, box=box)
    return box


@durable.step(ignore_arguments=("box",))
def careless(order: str, box: str) -> str:
    ledger().record("careless", order, box=box)
    return box


@durable.workflow
@app.task(bind=True, default_retry_delay=0, max_retries=3)
def retries_itself(self: Task, order: str) -> str:
    """The function's own code fails once, after a step."""
    steps.charge(order)
    ledger().record("body", order)
    if ledger().count(order, "body") == 1:
        raise self.retry(exc=ConnectionError("once"), countdown=0)
    return "done"


@durable.workflow
@app.task
def starts_others(order: str) -> str:
    """Starts a run beside itself and a workflow of its own kind; replayed, it starts them no second time."""
    ledger().record("body", order)
    in_place.delay(f"{order}-child")
    durable.sleep(0.3)
    return "started"


@durable.workflow(id="stepwise-{order}")
@app.task
def stepwise(order: str) -> list[str]:
    """Three steps; in the middle of each the test may stop it."""
    ledger().record("body", order)
    return [gated(order, number) for number in range(3)]


@durable.step
def gated(order: str, number: int) -> str:
    ledger().wait_at(f"step {number}", order)
    ledger().record(f"step {number}", order)
    return f"{number}"


@durable.workflow
@app.task
def many(order: str, count: int) -> list[Any]:
    """The same step several times."""
    ledger().record("body", order)
    done = [plain_step(order, f"step {number}") for number in range(count)]
    durable.sleep(0.3)
    return done
