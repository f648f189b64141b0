"""The shop on RQ: charge, ship, mail, as a lone job, a chain by `depends_on` and a workflow function.

What a step does is in `tests.crash.shop`. RQ sends a function by its dotted name: the steps of each declaration are
functions of a module of their own, such as `tests.crash.rq_app.undeclared_plain`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import redis
from legacy_sidekiq_style.client import BankError
from rq import Callback, Queue, Retry
from rq.job import Job

import durable_adapter as durable
import durable_adapter.rq
from tests.crash.shop import HASTE, PLAIN, declare, make_effect, pause, step_of
from tests.crash.words import QUEUE, SAFETIES, STEPS

#: How the shop's functions and its callers treat an error: not at all; by RQ's Retry; with a callback on success, too. And
#: functions that ask to be run again themselves, by returning a Retry.
FLAVOURS = ("plain", "retry", "callback", "again")


def add_step(shop: ModuleType, step: str, safety: str, flavour: str) -> None:
    """Makes one function and marks it."""

    def body(order: str) -> Any:
        if flavour == "again" and not is_time(order, step):
            return Retry(max=3, interval=1)
        pause(order, step, "before-effect")
        return make_effect(step, order, safety)

    setattr(shop, step, declare(step, safety)(named(body, shop, step)))


def add_function(shop: ModuleType) -> None:
    """Makes the workflow function: the same three steps in place."""

    def body(order: str) -> Any:
        shop.charge(order)
        pause(order, "charge", "after-end")
        shop.ship(order)
        pause(order, "ship", "after-end")
        return str(shop.mail(order))

    shop.fulfil = durable.workflow(id="{order}")(named(body, shop, "fulfil"))


def named(body: Any, shop: ModuleType, step: str) -> Any:
    """The function under the name by which RQ is to find it."""
    body.__module__, body.__name__, body.__qualname__ = shop.__name__, step, step
    return body


def is_time(order: str, step: str) -> bool:
    """Whether the bank says that it is time; the matrix has it refuse an answer."""
    try:
        pause(order, step, "is-it-time")
    except BankError:
        return False
    return True


SHOPS: dict[tuple[str, str], ModuleType] = {}
for _safety in SAFETIES:
    for _flavour in ("plain", "again"):
        _name = f"{_safety}_{_flavour}"
        _shop = ModuleType(f"{__name__}.{_name}")
        SHOPS[_safety, _flavour] = globals()[_name] = sys.modules[_shop.__name__] = _shop
        for _step in STEPS:
            add_step(_shop, _step, _safety, _flavour)
        add_function(_shop)


def occupy(reference: str) -> None:
    """Keeps a worker busy for as long as the bank keeps it waiting. Not marked."""
    pause(reference, "occupy", "running")


def succeeded(job: Job, _connection: Any, _result: Any) -> None:
    """The shop's own callback: tells the bank, which may refuse to hear it."""
    pause(job.args[-1], step_of(job.func_name or ""), "on-success")


#: What was sent for each order, by a web process that tries again what it could not send.
SENT: dict[str, list[Job]] = {}


def start(shape: str, safety: str, flavour: str, order: str, options: dict[str, Any], target: str) -> list[str]:
    """Publishes one workflow as any web handler would; returns the ids of its jobs, first to last.

    Called again for the same order, it goes on behind what it has sent already.
    """
    queue = Queue(QUEUE, connection=redis.Redis.from_url(os.environ["CRASH_BROKER"]))
    if shape == "occupy":
        return [queue.enqueue(occupy, order).id]
    shop = SHOPS[safety, "again" if flavour == "again" else "plain"]
    how: dict[str, Any] = {"retry": Retry(max=3)} if flavour in ("retry", "callback") else {}
    how |= {"on_success": Callback(succeeded)} if flavour == "callback" else {}
    steps = {"lone": STEPS[:1], "function": ("fulfil",), "chain": STEPS}[shape]
    sent = SENT.setdefault(order, [])
    for step in steps[len(sent) :]:
        if sent:
            pause(order, step, "before-join")
            how["depends_on"] = sent[-1]
        own = options if step in (target, "fulfil") else {}
        sent.append(queue.enqueue(getattr(shop, step), order, **how, **own))
    return [job.id for job in sent]


if not PLAIN:
    durable_adapter.rq.install(journal=os.environ["CRASH_JOURNAL"], **HASTE)
