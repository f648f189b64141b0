"""Checks of a Celery app's settings: what makes recovery slow, what hides a loss, and what Celery does by itself.

Reads the app that was handed in; imports no queue library.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ...model import Mode
from .check import Check, failed, note, ok, slow, unsafe

if TYPE_CHECKING:
    from ...journal import Journal

#: Seconds that a Redis broker waits before it delivers an unacknowledged message again, unless told otherwise.
VISIBILITY = 3600
#: Unfinished runs whose plans are looked through for errbacks.
PLANS = 200
#: Task names that one line shows.
SHOWN = 5


def app_checks(app: Any, binding: Any, journal: Journal | None) -> Iterator[Check]:
    """One app, with what `install()` made of it; None where it was not called."""
    if binding is None:
        yield unsafe(
            "installed", "durable-adapter is not installed on this app: nothing of it is durable",
            "call durable_adapter.celery.install(app, journal=...) where the app is configured",
        )  # fmt: skip
    elif binding.settings.mode is Mode.OFF:
        yield unsafe("installed", "installed with mode off: no new start is made durable", "set mode=enforce")
    else:
        yield ok("installed", "durable-adapter is installed, in mode enforce")
    marked = _marked(app, binding)
    if binding is not None:
        yield from _marks(binding, marked)
    yield from _eager(app)
    yield from _broker(app)
    yield from _acknowledgement(app, marked)
    yield from _visibility(app, marked)
    yield from _results(app, marked)
    yield from _serializers(app)
    yield from _errbacks(app, marked, journal)
    yield from _queues(app, marked, journal)
    yield from _pool(app, binding)


def _marked(app: Any, binding: Any) -> list[Any]:
    """The marked tasks."""
    if binding is None:
        return []
    names = {*binding.registry.steps, *binding.registry.workflows, *binding.registry.compensations}
    return [app._tasks[name] for name in sorted(names) if name in app._tasks]


def _names(tasks: Iterable[Any]) -> str:
    names = [task if isinstance(task, str) else task.name for task in tasks]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _marks(binding: Any, marked: list[Any]) -> Iterator[Check]:
    if not marked:
        yield note("marked", "no task is marked durable", "decorate tasks that have effects with @durable.step")
        return
    registry = binding.registry
    counts = Counter("workflow" if t.name in registry.workflows else registry.policy(t.name).safety.value for t in marked)
    yield ok("marked", f"{len(marked)} durable tasks: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    unhooked = binding.unhooked()
    if unhooked:
        cure = "something re-made these tasks after install(): import them before, or call install() again after it"
        yield unsafe("hooks", f"these tasks are marked, and not hooked: {_names(unhooked)}", cure)
    else:
        yield ok("hooks", "every marked task is hooked")


def _eager(app: Any) -> Iterator[Check]:
    if app.conf.task_always_eager:
        yield unsafe(
            "eager", "task_always_eager is on: tasks run in the caller, and nothing is durable",
            "take it out of this configuration; it is for unit tests",
        )  # fmt: skip


def _broker(app: Any) -> Iterator[Check]:
    url = str(app.conf.broker_url or app.conf.broker_read_url or "")
    scheme = url.partition("://")[0]
    if scheme == "memory":
        yield unsafe("broker", "the broker is memory://: its messages end with the process", "name a real broker")
        return
    try:
        with app.connection_for_read(connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, interval_step=0, timeout=3)
            yield ok("broker", f"{connection.as_uri()} answers")
    except Exception as error:
        yield failed("broker", f"the broker does not answer: {type(error).__name__}: {error}", "check broker_url and the broker")
    if scheme in ("filesystem", "sqla", "sqlalchemy"):
        cure = "nothing is lost, the sweeper sends it again after resend_after; a real broker is faster"
        yield note("redelivery", f"the broker {scheme}:// does not deliver again what a dead worker had taken", cure)


def _acknowledgement(app: Any, marked: list[Any]) -> Iterator[Check]:
    conf = app.conf
    early = [t for t in marked if not t.acks_late]
    if early or (not marked and not conf.task_acks_late):
        yield slow(
            "acks_late",
            "messages are acknowledged before the task runs" + (f": {_names(early)}" if early else "")
            + ". What a dying worker had taken is only found by the sweeper, after resend_after",
            "set task_acks_late = True",
        )  # fmt: skip
    else:
        yield ok("acks_late", "messages are acknowledged after the task")
    lost = [t for t in marked if t.acks_late and not (t.reject_on_worker_lost or getattr(t, "retry_on_worker_lost", None))]
    if lost:
        yield slow(
            "reject_on_worker_lost",
            f"when a child of the pool dies, Celery calls these tasks failed, although the workflow goes on: {_names(lost)}. "
            "Their AsyncResult shows WorkerLostError until they are done, and their errbacks fire",
            "set task_reject_on_worker_lost = True",
        )
    prefetch = conf.worker_prefetch_multiplier
    if prefetch != 1:
        yield slow(
            "prefetch", f"worker_prefetch_multiplier is {prefetch}: a worker that hangs or dies keeps messages it has not begun",
            "set worker_prefetch_multiplier = 1",
        )  # fmt: skip
    else:
        yield ok("prefetch", "worker_prefetch_multiplier is 1")


def _visibility(app: Any, marked: list[Any]) -> Iterator[Check]:
    """Redis and SQS deliver again what is not acknowledged in time, although it is running."""
    scheme = str(app.conf.broker_url or "").partition("://")[0].partition("+")[0]
    if scheme not in ("redis", "rediss", "sentinel", "sqs"):
        return
    options = app.conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout", 1800 if scheme == "sqs" else VISIBILITY)
    limits = {t.name: t.time_limit or app.conf.task_time_limit for t in marked}
    longer = [name for name, limit in limits.items() if limit and limit >= timeout]
    delayed = [t.name for t in marked if (t.default_retry_delay or 0) >= timeout]
    if longer:
        yield slow(
            "visibility_timeout",
            f"visibility_timeout is {timeout:g} s, and these tasks may run for longer: {_names(longer)}. Their messages come a "
            "second time; the journal lets only one run, but the second is noise",
            "raise broker_transport_options['visibility_timeout'] above the longest time limit",
        )
    elif delayed:
        yield slow(
            "visibility_timeout",
            f"visibility_timeout is {timeout:g} s, and these tasks are retried after longer: {_names(delayed)}. Messages with "
            "such a countdown are delivered again and again until then",
            "raise visibility_timeout, or let durable.RetryPolicy wait: it keeps its timers in the journal",
        )
    else:
        yield ok(
            "visibility_timeout", f"{timeout:g} s. A countdown or ETA beyond it is delivered more than once; durable.sleep is not"
        )


def _results(app: Any, marked: list[Any]) -> Iterator[Check]:
    backend = type(app.backend).__name__
    if backend == "DisabledBackend":
        yield slow(
            "results",
            "there is no result backend: AsyncResult.get() does not work, HELD is not shown, and what a worker without the "
            "plugin ran cannot be seen, so that it is put in doubt",
            "set result_backend",
        )
        return
    expires = app.conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if seconds:
        cure = "for later questions ask the journal: durable.handle(id), or `durable-adapter explain`"
        yield note("results", f"kept for {float(seconds) / 3600:g} h in {backend}; the journal keeps them longer", cure)
    else:
        yield ok("results", f"kept in {backend}, without an end")


def _serializers(app: Any) -> Iterator[Check]:
    conf = app.conf
    given = {str(conf.task_serializer), str(conf.result_serializer), *map(str, conf.accept_content or ())}
    if "pickle" in given or "application/x-python-serialize" in given:
        yield slow(
            "serializers",
            "pickle is in use. The journal keeps arguments as JSON: what only pickle carries is refused when a durable task is "
            "published",
            "register your classes with durable_adapter.register, or pass plain data",
        )
    else:
        yield ok("serializers", f"{conf.task_serializer}")


def _errbacks(app: Any, marked: list[Any], journal: Journal | None) -> Iterator[Check]:
    """What Celery fires by itself when it kills a task, before the journal has called anything failed."""
    killed = {t.name for t in marked if t.time_limit or app.conf.task_time_limit}
    own = [t for t in marked if t.name in killed and _overrides(t, "on_failure")]
    linked = sorted(_linked(journal, killed)) if journal is not None and killed else []
    if not own and not linked:
        return
    names = _names([*(t.name for t in own), *linked])
    yield note(
        "errbacks",
        f"these tasks have a hard time limit, and an errback or on_failure: {names}. Celery fires it when it kills the task, "
        "although the step is only in doubt and may still succeed",
        "use soft_time_limit, or let the errback ask durable.handle(id).status first",
    )


def _overrides(task: Any, method: str) -> bool:
    function = getattr(type(task), method, None)
    return not str(getattr(function, "__module__", "")).startswith("celery.")


def _linked(journal: Journal, names: set[str]) -> set[str]:
    """Tasks of unfinished runs that were published with an errback."""
    found: set[str] = set()
    for run in journal.reads.unfinished(limit=PLANS):
        for step in journal.reads.steps(run.ref):
            with contextlib.suppress(ValueError):
                options = json.loads(step.message or b"{}").get("options") or {}
                if step.name in names and options.get("link_error"):
                    found.add(step.name)
    return found


def _queues(app: Any, marked: list[Any], journal: Journal | None) -> Iterator[Check]:
    """Queues that marked tasks go to, and that no living worker with the plugin serves."""
    if journal is None or not marked:
        return
    served = [w.queues for w in journal.workers.alive(namespace=journal.namespace) if w.takes("celery", None)]
    if any(not queues for queues in served):
        return  # a process that does not say what it serves may serve anything
    known = {queue for queues in served for queue in queues}
    wanted: dict[str, list[str]] = {}
    for task in marked:
        route = app.amqp.router.route({}, task.name, (), {}, task) if app.conf.task_routes else {}
        queue = route.get("queue") or getattr(task, "queue", None) or app.conf.task_default_queue
        wanted.setdefault(str(getattr(queue, "name", queue)), []).append(task.name)
    missing = {queue: names for queue, names in wanted.items() if queue not in known}
    if missing:
        text = "; ".join(f"{queue} (for {_names(names)})" for queue, names in sorted(missing.items()))
        yield slow("queues", f"no living worker with the plugin serves: {text}", "start workers for them, before producers")
    else:
        yield ok("queues", f"served: {', '.join(sorted(wanted))}")


def _pool(app: Any, binding: Any) -> Iterator[Check]:
    """Threads share one pool of connections; forked children have one each."""
    if binding is None:
        return
    kind, concurrency = str(app.conf.worker_pool or "prefork"), app.conf.worker_concurrency or 0
    size = binding.settings.pool_size
    if kind not in ("prefork", "solo", "processes") and concurrency > size:
        yield slow(
            "pool", f"{concurrency} {kind} share {size} database connections", f"set pool_size to about {concurrency}",
        )  # fmt: skip
    else:
        yield ok("pool", f"pool_size is {size} in each process")
