"""One sweep under way: what it works with, what it has done so far, and the guard around each run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import CannotSendAgain, JournalBusy, JournalError, UnreadableRow, ValueUnreadable
from ..model import SECOND, Attention, StepRow, StepStatus, WorkflowRow
from ..runtime.engine import Engine, engine_of

if TYPE_CHECKING:
    from ..journal import Journal

logger = logging.getLogger("durable_adapter")


@dataclass
class Report:
    """What one sweep did."""

    deaths: int = 0
    doubts: int = 0
    held: int = 0
    woken: int = 0
    sent_again: int = 0
    undone: int = 0
    adopted: int = 0
    reported: int = 0
    failed: int = 0
    ended: int = 0
    pruned: int = 0
    unreadable: int = 0
    #: There is more to forget: the next sweep need not wait.
    more: bool = False
    busy: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def did_anything(self) -> bool:
        """Whether the sweep changed or sent something."""
        return any(v for k, v in vars(self).items() if k not in ("busy", "errors", "unreadable", "more")) or bool(self.errors)


@dataclass
class Sweep:
    """What one sweep works with.

    Attributes:
        journal: the journal.
        engines: the bindings that can send messages, by name.
        who: the sweeper's own row, for events.
        report: what the sweep has done so far.
        marks: the runs that are put in front of people, with the reason, when the sweep has looked at all of a sort.
        looks: the next looks of runs that are set then.
        left: the references of runs that are left alone, because a row of them cannot be read here, with the reason.
        elsewhere: the references of runs that are left to other processes, because the messages of their steps are where this
            one cannot look, and until when, by the sweep's clock.
        unreached: of these, the ones that nobody else has looked after in time, by the place of their messages.
        attend: looks after what must not wait for the sweep: deaths that a parent saw. It is called before each step and run.
        monotonic: the clock by which the sweep knows how long it takes.
        until: when the time is over of what it does now, by that clock.
    """

    journal: Journal
    engines: Mapping[str, Engine]
    who: str
    report: Report = field(default_factory=Report)
    left: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, float] = field(default_factory=dict)
    unreached: dict[str, list[str]] = field(default_factory=dict)
    attend: Callable[[], None] = lambda: None
    monotonic: Callable[[], float] = time.monotonic
    until: float = float("inf")
    marks: dict[str, Attention] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)

    @property
    def left_alone(self) -> set[str]:
        """The references of runs that this sweep does not look after."""
        return {*self.left, *self.elsewhere}

    def is_over(self) -> bool:
        """Whether the time is over of what the sweep does now."""
        return self.monotonic() >= self.until

    def lasts_at_least(self, seconds: float) -> None:
        """Gives what comes next so many seconds from now, if it has not more."""
        self.until = max(self.until, self.monotonic() + seconds)

    def mark(self, run: WorkflowRow, attention: Attention) -> None:
        """Puts a run in front of people once the sweep has looked at all of them."""
        if run.attention is None:
            self.marks[run.ref] = attention
        self.report.reported += 1

    def check_again(self, ref: str, at: int) -> None:
        """Sets a run's next look once the sweep has looked at all of them."""
        self.looks[ref] = at

    def settle(self) -> None:
        """Writes the marks and looks of all runs at once; one by one where somebody keeps the rows of one of them."""
        runs = self.journal.runs
        for attention in sorted(set(self.marks.values())):
            of = {ref: attention for ref, its in self.marks.items() if its is attention}
            self.at_once(of, lambda refs, attention=attention: runs.mark_all(refs, attention.value))  # type: ignore[misc]
        self.at_once(self.looks, self.journal.due.check_runs_at)
        self.marks.clear()
        self.looks.clear()

    def at_once(self, given: Mapping[str, Any], write: Callable[[Mapping[str, Any]], None]) -> None:
        """Writes something about several runs in one transaction; one by one where a row of one of them is kept."""
        if not given:
            return
        try:
            with self.journal.db.with_short_lock_waits():
                write(given)
        except JournalBusy:
            for ref, value in given.items():
                self.guarded(ref, partial(write, {ref: value}))

    def leave(self, unreadable: Iterable[UnreadableRow]) -> None:
        """Leaves runs alone of which a row cannot be read here; each is told once for as long as the sweeper remembers it."""
        for error in unreadable:
            self.report.unreadable += 1
            if error.ref not in self.left:
                self.left[error.ref] = error.why
                logger.error("row_unreadable run=%s step=%s msg=%r", error.ref, error.key or "-", str(error))

    def guarded(self, ref: str, action: Callable[[], None]) -> None:
        """One run's trouble is its own: the others are still looked at, also where somebody keeps its rows locked."""
        try:
            with self.journal.db.with_short_lock_waits():
                action()
        except JournalBusy as error:
            logger.info("run_put_off run=%s msg=%r", ref, str(error))
            self.report.busy += 1
        except JournalError:
            raise
        except UnreadableRow as error:
            self.leave([error])
        except ValueUnreadable as error:
            logger.error("value_unreadable run=%s msg=%r", ref, str(error))
            self.marks[ref] = Attention.DRIFT
            self.report.reported += 1
        except CannotSendAgain as error:
            logger.error("cannot_send_again run=%s msg=%r", ref, str(error))
            self.marks[ref] = Attention.UNMARKED
            self.report.reported += 1
        except Exception as error:
            logger.exception("run_not_helped run=%s msg=%r", ref, f"The sweeper could not help it: {error}")
            self.report.errors.append(f"{ref}: {error!r}")

    def reaches(self, run: WorkflowRow, step: StepRow, *, since: int, now: int) -> bool:
        """Whether this process can look where a step's message is, and send it there.

        If it cannot, the run stays due for those who can, and is looked at here again after `resend_after`.

        Args:
            run: the step's run.
            step: the step that has the message.
            since: since when it is due.
            now: the time.
        """
        engine = engine_of(run, step, self.engines)
        place = engine.out_of_reach(step) if engine is not None else None
        if place is None:
            return True
        patience = self.journal.resend_after
        self.elsewhere[run.ref] = self.monotonic() + patience / SECOND
        if since + patience <= now:
            self.unreached.setdefault(place, []).append(run.ref)
        return False

    def send(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        """Publishes a step's message; False where this process does not know its engine, or another was sent in its place."""
        engine = engine_of(run, step, self.engines)
        return engine is not None and engine.send_step(run, step, list(steps)) is not False

    def withdraw(self, run: WorkflowRow, steps: Sequence[StepRow]) -> None:
        """Takes back the messages of those steps that were cancelled."""
        for name, engine in self.engines.items():
            engine.withdraw([s for s in steps if s.status is StepStatus.CANCELLED and (s.engine or run.engine) == name])
