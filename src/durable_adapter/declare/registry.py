"""The declarations of this process, each beside the object that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .policy import StepPolicy, WorkflowPolicy


@dataclass
class Declared:
    """A declaration beside the object that it is about. The object is never touched, only kept."""

    target: Any
    step: StepPolicy | None = None
    workflow: WorkflowPolicy | None = None


class Declarations:
    """Every declaration of this process, in order. Bindings read it when installed, and again when it has changed."""

    def __init__(self) -> None:
        self._entries: dict[int, Declared] = {}
        #: Grows with every change, so that a reader can tell cheaply that there is something new.
        self.generation = 0

    def add(self, target: Any, *, step: StepPolicy | None = None, workflow: WorkflowPolicy | None = None) -> None:
        """Keeps a declaration beside *target*, replacing an earlier one of the same sort about the same object."""
        entry = self._entries.get(id(target), Declared(target))
        self._entries[id(target)] = replace(entry, step=step or entry.step, workflow=workflow or entry.workflow)
        self.generation += 1

    def __iter__(self) -> Iterator[Declared]:
        return iter(list(self._entries.values()))


#: The declarations of this process.
DECLARED = Declarations()
