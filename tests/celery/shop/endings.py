"""Every way in which a body ends otherwise than by a value or an error of its own: each as a plain task and as a step."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Task
from celery.exceptions import (
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskPredicate,
    TaskRevokedError,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app


def end(task: Task, how: str, order: str) -> str:
    """Has its effect, and ends as it is told to. What is to end so once alone ends well the second time."""
    ledger().record("effect", order)
    first = ledger().count(order, "effect") == 1
    raised: dict[str, Any] = {
        "ignore": Ignore,
        "reject": lambda: Reject("no", requeue=False),
        "predicate": lambda: TaskPredicate("no"),
        "retry by hand": lambda: Retry("later"),
        "revoked by hand": lambda: TaskRevokedError("no"),
        "terminated by hand": lambda: Terminated("no"),
        "worker lost by hand": lambda: WorkerLostError("no"),
        "time limit by hand": lambda: TimeLimitExceeded(1),
        "soft limit by hand": lambda: SoftTimeLimitExceeded("no"),
        "max retries by hand": lambda: MaxRetriesExceededError("no"),
        "not registered by hand": lambda: NotRegistered(task.name),
        "content by hand": lambda: ContentDisallowed("no"),
        "decode by hand": lambda: DecodeError("no"),
        "broker by hand": lambda: OperationalError("no"),
    }
    if how in raised:
        raise raised[how]()
    if how == "kill always":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "chain = None":
        task.request.chain = None
    if how == "chain = []":
        task.request.chain = []
    if how == "chain.pop()":
        task.request.chain.pop()
    if how == "chain.append()":
        task.request.chain.append(noted.si(order, "added"))
    if how == "callbacks = None":
        task.request.callbacks = None
    if how == "retries = 7":
        task.request.retries = 7
    if how == "update_state":
        task.update_state(state="HALFWAY", meta={"done": 1})
    if not first:
        return "second time"
    once: dict[str, Any] = {
        "requeue": lambda: Reject("again", requeue=True),
        "SystemExit": lambda: SystemExit(1),
        "KeyboardInterrupt": KeyboardInterrupt,
        "shutdown": lambda: WorkerShutdown(0),
        "terminate": lambda: WorkerTerminate(1),
    }
    if how in once:
        raise once[how]()
    if how == "self.retry()":
        raise task.retry(countdown=0)
    if how == "os._exit":
        os._exit(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hard limit":
        time.sleep(30)
    return "done"


@app.task(bind=True)
def plain(self: Task, how: str, order: str) -> str:
    """Not marked."""
    return end(self, how, order)


@durable.step
@app.task(bind=True)
def protected(self: Task, how: str, order: str) -> str:
    """Nothing makes it safe to repeat."""
    return end(self, how, order)


@durable.step(idempotent=True)
@app.task(bind=True)
def idempotent(self: Task, how: str, order: str) -> str:
    """May be repeated."""
    return end(self, how, order)


@app.task
def plainly_noted(order: str, what: str = "next") -> str:
    """Comes after a plain task."""
    ledger().record(what, order)
    return what


@durable.step
@app.task
def noted(order: str, what: str = "next") -> str:
    """Comes after a step."""
    ledger().record(what, order)
    return what


class Hooked(Task):  # type: ignore[misc]
    """A task class that may end a task before its body is called, or answer in its place."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """What the argument says, before the body."""
        how, order = args[0], args[1]
        ledger().record("before", order)
        if how == "ignore":
            raise Ignore()
        if how == "reject":
            raise Reject("no", requeue=False)
        if how == "fail":
            raise ValueError("not today")

    def __call__(self, how: str, order: str) -> Any:
        """Answers without its body, if it is to."""
        return "from the cache" if how == "answer" else super().__call__(how, order)


@durable.step
@app.task(base=Hooked)
def hooked(how: str, order: str) -> str:
    """A step whose class has hooks."""
    ledger().record("effect", order)
    return "done"


@app.task(base=Hooked)
def plainly_hooked(how: str, order: str) -> str:
    """Not marked."""
    ledger().record("effect", order)
    return "done"


@durable.step
@app.task
def gated(order: str) -> str:
    """Waits for the test, then has its effect."""
    ledger().wait_at("gate", order)
    ledger().record("effect", order)
    return "done"


@durable.step(idempotent=True)
@app.task
def gated_idempotent(order: str) -> str:
    """Has its effect, then waits for the test."""
    ledger().record("effect", order)
    ledger().wait_at("gate", order)
    return "done"


@durable.step
@app.task
def undone(value: str, order: str) -> None:
    """Undoes the next."""
    ledger().record("undone", order)


@durable.step(compensate=undone)
@app.task
def undoable(order: str) -> str:
    """Has a compensation."""
    ledger().record("undoable", order)
    return "done"


@durable.step
@app.task(rate_limit="5/s")
def limited(order: str) -> str:
    """A task with a rate limit."""
    ledger().record("effect", order)
    return "done"


@durable.workflow
@app.task
def dispatches(order: str) -> str:
    """A function that sends a step, and hears how it ended."""
    try:
        return str(gated.delay(order).get())
    except TaskRevokedError:
        ledger().record("told", order)
        return "revoked"
