"""What the runtime and the sweeper need to know of a queue library: the protocol that every binding fulfils."""

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
        error: what whoever waits for the task's result is told.
        at: when it was ended, in microseconds of the journal's clock; None where that is not known.
        first_only: it is said of a task that has not begun (its message expired), and of none that has.
        killed: the engine killed the process that had it.
    """

    word: str
    error: BaseException
    at: int | None = None
    first_only: bool = False
    killed: bool = False


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """What the engine's own result store says of a task: evidence, when the journal knows nothing of its attempt."""

    succeeded: bool
    value: Any = None
    #: When it was stored, in microseconds since 1970 (UTC); None where the store does not say.
    at: int | None = None
    #: How the engine ended the task on purpose, where it did.
    ended: EngineEnd | None = None
    #: Why the engine called it failed without running it: proof that its body did not run. None where it may have run.
    refused: str | None = None


class Engine(Protocol):
    """A binding, seen from below."""

    name: str
    #: Whether a member's own message hands its result on to the one behind it.
    hands_results_on: bool

    @property
    def cannot_suspend(self) -> str | None:
        """Why no workflow function can wait on this engine, and the cure, to end a sentence; None where it can."""

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool | None:
        """Publishes a step's own message again, under its own id, with what follows it in the plan.

        Returns:
            False where that message was not sent: it waits for another, which was.

        Raises:
            CannotSendAgain: the journal does not have what its message is made of.
            MessageExpired: it never began, and its message was to be discarded by now.
        """

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue holds no message now; None where the broker cannot say."""

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether the engine certainly has no message of a step, in no queue and with no worker; None where it cannot say."""

    def out_of_reach(self, step: StepRow) -> str | None:
        """Where a step's message is, if nothing in this process can look there or send to it; None where it can."""

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """What the result store holds for a step's task; None where it holds nothing or there is no store."""

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """What a step's row keeps of its compensation: how it is called, and what makes it safe to repeat."""

    def say_held(self, step: StepRow, why: str) -> None:
        """Lets whoever waits for the step's result know that it is held. Best effort: the journal has the truth."""

    def knows(self, name: str) -> bool:
        """Whether this process's code has a task of that name."""

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Takes back the messages of steps that were cancelled, where they would wait for ever. Best effort."""


#: The engines of this process that know where messages go, by name: a function on one may dispatch steps to another.
INSTALLED: dict[str, Engine] = {}


def installed_beside(engine: Engine) -> list[Engine]:
    """An engine, and every other of this process."""
    return list({**INSTALLED, engine.name: engine}.values())


def message_of(run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> StepRow:
    """The step whose message lets a step run: its own, or its function's, which is what calls it in place again."""
    return next(s for s in steps if s.kind.makes_calls) if in_place(run, step) else step


def engine_of(run: WorkflowRow, step: StepRow, known: Mapping[str, Engine]) -> Engine | None:
    """What sends a step: the engine that it was dispatched to, else its run's; None where that is not known here."""
    return known.get(step.engine or run.engine)
