"""The statuses of steps and runs, and the one table of legal transitions. No status is spelled anywhere else."""

from __future__ import annotations

import enum

from ..errors import IllegalTransition


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
    # Of what is held it may become known that it happened, with a value that cannot be recorded.
    _S.HELD: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD}),
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
#: A run in one of these has ended: it waits for nothing, and no sweep looks at it.
ENDED_WORKFLOWS: frozenset[WorkflowStatus] = frozenset(_W) - OPEN_WORKFLOWS
#: A run in one of these is being undone, or has been.
UNDOING_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.ROLLING_BACK, _W.COMPENSATED, _W.COMPENSATION_FAILED})
#: From which statuses a run may move to each status. Nothing else is legal.
LEGAL_RUNS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    # A person's retry takes up again what ended without success; a member that joins, what had succeeded without it.
    _W.RUNNING: frozenset({_W.FAILING, _W.SUCCEEDED, _W.FAILED, _W.CANCELLED}),
    _W.SUSPENDED: frozenset({_W.RUNNING, _W.SUSPENDED}),
    _W.FAILING: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
    # Also by a person's order, again for what was not undone, and where a success came after the end.
    _W.ROLLING_BACK: frozenset(_W),
    _W.SUCCEEDED: frozenset({_W.RUNNING, _W.SUSPENDED}),
    _W.FAILED: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
    _W.COMPENSATED: frozenset({_W.ROLLING_BACK}),
    _W.COMPENSATION_FAILED: frozenset({_W.ROLLING_BACK}),
    _W.CANCELLED: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
}


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


class Start(enum.IntEnum):
    """What became of a start: false only where the id is another run's."""

    OTHER = 0
    NEW = 1
    #: The same start was committed before: by an earlier attempt of what makes it, or by a try whose answer was lost.
    THERE = 2
