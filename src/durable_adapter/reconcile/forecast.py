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
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkflowRow,
    WorkflowStatus,
    forward,
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
class Forecast:
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


#: Stands in a forecast for a value that is not at hand.
_SOME_VALUE = Stored("", b"")
_RUNNING_ON = FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}


def predict(run: WorkflowRow, steps: Iterable[StepRow], order: Order) -> Forecast:
    """Returns what an order makes of a run. Changes nothing.

    Args:
        run: the run.
        steps: all of its steps.
        order: the order.
    """
    forecast = Forecast(replace(run), [replace(s) for s in steps])
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
    }[order.verb](forecast, order.keys)
    return forecast


def may_be_caught(run: WorkflowRow, step: StepRow) -> bool:
    """Whether a failure of a step is an error that its workflow function may catch."""
    return run.shape is Shape.FUNCTION and step.kind.called


def _happened(forecast: Forecast, keys: Sequence[str]) -> None:
    row = forecast.step(keys[0])
    had_failed = row.status is StepStatus.FAILED
    row.effect, row.attention, row.outcome = Effect.HAPPENED, None, row.outcome or _SOME_VALUE
    if had_failed and _was_told(forecast, row):
        return
    row.status, row.ended_at = StepStatus.SUCCEEDED, _last(forecast)
    if row.target is not None:
        if forecast.run.status in (WorkflowStatus.COMPENSATED, WorkflowStatus.COMPENSATION_FAILED):
            forecast.run.status, forecast.run.attention = WorkflowStatus.ROLLING_BACK, None
        _settle(forecast, row.target, undone=True)
        return
    if not had_failed and row.completes_run:
        _count_end(forecast, row)
    _decide_again(forecast)


def _last(forecast: Forecast) -> int:
    """A time after that of every recorded end."""
    return max((s.ended_at or 0 for s in forecast.steps), default=0) + 1


def _was_told(forecast: Forecast, row: StepRow) -> bool:
    """Whether a failure is part of the story of a workflow function that has not finished."""
    told = any(s.kind.makes_calls and s.status in OPEN_STEPS for s in forecast.steps)
    return row.kind.called and told


def _did_not_happen(forecast: Forecast, keys: Sequence[str]) -> None:
    row = forecast.step(keys[0])
    row.effect, row.attention = Effect.DID_NOT_HAPPEN, None
    if row.status is not StepStatus.FAILED:
        row.status = StepStatus.WAITING
        if not row.kind.undoes and not forecast.goes_forward:
            _give_up(forecast)
    _decide_again(forecast)


def _failed(forecast: Forecast, keys: Sequence[str]) -> None:
    row = forecast.step(keys[0])
    row.status, row.effect, row.attention = StepStatus.FAILED, Effect.DID_NOT_HAPPEN, None
    if row.target is not None:
        _settle(forecast, row.target, undone=False)
    elif not may_be_caught(forecast.run, row):
        _decide(forecast)
    elif row.kind.awaited:
        _count_end(forecast, row)


def _unmarked_ran(forecast: Forecast, keys: Sequence[str]) -> None:
    row = forecast.step(keys[0])
    row.status, row.ended_at = StepStatus.SUCCEEDED, _last(forecast)
    if row.completes_run:
        _count_down(forecast)
    forecast.run.attention = None


def _unmarked_failed(forecast: Forecast, keys: Sequence[str]) -> None:
    forecast.step(keys[0]).status = StepStatus.FAILED
    _decide(forecast)
    forecast.run.attention = None


def _reopen(forecast: Forecast, keys: Sequence[str]) -> None:
    run = forecast.run
    named = [forecast.step(key) for key in keys]
    undoing = any(s.kind.undoes for s in named)
    for row in named:
        ended = is_ended_by_engine(row) and row.status is StepStatus.CANCELLED and row.kind.marked
        if ended or (row.status is StepStatus.FAILED and not happened_after_all(row)):
            row.status, row.attention = StepStatus.WAITING, None
        elif happened_after_all(row) and not forecast.goes_forward:
            row.status = StepStatus.SUCCEEDED
    for row in forecast.steps:
        row.cause = None if row.cause == Cause.ENDED_BY_ENGINE else row.cause
    if undoing:
        run.status = run.status if forecast.goes_forward else WorkflowStatus.ROLLING_BACK
        run.attention = None
        return
    for row in forecast.steps:
        if row.status is StepStatus.CANCELLED:
            row.status = StepStatus.WAITING if row.kind.timed else StepStatus.PLANNED
    run.status = run.status if forecast.goes_forward else WorkflowStatus.RUNNING
    run.attention = None
    members = forward(forecast.steps)
    counting = [s for s in members if s.completes_run]
    done = bool(counting) and all(s.status is StepStatus.SUCCEEDED for s in counting)
    if done and not any(s.status is StepStatus.WAITING for s in members):
        run.status = WorkflowStatus.SUCCEEDED
        _give_up(forecast)
    again = any(s.status is StepStatus.WAITING and s.key in keys for s in named)
    if not again and any(s.kind.timed and s.status is StepStatus.WAITING for s in forecast.steps):
        run.status = WorkflowStatus.SUSPENDED


