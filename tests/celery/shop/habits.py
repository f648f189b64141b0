"""What legacy Celery code does: bound tasks, retries, classes, recursion, pydantic, mapping."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Task, chain, chord, group
from pydantic import BaseModel

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app, steps


@durable.step
@app.task(bind=True)
def bound(self: Task, order: str) -> dict[str, Any]:
    ledger().record("bound", order)
    return {
        "id": self.request.id,
        "retries": self.request.retries,
        "priority": self.request.delivery_info["priority"],
        "queue": self.request.delivery_info["routing_key"],
        "headers": (self.request.headers or {}).get("tenant"),
    }


@durable.step(idempotent=True, retry=durable.RetryPolicy(maximum_attempts=1))
@app.task(bind=True, max_retries=3)
def retries_with_error(self: Task, order: str, failures: int = 1) -> str:
    """`self.retry(exc=...)` of a step that may be repeated."""
    ledger().record("attempt", order, retries=self.request.retries)
    if ledger().count(order, "attempt") <= failures:
        try:
            raise TimeoutError("no answer")
        except TimeoutError as error:
            raise self.retry(exc=error, countdown=0) from error
    return "done"


@durable.step
@app.task(bind=True, max_retries=3)
def retries_protected(self: Task, order: str) -> str:
    """`self.retry(exc=...)` of a step that nothing makes safe to repeat."""
    ledger().record("attempt", order)
    try:
        raise TimeoutError("no answer")
    except TimeoutError as error:
        raise self.retry(exc=error, countdown=0) from error


@durable.step
@app.task(bind=True, max_retries=5)
def polls(self: Task, order: str) -> str:
    """`self.retry()` without an error: not done yet."""
    ledger().record("attempt", order, retries=self.request.retries)
    if ledger().count(order, "attempt") < 3:
        raise self.retry(countdown=0)
    return "done"


@durable.step
@app.task(bind=True, max_retries=5)
def polls_without_throwing(self: Task, order: str) -> str:
    """`self.retry(throw=False)`: goes on to return."""
    ledger().record("attempt", order, retries=self.request.retries)
    if ledger().count(order, "attempt") < 3:
        self.retry(countdown=0, throw=False)
        return "not yet"
    return "done"


@durable.step(did_not_happen=ConnectionError)
@app.task(autoretry_for=(ConnectionError,), retry_backoff=0.05, retry_jitter=False, max_retries=3)
def autoretries(order: str, failures: int = 2) -> str:
    ledger().record("attempt", order)
    if ledger().count(order, "attempt") <= failures:
        raise ConnectionError("nobody there")
    return "done"


@durable.step
@app.task(autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
def autoretries_protected(order: str) -> str:
    ledger().record("attempt", order)
    raise ValueError("who knows")


@durable.step
@app.task(autoretry_for=(ValueError,), default_retry_delay=0, max_retries=3)
def began_plain(order: str, failures: int = 2) -> str:
    """Waits at a gate in its first attempt; no other test has a run of it."""
    ledger().record("attempt", order)
    if ledger().count(order, "attempt") == 1 and failures:
        ledger().wait_at("gate", order)
    if ledger().count(order, "attempt") <= failures:
        raise ValueError("who knows")
    return order


@durable.step
@app.task(ignore_result=True)
def ignored(order: str) -> str:
    ledger().record("ignored", order)
    return "nobody sees this"


class Amount(BaseModel):
    """Wire form and Python form differ."""

    value: int


@durable.step
@app.task(pydantic=True)
def with_model(order: str, amount: Amount) -> Amount:
    ledger().record("with_model", order, value=amount.value, type=type(amount).__name__)
    return Amount(value=amount.value + 1)


class Contextual(Task):
    """The Flask idiom: a task class with its own `__call__`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        order = args[0]
        ledger().record("enter context", order)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            ledger().record("leave context", order)


@durable.step
@app.task(base=Contextual)
def in_context(order: str) -> str:
    ledger().record("in_context", order)
    return "done"


class Classic(Task):
    """A class-based task."""

    name = "tests.celery.shop.habits.classic"

    def run(self, order: str) -> str:
        ledger().record("classic", order)
        return f"classic-{order}"


classic = durable.step(app.register_task(Classic()))


@durable.step
@app.task
def countdown_by_recursion(order: str, number: int) -> int:
    """Calls itself as a function."""
    ledger().record(f"recursion {number}", order)
    return number if number == 0 else number + countdown_by_recursion(order, number - 1)


@durable.step
@app.task
def calls_another_task(order: str) -> str:
    """Calls another marked task as a function."""
    return "called " + steps.charge(order)


@app.task
def unmarked_calls_a_step(order: str) -> str:
    """Not marked: what it calls as a function is a plain call."""
    return "called " + steps.charge(order)


@durable.step
@app.task
def one(order: str, number: int) -> int:
    """For map, starmap and chunks."""
    ledger().record(f"one {number}", order)
    return number * 10


@durable.step
@app.task
def single(pair: list[Any]) -> int:
    ledger().record(f"single {pair[1]}", pair[0])
    return int(pair[1]) * 10


@durable.step
@app.task
def launches(order: str) -> str:
    """A step that sends another durable task from its body."""
    ledger().record("launches", order)
    steps.charge.delay(order)
    return "launched"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05))
