"""The soak's sagas on Celery: `celery -A tests.soak.celery_app worker`; `start` publishes one."""

from __future__ import annotations

import os
from typing import Any

import kombu
from celery import Celery, chain
from kombu.transport.redis import QoS

import durable_adapter as durable
import durable_adapter.celery
from tests.soak.sagas import SAFETIES, STEPS
from tests.soak.shop import HASTE, declare, make_effect

#: Seconds after which the broker delivers again what a dead worker had taken.
VISIBILITY_TIMEOUT = 10

app = Celery("soak", broker=os.environ["CRASH_BROKER"], backend=os.environ["CRASH_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue="soak",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A worker that is killed while it gives messages back must not keep the others from it for long.
        "unacked_mutex_expire": 5,
    },
)
if kombu.VERSION < (5, 7):
    # Without those two settings, the broker looks for what was not acknowledged every 100 s: this makes it every 10 s.
    QoS.restore_visible.__defaults__ = (0, 10, 1)


def add_step(step: str, safety: str) -> Any:
    """Makes one task and marks it. Its last argument is the saga; what comes before is its predecessor's result."""

    def body(*args: Any) -> str:
        return make_effect(step, safety, args[-1])

    return declare(step, safety)(app.task(name=f"{safety}.{step}")(body))


TASKS = {(step, safety): add_step(step, safety) for step in STEPS for safety in SAFETIES}


@durable.workflow(id="{saga}")
@app.task(name="fulfil")
def fulfil(saga: str, safeties: list[str]) -> str:
    """The same five steps, called in place."""
    for step, safety in zip(STEPS, safeties, strict=True):
        done = TASKS[step, safety](saga)
    return str(done)


def start(saga: str, shape: str, safeties: list[str]) -> None:
    """Publishes a saga as any web handler would. A second call for the same saga changes nothing."""
    if shape == "function":
        fulfil.delay(saga, safeties)
    else:
        durable.start(saga, chain(*(TASKS[step, safety].s(saga) for step, safety in zip(STEPS, safeties, strict=True))))


durable_adapter.celery.install(app, journal=os.environ["CRASH_JOURNAL"], **HASTE)
