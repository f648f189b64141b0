"""Walking through everything that is unfinished or marked for people, in batches, and asking every finding about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from ..errors import UnreadableRow
from ..model import SECOND
from .blockers import Blockers
from .case import Case, Surroundings, Witness, read_surroundings
from .commands import Caller
from .finding import Finding, Trouble
from .run_findings import RUN_FINDINGS, refused
from .step_findings import STEP_FINDINGS

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.surveys import Around
    from ..recovery.absence import Unswept

logger = logging.getLogger("durable_adapter")

#: Runs that are read at a time, with three round trips.
PAGE = 5_000
#: How far back refused messages are reported, and how many events of that kind are read.
REFUSED_FOR = 7 * 86_400 * SECOND
REFUSALS = 10_000


@dataclass
class Found:
    """What a look found.

    Attributes:
        findings: what is wrong with single runs, the gravest first, of one kind the oldest first.
        blockers: what keeps everything from moving, whichever kinds were asked for.
        kinds: the kinds that were asked for; all where empty.
        runs: how many unfinished or marked runs were looked at.
        more: there is more than the limit allowed to report.
        at: when it was looked, in microseconds of the database's clock.
        swept_at: when any living sweeper beat last; None where none is alive.
        unswept: the engines for which nobody sweeps.
        next_check_at: when the next look at one of those runs is due.
    """

    findings: list[Finding] = field(default_factory=list)
    blockers: list[Finding] = field(default_factory=list)
    kinds: Collection[Trouble] = ()
    runs: int = 0
    more: bool = False
    at: int = 0
    swept_at: int | None = None
    unswept: list[Unswept] = field(default_factory=list)
    next_check_at: int | None = None

    @property
    def all_findings(self) -> list[Finding]:
        """What keeps everything from moving, if that was asked for, and then what is wrong with single runs."""
        return [*(finding for finding in self.blockers if not self.kinds or finding.kind in self.kinds), *self.findings]


def look_for_trouble(
    journal: Journal,
    *,
    namespace: str,
    stale: float = 60.0,
    caller: Caller | None = None,
    kinds: Collection[Trouble] = (),
    since: int | None = None,
    longer_than: int | None = None,
    amount: str | None = None,
    knows: Callable[[str, str], bool] | None = None,
    witnesses: Mapping[str, Witness] | None = None,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    around: Around | None = None,
    engines: Collection[str] = (),
) -> Found:
    """Finds partial executions. Reads only; costs what is unfinished or marked, whatever the history holds.

    Args:
        journal: the journal.
        namespace: whose runs.
        stale: seconds of silence after which a worker may be declared dead.
        caller: how the commands in the findings are called.
        kinds: report only these; all where empty.
        since: report only what has been so since this time, in microseconds.
        longer_than: also report runs that have waited for longer than this, in microseconds.
        amount: the attribute that says what is at stake; else the one that the workflow itself names.
        knows: whether the code of an engine has a task of a name; without it that question is not asked.
        witnesses: the engines that can be asked about single messages, by name.
        limit: how many findings at the most.
        progress: told, now and then, how many runs have been looked at.
        around: what holds for every run, where it was read already.
        engines: whether somebody sweeps for them is judged where nothing is unfinished; any sweeper is enough where empty.
    """
    look = read_surroundings(
        journal,
        around,
        stale=int(stale * SECOND),
        caller=caller or Caller(),
        amount=amount,
        longer_than=longer_than,
        knows=knows,
        witnesses=witnesses or {},
    )
    beats = [worker.beat_at for worker in look.living.values() if worker.role == "sweeper"]
    found = Found(kinds=kinds, at=look.now, swept_at=max(beats, default=None))
    blockers = Blockers()
    wanted = (
        finding
        for finding in chain(_of_refused(journal, look, namespace), _of_runs(journal, look, namespace, found, blockers, progress))
        if (not kinds or finding.kind in kinds) and (since is None or (finding.since or 0) >= since)
    )
    for finding in wanted:
        if limit is not None and len(found.findings) >= limit:
            found.more = True
            break
        found.findings.append(finding)
    found.unswept = blockers.unswept(look, engines)
    found.blockers = blockers.findings(look, found.unswept)
    rank = {kind: number for number, kind in enumerate(Trouble)}
    found.findings.sort(key=lambda f: (rank[f.kind], f.since or 0, f.ref))
    return found


def _of_runs(
    journal: Journal, look: Surroundings, namespace: str, found: Found, blockers: Blockers, progress: Callable[[int], None]
) -> Iterator[Finding]:
    # Not those that sleep until a time that has not come, unless asked.
    asleep = look.longer_than is not None or look.knows is not None
    after = ""
    while refs := journal.surveys.of_interest(namespace, look.now, asleep=asleep, after=after, limit=PAGE):
        unreadable: list[UnreadableRow] = []
        for case in cases(journal, look, refs, unreadable):
            if case.run.namespace != namespace:
                continue
            found.runs += 1
            if case.next_check_at is not None:
                found.next_check_at = min(found.next_check_at or case.next_check_at, case.next_check_at)
            blockers.add(case.run, case.steps)
            yield from _contained(case)
        yield from _of_unreadable(journal, unreadable, namespace)
        progress(found.runs)
        if len(refs) < PAGE:
            return
        after = refs[-1]


def _of_refused(journal: Journal, look: Surroundings, namespace: str) -> Iterator[Finding]:
    return refused(look, journal.reads.refused(since=look.now - REFUSED_FOR, limit=REFUSALS), namespace)


def _contained(case: Case) -> list[Finding]:
    """Returns what is wrong with one run. One that cannot be judged is a finding itself, and no report fails for it (P11)."""
    try:
        return list(findings_of(case))
    except Exception as error:
        logger.exception("run_not_judged run=%s", case.run.ref)
        return [_unreadable(case.run.id, case.run.ref, case.run.name, None, f"judging it raised {type(error).__name__}: {error}")]


def _of_unreadable(journal: Journal, unreadable: Sequence[UnreadableRow], namespace: str) -> Iterator[Finding]:
    """One finding for each row of a namespace that cannot be read here."""
    runs = journal.reads.slim_runs(sorted({error.ref for error in unreadable if error.key is not None}))
    for error in unreadable:
        run = runs.get(error.ref)
        whose = run.namespace if run is not None else error.namespace
        if whose in (None, namespace):
            name = run.id if run is not None else error.id
            yield _unreadable(name or error.ref, error.ref, run.name if run is not None else "", error.key, str(error))


def _unreadable(workflow: str, ref: str, name: str, key: str | None, certain: str) -> Finding:
    uncertain = "how it stands: nothing of this run goes on from here until it can be read"
    return Finding(Trouble.UNREADABLE, workflow, ref, name, key, key, None, certain, uncertain)


def cases(journal: Journal, look: Surroundings, refs: Sequence[str], unreadable: list[UnreadableRow] | None = None) -> list[Case]:
    """Several runs with all that findings need to know of them: two reads.

    *unreadable* is given the rows that cannot be read here; their runs are left out.
    """
    left: list[UnreadableRow] = []
    runs, steps = journal.reads.slim_runs(refs, unreadable=left), journal.reads.slim_steps(refs, unreadable=left)
    runs = {ref: run for ref, run in runs.items() if ref not in {error.ref for error in left}}
    if unreadable is not None:
        unreadable += left
    workers = {**look.living, **look.former}
    return [Case(runs[ref], steps[ref], workers, look) for ref in refs if ref in runs]


def findings_of(case: Case) -> Iterator[Finding]:
    """Everything that is wrong with one run."""
    for find in (*STEP_FINDINGS, *RUN_FINDINGS):
        yield from find(case)
