"""Alerts: one ERROR log line, and one call of every receiver, for each thing that needs a person.

The journal's observers get what was committed, and `tell` alone passes it on to people. A receiver that raises is logged and
does not disturb the work.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..model import DEFAULT_NAMESPACE, Alert
from ..printable import shell_word

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.troubles import Trouble
    from ..model import StepRow, WorkflowRow
    from .engine import Engine

logger = logging.getLogger("durable_adapter")


def explain(run: WorkflowRow | None, workflow: str) -> str:
    """Returns the command that shows a workflow; every message about the workflow ends with it.

    It names the namespace, but no journal: the reader may reach the journal by another URL than this process.
    """
    words = ["durable-adapter", "explain"]
    if run is not None and run.namespace != DEFAULT_NAMESPACE:
        words += ["--namespace", shell_word(run.namespace)]
    return " ".join([*words, "--", shell_word(workflow)])


@dataclass(frozen=True, slots=True)
class Held:
    """A step that became held, as receivers of `on_held` get it.

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


@dataclass(frozen=True, slots=True)
class NeedsAttention:
    """Something that needs a person, as receivers of `on_attention` get it.

    Attributes:
        alert: the name of the event, with which the log line begins: `step_held`, `undo_failed` and so on.
        workflow: the workflow's id, or its run reference where it has no id of its own.
        run: the run reference.
        name: the workflow's name.
        namespace: whose workflow it is.
        step: the step's name; None where it is the run as a whole.
        key: the step's key in the journal; None likewise.
        why: what is the matter, in words.
        amount: the amount at stake, where the workflow has such an attribute.
        reason: the cause as a stable word, such as `worker_died`; None where there is none.
        command: the command that shows it.
    """

    alert: str
    workflow: str
    run: str
    name: str
    namespace: str
    step: str | None
    key: str | None
    why: str
    amount: str | None
    reason: str | None
    command: str


Told = TypeVar("Told")
R = TypeVar("R", bound=Callable[[Any], object])


