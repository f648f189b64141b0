"""What reconciliation reports: one partial execution, in plain words, with the command that mends it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from .words import iso


class Trouble(enum.StrEnum):
    """The kinds of finding, the gravest first: lists are in this order."""

    NOBODY_SWEEPS = "nobody_sweeps"
    UNSERVED_QUEUE = "unserved_queue"
    TWICE = "may_have_happened_twice"
    HELD = "held"
    VALUE_MISSING = "value_missing"
    EFFECT_UNKNOWN = "failed_effect_unknown"
    ROLLBACK_FAILED = "rollback_failed"
    DRIFT = "drift"
    ENDED_BY_ENGINE = "ended_by_engine"
    STOPPED_AT_UNMARKED = "stopped_at_unmarked"
    CALLED_FAILED = "called_failed"
    UNREADABLE = "unreadable"
    REFUSED = "refused_message"
    UNKNOWN_TASK = "unknown_task"
    DEAD_WORKER = "dead_worker"
    NOT_RUNNING = "begun_not_running"
    IN_DOUBT = "in_doubt"
    LOST = "lost_message"
    ROLLBACK_UNFINISHED = "rollback_unfinished"
    WAITING_LONG = "waiting_long"


#: One line a kind, for headings and `--help`.
MEANING: dict[Trouble, str] = {
    Trouble.NOBODY_SWEEPS: "no sweeper is alive: what is lost, due or in doubt is looked after by nobody",
    Trouble.UNSERVED_QUEUE: "unfinished work waits on a queue that no living worker serves",
    Trouble.TWICE: "an attempt succeeded after its outcome had been decided otherwise",
    Trouble.HELD: "a step may have happened, and only a person can say",
    Trouble.VALUE_MISSING: "a step happened, but what it returned could not be recorded",
    Trouble.EFFECT_UNKNOWN: "a step failed for good, and its effect may have happened",
    Trouble.ROLLBACK_FAILED: "a compensation failed for good: something is not undone",
    Trouble.DRIFT: "a workflow function does not fit, or may not, what is recorded of it",
    Trouble.STOPPED_AT_UNMARKED: "a chain stands at a task that is not marked durable",
    Trouble.CALLED_FAILED: "a step succeeded, and its queue cannot be brought to take its job for done",
    Trouble.UNREADABLE: "a row of the journal holds what this release cannot read",
    Trouble.REFUSED: "a message named a run that this journal does not have",
    Trouble.ENDED_BY_ENGINE: "the engine ended a task on purpose before it began: revoked, expired, rejected",
    Trouble.UNKNOWN_TASK: "an unfinished run needs a task that the code no longer has",
    Trouble.DEAD_WORKER: "a step was running in a process that is dead",
    Trouble.NOT_RUNNING: "a step began, and its living worker no longer runs it",
    Trouble.IN_DOUBT: "a step has been in doubt for longer than it should take to settle",
    Trouble.LOST: "something is due, and nothing has begun",
    Trouble.ROLLBACK_UNFINISHED: "a rollback has stopped before its end",
    Trouble.WAITING_LONG: "a workflow waits for longer than was asked about",
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """A way to mend a finding.

    Attributes:
        when: what must be true for this to be the right one, in words.
        command: the whole command. What only a person can know stands in capitals.
    """

    when: str
    command: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One partial execution, or what keeps everything from moving.

    Attributes:
        kind: what sort of trouble.
        workflow: what commands call the workflow: its declared id, else the run's reference; empty where no single run is
            concerned.
        ref: the run's reference; empty likewise.
        name: the workflow's name; else that of the engine or the queue.
        step: the step's name, where one step is concerned.
        key: that step's key.
        since: since when, in microseconds.
        certain: what is known, in words.
        uncertain: what is not known; empty where nothing is open.
        amount: what is at stake, where an attribute says so.
        remedies: how it is mended, the most careful way first.
        safe: `reconcile --apply` may mend it without asking anybody.
        place: the queue of the step, where one is concerned; findings of one cause are told together.
        error: the type of the error that the step raised last, without its module.
        started: when the run was started, in microseconds.
    """

    kind: Trouble
    workflow: str
    ref: str
    name: str
    step: str | None
    key: str | None
    since: int | None
    certain: str
    uncertain: str = ""
    amount: str | None = None
    remedies: tuple[Remedy, ...] = field(default=())
    safe: bool = False
    place: str = ""
    error: str = ""
    started: int | None = None

    @property
    def told(self) -> str:
        """What is certain, and how it is mended, on one line: for what keeps everything from moving."""
        return " ".join([self.certain, *(f"{r.when[:1].upper()}{r.when[1:]}: `{r.command}`." for r in self.remedies[:1])])

    @property
    def command(self) -> str:
        """The command that mends it."""
        return self.remedies[0].command if self.remedies else ""

    def shown(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "kind": self.kind.value,
            "workflow": self.workflow or None,
            "ref": self.ref or None,
            "name": self.name,
            "step": self.step,
            "key": self.key,
            "since": iso(self.since),
            "certain": self.certain,
            "uncertain": self.uncertain,
            "amount": self.amount,
            "command": self.command,
            "remedies": [{"when": r.when, "command": r.command} for r in self.remedies],
            "safe": self.safe,
        }


def at_stake(findings: list[Finding]) -> Decimal | None:
    """The sum of what is at stake, each run counted once; None where no finding names an amount."""
    by_run: dict[str, Decimal] = {}
    for finding in findings:
        if finding.amount is None:
            continue
        try:
            amount = Decimal(finding.amount)
        except InvalidOperation:
            continue
        if amount.is_finite():
            by_run[finding.ref] = amount
    return sum(by_run.values(), Decimal(0)) if by_run else None
