"""Journaled calls as a worker makes them, on each dialect, without a queue: a host of the test's own, and its bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Kind, StepRow
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.alerts import Held, on_held
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.functions import run_function
from durable_adapter.runtime.host import Host
from durable_adapter.runtime.steps import run_step
from tests.journal.conftest import dialect, elsewhere, journal, meanwhile, migrated, url
from tests.sweeper.conftest import Clock, NotingEngine

__all__ = ["dialect", "elsewhere", "journal", "meanwhile", "migrated", "url"]

#: Seconds that no test lasts: nothing beats or dies meanwhile.
NEVER = 10_000_000.0


@dataclass
class Workplace:
    """A worker's process as the runtime sees it, and what it was asked to run."""

    journal: Journal
    host: Host
    engine: NotingEngine
    #: How often each body ran, by name.
    ran: dict[str, int] = field(default_factory=dict)

    def step(self, ref: str, key: str, body: Callable[[], Any], policy: StepPolicy | None = None, **given: Any) -> Any:
        """Runs one member of a canvas, as a delivery of its message does."""
        return run_step(self.host, self.call(ref, key, body, policy, **given))

    def call(self, ref: str, key: str, body: Callable[[], Any], policy: StepPolicy | None = None, **given: Any) -> Call:
        """The call that a delivery is."""
        values: dict[str, Any] = {"kind": Kind.STEP, "args": (), "kwargs": {}, "completes_run": False} | given
        counted = self.counted(key, body)
        name = values.pop("name", key)
        return Call(ref=ref, key=key, name=name, policy=policy or StepPolicy(), body=lambda _: counted(), **values)

    def function(self, ref: str, body: Callable[[], Any], **given: Any) -> Any:
        """Runs a workflow function from the top, as a delivery of its message does."""
        values: dict[str, Any] = {"kind": Kind.FUNCTION, "args": (), "kwargs": {}} | given
        policy = StepPolicy()
        return run_function(
            self.host, Call(ref=ref, key="function", name="order", policy=policy, body=lambda _: body(), **values)
        )

    def leaves(self, ref: str, body: Callable[[], Any]) -> Deferred:
        """Runs a workflow function that suspends, and returns how."""
        with pytest.raises(Deferred) as left:
            self.function(ref, body)
        return left.value

    def counted(self, name: str, body: Callable[[], Any]) -> Callable[[], Any]:
        """A body that is counted."""

        def run() -> Any:
            self.ran[name] = self.ran.get(name, 0) + 1
            return body()

        return run


class CallingEngine(NotingEngine):
    """An engine for steps in place: their compensations are kept by name alone."""

    def compensation(self, _policy: StepPolicy) -> Mapping[str, Any]:
        return {}


@pytest.fixture
def engine() -> CallingEngine:
    return CallingEngine()


@pytest.fixture
def at_work(journal: Journal, engine: CallingEngine) -> Iterator[Workplace]:
    """A worker's process with a row of its own."""
    host = Host(journal, engine, stale=NEVER, beat=NEVER)  # type: ignore[arg-type]
    _ = host.worker
    yield Workplace(journal, host, engine)
    host.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(journal: Journal, engine: CallingEngine, clock: Clock) -> Sweeper:
    return Sweeper(journal, [engine], stale=60, monotonic=clock)  # type: ignore[list-item]


@pytest.fixture
def told() -> Iterator[list[Held]]:
    """Every `on_held` that fires meanwhile."""
    found: list[Held] = []
    on_held.connect(found.append)
    yield found
    on_held.disconnect(found.append)


def the_step(journal: Journal, ref: str, name: str) -> StepRow:
    """The step of that name, which must be there."""
    return next(s for s in journal.reads.steps(ref) if s.name.endswith(name))
