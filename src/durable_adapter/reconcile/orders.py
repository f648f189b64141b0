"""A person's orders about a whole run: go on, roll back, cancel, take it off the list. What each would do is said first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import NotResolvable, StepFailed
from ..journal.engine_ends import is_ended_by_engine
from ..journal.undo import passed_pivot, undecided
from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    OPEN_WORKFLOWS,
    UNSETTLED_STEPS,
    Attention,
    Effect,
    Kind,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
)
from ..runtime.doubt import could_have_started
from .case import may_lack_calls
from .changes import Change, Outcome
from .commands import Caller, step_word, workflow_word
from .sending import Sending
from .verdicts import hurry

if TYPE_CHECKING:
    from ..journal import Journal
    from ..runtime.engine import Engine

_FAILED = frozenset({WorkflowStatus.FAILED, WorkflowStatus.FAILING, WorkflowStatus.CANCELLED})
_UNDONE = frozenset({WorkflowStatus.ROLLING_BACK, WorkflowStatus.COMPENSATED, WorkflowStatus.COMPENSATION_FAILED})


class Orders:
    """Turns orders into changes of one journal.

    Args:
        journal: the journal.
        who: the person.
        why: their reason.
        engines: the bindings that can send, by name.
        caller: how printed commands are called.
        stale: seconds of silence after which a worker may be declared dead.
        in_bulk: there are many of them: what they make due is sent behind the last one.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        who: str,
        why: str,
        engines: Mapping[str, Engine],
        caller: Caller,
        stale: float = 60.0,
        in_bulk: bool = False,
    ) -> None:
        self._journal = journal
        self._who = who
        self._why = why
        self._engines = engines
        self._caller = caller
        self.sending = Sending(journal, engines, caller, stale=stale, in_bulk=in_bulk)

    def retry(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow | None = None) -> Change:
        """Goes on with a run: failed steps are due again, a function that no longer fitted runs again, what is lost is sent.

        Raises:
            NotResolvable: a step that would run again may have had its effect; or there is nothing to go on with.
        """
        if not steps:
            raise NotResolvable(f"{workflow_word(run)} ended long ago, and its steps are forgotten. {self._explain(run)}")
        drifted = next((s for s in steps if is_stopped(s)), None)
        if drifted is not None and (step is None or step.key == drifted.key):
            return self._release(run, drifted)
        undoing = run.status in (WorkflowStatus.ROLLING_BACK, WorkflowStatus.COMPENSATION_FAILED)
        if step is not None and step.status is not StepStatus.FAILED and not is_ended_by_engine(step):
            raise NotResolvable(
                f"step {step.name} of {workflow_word(run)} is {step.status.value}, not failed. {self._explain(run)}"
            )
        failed = [step] if step is not None else _to_try_again(run, steps, undoing=undoing)
        if run.shape is Shape.FUNCTION and step is not None and step.kind is not Kind.COMPENSATION:
            failed += [s for s in steps if s.kind is Kind.FUNCTION and s.status is StepStatus.FAILED]
        for row in failed:
            self._refuse_what_may_have_happened(run, steps, row)
        if failed or (run.status in _FAILED and not undoing):
            again = {row.key for row in failed}
            blocked = [
                s
                for s in steps
                if undecided(s) and s.key not in again and s.kind is not Kind.COMPENSATION and s.status is not StepStatus.BEGUN
            ]
            if blocked and not undoing:
                raise NotResolvable(
                    f"step {blocked[0].name} of {workflow_word(run)} may have happened, and nobody has said: first "
                    f"`{self._caller.command('resolve', workflow_word(run), step_word(blocked[0], steps))}` "
                    f"with --happened VALUE or --did-not-happen. {self._explain(run)}"
                )
            return self._reopen(run, steps, failed)
        if run.status in OPEN_WORKFLOWS:
            return self._look_now(run, steps)
        raise NotResolvable(
            f"{workflow_word(run)} is {run.status.value.replace('_', ' ')}: there is nothing to go on with. {self._explain(run)}"
        )

    def _release(self, run: WorkflowRow, step: StepRow) -> Change:
        lacks = may_lack_calls(step)
        then = "calls without a record run again" if lacks else "if it still does not fit, it is held again"

        def carry_out() -> Outcome:
            if self._journal.doubts.release(step, who=self._who, why=self._why):
                sent = self.sending.due(step.engine or run.engine)
                return Outcome(True, f"{step.name} runs again. {then[:1].upper()}{then[1:]}.", sent)
            return self._changed(run)

        would = f"let {step.name} run again from the top, with what is recorded; {then}"
        return Change(run, step, "retry", would, carry_out)

    def _refuse_what_may_have_happened(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> None:
        if step.kind is Kind.UNMARKED:
            raise NotResolvable(
                f"step {step.name} of {workflow_word(run)} failed and is not marked durable: what it did before is not recorded, "
                f"and it is never sent again. Mark it with @durable.step, and start a new workflow. {self._explain(run)}"
            )
        if step.effect is Effect.HAPPENED and run.status in FORWARD_WORKFLOWS:
            raise NotResolvable(
                f"step {step.name} of {workflow_word(run)} failed and happened all the same ({step.verdict}): running it again "
                f"would repeat it. Its function was told of the failure, and goes on from that. {self._explain(run)}"
            )
        if step.effect is not Effect.UNKNOWN:
            return
        inside = step.safety is Safety.IDEMPOTENT and self._inside_window(steps, step)
        if inside or step.safety is Safety.TRANSACTIONAL:
            return
        why = "its idempotency window has passed, and " if step.safety is Safety.IDEMPOTENT else ""
        word = step_word(step, steps)
        raise NotResolvable(
            f"step {step.name} of {workflow_word(run)} failed, and its effect may have happened: {why}running it again might "
            f"repeat it. First say what happened: `{self._caller.command('resolve', workflow_word(run), word)}` with "
            f"--happened VALUE or --did-not-happen. {self._explain(run)}"
        )

    def _inside_window(self, steps: Sequence[StepRow], step: StepRow) -> bool:
        """Whether the provider still remembers the step's key, counted as the runtime counts."""
        return self._journal.time() - could_have_started(step, steps) < int(step.options.get("window") or 0)

    def _reopen(self, run: WorkflowRow, steps: Sequence[StepRow], failed: Sequence[StepRow]) -> Change:
        unbegun = [s.name for s in failed if is_ended_by_engine(s) and s.status is StepStatus.CANCELLED]
        again = [s.name for s in failed if s.kind is not Kind.FUNCTION and s.name not in unbegun]
        failed_functions = [s for s in failed if s.kind is Kind.FUNCTION and s.name not in unbegun]
        behind = [s.name for s in steps if s.status is StepStatus.CANCELLED and s.kind is not Kind.COMPENSATION]
        undoing = any(s.kind is Kind.COMPENSATION for s in failed)
        behind = [name for name in behind if name not in unbegun]
        parts = [f"run {', '.join(again)} again"] if again else []
        if unbegun:
            parts.append(f"run {', '.join(unbegun)}, which has not begun")
        if failed_functions:
            parts.append(f"run {run.name} again from the top, with what is recorded")
        if behind and not undoing:
            parts.append(f"then run what was cancelled: {', '.join(behind)}")
        would = "; ".join(parts) or "take the workflow up again"

        def carry_out() -> Outcome:
            keys = [s.key for s in failed]
            if not self._journal.runs.reopen(run.ref, keys, who=self._who, why=self._why, now=self._journal.time()):
                return self._changed(run)
            return Outcome(True, f"{workflow_word(run)} goes on.", self.sending.due(run.engine))

        return Change(run, failed[0] if len(failed) == 1 else None, "retry", would, carry_out)

    def _look_now(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        held = [s for s in steps if s.status is StepStatus.HELD]
        if held:
            word = step_word(held[0], steps)
            raise NotResolvable(
                f"step {held[0].name} of {workflow_word(run)} is held: only a verdict takes it further. "
                f"`{self._caller.command('resolve', workflow_word(run), word)}` with --happened VALUE, --did-not-happen or "
                f"--failed. {self._explain(run)}"
            )

        def carry_out() -> Outcome:
            if not self._journal.runs.look_now(run.ref, who=self._who, why=self._why):
                return self._changed(run)
            return Outcome(True, f"{workflow_word(run)} is due now.", self.sending.due(run.engine))

        would = "look at it now: what is due is sent, and what is lost is sent again, if the promises allow it"
        return Change(run, None, "retry", would, carry_out)

    def rollback(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        """Undoes what happened, in reverse order, and cancels what has not begun.

        Raises:
            NotResolvable: a pivot has passed or is not decided, nothing can be undone, or it is under way already.
        """
        word = workflow_word(run)
        if is_undone(run):
            hint = f"`{self._caller.command('retry', word)}` tries failed compensations again."
            state = run.status.value.replace("_", " ")
            raise NotResolvable(f"{word} is {state} already. {hint if 'failed' in state else self._explain(run)}")
        pivot = passed_pivot(steps)
        if pivot is not None:
            passed = pivot.status is StepStatus.SUCCEEDED
            raise NotResolvable(
                f"{word} cannot be rolled back: its pivot {pivot.name} "
                + ("has succeeded, and behind it there is only forward." if passed else "may have happened: resolve it first.")
                + f" {self._explain(run)}"
            )
        done = sorted(
            (s for s in steps if s.compensation and s.status is StepStatus.SUCCEEDED),
            key=lambda s: (s.ended_at or 0, s.position),
            reverse=True,
        )
        open_ones = [s for s in steps if s.compensation and undecided(s)]
        if not done and not open_ones:
            cancel = self._caller.command("cancel", word)
            raise NotResolvable(
                f"{word} has nothing to undo: no step of it that happened declares compensate=. `{cancel}` ends it without "
                f"undoing anything. {self._explain(run)}"
            )
        order = ", ".join(f"{s.compensation} (undoes {s.name})" for s in done) or "nothing yet"
        warnings = tuple(
            f"{s.name} is {s.status.value.replace('_', ' ')}: it is undone only after `resolve` has said whether it happened"
            for s in steps
            if undecided(s) and s.kind is not Kind.COMPENSATION
        )
        planned = [s.name for s in steps if s.status in (StepStatus.PLANNED, StepStatus.WAITING)]
        would = f"undo in this order: {order}" + (f"; cancel {', '.join(planned)}" if planned else "")

        def carry_out() -> Outcome:
            fresh = self._journal.reads.run(run.ref)
            if fresh is None or fresh.status is not run.status:
                return self._changed(run)
            decision = self._journal.undo.begin(run.ref, who=self._who, why=self._why)
            if decision is None:
                passed = passed_pivot(self._journal.reads.steps(run.ref)) is not None
                return self._changed(run, "its pivot was passed" if passed else None)
            return Outcome(True, f"{word} is being rolled back.", hurry(self._journal, self._engines, run, decision))

        return Change(run, None, "rollback", would, carry_out, warnings)

    def cancel(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        """Cancels what has not begun, and with it the run. Undoes nothing.

        Raises:
            NotResolvable: it has ended, or is being rolled back.
        """
        word = workflow_word(run)
        if run.status not in FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}:
            what = "is being rolled back: that goes on" if run.status is WorkflowStatus.ROLLING_BACK else f"is {run.status.value}"
            raise NotResolvable(f"{word} {what.replace('_', ' ')}; there is nothing to cancel. {self._explain(run)}")
        planned = [s.name for s in steps if s.status in (StepStatus.PLANNED, StepStatus.WAITING) and s.kind is not Kind.FUNCTION]
        begun = [s for s in steps if s.status in UNSETTLED_STEPS]
        undoable = [s.name for s in steps if s.compensation and s.status is StepStatus.SUCCEEDED]
        warnings = [f"{s.name} is {s.status.value.replace('_', ' ')}: what it does or did stays to be settled" for s in begun]
        if undoable:
            rollback = self._caller.command("rollback", word)
            warnings.append(f"{', '.join(undoable)} happened and can be undone: `{rollback}` would do that, `cancel` does not")
        would = "cancel " + (", ".join(planned) if planned else "the workflow") + "; nothing is undone"

        def carry_out() -> Outcome:
            fresh = self._journal.reads.run(run.ref)
            if fresh is None or fresh.status not in FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}:
                return self._changed(run)
            left = self._journal.runs.cancel(run.ref, who=self._who, why=self._why)
            names = [s.name for s in steps if s.key in left] or left
            settle = f"Still to be settled with `resolve`: {', '.join(names)}." if left else ""
            return Outcome(True, f"{word} is cancelled.", settle)

        return Change(run, None, "cancel", would, carry_out, tuple(warnings))

    def acknowledge(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow | None = None) -> Change:
        """Takes what needs nothing more off the list: marked steps, or the run with all of them. Changes no outcome.

        Raises:
            NotResolvable: nothing is marked; or it is held, so that it is not for acknowledging.
        """
        word = workflow_word(run)
        marked = [s for s in ([step] if step is not None else steps) if s.attention is not None]
        waiting = next((s for s in marked if s.status in OPEN_STEPS), None)
        if waiting is not None:
            raise NotResolvable(
                f"step {waiting.name} of {word} is {waiting.status.value} and waits for a verdict; acknowledging would not give "
                f"one. {self._explain(run)}"
            )
        if not marked and (step is not None or run.attention is None):
            what = f"step {step.name} of {word}" if step is not None else word
            raise NotResolvable(f"nothing about {what} is marked for a person. {self._explain(run)}")
        names = ", ".join(f"{s.name} ({_MARKS.get(s.attention or '', s.attention)})" for s in marked)
        also_run = step is None or not [s for s in steps if s.attention is not None and s.key != step.key]

        def carry_out() -> Outcome:
            for row in marked:
                self._journal.doubts.acknowledge(row.ref, row.key, who=self._who, why=self._why)
            if also_run and run.attention is not None:
                self._journal.runs.acknowledge(run.ref, who=self._who, why=self._why)
            return Outcome(True, f"{word} is off the list.", "")

        would = f"take {names or word} off the list of findings; no outcome changes"
        return Change(run, step, "acknowledge", would, carry_out)

    def _changed(self, run: WorkflowRow, how: str | None = None) -> Outcome:
        fresh = self._journal.reads.run(run.ref)
        state = fresh.status.value.replace("_", " ") if fresh is not None else "no longer in the journal"
        what = how or f"{workflow_word(run)} became {state}"
        says = f"Nothing was changed: while you were deciding, {what}."
        return Outcome(False, says, self._explain(run))

    def _explain(self, run: WorkflowRow) -> str:
        return f"See `{self._caller.command('explain', workflow_word(run))}`."


def is_stopped(step: StepRow) -> bool:
    """Whether a function is held because it may not fit what is recorded: only an order lets it run again."""
    return step.status is StepStatus.HELD and step.attention == Attention.DRIFT


def is_undone(run: WorkflowRow) -> bool:
    """Whether a run has been rolled back, or is being so."""
    return run.status in _UNDONE


def may_have_done(steps: Sequence[StepRow], name: str) -> bool:
    """Whether a step of a name happened in a run, or may have."""
    return any(s.name == name and (s.status is StepStatus.SUCCEEDED or undecided(s)) for s in steps)


def _to_try_again(run: WorkflowRow, steps: Sequence[StepRow], *, undoing: bool) -> list[StepRow]:
    """The failed steps whose repetition lets the run go on: failed compensations; or what made the run fail."""
    failed = [s for s in steps if s.status is StepStatus.FAILED or is_ended_by_engine(s)]
    if undoing:
        return [s for s in failed if s.kind is Kind.COMPENSATION]
    failed = [s for s in failed if s.kind is not Kind.COMPENSATION]
    if run.shape is Shape.CANVAS:
        return failed
    function = next((s for s in failed if s.kind is Kind.FUNCTION), None)
    if function is None:
        return []
    return [*_cause_of(function, steps), function]


def _cause_of(function: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The step whose error a function let out: its last one, if it failed with the same error.

    A failed step that the function caught and went on from stays as it is: running that again would change its history.
    """
    calls = [s for s in steps if s.kind in (Kind.STEP, Kind.DISPATCH, Kind.SLEEP)]
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
