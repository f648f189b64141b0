"""The explorer's own engine: messages in memory that can be lost, doubled, put off and delivered again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from durable_adapter import inline
from durable_adapter.model import StepRow

from .clock import Clock


@dataclass(eq=False)
class Message:
    """One message: a step's run and key, and whether it may have been delivered before."""

    ref: str
    key: str
    again: bool
    #: When it can be taken, in microseconds.
    due: int = 0

    def __str__(self) -> str:
        return f"{self.key.rpartition('/')[2]}{' (again)' if self.again else ''}"


@dataclass
class Broker:
    """A queue.

    Args:
        clock: says what is due.
        chance: says which message is taken.
        acknowledges_late: a message whose worker died is delivered again; else it is gone.
        tells: whether it can say that a message is certainly nowhere.
    """

    clock: Clock
    chance: random.Random
    acknowledges_late: bool
    tells: bool
    waiting: list[Message] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)
    #: All that were ever delivered, for late duplicates.
    delivered: list[Message] = field(default_factory=list)
    sent: int = 0

    def post(self, message: Message) -> None:
        """Takes a message."""
        self.sent += 1
        self.waiting.append(message)

    def is_due(self) -> bool:
        """Whether a message can be taken."""
        return any(message.due <= self.clock.now for message in self.waiting)

    def take(self) -> Message:
        """Gives out a message: mostly the oldest."""
        due = [message for message in self.waiting if message.due <= self.clock.now]
        message = due[0] if self.chance.random() < 0.7 else self.chance.choice(due)
        self.waiting.remove(message)
        self.taken.append(message)
        self.delivered.append(message)
        return message

    def done(self, message: Message, *, died: bool) -> None:
        """A delivery has ended, or its worker has died."""
        self.taken.remove(message)
        if died and self.acknowledges_late:
            self.waiting.append(Message(message.ref, message.key, again=True))


class Engine(inline.InlineEngine):
    """The engine protocol over the broker; messages are sent as the inline binding sends them."""

    def __init__(self, binding: inline.Binding, broker: Broker) -> None:
        super().__init__(binding)
        self._broker = broker

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether no message can be taken now."""
        return not self._broker.is_due()

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether no message of a step is anywhere, where this broker tells."""
        if not self._broker.tells:
            return None
        return not any((m.ref, m.key) == (step.ref, step.key) for m in (*self._broker.waiting, *self._broker.taken))

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Takes the messages of cancelled steps back, where this broker can."""
        if self._broker.tells:
            gone = {(step.ref, step.key) for step in steps}
            self._broker.waiting = [m for m in self._broker.waiting if (m.ref, m.key) not in gone]

    def knows(self, name: str) -> bool:
        """Whether there is a function of that name."""
        found: Any = self._binding.registry.function(name)
        return found is not None