def _release(forecast: Forecast, keys: Sequence[str]) -> None:
    row = forecast.step(keys[0])
    row.status, row.attention = StepStatus.WAITING, None
    if not forecast.goes_forward:
        _give_up(forecast)


def _rollback(forecast: Forecast, _keys: Sequence[str]) -> None:
    if passed_pivot(forecast.steps) is not None:
        return
    _give_up(forecast)
    forecast.run.status, forecast.run.attention = WorkflowStatus.ROLLING_BACK, None
    _advance(forecast)


def _cancel(forecast: Forecast, _keys: Sequence[str]) -> None:
    _give_up(forecast)
    if forecast.run.status in _RUNNING_ON:
        forecast.run.status = WorkflowStatus.CANCELLED


def _give_up(forecast: Forecast) -> None:
    """Cancels what has not begun."""
    for row in forecast.steps:
        status = given_up(row)
        if status is StepStatus.FAILED and row.status is not StepStatus.FAILED:
            row.effect, row.attention = Effect.UNKNOWN, Attention.EFFECT_UNKNOWN
        row.status = status


def _decide_again(forecast: Forecast) -> None:
    """A verdict may be what a rollback, or the decision about one, was waiting for."""
    if forecast.run.status in (WorkflowStatus.FAILING, WorkflowStatus.ROLLING_BACK):
        _decide(forecast)


def _decide(forecast: Forecast) -> None:
    """The forward part is over: the run fails, begins its rollback, or waits for its pivot."""
    run = forecast.run
    if run.status is not WorkflowStatus.ROLLING_BACK:
        if run.status not in _RUNNING_ON:
            return
        _give_up(forecast)
        run.status = outcome_of_failure(forecast.steps)
    if run.status is WorkflowStatus.ROLLING_BACK:
        _advance(forecast)


def _settle(forecast: Forecast, target: str, *, undone: bool) -> None:
    """A compensation ended."""
    for row in forecast.steps:
        if row.key == target and row.status is StepStatus.SUCCEEDED:
            row.status = StepStatus.UNDONE if undone else row.status
            row.attention = None if undone else Attention.UNDO_FAILED
    if forecast.run.status is WorkflowStatus.ROLLING_BACK:
        _advance(forecast)


def _advance(forecast: Forecast) -> None:
    """The next compensation, or the end of the rollback."""
    for row in forecast.steps:
        if happened_after_all(row):
            row.status = StepStatus.SUCCEEDED
    following = next_of_rollback(forecast.steps)
    if following.target is not None:
        forecast.undo = following.undo
        if forecast.undo is None:
            forecast.undo = planned_undo(following.target)
            forecast.steps.append(forecast.undo)
    elif forecast.run.status in OPEN_WORKFLOWS:
        forecast.run.status = following.status
        forecast.run.attention = attention_at_end(following.status, forecast.steps)


def _count_end(forecast: Forecast, row: StepRow) -> None:
    """A step that counts ended: its function may go on, or the run may be complete."""
    run = forecast.run
    forecast.wakes = run.status is WorkflowStatus.SUSPENDED and _waits_for(run, row)
    _count_down(forecast)


def _waits_for(run: WorkflowRow, row: StepRow) -> bool:
    return run.waiting_for == f"step:{row.key}" or (run.waiting_for == "steps" and run.open_steps <= 2)


def _count_down(forecast: Forecast) -> None:
    if forecast.run.open_steps == 1 and forecast.run.status in FORWARD_WORKFLOWS:
        forecast.run.status = WorkflowStatus.SUCCEEDED
    forecast.run.open_steps -= 1
