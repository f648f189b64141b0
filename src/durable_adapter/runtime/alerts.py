"""Holding, and telling people: the signal that fires whenever a step is held, so that a team can page somebody.

Whatever holds a step does so here, so that nothing is held without a word. A receiver that raises is logged and never
disturbs the work.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ..model import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from ..journal import Journal
    from ..model import StepRow, WorkflowRow
    from .engine import Engine

logger = logging.getLogger("durable_adapter")


def explain(run: WorkflowRow | None, workflow: str) -> str:
    """The command that shows a workflow, which is a part of every message about it.

    This process does not know how the person who reads it reaches the journal: only whose workflow it is.
    """
    words = ["durable-adapter", "explain", shlex.quote(workflow)]
    if run is not None and run.namespace != DEFAULT_NAMESPACE:
        words += ["--namespace", shlex.quote(run.namespace)]
    return " ".join(words)


@dataclass(frozen=True, slots=True)
class Held:
    """What a receiver of `on_held` is told.

    Attributes:
        workflow: the workflow's id, or its run reference where it has no id of its own.
        step: the step's name.
        key: the step's key in the journal.
        why: what is in doubt, in words.
        command: the command that shows it.
    """

    workflow: str
    step: str
    key: str
    why: str
    command: str


Receiver = TypeVar("Receiver", bound=Callable[[Held], object])


class Signal:
    """A list of receivers. Connect one with `on_held.connect`; it also works as a decorator."""

    def __init__(self) -> None:
        self._receivers: list[Callable[[Held], object]] = []

    def connect(self, receiver: Receiver) -> Receiver:
        """Adds a receiver: a function of one `Held`."""
        if receiver not in self._receivers:
            self._receivers.append(receiver)
        return receiver

    def disconnect(self, receiver: Callable[[Held], object]) -> None:
        """Removes a receiver."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def send(self, held: Held) -> None:
        """Tells every receiver; one that raises is logged."""
        for receiver in list(self._receivers):
            try:
                receiver(held)
            except Exception:
                logger.exception("a receiver of durable.on_held raised; the step stays held")


#: Fires once for each step that becomes held, in the process that held it.
on_held = Signal()


def hold(journal: Journal, engine: Engine | None, row: StepRow, why: str, *, who: str | None) -> bool:
    """Holds a step in doubt; False where it was decided otherwise first."""
    return _told(journal, engine, row, why, held=journal.doubts.hold(row, why, who=who))


def hold_without_value(journal: Journal, engine: Engine | None, row: StepRow, token: str | None, why: str, *, who: str) -> bool:
    """Holds a step that happened with a value that cannot be recorded; False where it was decided otherwise first."""
    return _told(journal, engine, row, why, held=journal.ends.happened_without_value(row, token, why, who))


def hold_for_drift(journal: Journal, engine: Engine | None, row: StepRow, why: str) -> bool:
    """Holds a workflow function whose code no longer fits what is recorded; False where it is held or over already."""
    return _told(journal, engine, row, why, held=journal.doubts.hold_drift(row, why))


def _told(journal: Journal, engine: Engine | None, row: StepRow, why: str, *, held: bool) -> bool:
    """Tells everybody who should know of a hold: the log, the alert, whoever waits for the step's result."""
    if not held:
        return False
    run = journal.reads.run(row.ref)
    workflow = run.id if run is not None and run.declared else row.ref
    command = explain(run, workflow)
    logger.error("step %s of workflow %s is held: %s. A person must decide: `%s`", row.name, workflow, why, command)
    on_held.send(Held(workflow, row.name, row.key, why, command))
    if engine is not None:
        engine.say_held(row, why)
    return True
