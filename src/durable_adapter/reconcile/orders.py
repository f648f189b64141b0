"""A person's orders about a whole run: go on, roll back, cancel, take it off the list. What each would do is said first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import NotResolvable, StepFailed
from ..journal.engine_ends import is_ended_by_engine
from ..journal.undo import happened_after_all, passed_pivot, undecided
from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    OPEN_WORKFLOWS,
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
from ..runtime.doubt import inside_window
from .case import may_lack_calls
from .changes import Change, Outcome, Person
from .commands import VALUE, Caller, step_word, workflow_word
from .foresight import Order, Verb
from .sending import Sending
from .verdicts import hurry
from .words import plural, status_words

if TYPE_CHECKING:
    from ..journal import Decision, Journal
    from ..journal.orders import Carried
    from ..runtime.engine import Engine

_FAILED = frozenset({WorkflowStatus.FAILED, WorkflowStatus.FAILING, WorkflowStatus.CANCELLED})
_CANCELLABLE = FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}
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
        self._person = Person(journal, who, why, caller)
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
            return self._release(run, steps, drifted)
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
                    f"{self._verdicts(run, steps, blocked[0])}. {self._explain(run)}"
                )
            return self._reopen(run, steps, failed)
        if run.status in OPEN_WORKFLOWS:
            return self._look_now(run, steps)
        raise NotResolvable(
            f"{workflow_word(run)} is {run.status.value.replace('_', ' ')}: there is nothing to go on with. {self._explain(run)}"
        )

    def _release(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
        lacks = may_lack_calls(step)
        then = "calls without a record run again" if lacks else "if it still does not fit, it is held again"

        def tell(carried: Carried[bool]) -> Outcome:
            if not carried.result:
                return self._person.too_late(run, f"{step.name} was let go, or decided otherwise", step.key)
            now = next(s for s in carried.steps if s.key == step.key)
            if now.status not in OPEN_STEPS:
                return Outcome(True, f"{step.name} is {status_words(now.status)}: the workflow does not go forward.")
            sent = self.sending.due(step.engine or run.engine)
            return Outcome(True, f"{step.name} runs again. {then[:1].upper()}{then[1:]}.", sent)

        return self._person.change(
            run, steps, step, Order(Verb.RELEASE, (step.key,)),
            action="retry",
            would=f"let {step.name} run again from the top, with what is recorded; {then}",
            act=lambda: self._journal.doubts.release(step, who=self._who, why=self._why),
            tell=tell,
        )  # fmt: skip

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
        inside = step.safety is Safety.IDEMPOTENT and self._inside_window(step)
        if inside or step.safety is Safety.TRANSACTIONAL:
            return
        why = "its idempotency window has passed, and " if step.safety is Safety.IDEMPOTENT else ""
        raise NotResolvable(
            f"step {step.name} of {workflow_word(run)} failed, and its effect may have happened: {why}running it again might "
            f"repeat it. First say what happened: {self._verdicts(run, steps, step)}. {self._explain(run)}"
        )

    def _inside_window(self, step: StepRow) -> bool:
        """Whether the provider still remembers the step's key, counted as the runtime counts."""
        return inside_window(step, int(step.options.get("window") or 0), self._journal.time())

    def _reopen(self, run: WorkflowRow, steps: Sequence[StepRow], failed: Sequence[StepRow]) -> Change:
        unbegun = [s.name for s in failed if is_ended_by_engine(s) and s.status is StepStatus.CANCELLED]
        again = [s.name for s in failed if s.kind is not Kind.FUNCTION and s.name not in unbegun]
        failed_functions = [s for s in failed if s.kind is Kind.FUNCTION and s.name not in unbegun]
        parts = [f"run {', '.join(again)} again"] if again else []
        if unbegun:
            parts.append(f"run {', '.join(unbegun)}, which has not begun")
        if failed_functions:
            parts.append(f"run {run.name} again from the top, with what is recorded")
        keys = tuple(s.key for s in failed)

        def tell(carried: Carried[bool]) -> Outcome:
            if not carried.result:
                return self._changed(run)
            return Outcome(True, f"{workflow_word(run)} goes on.", self.sending.due(run.engine))

        return self._person.change(
            run, steps, failed[0] if len(failed) == 1 else None, Order(Verb.REOPEN, keys),
            action="retry",
            would="; ".join(parts) or "take the workflow up again",
            act=lambda: self._journal.runs.reopen(
                run.ref, list(keys), who=self._who, why=self._why, now=self._person.now
            ),
            tell=tell,
        )  # fmt: skip

    def _look_now(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        held = [s for s in steps if s.status is StepStatus.HELD]
        if held:
            raise NotResolvable(
                f"step {held[0].name} of {workflow_word(run)} is held: only a verdict takes it further. Say which: "
                f"{self._verdicts(run, steps, held[0])}. {self._explain(run)}"
            )

        def tell(carried: Carried[bool]) -> Outcome:
            if not carried.result:
                return self._changed(run)
            return Outcome(True, f"{workflow_word(run)} is due now.", self.sending.due(run.engine))

        return self._person.change(
            run, steps, None, Order(Verb.LOOK),
            action="retry",
            would="look at it now: what is due is sent, and what is lost is sent again, if the promises allow it",
            act=lambda: self._journal.runs.look_now(run.ref, who=self._who, why=self._why),
            tell=tell,
        )  # fmt: skip

    def rollback(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        """Undoes what happened, in reverse order, and cancels what has not begun.

        Raises:
            NotResolvable: a pivot has passed or is not decided, nothing can be undone, or it is under way already.
        """
        word = workflow_word(run)
        if is_undone(run):
            hint = f"`{self._caller.command('retry', ids=[word])}` tries failed compensations again."
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
        if not any(s.compensation and (s.status is StepStatus.SUCCEEDED or undecided(s) or happened_after_all(s)) for s in steps):
            cancel = f"`{self._caller.command('cancel', ids=[word])}` ends it without undoing anything. "
            raise NotResolvable(
                f"{word} has nothing to undo: no step of it that happened declares compensate=. "
                f"{cancel if run.status in _CANCELLABLE else ''}{self._explain(run)}"
            )

        def pivot_was_passed(fresh: Sequence[StepRow]) -> str | None:
            return "its pivot was passed" if passed_pivot(fresh) is not None else None

        def tell(carried: Carried[Decision | None]) -> Outcome:
            if carried.result is None:
                return self._changed(run)
            return Outcome(True, f"{word} is being rolled back.", hurry(self._journal, self._engines, run, carried.result))

        return self._person.change(
            run, steps, None, Order(Verb.ROLLBACK),
            action="rollback",
            would="undo in reverse order what happened, and cancel what has not begun",
            act=lambda: self._journal.undo.begin(run.ref, who=self._who, why=self._why),
            tell=tell,
            check=pivot_was_passed,
        )  # fmt: skip

    def cancel(self, run: WorkflowRow, steps: Sequence[StepRow]) -> Change:
        """Cancels what has not begun, and with it the run. Undoes nothing.

        Raises:
            NotResolvable: it has ended, or is being rolled back.
        """
        word = workflow_word(run)
        if run.status not in _CANCELLABLE:
            what = "is being rolled back: that goes on" if run.status is WorkflowStatus.ROLLING_BACK else f"is {run.status.value}"
            raise NotResolvable(f"{word} {what.replace('_', ' ')}; there is nothing to cancel. {self._explain(run)}")
        undoable = [s.name for s in steps if s.compensation and s.status is StepStatus.SUCCEEDED]
        warnings = []
        if undoable:
            rollback = self._caller.command("rollback", ids=[word])
            warnings.append(f"{', '.join(undoable)} happened and can be undone: `{rollback}` would do that, `cancel` does not")

        def tell(carried: Carried[list[str]]) -> Outcome:
            left = [s.name for s in carried.steps if s.key in carried.result]
            return Outcome(True, f"{word} is cancelled.", f"Still to be settled: {', '.join(left)}." if left else "")

        return self._person.change(
            run, steps, None, Order(Verb.CANCEL),
            action="cancel",
            would="cancel what has not begun, and with it the workflow",
            act=lambda: self._journal.runs.cancel(run.ref, who=self._who, why=self._why),
            tell=tell,
            warnings=warnings,
        )  # fmt: skip

    def acknowledge(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow | None = None) -> Change:
        """Takes what needs nothing more off the list: marked steps, or the run with all of them. Changes no outcome.

        Raises:
            NotResolvable: nothing is marked; or it is held, so that it is not for acknowledging.
        """
        word = workflow_word(run)
        marked = [s for s in ([step] if step is not None else steps) if s.marks]
        waiting = next((s for s in marked if s.status in OPEN_STEPS), None)
        if waiting is not None:
            raise NotResolvable(
                f"step {waiting.name} of {word} is {waiting.status.value} and waits for a verdict; acknowledging would not give "
                f"one. {self._explain(run)}"
            )
        messages = self._journal.reads.refused(ref=run.ref) if step is None else []
        if not marked and not messages and (step is not None or run.attention is None):
            what = f"step {step.name} of {word}" if step is not None else word
            raise NotResolvable(f"nothing about {what} is marked for a person. {self._explain(run)}")
        names = ", ".join(f"{s.name} ({', '.join(_MARKS.get(mark, mark) for mark in s.marks)})" for s in marked)
        also_run = step is None or not [s for s in steps if s.marks and s.key != step.key]

        def carry_out() -> Outcome:
            for row in marked:
                self._journal.doubts.acknowledge(row.ref, row.key, who=self._who, why=self._why)
            if messages or (also_run and run.attention is not None):
                self._journal.runs.acknowledge(run.ref, who=self._who, why=self._why)
            return Outcome(True, f"{word} is off the list.", "")

        if messages:
            names = ", ".join(filter(None, [names, plural(len(messages), "refused message")]))
        would = f"take {names or word} off the list of findings; no outcome changes"
        return Change(word, run.ref, step, "acknowledge", would, carry_out)

    def acknowledge_refused(self, ref: str, namespace: str) -> Change | None:
        """Takes the refused messages of a run that the journal does not have off the list, until another comes.

        Returns:
            None where no message of such a run was refused in this namespace.
        """
        messages = [m for m in self._journal.reads.refused(ref=ref) if (m.namespace or namespace) == namespace]
        if not messages:
            return None

        def carry_out() -> Outcome:
            self._journal.runs.acknowledge(ref, who=self._who, why=self._why)
            return Outcome(True, f"{ref} is off the list.")

        would = f"take {plural(len(messages), 'refused message')} of run {ref} off the list"
        return Change(ref, ref, None, "acknowledge", would, carry_out)

    def _changed(self, run: WorkflowRow) -> Outcome:
        fresh = self._journal.reads.run(run.ref)
        state = status_words(fresh.status) if fresh is not None else "no longer in the journal"
        return self._person.too_late(run, f"{workflow_word(run)} became {state}")

    def _verdicts(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> str:
        """The commands that say what became of a step, each whole."""
        given = [("--happened", VALUE), ("--did-not-happen",), *([] if step.status is StepStatus.FAILED else [("--failed",)])]
        place = workflow_word(run), step_word(step, steps)
        return " or ".join(f"`{self._caller.command('resolve', *words, ids=place)}`" for words in given)

    def _explain(self, run: WorkflowRow) -> str:
        return self._person.explain(run)


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
