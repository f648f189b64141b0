"""The changes that a person may make: each is announced with its consequences, and carried out only when asked.

The consequences are those of a rehearsal: the journal's own methods change the run in a transaction that is taken back. A
change is carried out under the run's lock, and only if the same comes of it as was announced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from ..errors import JournalBusy, NotResolvable
from ..journal import Ended
from ..model import Event, StepRow, StepStatus, WorkflowRow, attempt_place
from ..runtime.engine import engine_of
from .commands import Caller, workflow_word
from .consequences import consequences
from .sending import Sending
from .words import process, since, status_words, vocabulary

if TYPE_CHECKING:
    from ..journal import Decision, Journal
    from ..journal.orders import Change as Carried
    from ..runtime.engine import Engine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        done: it is recorded.
        says: what happened, or what the step or run had become meanwhile.
        next: what happens now, or what is left to a person.
    """

    done: bool
    says: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one run.

    Attributes:
        workflow: what commands call the run.
        ref: the run.
        step: the step, where it concerns one.
        action: the verb of the command.
        would: what it would do, as a sentence that begins with its verb.
        carry_out: does it.
        consequences: what comes of it, a sentence each.
        warnings: what a person should know before.
    """

    workflow: str
    ref: str
    step: StepRow | None
    action: str
    would: str
    carry_out: Callable[[], Outcome]
    consequences: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    def shown(self, outcome: Outcome | None = None) -> dict[str, Any]:
        """The change as JSON, with what became of it once it was carried out."""
        return {
            "workflow": self.workflow,
            "ref": self.ref,
            "step": None if self.step is None else self.step.name,
            "key": None if self.step is None else self.step.key,
            "action": self.action,
            "would": self.would,
            "consequences": list(self.consequences),
            "warnings": list(self.warnings),
            "done": None if outcome is None else outcome.done,
            "says": None if outcome is None else outcome.says,
            "next": None if outcome is None else outcome.next,
        }


#: Says that a change has to wait.
_BUSY = "another transaction keeps a row of this run, as a transactional step does"


class ChangedMeanwhile(Exception):
    """Raised under the lock where a run is no longer what was shown; its text is a clause that says how."""


class Signature(TypedDict):
    """A person and their reason."""

    who: str
    why: str


class Operator:
    """A person who changes runs of one journal.

    Args:
        journal: the journal.
        who: the person.
        why: their reason, or how they know.
        engines: the bindings that can send, by name.
        caller: how printed commands are called.
        stale: seconds of silence after which a worker may be declared dead.
        in_bulk: there are many changes: what they make due is sent behind the last one.
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
        self.journal = journal
        self.who = who
        self.why = why
        self.engines = engines
        self.caller = caller
        self.sending = Sending(journal, engines, caller, stale=stale, in_bulk=in_bulk)

    @property
    def signature(self) -> Signature:
        """Who changes something, and why, as the journal's methods take it."""
        return {"who": self.who, "why": self.why}

    @cached_property
    def now(self) -> int:
        """When the first of the orders was given, by the database's clock."""
        return self.journal.time()

    @cached_property
    def _running(self) -> Mapping[tuple[str, str], str]:
        """Where living processes say that they run steps, by run and key."""
        found = {}
        for worker in self.journal.workers.alive():
            for attempt in worker.running:
                found[attempt_place(attempt)] = process(worker, None)
        return found

    def change(
        self,
        run: WorkflowRow,
        steps: Sequence[StepRow],
        step: StepRow | None,
        about: Sequence[str] = (),
        *,
        action: str,
        would: str,
        act: Callable[[], T],
        tell: Callable[[Carried[T]], Outcome],
        check: Callable[[Sequence[StepRow]], str | None] = lambda _: None,
        warnings: Sequence[str] = (),
    ) -> Change:
        """Makes the change that an order is.

        Args:
            run: the run as last read.
            steps: all of its steps.
            step: the step that it concerns, if it is one.
            about: the keys of the steps that the order names.
            action: the verb of the command.
            would: what it would do, as a sentence that begins with its verb.
            act: the writing methods of the journal that carry it out; returns None, False or an end that is not recorded
                where somebody else was first.
            tell: says what became of it, where nobody else was.
            check: under the lock, says in a clause why it may not be carried out any more; None where it may.
            warnings: what a person should know before.
        """
        running = {key: where for (ref, key), where in self._running.items() if ref == run.ref}

        try:
            announced = consequences(self.journal.orders.rehearse(run.ref, act), about=about, running=running)
        except JournalBusy as error:
            raise self.refusal(run, f"cannot be changed now: {_BUSY}. Try again once it has ended.") from error

        def judge(now: Carried[T]) -> None:
            if now.before is None:
                raise ChangedMeanwhile(f"{workflow_word(run)} was deleted from the journal")
            if (reason := check(now.steps_before)) is not None:
                raise ChangedMeanwhile(reason)
            if step is not None and _moved(step, now.steps_before):
                return  # the journal's compare-and-set refuses it, and what the step became is told
            if now.before.status is not run.status:
                raise ChangedMeanwhile(f"{workflow_word(run)} became {status_words(now.before.status)}")
            comes_of_it = consequences(now, about=about, running=running)
            if comes_of_it != announced:
                then = "; ".join(comes_of_it) or "nothing"
                raise ChangedMeanwhile(f"{workflow_word(run)} went on. What would come of it now: {then}")

        def carry_out() -> Outcome:
            try:
                carried = self.journal.orders.carry_out(run.ref, act, judge)
            except ChangedMeanwhile as changed:
                return self._too_late(run, str(changed), self._last_word(run.ref))
            except JournalBusy:
                return Outcome(False, f"Nothing was changed: {_BUSY}.", f"Try again once it has ended. {self.explain(run)}")
            result: object = carried.result
            if result is None or result is False or (isinstance(result, Ended) and not result.recorded):
                return self._became(run, step)
            return tell(carried)

        return Change(workflow_word(run), run.ref, step, action, would, carry_out, tuple(announced), tuple(warnings))

    def _too_late(self, run: WorkflowRow, how: str, decided: str) -> Outcome:
        """Says that somebody or something was first; *how* is a clause, *decided* the sentence that tells of another person."""
        return Outcome(False, f"Nothing was changed: while you were deciding, {how}.", f"{decided} {self.explain(run)}".lstrip())

    def _became(self, run: WorkflowRow, step: StepRow | None) -> Outcome:
        """A change came too late: what the step, or the run, became meanwhile."""
        if step is None:
            fresh = self.journal.reads.run(run.ref)
            state = status_words(fresh.status) if fresh is not None else "no longer in the journal"
            return self._too_late(run, f"{workflow_word(run)} became {state}", self._last_word(run.ref))
        row = self.journal.claims.get(step.ref, step.key)
        if row is None:
            return self._too_late(run, f"{step.name} was deleted from the journal", "")
        now, by_verdict = self.journal.time(), row.verdict and row.verdict != step.verdict
        what = f"it is {status_words(row.status)}"
        if by_verdict:
            what += f" by another verdict ({row.verdict})"
        elif row.status is StepStatus.SUCCEEDED:
            what = f"its own attempt succeeded, {since(row.ended_at, now)}"
        elif row.status is StepStatus.FAILED:
            what = f"it failed, {since(row.ended_at, now)}"
        elif row.token != step.token:
            what += f", attempt {row.attempt}: another attempt has begun"
        decided = self._last_word(run.ref, step.key) if by_verdict else ""
        return self._too_late(run, f"{step.name} was decided otherwise: {what}", decided)

    def _last_word(self, ref: str, key: str | None = None) -> str:
        """Who decided about a run, or one of its steps, last, and when and why; empty where nobody did."""
        by_people = [e for e in self.journal.events.of(ref) if e["kind"] in (Event.VERDICT, Event.OPERATOR) and e["who"]]
        last = next((e for e in reversed(by_people) if key is None or e["key"] == key), None)
        if last is None:
            return ""
        what = last["detail"].get("verdict") or last["detail"].get("action") or "something"
        return f"{last['who']} decided ({what}) at {since(last['at'], self.journal.time())}: {last['why']}."

    def explain(self, run: WorkflowRow) -> str:
        """The sentence that points to the run's story."""
        return f"See `{self.caller.command('explain', ids=[workflow_word(run)])}`."

    def refusal(self, run: WorkflowRow, why: str, step: StepRow | None = None) -> NotResolvable:
        """Returns an error that says why a run, or a step of it, is not changed; *why* begins with its verb."""
        what = workflow_word(run) if step is None else f"step {step.name} of {workflow_word(run)}"
        return NotResolvable(f"{what} {why} {self.explain(run)}")

    def hurry(self, run: WorkflowRow, decision: Decision | None) -> str:
        """Sends at once the compensation that a change released, if one; without its engine the next sweep does. Says which."""
        if decision is None or decision.undo is None:
            return ""
        if engine_of(run, decision.undo, self.engines) is not None:
            return self.send(run, decision.undo, self.journal.reads.steps(run.ref))
        self.journal.due.check_again(run.ref, self.journal.time())
        return f"The next sweep sends {decision.undo.name}."

    def send(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> str:
        """Sends a step's message with its engine; a broker that is away is no error, because the sweeper sends it later."""
        try:
            self.engines[step.engine or run.engine].send_step(run, step, list(steps))
        except Exception as error:
            broker = vocabulary(step.engine or run.engine).broker
            return f"{step.name} could not be sent now ({type(error).__name__}); the sweepers send it once {broker} is there."
        return f"{step.name} was sent."


def _moved(step: StepRow, fresh: Sequence[StepRow]) -> bool:
    """Whether a step is no longer what it was when it was shown."""
    now = next((s for s in fresh if s.key == step.key), None)
    return now is None or (now.status, now.token, now.attempt) != (step.status, step.token, step.attempt)
