"""The rows of the journal: steps, runs of workflows, workers; and the fields that a message expects of its step.

Times are integers: microseconds since 1970 in UTC, from the database's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..codec import Stored
from .facts import Attention, Effect, Mode, Safety
from .ids import attempt_name
from .kinds import Kind, Shape
from .status import CLAIMABLE, StepStatus, WorkflowStatus

#: Microseconds in one second. Every stored time is in microseconds.
SECOND = 1_000_000

#: Beats that a process must have missed before it counts as silent.
MISSED_BEATS = 4

#: Option of a step: members of other runs, or of its function, that it also comes after, each as run and key.
ALSO_AFTER = "also_after"

#: Option of a step: it may begin when the steps that it comes after have ended, even if they failed.
ALLOW_FAILURE = "allow_failure"


@dataclass(slots=True)
class StepRow:
    """One step as read from the journal."""

    ref: str
    key: str
    position: int
    name: str
    kind: Kind
    status: StepStatus
    #: The engine that sends it, if it is not its run's.
    engine: str | None = None
    attempt: int = 0
    takeovers: int = 0
    token: str | None = None
    worker: str | None = None
    queue: str | None = None
    task_id: str | None = None
    arguments: Stored | None = None
    fingerprint: str | None = None
    outcome: Stored | None = None
    error: bytes | None = None
    effect: Effect | None = None
    safety: Safety = Safety.PROTECTED
    options: dict[str, Any] = field(default_factory=dict)
    compensation: str | None = None
    pivot: bool = False
    target: str | None = None
    message: bytes | None = None
    reference: str | None = None
    next_check_at: int | None = None
    over_at: int | None = None
    deadline_at: int | None = None
    heartbeat_at: int | None = None
    #: The details of the last heartbeat, as JSON.
    details: str | None = None
    doubt: str | None = None
    doubt_at: int | None = None
    evidence: str | None = None
    verdict: str | None = None
    attention: str | None = None
    created_at: int = 0
    sent_at: int | None = None
    begun_at: int | None = None
    ended_at: int | None = None
    #: The keys of the canvas members that it comes after; None if the plan has none, as for a function's calls.
    after: list[str] | None = None
    #: The number of those that are still open; None if they are not counted, as in rows of revision 0001.
    pending: int | None = None
    #: True if the run's counter counts it. The run ends with the last such step.
    completes_run: bool = False
    #: The reason why it is in doubt, held or cancelled (`Cause`).
    cause: str | None = None
    #: When it was found that it may have happened twice; None once a person has acknowledged that.
    twice_at: int | None = None
    #: When its idempotency key was first used; None if unknown.
    first_begun_at: int | None = None
    #: The generation of its idempotency key.
    generation: int = 0
    #: The numbers of sends of its message, and of losses of its transaction, since a person's last decision about it.
    sends: int = 0
    losses: int = 0

    @property
    def marks(self) -> list[str]:
        """The reasons why it needs a person's attention, the most urgent first. They are independent of each other."""
        twice = [Attention.TWICE.value] if self.twice_at is not None else []
        return twice + ([self.attention] if self.attention is not None else [])

    @property
    def is_guarded(self) -> bool:
        """True if only the journal prevents a second run. Its message is resent a limited number of times."""
        return self.kind.claimable and self.safety in (Safety.PROTECTED, Safety.PROBE)


@dataclass(frozen=True, slots=True)
class Expected:
    """The fields of a message's step. A claim takes a row only if they match it.

    Attributes:
        name: the task.
        kind: the kind of call.
        completes_run: nothing follows it.
        fingerprints: of its arguments, and of its arguments without the first (see `member_fingerprint`); None if they are
            not compared.
    """

    name: str
    kind: Kind
    completes_run: bool = False
    fingerprints: tuple[str | None, str | None] = (None, None)

    @property
    def kinds(self) -> tuple[Kind, Kind]:
        """The kinds of row that match. A task that was marked after its plan was made has an unmarked row."""
        return self.kind, Kind.UNMARKED if self.kind.member else self.kind

    def misfit(self, row: StepRow) -> str | None:
        """Returns why a row does not match this message; None if it does."""
        if row.name != self.name or row.kind not in self.kinds:
            return f"the message is for a {self.kind} {self.name}, and the journal has a {row.kind} {row.name} there"
        if row.status not in CLAIMABLE:
            return None
        if self.completes_run and not row.completes_run:
            return "the message lacks what follows the step in its plan"
        if None not in (row.fingerprint, self.fingerprints[0]) and row.fingerprint not in self.fingerprints:
            return "the message has other arguments than the plan"
        return None


