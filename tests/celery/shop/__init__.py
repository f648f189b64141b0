"""The Celery app of these tests: imported by the workers, which find their settings in the environment, and by the tests."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down

import durable_adapter.celery
from durable_adapter.celery.binding import Binding
from tests.celery.ledger import ledger

#: Broker, result backend, journal, queue and the like, as JSON; set for workers.
SETTINGS = "DURABLE_TEST_SHOP"

#: What the ledger says, under the queue's name, when a worker is told to stop.
SHUTTING_DOWN = "shutting down"

#: Patience as short as a test wants it; with messages that are slow, not lost, it is longer.
FAST = {"stale": 3, "beat": 0.5, "sweep_every": 0.3, "resend_after": 15}

app = Celery("shop", set_as_current=False)
app.conf.include = [
    f"{__name__}.{module}" for module in ("steps", "chains", "functions", "habits", "saga", "sql", "declared", "endings")
]


def connect(settings: dict[str, Any], target: Celery = app) -> Binding:
    """Gives an app its servers and installs the plugin on it."""
    configure(settings, target)
    return durable_adapter.celery.install(target, journal=settings["journal"], **FAST, **settings.get("durable", {}))


def configure(settings: dict[str, Any], target: Celery = app) -> None:
    """Gives an app its servers."""
    target.conf.update(
        broker_url=settings["redis"],
        result_backend=settings["redis"],
        task_default_queue=settings["queue"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_lost_wait=1.0,
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        result_extended=True,
        **settings.get("celery", {}),
    )


if SETTINGS in os.environ:
    connect(json.loads(os.environ[SETTINGS]))


@worker_shutting_down.connect
def say_so(**_: Any) -> None:
    """Heard last, after the plugin: from now on it knows that the worker is told to stop."""
    ledger().record(SHUTTING_DOWN, app.conf.task_default_queue)
