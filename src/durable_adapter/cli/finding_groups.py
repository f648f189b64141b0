"""Findings told together: those of one cause (trouble, task, place, error) are one paragraph, with one command for all.

After an outage a person sees three groups, not a thousand findings. Which findings there are is not decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .options import BULK

if TYPE_CHECKING:
    from decimal import Decimal

    from ..reconcile import Finding, Remedy
    from ..reconcile.commands import Caller

#: Findings of one cause that are still told one by one.
FEW = 3
#: Workflows that a group names.
EXAMPLES = 3


@dataclass(frozen=True)
class Group:
    """Findings of one cause, in the order in which they were found; never empty.

    Attributes:
        findings: the findings.
        alike: how many findings of other groups the commands of this one concern as well.
    """

    findings: Sequence[Finding]
    alike: int = 0

    @property
    def first(self) -> Finding:
        """The one that stands for the others."""
        return self.findings[0]

    @property
    def is_small(self) -> bool:
        """Whether its findings are told one by one."""
        return len(self.findings) <= FEW

    @property
    def title(self) -> str:
        """The trouble, and what its findings have in common."""
        first = self.first
        where = f" on queue {first.place}" if first.place else ""
        after = f" after {first.error}" if first.error else ""
        return f"{first.kind.value.replace('_', ' ').upper()}  {first.step or first.name}{where}{after}"

    @property
    def at_stake(self) -> Decimal | None:
        """The sum of their amounts."""
        from ..reconcile import at_stake

        return at_stake(list(self.findings))

    @property
    def span(self) -> tuple[int, int] | None:
        """Since when the first and the last of them are so."""
        times = [f.since for f in self.findings if f.since is not None]
        return (min(times), max(times)) if times else None

    @property
    def examples(self) -> str:
        """Some of the workflows."""
        names = list(dict.fromkeys(f.workflow for f in self.findings))
        return ", ".join(names[:EXAMPLES]) + (f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else "")

    def remedies(self, caller: Caller) -> list[Remedy]:
        """What mends all of them: one command for each way to mend one."""
        from ..reconcile import Remedy, Trouble

        first = self.first
        if len({f.remedies for f in self.findings}) == 1:
            return list(first.remedies)  # a sweep, which looks after all at once
        if all(f.safe for f in self.findings):
            return [
                Remedy("to mend all of them as the promises allow", caller.change("reconcile", "--kind", first.kind.value)),
                *self._verdicts(caller),
            ]
        match first.kind:
            case Trouble.HELD | Trouble.EFFECT_UNKNOWN:
                return self._verdicts(caller)
            case Trouble.DRIFT:
                return [Remedy(first.remedies[0].when, self._order(caller, "retry"))]
            case Trouble.UNKNOWN_TASK:
                return [Remedy(first.remedies[0].when, self._order(caller, "cancel"))]
        each = caller.command("reconcile", "--kind", first.kind.value, "--all")
        return [Remedy("one by one, with the command that each has here", each)]

    def _verdicts(self, caller: Caller) -> list[Remedy]:
        """The verdicts that may be given on all of them, as each has them."""
        from ..reconcile import Remedy, Trouble

        if self.first.kind not in (Trouble.HELD, Trouble.EFFECT_UNKNOWN, Trouble.IN_DOUBT):
            return []
        given = (("--happened", "VALUE"), ("--did-not-happen",), ("--failed",))
        own = [(words, r) for words in given for r in self.first.remedies if f" {words[0]}" in r.command]
        return [Remedy(r.when, caller.change("resolve", *words, *self._chosen("since"))) for words, r in own]

    def _order(self, caller: Caller, verb: str) -> str:
        return caller.change(verb, *self._chosen("started"))

    def _chosen(self, time: str) -> list[str]:
        """The options that choose all of them, and perhaps others: the task, since when, how many."""
        from ..reconcile.words import short

        first = min(getattr(f, time) or 0 for f in self.findings)
        words = ["--task", self.first.step or self.first.name, "--since", short(first)]
        return [*words, "--limit", str(len(self.findings) + self.alike)] if len(self.findings) + self.alike > BULK else words


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """The groups, in the order of their first findings."""
    found: dict[tuple[str, str, str, str], list[Finding]] = {}
    by_task: dict[tuple[str, str], int] = {}
    for finding in findings:
        task = finding.step or finding.name
        found.setdefault((finding.kind.value, task, finding.place, finding.error), []).append(finding)
        by_task[finding.kind.value, task] = by_task.get((finding.kind.value, task), 0) + 1
    return [Group(each, by_task[kind, task] - len(each)) for (kind, task, _, _), each in found.items()]
