"""A journal on each dialect, an engine that notes what it is asked to send, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import StepRow, WorkflowRow
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.engine import EngineOutcome
from tests.journal.conftest import dialect, elsewhere, journal, meanwhile, migrated, url

__all__ = ["dialect", "elsewhere", "journal", "meanwhile", "migrated", "url"]


@dataclass
class NotingEngine:
    """The engine protocol, with every answer in the test's hands."""

    name: str = "celery"
    sent: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    empty: bool | None = True
    outcomes: dict[str, EngineOutcome] = field(default_factory=dict)
    gone: bool | None = None
    withdrawn: list[str] = field(default_factory=list)
    #: Where the messages of some steps are, which this process cannot look at.
    unreached: dict[str, str] = field(default_factory=dict)
    fails: bool = False
    cannot_suspend: str | None = None
    hands_results_on: bool = True

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> None:
        if self.fails:
            raise ConnectionError("the broker is away")
        self.sent.append(step.key)

    def queue_is_empty(self, queue: str | None) -> bool | None:
        return self.empty

    def is_gone(self, step: StepRow) -> bool | None:
        return self.gone

    def out_of_reach(self, step: StepRow) -> str | None:
        return self.unreached.get(step.key)

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        self.withdrawn += [step.key for step in steps]

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        return self.outcomes.get(step.task_id or "")

    def say_held(self, step: StepRow, why: str) -> None:
        self.told.append(step.key)

    def knows(self, name: str) -> bool:
        return True


@dataclass
class Clock:
    """A monotonic clock that stands still until the test moves it."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def engine() -> NotingEngine:
    return NotingEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sweeper(journal: Journal, engine: NotingEngine, clock: Clock) -> Sweeper:
    return Sweeper(journal, [engine], stale=60, monotonic=clock)


@pytest.fixture
def another_sweeper(elsewhere: Any, engine: NotingEngine, clock: Clock) -> Callable[[], Sweeper]:
    return lambda: Sweeper(elsewhere(), [engine], stale=60, monotonic=clock)
