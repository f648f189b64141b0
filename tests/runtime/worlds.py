"""The three engines as these tests see them: each sends the shop's functions, and runs them in the test's process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from celery import Celery, chain
from fakeredis import FakeServer, FakeStrictRedis
from rq import Queue

import durable_adapter.celery as durable_celery
import durable_adapter.rq as durable_rq
from durable_adapter import inline
from durable_adapter.declare.registry import DECLARED
from durable_adapter.model import Kind, StepRow, WorkflowRow
from durable_adapter.runtime.marked import dotted_name
from durable_adapter.testing import RecordedWorkflow, TestJournal
from durable_adapter.testing.harness import Harness
from durable_adapter.testing.recorded import redirected
from tests.runtime import shop

#: One call: a function of the shop and its arguments.
Call = tuple[Any, ...]


class Sends(Protocol):
    """What an engine has to offer these tests."""

    def send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Sends a function by itself."""

    def chain(self, *calls: Call) -> Any:
        """Sends several, one after the other."""

    def start(self, workflow_id: str, *calls: Call) -> Any:
        """The same under an id."""

    def dispatch(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Inside a workflow function: sends a step; returns what hands its result over."""

    def lose(self) -> None:
        """Every message is lost."""


class Inline:
    """No queue."""

    def __init__(self, here: Harness) -> None:
        self._here = here

    def send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return inline.enqueue(function, *args, **kwargs)

    def chain(self, *calls: Call) -> Any:
        return inline.enqueue(*(inline.call(*call) for call in calls))

    def start(self, workflow_id: str, *calls: Call) -> Any:
        return inline.start(workflow_id, *(inline.call(*call) for call in calls))

    def dispatch(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = inline.enqueue(function, *args).result
        return result

    def lose(self) -> None:
        self._here._waiting.clear()


class OnCelery:
    """An app without a broker."""

    def __init__(self, app: Celery, here: Harness) -> None:
        self._app = app
        self._here = here

    def _task(self, function: Callable[..., Any]) -> Any:
        return self._app.tasks[dotted_name(function)]

    def _signature(self, calls: tuple[Call, ...]) -> Any:
        made = [self._task(function).si(*args) for function, *args in calls]
        return chain(*made) if len(made) > 1 else made[0]

    def send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self._task(function).delay(*args, **kwargs)

    def chain(self, *calls: Call) -> Any:
        return self._signature(calls).apply_async()

    def start(self, workflow_id: str, *calls: Call) -> Any:
        return durable_celery.start(workflow_id, self._signature(calls))

    def dispatch(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = self._task(function).delay(*args).get
        return result

    def lose(self) -> None:
        self._here._waiting.clear()


class OnRQ:
    """A queue in memory."""

    def __init__(self, redis: FakeStrictRedis, here: Harness) -> None:
        self._redis = redis
        self._here = here

    @property
    def queue(self) -> Queue:
        return Queue("shop", connection=self._redis)

    def send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.queue.enqueue(function, *args, **kwargs)

    def chain(self, *calls: Call) -> Any:
        first, *others = calls
        return self._behind(self.send(*first), others)

    def start(self, workflow_id: str, *calls: Call) -> Any:
        (function, *args), *others = calls
        return self._behind(durable_rq.start(workflow_id, self.queue, function, *args), others)

    def _behind(self, job: Any, others: list[Call]) -> Any:
        """The jobs of a chain, and only then the first worker."""
        for function, *args in others:
            job = self.queue.enqueue(function, *args, depends_on=job)
        return job

    def dispatch(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = self.queue.enqueue(function, *args).return_value
        return result

    def lose(self) -> None:
        self._here._waiting.clear()
        self._redis.flushall()


@dataclass
class World:
    """One engine, its journal, and the shop."""

    engine: str
    here: Harness
    journal: TestJournal
    sends: Sends
    bank: shop.Bank

    def send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Sends a function by itself; it runs as far as it goes."""
        return self.sends.send(function, *args, **kwargs)

    def chain(self, *calls: Call) -> Any:
        """Sends several calls that come one after the other; they run as far as they go."""
        with self.here.busy():
            sent = self.sends.chain(*calls)
        self.here.settle()
        return sent

    def start(self, workflow_id: str, *calls: Call) -> Any:
        """The same under an id."""
        with self.here.busy():
            sent = self.sends.start(workflow_id, *calls)
        self.here.settle()
        return sent

    def workflow(self, sent: Any) -> RecordedWorkflow:
        """What the journal says of something that was sent."""
        return self.journal.workflow(sent)

    def run(self, sent: Any) -> WorkflowRow:
        """Its row."""
        found = self.here.journal.reads.run(self.journal._run(sent).ref)
        assert found is not None
        return found

    def rows(self, sent: Any) -> list[StepRow]:
        """The rows of its steps."""
        return self.here.journal.reads.steps(self.run(sent).ref)

    def row(self, sent: Any, name: str) -> StepRow:
        """The row of one step."""
        return next(row for row in self.rows(sent) if row.name.rpartition(".")[2] == name)

    def again(self, sent: Any, name: str) -> None:
        """A step's own message comes once more."""
        rows = self.rows(sent)
        row = next(row for row in rows if row.name.rpartition(".")[2] == name)
        self.driver.binding.engine.send_step(self.run(sent), row, rows)
        self.here.settle()

    @property
    def driver(self) -> Any:
        """The engine's part in the harness."""
        return self.here.drivers[0]

    def count(self, what: str) -> int:
        """How often an effect happened."""
        return self.bank.effects.count(what)

    def booked(self) -> list[str]:
        """The rows of the shop's own table."""
        return [row.about for row in self.here.journal.db.select(sa.select(shop.BOOKINGS.c.about))]

    def events(self, sent: Any) -> list[str]:
        """The kinds of events of a run."""
        return [kind for kind, _ in self.journal.events(sent)]

    def statuses(self, sent: Any) -> list[tuple[str, str]]:
        """Its steps as (name, status), without the function itself."""
        return [(step.name, step.status.value) for step in self.workflow(sent).steps if step.kind is not Kind.FUNCTION]


@contextlib.contextmanager
def opened(engine: str, url: str) -> Iterator[World]:
    """The shop on one engine, in this process."""
    before = dict(DECLARED._entries)
    shop.bank.__init__()  # type: ignore[misc]
    shop.world_outside.clear()
    with contextlib.ExitStack() as stack:
        app = redis = None
        if engine == "celery":
            app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
            stack.callback(app.close)
            for function in shop.SENT:
                app.task(name=dotted_name(function), shared=False)(function)
        if engine == "rq":
            redis = FakeStrictRedis(server=FakeServer())
        here = stack.enter_context(redirected(url, app=app, redis=redis))
        shop.BOOKINGS.create(here.journal.db.engine)
        sends: Sends = Inline(here)
        if app is not None:
            sends = OnCelery(app, here)
        if redis is not None:
            sends = OnRQ(redis, here)
        shop.bank.dispatch, shop.bank.send = sends.dispatch, sends.send
        yield World(engine, here, TestJournal(here), sends, shop.bank)
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1
