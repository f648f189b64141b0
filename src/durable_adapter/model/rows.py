"""The rows of the journal as they are read: steps, runs of workflows, workers; and what a message expects of its step.

Times are integers: microseconds since 1970 in UTC, read from the database's clock.
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

#: Microseconds in one second: the unit of every stored time.
SECOND = 1_000_000

#: How many of its own beats a process must have missed before its silence counts.
MISSED_BEATS = 4

#: What a step's options say of its order: members of other runs, or of its function, that it comes after as well, each as run
#: and key.
ALSO_AFTER = "also_after"

#: It may begin although what it comes after failed: that only has to be over.
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
    #: What sends it, where that is another engine than its run's.
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
    look_at: int | None = None
    over_at: int | None = None
    deadline_at: int | None = None
    heartbeat_at: int | None = None
    #: What the last heartbeat said, as JSON.
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
    #: The keys of the canvas members that it comes after; None where the plan does not say, as for calls of a function.
    after: list[str] | None = None
    #: How many of those are still open; None where nobody counts them, as in rows of revision 0001.
    pending: int | None = None
    #: Whether the run's counter counts it: the run ends with the last of those.
    completes_run: bool = False
    #: Why it is in doubt, held or cancelled (`Cause`).
    cause: str | None = None
    #: Since when it may have happened twice; None once a person has acknowledged it.
    twice_at: int | None = None
    #: When its idempotency key was first used; None where that is not known.
    first_begun_at: int | None = None
    #: Of its idempotency key.
    generation: int = 0
    #: How often its message was sent, and its transaction lost, since a person last decided about it.
    sends: int = 0
    losses: int = 0

    @property
    def marks(self) -> list[str]:
        """Why it is in front of a person, the most urgent reason first. The facts are independent of each other."""
        twice = [Attention.TWICE.value] if self.twice_at is not None else []
        return twice + ([self.attention] if self.attention is not None else [])

    @property
    def is_guarded(self) -> bool:
        """Whether nothing but the journal keeps it from running twice: its message is sent again only so often."""
        return self.kind.claimable and self.safety in (Safety.PROTECTED, Safety.PROBE)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a message says of its step. The row decides: a claim takes a row only where it says the same.

    Attributes:
        name: the task.
        kind: what sort of call it is.
        completes_run: nothing follows it.
        fingerprints: of its arguments, and of its arguments without the first, as `member_fingerprint` gives them; None where
            they are not compared.
    """

    name: str
    kind: Kind
    completes_run: bool = False
    fingerprints: tuple[str | None, str | None] = (None, None)

    @property
    def kinds(self) -> tuple[Kind, Kind]:
        """The kinds of row that it fits. A task that was marked after its plan was made has an unmarked row."""
        return self.kind, Kind.UNMARKED if self.kind.member else self.kind

    def misfit(self, row: StepRow) -> str | None:
        """Why a row is not this message's; None where it is."""
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
    look_at: int | None = None
    attention: str | None = None
    resends: int = 0
    open_steps: int = 0
    created_at: int = 0
    ended_at: int | None = None
    pruned_at: int | None = None

    def at_stake(self, attribute: str | None = None) -> str | None:
        """What is at stake in this run: the value of *attribute*, else of the one that is named as its amount."""
        name = attribute or self.amount
        value = self.attributes.get(name) if name else None
        return None if value is None or isinstance(value, bool) else str(value)


def function_of(steps: Sequence[StepRow]) -> StepRow | None:
    """Returns the workflow function of a run; None in a canvas."""
    return next((s for s in steps if s.kind.makes_calls), None)


def forward(steps: Sequence[StepRow]) -> list[StepRow]:
    """Returns the steps of a run without those of a rollback."""
    return [s for s in steps if not s.kind.undoes]


def in_place(run: WorkflowRow, step: StepRow) -> bool:
    """Whether a step has no message of its own, because the function of its run runs it in its own process."""
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
    #: Whose workflows it runs; None in rows of revision 0001.
    namespace: str | None = None
    #: Microseconds between two of its beats; None in rows of revision 0001.
    beat_every: int | None = None
    #: Microseconds of the host's own clock at its last beat; None in rows of revision 0001.
    clock_at: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it stopped, or was declared dead."""
        return self.dead_at is not None or self.stopped_at is not None

    def names(self, step: StepRow) -> bool:
        """Whether one of its last two beats names the step's attempt."""
        return attempt_name(step.ref, step.key, step.token) in {*self.running, *self.previously_running}

    def is_silent(self, now: int, stale: int) -> bool:
        """Whether it has not beaten for so long that a sweeper which watched it would declare it dead.

        Args:
            now: database time in microseconds.
            stale: microseconds of silence after which a worker may be declared dead.
        """
        return now - self.beat_at > max(stale, MISSED_BEATS * (self.beat_every or 0))

    def sweeps(self, engine: str) -> bool:
        """Whether it is a sweeper that can send messages of an engine."""
        return self.role == "sweeper" and engine in self.engine.split(",")

    def takes(self, engine: str, queue: str | None) -> bool:
        """Whether it takes messages of an engine from a queue; None stands for any queue."""
        return takes(self.role, self.engine, self.queues, engine, queue)


def takes(role: str, engines: str, queues: Collection[str], engine: str, queue: str | None) -> bool:
    """Whether a process takes messages of an engine from a queue, by what its row says.

    A worker that has begun nothing yet is known by the sweeper in its parent, which names the queues. A worker that names
    no queue may take any.
    """
    listens = engine in engines.split(",") and (role == "worker" or bool(queues))
    return listens and (queue is None or not queues or queue in queues)
