"""A bank in memory that sees every effect: what happened, how often, by which attempt, and who was asked about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .scheduler import Actor


@dataclass
class Attempt:
    """One run of a step's body."""

    name: str
    number: int
    actor: Actor
    process: str
    token: str | None
    #: The provider's key that it was made with; None where it has none.
    key: str | None = None
    #: Whether the effect was asked for, and whether it was a new one.
    acted: bool = False
    counted: bool = False
    body_ended: bool = False
    #: Whether its body returned.
    succeeded: bool = False
    #: Whether what called the body went on to the end of its delivery, so that the journal was told how it ended.
    reported: bool = False
    began_at: int = 0

    @property
    def is_running(self) -> bool:
        """Whether its body may still act."""
        return not self.body_ended and not self.actor.is_dead


@dataclass
class Bank:
    """The ledger."""

    attempts: list[Attempt] = field(default_factory=list)
    #: The keys under which an effect of each name happened, of those that have keys.
    keys: dict[str, set[str]] = field(default_factory=dict)
    #: What was wrong while it happened.
    complaints: list[str] = field(default_factory=list)

    def of(self, name: str) -> list[Attempt]:
        """The attempts at a step, in the order in which they began."""
        return [attempt for attempt in self.attempts if attempt.name == name]

    def begin(self, attempt: Attempt) -> None:
        """A body begins."""
        self.attempts.append(attempt)

    def act(self, attempt: Attempt) -> None:
        """The effect: once for each key, where there is one."""
        attempt.acted = True
        known = self.keys.setdefault(attempt.name, set())
        attempt.counted = attempt.key is None or attempt.key not in known
        if attempt.key is not None:
            known.add(attempt.key)

    def count(self, name: str) -> int:
        """How often an effect happened."""
        return sum(attempt.counted for attempt in self.attempts if attempt.name == name)