class Signal(Generic[Told]):
    """A list of receivers. Connect one with `connect`, or by calling the signal; both work as decorators.

    Args:
        name: what it is called, for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._receivers: list[Callable[[Told], object]] = []

    def connect(self, receiver: R) -> R:
        """Adds a receiver: a function of one argument, which is what the signal sends. A receiver is added once."""
        if receiver not in self._receivers:
            self._receivers.append(receiver)
        return receiver

    __call__ = connect

    def disconnect(self, receiver: Callable[[Told], object]) -> None:
        """Removes a receiver."""
        if receiver in self._receivers:
            self._receivers.remove(receiver)

    def send(self, told: Told) -> None:
        """Calls every receiver. An error of a receiver is logged."""
        for receiver in list(self._receivers):
            try:
                receiver(told)
            except Exception:
                logger.exception("receiver_failed signal=%s msg=%r", self._name, f"A receiver of durable.{self._name} raised.")


#: Sent once for each step that becomes held, in the process that held it.
on_held: Signal[Held] = Signal("on_held")
#: Sent once for each thing that needs a person, in the process that recorded it, after the commit.
on_attention: Signal[NeedsAttention] = Signal("on_attention")

#: The alerts that are sent to `on_held` as well.
_HOLDS = frozenset({Alert.STEP_HELD, Alert.VALUE_MISSING, Alert.WORKFLOW_DRIFTED})
#: What a person has to do about each.
_TO_DO = {
    Alert.STEP_HELD: "Whether it happened is not known. A person must decide.",
    Alert.VALUE_MISSING: "It happened, and what it returned is missing. A person must give the value.",
    Alert.WORKFLOW_DRIFTED: "The code does not fit what is recorded. A person must decide.",
    Alert.EFFECT_UNKNOWN: "Whether it happened before it failed is not known. A person must decide.",
    Alert.UNDO_FAILED: "It happened, and is not undone: money may be still out. A person must look.",
    Alert.MAY_HAVE_HAPPENED_TWICE: "A person must look at both, and take one back where it happened twice.",
    Alert.STOPPED_AT_UNMARKED: "Whether the unmarked task ran is not known. A person must say.",
    Alert.CALLBACK_FAILED: "What follows the step goes on. A person must mend its callback.",
    Alert.ENDED_BY_ENGINE: "It has not begun, and is not sent again by itself. A person may let it run.",
}


def listen(journal: Journal) -> None:
    """Makes `tell` an observer of a journal. A second call for the same journal changes nothing."""
    observers = journal.db.observers
    if not any(isinstance(each, partial) and each.func is tell for each in observers):
        observers.append(partial(tell, journal))


def tell(journal: Journal, troubles: Sequence[Trouble]) -> None:
    """Logs each trouble and calls the receivers. Two reads, whatever the number of troubles."""
    runs, steps = _about(journal, troubles)
    for trouble in troubles:
        _tell_one(trouble, runs.get(trouble.ref), steps.get((trouble.ref, trouble.key or "")))


def _tell_one(trouble: Trouble, run: WorkflowRow | None, step: StepRow | None) -> None:
    workflow = run.id if run is not None and run.declared else trouble.ref
    told = NeedsAttention(
        alert=trouble.alert.value,
        workflow=workflow,
        run=trouble.ref,
        name=run.name if run is not None else "",
        namespace=run.namespace if run is not None else "",
        step=step.name if step is not None else trouble.key,
        key=trouble.key,
        why=trouble.why,
        amount=run.at_stake() if run is not None else None,
        reason=step.cause if step is not None else None,
        command=explain(run, workflow),
    )
    facts = {
        "workflow": told.workflow, "run": told.run, "name": told.name, "namespace": told.namespace, "step": told.step,
        "key": told.key, "amount": told.amount, "reason": told.reason,
        "why": told.why, "command": told.command, "msg": _TO_DO[trouble.alert],
    }  # fmt: skip
    logger.error("%s %s", told.alert, " ".join(f"{name}={_fact(value)}" for name, value in facts.items() if value))
    if trouble.alert in _HOLDS and told.step is not None and told.key is not None:
        on_held.send(Held(workflow, told.step, told.key, told.why, told.command))
    on_attention.send(told)


def _about(journal: Journal, troubles: Sequence[Trouble]) -> tuple[Mapping[str, WorkflowRow], Mapping[tuple[str, str], StepRow]]:
    """Returns the runs and steps that the troubles name. Both are empty where the journal cannot be read."""
    refs = sorted({trouble.ref for trouble in troubles})
    of_steps = sorted({trouble.ref for trouble in troubles if trouble.key is not None})
    try:
        # A row that cannot be read here is told by its reference.
        steps = journal.reads.slim_steps(of_steps, unreadable=[])
        return journal.reads.slim_runs(refs, unreadable=[]), {(s.ref, s.key): s for of_run in steps.values() for s in of_run}
    except Exception:
        told = "The journal could not be read for the names of these workflows; the alerts that follow give their runs."
        logger.warning("alert_without_names runs=%d msg=%r", len(refs), told)
        return {}, {}


_PLAIN = re.compile(r"[\w.:@/+#-]+", re.ASCII)


def _fact(value: str) -> str:
    """Returns a value of a log line: bare if it is one word, else quoted, so that no value can look like another fact."""
    return value if _PLAIN.fullmatch(value) else json.dumps(value)


def hold(journal: Journal, engine: Engine | None, row: StepRow, why: str, *, who: str | None) -> bool:
    """Holds a step in doubt; False where it was decided otherwise first."""
    return _told(engine, row, why, held=journal.doubts.hold(row, why, who=who))


def hold_unbegun(journal: Journal, engine: Engine | None, row: StepRow, why: str, *, who: str | None) -> bool:
    """Holds a step that no claim holds; False where it was decided otherwise first."""
    return _told(engine, row, why, held=journal.doubts.hold_unbegun(row, why, who=who))


def hold_without_value(journal: Journal, engine: Engine | None, row: StepRow, token: str | None, why: str, *, who: str) -> bool:
    """Holds a step that happened with a value that cannot be recorded; False where it was decided otherwise first."""
    return _told(engine, row, why, held=journal.ends.happened_without_value(row, token, why, who))


def hold_for_drift(journal: Journal, engine: Engine | None, row: StepRow, why: str) -> bool:
    """Holds a workflow function whose code no longer fits what is recorded; False where it is held or over already."""
    return _told(engine, row, why, held=journal.doubts.hold_drift(row, why))


def _told(engine: Engine | None, row: StepRow, why: str, *, held: bool) -> bool:
    """Lets the engine tell those who wait for the step's result that it is held. People are told by the journal's observers."""
    if held and engine is not None:
        engine.say_held(row, why)
    return held
