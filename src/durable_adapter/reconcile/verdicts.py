"""A person's verdict on a step: it happened, it did not, or it failed; and what each means for the workflow.

A verdict is a compare-and-set on the step's status and token (P4): where it loses, the truth that came first stands and
is told.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..codec import Stored
from ..errors import NotResolvable, StepFailed
from ..journal import Decision, Ended
from ..journal.doubts import NOT_OVER
from ..model import (
    OPEN_WORKFLOWS,
    Attention,
    Effect,
    Kind,
    Shape,
    StepRow,
    StepStatus,
    WorkerRow,
    WorkflowRow,
    WorkflowStatus,
    attempt_name,
)
from ..runtime.engine import engine_of
from ..runtime.values import write_failure
from .case import may_lack_calls, ready
from .changes import Change, Outcome, Person
from .commands import Caller, workflow_word
from .foresight import Order, Verb, in_place
from .sending import Sending
from .words import moment, process, since, span, status_words, tongue

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.orders import Carried
    from ..runtime.engine import Engine


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
    return [step for step, _ in ready(run, steps) if step.kind is Kind.UNMARKED]


def _failed_unknown(step: StepRow) -> bool:
    return step.status is StepStatus.FAILED and step.effect is Effect.UNKNOWN


class Judge:
    """Turns verdicts into changes of one journal.

    Args:
        journal: the journal.
        who: the person.
        why: how they know.
        engines: the bindings that can send, by name.
        caller: how printed commands are called.
        stale: seconds of silence after which a worker may be declared dead.
        in_bulk: there are many verdicts: what they make due is sent behind the last one.
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

    def verdict(
        self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict, value: Stored | None = None
    ) -> Change:
        """The change that a verdict is.

        Raises:
            NotResolvable: the step is in no state in which a person decides, or this verdict does not fit it; says
                what it is, and what can be done instead.
        """
        if step.kind is Kind.UNMARKED:
            return self._unmarked(run, steps, step, verdict, value)
        self._check(run, steps, step, verdict)
        match verdict:
            case Verdict.HAPPENED:
                assert value is not None
                return self._happened(run, steps, step, value)
            case Verdict.DID_NOT_HAPPEN:
                return self._did_not_happen(run, steps, step)
            case Verdict.FAILED:
                return self._failed(run, steps, step)

    def _check(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict) -> None:
        """Whether this verdict fits this step."""
        where = f"step {step.name} of {workflow_word(run)}"
        explain = f"See `{self._caller.command('explain', ids=[workflow_word(run)])}`."
        if step.attention == Attention.VALUE_MISSING and verdict is not Verdict.HAPPENED:
            raise NotResolvable(
                f"{where} certainly happened; only its value is missing ({step.doubt}). Give it with --happened VALUE. {explain}"
            )
        if step.attention == Attention.DRIFT and step.status is StepStatus.HELD and verdict is not Verdict.FAILED:
            retry = self._caller.command("retry", ids=[workflow_word(run)])
            if may_lack_calls(step):
                raise NotResolvable(
                    f"{where} is held because {step.doubt}, so that calls of it may have no record. Once you know that nothing "
                    f"is missing, run `{retry}`: a call without a record runs again. Or end it with --failed. {explain}"
                )
            raise NotResolvable(
                f"{where} is held because its code does not fit what is recorded, not because its effect is unknown. Deploy "
                f"code that fits and run `{retry}`, or end the workflow with --failed. {explain}"
            )
        if step.status in (StepStatus.HELD, StepStatus.IN_DOUBT):
            return
        if _failed_unknown(step):
            if verdict is Verdict.FAILED:
                raise NotResolvable(
                    f"{where} has failed already; what is open is whether its effect happened: say --happened VALUE or "
                    f"--did-not-happen, or take it off the list with --acknowledge. {explain}"
                )
            return
        raise NotResolvable(f"{where} is not in doubt: {self._state(run, steps, step)} {explain}")

    def _state(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> str:
        """What a step that is not in doubt is, and what can be done about it."""
        match step.status:
            case StepStatus.BEGUN:
                worker = self._journal.workers.get(step.worker or "")
                dead = worker is None or worker.has_ended
                sweep = self._caller.sweep("--once", engines=[step.engine or run.engine])
                what = f"its process is gone; the next sweep puts it in doubt (`{sweep}`)." if dead else "it ends by itself."
                return f"attempt {step.attempt} is running on {process(worker, step.worker)}, and {what}"
            case StepStatus.SUCCEEDED:
                return f"it succeeded at {moment(step.ended_at or 0)}, and nothing about it is open."
            case StepStatus.FAILED:
                return (
                    f"it failed, and its effect {_EFFECTS.get(step.effect or Effect.UNKNOWN, 'is known')}. `retry` runs it again."
                )
            case StepStatus.WAITING:
                return f"its next attempt is due at {moment(step.look_at or 0)}."
            case StepStatus.PLANNED:
                return "it has not begun."
            case _:
                return f"it is {step.status.value}."

    def _happened(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, value: Stored) -> Change:
        would = f"record that {step.name} happened"
        if step.kind is Kind.COMPENSATION:
            target = next((s.name for s in steps if s.key == step.target), step.target)
            would += f": {target} is undone"
        else:
            would += ", with the value you gave"
        return self._person.change(
            run, steps, step, Order(Verb.HAPPENED, (step.key,)),
            action="happened",
            would=would,
            act=lambda: self._journal.doubts.happened(step, value, who=self._who, why=self._why),
            tell=lambda carried: self._told(run, step, carried, f"{step.name} is recorded as happened."),
        )  # fmt: skip

    def _did_not_happen(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
        self._refuse_while_running(run, step)
        return self._person.change(
            run, steps, step, Order(Verb.DID_NOT_HAPPEN, (step.key,)),
            action="did not happen",
            would=f"record that {step.name} did not happen",
            act=lambda: self._journal.doubts.did_not_happen(step, who=self._who, why=self._why),
            tell=lambda carried: self._told(run, step, carried, f"{step.name} is recorded as not happened."),
        )  # fmt: skip

    def _refuse_while_running(self, run: WorkflowRow, step: StepRow) -> None:
        """Not while the attempt may still act: a new one would run beside it (P3).

        Raises:
            NotResolvable: a living process says that it runs it.
        """
        if step.over_at is None or step.over_at <= self._journal.time():
            return
        worker = self._journal.workers.get(step.worker or "")
        if not _still_runs(worker, step):
            return
        until = "until it returns" if step.over_at >= NOT_OVER else f"until it returns, or {moment(step.over_at)}"
        raise NotResolvable(
            f"step {step.name} of {workflow_word(run)} may still be running: {process(worker, step.worker)} says so. What "
            f"has not happened yet may happen. Wait {until}; its own outcome then decides. Or end that process, and try again."
        )

    def _failed(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
        self._refuse_while_running(run, step)
        decides = not in_place(run, step) and step.kind is not Kind.COMPENSATION
        error = step.error or write_failure(StepFailed(f"{self._who} decided that it failed: {self._why}"))
        said = f"{self._who}: failed: {self._why}"
        return self._person.change(
            run, steps, step, Order(Verb.FAILED, (step.key,)),
            action="failed",
            would=f"record that {step.name} failed for good and left no effect",
            act=lambda: self._journal.ends.fail(
                step, None, error, Effect.DID_NOT_HAPPEN, decides=decides, who=self._who, why=said
            ),
            tell=lambda carried: self._told(run, step, carried, f"{step.name} is recorded as failed, without an effect."),
        )  # fmt: skip

    def _unmarked(
        self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow, verdict: Verdict, value: Stored | None
    ) -> Change:
        """A chain that stands at a member which is not marked."""
        if step.key not in {s.key for s in stopped_at(run, steps)}:
            raise NotResolvable(
                f"step {step.name} of {workflow_word(run)} is not marked durable, and the chain does not stand there: "
                f"{self._state(run, steps, step)} See `{self._caller.command('explain', ids=[workflow_word(run)])}`."
            )
        last = step.completes_run
        if verdict is Verdict.DID_NOT_HAPPEN:
            return self._send_unmarked(run, steps, step)
        failed = verdict is Verdict.FAILED
        error = write_failure(StepFailed(f"{self._who} decided that it failed: {self._why}")) if failed else None

        def tell(carried: Carried[bool]) -> Outcome:
            if not carried.result:
                return self._became(run, step)
            following = "" if failed or last else self._send_next(run, step)
            return Outcome(True, f"The end of {step.name} is recorded.", following)

        return self._person.change(
            run, steps, step, Order(Verb.UNMARKED_FAILED if failed else Verb.UNMARKED_RAN, (step.key,)),
            action=verdict.value,
            would=f"record that {step.name} " + ("failed" if failed else "ran, with the value you gave"),
            act=lambda: self._journal.runs.record_unmarked(
                run.ref, step.key, value, failed=error, who=self._who, why=self._why
            ),
            tell=tell,
        )  # fmt: skip

    def _send_unmarked(self, run: WorkflowRow, steps: Sequence[StepRow], step: StepRow) -> Change:
        """An unmarked member's message is sent again because a person says that it did not run."""
        engine = engine_of(run, step, self._engines)
        if engine is None:
            raise NotResolvable(
                f"step {step.name} of {workflow_word(run)} is not marked durable: to send it again "
                f"{_needed(step.engine or run.engine)}. Or say --happened VALUE or --failed."
            )

        def stands_elsewhere(fresh: Sequence[StepRow]) -> str | None:
            here = step.key in {s.key for s in stopped_at(run, fresh)}
            return None if here else f"the chain no longer stands at {step.name}"

        def act() -> bool:
            if not self._journal.runs.look_now(run.ref, who=self._who, why=f"{step.name} did not happen: {self._why}"):
                return False
            self._journal.runs.count_resend(run.ref, step.key, f"{self._who} says that it did not run: {self._why}")
            self._journal.runs.mark(run.ref, None)
            return True

        def tell(carried: Carried[bool]) -> Outcome:
            if not carried.result:
                return self._became(run, step)
            engine.send_step(run, step, carried.steps)
            return Outcome(True, f"{step.name} was sent again.", "Its end is recorded when its worker reports it.")

        return self._person.change(
            run, steps, step, Order(Verb.SEND_UNMARKED, (step.key,)),
            action="did not happen",
            would=f"send {step.name} again",
            act=act,
            tell=tell,
            check=stands_elsewhere,
        )  # fmt: skip

    def _send_next(self, run: WorkflowRow, step: StepRow) -> str:
        """What follows an unmarked member, and how it is told."""
        steps = self._journal.reads.steps(run.ref)
        following = [s for s, _ in ready(run, steps) if step.key in (s.after or ())]
        engine = self._engines.get(run.engine)
        if engine is None:
            wait, option = span(self._journal.runs.resend_after), tongue(run.engine).option
            sooner = f"; with {option} it is sent at once" if option else ""
            return " ".join(f"The sweepers send {s.name} after {wait}{sooner}." for s in following)
        return " ".join(send(engine, run, s, steps) for s in following)

    def _told(self, run: WorkflowRow, step: StepRow, carried: Carried[Ended], says: str) -> Outcome:
        """What became of a verdict."""
        if not carried.result.recorded:
            return self._became(run, step)
        sent = hurry(self._journal, self._engines, run, carried.result.decision)
        now = carried.run
        state = f"The workflow is {status_words(now.status)}." if now is not None else ""
        if not sent and now is not None and now.status in OPEN_WORKFLOWS and step.status is not StepStatus.FAILED:
            sent = self.sending.due(step.engine or run.engine)
        return Outcome(True, says, f"{state} {sent}".strip())

    def _became(self, run: WorkflowRow, step: StepRow) -> Outcome:
        """A verdict came too late: what the step became meanwhile."""
        row = self._journal.claims.look(step.ref, step.key)
        explain = self._person.explain(run)
        if row is None:
            return Outcome(False, f"{step.name} is no longer in the journal.", explain)
        now = self._journal.time()
        what = f"it is {status_words(row.status)}"
        if row.verdict and row.verdict != step.verdict:
            what += f" by another verdict ({row.verdict})"
            first = self._person.last_word(step.ref, step.key)
            explain = f"{first} {explain}".lstrip()
        elif row.status is StepStatus.SUCCEEDED:
            what = f"its own attempt succeeded, {since(row.ended_at, now)}"
        elif row.status is StepStatus.FAILED:
            what = f"it failed, {since(row.ended_at, now)}"
        elif row.token != step.token:
            what += f", attempt {row.attempt}: another attempt has begun"
        says = f"Nothing was recorded: while you were deciding, {step.name} was decided otherwise: {what}."
        return Outcome(False, says, explain)


def hurry(journal: Journal, engines: Mapping[str, Engine], run: WorkflowRow, decision: Decision | None) -> str:
    """Sends at once the compensation that a change released; without its engine the next sweep does. Returns how to tell it."""
    if decision is None or decision.undo is None:
        return ""
    engine = engine_of(run, decision.undo, engines)
    if engine is not None:
        return send(engine, run, decision.undo, journal.reads.steps(run.ref))
    journal.runs.look_again(run.ref, journal.time())
    return f"The next sweep sends {decision.undo.name}."


def send(engine: Engine, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> str:
    """Sends a step's message; a broker that is away is no error: the journal has it, and the sweeper makes it good."""
    try:
        engine.send_step(run, step, list(steps))
    except Exception as error:
        broker = tongue(step.engine or run.engine).broker
        return f"{step.name} could not be sent now ({type(error).__name__}); the sweepers send it once {broker} is there."
    return f"{step.name} was sent."


def _needed(engine: str) -> str:
    """Which option is missing where a message of an engine has to be sent."""
    match engine:
        case "celery":
            return "its app is needed. Give it with -A, as `celery -A` takes it"
        case "rq":
            return "RQ's Redis is needed. Give it with -u redis://..., or with -c MODULE, as RQ's own commands take them"
        case _:
            return f"its engine {engine!r} is needed, and no option of this command reaches that"


def _still_runs(worker: WorkerRow | None, step: StepRow) -> bool:
    if worker is None or worker.has_ended:
        return False
    return attempt_name(step.ref, step.key, step.token) in {*worker.running, *worker.previously_running}


_EFFECTS = {Effect.DID_NOT_HAPPEN: "did not happen", Effect.HAPPENED: "happened", Effect.UNKNOWN: "is not known"}
