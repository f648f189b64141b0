"""The consequences of an order, in English: told from a run's rows before it and after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..journal import Decision, Ended
from ..journal.undo import still_to_undo, undecided
from ..model import ALSO_AFTER, FORWARD_WORKFLOWS, Effect, Shape, StepRow, StepStatus, WorkflowRow, WorkflowStatus
from ..runtime.order import behind, concerns_nobody, members_of, ready
from .words import status_words as words

if TYPE_CHECKING:
    from ..journal.orders import Change

_GIVEN_UP = frozenset({StepStatus.PLANNED, StepStatus.WAITING})
_BACKWARD = frozenset({WorkflowStatus.ROLLING_BACK, WorkflowStatus.FAILING})


@dataclass(frozen=True)
class After:
    """A run after an order.

    Attributes:
        run: the run.
        steps: its steps.
        undo: the compensation that runs next because of the order, if one does.
        wakes: its function, which waited for the step, goes on.
    """

    run: WorkflowRow
    steps: list[StepRow]
    undo: StepRow | None = None
    wakes: bool = False

    @property
    def goes_forward(self) -> bool:
        """Whether the run goes forward."""
        return self.run.status in FORWARD_WORKFLOWS


def consequences(change: Change[Any], *, about: Sequence[str], running: Mapping[str, str]) -> list[str]:
    """Returns the consequences of an order, one sentence each, without the full stops.

    Args:
        change: the run before it and after it.
        about: the keys of the steps that the order names; that they change is told by the order itself.
        running: the keys of the steps that living processes say they run, with where.
    """
    if change.before is None or change.run is None:
        return []
    before, result = {s.key: s for s in change.steps_before}, change.result
    decision = result if isinstance(result, Decision) else result.decision if isinstance(result, Ended) else None
    planned = [s for s in change.steps if s.kind.undoes and s.key not in before]
    undo = decision.undo if decision is not None else next(iter(planned), None)
    after = After(change.run, change.steps, undo, wakes=isinstance(result, Ended) and result.wakes)
    told = [
        *_of_the_run(change.before, after),
        *_tried(before, after, about),
        *_given_up(before, after, about, running),
        *_planned_again(before, after),
        *_still_open(before, after, about, running),
    ]
    return list(dict.fromkeys(told))


def _of_the_run(run: WorkflowRow, after: After) -> Iterator[str]:
    """What becomes of the run, and of what it has done so far."""
    old, new = run.status, after.run.status
    if new is WorkflowStatus.ROLLING_BACK:
        left = still_to_undo(after.steps)
        undone = ", ".join(s.name for s in left)
        begins = f"begins a rollback that undoes {undone}" if undone else "begins a rollback, with nothing to undo yet"
        goes_on = f"the rollback goes on; still to be undone: {undone}" if undone else "the rollback goes on"
        yield goes_on if old is WorkflowStatus.ROLLING_BACK else begins
        if after.undo is not None:
            target = next((s.name for s in after.steps if s.key == after.undo.target), after.undo.target)
            amount = after.run.at_stake()
            yield f"{after.undo.name} runs now and undoes {target}" + (f" (at stake: {amount})" if amount else "")
        return
    if new is old:
        if old in (WorkflowStatus.FAILED, WorkflowStatus.CANCELLED):
            yield f"the workflow stays {words(old)} until `retry` takes it up again"
        elif old is WorkflowStatus.FAILING:
            yield "the workflow goes on failing: its pivot is not decided"
        elif after.wakes:
            yield "the workflow function goes on"
        return
    match new:
        case WorkflowStatus.SUCCEEDED:
            yield "completes the workflow"
        case WorkflowStatus.FAILED:
            passed = next((s.name for s in after.steps if s.pivot and s.status is StepStatus.SUCCEEDED), None)
            why = f"its pivot {passed} has succeeded" if passed else "no step that happened has a compensation"
            yield f"fails the workflow; nothing is undone, because {why}"
        case WorkflowStatus.FAILING:
            pivot = next((s.name for s in after.steps if s.pivot and undecided(s)), "one")
            yield f"fails the workflow; whether it is undone is decided once it is known whether its pivot {pivot} happened"
        case WorkflowStatus.CANCELLED:
            yield "ends the workflow; nothing is undone"
        case WorkflowStatus.COMPENSATED:
            yield "ends the rollback: nothing is left to undo"
        case WorkflowStatus.COMPENSATION_FAILED:
            left = still_to_undo(after.steps)
            amount = after.run.at_stake()
            money = f" (at stake: {amount})" if amount else ""
            yield f"ends the rollback; not undone: {', '.join(s.name for s in left)}{money}"
        case WorkflowStatus.SUSPENDED:
            yield "takes the workflow up again: it sleeps on"
        case _:
            yield "takes the workflow up again"


def may_be_caught(run: WorkflowRow, step: StepRow) -> bool:
    """Whether a failure of a step is an error that its workflow function may catch."""
    return run.shape is Shape.FUNCTION and step.kind.called


def _tried(before: Mapping[str, StepRow], after: After, about: Sequence[str]) -> Iterator[str]:
    """What runs next because of the order."""
    for row in after.steps:
        old = before.get(row.key)
        if row.key not in about or old is None:
            continue
        if row.status is StepStatus.WAITING and old.status is not StepStatus.WAITING:
            if (after.undo is not None and row.key == after.undo.key) or row.kind.timed:
                continue
            yield (
                f"{row.name} runs again from the top, with what is recorded"
                if row.kind.makes_calls
                else (f"a new attempt of {row.name} is due at once")
            )
        elif old.status is not row.status and row.status is StepStatus.CANCELLED:
            yield f"{row.name} is cancelled, and not tried again: the workflow is {words(after.run.status)}"
        elif row.status is StepStatus.FAILED and row.effect is Effect.DID_NOT_HAPPEN and old.status is StepStatus.FAILED:
            yield f"{row.name} stays failed" + ("" if after.run.status in _BACKWARD else ", and `retry` may run it again")
        elif row.status is StepStatus.FAILED and row.effect is Effect.HAPPENED:
            yield f"its function was told that {row.name} failed, and goes on from that; a rollback undoes {row.name}"
        elif row.status is StepStatus.FAILED and old.status is not StepStatus.FAILED and may_be_caught(after.run, row):
            yield "its workflow function gets the error"
        elif row.status is StepStatus.FAILED and row.kind.undoes and old.status is not StepStatus.FAILED:
            target = next((s.name for s in after.steps if s.key == row.target), row.target)
            yield f"{target} is not undone, and that is reported"
        elif row.status is StepStatus.SUCCEEDED and old.status is not row.status and after.goes_forward:
            yield from _follows(row, after)


def _follows(row: StepRow, after: After) -> Iterator[str]:
    """What comes behind a step that is known to have happened now."""
    if after.run.shape is Shape.FUNCTION:
        yield "its workflow function goes on"
        return
    free = {s.key for s, _ in ready(after.run, after.steps)}
    members = members_of(after.steps)
    following = [s for s in behind(row, members) if s.status is StepStatus.PLANNED and not concerns_nobody(s, members)]
    sent = [s for s in following if s.key in free and not s.options.get(ALSO_AFTER)]
    if sent:
        yield f"what follows it is sent: {', '.join(s.name for s in sent)}"
    for step in following:
        if step.key not in free:
            yield f"{step.name} still waits for other steps"
        elif step not in sent:
            yield f"{step.name} is sent once the steps of other workflows that it comes after are done"


def _given_up(before: Mapping[str, StepRow], after: After, about: Sequence[str], running: Mapping[str, str]) -> Iterator[str]:
    """What had not begun, and never will."""
    for row in after.steps:
        old = before.get(row.key)
        if old is None or row.key in about or old.status not in _GIVEN_UP or row.status is old.status:
            continue
        if row.status is StepStatus.CANCELLED:
            if row.key in running:
                yield f"{row.name} runs now on {running[row.key]}, and is cancelled: it begins no further step"
            else:
                yield f"cancels {row.name}, which is {_state(old)}"
        elif row.status is StepStatus.FAILED:
            yield f"{row.name} is not tried again; an earlier attempt of it may have happened, and a person must say"


def _planned_again(before: Mapping[str, StepRow], after: After) -> Iterator[str]:
    """What had been cancelled, and runs after all."""
    names = [
        s.name for s in after.steps if s.key in before and before[s.key].status is StepStatus.CANCELLED and s.status in _GIVEN_UP
    ]
    if names:
        yield f"then what was cancelled runs: {', '.join(names)}"


def _still_open(before: Mapping[str, StepRow], after: After, about: Sequence[str], running: Mapping[str, str]) -> Iterator[str]:
    """What has begun, and what becomes of it."""
    if after.run.status in FORWARD_WORKFLOWS:
        return
    undoes = after.run.status in _BACKWARD
    for row in after.steps:
        if row.kind.undoes or not undecided(row) or (row.key in about and row.status is not StepStatus.BEGUN):
            continue
        happened = f"is undone by {row.compensation}" if undoes and row.compensation else "is recorded, and nothing undoes it"
        if row.status is StepStatus.BEGUN or row.key in running:
            where = f" on {running[row.key]}" if row.key in running else ""
            yield f"{row.name} runs now{where}: its success {happened}"
        elif row.key in before and (undoes or after.run.status is WorkflowStatus.CANCELLED):
            then = "it is undone" if undoes and row.compensation else "what it did stays"
            yield f"{row.name} {_state(row)}: once `resolve` has said that it happened, {then}"


def _state(row: StepRow) -> str:
    if row.status is StepStatus.WAITING:
        return "to be tried again"
    if row.status is StepStatus.FAILED:
        return "failed, and may have happened"
    if row.status in (StepStatus.IN_DOUBT, StepStatus.HELD):
        return f"is {words(row.status)}"
    return words(row.status)
