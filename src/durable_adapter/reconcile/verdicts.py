"""A person's verdict on a step: it happened, it did not, or it failed; and what each means for the workflow.

A verdict is a compare-and-set on the step's status and token (P4): where it loses, the truth that came first stands and
is told.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..codec import Stored
from ..errors import StepFailed
from ..journal import Ended
from ..journal.doubts import NOT_OVER
from ..model import (
    OPEN_WORKFLOWS,
    Attention,
    Effect,
    Shape,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
)
from ..runtime.engine import engine_of
from ..runtime.values import write_failure
from .case import may_lack_calls, ready
from .changes import Change, Operator, Outcome
from .commands import workflow_word
from .consequences import may_be_caught
from .words import EFFECTS, moment, process, span, status_words, vocabulary

if TYPE_CHECKING:
    from ..journal.orders import Change as Carried


class Verdict(enum.StrEnum):
    """What a person may say of a step."""

    HAPPENED = "happened"
    DID_NOT_HAPPEN = "did not happen"
    FAILED = "failed"


def decidable(run: WorkflowRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The steps of a run that wait for a person's verdict."""
    waiting = [s for s in steps if s.status in (StepStatus.HELD, StepStatus.IN_DOUBT) or _failed_unknown(s)]
    return waiting or stopped_at(run, steps)


