"""The values of the columns that are neither a status nor a kind: safety, effect, cause, attention, events."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    """How much the adapter does for a task."""

    OFF = "off"
    ENFORCE = "enforce"


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


class Cause(enum.StrEnum):
    """Why a step stands where it stands. Stable: findings are grouped and alerts made by it; a sentence for people stands beside.

    Of a step that was in doubt it says why for as long as nothing else is known.
    """

    #: The process that ran the attempt was seen to end, or its worker was stopped.
    WORKER_DIED = "worker_died"
    #: Its worker's heartbeat stood still, or its worker is not in the journal any more.
    WORKER_SILENT = "worker_silent"
    #: Its worker lives, and has not named the attempt in two heartbeats.
    WORKER_FORGOT = "worker_forgot"
    #: Its time-out has passed, or its body has said nothing for too long.
    TIMED_OUT = "timed_out"
    #: The attempt ended in an error that does not say whether the effect happened.
    RAISED = "raised"
    #: It waited for another attempt, which is not safe any more: declared otherwise now, or the provider may have forgotten.
    UNSAFE_TO_REPEAT = "unsafe_to_repeat"
    #: Its message was lost, not begun as far as the journal knows; a worker without the plugin may have run it.
    MESSAGE_LOST = "message_lost"
    #: The result store has a result of it although it never began here.
    RAN_ELSEWHERE = "ran_elsewhere"
    #: The result store has a result under its task id that is a little older than its run.
    OLD_RESULT = "old_result"
    #: The journal was restored, or lost its last commits in a fail-over.
    LOST_COMMITS = "lost_commits"
    #: The database lost its transaction too often, or its body ended it.
    TRANSACTION_LOST = "transaction_lost"
    #: The code does not fit what is recorded.
    DRIFT = "drift"
    #: It happened, and what it returned cannot be recorded.
    VALUE_MISSING = "value_missing"
    #: The engine ended its task on purpose before it began: revoked, expired, rejected.
    ENDED_BY_ENGINE = "ended_by_engine"
    #: A worker threw its message away unread: it does not know the task, or may not read the message. Its body did not run.
    NOT_TAKEN = "not_taken"


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
    ENFORCED = "enforced"
    RAN_PLAIN = "ran_plain"
