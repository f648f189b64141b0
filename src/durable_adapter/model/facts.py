"""The values of the columns that are neither a status nor a kind: safety, effect, cause, attention, events."""

from __future__ import annotations

import enum


class Mode(enum.StrEnum):
    """The mode of a task: durable, or unchanged."""

    OFF = "off"
    ENFORCE = "enforce"


class Safety(enum.StrEnum):
    """The reason why a step is safe to repeat, as the user declared it."""

    PROTECTED = "protected"
    IDEMPOTENT = "idempotent"
    TRANSACTIONAL = "transactional"
    PROBE = "probe"

    def joined(self, other: Safety) -> Safety:
        """Returns the safety of a step with attempts of both safeties: the guarantees that both have."""
        if self is other:
            return self
        if {self, other} == {Safety.PROBE, Safety.IDEMPOTENT}:
            return Safety.PROBE
        return Safety.PROTECTED


#: A step with one of these is repeated without a probe or a person.
REPEATABLE: frozenset[Safety] = frozenset({Safety.IDEMPOTENT, Safety.TRANSACTIONAL})


class Effect(enum.StrEnum):
    """The knowledge about a failed step's effect."""

    UNKNOWN = "unknown"
    DID_NOT_HAPPEN = "did_not_happen"
    HAPPENED = "happened"


class Death(enum.StrEnum):
    """The evidence that a process runs nothing any more."""

    PARENT_SAW = "parent_saw"
    STOOD_STILL = "stood_still"
    STOPPED = "stopped"


class Cause(enum.StrEnum):
    """The reason for a step's status. The names are stable, because findings and alerts depend on them.

    A step that was in doubt keeps its cause until another is known.
    """

    #: The process that ran the attempt was seen to end, or its worker was stopped.
    WORKER_DIED = "worker_died"
    #: Its worker's heartbeat stopped, or its worker is not in the journal any more.
    WORKER_SILENT = "worker_silent"
    #: Its worker is alive, but has not named the attempt in two heartbeats.
    WORKER_FORGOT = "worker_forgot"
    #: Its time-out has passed, or its body has sent no heartbeat for too long.
    TIMED_OUT = "timed_out"
    #: The attempt ended in an error that does not say whether the effect happened.
    RAISED = "raised"
    #: It waited for another attempt, which is not safe any more: its declaration changed, or the provider may have lost its key.
    UNSAFE_TO_REPEAT = "unsafe_to_repeat"
    #: Its message was lost, and the journal knows no begin; a worker without the plugin may have run it.
    MESSAGE_LOST = "message_lost"
    #: The result store has its result although it never began here.
    RAN_ELSEWHERE = "ran_elsewhere"
    #: The result store has a result under its task id that is a little older than its run.
    OLD_RESULT = "old_result"
    #: The journal was restored, or lost its last commits in a fail-over.
    LOST_COMMITS = "lost_commits"
    #: The database lost its transaction too often, or its body ended it.
    TRANSACTION_LOST = "transaction_lost"
    #: The code does not fit what is recorded.
    DRIFT = "drift"
    #: It happened, but its return value cannot be recorded.
    VALUE_MISSING = "value_missing"
    #: The engine ended its task on purpose before it began: revoked, expired, rejected.
    ENDED_BY_ENGINE = "ended_by_engine"
    #: A worker discarded its message unread: it does not know the task, or may not read the message. Its body did not run.
    NOT_TAKEN = "not_taken"


class Attention(enum.StrEnum):
    """The reason why a row needs a person's attention."""

    TWICE = "twice"
    EFFECT_UNKNOWN = "effect_unknown"
    VALUE_MISSING = "value_missing"
    DRIFT = "drift"
    UNDO_FAILED = "undo_failed"
    UNMARKED = "unmarked"
    CALLBACK = "callback"
    ENDED_BY_ENGINE = "ended_by_engine"


class Alert(enum.StrEnum):
    """The event name of a log line that needs a person at once. Frozen, because users' alerts depend on it."""

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
    """The kind of an event in the append-only log. The happy path writes none."""

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
