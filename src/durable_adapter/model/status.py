"""The statuses of steps and runs, and the one table of legal transitions. No status is spelled anywhere else."""

from __future__ import annotations

import enum

from ..errors import IllegalTransition


class StepStatus(enum.StrEnum):
    """The status of a step."""

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
    """The status of a run of a workflow."""

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

#: The first status of a step: planned, due, claimed at once, adopted in doubt, or cancelled in a run that accepts no more.
BORN: frozenset[StepStatus] = frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.CANCELLED})

#: For each status, the statuses from which a step may move to it. No other change is legal.
LEGAL: dict[StepStatus, frozenset[StepStatus]] = {
    # A verdict of "did not happen", or an idempotent take-over, makes a new attempt possible.
    # A person's retry plans cancelled steps again, and continues a timer.
    _S.PLANNED: frozenset({_S.CANCELLED}),
    _S.WAITING: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD, _S.FAILED, _S.CANCELLED}),
    _S.BEGUN: frozenset({_S.PLANNED, _S.WAITING}),
    # A failure whose effect is unknown is in doubt again when it is to be repeated; so is a wait for the next attempt
    # that is not safe any more. A waiting step may have run if the journal lost commits.
    _S.IN_DOUBT: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.FAILED}),
    # Functions are not claimed: they are held in any open status.
    # A held step may turn out to have happened, with a value that cannot be recorded.
    _S.HELD: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD}),
    # A success after the end of its run is recorded, and undone with the rest.
    _S.SUCCEEDED: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD, _S.FAILED, _S.CANCELLED}),
    _S.FAILED: frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD}),
    _S.CANCELLED: frozenset({_S.PLANNED, _S.WAITING}),
    _S.UNDONE: frozenset({_S.SUCCEEDED}),
}

#: The statuses of a step that has not ended.
OPEN_STEPS: frozenset[StepStatus] = frozenset({_S.PLANNED, _S.WAITING, _S.BEGUN, _S.IN_DOUBT, _S.HELD})

#: The statuses of a step that has an attempt with an unknown outcome.
UNSETTLED_STEPS: frozenset[StepStatus] = frozenset({_S.BEGUN, _S.IN_DOUBT, _S.HELD})

#: The statuses of a step that is never due. At most its message is sent or revoked once, for its engine.
NEVER_DUE: frozenset[StepStatus] = frozenset({_S.FAILED, _S.CANCELLED, _S.UNDONE})

#: The statuses of a step that can be claimed.
CLAIMABLE: frozenset[StepStatus] = LEGAL[_S.BEGUN]
_W = WorkflowStatus
OPEN_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING, _W.ROLLING_BACK})
FORWARD_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.RUNNING, _W.SUSPENDED})
#: The statuses of an ended run: it waits for nothing, and no sweep checks it.
ENDED_WORKFLOWS: frozenset[WorkflowStatus] = frozenset(_W) - OPEN_WORKFLOWS
#: The statuses of a run that is being undone, or has been.
UNDOING_WORKFLOWS: frozenset[WorkflowStatus] = frozenset({_W.ROLLING_BACK, _W.COMPENSATED, _W.COMPENSATION_FAILED})
#: For each status, the statuses from which a run may move to it. No other change is legal.
LEGAL_RUNS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    # A person's retry reopens a run that ended without success; a joining member, one that had succeeded.
    _W.RUNNING: frozenset({_W.FAILING, _W.SUCCEEDED, _W.FAILED, _W.CANCELLED}),
    _W.SUSPENDED: frozenset({_W.RUNNING, _W.SUSPENDED}),
    _W.FAILING: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
    # Also by a person's order, again after a failed compensation, and for a success after the end.
    _W.ROLLING_BACK: frozenset(_W),
    _W.SUCCEEDED: frozenset({_W.RUNNING, _W.SUSPENDED}),
    _W.FAILED: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
    _W.COMPENSATED: frozenset({_W.ROLLING_BACK}),
    _W.COMPENSATION_FAILED: frozenset({_W.ROLLING_BACK}),
    _W.CANCELLED: frozenset({_W.RUNNING, _W.SUSPENDED, _W.FAILING}),
}


def check_transition(old: StepStatus | None, new: StepStatus) -> None:
    """Raises `IllegalTransition` unless a step may move from *old* to *new*, or begin as *new* if *old* is None.

    The journal's statements name the statuses that they take. A test records every change in the database, and compares
    the changes with this table.
    """
    if old is None:
        if new not in BORN:
            raise IllegalTransition(f"a step cannot be made as {new}")
    elif old not in LEGAL[new]:
        allowed = ", ".join(sorted(LEGAL[new])) or "nothing"
        raise IllegalTransition(f"a step cannot go from {old} to {new}: {new} is reached from {allowed} only")


class Start(enum.IntEnum):
    """The result of a start; false only if another run has the id."""

    OTHER = 0
    NEW = 1
    #: The same start was committed before: by an earlier attempt of its caller, or by a try whose answer was lost.
    THERE = 2
