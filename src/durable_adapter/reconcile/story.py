"""The facts of one run: its rows, its events, the processes that they name, what is wrong with it now, what can be done.

`read_story` asks the journal and the engine. `telling` (English) and `story_json` (JSON) present a `Story` and ask nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..journal.undo import undoable
from ..model import StepRow, StepStatus, WorkerRow, WorkflowRow, WorkflowStatus, forward, in_place
from .blockers import Blockers
from .case import Case, Surroundings, Witness, read_surroundings
from .commands import Caller, workflow_word
from .finding import Finding, Remedy
from .survey import findings_of

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.surveys import Around
    from ..recovery.absence import Unswept


@dataclass(frozen=True)
class Story:
    """All that is known of one run.

    Attributes:
        run: the run.
        steps: its steps, by position.
        events: its events, oldest first.
        workers: the processes that are named.
        findings: what is wrong with it now.
        look: what holds around it.
        unswept: its engines for which nobody sweeps, where it is unfinished.
        blockers: what keeps it from moving, whatever is wrong with itself.
        next_check_at: when a sweeper looks at it the next time.
        said: what the run's engine holds of each step's message now, by key; empty where it cannot be asked.
    """

    run: WorkflowRow
    steps: list[StepRow]
    events: list[dict[str, Any]]
    workers: Mapping[str, WorkerRow]
    findings: list[Finding]
    look: Surroundings
    unswept: list[Unswept]
    blockers: list[Finding]
    next_check_at: int | None
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def now(self) -> int:
        """When it was read."""
        return self.look.now

    @property
    def all_findings(self) -> list[Finding]:
        """What keeps it from moving, and then what is wrong with itself."""
        return [*self.blockers, *self.findings]

    @property
    def members(self) -> list[StepRow]:
        """Its steps without the compensations."""
        return forward(self.steps)

    @cached_property
    def remedies(self) -> list[Remedy]:
        """What can be done: what mends the findings; else, for a run that ended without success, how it goes on or is undone."""
        found = [remedy for finding in self.all_findings for remedy in finding.remedies]
        if found or not self.steps or self.run.status not in (WorkflowStatus.FAILED, WorkflowStatus.CANCELLED):
            return found
        ids, caller = [workflow_word(self.run)], self.look.caller
        go_on = Remedy("to go on where it stopped, once what made it stop is mended", caller.change("retry", ids=ids))
        undo = Remedy("to undo what happened", caller.change("rollback", ids=ids))
        return [go_on, undo] if undoable(self.steps) else [go_on]


def read_story(
    journal: Journal,
    run: WorkflowRow,
    *,
    caller: Caller,
    stale: int,
    witnesses: Mapping[str, Witness] | None = None,
    around: Around | None = None,
) -> Story:
    """Reads all that is known of one run; of its engine too, where that can be asked."""
    look = read_surroundings(journal, around, caller=caller, stale=stale, witnesses=witnesses or {})
    steps = journal.reads.steps(run.ref)
    events = journal.events.of(run.ref)
    named = {s.worker for s in steps if s.worker} | {e["who"] for e in events if e["who"]}
    known = {**look.former, **look.living}
    workers = {**known, **journal.reads.workers(sorted(named - known.keys()))}
    case = Case(run, steps, workers, look)
    blockers = Blockers()
    blockers.add(run, steps)
    idle = blockers.unswept(look)
    found, blocking = list(findings_of(case)), blockers.findings(look, idle)
    return Story(run, steps, events, workers, found, look, idle, blocking, case.next_check_at, _said(case))


def _said(case: Case) -> dict[str, str]:
    """What the engine holds of the steps that have a message of their own."""
    said = {}
    for step in case.steps:
        witness = case.witness(step)
        if witness is not None and not in_place(case.run, step) and (says := witness.says(step)) is not None:
            said[step.key] = says + _against(witness, step)
    return said


def _against(witness: Witness, step: StepRow) -> str:
    """What the journal has against the engine's own result; empty where they agree."""
    end = witness.outcome(step) if step.status is StepStatus.SUCCEEDED else None
    if end is None or end.succeeded:
        return ""
    return "; the journal has its result, and that is what counts: run again, it is found and handed back"
