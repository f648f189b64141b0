"""The cells of the matrix: what is broken, in what shape and under which declaration, and what is promised.

`{shape}/{safety}/{fault}`, with the class of the worker in second place where an engine has several, where a fault that
strikes one step names it: `chain/probe/kill-child@after-effect:ship`, `lone/fork/undeclared/kill-horse@before-body:charge`.
Which cells there are is told by each engine: `celery_cells`, `rq_cells`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.crash.words import STEPS

#: Between the begin's commit and the end's: here nobody but the bank knows what happened.
UNKNOWN = ("before-effect", "bank-working", "after-effect")
#: Of these commits the answer is lost: they are known by what is on the wire, so nothing may be prepared there.
LOST = "lost"


class Promise(enum.StrEnum):
    """How a cell is to end."""

    DONE = "done"
    """By itself, each effect exactly once."""
    HELD = "held"
    """Held, reported, and finished by one verdict, each effect exactly once."""
    FAILED = "failed"
    """Failed as it would have without the plugin, because nothing asked for a repetition; reported; nothing twice."""
    SETTLED = "settled"
    """Held while its worker is silent, and done by itself when the worker comes back."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        shape: how the steps are tied together.
        safety: what is declared of them.
        fault: what is done, when, and to which step.
        promise: how it is to end.
        nonsense: the reason why there is nothing to try.
        worker: the class of the workers, where the engine has several.
    """

    shape: str
    safety: str
    fault: str
    promise: Promise = Promise.DONE
    nonsense: str | None = None
    worker: str = ""

    @property
    def id(self) -> str:
        """The cell's name."""
        return "/".join(part for part in (self.shape, self.worker, self.safety, self.fault) if part)

    @property
    def deed(self) -> str:
        """What is done, without where."""
        return self.fault.partition(":")[0].partition("@")[0]

    @property
    def moment(self) -> str:
        """At which moment, where the fault has one."""
        return self.fault.partition("@")[2].partition(":")[0]

    @property
    def step(self) -> str:
        """The step that is struck."""
        return self.fault.partition(":")[2] or "charge"

    @property
    def show_sql(self) -> bool:
        """Whether its processes may prepare no statements."""
        return self.deed == LOST

    @property
    def expected(self) -> tuple[int, int, int]:
        """The counts of a workflow that went as it should: charges, shipped, mailed."""
        return (1, 0, 0) if self.shape == "lone" else (1, 1, 1)

    @property
    def effects_before(self) -> int:
        """How many steps come before the one that is struck."""
        return STEPS.index(self.step)


def chosen(cells: Iterable[Cell], pattern: str) -> list[Cell]:
    """Of some cells, those whose names fit a glob, or one of several divided by commas."""
    patterns = [p.strip() for p in pattern.split(",")]
    return [cell for cell in cells if any(fnmatchcase(cell.id, p) for p in patterns)]
