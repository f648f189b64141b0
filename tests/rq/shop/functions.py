"""Workflow functions, well behaved and not."""

from __future__ import annotations

import asyncio
import os

import redis
from rq import Queue

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.rq.shop import legacy, steps
from tests.rq.shop.chains import URL


def queue(name: str) -> Queue:
    return Queue(name, connection=redis.Redis.from_url(os.environ[URL]))


@durable.workflow
def in_place(order: str) -> list[str]:
    return [steps.charge(order), steps.book(order), steps.mail(order)]


@durable.workflow(id="order-{order}")
def templated(order: str, amount: int = 1) -> str:
    return steps.charge(order)


@durable.workflow
def sleeps(order: str, seconds: float) -> str:
    steps.charge(order)
    durable.sleep(seconds)
    return steps.book(order)


@durable.workflow
def calls_a_coroutine(order: str) -> str:
    """A plain function: it gets what a call of the coroutine gives, and awaits that as ever."""
    charged: str = asyncio.run(steps.awaited(order))
    durable.sleep(3600)
    return charged


@durable.workflow
async def awaits_a_coroutine(order: str) -> str:
    return await steps.awaited(order)


@durable.workflow
async def is_a_coroutine(order: str) -> str:
    steps.charge(order)
    durable.sleep(3600)
    return steps.book(order)


@durable.workflow
def charges_as_ever(order: str) -> str:
    """Calls what nobody may edit."""
    charged = legacy.charge(order)
    durable.sleep(3600)
    return charged


@durable.workflow
def charges_untouched(order: str) -> str:
    from tests.rq.shop import untouched

    return untouched.charge(order)


@durable.workflow
def dispatches(order: str, to: str) -> list[str]:
    charge = queue(to).enqueue(steps.charge, order)
    book = queue(to).enqueue(steps.book, order)
    queue(to).enqueue(steps.unmarked, order)
    return [charge.return_value(), book.return_value()]


@durable.workflow
def dispatches_to_itself(order: str, to: str, target: str) -> str:
    """To a queue that runs a job where it is enqueued."""
    synchronous = Queue(to, connection=redis.Redis.from_url(os.environ[URL]), is_async=False)
    ledger().record("body", order)
    synchronous.enqueue(target, order)
    return "done"


@durable.workflow
def forgets_what_it_dispatched(order: str, to: str) -> str:
    queue(to).enqueue(steps.charge, order)
    return "done"


@durable.workflow
def dispatches_behind_another(order: str, to: str) -> str:
    first = queue(to).enqueue(steps.charge, order)
    queue(to).enqueue(steps.book, order, depends_on=first)
    return "done"


@durable.workflow
def dispatches_in_order(order: str, to: str) -> str:
    """The second comes after the first, which fails."""
    first = queue(to).enqueue(steps.decline, order)
    queue(to).enqueue(steps.book, order, depends_on=first)
    return "done"


@durable.workflow
def fails_once(order: str) -> str:
    steps.charge(order)
    ledger().record("attempt", order)
    if ledger().count(order, "attempt") == 1:
        raise RuntimeError("a bug that the next deploy mends")
    return steps.book(order)


@durable.workflow
def waits_at_a_gate(order: str) -> list[str]:
    first = steps.charge(order)
    ledger().wait_at("function", order)
    return [first, steps.book(order)]


@durable.workflow
def sends_what_is_not_marked(order: str, to: str) -> str:
    queue(to).enqueue(steps.unmarked, order)
    return steps.charge(order)
