"""The program that is compared: an app in which nothing is marked, and every kind of publication that Celery has."""

# ruff: noqa: PLW0108 - each kind is made when it is published
from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from tests.unchanged.fixed import IDS, NOW, fix

if __name__ == "__main__" or "--fixed" in sys.argv:
    fix()

import kombu.pools
from celery import Celery, Signature, Task, chain, chord, group, signature
from celery.beat import Scheduler
from celery.canvas import StampingVisitor
from celery.worker.request import Request

QUEUE = "durable-unchanged"
app = Celery("unchanged", set_as_current=True)
app.conf.update(
    task_default_queue=QUEUE,
    task_default_exchange=QUEUE,
    task_default_routing_key=QUEUE,
    result_extended=True,
    broker_connection_retry_on_startup=True,
    broker_heartbeat=0,
    redis_backend_health_check_interval=None,
)


@app.task
def add(x: Any = 0, y: Any = 0) -> Any:
    return x + y


@app.task
def total(numbers: list[Any]) -> Any:
    return sum(numbers)


@app.task
def fail(*_: Any) -> None:
    raise ValueError("as it should")


@app.task(ignore_result=True, priority=4, time_limit=50, soft_time_limit=40, expires=600)
def with_options(x: Any = 0) -> Any:
    return x


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def again(self: Task, x: Any = 0) -> Any:
    if self.request.retries < 2:
        raise self.retry(exc=ValueError("once more"), countdown=0)
    return x


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def again_and_returns(self: Task) -> Any:
    if self.request.retries < 1:
        self.retry(throw=False)
    return self.request.retries


