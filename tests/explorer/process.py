"""A simulated process: a binding of its own with its own row in the journal, which runs messages and beats."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from durable_adapter import inline
from durable_adapter.errors import DurableError, IllegalTransition, StepFailed, StepUndone, Suspended
from durable_adapter.model import StepRow, WorkflowRow
from durable_adapter.runtime.binding import BaseBinding
from durable_adapter.runtime.host import Host
from durable_adapter.runtime.marked import Marked
from durable_adapter.settings import Settings

from .broker import Engine, Message
from .scenario import Declined, Lost
from .scheduler import Actor, TurnLock

if TYPE_CHECKING:
    from .schedule import Schedule

#: What a body or a function may end in; anything else is a fault of the runtime's.
EXPECTED = (Declined, Lost, StepFailed, StepUndone)


class Registry(Marked):
    """The marked functions of a schedule, which belong to no module."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: dict[str, Callable[..., Any]] = {}

    def learn(self, name: str | None, given: Any = None) -> bool:
        """Whether a name is marked: everything is known from the start."""
        return name is not None and self.is_marked(name)

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function of that name."""
        return self.functions.get(name)


class QuietHost(Host):
    """A host whose beats are made by an actor."""

    def _beat_on(self, stop: threading.Event) -> None:
        """Nothing: no real thread beats."""


class Process(inline.Binding):
    """The inline binding with the schedule's journal, messages and clock.

    Args:
        schedule: the schedule that it belongs to.
        name: what the trace calls it.
    """

    def __init__(self, schedule: Schedule, name: str) -> None:
        # Not the inline binding's own: that opens a journal and makes a sweeper, which are the schedule's here.
        BaseBinding.__init__(
            self, Settings(), schedule.registry, lambda _: Engine(self, schedule.broker), parent=f"parent of {name}"
        )
        self.name = name
        self._schedule = schedule
        journal = schedule.stage.journal
        host = QuietHost(journal, self.engine, queues=lambda: [inline.QUEUE], parent=self.parent)
        host.pause = schedule.sleep
        host._lock = TurnLock(schedule.scheduler)  # type: ignore[assignment]
        self._opened = journal, host
        self.elsewhere = None
        self._local = inline.Local()
        self.actors: list[Actor] = []
        self.beat_is_due = False
        self.is_dead = False
        #: Whether it was declared dead while it went on.
        self.false_death = False

    def post(self, ref: str, key: str, *, again: bool) -> None:
        """Gives a message to the schedule's broker."""
        self._schedule.broker.post(Message(ref, key, again))

    def drain(self) -> int:
        """Nothing: workers take the messages."""
        return 0

    def _run(
        self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow], function: Callable[..., Any], *, again: bool
    ) -> None:
        try:
            super()._run(run, step, steps, function, again=again)
        except (*EXPECTED, Suspended):
            raise
        except Exception as error:
            if isinstance(error, DurableError) and not isinstance(error, IllegalTransition):
                raise
            self._schedule.complain(f"{self.name} ran {step.name} and got {type(error).__name__}: {error}")
            raise
