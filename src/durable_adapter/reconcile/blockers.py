"""What keeps everything from moving: nobody sweeps, or no living worker serves a queue on which unfinished work waits.

Such a finding concerns an engine or a queue and no single run. Reports say it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..model import OPEN_STEPS, SECOND, StepRow, StepStatus, WorkflowRow
from ..recovery.absence import Unswept, unswept
from .case import Surroundings
from .commands import INLINE, workflow_word
from .finding import Finding, Remedy, Trouble
from .words import iso, plural, since, vocabulary

#: How long a step may wait on a queue that nobody serves before that is a finding: a worker may just be starting.
STARTING = 60 * SECOND


@dataclass
class Waiting:
    """The steps that wait on one queue for a worker to take them.

    Attributes:
        names: the name of each.
        refs: the references of their runs.
        first: since when the first of them has waited, its name, and what commands call its run.
    """

    names: list[str] = field(default_factory=list)
    refs: set[str] = field(default_factory=set)
    first: tuple[int, str, str] | None = None

    def add(self, run: WorkflowRow, step: StepRow) -> None:
        """Adds a step."""
        at = (step.next_check_at if step.status is StepStatus.WAITING else None) or step.created_at
        this = at, step.name, workflow_word(run)
        self.first = min(self.first or this, this)
        self.names.append(step.name)
        self.refs.add(run.ref)


#: The steps that wait, by engine and queue.
Queues = dict[tuple[str, str], Waiting]


def add_to_queues(queues: Queues, run: WorkflowRow, steps: Iterable[StepRow]) -> None:
    """Adds the steps of an unfinished run that workers are still to take from a queue with a name."""
    for step in steps:
        if step.status in (StepStatus.PLANNED, StepStatus.WAITING) and step.kind.has_body and step.queue:
            queues.setdefault((step.engine or run.engine, step.queue), Waiting()).add(run, step)


class Blockers:
    """Collects what unfinished runs need: somebody who sweeps for their engines, and workers on their queues."""

    def __init__(self) -> None:
        self._engines: set[str] = set()
        self._queues: Queues = {}

    def add(self, run: WorkflowRow, steps: Sequence[StepRow]) -> None:
        """Adds what a run needs, if it is unfinished."""
        if run.next_check_at is not None or any(step.next_check_at is not None for step in steps):
            self._engines |= {run.engine, *(step.engine or run.engine for step in steps if step.status in OPEN_STEPS)}
            add_to_queues(self._queues, run, steps)

    def unswept(self, look: Surroundings, asked: Iterable[str] | None = None) -> list[Unswept]:
        """Returns the engines for which nobody sweeps.

        Args:
            look: what holds for every run.
            asked: the engines that are judged where nothing is unfinished; if empty, one sweeper of any engine is enough.
                None judges nothing then.
        """
        if not self._engines and asked is None:
            return []
        if wanted := self._engines or set(asked or ()):
            return idle_engines(look, wanted)
        sweepers = [each for each in (*look.living.values(), *look.former.values()) if each.role == "sweeper"]
        known = {engine for each in sweepers for engine in each.engine.split(",")} or {"celery"}
        found = idle_engines(look, known)
        return found if len(found) == len(known) else []

    def findings(self, look: Surroundings, idle: Iterable[Unswept]) -> list[Finding]:
        """Returns what keeps these runs from moving.

        Args:
            look: what holds for every run.
            idle: the engines for which nobody sweeps.
        """
        return [*nobody_sweeps(look, idle), *_unserved(look, self._queues)]


def idle_engines(look: Surroundings, engines: Iterable[str]) -> list[Unswept]:
    """Returns those of some engines for which nobody sweeps."""
    workers = [*look.living.values(), *look.former.values()]
    return unswept(workers, engines, namespace=look.namespace, now=look.now, stale=look.stale)


def nobody_sweeps(look: Surroundings, idle: Iterable[Unswept]) -> Iterator[Finding]:
    """Yields a finding for each engine for which nobody sweeps."""
    for each in idle:
        words = vocabulary(each.engine)
        last = "no sweeper is known" if each.last is None else f"the last beat of a sweeper was at {since(each.last, look.now)}"
        nobody = "Nobody runs what is inline" if each.engine == INLINE else f"Nobody sweeps{words.sweeps_for}"
        certain = f"{nobody}: {last}. Timers, deaths, doubt and lost {words.message}s wait."
        start = Remedy(f"start {words.worker}, or run this", look.caller.sweep(engines=[each.engine]))
        yield Finding(Trouble.NOBODY_SWEEPS, "", "", each.engine, None, None, each.last, certain, remedies=(start,))


def _unserved(look: Surroundings, queues: Queues) -> Iterator[Finding]:
    workers = [w for w in look.living.values() if w.namespace in (None, look.namespace) and not w.is_silent(look.now, look.stale)]
    for (engine, queue), waiting in sorted(queues.items()):
        at, step, workflow = waiting.first or (look.now, "", "")
        if look.now - at < STARTING or any(worker.takes(engine, queue) for worker in workers):
            continue
        steps = f"{plural(len(waiting.names), 'unfinished step')} of {plural(len(waiting.refs), 'workflow')}"
        certain = (
            f"No living worker with the plugin serves the queue {queue!r} of {vocabulary(engine).engine}. Addressed to it: "
            f"{steps}, such as {step} of {workflow}."
        )
        uncertain = "whether a worker without the plugin takes them, and runs them unrecorded"
        start = Remedy("start a worker for it", look.caller.worker(engine, queue))
        yield Finding(Trouble.UNSERVED_QUEUE, "", "", queue, None, None, at, certain, uncertain, remedies=(start,), place=queue)


def unswept_shown(idle: Iterable[Unswept]) -> list[dict[str, str | None]]:
    """Returns the engines for which nobody sweeps as JSON."""
    return [{"engine": each.engine, "last_beat_at": iso(each.last)} for each in idle]
