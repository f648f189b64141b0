"""The nouns: statuses, kinds, rows and the one table of legal transitions.

No status string is spelled anywhere else. Everything here is plain data; nothing touches a database or a queue.
Times are integers: microseconds since 1970 in UTC, read from the database's clock.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from .codec import Stored as Stored
from .errors import IllegalTransition, UnknownStamp

#: Microseconds in one second: the unit of every stored time.
SECOND = 1_000_000

#: Names the space in which every derived id of this library lives. Frozen: a change would make every key new.
NAMESPACE = uuid.UUID("6f1d6c2e-7b0b-5f43-9a5c-0d0e5b1d4c11")

#: The name of the stamp that carries a run through a broker. Frozen.
STAMP = "durable_run"

#: Version of the stamp's format. Frozen for the formats `1:<ref>` and `1:<ref>:<key>`.
STAMP_VERSION = "1"


class StepStatus(enum.StrEnum):
    """Where one step stands."""

    PLANNED = "planned"
    WAITING = "waiting"
    BEGUN = "begun"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDONE = "undone"


class WorkflowStatus(enum.StrEnum):
    """Where one run of a workflow stands."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    FAILING = "failing"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    CANCELLED = "cancelled"


class Kind(enum.StrEnum):
    """What sort of journaled call a step row is."""

    STEP = "step"
    FUNCTION = "function"
    DISPATCH = "dispatch"
    SLEEP = "sleep"
    COMPENSATION = "compensation"
    UNMARKED = "unmarked"


class Shape(enum.StrEnum):
    """How the plan of a workflow is known: before it starts, or by running it."""

    CANVAS = "canvas"
    FUNCTION = "function"


class Safety(enum.StrEnum):
    """What makes a step safe to repeat, as declared by the user."""

    PROTECTED = "protected"
    IDEMPOTENT = "idempotent"
    TRANSACTIONAL = "transactional"
    PROBE = "probe"

    def joined(self, other: Safety) -> Safety:
        """What makes a step safe to repeat of which one attempt was declared so and another so: no more than both."""
        if self is other:
            return self
        if {self, other} == {Safety.PROBE, Safety.IDEMPOTENT}:
            return Safety.PROBE
        return Safety.PROTECTED


#: Declared so, a step is repeated without asking anybody.
REPEATABLE: frozenset[Safety] = frozenset({Safety.IDEMPOTENT, Safety.TRANSACTIONAL})


class Effect(enum.StrEnum):
    """What is known about a failed step's effect."""

    UNKNOWN = "unknown"
    DID_NOT_HAPPEN = "did_not_happen"
    HAPPENED = "happened"


class Death(enum.StrEnum):
    """How a process is known not to run anything any more."""

    PARENT_SAW = "parent_saw"
    STOOD_STILL = "stood_still"
    STOPPED = "stopped"


class Attention(enum.StrEnum):
    """Why a row that is otherwise finished is still in front of a person."""

    TWICE = "twice"
    EFFECT_UNKNOWN = "effect_unknown"
    VALUE_MISSING = "value_missing"
    DRIFT = "drift"
    UNDO_FAILED = "undo_failed"
    UNMARKED = "unmarked"
    CALLBACK = "callback"
    ENDED_BY_ENGINE = "ended_by_engine"


class Alert(enum.StrEnum):
    """What people are told at once: the name with which the log line begins. Frozen, because alerts are made on it."""

    STEP_HELD = "step_held"
    VALUE_MISSING = "value_missing"
    WORKFLOW_DRIFTED = "workflow_drifted"
    EFFECT_UNKNOWN = "effect_unknown"
    UNDO_FAILED = "undo_failed"
    MAY_HAVE_HAPPENED_TWICE = "may_have_happened_twice"
    STOPPED_AT_UNMARKED = "stopped_at_unmarked"
    CALLBACK_FAILED = "callback_failed"
    ENDED_BY_ENGINE = "ended_by_engine"


class Cause(enum.StrEnum):
    """Why a step stands where it stands, where a rule asks for it."""

    #: The engine ended its task on purpose before it began: revoked, expired, rejected.
    ENDED_BY_ENGINE = "ended_by_engine"
    #: A worker threw its message away unread: it does not know the task, or may not read the message. Its body did not run.
    NOT_TAKEN = "not_taken"


