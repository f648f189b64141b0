"""What an order would make of a run: a pure function of the run's rows and the order.

Previews are told from it. When the order is carried out, it is asked again under the run's lock: what would come of it now
must be what was announced. Where the journal decides by functions of rows, those are called here too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..journal.engine_ends import is_ended_by_engine
from ..journal.undo import (
    attention_at_end,
    given_up,
    happened_after_all,
    next_of_rollback,
    outcome_of_failure,
    passed_pivot,
    planned_undo,
)
from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    OPEN_WORKFLOWS,
    Attention,
    Cause,
    Effect,
    Kind,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkflowRow,
    WorkflowStatus,
)


class Verb(enum.StrEnum):
    """What a person may order."""

    HAPPENED = "happened"
    DID_NOT_HAPPEN = "did not happen"
    FAILED = "failed"
    UNMARKED_RAN = "unmarked ran"
    UNMARKED_FAILED = "unmarked failed"
    SEND_UNMARKED = "send unmarked"
    REOPEN = "reopen"
    RELEASE = "release"
    LOOK = "look"
    ROLLBACK = "rollback"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Order:
    """One order about one run.

    Attributes:
        verb: what is ordered.
        keys: the steps that it is about.
    """

    verb: Verb
    keys: tuple[str, ...] = ()


@dataclass
class Outlook:
    """A run as an order would leave it.

    Attributes:
        run: the run.
        steps: its steps, with a compensation that is planned at once.
        undo: the compensation that is sent at once, if one is.
        wakes: the function, which waited for the step, goes on.
    """

    run: WorkflowRow
    steps: list[StepRow]
    undo: StepRow | None = None
    wakes: bool = False

    def step(self, key: str) -> StepRow:
        """One of its steps."""
        return next(s for s in self.steps if s.key == key)

    @property
    def goes_forward(self) -> bool:
        """Whether the run goes forward."""
        return self.run.status in FORWARD_WORKFLOWS


#: Stands in an outlook for a value that is not at hand.
_SOME_VALUE = Stored("", b"")
_RUNNING_ON = FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}


def foresee(run: WorkflowRow, steps: Iterable[StepRow], order: Order) -> Outlook:
    """Returns what an order makes of a run. Changes nothing.

    Args:
        run: the run.
        steps: all of its steps.
        order: the order.
    """
    outlook = Outlook(replace(run), [replace(s) for s in steps])
    {
        Verb.HAPPENED: _happened,
        Verb.DID_NOT_HAPPEN: _did_not_happen,
        Verb.FAILED: _failed,
        Verb.UNMARKED_RAN: _unmarked_ran,
        Verb.UNMARKED_FAILED: _unmarked_failed,
        Verb.REOPEN: _reopen,
        Verb.RELEASE: _release,
        Verb.ROLLBACK: _rollback,
        Verb.CANCEL: _cancel,
        Verb.LOOK: lambda *_: None,
        Verb.SEND_UNMARKED: lambda *_: None,
    }[order.verb](outlook, order.keys)
    return outlook


def in_place(run: WorkflowRow, step: StepRow) -> bool:
    """Whether a failure of a step is an error that its workflow function may catch."""
    return run.shape is Shape.FUNCTION and step.kind in (Kind.STEP, Kind.DISPATCH)


def _happened(outlook: Outlook, keys: Sequence[str]) -> None:
    row = outlook.step(keys[0])
    had_failed = row.status is StepStatus.FAILED
    row.effect, row.attention, row.outcome = Effect.HAPPENED, None, row.outcome or _SOME_VALUE
    if had_failed and _was_told(outlook, row):
        return
    row.status, row.ended_at = StepStatus.SUCCEEDED, _last(outlook)
    if row.target is not None:
        if outlook.run.status in (WorkflowStatus.COMPENSATED, WorkflowStatus.COMPENSATION_FAILED):
            outlook.run.status, outlook.run.attention = WorkflowStatus.ROLLING_BACK, None
        _settle(outlook, row.target, undone=True)
        return
    if not had_failed and row.completes_run:
        _count_end(outlook, row)
    _decide_again(outlook)


def _last(outlook: Outlook) -> int:
    """A time after that of every recorded end."""
    return max((s.ended_at or 0 for s in outlook.steps), default=0) + 1


def _was_told(outlook: Outlook, row: StepRow) -> bool:
    """Whether a failure is part of the story of a workflow function that has not finished."""
    told = any(s.kind is Kind.FUNCTION and s.status in OPEN_STEPS for s in outlook.steps)
    return row.kind in (Kind.STEP, Kind.DISPATCH) and told


def _did_not_happen(outlook: Outlook, keys: Sequence[str]) -> None:
    row = outlook.step(keys[0])
    row.effect, row.attention = Effect.DID_NOT_HAPPEN, None
    if row.status is not StepStatus.FAILED:
        row.status = StepStatus.WAITING
        if row.kind is not Kind.COMPENSATION and not outlook.goes_forward:
            _give_up(outlook)
    _decide_again(outlook)


def _failed(outlook: Outlook, keys: Sequence[str]) -> None:
    row = outlook.step(keys[0])
    row.status, row.effect, row.attention = StepStatus.FAILED, Effect.DID_NOT_HAPPEN, None
    if row.target is not None:
        _settle(outlook, row.target, undone=False)
    elif not in_place(outlook.run, row):
        _decide(outlook)
    elif row.kind is Kind.DISPATCH:
        _count_end(outlook, row)


def _unmarked_ran(outlook: Outlook, keys: Sequence[str]) -> None:
    row = outlook.step(keys[0])
    row.status, row.ended_at = StepStatus.SUCCEEDED, _last(outlook)
    if row.completes_run:
        _count_down(outlook)
    outlook.run.attention = None


def _unmarked_failed(outlook: Outlook, keys: Sequence[str]) -> None:
    outlook.step(keys[0]).status = StepStatus.FAILED
    _decide(outlook)
    outlook.run.attention = None


def _reopen(outlook: Outlook, keys: Sequence[str]) -> None:
    run = outlook.run
    named = [outlook.step(key) for key in keys]
    undoing = any(s.kind is Kind.COMPENSATION for s in named)
    for row in named:
        ended = is_ended_by_engine(row) and row.status is StepStatus.CANCELLED and row.kind is not Kind.UNMARKED
        if ended or (row.status is StepStatus.FAILED and not happened_after_all(row)):
            row.status, row.attention = StepStatus.WAITING, None
        elif happened_after_all(row) and not outlook.goes_forward:
            row.status = StepStatus.SUCCEEDED
    for row in outlook.steps:
        row.cause = None if row.cause == Cause.ENDED_BY_ENGINE else row.cause
    if undoing:
        run.status = run.status if outlook.goes_forward else WorkflowStatus.ROLLING_BACK
        run.attention = None
        return
    for row in outlook.steps:
        if row.status is StepStatus.CANCELLED:
            row.status = StepStatus.WAITING if row.kind is Kind.SLEEP else StepStatus.PLANNED
    run.status = run.status if outlook.goes_forward else WorkflowStatus.RUNNING
    run.attention = None
    members = [s for s in outlook.steps if s.kind is not Kind.COMPENSATION]
    counting = [s for s in members if s.completes_run]
    done = bool(counting) and all(s.status is StepStatus.SUCCEEDED for s in counting)
    if done and not any(s.status is StepStatus.WAITING for s in members):
        run.status = WorkflowStatus.SUCCEEDED
        _give_up(outlook)
    again = any(s.status is StepStatus.WAITING and s.key in keys for s in named)
    if not again and any(s.kind is Kind.SLEEP and s.status is StepStatus.WAITING for s in outlook.steps):
        run.status = WorkflowStatus.SUSPENDED


def _release(outlook: Outlook, keys: Sequence[str]) -> None:
    row = outlook.step(keys[0])
    row.status, row.attention = StepStatus.WAITING, None
    if not outlook.goes_forward:
        _give_up(outlook)


def _rollback(outlook: Outlook, _keys: Sequence[str]) -> None:
    if passed_pivot(outlook.steps) is not None:
        return
    _give_up(outlook)
    outlook.run.status, outlook.run.attention = WorkflowStatus.ROLLING_BACK, None
    _advance(outlook)


def _cancel(outlook: Outlook, _keys: Sequence[str]) -> None:
    _give_up(outlook)
    if outlook.run.status in _RUNNING_ON:
        outlook.run.status = WorkflowStatus.CANCELLED


def _give_up(outlook: Outlook) -> None:
    """Cancels what has not begun."""
    for row in outlook.steps:
        status = given_up(row)
        if status is StepStatus.FAILED and row.status is not StepStatus.FAILED:
            row.effect, row.attention = Effect.UNKNOWN, Attention.EFFECT_UNKNOWN
        row.status = status


def _decide_again(outlook: Outlook) -> None:
    """A verdict may be what a rollback, or the decision about one, was waiting for."""
    if outlook.run.status in (WorkflowStatus.FAILING, WorkflowStatus.ROLLING_BACK):
        _decide(outlook)


def _decide(outlook: Outlook) -> None:
    """The forward part is over: the run fails, begins its rollback, or waits for its pivot."""
    run = outlook.run
    if run.status is not WorkflowStatus.ROLLING_BACK:
        if run.status not in _RUNNING_ON:
            return
        _give_up(outlook)
        run.status = outcome_of_failure(outlook.steps)
    if run.status is WorkflowStatus.ROLLING_BACK:
        _advance(outlook)


def _settle(outlook: Outlook, target: str, *, undone: bool) -> None:
    """A compensation ended."""
    for row in outlook.steps:
        if row.key == target and row.status is StepStatus.SUCCEEDED:
            row.status = StepStatus.UNDONE if undone else row.status
            row.attention = None if undone else Attention.UNDO_FAILED
    if outlook.run.status is WorkflowStatus.ROLLING_BACK:
        _advance(outlook)


def _advance(outlook: Outlook) -> None:
    """The next compensation, or the end of the rollback."""
    for row in outlook.steps:
        if happened_after_all(row):
            row.status = StepStatus.SUCCEEDED
    following = next_of_rollback(outlook.steps)
    if following.target is not None:
        outlook.undo = following.undo
        if outlook.undo is None:
            outlook.undo = planned_undo(following.target)
            outlook.steps.append(outlook.undo)
    elif outlook.run.status in OPEN_WORKFLOWS:
        outlook.run.status = following.status
        outlook.run.attention = attention_at_end(following.status, outlook.steps)


def _count_end(outlook: Outlook, row: StepRow) -> None:
    """A step that counts ended: its function may go on, or the run may be complete."""
    run = outlook.run
    outlook.wakes = run.status is WorkflowStatus.SUSPENDED and _waits_for(run, row)
    _count_down(outlook)


def _waits_for(run: WorkflowRow, row: StepRow) -> bool:
    return run.waiting_for == f"step:{row.key}" or (run.waiting_for == "steps" and run.open_steps <= 2)


def _count_down(outlook: Outlook) -> None:
    if outlook.run.open_steps == 1 and outlook.run.status in FORWARD_WORKFLOWS:
        outlook.run.status = WorkflowStatus.SUCCEEDED
    outlook.run.open_steps -= 1
