"""Celery's part in the test journal: an app's messages are kept and run in the test's process, instead of being sent.

Celery's own messages, requests and tracers are the real ones; the broker and the result store are replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery import canvas, current_app
from celery.app import task as task_module
from celery.app.trace import build_tracer
from celery.backends.cache import CacheBackend
from celery.states import PROPAGATE_STATES
from celery.utils.time import maybe_iso8601
from celery.worker.request import Request
from kombu.connection import Connection
from kombu.message import Message
from kombu.messaging import Producer
from kombu.serialization import dumps, prepare_accept_content

from ..celery import HeldTimeout, install, uninstall
from ..celery.attempts import ACTIVE
from ..celery.binding import Binding
from ..celery.engine import CeleryEngine
from ..celery.publishing import is_durable, send
from ..celery.results import held_reason
from ..errors import NotFinished

if TYPE_CHECKING:
    from celery import Celery

    from .harness import Harness, Patches


def app_in_use() -> Celery:
    """The current app: the one that was made last, as a rule."""
    return current_app._get_current_object()


@contextlib.contextmanager
def hooked(app: Celery, url: str) -> Iterator[InProcess]:
    """The driver of an app, which is hooked for the time being where it is not.

    Args:
        app: the app.
        url: SQLAlchemy URL of the test's journal.
    """
    found = app.__dict__.get("durable_binding")
    binding = found if found is not None else install(app, journal=url)
    try:
        yield InProcess(binding)
    finally:
        if found is None:
            uninstall(app)


class _Producer(Producer):
    """Stands where Celery publishes through a producer of its own, and keeps the message. Its connection is never used."""

    def __init__(self, take: Callable[[Message], None], accept: set[str]) -> None:
        super().__init__(Connection("memory://"), auto_declare=False)
        self._take = take
        self._accept = accept

    def publish(  # type: ignore[override]
        self, body: Any, *, serializer: str | None = None, headers: dict[str, Any] | None = None,
        exchange: Any = "", routing_key: str = "", **properties: Any,
    ) -> None:  # fmt: skip
        """One message; what is no task's is an event of Celery's and of no interest."""
        if not headers or "task" not in headers:
            return
        content_type, content_encoding, data = dumps(body, serializer)
        names = ("correlation_id", "reply_to", "priority")
        self._take(
            Message(
                body=data,
                content_type=content_type,
                content_encoding=content_encoding,
                headers=headers,
                properties={name: properties[name] for name in names if name in properties},
                delivery_info={"exchange": str(exchange), "routing_key": routing_key},
                accept=self._accept,
            )
        )


class _Engine(CeleryEngine):
    """The engine of an app whose messages stay here."""

    def __init__(self, binding: Binding, driver: InProcess) -> None:
        super().__init__(binding)
        self._driver = driver

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Returns whether nothing waits to be run here: no message is lost on the way."""
        return self._driver.here.is_empty