class Event(enum.StrEnum):
    """What the append-only log tells; the happy path writes none."""

    ATTEMPT_FAILED = "attempt_failed"
    IN_DOUBT = "in_doubt"
    HELD = "held"
    VERDICT = "verdict"
    TAKEN_OVER = "taken_over"
    LATE_SUCCESS = "late_success"
    LATE_FAILURE = "late_failure"
    SUPPRESSED = "suppressed"
    REFUSED = "refused"
    DIED = "died"
    SENT_AGAIN = "sent_again"
    DRIFT = "drift"
    STEP_FAILED = "step_failed"
    ROLLBACK = "rollback"
    OPERATOR = "operator"
    VALUE_MISSING = "value_missing"
    ENDED_BY_ENGINE = "ended_by_engine"
    NOT_TAKEN = "not_taken"


class Start(enum.IntEnum):
    """What became of a start: false only where the id is another run's."""

    OTHER = 0
    NEW = 1
    #: The same start was committed before: by an earlier attempt of what makes it, or by a try whose answer was lost.
    THERE = 2


class Mode(enum.StrEnum):
    """How much the adapter does for a task."""

    OFF = "off"
    ENFORCE = "enforce"


_S = StepStatus
#: As what a row may be made: planned, due, claimed at once, adopted in doubt, or of a run that takes no more.
BORN: frozenset[StepStatus] = frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.CANCELLED})
#: From which statuses a step may move to each status. Nothing else is legal.
LEGAL: dict[StepStatus, frozenset[StepStatus]] = {
    # A verdict of "did not happen", or an idempotent take-over, makes a new attempt possible.
    # A person's retry plans again what was cancelled, and lets a timer run on.
    _S.PLANNED: frozenset({_S.CANCELLED}),
    _S.WAITING: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD, _S.FAILED, _S.CANCELLED}),
    _S.BEGUN: frozenset({_S.PLANNED, _S.WAITING}),
    # A failure whose effect is unknown, and which something wants to repeat after all, is in doubt again; so is a
    # wait for the next attempt that outlasted what made it safe. What waits may have run where the journal lost commits.
    _S.IN_DOUBT: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.FAILED}),
    # Functions are not claimed: they are held as they stand.
    _S.HELD: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT}),
    # A success that comes after its run was given up is recorded all the same, and undone with the rest.
    _S.SUCCEEDED: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD, _S.FAILED, _S.CANCELLED}),
    _S.FAILED: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD}),
    _S.CANCELLED: frozenset({_S.PLANNED, _S.WAITING}),
    _S.UNDONE: frozenset({_S.SUCCEEDED}),
}

#: A step in one of these can still change by itself or by a person.
OPEN_STEPS: frozenset[StepStatus] = frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD})
#: A step in one of these has an attempt whose outcome is not known.
UNSETTLED_STEPS: frozenset[StepStatus] = frozenset({_S.BEGUN, _S.IN_DOUBT, _S.HELD})
#: A step in one of these is over: at most its message is sent or taken back once, for its engine to know.
NEVER_DUE: frozenset[StepStatus] = frozenset({_S.FAILED, _S.CANCELLED, _S.UNDONE})
#: A claim may take a step in one of these.
CLAIMABLE: frozenset[StepStatus] = LEGAL[_S.BEGUN]

_W = WorkflowStatus
OPEN_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING, _W.ROLLING_BACK})
FORWARD_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.RUNNING, _W.SUSPENDED})

#: What a run's `waiting_for` begins with where its function sleeps; the key of the sleep follows. Frozen.
SLEEPS = "sleep:"


def check_transition(old: StepStatus | None, new: StepStatus) -> None:
    """Raises `IllegalTransition` unless a step may move from *old* to *new*, or be made as *new* where *old* is None.

    The journal's statements each name the statuses that they take. A test has the database itself write down every change
    that they make, and holds all of them against this table, and the table against them.
    """
    if old is None:
        if new not in BORN:
            raise IllegalTransition(f"a step cannot be made as {new}")
    elif old not in LEGAL[new]:
        allowed = ", ".join(sorted(LEGAL[new])) or "nothing"
        raise IllegalTransition(f"a step cannot go from {old} to {new}: {new} is reached from {allowed} only")


_REF = re.compile("[0-9a-f]{32}")


def new_ref() -> str:
    """A new run reference: 32 hex digits that begin with the time, so that new rows sit together in the index."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds:012x}7{os.urandom(10).hex()[:19]}"


def new_token() -> str:
    """A new fence for one claim: 16 random hex digits."""
    return os.urandom(8).hex()


def derive(*parts: object) -> str:
    """An id that is the same for the same parts, in every process and for ever: uuid5 over their joined text."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))


def derive_ref(*parts: object) -> str:
    """Like `derive`, as a run reference (32 hex digits)."""
    return derive(*parts).replace("-", "")


