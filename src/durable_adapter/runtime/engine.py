"""What the runtime and the sweeper need from a queue library: the protocol that every binding fulfils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..declare.policy import StepPolicy
from ..model import StepRow, WorkflowRow, in_place


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """A task that its engine ended on purpose.

    Attributes:
        word: the engine's own word, for people: "revoked", "expired".
        error: the error that those who wait for the task's result get.
        at: when it was ended, in microseconds of the journal's clock; None where that is not known.
        first_only: it applies only to a task that has not begun, such as one whose message expired.
        killed: the engine killed the process that ran it.
    """

    word: str
    error: BaseException
    at: int | None = None
    first_only: bool = False
    killed: bool = False


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """What the engine's result store has of a task: evidence, where the journal has no end of its attempt."""

    succeeded: bool
    value: Any = None
    #: When it was stored, in microseconds since 1970 (UTC); None where that is not known.
    at: int | None = None
    #: How the engine ended the task, if it did so on purpose.
    ended: EngineEnd | None = None
    #: Why the engine called it failed without running it: proof that its body did not run. None where it may have run.
    refused: str | None = None


class Engine(Protocol):
    """A binding, as the runtime and the sweeper use it."""

    name: str
    #: Whether the engine itself passes a member's result to the member after it.
    hands_results_on: bool

    @property
    def cannot_suspend(self) -> str | None:
        """Why no workflow function can wait on this engine, and what to do, as the end of a sentence; None where it can."""

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool | None:
        """Publishes a step's own message again, under its own id, with what follows it in the plan.

        Returns:
            False where another message was sent instead, for which this one waits.

        Raises:
            CannotSendAgain: the journal does not have what its message is made of.
            MessageExpired: it never began, and its message has expired.
        """

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue holds no message now; None where the broker cannot say."""

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether the engine certainly has no message of a step, in a queue or with a worker; None where it cannot say."""

    def out_of_reach(self, step: StepRow) -> str | None:
        """Where a step's message is, if this process cannot reach that place; None where it can."""

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """What the result store has of a step's task; None where it has nothing, or there is no store."""

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """What a step's row keeps of its compensation: how it is called, and what makes it safe to repeat."""

    def say_held(self, step: StepRow, why: str) -> None:
        """Tells those who wait for the step's result that it is held. Best effort: the journal has the truth."""

    def knows(self, name: str) -> bool:
        """Whether this process's code has a task of that name."""

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Removes the messages of cancelled steps, where they would wait for ever. Best effort."""


#: The engines of this process that know where messages go, by name: a function on one may dispatch steps to another.
INSTALLED: dict[str, Engine] = {}


def installed_beside(engine: Engine) -> list[Engine]:
    """Returns an engine, and every other of this process."""
    return list({**INSTALLED, engine.name: engine}.values())


def message_of(run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> StepRow:
    """Returns the step whose message makes a step run: itself; for a step in place, the function that calls it."""
    return next(s for s in steps if s.kind.makes_calls) if in_place(run, step) else step


def engine_of(run: WorkflowRow, step: StepRow, known: Mapping[str, Engine]) -> Engine | None:
    """Returns the engine that sends a step: the one that it was dispatched to, else its run's; None if it is not known here."""
    return known.get(step.engine or run.engine)