@dataclass(slots=True)
class WorkflowRow:
    """One run of a workflow as read from the journal."""

    ref: str
    namespace: str
    id: str
    run: int
    name: str
    shape: Shape
    engine: str
    mode: Mode
    status: WorkflowStatus
    declared: bool = False
    fingerprint: str | None = None
    arguments: Stored | None = None
    plan: bytes | None = None
    outcome: Stored | None = None
    error: bytes | None = None
    parent: str | None = None
    code_version: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    amount: str | None = None
    waiting_for: str | None = None
    wake_at: int | None = None
    next_check_at: int | None = None
    attention: str | None = None
    resends: int = 0
    open_steps: int = 0
    created_at: int = 0
    ended_at: int | None = None
    pruned_at: int | None = None

    def at_stake(self, attribute: str | None = None) -> str | None:
        """Returns the amount at stake in this run: the value of *attribute*, default of the run's amount attribute."""
        name = attribute or self.amount
        value = self.attributes.get(name) if name else None
        return None if value is None or isinstance(value, bool) else str(value)


def function_of(steps: Sequence[StepRow]) -> StepRow | None:
    """Returns the workflow function of a run; None for a canvas."""
    return next((s for s in steps if s.kind.makes_calls), None)


def forward(steps: Sequence[StepRow]) -> list[StepRow]:
    """Returns the steps of a run without those of a rollback."""
    return [s for s in steps if not s.kind.undoes]


def in_place(run: WorkflowRow, step: StepRow) -> bool:
    """Returns whether a step has no message, because the function of its run runs it in its own process."""
    return run.shape is Shape.FUNCTION and step.kind.in_place


@dataclass(slots=True)
class WorkerRow:
    """One process that runs attempts, or sweeps."""

    id: str
    role: str
    parent: str | None
    host: str
    pid: int
    engine: str
    queues: list[str]
    code_version: str | None
    beats: int
    beat_at: int
    previous_beat_at: int
    running: list[str]
    previously_running: list[str]
    started_at: int
    stopped_at: int | None = None
    dead_at: int | None = None
    death: str | None = None
    #: The namespace of the workflows that it runs; None in rows of revision 0001.
    namespace: str | None = None
    #: Microseconds between two of its beats; None in rows of revision 0001.
    beat_every: int | None = None
    #: Microseconds of the host's own clock at its last beat; None in rows of revision 0001.
    clock_at: int | None = None

    @property
    def has_ended(self) -> bool:
        """True if it stopped or was declared dead."""
        return self.dead_at is not None or self.stopped_at is not None

    def names(self, step: StepRow) -> bool:
        """Returns whether one of its last two beats names the step's attempt."""
        return attempt_name(step.ref, step.key, step.token) in {*self.running, *self.previously_running}

    def is_silent(self, now: int, stale: int) -> bool:
        """Returns whether its silence is long enough for a sweeper to declare it dead.

        Args:
            now: database time in microseconds.
            stale: microseconds of silence after which a worker may be declared dead.
        """
        return now - self.beat_at > max(stale, MISSED_BEATS * (self.beat_every or 0))

    def sweeps(self, engine: str) -> bool:
        """Returns whether it is a sweeper that can send messages of an engine."""
        return self.role == "sweeper" and engine in self.engine.split(",")

    def takes(self, engine: str, queue: str | None) -> bool:
        """Returns whether it takes messages of an engine from a queue; None for any queue."""
        return takes(self.role, self.engine, self.queues, engine, queue)


def takes(role: str, engines: str, queues: Collection[str], engine: str, queue: str | None) -> bool:
    """Returns whether a process takes messages of an engine from a queue, according to its row.

    A worker that has begun nothing yet has no row, but the sweeper in its parent names its queues. A worker that names no
    queue may take any.
    """
    listens = engine in engines.split(",") and (role == "worker" or bool(queues))
    return listens and (queue is None or not queues or queue in queues)
