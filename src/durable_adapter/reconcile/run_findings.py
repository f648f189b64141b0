"""Findings about runs as a whole, and about messages that belong to none: one function a kind. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..journal.engine_ends import after, is_ended_by_engine
from ..journal.reads import RefusedMessage
from ..journal.undo import still_to_undo, undecided, undoable
from ..model import (
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    SLEEPS,
    UNDOING_WORKFLOWS,
    Attention,
    Cause,
    Shape,
    StepRow,
    StepStatus,
    WorkflowStatus,
    function_of,
    in_place,
)
from ..recovery.lost import GONE
from ..runtime.order import behind, may_fail
from .case import Case, Surroundings
from .commands import VALUE
from .finding import Finding, Remedy, Trouble
from .step_findings import OVERDUE, PATIENCE, verdicts
from .words import plural, sentence, since, span, status_words, vocabulary

#: How often an unmarked member's message must have been delivered again before people are told.
AGAIN = 2
#: How often the sweeper tries by itself before people are told that it does not help.
TRIES = 3


def lost(case: Case) -> Iterator[Finding]:
    """What is due and has not begun: its message may be lost. Whether it is, the sweeper judges, who can ask the broker."""
    for step, due, why in _due(case):
        gone = _gone(case, step)
        message = case.vocabulary(step).message
        certain = why + (f" Its {message} was sent again {plural(case.run.resends, 'time')}." if case.run.resends else "")
        queue = f"the queue {step.queue!r}" if step.queue else "its queue"
        if gone is None:
            certain = " ".join(filter(None, (certain, case.says(step))))
            uncertain = f"whether its {message} is lost or still waits in {queue}, and whether a worker serves that"
            uncertain += " queue" if step.queue else ""
        else:
            certain = " ".join(filter(None, (certain, case.says(step), _contradicted(case, step))))
            uncertain = "" if gone else f"whether a worker serves {queue}"
        again = "it is sent again if the promises allow it"
        yield case.find(
            Trouble.LOST,
            step,
            due,
            certain,
            uncertain,
            Remedy(f"to look at it now: {again}", case.order("retry")),
            safe=True,
        )


def _gone(case: Case, step: StepRow) -> bool | None:
    """Whether the engine certainly has no message of a step; None where nobody can be asked, or it cannot say."""
    witness = case.witness(step)
    return witness.is_gone(step) if witness is not None else None


def _contradicted(case: Case, step: StepRow) -> str:
    """That the engine calls failed what comes before a step and is recorded as done; empty where it does not."""
    witness = case.witness(step)
    if witness is None:
        return ""
    before = [s for s in case.members if s.key in (step.after or ()) and s.status is StepStatus.SUCCEEDED]
    failed = [s.name for s in before if (end := witness.outcome(s)) is not None and not end.succeeded]
    if not failed:
        return ""
    return f"RQ says that {', '.join(failed)} failed; the journal has its result, and that is what counts."


def _due(case: Case) -> Iterator[tuple[StepRow, int, str]]:
    """Steps that are due without having begun, since when, and why that is known."""
    now = case.look.now
    for step in case.steps:
        if step.status is StepStatus.WAITING and _overdue(step, now) and not case.runs(step):
            yield (
                step,
                step.next_check_at or now,
                f"It has been due since {since(step.next_check_at, now)}, and no attempt has begun.",
            )
    if case.run.status not in FORWARD_WORKFLOWS:
        return
    if case.run.shape is Shape.FUNCTION:
        yield from _due_function(case)
    for step, at in _silent(case):
        if step.kind.marked:
            yield step, at, f"It was to begin {since(at, now)}, and has not."


def _overdue(step: StepRow, now: int) -> bool:
    """Whether a waiting step is due and nobody began it; one whose message was just sent is given a while."""
    if step.next_check_at is None or step.next_check_at > now - OVERDUE:
        return False
    return step.sent_at is None or step.sent_at < now - OVERDUE or step.next_check_at < now - PATIENCE


def _silent(case: Case) -> Iterator[tuple[StepRow, int]]:
    """The members at which a canvas stands, and since when, if that is longer than a message may take."""
    for step, at in case.ready:
        if not case.runs(step) and _too_long(case, step, at):
            yield step, at


def _too_long(case: Case, step: StepRow, at: int) -> bool:
    """Whether it means something that a step which was sent at a time has not begun.

    Not while its countdown runs, and not while a message that was lost has just been sent again. A message of which the
    engine says that it is nowhere is given only as long as its publication may take.
    """
    run, now, wait = case.run, case.look.now, case.look.resend_after
    silence = now - at - int(step.options.get("delay") or 0)
    being_sent_again = 0 < run.resends < TRIES and (run.next_check_at or now) > now
    if silence < GONE or being_sent_again:
        return False
    gone = _gone(case, step)
    if not step.kind.marked and gone is False:
        return False  # its engine has it: it waits or runs, as it is to
    return silence >= 2 * wait or gone is True


def _due_function(case: Case) -> Iterator[tuple[StepRow, int, str]]:
    """A function that nobody wakes, and steps that it sent and nobody began."""
    run, now = case.run, case.look.now
    function = function_of(case.steps)
    if function is None:
        return
    for step in case.steps:
        sent = step.kind.awaited and step.status is StepStatus.PLANNED
        if sent and not case.runs(step) and _too_long(case, step, step.created_at):
            yield step, step.created_at, f"It was sent {since(step.created_at, now)}, and no attempt has begun."
    if function.status is not StepStatus.PLANNED or case.runs(function):
        return
    if run.status is WorkflowStatus.SUSPENDED and run.wake_at is not None:
        runs = any(s.kind.in_place and s.status in OPEN_STEPS for s in case.steps)
        if max(run.wake_at, case.newest) < now - OVERDUE and not runs:
            yield function, run.wake_at, f"It was to be woken {since(run.wake_at, now)}, and has not begun to run."
        return
    waits = any(s.status in OPEN_STEPS for s in case.members if s is not function and s.kind.marked)
    if not waits and _too_long(case, function, case.newest):
        yield function, case.newest, f"Nothing of it has happened since {since(case.newest, now)}, and it waits for nothing."


def stopped_at_unmarked(case: Case) -> Iterator[Finding]:
    """Chains that stand at a member which is not marked: nobody but its own worker knows whether it ran."""
    if case.run.status is not WorkflowStatus.RUNNING or case.run.shape is not Shape.CANVAS:
        return
    again = [(s, s.begun_at or case.newest) for s in case.members if _begins_again(s)]
    for step, at in [*again, *((s, at) for s, at in _silent(case) if not _begins_again(s))]:
        if step.kind.marked or _goes_on_without(case, step):
            continue
        certain = f"The chain reached {step.name} {since(at, case.look.now)}. It is not marked durable, and its end was not "
        if _begins_again(step):
            certain = (
                f"The message of {step.name} came again {plural(step.attempt, 'time')}, last {since(at, case.look.now)}: "
                "its worker may die of it each time. It is not marked durable, and its end was not "
            )
        tasks = f"{case.vocabulary(step).task}s"
        yield case.find(
            Trouble.STOPPED_AT_UNMARKED,
            step,
            at,
            f"{certain}recorded. {case.says(step)}".rstrip(),
            f"whether it ran, is running, or waits in its queue: only marked {tasks} are recorded and sent again",
            Remedy("if it ran: VALUE is what it returned, as JSON; the chain goes on behind it",
                   case.resolve(step, "--happened", VALUE)),
            Remedy("if it did not run: it is sent again",
                   case.resolve(step, "--did-not-happen", sends=True)),
            Remedy("to fail the workflow, and undo what can be undone", case.resolve(step, "--failed")),
        )  # fmt: skip


def _begins_again(step: StepRow) -> bool:
    """Whether an unmarked member was delivered again and again, and has not ended."""
    return not step.kind.marked and step.status is StepStatus.PLANNED and step.attempt >= AGAIN


def _goes_on_without(case: Case, step: StepRow) -> bool:
    """Whether a step failed for its engine, and all that comes after it begins all the same."""
    witness = case.witness(step)
    end = witness.outcome(step) if witness is not None else None
    return end is not None and may_fail(behind(step, case.members))


def ended_by_engine(case: Case) -> Iterator[Finding]:
    """Runs of which the engine ended a task on purpose before it began: nobody but a person starts it."""
    run = case.run
    if run.attention != Attention.ENDED_BY_ENGINE or run.status in UNDOING_WORKFLOWS:
        return
    step = next((s for s in case.members if is_ended_by_engine(s)), None)
    if step is None:
        return
    ended = case.told(step.evidence)
    words = case.vocabulary(step)
    certain = f"{words.engine} ended the {words.task} of {step.name} {since(step.ended_at, case.look.now)}"
    certain += f": {ended}." if ended else "."
    certain += " It had not begun, and is not sent again by itself."
    if step.status is StepStatus.FAILED:
        certain += " An earlier attempt may have had its effect."
    behind = [s.name for s in after(step, case.steps) if s.status is StepStatus.CANCELLED]
    if behind:
        certain += f" What comes after it does not run: {', '.join(behind)}."
    remedies = [Remedy("if it is to run after all", case.order("retry"))]
    if can_be_undone := [s.name for s in undoable(case.steps)]:
        what = f"if it is not to run: to undo what was done before it ({', '.join(can_be_undone)})"
        remedies.append(Remedy(what, case.order("rollback")))
    remedies.append(Remedy("if it is to stay as it is", case.acknowledge()))
    yield case.find(Trouble.ENDED_BY_ENGINE, step, step.ended_at, certain, "", *remedies)


def not_taken(case: Case) -> Iterator[Finding]:
    """Steps whose message a worker threw away unread: it does not know the task, or may not read the message."""
    if case.run.status not in FORWARD_WORKFLOWS:
        return
    for step in case.members:
        if step.cause != Cause.NOT_TAKEN or step.status is not StepStatus.PLANNED or not step.evidence:
            continue
        text = f"{sentence(case.told(step.evidence))} Its message is sent again by itself."
        send = Remedy("once workers there know it, to send it now", case.order("retry"))
        yield case.find(
            Trouble.UNKNOWN_TASK,
            step,
            case.newest,
            text,
            "whether any worker on that queue takes it: the code there may be old, or the task renamed",
            send,
        )


def rollback_unfinished(case: Case) -> Iterator[Finding]:
    """Rollbacks, and decisions about one, that have stopped before their end."""
    run, look = case.run, case.look
    if run.status not in (WorkflowStatus.ROLLING_BACK, WorkflowStatus.FAILING):
        return
    silence, looked_at = look.now - case.newest, (run.next_check_at or 0) > look.now
    if silence < look.resend_after or (looked_at and silence < TRIES * look.resend_after):
        return
    what = "is being rolled back" if run.status is WorkflowStatus.ROLLING_BACK else "failed, and its pivot is not decided"
    certain = f"The workflow {what}; nothing of it has been recorded since {since(case.newest, look.now)}."
    left = [s.name for s in still_to_undo(case.steps)]
    if left:
        certain += f" Still to be undone: {', '.join(left)}."
    blocking = [s for s in case.steps if undecided(s) and (s.compensation or s.pivot or s.kind.undoes)]
    if blocking:
        step = blocking[0]
        certain += f" It waits for a verdict on {step.name}, which is {status_words(step.status)}."
        yield case.find(
            Trouble.ROLLBACK_UNFINISHED, step, case.newest, certain, "whether that step's effect happened",
            *verdicts(case, step)[: 3 if step.status in OPEN_STEPS else 2],
        )  # fmt: skip
        return
    order = case.order("retry")
    yield case.find(
        Trouble.ROLLBACK_UNFINISHED, None, case.newest, certain,
        f"whether the next compensation's {case.vocabulary().message} is lost",
        Remedy("to go on undoing now", order), safe=True,
    )  # fmt: skip


def waiting_long(case: Case) -> Iterator[Finding]:
    """Runs that wait for longer than was asked about."""
    look, run = case.look, case.run
    if look.longer_than is None or run.status not in FORWARD_WORKFLOWS:
        return
    if look.now - case.newest <= look.longer_than or any(case.runs(s) for s in case.steps):
        return
    what = run.waiting_for
    asleep = next((s for s in case.steps if s.kind.timed and s.status is StepStatus.WAITING), None)
    if what is None or what.startswith(SLEEPS):
        following = next((step for step, _ in case.ready), None)
        what = (
            f"{asleep.kind.timed.noun} that ends {since(asleep.next_check_at, look.now)}"
            if asleep is not None and asleep.kind.timed
            else f"{following.name} to begin"
            if run.shape is Shape.CANVAS and following is not None
            else "its next step"
        )
    certain = f"Nothing of it has been recorded for {span(look.now - case.newest)}. It waits for {what}."
    if run.wake_at is not None and asleep is None:
        certain += f" It is woken {since(run.wake_at, look.now)}."
    explain = Remedy("to see what it waits for", look.caller.command("explain", ids=[run.ref]))
    yield case.find(Trouble.WAITING_LONG, None, case.newest, certain, "whether it should still wait", explain)


def unknown_task(case: Case) -> Iterator[Finding]:
    """Unfinished runs that need a task which the app no longer has."""
    knows = case.look.knows
    if knows is None or case.run.status not in FORWARD_WORKFLOWS | {WorkflowStatus.FAILING, WorkflowStatus.ROLLING_BACK}:
        return
    told: set[str] = set()
    for step in case.steps:
        if in_place(case.run, step) or step.status not in OPEN_STEPS or step.name in told or knows(case.engine(step), step.name):
            continue
        told.add(step.name)
        cancel = case.order("cancel")
        yield case.find(
            Trouble.UNKNOWN_TASK,
            step,
            case.newest,
            f"It is {status_words(step.status)}, and {case.vocabulary(step).code} {step.name!r}.",
            "whether another service has it, or a deploy removed or renamed it",
            Remedy(f"to end the workflow; else deploy code that has the {case.vocabulary(step).task} under this name", cancel),
        )


def refused(look: Surroundings, messages: Iterable[RefusedMessage], namespace: str) -> Iterator[Finding]:
    """Messages that named what this journal does not have, or that did not fit it; each run once, until a person has seen it."""
    by_ref: dict[str, list[RefusedMessage]] = {}
    for message in messages:
        if (message.namespace or namespace) == namespace:
            by_ref.setdefault(message.ref, []).append(message)
    for ref, of_it in by_ref.items():
        last = of_it[-1]
        worker = look.living.get(last.who or "")
        words = vocabulary(worker.engine if worker is not None else None)
        task = last.task or f"a {words.task}"
        seen = look.caller.change("resolve", "--acknowledge", ids=[ref])
        came, why = _lacking(last, words.message)
        yield Finding(
            kind=Trouble.REFUSED,
            workflow=ref,
            ref=ref,
            name=task,
            step=task,
            key=last.key,
            since=of_it[0].at,
            certain=f"{plural(len(of_it), words.message)} of {task} {came}; nothing was run.",
            uncertain=why,
            remedies=(Remedy("once you know where it came from", seen),),
        )


def _lacking(message: RefusedMessage, what: str) -> tuple[str, str]:
    """What a refused message named in vain, and what is not known of it."""
    elsewhere = f"or the {what} belongs to another journal or namespace"
    if message.lacks_run:
        return "came for a run that this journal does not have", f"why: the run was pruned or lost in a restore, {elsewhere}"
    if message.lacks_step:
        return (
            f"came for the step {message.key!r}, which this journal does not have; it has the run",
            f"why: the step was lost in a restore, its publication was taken back, {elsewhere}",
        )
    return f"did not fit its run: {message.why.rstrip('.')}", f"where the {what} came from"


#: Every function that finds trouble with a run as a whole.
RUN_FINDINGS = (ended_by_engine, not_taken, stopped_at_unmarked, lost, rollback_unfinished, waiting_long, unknown_task)
