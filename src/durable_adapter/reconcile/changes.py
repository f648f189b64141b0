"""What a person may change: said first, with its consequences, and carried out only when asked.

The consequences are told from `foresight`, of the run's whole state. A change is carried out under the run's lock, and only
if the same would come of it as was said; the journal's own compare-and-set decides beside that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import JournalBusy
from ..model import Event, StepRow, WorkflowRow
from .commands import Caller, workflow_word
from .consequences import consequences
from .foresight import Order, Outlook, foresee
from .words import process, since, status_words

if TYPE_CHECKING:
    from ..journal import Journal
    from ..journal.orders import Carried

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


class ChangedMeanwhile(Exception):
    """Raised under the lock where a run is no longer what was shown; its text is a clause that says how."""


class Person:
    """Makes changes of one person's orders.

    Args:
        journal: the journal.
        who: the person.
        why: their reason.
        caller: how printed commands are called.
    """

    def __init__(self, journal: Journal, who: str, why: str, caller: Caller) -> None:
        self.journal = journal
        self.who = who
        self.why = why
        self.caller = caller

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
                ref, _token, key = attempt.split(" ", 2)
                found[(ref, key)] = process(worker, None)
        return found

    def change(
        self,
        run: WorkflowRow,
        steps: Sequence[StepRow],
        step: StepRow | None,
        order: Order,
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
            order: the order.
            action: the verb of the command.
            would: what it would do, as a sentence that begins with its verb.
            act: the writing methods of the journal that carry it out.
            tell: says what became of it.
            check: under the lock, says in a clause why it may not be carried out any more; None where it may.
            warnings: what a person should know before.
        """
        running = {key: where for (ref, key), where in self._running.items() if ref == run.ref}

        def told(run: WorkflowRow, steps: Sequence[StepRow], after: Outlook) -> list[str]:
            return consequences(run, steps, after, order=order, running=running)

        announced = told(run, steps, foresee(run, steps, order))

        def look(fresh: WorkflowRow | None, fresh_steps: Sequence[StepRow]) -> None:
            if fresh is None:
                raise ChangedMeanwhile(f"{workflow_word(run)} was deleted from the journal")
            if (reason := check(fresh_steps)) is not None:
                raise ChangedMeanwhile(reason)
            if step is not None and _moved(step, fresh_steps):
                return  # the journal's compare-and-set refuses it, and what the step became is told
            now = told(fresh, fresh_steps, foresee(fresh, fresh_steps, order))
            if fresh.status is not run.status:
                raise ChangedMeanwhile(f"{workflow_word(run)} became {status_words(fresh.status)}")
            if now != announced:
                then = "; ".join(now) or "nothing"
                raise ChangedMeanwhile(f"{workflow_word(run)} went on. What would come of it now: {then}")

        def carry_out() -> Outcome:
            try:
                carried = self.journal.orders.carry_out(run.ref, look, act)
            except ChangedMeanwhile as changed:
                return self.too_late(run, str(changed))
            except JournalBusy:
                says = "Nothing was changed: another transaction keeps a row of this run, as a transactional step does."
                return Outcome(False, says, f"Try again once it has ended. {self.explain(run)}")
            return tell(carried)

        return Change(workflow_word(run), run.ref, step, action, would, carry_out, tuple(announced), tuple(warnings))

    def too_late(self, run: WorkflowRow, how: str, key: str | None = None) -> Outcome:
        """What is said where somebody or something was first; *how* is a clause."""
        first = self.last_word(run.ref, key)
        return Outcome(False, f"Nothing was changed: while you were deciding, {how}.", f"{first} {self.explain(run)}".lstrip())

    def last_word(self, ref: str, key: str | None = None) -> str:
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


def _moved(step: StepRow, fresh: Sequence[StepRow]) -> bool:
    """Whether a step is no longer what it was when it was shown."""
    now = next((s for s in fresh if s.key == step.key), None)
    return now is None or (now.status, now.token, now.attempt) != (step.status, step.token, step.attempt)
