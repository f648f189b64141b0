"""The facts of one run: its rows, its events, the processes that they name, and what is wrong with it now.

Data only. `telling` says it in English, `story_json` as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..model import StepRow, StepStatus, WorkerRow, WorkflowRow, forward, in_place
from .blockers import Blockers
from .case import Case, Surroundings, Witness, read_surroundings
from .commands import Caller
from .finding import Finding
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
        now: when it was read.
        look: what holds around it.
        unswept: its engines for which nobody sweeps, where it is unfinished.
        blockers: what keeps it from moving, whatever is wrong with itself.
        next_look_at: when a sweeper looks at it the next time.
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
    next_look_at: int | None
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
    return Story(run, steps, events, workers, found, look, idle, blocking, case.next_look_at, _said(case))


def _said(case: Case) -> dict[str, str]:
    """What the engine holds of the steps that have a message of their own, each once."""
    if not case.look.witnesses:
        return {}
    told = {s.key: witness.says(s) for s in case.steps if not in_place(case.run, s) and (witness := case.witness(s)) is not None}
    return {key: says + _against(case, key) for key, says in told.items() if says is not None}


def _against(case: Case, key: str) -> str:
    """What the engine's own result says against the journal, where it does."""
    step = next(s for s in case.steps if s.key == key)
    witness = case.witness(step)
    if step.status is not StepStatus.SUCCEEDED or witness is None:
        return ""
    end = witness.outcome(step)
    if end is None or end.succeeded:
        return ""
    return "; the journal has its result, and that is what counts: run again, it is found and handed back"