def stopped_at(run: WorkflowRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The unmarked members at which a canvas stands: what they come after has ended, and their own end is not recorded."""
    if run.shape is not Shape.CANVAS or run.status is not WorkflowStatus.RUNNING:
        return []
    return [step for step, _ in ready(run, steps) if not step.kind.marked]


def _failed_unknown(step: StepRow) -> bool:
    return step.status is StepStatus.FAILED and step.effect is Effect.UNKNOWN


def decide(
    operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict, value: Stored | None = None
) -> Change:
    """Makes the change that a verdict is.

    Raises:
        NotResolvable: the step is in no state in which a person decides, or this verdict does not fit it; says what it is,
            and what can be done instead.
    """
    if not step.kind.marked:
        return _unmarked(operator, run, steps, step, verdict, value)
    _check(operator, run, steps, step, verdict)
    match verdict:
        case Verdict.HAPPENED:
            assert value is not None
            return _happened(operator, run, steps, step, value)
        case Verdict.DID_NOT_HAPPEN:
            return _did_not_happen(operator, run, steps, step)
        case Verdict.FAILED:
            return _failed(operator, run, steps, step)


def _check(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict) -> None:
    """Makes sure that this verdict fits this step."""
    if step.attention == Attention.VALUE_MISSING and verdict is not Verdict.HAPPENED:
        why = f"certainly happened; only its value is missing ({step.doubt}). Give it with --happened VALUE."
        raise operator.refusal(run, why, step)
    if step.attention == Attention.DRIFT and step.status is StepStatus.HELD and verdict is not Verdict.FAILED:
        retry = operator.caller.command("retry", ids=[workflow_word(run)])
        why = (
            "is held because its code does not fit what is recorded, not because its effect is unknown. Deploy code that fits "
            f"and run `{retry}`, or end the workflow with --failed."
        )
        if may_lack_calls(step):
            why = (
                f"is held because {step.doubt}, so that calls of it may have no record. Once you know that nothing is "
                f"missing, run `{retry}`: a call without a record runs again. Or end it with --failed."
            )
        raise operator.refusal(run, why, step)
    if step.status in (StepStatus.HELD, StepStatus.IN_DOUBT):
        return
    if not _failed_unknown(step):
        raise operator.refusal(run, f"is not in doubt: {_state(operator, run, steps, step)}", step)
    if verdict is Verdict.FAILED:
        why = (
            "has failed already; what is open is whether its effect happened: say --happened VALUE or --did-not-happen, or take "
            "it off the list with --acknowledge."
        )
        raise operator.refusal(run, why, step)


def _state(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> str:
    """What a step that is not in doubt is, and what can be done about it."""
    match step.status:
        case StepStatus.BEGUN:
            worker = operator.journal.workers.get(step.worker or "")
            sweep = operator.caller.sweep("--once", engines=[step.engine or run.engine])
            what = "it ends by itself."
            if worker is None or worker.has_ended:
                what = f"its process is gone; the next sweep puts it in doubt (`{sweep}`)."
            return f"attempt {step.attempt} is running on {process(worker, step.worker)}, and {what}"
        case StepStatus.SUCCEEDED:
            return f"it succeeded at {moment(step.ended_at or 0)}, and nothing about it is open."
        case StepStatus.FAILED:
            return f"it failed, and its effect {EFFECTS[step.effect or Effect.UNKNOWN]}. `retry` runs it again."
        case StepStatus.WAITING:
            return f"its next attempt is due at {moment(step.next_check_at or 0)}."
        case StepStatus.PLANNED:
            return "it has not begun."
        case _:
            return f"it is {status_words(step.status)}."


def _happened(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, value: Stored) -> Change:
    target = next((s.name for s in steps if s.key == step.target), step.target)
    means = f": {target} is undone" if step.kind.undoes else ", with the value you gave"
    return operator.change(
        run, steps, step, (step.key,),
        action="happened",
        would=f"record that {step.name} happened{means}",
        act=lambda: operator.journal.verdicts.happened(step, value, **operator.signature),
        tell=lambda carried: _told(operator, run, step, carried, f"{step.name} is recorded as happened."),
    )  # fmt: skip


def _did_not_happen(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
    _refuse_while_running(operator, run, step)
    return operator.change(
        run, steps, step, (step.key,),
        action="did not happen",
        would=f"record that {step.name} did not happen",
        act=lambda: operator.journal.verdicts.did_not_happen(step, **operator.signature),
        tell=lambda carried: _told(operator, run, step, carried, f"{step.name} is recorded as not happened."),
    )  # fmt: skip


def _refuse_while_running(operator: Operator, run: WorkflowRow, step: StepRow) -> None:
    """Not while the attempt may still act: a new one would run beside it (P3).

    Raises:
        NotResolvable: a living process says that it runs it.
    """
    if step.over_at is None or step.over_at <= operator.journal.time():
        return
    worker = operator.journal.workers.get(step.worker or "")
    if worker is None or worker.has_ended or not worker.names(step):
        return
    until = "until it returns" if step.over_at >= NOT_OVER else f"until it returns, or {moment(step.over_at)}"
    why = (
        f"may still be running: {process(worker, step.worker)} says so. What has not happened yet may happen. Wait {until}; its "
        "own outcome then decides. Or end that process, and try again."
    )
    raise operator.refusal(run, why, step)


def _failed(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
    _refuse_while_running(operator, run, step)
    fails_run = not may_be_caught(run, step) and not step.kind.undoes
    said = f"{operator.who}: failed: {operator.why}"
    return operator.change(
        run, steps, step, (step.key,),
        action="failed",
        would=f"record that {step.name} failed for good and left no effect",
        act=lambda: operator.journal.ends.fail(
            step, None, step.error or _decided(operator), Effect.DID_NOT_HAPPEN, fails_run=fails_run, who=operator.who, why=said
        ),
        tell=lambda carried: _told(operator, run, step, carried, f"{step.name} is recorded as failed, without an effect."),
    )  # fmt: skip


def _decided(operator: Operator) -> bytes:
    """The error of a step that a person calls failed."""
    return write_failure(StepFailed(f"{operator.who} decided that it failed: {operator.why}"))


def _unmarked(
    operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict, value: Stored | None
) -> Change:
    """A chain that stands at a member which is not marked."""
    if step.key not in {s.key for s in stopped_at(run, steps)}:
        state = _state(operator, run, steps, step)
        raise operator.refusal(run, f"is not marked durable, and the chain does not stand there: {state}", step)
    if verdict is Verdict.DID_NOT_HAPPEN:
        return _send_unmarked(operator, run, steps, step)
    failed = verdict is Verdict.FAILED

    def tell(carried: Carried[bool]) -> Outcome:
        following = "" if failed or step.completes_run else _send_next(operator, run, step)
        return Outcome(True, f"The end of {step.name} is recorded.", following)

    return operator.change(
        run, steps, step, (step.key,),
        action=verdict.value,
        would=f"record that {step.name} " + ("failed" if failed else "ran, with the value you gave"),
        act=lambda: operator.journal.members.record_unmarked(
            run.ref, step.key, value, failed=_decided(operator) if failed else None, **operator.signature
        ),
        tell=tell,
    )  # fmt: skip


def _send_unmarked(operator: Operator, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
    """An unmarked member's message is sent again because a person says that it did not run."""
    engine = engine_of(run, step, operator.engines)
    if engine is None:
        needed = _needed(step.engine or run.engine)
        raise operator.refusal(
            run, f"is not marked durable: to send it again {needed}. Or say --happened VALUE or --failed.", step
        )  # fmt: skip
    journal = operator.journal

    def act() -> bool:
        if not journal.due.check_now(run.ref, who=operator.who, why=f"{step.name} did not happen: {operator.why}"):
            return False
        journal.due.count_resend(run.ref, step.key, f"{operator.who} says that it did not run: {operator.why}")
        journal.runs.mark(run.ref, None)
        return True

    def tell(carried: Carried[bool]) -> Outcome:
        engine.send_step(run, step, carried.steps)
        return Outcome(True, f"{step.name} was sent again.", "Its end is recorded when its worker reports it.")

    return operator.change(
        run, steps, step, (step.key,),
        action="did not happen",
        would=f"send {step.name} again",
        act=act,
        tell=tell,
        check=lambda fresh: None if step.key in {s.key for s in stopped_at(run, fresh)}
        else f"the chain no longer stands at {step.name}",
    )  # fmt: skip


def _send_next(operator: Operator, run: WorkflowRow, step: StepRow) -> str:
    """Sends what follows an unmarked member, and says so."""
    steps = operator.journal.reads.steps(run.ref)
    following = [s for s, _ in ready(run, steps) if step.key in (s.after or ())]
    if run.engine in operator.engines:
        return " ".join(operator.send(run, s, steps) for s in following)
    wait, option = span(operator.journal.resend_after), vocabulary(run.engine).option
    sooner = f"; with {option} it is sent at once" if option else ""
    return " ".join(f"The sweepers send {s.name} after {wait}{sooner}." for s in following)


def _told(operator: Operator, run: WorkflowRow, step: StepRow, carried: Carried[Ended], says: str) -> Outcome:
    """What became of a verdict."""
    sent, now = operator.hurry(run, carried.result.decision), carried.run
    state = f"The workflow is {status_words(now.status)}." if now is not None else ""
    if not sent and now is not None and now.status in OPEN_WORKFLOWS and step.status is not StepStatus.FAILED:
        sent = operator.sending.due(step.engine or run.engine)
    return Outcome(True, says, f"{state} {sent}".strip())


def _needed(engine: str) -> str:
    """Which option is missing where a message of an engine has to be sent."""
    match engine:
        case "celery":
            return "its app is needed. Give it with -A, as `celery -A` takes it"
        case "rq":
            return "RQ's Redis is needed. Give it with -u redis://..., or with -c MODULE, as RQ's own commands take them"
        case _:
            return f"its engine {engine!r} is needed, and no option of this command reaches that"