@app.task(autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
def retries_by_itself() -> None:
    raise ValueError("never")


@app.task(bind=True)
def replaced(self: Task, by: Any) -> Any:
    return self.replace(signature(by, app=app))


@app.task(bind=True)
def adds_a_member(self: Task) -> Any:
    self.add_to_chord(add.s(5, 5))
    return 1


@app.task(bind=True)
def publishes(self: Task) -> None:
    add.delay(1, 1)
    group(add.s(1, 2), add.s(3, 4)).apply_async()
    chain(add.s(1, 2), add.s(3)).apply_async()


@app.task(bind=True)
def says_how_far(self: Task) -> None:
    self.update_state(state="HALFWAY", meta={"done": 1})


def lazily(*members: Signature) -> Iterator[Signature]:
    yield from members


def dependently(count: int = 5) -> Iterator[Signature]:
    """Publishes something of its own before each member, so that the order of drawing and sending shows on the wire."""
    for number in range(count):
        add.apply_async((number, "drawn"), countdown=1)
        yield add.s(number, number)


class Stamps(StampingVisitor):  # type: ignore[misc]
    def on_signature(self, _sig: Any, **_headers: Any) -> dict[str, Any]:
        return {"tenant": "acme", "trace": ["a", "b"], "stamped_headers": ["tenant", "trace"]}


def stamped(canvas: Any) -> Any:
    canvas.stamp(Stamps())
    return canvas


class Beat(Scheduler):  # type: ignore[misc]
    """The part of beat that publishes."""

    def setup_schedule(self) -> None: ...


def beat() -> None:
    scheduler = Beat(app)
    entry = scheduler.Entry(name="each-minute", task=add.name, schedule=60, args=(1, 2), options={"priority": 2}, app=app)
    scheduler.apply_async(entry, advance=False)


def numbers(count: int = 3) -> list[Signature]:
    return [add.s(n, n) for n in range(count)]


OPTIONS: dict[str, dict[str, Any]] = {
    "countdown": {"countdown": 30},
    "eta": {"eta": NOW + timedelta(hours=1)},
    "expires in": {"expires": 60},
    "expires at": {"expires": NOW + timedelta(hours=2)},
    "priority": {"priority": 3},
    "queue": {"queue": f"{QUEUE}-other"},
    "exchange and key": {"exchange": QUEUE, "routing_key": QUEUE},
    "task_id": {"task_id": "given"},
    "limits": {"time_limit": 20, "soft_time_limit": 10},
    "ignore_result": {"ignore_result": True},
    "serializer": {"serializer": "pickle"},
    "compression": {"compression": "zlib"},
    "shadow": {"shadow": "another name"},
    "headers": {"headers": {"tenant": "acme"}},
    "reply_to": {"reply_to": "somebody"},
    "link": {"link": add.s(1)},
    "links": {"link": [add.s(1), add.s(2)]},
    "link_error": {"link_error": fail.si()},
    "family": {"root_id": "root", "parent_id": "parent", "group_id": "group", "group_index": 3},
    "stamps": {"stamped_headers": ["tenant"], "tenant": "acme"},
    "representations": {"argsrepr": "(...)", "kwargsrepr": "{...}"},
    "delivery_mode": {"delivery_mode": 1},
    "retry_policy": {"retry": True, "retry_policy": {"max_retries": 1}},
}

#: What only publishes.
PUBLISHED: dict[str, Callable[[], Any]] = {
    "delay": lambda: add.delay(1, 2),
    "keywords": lambda: add.delay(x=1, y=2),
    "nothing given": lambda: add.apply_async(),
    **{f"apply_async: {name}": (lambda given=given: add.apply_async((1, 2), **given)) for name, given in OPTIONS.items()},
    "options of the task": lambda: with_options.delay(1),
    "send_task": lambda: app.send_task(add.name, (1, 2)),
    "send_task: unknown": lambda: app.send_task("nobody.knows", [1], {"a": 2}, countdown=3),
    "send_task: by position": lambda: app.send_task(add.name, (1, 2), None, None, None, "by-position"),
    "send_task: options of the task": lambda: app.send_task(with_options.name, (1,)),
    "signature": lambda: add.s(1).apply_async((2,), priority=1),
    "signature from a dictionary": lambda: Signature.from_dict(dict(add.s(1, 2)), app=app).delay(),
    "chain": lambda: chain(add.s(1, 2), add.s(3), add.si(4, 5)).apply_async(),
    "chain with options": lambda: chain(add.s(1, 2), add.s(3).set(countdown=5)).apply_async(priority=2, link_error=fail.si()),
    "chain of one": lambda: chain(add.s(1, 2)).apply_async(),
    "group": lambda: group(numbers()).apply_async(),
    "group: lazy": lambda: group(lazily(*numbers())).apply_async(),
    "group: empty": lambda: group([]).apply_async(),
    "group: nested": lambda: group(add.s(1, 1), group(numbers()), chain(add.s(1, 1), add.s(2))).apply_async(),
    "group: called": lambda: group(numbers())(),
    "chord": lambda: chord(numbers(), total.s()).apply_async(),
    "chord: called": lambda: chord(numbers())(total.s()),
    "chord: lazy": lambda: chord(lazily(*numbers()), total.s()).apply_async(),
    "group: a generator that publishes": lambda: group(dependently()).apply_async(),
    "chord: a generator that publishes": lambda: chord(dependently(), total.s()).apply_async(),
    "chain to a generator that publishes": lambda: chain(add.s(1, 2), group(dependently()), total.s()).apply_async(),
    "chord: joined": lambda: (group(numbers()) | total.s()).apply_async(countdown=3),
    "chord: of chords": lambda: chord([chord(numbers(), total.s()), add.s(1, 1)], total.s()).apply_async(),
    "chord: body of a group": lambda: chord(numbers(), group(total.s(), total.s())).apply_async(),
    "chord: link_error": lambda: chord(numbers(), total.s()).on_error(fail.si()).apply_async(),
    "chain to group": lambda: chain(add.s(1, 2), group(add.s(1), add.s(2))).apply_async(),
    "chain to lazy group": lambda: chain(add.s(1, 2), group(lazily(add.s(1), add.s(2)))).apply_async(),
    "chain to chord": lambda: chain(add.s(1, 2), group(add.s(1), add.s(2)), total.s(), add.s(1)).apply_async(),
    "stamped task": lambda: stamped(add.s(1, 2)).apply_async(),
    "stamped chain": lambda: stamped(chain(add.s(1, 2), add.s(3))).apply_async(),
    "stamped lazy chord": lambda: stamped(chord(lazily(*numbers()), total.s())).apply_async(),
    "map": lambda: total.map([[1, 2], [3]]).apply_async(),
    "starmap": lambda: add.starmap([(1, 2), (3, 4)]).apply_async(),
    "chunks": lambda: add.chunks([(1, 2), (3, 4), (5, 6)], 2).apply_async(),
    "chunks as a group": lambda: add.chunks(zip(range(4), range(4), strict=True), 2).group().apply_async(),
    "beat": beat,
}

#: What is run in a worker as well: its results, and what it publishes there.
WORKED: dict[str, Callable[[], Any]] = {
    "a result": lambda: add.delay(1, 2),
    "a failure": lambda: fail.delay(),
    "an ignored result": lambda: with_options.delay(1),
    "links": lambda: add.apply_async((1, 2), link=[add.s(1), group(add.s(1), add.s(2))]),
    "an errback": lambda: fail.apply_async(link_error=add.si(1, 2)),
    "a chain": lambda: chain(add.s(1, 2), add.s(3), group(add.s(1), add.s(2)), total.s()).apply_async(),
    "a chain that fails": lambda: chain(add.s(1, 2), fail.s(), add.s(3)).apply_async(),
    "a chord": lambda: chord(numbers(), total.s()).apply_async(),
    "a lazy chord": lambda: chord(lazily(*numbers()), total.s()).apply_async(),
    "a chord that fails": lambda: chord([add.s(1, 1), fail.s()], total.s()).apply_async(),
    "retry": lambda: again.delay(1),
    "retry that does not throw": lambda: again_and_returns.delay(),
    "autoretry": lambda: retries_by_itself.delay(),
    "replaced by a task": lambda: replaced.delay(add.s(1, 2)),
    "replaced by a chain": lambda: replaced.delay(chain(add.s(1, 2), add.s(3))),
    "replaced by a group": lambda: replaced.delay(group(add.s(1, 2), add.s(3, 4))),
    "replaced in a chain": lambda: chain(replaced.si(chord(numbers(), total.s())), add.s(1)).apply_async(),
    "a member more": lambda: chord([adds_a_member.s(), add.s(1, 1)], total.s()).apply_async(),
    "published from a body": lambda: publishes.delay(),
    "a state": lambda: says_how_far.delay(),
    "stamps": lambda: stamped(chain(add.s(1, 2), add.s(3))).apply_async(),
    "map, starmap, chunks": lambda: [total.map([[1, 2]]).delay(), add.starmap([(1, 2)]).delay(), add.chunks([(1, 2)], 1).delay()],
}


def work() -> None:
    """Runs what is in the queue in this process, as a worker does."""
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[QUEUE](connection.default_channel)
        while (message := queue.get()) is not None:
            request = Request(message, app=app, hostname="fixed-worker", on_ack=lambda *_, of=message: of.ack())
            request.execute()


def close() -> None:
    """Closes every connection, so that all that was sent has arrived."""
    kombu.pools.reset()
    app._pool = app.amqp._producer_pool = None
    backend = app.backend
    with contextlib.suppress(AttributeError):
        backend.result_consumer.stop()
    backend.client.connection_pool.disconnect()
    app._backend_cache = None
    app._local = threading.local()


def main() -> None:
    """Publishes one kind after the other, each when the program that compares says so.

    Arguments: the broker's URL, the result backend's, and `plain` or the journal's URL.
    """
    broker, backend, journal = sys.argv[1:4]
    app.conf.update(broker_url=broker, result_backend=backend)
    if not broker.startswith("redis"):
        # What was published is in its queue when the publication returns: the worker here looks only once.
        app.conf.broker_transport_options = {"confirm_publish": True}
    if journal != "plain":
        from durable_adapter.celery import install

        install(app, journal=journal)
    app.finalize()
    gc.disable()  # a result that is collected unsubscribes: when, would be chance
    kept = []
    for line in sys.stdin:
        group_, _, name = line.strip().partition("/")
        IDS.restart()
        try:
            kept.append({"published": PUBLISHED, "worked": WORKED}[group_][name]())
            if group_ == "worked":
                work()
            said = "done"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        close()
        print(said.replace("\n", " "), flush=True)
    os._exit(0)  # nothing that is left is to unsubscribe now


if __name__ == "__main__":
    main()