class InProcess:
    """Keeps and runs one app's messages while a test has it."""

    variables: Sequence[ContextVar[Any]] = (ACTIVE,)
    here: Harness

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.app: Celery = binding.app
        self.engine = _Engine(binding, self)
        self._tracers: dict[str, Any] = {}
        self._delivered: dict[int, Message] = {}
        #: Whether calls raise what their tasks raised, as the app's own settings for eager tasks want it.
        self._propagates = bool(binding.app.conf.task_always_eager and binding.app.conf.task_eager_propagates)

    def enter(self, here: Harness, put: Patches) -> None:
        """Takes the place of the app's broker and result store."""
        binding, app = self.binding, self.app
        self.here = here
        accept = prepare_accept_content(app.conf.accept_content)
        app.finalize()
        binding.ensure_hooked()
        put.attribute(binding, "in_process", self)
        put.attribute(binding, "producer", _Producer(self._take, accept))
        put.attribute(app, "_backend_cache", CacheBackend(app=app, url="memory://"))
        put.attribute(app.conf, "task_always_eager", False)
        put.attribute(task_module.Task, "apply", self._apply(task_module.Task.apply))
        put.attribute(canvas._chain, "apply", self._apply(canvas._chain.apply))

    def pull(self) -> Callable[[], None] | None:
        """Returns None: every message was handed over when it was sent."""
        return None

    def moments(self) -> list[int]:
        """Returns none, likewise."""
        return []

    def record_death(self) -> None:
        """Does nothing: the message, which nobody acknowledged, comes again."""

    @property
    def is_idle(self) -> bool:
        """Whether it is the test that runs now, and no task."""
        return self.here.is_idle

    def refuse_beside(self, name: str) -> None:
        """As the harness does."""
        self.here.refuse_beside(name)

    def _apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`.apply()` by the test of durable tasks and chains: published and run here, like any other call of them."""

        def apply(target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            signature = target.s() if isinstance(target, task_module.Task) else target
            ours = self.is_idle and signature.app is self.app and is_durable(self.binding, signature)
            if not ours:
                return original(target, args, kwargs, **options)
            throw = options.pop("throw", None)
            result = target.apply_async(args, kwargs, **options)
            if throw or (throw is None and self.app.conf.task_eager_propagates):
                result.get()
            return result

        return apply

    def _take(self, message: Message) -> None:
        """A message that was sent. What the test itself sends is run at once, before its call returns."""
        ids = _ids(message)
        delay = _delay_of(message)
        if message.headers.get("retries"):
            self.here.clock.move(delay)  # a retry is not waited for: the clock is moved to it
            delay = 0.0
        self.here.push(lambda: self._deliver(message), delay)
        if self.is_idle:
            self.here.settle()
            if self._propagates:
                self._raise_failure(ids)

    def _raise_failure(self, ids: Sequence[str]) -> None:
        """As `task_eager_propagates` does: an error comes out of the call that published."""
        for task_id in ids:
            meta = self.app.backend.get_task_meta(task_id)
            if meta["status"] in PROPAGATE_STATES:
                raise meta["result"]

    def _deliver(self, message: Message) -> None:
        """Runs a message as a worker's process does."""
        name = message.headers["task"]
        if name not in self.app.tasks:
            args, kwargs, _ = message.payload
            self.here.elsewhere.append((name, args, kwargs))
            return
        # On a second delivery it says so, as a broker does.
        message.delivery_info = {**message.delivery_info, "redelivered": id(message) in self._delivered}
        self._delivered[id(message)] = message
        request = Request(message, app=self.app, hostname="in process")
        if request.revoked():
            self.binding.discards.record()
            return
        _, _, embed = message.payload
        task = request.task
        if task.name not in self._tracers:
            self._tracers[task.name] = build_tracer(task.name, task, self.app.loader, "in process", app=self.app)
        given = {**request.request_dict, "is_eager": False, **(embed or {})}
        self._tracers[task.name](request.id, request.args, request.kwargs, given)

    def call_task(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A durable task that the test calls as a function.

        Raises:
            NotFinished: it has no outcome yet, because it waits for something.
        """
        return send(self.binding, name, args, kwargs, {}).get()

    def run_until_ready(self, result: Any) -> None:
        """What `get()` does first: runs what is due, and does not wait for what is not.

        Raises:
            HeldTimeout: there is no result before a person decides.
            NotFinished: there is none before time passes.
        """
        if not self.is_idle:
            while not result.ready() and self.here.run_next():
                pass
        else:
            self.here.settle()
        if result.ready():
            return
        reason = held_reason(result)
        if reason is not None:
            raise HeldTimeout(reason)
        ref = self.here.unfinished_of(result.id)
        raise NotFinished(self.here.waits(ref) if ref is not None else f"task {result.id} has no result, and nothing is due")


def _ids(message: Message) -> list[str]:
    """The ids of a message's task and of those behind it in its chain."""
    _, _, embed = message.payload
    tail = [sig["options"].get("task_id") for sig in reversed((embed or {}).get("chain") or ())]
    return [message.headers["id"], *filter(None, tail)]


def _delay_of(message: Message) -> float:
    """Seconds until a message's ETA; it is taken off, because the clock that counts is ours."""
    eta = message.headers.get("eta")
    if not eta:
        return 0.0
    message.headers = {**message.headers, "eta": None}
    moment = maybe_iso8601(eta)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
