"""The soak's sagas on RQ: `rq worker -w durable_adapter.rq.Worker soak`; `start` publishes one.

RQ sends a function by its dotted name: the steps of each declaration are functions of a module of their own, such as
`tests.soak.rq_app.probe`.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

import redis
from rq import Queue
from rq.job import Job

import durable_adapter as durable
import durable_adapter.rq
from tests.soak.sagas import SAFETIES, STEPS
from tests.soak.shop import HASTE, declare, make_effect


def add_step(shop: ModuleType, step: str, safety: str) -> None:
    """Makes one function and marks it."""

    def body(saga: str) -> str:
        return make_effect(step, safety, saga)

    body.__module__, body.__name__, body.__qualname__ = shop.__name__, step, step
    setattr(shop, step, declare(step, safety)(body))


SHOPS = {safety: ModuleType(f"{__name__}.{safety}") for safety in SAFETIES}
for _safety, _shop in SHOPS.items():
    sys.modules[_shop.__name__] = _shop
    for _step in STEPS:
        add_step(_shop, _step, _safety)


@durable.workflow(id="{saga}")
def fulfil(saga: str, safeties: list[str]) -> str:
    """The same five steps, called in place."""
    for step, safety in zip(STEPS, safeties, strict=True):
        done = getattr(SHOPS[safety], step)(saga)
    return str(done)


#: What was sent for each saga, by a web process that tries again what it could not send.
SENT: dict[str, list[Job]] = {}


def start(saga: str, shape: str, safeties: list[str]) -> None:
    """Publishes a saga as any web handler would. Called again for the same saga, it goes on behind what it has sent.

    A job whose publication failed may have been sent all the same: it is sent again under its ID.
    """
    queue = Queue("soak", connection=redis.Redis.from_url(os.environ["CRASH_BROKER"]))
    sent = SENT.setdefault(saga, [])
    if shape == "function":
        queue.enqueue(fulfil, saga, safeties, job_id=f"{saga}-fulfil")
        return
    for step, safety in list(zip(STEPS, safeties, strict=True))[len(sent) :]:
        before = {"depends_on": sent[-1]} if sent else {}
        sent.append(queue.enqueue(getattr(SHOPS[safety], step), saga, job_id=f"{saga}-{step}", **before))


durable_adapter.rq.install(journal=os.environ["CRASH_JOURNAL"], **HASTE)
