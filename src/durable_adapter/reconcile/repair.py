"""Mending what is safe: a person's order makes it due, and the sweeper does what its own rules allow.

Nothing here decides whether something may be repeated. Without an engine (no app at hand) what is due is left to the
sweepers that run in the workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..model import Event
from .finding import Finding, Trouble

if TYPE_CHECKING:
    from ..journal import Journal
    from ..recovery import Report
    from ..runtime.engine import Engine

#: Sweeps that one order makes at the most; each takes a bounded batch.
SWEEPS = 50


@dataclass
class Mended:
    """What became of an order to mend.

    Attributes:
        due: the references of the runs that were made due.
        ended: the references of those that had ended meanwhile.
        reports: what each sweep did; empty where there was no app to sweep with.
    """

    due: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def total(self) -> dict[str, int]:
        """What the sweeps did, summed."""
        counted: dict[str, int] = {}
        for report in self.reports:
            for name, number in vars(report).items():
                if name != "errors":
                    counted[name] = counted.get(name, 0) + number
        return counted

    @property
    def errors(self) -> list[str]:
        """What went wrong in the sweeps."""
        return [error for report in self.reports for error in report.errors]


def mend(
    journal: Journal, findings: Iterable[Finding], engines: Sequence[Engine], *, who: str, why: str, stale: float = 60.0
) -> Mended:
    """Acts on those findings that are safe by the promises; the others are left for people.

    Args:
        journal: the journal.
        findings: what was found.
        engines: the bindings that can send; with none, what is due is left to the workers' own sweepers.
        who: the person.
        why: and why.
        stale: seconds of silence after which a worker may be declared dead.
    """
    mended = Mended()
    safe = [finding for finding in findings if finding.safe]
    at_rest = {finding.ref for finding in safe if finding.kind in (Trouble.LOST, Trouble.ROLLBACK_UNFINISHED)}
    for ref in dict.fromkeys(finding.ref for finding in safe):
        if ref in at_rest:
            (mended.due if journal.due.check_now(ref, who=who, why=why) else mended.ended).append(ref)
        else:
            journal.events.note(Event.OPERATOR, ref=ref, who=who, why=why, action="sweep")
            mended.due.append(ref)
    if safe and engines:
        mended.reports = sweep_until_done(journal, engines, stale=stale)
    return mended


def sweep_until_done(journal: Journal, engines: Sequence[Engine], *, stale: float = 60.0) -> list[Report]:
    """Sweeps until a sweep finds nothing to do; each sweep takes a bounded batch."""
    from ..recovery import Sweeper

    sweeper = Sweeper(journal, engines, stale=stale)
    reports: list[Report] = []
    try:
        for _ in range(SWEEPS):
            report = sweeper.sweep()
            reports.append(report)
            if not report.did_anything or report.errors:
                break
    finally:
        sweeper.stop()
    return reports