@app.task
def launches_then_fails(order: str) -> str:
    """Each attempt launches; both mean the same run."""
    ledger().record("launches", order)
    steps.charge.delay(order)
    if ledger().count(order, "launches") == 1:
        raise TimeoutError("no answer")
    return "launched"


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05))
@app.task
def launches_a_chain_then_fails(order: str) -> str:
    """Each attempt launches a chain under other ids; both mean the same run."""
    ledger().record("launches", order)
    chain(steps.charge.si(order), steps.mail.si(order)).apply_async()
    if ledger().count(order, "launches") == 1:
        raise TimeoutError("no answer")
    return "launched"


@durable.step
@app.task(bind=True)
def replaces_itself(self: Task, order: str) -> Any:
    ledger().record("replaces", order)
    return self.replace(steps.charge.s(order))


@durable.step(idempotent=True)
@app.task(bind=True, autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
def replaces_itself_with(self: Task, order: str, shape: str) -> Any:
    """Replaces itself with a canvas; `autoretry_for` would try that again."""
    ledger().record("replaces", order)
    shapes: dict[str, Any] = {
        "task": unmarked_note.si(order),
        "chain": chain(unmarked_note.si(order), unmarked_note.si(order)),
        "group": group(unmarked_note.si(order), unmarked_note.si(order)),
        "chord": chord([unmarked_note.si(order), unmarked_note.si(order)], unmarked_note.si(order)),
    }
    return self.replace(shapes[shape])


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05, maximum_attempts=5))
@app.task(bind=True)
def replaces_itself_although_it_is_retried(self: Task, order: str) -> Any:
    ledger().record("replaces", order)
    try:
        return self.replace(unmarked_note.si(order))
    except Exception as error:
        raise self.retry(exc=error, countdown=0) from error


@durable.step(idempotent=True)
@app.task(bind=True)
def adds_to_its_chord(self: Task, order: str) -> Any:
    ledger().record("adds", order)
    return self.add_to_chord(unmarked_note.si(order)).id


@app.task
def unmarked_note(order: str, *_results: Any) -> str:
    ledger().record("unmarked", order)
    return order


class Declined(Exception):
    """The provider said no."""


class Transient(Exception):
    """It may work next time."""


@durable.step(idempotent=True)
@app.task(bind=True, max_retries=1)
def retries_once(self: Task, order: str) -> None:
    ledger().record("attempt", order)
    raise self.retry(exc=Transient("x"), countdown=0)


@durable.step(idempotent=True)
@app.task(bind=True, max_retries=5)
def retries_as_often_as_the_call_says(self: Task, order: str, most: int) -> None:
    ledger().record("attempt", order)
    raise self.retry(exc=Transient("x"), countdown=0, max_retries=most)


@durable.step(idempotent=True)
@app.task(max_retries=0)
def never_retries(order: str) -> None:
    ledger().record("attempt", order)
    raise Transient("x")


@durable.step(idempotent=True)
@app.task(max_retries=None)
def retries_without_limit(order: str) -> None:
    """Celery has no limit, and nobody asks it: our own policy decides."""
    ledger().record("attempt", order)
    raise Transient("x")


@durable.step(idempotent=True)
@app.task(autoretry_for=(Exception,), dont_autoretry_for=(Declined,), max_retries=5, default_retry_delay=0)
def is_declined(order: str) -> None:
    ledger().record("attempt", order)
    raise Declined("no")


@durable.step(idempotent=True)
@app.task(autoretry_for=(Transient,), retry_kwargs={"max_retries": 1}, default_retry_delay=0)
def autoretries_once(order: str) -> None:
    ledger().record("attempt", order)
    raise Transient("x")


@durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=0.05, maximum_attempts=2))
@app.task(max_retries=0)
def retries_because_the_step_says_so(order: str) -> None:
    ledger().record("attempt", order)
    raise Transient("x")


def _it_did_not_happen(order: str) -> durable.Verdict:
    return durable.did_not_happen()


@durable.step(probe=_it_did_not_happen, settle=0)
@app.task(bind=True)
def is_probed_and_never_retried(self: Task, order: str) -> None:
    ledger().record("attempt", order)
    raise self.retry(exc=Transient("x"), max_retries=0)


@durable.step(idempotent=True)
@app.task(bind=True, max_retries=5)
def returns_and_is_retried(self: Task, order: str) -> str:
    """`retry(throw=False)`, and a value; the last attempt waits to be let go."""
    ledger().record("attempt", order)
    if ledger().count(order, "attempt") == 1:
        self.retry(countdown=0, throw=False)
        return "not yet"
    ledger().wait_at("last attempt", order)
    return "done"


@durable.step(idempotent=True)
@app.task(bind=True, max_retries=5)
def returns_and_is_retried_for_an_error(self: Task, order: str) -> str:
    ledger().record("attempt", order)
    if ledger().count(order, "attempt") == 1:
        self.retry(exc=Transient("x"), countdown=0, throw=False)
        return "not yet"
    return "done"


@durable.step(idempotent=True)
@app.task(pydantic=True)
def wants_a_model(order: str, amount: Amount) -> None:
    ledger().record("wants_a_model", order)


@durable.workflow
@app.task
def catches_what_is_declined(order: str) -> str:
    """Steps in place, whose tasks have limits of their own."""
    caught = []
    for step in (never_retries, is_declined, autoretries_once):
        try:
            step(order)
        except (Transient, Declined) as error:
            caught.append(type(error).__name__)
    return " ".join(caught)


@durable.step(idempotent=True)
@app.task
def dies_once(order: str) -> str:
    """Its process is killed in the first attempt."""
    ledger().record("dies", order)
    if ledger().count(order, "dies") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return order


@app.task
def unmarked_end(order: str) -> str:
    ledger().record("end", order)
    return order
