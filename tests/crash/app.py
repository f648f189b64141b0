"""The shop on Celery: charge, ship, mail, as a lone task, a chain and a workflow function.

Run as `celery -A tests.crash.app worker`. What a step does is in `tests.crash.shop`.
"""

from __future__ import annotations

import os
from typing import Any

import kombu
from celery import Celery, Task, chain, current_task, signals
from kombu.transport.redis import QoS

import durable_adapter as durable
import durable_adapter.celery
from tests.crash.shop import HASTE, PLAIN, declare, make_effect, pause, step_of
from tests.crash.words import QUEUE, SAFETIES, STEPS

#: How the shop's code treats an error: not at all, by `autoretry_for`, by `self.retry`; and, with late acknowledgement off.
FLAVOURS = ("plain", "autoretry", "retry", "early")
VISIBILITY_TIMEOUT = 4

app = Celery("crash", broker=os.environ["CRASH_BROKER"], backend=os.environ["CRASH_RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue=QUEUE,
    broker_connection_retry_on_startup=True,
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


class OwnCall(Task):
    """A task with a `__call__` of its own, as applications have it: lone tasks here."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the task, then comes by a moment that nothing else shows: its end is recorded, its result is not stored."""
        value = self.run(*args, **kwargs)
        pause(args[-1], step_of(self.name), "after-end")
        return value


def options_of(flavour: str) -> dict[str, Any]:
    """What the task's decorator is given."""
    if flavour == "autoretry":
        return {"autoretry_for": (Exception,), "max_retries": 3, "default_retry_delay": 1, "retry_backoff": False}
    if flavour == "retry":
        return {"max_retries": 3, "default_retry_delay": 1}
    if flavour == "early":
        return {"acks_late": False, "reject_on_worker_lost": False}
    return {}


def add_step(step: str, safety: str, flavour: str, shape: str) -> Any:
    """Makes one task and marks it. Its last argument is the order; what comes before is its predecessor's result."""

    def body(self: Any, *args: Any) -> str:
        order = args[-1]
        pause(order, step, "before-effect")
        if flavour != "retry":
            return make_effect(step, order, safety)
        try:
            return make_effect(step, order, safety)
        except Exception as error:
            raise self.retry(exc=error) from error

    base = {"base": OwnCall} if shape == "lone" else {}
    task = app.task(name=f"{shape}.{safety}.{flavour}.{step}", bind=True, **base, **options_of(flavour))(body)
    return declare(step, safety)(task)


def add_function(safety: str, flavour: str) -> None:
    """Makes the workflow function: the same three steps in place."""
    charge, ship, mail = (TASKS["function", safety, flavour, step] for step in STEPS)

    def fulfil(order: str) -> str:
        charged = charge(order)
        pause(order, "charge", "after-end")
        shipped = ship(charged, order)
        pause(order, "ship", "after-end")
        return str(mail(shipped, order))

    def body(self: Any, order: str) -> str:
        if flavour != "retry":
            return fulfil(order)
        try:
            return fulfil(order)
        except Exception as error:
            raise self.retry(exc=error) from error

    task = app.task(name=f"function.{safety}.{flavour}.fulfil", bind=True, **options_of(flavour))(body)
    TASKS["function", safety, flavour, "fulfil"] = durable.workflow(id="{order}")(task)


TASKS: dict[tuple[str, str, str, str], Any] = {}
for _safety in SAFETIES:
    for _flavour in FLAVOURS:
        for _shape in ("lone", "chain", "function"):
            for _step in STEPS[:1] if _shape == "lone" else STEPS:
                TASKS[_shape, _safety, _flavour, _step] = add_step(_step, _safety, _flavour, _shape)
        add_function(_safety, _flavour)


@app.task
def occupy(reference: str) -> None:
    """Keeps a worker busy for as long as the bank keeps it waiting. Not marked."""
    pause(reference, "occupy", "running")


@signals.task_prerun.connect
def _about_to_run(task: Any = None, args: Any = (), **_: Any) -> None:
    if args and task.name != occupy.name:
        pause(args[-1], step_of(task.name), "before-body")


@signals.task_success.connect
def _result_is_stored(sender: Any = None, **_: Any) -> None:
    args = sender.request.args
    if args and sender.name != occupy.name:
        pause(args[-1], step_of(sender.name), "after-result")


@signals.before_task_publish.connect
def _about_to_publish(sender: str = "", body: Any = None, **_: Any) -> None:
    if current_task:
        pause(body[0][-1], step_of(sender), "before-publish")


@signals.after_task_publish.connect
def _published(sender: str = "", body: Any = None, **_: Any) -> None:
    if current_task:
        pause(body[0][-1], step_of(sender), "after-publish")


def start(shape: str, safety: str, flavour: str, order: str, options: dict[str, Any], target: str) -> list[str]:
    """Publishes one workflow as any web handler would; returns the ids of its tasks, first to last."""
    if shape == "occupy":
        return [occupy.apply_async((order,)).id]
    if shape == "lone":
        return [TASKS[shape, safety, flavour, "charge"].apply_async((order,), **options).id]
    if shape == "function":
        return [TASKS[shape, safety, flavour, "fulfil"].apply_async((order,), **options).id]
    limits = {name: options.pop(name) for name in ("time_limit", "soft_time_limit") if name in options}
    members = {step: TASKS[shape, safety, flavour, step].s(order) for step in STEPS}
    members[target].set(**limits)
    result = chain(*members.values()).apply_async(**options)
    ids: list[str] = []
    while result is not None:
        ids.insert(0, result.id)
        result = result.parent
    return ids


if not PLAIN:
    durable_adapter.celery.install(app, journal=os.environ["CRASH_JOURNAL"], **HASTE)