def member_key(position: int, name: str) -> str:
    """The key of a canvas member: its place in the plan, counted from 1, and its name. Frozen format.

    Starting the same workflow id again, after a restore for example, gives its members the same keys.

    Args:
        position: its position in the plan, counted from 0.
        name: the task's name.
    """
    return bounded_key(f"{position + 1}:{name}")


def task_key(task_id: str, name: str) -> str:
    """The key that a canvas member had in revision 0001: its message has a stamp without a key. Frozen format."""
    return bounded_key(f"{task_id}/0/{name}")


#: How the key of a canvas member begins. No name of a task may begin so, because the key of a dispatched call begins with it.
_PLACE = re.compile(r"\d+:")


def is_member_key(key: str) -> bool:
    """Whether a key is that of a canvas member, by its form; those of revision 0001 included."""
    return _PLACE.match(key) is not None or "/0/" in key


def call_key(name: str, occurrence: int, given: str | None = None) -> str:
    """The key of a call in a workflow function: its name and occurrence, or the key that the user gave. Frozen format."""
    return f"{name}#{occurrence}" if given is None else f"{name}@{given}"


#: What the key of every compensation begins with. Frozen.
UNDO = "undo:"


def undo_key(key: str) -> str:
    """The key of the compensation that undoes the step *key*. Frozen format."""
    return f"{UNDO}{key}"


def idempotency_key(namespace: str, workflow: str, run: int, ref: str, key: str, generation: int = 0) -> str:
    """The key that a provider sees for a step: stable across retries, other for each run (P4). Frozen formats.

    A declared workflow is named by its id and run number. One that has no id of its own is named by its reference.

    Args:
        namespace: the run's namespace.
        workflow: its declared id, or an empty text.
        run: its number.
        ref: its reference.
        key: the step's key.
        generation: how often the step is known not to have happened. A provider that remembers a refusal under the old key
            would repeat it, so each of these begins a new key.
    """
    return derive("idempotency", namespace, workflow or ref, run, key, *([generation + 1] if generation else []))


def make_stamp(ref: str, key: str | None = None) -> str:
    """The text that names the run *ref* and the step *key* in a message. Those of revision 0001 may have no key."""
    return f"{STAMP_VERSION}:{ref}" if key is None else f"{STAMP_VERSION}:{ref}:{key}"


def read_stamp(stamp: object) -> tuple[str, str | None] | None:
    """The run reference and the step key in a stamp; None where there is none.

    Raises:
        UnknownStamp: there is one of a form that this code does not know. It is not taken for none: the message belongs to a
            run, which must not begin as another.
    """
    if isinstance(stamp, (list, tuple)):
        stamp = stamp[0] if stamp else None
    if stamp is None:
        return None
    version, _, rest = stamp.partition(":") if isinstance(stamp, str) else ("", "", "")
    ref, _, key = rest.partition(":")
    if version != STAMP_VERSION or not _REF.fullmatch(ref):
        raise UnknownStamp(f"a message has the stamp {stamp!r:.80}, of a form that this version of durable-adapter does not know")
    return ref, key or None


#: Control characters: C0, DEL, C1.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def bounded_key(key: str) -> str:
    """*key*, or where it is longer than the journal's column its beginning and a hash of the whole."""
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{key[: KEY_LENGTH - 33]}~{digest}"


def can_be_kept(text: str) -> bool:
    """Whether every database can keep a text as it is: none keeps halves of surrogate pairs, and PostgreSQL no NUL."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def is_storable(text: str) -> bool:
    """Whether a text may be an id, a key or a name: it can be kept, and holds no control character.

    U+001F among them joins the parts from which keys are derived (`derive`): inside of a part it would forge another's.
    """
    return can_be_kept(text) and _CONTROLS.search(text) is None


def stored_text(text: str) -> str:
    """*text* without what a database cannot keep."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


#: Characters that a step's key may have in the journal.
KEY_LENGTH = 400
#: And the name of a step, a task, a workflow or a queue.
NAME_LENGTH = 255
#: And an engine's id of a task.
TASK_ID_LENGTH = 155
#: And the id of a workflow.
ID_LENGTH = 200
#: And what its users call a namespace, a version of their code, and the attribute that is an amount.
LABEL_LENGTH = 64

#: Whose workflows are, where nobody says so.
DEFAULT_NAMESPACE = "default"


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
        return self.kind, Kind.UNMARKED if self.kind is Kind.STEP else self.kind

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


def attempt_name(ref: str, key: str, token: str | None) -> str:
    """How a beat names an attempt that it is running."""
    return f"{ref} {token or ''} {key}"
