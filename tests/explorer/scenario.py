"""Random workflows: chains and functions of a few steps, of every safety, with errors, retries, compensations and pivots."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from durable_adapter.declare.policy import StepPolicy
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.model import Safety


class Declined(Exception):
    """Declared as `did_not_happen`: raised before the effect only."""


class Lost(TimeoutError):
    """Says nothing about the effect: raised before it or after it."""


class Ends(enum.Enum):
    """How one attempt ends by itself."""

    WELL = "well"
    DECLINED = "declined"
    LOST_BEFORE = "lost before its effect"
    LOST_AFTER = "lost after its effect"


class Does(enum.Enum):
    """What a workflow function does next."""

    CALL = "call"
    DISPATCH = "dispatch"
    WAIT = "wait"
    SLEEP = "sleep"


@dataclass
class Step:
    """One step and what is declared of it."""

    name: str
    safety: Safety
    policy: StepPolicy
    #: How its attempts end, in order; the last stands for all that follow.
    script: tuple[Ends, ...]
    undo: Step | None = None

    def ends(self, number: int) -> Ends:
        """How an attempt ends, by its number."""
        return self.script[min(number, len(self.script)) - 1]


@dataclass
class Line:
    """One line of a workflow function."""

    does: Does
    step: Step | None = None
    seconds: float = 0.0
    #: Whether the function goes on behind an error of it.
    catches: bool = False


@dataclass
class Workflow:
    """A chain, or a function with its lines."""

    name: str
    steps: list[Step]
    #: Empty for a chain.
    lines: list[Line] = field(default_factory=list)

    @property
    def every_step(self) -> list[Step]:
        """The steps, and what undoes them."""
        return [*self.steps, *(step.undo for step in self.steps if step.undo is not None)]

    def __str__(self) -> str:
        told = [f"{step.name.removeprefix('explored.')}: {_told(step)}" for step in self.steps]
        if self.lines:
            lines = ", ".join(
                f"{line.does.value} {line.step.name.removeprefix('explored.') if line.step else f'{line.seconds:g} s'}"
                + (" (catches)" if line.catches else "")
                for line in self.lines
            )
            return f"function {self.name} [{lines}]\n    " + "\n    ".join(told)
        return f"chain {self.name}\n    " + "\n    ".join(told)


def _told(step: Step) -> str:
    parts = [step.safety.value, f"ends {' then '.join(e.value for e in step.script)}"]
    if step.policy.retry is not None:
        parts.append(f"retried {step.policy.retry.maximum_attempts} times")
    if step.policy.timeout is not None:
        parts.append(f"timeout {step.policy.timeout:g} s")
    if step.policy.pivot:
        parts.append("pivot")
    if step.undo is not None:
        parts.append(f"undone by a step that is {_told(step.undo)}")
    return ", ".join(parts)


class Author:
    """Makes workflows up.

    Args:
        chance: the schedule's randomness.
        probe: answers for every step with a probe, by its name.
    """

    #: The safety of steps, each as likely as it is often here.
    safeties: tuple[Safety, ...] = (
        Safety.PROTECTED,
        Safety.IDEMPOTENT,
        Safety.IDEMPOTENT,
        Safety.TRANSACTIONAL,
        Safety.PROBE,
    )
    #: How many of the workflows are functions.
    functions = 0.6

    def __init__(self, chance: random.Random, probe: Callable[[str], Callable[..., object]]) -> None:
        self._chance = chance
        self._probe = probe

    def workflow(self, number: int) -> Workflow:
        """One workflow."""
        name = f"explored.w{number}"
        count = self._chance.randint(2, 4)
        pivot = self._chance.randrange(count) if self._chance.random() < 0.15 else None
        undoes = self._chance.random() < 0.7
        steps = [self._step(f"{name}s{place + 1}", undoes=undoes, pivot=place == pivot) for place in range(count)]
        made = Workflow(name, steps)
        if self._chance.random() < self.functions:
            made.lines = self._lines(steps)
        return made

    def _step(self, name: str, *, undoes: bool, pivot: bool) -> Step:
        chance = self._chance
        safety = chance.choice(self.safeties)
        undo = None
        if undoes and not pivot and chance.random() < 0.75:
            undo_safety = chance.choice([Safety.IDEMPOTENT, Safety.IDEMPOTENT, Safety.PROTECTED, Safety.PROBE])
            undo = Step(f"{name}undo", undo_safety, self._policy(f"{name}undo", undo_safety), self._script(undo_safety, 0.15))
        policy = self._policy(name, safety, compensate=undo.name if undo is not None else None, pivot=pivot)
        return Step(name, safety, policy, self._script(safety, 0.3), undo)

    def _policy(self, name: str, safety: Safety, *, compensate: str | None = None, pivot: bool = False) -> StepPolicy:
        chance = self._chance
        retry = None
        if chance.random() < 0.5:
            retry = RetryPolicy(initial_interval=chance.choice([0.5, 3.0]), maximum_attempts=chance.randint(2, 4))
        return StepPolicy(
            idempotent=safety is Safety.IDEMPOTENT,
            transactional=safety is Safety.TRANSACTIONAL,
            probe=self._probe(name) if safety is Safety.PROBE else None,
            did_not_happen=(Declined,),
            retry=retry,
            timeout=chance.choice([20.0, 120.0]) if chance.random() < 0.3 else None,
            compensate=compensate,
            pivot=pivot,
        )

    def _script(self, safety: Safety, trouble: float) -> tuple[Ends, ...]:
        chance = self._chance
        bad = [Ends.DECLINED, Ends.LOST_BEFORE, Ends.LOST_AFTER]
        script: list[Ends] = []
        while chance.random() < trouble and len(script) < 3:
            script.append(chance.choice(bad))
        if script and chance.random() < 0.4:
            return tuple(script)  # it never goes well
        return (*script, Ends.WELL)

    def _lines(self, steps: list[Step]) -> list[Line]:
        chance = self._chance
        lines: list[Line] = []
        sent: list[Step] = []
        for step in steps:
            catches = chance.random() < 0.2
            if chance.random() < 0.4:
                lines.append(Line(Does.DISPATCH, step))
                sent.append(step)
            else:
                lines.append(Line(Does.CALL, step, catches=catches))
            if sent and chance.random() < 0.4:
                lines.append(Line(Does.WAIT, sent.pop(chance.randrange(len(sent))), catches=catches))
            if chance.random() < 0.1:
                lines.append(Line(Does.SLEEP, seconds=chance.choice([2.0, 40.0])))
        waited = [step for step in sent if chance.random() < 0.6]
        return lines + [Line(Does.WAIT, step, catches=chance.random() < 0.2) for step in waited]
