"""What a person may change: said first, in words, and carried out only when asked.

A change knows what it would do before it is carried out; the journal's compare-and-set decides whether it still may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..model import StepRow, WorkflowRow
from .commands import workflow_word


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        done: it is recorded.
        says: what happened, or what the step or run had become meanwhile.
        next: what happens now, or what is left to a person.
    """

    done: bool
    says: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one run.

    Attributes:
        run: the run.
        step: the step, where it concerns one.
        action: the verb of the command.
        would: what it would do, as a sentence that begins with its verb.
        carry_out: does it.
        warnings: what a person should know before.
    """

    run: WorkflowRow
    step: StepRow | None
    action: str
    would: str
    carry_out: Callable[[], Outcome]
    warnings: tuple[str, ...] = field(default=())

    def shown(self, outcome: Outcome | None = None) -> dict[str, Any]:
        """The change as JSON, with what became of it once it was carried out."""
        return {
            "workflow": workflow_word(self.run),
            "ref": self.run.ref,
            "step": None if self.step is None else self.step.name,
            "key": None if self.step is None else self.step.key,
            "action": self.action,
            "would": self.would,
            "warnings": list(self.warnings),
            "done": None if outcome is None else outcome.done,
            "says": None if outcome is None else outcome.says,
            "next": None if outcome is None else outcome.next,
        }
