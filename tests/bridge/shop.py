"""A shop in the middle of its move: some of its work is done by Celery, some by RQ, and one journal knows of both."""

from __future__ import annotations

import os
from pathlib import Path

import redis
from celery import Celery
from rq import Queue

import durable_adapter as durable
import durable_adapter.celery
import durable_adapter.rq

URL, QUEUE, LEDGER = "BRIDGE_REDIS", "BRIDGE_QUEUE", "BRIDGE_LEDGER"
app = Celery("bridge", broker=os.environ.get(URL), backend=os.environ.get(URL))
app.conf.task_default_queue = os.environ.get(QUEUE, "bridge")


def note(what: str) -> str:
    """What happened, for the test to count."""
    with Path(os.environ[LEDGER]).open("a") as file:
        file.write(f"{what}\n")
    return what


def jobs() -> Queue:
    """RQ's queue of this test."""
    return Queue(os.environ[QUEUE], connection=redis.Redis.from_url(os.environ[URL]))


def refund(charged: str, order: str) -> str:
    """A job that undoes the charge."""
    return note(f"refund {order}")


@durable.step(compensate=refund)
def charge(order: str) -> str:
    """A job."""
    return note(f"charge {order}")


@durable.step
@app.task(name="bridge.ship")
def ship(order: str) -> str:
    """A task."""
    if order == "broken":
        raise ValueError("no such address")
    return note(f"ship {order}")


@durable.workflow(id="celery-{order}")
@app.task(name="bridge.fulfil")
def fulfil(order: str) -> list[str]:
    """A function on Celery, which charges on RQ."""
    job = jobs().enqueue(charge, order)
    charged: str = job.return_value()
    return [charged, ship(order)]


@durable.workflow(id="rq-{order}")
def fulfil_on_rq(order: str) -> list[str]:
    """A function on RQ, which ships on Celery."""
    charged = charge(order)
    return [charged, ship.delay(order).get()]


def install() -> None:
    """Makes both durable in this process."""
    durable_adapter.rq.install().seen(jobs().connection)
    durable_adapter.celery.install(app)


if os.environ.get("DURABLE_ADAPTER_JOURNAL"):
    install()
