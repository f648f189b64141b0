"""A person's orders about a whole run: go on, roll back, cancel, take it off the list. What each would do is said first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import StepFailed
from ..journal.engine_ends import is_ended_by_engine
from ..journal.runs import REOPENED_FROM
from ..journal.undo import happened_after_all, passed_pivot, undecided, undoable
from ..model import (
    FORWARD_WORKFLOWS,
    LEGAL_RUNS,
    OPEN_STEPS,
    OPEN_WORKFLOWS,
    UNDOING_WORKFLOWS,
    Attention,
    Effect,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
    forward,
    function_of,
)
from ..runtime.doubt import may_be_repeated
from .case import may_lack_calls
from .changes import Change, Operator, Outcome
from .commands import VALUE, step_word, workflow_word
from .words import plural, sentence, status_words

if TYPE_CHECKING:
    from ..journal.orders import Change as Carried


def retry(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow | None = None) -> Change:
    """Goes on with a run: failed steps are due again, a function that no longer fitted runs again, what is lost is sent.

    Raises:
        NotResolvable: a step that would run again may have had its effect; or there is nothing to go on with.
    """
    if not steps:
        raise operator.refusal(run, "ended long ago, and its steps are forgotten.")
    drifted = next((s for s in steps if is_stopped(s)), None)
    if drifted is not None and (step is None or step.key == drifted.key):
        return _release(operator, run, steps, drifted)
    undoing = run.status in REOPENED_FROM[True]
    if step is not None and step.status is not StepStatus.FAILED and not is_ended_by_engine(step):
        raise operator.refusal(run, f"is {status_words(step.status)}, not failed.", step)
    failed = [step] if step is not None else _to_try_again(run, steps, undoing=undoing)
    if run.shape is Shape.FUNCTION and step is not None and not step.kind.undoes:
        failed += [s for s in steps if s.kind.makes_calls and s.status is StepStatus.FAILED]
    for row in failed:
        _refuse_what_may_have_happened(operator, run, steps, row)
    if failed or run.status in REOPENED_FROM[False] - FORWARD_WORKFLOWS:
        again = {row.key for row in failed}
        open_ones = (s for s in steps if undecided(s) and s.key not in again and s.status is not StepStatus.BEGUN)
        blocked = next((s for s in open_ones if not s.kind.undoes), None)
        if blocked is not None and not undoing:
            said = _verdicts(operator, run, steps, blocked)
            raise operator.refusal(run, f"may have happened, and nobody has said: first {said}.", blocked)
        return _reopen(operator, run, steps, failed)
    if run.status in OPEN_WORKFLOWS:
        return _look_now(operator, run, steps)
    raise operator.refusal(run, f"is {status_words(run.status)}: there is nothing to go on with.")


def _release(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
    then = "calls without a record run again" if may_lack_calls(step) else "if it still does not fit, it is held again"

    def tell(carried: Carried[bool]) -> Outcome:
        now = next(s for s in carried.steps if s.key == step.key)
        if now.status not in OPEN_STEPS:
            return Outcome(True, f"{step.name} is {status_words(now.status)}: the workflow does not go forward.")
        sent = operator.sending.due(step.engine or run.engine)
        return Outcome(True, f"{step.name} runs again. {sentence(then)}", sent)

    return operator.change(
        run, steps, step, (step.key,),
        action="retry",
        would=f"let {step.name} run again from the top, with what is recorded; {then}",
        act=lambda: operator.journal.verdicts.release(step, **operator.signature),
        tell=tell,
    )  # fmt: skip


def _refuse_what_may_have_happened(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> None:
    if not step.kind.marked:
        raise operator.refusal(
            run,
            "failed and is not marked durable: what it did before is not recorded, and it is never sent again. Mark it with "
            "@durable.step, and start a new workflow.",
            step,
        )
    if step.effect is Effect.HAPPENED and run.status in FORWARD_WORKFLOWS:
        raise operator.refusal(
            run,
            f"failed and happened all the same ({step.verdict}): running it again would repeat it. Its function was told of the "
            "failure, and goes on from that.",
            step,
        )
    if may_be_repeated(step, step.safety, int(step.options.get("window") or 0), operator.journal.time()):
        return
    why = "its idempotency window has passed, and " if step.safety is Safety.IDEMPOTENT else ""
    raise operator.refusal(
        run,
        f"failed, and its effect may have happened: {why}running it again might repeat it. First say what happened: "
        f"{_verdicts(operator, run, steps, step)}.",
        step,
    )


def _reopen(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], failed: Sequence[StepRow]) -> Change:
    unbegun = [s.name for s in failed if is_ended_by_engine(s) and s.status is StepStatus.CANCELLED]
    begun = [s for s in failed if s.name not in unbegun]
    again = [s.name for s in begun if not s.kind.makes_calls]
    parts = [f"run {', '.join(again)} again"] if again else []
    if unbegun:
        parts.append(f"run {', '.join(unbegun)}, which has not begun")
    if len(again) < len(begun):
        parts.append(f"run {run.name} again from the top, with what is recorded")
    keys = tuple(s.key for s in failed)
    return operator.change(
        run, steps, failed[0] if len(failed) == 1 else None, keys,
        action="retry",
        would="; ".join(parts) or "take the workflow up again",
        act=lambda: operator.journal.runs.reopen(run.ref, list(keys), **operator.signature, now=operator.now),
        tell=lambda _: Outcome(True, f"{workflow_word(run)} goes on.", operator.sending.due(run.engine)),
    )  # fmt: skip


def _look_now(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
    held = next((s for s in steps if s.status is StepStatus.HELD), None)
    if held is not None:
        said = _verdicts(operator, run, steps, held)
        raise operator.refusal(run, f"is held: only a verdict takes it further. Say which: {said}.", held)
    return operator.change(
        run, steps, None,
        action="retry",
        would="look at it now: what is due is sent, and what is lost is sent again, if the promises allow it",
        act=lambda: operator.journal.due.check_now(run.ref, **operator.signature),
        tell=lambda _: Outcome(True, f"{workflow_word(run)} is due now.", operator.sending.due(run.engine)),
    )  # fmt: skip


def rollback(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], _step: StepRow | None = None) -> Change:
    """Undoes what happened, in reverse order, and cancels what has not begun.

    Raises:
        NotResolvable: a pivot has passed or is not decided, nothing can be undone, or it is under way already.
    """
    word = workflow_word(run)
    if run.status is WorkflowStatus.COMPENSATION_FAILED:
        again = operator.caller.command("retry", ids=[word])
        raise operator.refusal(run, f"is compensation failed already. `{again}` tries failed compensations again.")
    if is_undone(run):
        raise operator.refusal(run, f"is {status_words(run.status)} already.")
    pivot = passed_pivot(steps)
    if pivot is not None:
        passed = pivot.status is StepStatus.SUCCEEDED
        why = "has succeeded, and behind it there is only forward." if passed else "may have happened: resolve it first."
        raise operator.refusal(run, f"cannot be rolled back: its pivot {pivot.name} {why}")
    if not any(s.compensation and (s.status is StepStatus.SUCCEEDED or undecided(s) or happened_after_all(s)) for s in steps):
        why = "has nothing to undo: no step of it that happened declares compensate=."
        if is_cancellable(run):
            why += f" `{operator.caller.command('cancel', ids=[word])}` ends it without undoing anything."
        raise operator.refusal(run, why)
    return operator.change(
        run, steps, None,
        action="rollback",
        would="undo in reverse order what happened, and cancel what has not begun",
        act=lambda: operator.journal.undo.begin(run.ref, **operator.signature),
        tell=lambda carried: Outcome(True, f"{word} is being rolled back.", operator.hurry(run, carried.result)),
        check=lambda fresh: "its pivot was passed" if passed_pivot(fresh) is not None else None,
    )  # fmt: skip


def cancel(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], _step: StepRow | None = None) -> Change:
    """Cancels what has not begun, and with it the run. Undoes nothing.

    Raises:
        NotResolvable: it has ended, or is being rolled back.
    """
    word = workflow_word(run)
    if not is_cancellable(run):
        undoing = run.status is WorkflowStatus.ROLLING_BACK
        what = "is being rolled back: that goes on" if undoing else f"is {status_words(run.status)}"
        raise operator.refusal(run, f"{what}; there is nothing to cancel.")
    can_be_undone = [s.name for s in undoable(steps)]
    warnings = []
    if can_be_undone:
        undo = operator.caller.command("rollback", ids=[word])
        warnings.append(f"{', '.join(can_be_undone)} happened and can be undone: `{undo}` would do that, `cancel` does not")

    def tell(carried: Carried[list[str]]) -> Outcome:
        left = [s.name for s in carried.steps if s.key in carried.result]
        return Outcome(True, f"{word} is cancelled.", f"Still to be settled: {', '.join(left)}." if left else "")

    return operator.change(
        run, steps, None,
        action="cancel",
        would="cancel what has not begun, and with it the workflow",
        act=lambda: operator.journal.runs.cancel(run.ref, **operator.signature),
        tell=tell,
        warnings=warnings,
    )  # fmt: skip


def acknowledge(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow | None = None) -> Change:
    """Takes what needs nothing more off the list: marked steps, or the run with all of them. Changes no outcome.

    Raises:
        NotResolvable: nothing is marked; or it is held, so that it is not for acknowledging.
    """
    marked = [s for s in ([step] if step is not None else steps) if s.marks]
    waiting = next((s for s in marked if s.status in OPEN_STEPS), None)
    if waiting is not None:
        why = f"is {status_words(waiting.status)} and waits for a verdict; acknowledging would not give one."
        raise operator.refusal(run, why, waiting)
    messages = operator.journal.reads.refused(ref=run.ref) if step is None else []
    if not marked and not messages and (step is not None or run.attention is None):
        raise operator.refusal(run, "has nothing that is marked for a person.", step)
    names = [f"{s.name} ({', '.join(_MARKS.get(mark, mark) for mark in s.marks)})" for s in marked]
    names += [plural(len(messages), "refused message")] if messages else []
    also_run = step is None or not [s for s in steps if s.marks and s.key != step.key]

    def carry_out() -> Outcome:
        for row in marked:
            operator.journal.verdicts.acknowledge(row.ref, row.key, **operator.signature)
        if messages or (also_run and run.attention is not None):
            operator.journal.runs.acknowledge(run.ref, **operator.signature)
        return Outcome(True, f"{workflow_word(run)} is off the list.")

    would = f"take {', '.join(names) or workflow_word(run)} off the list of findings; no outcome changes"
    return Change(workflow_word(run), run.ref, step, "acknowledge", would, carry_out)


def acknowledge_refused(operator: Operator, ref: str) -> Change | None:
    """Takes the refused messages of a run that the journal does not have off the list, until another comes.

    Returns:
        None where no message of such a run was refused in this namespace.
    """
    here = (None, operator.journal.namespace)
    messages = [m for m in operator.journal.reads.refused(ref=ref) if m.namespace in here]
    if not messages:
        return None

    def carry_out() -> Outcome:
        operator.journal.runs.acknowledge(ref, **operator.signature)
        return Outcome(True, f"{ref} is off the list.")

    would = f"take {plural(len(messages), 'refused message')} of run {ref} off the list"
    return Change(ref, ref, None, "acknowledge", would, carry_out)


def _verdicts(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> str:
    """The commands that say what became of a step, each whole."""
    given = [("--happened", VALUE), ("--did-not-happen",), *([] if step.status is StepStatus.FAILED else [("--failed",)])]
    place = workflow_word(run), step_word(step, steps)
    return " or ".join(f"`{operator.caller.command('resolve', *words, ids=place)}`" for words in given)


def is_stopped(step: StepRow) -> bool:
    """Whether a function is held because it may not fit what is recorded: only an order lets it run again."""
    return step.status is StepStatus.HELD and step.attention == Attention.DRIFT


def is_cancellable(run: WorkflowRow) -> bool:
    """Whether a run goes forward, or waits for the decision whether it is undone."""
    return run.status in LEGAL_RUNS[WorkflowStatus.CANCELLED]


def is_undone(run: WorkflowRow) -> bool:
    """Whether a run has been rolled back, or is being so."""
    return run.status in UNDOING_WORKFLOWS


def may_have_done(steps: Sequence[StepRow], name: str) -> bool:
    """Whether a step of a name happened in a run, or may have."""
    return any(s.name == name and (s.status is StepStatus.SUCCEEDED or undecided(s)) for s in steps)


def _to_try_again(run: WorkflowRow, steps: Sequence[StepRow], *, undoing: bool) -> list[StepRow]:
    """The failed steps whose repetition lets the run go on: failed compensations; or what made the run fail."""
    failed = [s for s in steps if s.status is StepStatus.FAILED or is_ended_by_engine(s)]
    if undoing:
        return [s for s in failed if s.kind.undoes]
    failed = forward(failed)
    if run.shape is Shape.CANVAS:
        return failed
    function = function_of(failed)
    if function is None:
        return []
    return [*_cause_of(function, steps), function]


def _cause_of(function: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The step whose error a function let out: its last one, if it failed with the same error.

    A failed step that the function caught and went on from stays as it is: running that again would change its history.
    """
    calls = [s for s in steps if s.kind.called]
    last = max(calls, key=lambda s: s.position, default=None)
    if last is None or last.status is not StepStatus.FAILED or not last.error or not function.error:
        return []
    return [last] if _same_error(function.error, last.error) else []


def _same_error(functions: bytes, steps: bytes) -> bool:
    """Whether a function failed with its step's error: the same message, and the same type where that was loaded."""
    mine: dict[str, object] = json.loads(functions)
    its: dict[str, object] = json.loads(steps)
    restored = mine.get("type") == f"{StepFailed.__module__}.{StepFailed.__qualname__}"
    return mine.get("message") == its.get("message") and (restored or mine.get("type") == its.get("type"))


_MARKS: dict[str, str] = {
    Attention.CALLBACK.value: "succeeded, and its job fails behind it",
    Attention.TWICE.value: "may have happened twice",
    Attention.EFFECT_UNKNOWN.value: "failed, effect unknown",
    Attention.UNDO_FAILED.value: "could not be undone",
    Attention.ENDED_BY_ENGINE.value: "ended by its engine before it began",
}
