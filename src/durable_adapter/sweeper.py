"""The loop that makes good what was missed: due timers, deaths, doubt, lost messages, unfinished rollbacks.

Safe in any number of places at once: what is due is taken with its next look already committed, and every repair is the
same compare-and-set that a worker would make. It knows bindings only by the `Engine` protocol, and runs no user code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from .absence import Absence
from .errors import (
    CannotSendAgain,
    DependencyFailed,
    DurableError,
    JournalBusy,
    JournalError,
    MessageExpired,
    UnserialisableValue,
)
from .model import (
    AFTER,
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    SECOND,
    UNSETTLED_STEPS,
    Attention,
    Death,
    Effect,
    Kind,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkerRow,
    WorkflowRow,
    WorkflowStatus,
)
from .runtime import alerts
from .runtime.engine import Engine, EngineOutcome, engine_of
from .runtime.order import ALLOW_FAILURE, behind, concerns_nobody, elsewhere, has_its_turn, is_done, is_joined, may_fail
from .runtime.values import encode, write_failure

if TYPE_CHECKING:
    from .journal import Journal

logger = logging.getLogger("durable_adapter")

#: How many rows of one sort a sweep takes at the most, so that one sweep stays short.
BATCH = 200
#: How long an engine's own failure must have stood before it counts as somebody else's: a worker of ours that Celery gave
#: up before the body began says so itself, a moment later.
VERDICT = 5 * SECOND
#: By how much the clock of a result store may differ from the journal's.
SKEW = 60 * SECOND
#: How long after it should have been sent a message that is certainly nowhere counts as lost: its publication may be under
#: way.
GONE = 15 * SECOND
#: How often the wait before a message is sent once more is doubled at the most.
DOUBLINGS = 10
#: How many messages a sweep sends again at the most, so that an outage does not end in a flood.
RESENDS = 100
#: How the log tells of a step that nobody with the plugin ran, and that has run all the same.
RAN_ELSEWHERE = "a worker without the plugin ran it"

#: Seconds between two looks at what only this process knows.
WATCH = 0.2
#: Seconds between two looks for runs to forget, once there are none left.
FORGET_EVERY = 600.0


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
    pruned: int = 0
    busy: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def did_anything(self) -> bool:
        """Whether the sweep changed or sent something."""
        return any(v for k, v in vars(self).items() if k not in ("busy", "errors")) or bool(self.errors)


class Sweeper:
    """One process's sweeper. What it watches (beats that stand still) it remembers between sweeps.

    Args:
        journal: the journal.
        engines: the bindings that can send messages, or what tells them: it is asked at each sweep.
        stale: seconds for which a beat counter must stand still under this sweeper's own eyes.
        beat: seconds between two beats of the sweeper itself.
        retention: days after its end for which a run is kept; None keeps everything.
        queues: the queues that the worker around this sweeper listens on with the plugin.
        monotonic: the clock by which it watches; tests pass their own.
    """

    def __init__(
        self,
        journal: Journal,
        engines: Iterable[Engine] | Callable[[], Iterable[Engine]],
        *,
        stale: float = 60.0,
        beat: float = 10.0,
        retention: float | None = None,
        queues: Callable[[], Sequence[str]] = lambda: (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        given = () if callable(engines) else tuple(engines)
        self._told: Callable[[], Iterable[Engine]] = engines if callable(engines) else lambda: given
        self._engines: dict[str, Engine] = {}
        self._stale = stale
        self._beat = beat
        self._retention = retention
        self._queues = queues
        self._forgot = float("-inf")
        self._monotonic = monotonic
        self._watched: dict[str, tuple[int, float]] = {}
        #: Attempts that their living workers do not name, and how often those had beaten when that was first seen.
        self._missing: dict[tuple[str, str, str | None], int] = {}
        self._looked = float("-inf")
        self._id = uuid.uuid4().hex
        self._registered = False
        self._beaten = float("-inf")

    def absence(self) -> Absence:
        """What tells that nobody sweeps in this one's place."""
        return Absence(self._journal, self._engines, stale=self._stale, monotonic=self._monotonic)

    def safely(self) -> Report:
        """One sweep that never raises: for threads and loops. What went wrong is logged and in the report."""
        try:
            return self.sweep()
        except JournalError as error:
            self._watched.clear()
            logger.warning("no sweep: %s", error)
            return Report(errors=[str(error)])
        except Exception as error:
            self._watched.clear()
            logger.exception("a sweep failed")
            return Report(errors=[repr(error)])

    def sweep(self, now: int | None = None) -> Report:
        """One sweep.

        Args:
            now: the time in microseconds; the database's own if not given.

        Returns:
            What it did.
        """
        report = Report()
        journal = self._journal
        self._engines = {engine.name: engine for engine in self._told()}
        #: Whose due work is taken: another engine's is left to those who can send its messages, and so is another namespace's.
        mine = tuple(self._engines) or None
        living = journal.workers.alive()
        self._say_alive()
        self._declare_deaths(living, report)
        self._doubt_the_dead(report)
        self._doubt_the_forgotten(report)
        # Read only now: what has just been put in doubt is due in this sweep already, not in the next one.
        at = journal.time() if now is None else now
        for row in journal.doubts.take_due(at, BATCH, mine, namespace=journal.namespace):
            self._guarded(report, row.ref, lambda row=row: self._due_step(row, at, report))  # type: ignore[misc]
        running = {_without_token(name) for worker in living for name in worker.running}
        for run, steps in journal.runs.take_due(at, BATCH, mine, namespace=journal.namespace):
            self._guarded(report, run.ref, lambda run=run, steps=steps: self._due_run(run, steps, at, running, report))  # type: ignore[misc]
        self._forget(at, report)
        return report

    def _forget(self, now: int, report: Report) -> None:
        """Retention, a batch at a time; looks again soon while there is more, and rarely when there is not."""
        if self._retention is None or self._monotonic() - self._forgot < FORGET_EVERY:
            return
        before = now - int(self._retention * 86_400 * SECOND)
        try:
            with self._journal.db.in_a_hurry():
                forgotten = self._journal.retention.forget(before, limit=BATCH)
        except JournalBusy as error:
            logger.info("what ended long ago is forgotten later: %s", error)
            report.busy += 1
            return
        report.pruned += forgotten.total
        if forgotten.total < BATCH:
            self._forgot = self._monotonic()
            self._journal.workers.forget_ended(min(before, now - 86_400 * SECOND))

    def _guarded(self, report: Report, ref: str, action: Callable[[], None]) -> None:
        """One run's trouble is its own: the others are still looked at, also where somebody keeps its rows locked."""
        try:
            with self._journal.db.in_a_hurry():
                action()
        except JournalBusy as error:
            logger.info("run %s is looked at later: %s", ref, error)
            report.busy += 1
        except JournalError:
            raise
        except CannotSendAgain as error:
            logger.error("%s", error)
            self._journal.runs.mark(ref, Attention.UNMARKED.value)
            report.reported += 1
        except Exception as error:
            logger.exception("the sweeper could not help run %s", ref)
            report.errors.append(f"{ref}: {error!r}")

    def _say_alive(self) -> None:
        """Beats the sweeper's own row, so that workers and `doctor` can tell when nobody sweeps."""
        if self._monotonic() - self._beaten < self._beat:
            return
        workers = self._journal.workers
        if not self._registered or not workers.beat(self._id, []):
            if self._registered:
                self._id = uuid.uuid4().hex
            workers.register(
                WorkerRow(
                    id=self._id, role="sweeper", parent=None, host=socket.gethostname(), pid=os.getpid(),
                    engine=",".join(sorted(self._engines)) or "none", queues=list(self._queues()), code_version=None,
                    beats=0, beat_at=0,
                    previous_beat_at=0, running=[], previously_running=[], started_at=0,
                )
            )  # fmt: skip
            self._registered = True
        self._beaten = self._monotonic()

    def stop(self) -> None:
        """Says that this sweeper ended by itself."""
        if self._registered:
            self._journal.workers.stop(self._id)
            self._registered = False

    def _declare_deaths(self, living: Sequence[WorkerRow], report: Report) -> None:
        """Writes the death of workers whose counter stood still under this sweeper's own eyes."""
        at = self._monotonic()
        # A look counts for a quarter of `stale` at the most: a sweeper that stood still itself (a frozen machine, a
        # stopped process) saw nothing meanwhile, and must not call that the others' silence.
        seen = min(at - self._looked, self._stale / 4)
        self._looked = at
        watched: dict[str, tuple[int, float]] = {}
        for worker in living:
            if worker.id == self._id:
                continue
            beats, still = self._watched.get(worker.id, (None, 0.0))
            still = still + seen if beats == worker.beats else 0.0
            if still >= self._stale:
                why = f"its beat stood still for {still:.0f} s"
                report.deaths += self._journal.workers.stood_still(worker.id, worker.beats, why)
            else:
                watched[worker.id] = (worker.beats, still)
        self._watched = watched

    def _doubt_the_dead(self, report: Report) -> None:
        for row, death in self._journal.doubts.of_the_dead(BATCH):
            over = death in (Death.PARENT_SAW, Death.STOPPED)
            why = f"its worker {row.worker} {_DEATHS.get(death or '', 'is gone')} while the step was running"
            self._guarded(report, row.ref, lambda row=row, why=why, over=over: self._doubt(row, why, report, over=over))  # type: ignore[misc]

    def _doubt_the_forgotten(self, report: Report) -> None:
        """A begun attempt that is missing from two beats of its living worker, both of which this sweeper saw pass.

        The first of them may have been on its way when the attempt was found here; the second was made after that. No
        clock says so: the database's may go back, when another server takes over.
        """
        missing: dict[tuple[str, str, str | None], int] = {}
        for row, beats in self._journal.doubts.begun_by_the_living(BATCH):
            since = self._missing.get((row.ref, row.key, row.token), beats)
            missing[row.ref, row.key, row.token] = since
            if beats < since + 2:
                continue
            why = f"its worker {row.worker} lives, but does not run it any more"
            self._guarded(report, row.ref, lambda row=row, why=why: self._doubt(row, why, report, over=True))  # type: ignore[misc]
        self._missing = missing

    def _doubt(self, row: StepRow, why: str, report: Report, *, over: bool) -> None:
        if self._journal.doubts.raise_doubt(row, row.token, why, over=over, who=self._id):
            report.doubts += 1

    def _due_step(self, row: StepRow, now: int, report: Report) -> None:
        """A step whose next look has come; its following look is committed already."""
        journal = self._journal
        if row.status is StepStatus.CANCELLED:
            run = journal.reads.run(row.ref)
            if run is not None:
                self._withdraw(run, [row])
            return
        if row.status is StepStatus.IN_DOUBT and row.safety is Safety.PROTECTED:
            why = row.doubt or "its attempt began and its outcome is unknown"
            run = journal.reads.run(row.ref)
            engine = engine_of(run, row, self._engines) if run is not None else None
            if alerts.hold(journal, engine, row, why, who=self._id):
                report.held += 1
            return
        sleep = row.status is StepStatus.WAITING and row.kind is Kind.SLEEP
        if sleep:
            journal.ends.succeed_first(row.ref, row.key, uuid.uuid4().hex[:16], self._id, encode(None), last=False)
        run = journal.reads.run(row.ref)
        if run is None:
            return
        if sleep and run.look_at is not None and run.look_at <= now:
            journal.runs.look_again(row.ref, now + journal.runs.resend_after)  # overdue as well: it is woken by this look
        steps = journal.reads.steps(row.ref)
        if self._comes_too_early(run, row, steps, report):
            return
        try:
            sent = self._send(run, row, steps)
        except CannotSendAgain:
            journal.doubts.wish_is_over(row)
            raise
        except MessageExpired as expired:
            self._never_begins(run, row, expired, report)
            return
        except Exception:
            if sleep:  # it has no look of its own any more: its run has
                journal.runs.look_again(row.ref, now + GONE)
            raise
        if sent:
            journal.doubts.wish_is_over(row)
        report.woken += 1

    def _due_run(self, run: WorkflowRow, steps: list[StepRow], now: int, running: set[tuple[str, str]], report: Report) -> None:
        """An unfinished run whose next look has come."""
        match run.status:
            case WorkflowStatus.ROLLING_BACK | WorkflowStatus.FAILING:
                decision = self._journal.undo.reconsider(run.ref)
                self._withdraw(run, steps)
                if decision is not None and decision.undo is not None:
                    self._send(run, decision.undo, self._journal.reads.steps(run.ref))
                    report.undone += 1
            case WorkflowStatus.RUNNING | WorkflowStatus.SUSPENDED if run.shape is Shape.FUNCTION:
                self._due_function(run, steps, now, running, report)
            case WorkflowStatus.RUNNING:
                self._due_canvas(run, steps, now, running, report)

    def _due_function(
        self, run: WorkflowRow, steps: list[StepRow], now: int, running: set[tuple[str, str]], report: Report
    ) -> None:
        function = next((s for s in steps if s.kind is Kind.FUNCTION), None)
        if function is None or function.status not in (StepStatus.PLANNED, StepStatus.WAITING):
            return
        if (run.ref, function.key) in running:
            return
        if run.wake_at is not None and run.wake_at <= now:
            if not any(s.kind is Kind.SLEEP and s.status is StepStatus.WAITING for s in steps):  # its own look is due as well
                self._send(run, function, steps)
                report.woken += 1
            return
        sent = [s for s in steps if s.kind is Kind.DISPATCH and s.status in OPEN_STEPS]
        for step in sent:
            if step.status is StepStatus.PLANNED and not self._waits(run, step, report):
                self._lost(run, step, steps, step.created_at, now, running, report)
        if any(_wakes(s) for s in steps):
            if run.wake_at is not None and not sent:
                self._journal.runs.look_again(run.ref, run.wake_at + self._journal.runs.resend_after)
            return
        if run.status is WorkflowStatus.SUSPENDED and sent and run.waiting_for in ("steps", *(f"step:{s.key}" for s in sent)):
            return
        if function.status is StepStatus.WAITING and function.look_at is not None:
            self._journal.runs.look_again(run.ref, max(now, function.look_at) + self._journal.runs.resend_after)
            return  # its own retry: a due step like any other
        since = max([run.created_at, *(s.ended_at or 0 for s in steps)])
        self._lost(run, function, steps, since, now, running, report)

    def _withdraw(self, run: WorkflowRow, steps: Sequence[StepRow]) -> None:
        for name, engine in self._engines.items():
            engine.withdraw([s for s in steps if s.status is StepStatus.CANCELLED and (s.engine or run.engine) == name])

    def _due_canvas(
        self, run: WorkflowRow, steps: list[StepRow], now: int, running: set[tuple[str, str]], report: Report
    ) -> None:
        """Finds where a canvas stands, and sends what was lost."""
        members = [s for s in steps if s.kind is not Kind.COMPENSATION]
        if all(s.status in (StepStatus.SUCCEEDED, StepStatus.CANCELLED) for s in members):
            self._journal.runs.complete(run.ref)
            return
        if is_joined(members):
            self._due_joined(run, members, steps, now, running, report)
            return
        seen = [s for s in members if s.status is not StepStatus.PLANNED]
        last = seen[-1] if seen else None
        if last is not None and last.status is not StepStatus.SUCCEEDED:
            return
        following = [s for s in members if s.position > (last.position if last is not None else -1)]
        if not following:
            return
        step = following[0]
        if not has_its_turn(step, steps):
            return
        since = (last.ended_at if last is not None else None) or run.created_at
        if step.kind is Kind.UNMARKED:
            if now - since >= self._journal.runs.resend_after:
                self._journal.runs.mark(run.ref, Attention.UNMARKED.value)
                report.reported += 1
            return
        self._lost(run, step, steps, since, now, running, report, before=last)

    def _due_joined(
        self,
        run: WorkflowRow,
        members: list[StepRow],
        steps: list[StepRow],
        now: int,
        running: set[tuple[str, str]],
        report: Report,
    ) -> None:
        """As `_due_canvas`, where each member names those that it comes after."""
        by_key = {s.key: s for s in members}
        for step in members:
            if step.status is not StepStatus.PLANNED or concerns_nobody(step, members):
                continue
            if self._will_never_come(run, step, report):
                continue
            outside = elsewhere(self._journal, step)
            done = partial(self._is_done, run)
            if not has_its_turn(step, steps, done) or not all(done(step, s) for s in outside):
                continue
            before = [by_key[key] for key in step.options.get(AFTER, ()) if key in by_key] + outside
            since = max([step.created_at, *(s.ended_at or 0 for s in before)])
            if step.kind is not Kind.UNMARKED:
                self._lost(run, step, steps, since, now, running, report)
            else:
                self._stands_at(run, step, behind(step, members), since, now, report)

    def _is_done(self, run: WorkflowRow, step: StepRow, before: StepRow) -> bool:
        """Whether what a step waits for is done; of what nobody reports, whether it failed, where that is enough."""
        if is_done(step, before):
            return True
        if before.kind is not Kind.UNMARKED or not step.options.get(ALLOW_FAILURE):
            return False
        engine = engine_of(run, before, self._engines)
        outcome = _outcome(engine, before) if engine is not None else None
        return outcome is not None

    def _stands_at(
        self, run: WorkflowRow, step: StepRow, following: Sequence[StepRow], since: int, now: int, report: Report
    ) -> None:
        """A canvas stands at a member that is not marked: its engine may know of an end that nobody reported."""
        engine = engine_of(run, step, self._engines)
        outcome = _outcome(engine, step) if engine is not None else None
        if outcome is not None and outcome.succeeded:
            self._learn(step, outcome.value, report)
            return
        if outcome is None:
            waits = engine is not None and engine.is_gone(step) is False
            stands = now - since >= self._journal.runs.resend_after and not waits
        else:
            stands = not may_fail(following)
        if stands:
            self._journal.runs.mark(run.ref, Attention.UNMARKED.value)
            report.reported += 1

    def _learn(self, step: StepRow, value: object, report: Report) -> None:
        """Records the end of an unmarked member that its engine knows of; what it returned, if that can be written down."""
        stored: Stored | None = None
        with contextlib.suppress(UnserialisableValue):
            stored = encode(value)
        last = bool(step.options.get("counts"))
        if self._journal.runs.record_unmarked(step.ref, step.key, stored, failed=None, last=last):
            self._journal.runs.look_again(step.ref, self._journal.time())
            report.adopted += 1

    def _comes_too_early(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow], report: Report) -> bool:
        """Whether a due step comes after another that has not succeeded: after a restore, or by a person's verdict on it.

        In a run that is over, or is being undone, nothing begins any more: its message only lets a worker settle it.
        """
        if run.status not in FORWARD_WORKFLOWS:
            return False
        if step.status is StepStatus.WAITING and self._will_never_come(run, step, report):
            return True
        if run.shape is Shape.CANVAS and step.kind is Kind.STEP and not has_its_turn(step, steps, partial(self._is_done, run)):
            return True
        return not all(self._is_done(run, step, s) for s in elsewhere(self._journal, step))

    def _waits(self, run: WorkflowRow, step: StepRow, report: Report) -> bool:
        """Whether a dispatched step comes after another that has not succeeded."""
        if self._will_never_come(run, step, report):
            return True
        for before in elsewhere(self._journal, step):
            if before.kind is Kind.UNMARKED and before.status is StepStatus.PLANNED:
                self._stands_at(run, before, [step], before.created_at, before.created_at, report)
            if not self._is_done(run, step, before):
                return True
        return False

    def _will_never_come(self, run: WorkflowRow, step: StepRow, report: Report) -> bool:
        """Fails a planned step that comes after one of another run, or of its function, which has failed for good."""
        over = (StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.UNDONE)
        if step.options.get(ALLOW_FAILURE):
            return False
        failed = next((s for s in elsewhere(self._journal, step) if s.status in over), None)
        if failed is None:
            return False
        why = f"it comes after {failed.name} of run {failed.ref}, which is {failed.status}"
        self._never_begins(run, step, DependencyFailed(f"{step.name} never began: {why}"), report)
        return True

    def _never_begins(self, run: WorkflowRow, step: StepRow, error: DurableError, report: Report) -> None:
        """Fails a step that never began and never will, and begins what that decides.

        That an idempotent step did not happen is not certain: its first attempt takes no claim.
        """
        effect = (
            Effect.UNKNOWN if step.safety is Safety.IDEMPOTENT and isinstance(error, MessageExpired) else Effect.DID_NOT_HAPPEN
        )
        failure, decides = write_failure(error), step.kind is not Kind.DISPATCH
        ended = self._journal.ends.fail(step, None, failure, effect, decides=decides, why=str(error))
        if not ended.recorded:
            return
        steps = self._journal.reads.steps(run.ref)
        self._withdraw(run, [*steps, replace(step, status=StepStatus.CANCELLED)])
        if ended.decision is not None and ended.decision.undo is not None:
            self._send(run, ended.decision.undo, steps)
        report.failed += 1

    def _lost(
        self,
        run: WorkflowRow,
        step: StepRow,
        steps: list[StepRow],
        since: int,
        now: int,
        running: set[tuple[str, str]],
        report: Report,
        before: StepRow | None = None,
    ) -> None:
        """Sends a planned step's message again if it is lost; in doubt if somebody without the plugin may have run it."""
        journal = self._journal
        engine = engine_of(run, step, self._engines)
        if engine is None or report.sent_again >= RESENDS or (run.ref, step.key) in running:
            return
        gone = engine.is_gone(step)
        patience = min(GONE, journal.runs.resend_after) if gone else journal.runs.resend_after
        due = since + patience + int(step.options.get("delay", 0))
        if self._ran_elsewhere(run, step, engine, report, before, due=due, now=now) or gone is False:
            return
        if now < due:
            journal.runs.look_again(run.ref, due)
            return
        empty = gone or engine.queue_is_empty(step.queue)
        if not empty and not self._overtaken(run, step, since):
            return
        protected = step.safety in (Safety.PROTECTED, Safety.PROBE) and step.kind is not Kind.FUNCTION
        if protected and empty and not journal.reads.hooked_since(step.queue, since, engine=engine.name):
            why = "its message is gone, and no worker with the plugin has listened on its queue since it was sent"
            if journal.doubts.raise_doubt(step, None, why, over=True, who=self._id):
                report.doubts += 1
            return
        again = step
        if before is not None and before.kind is not Kind.UNMARKED and _outcome(engine, before) is None:
            again = before  # its result was never stored: as a memo hit it stores it, and sends what follows
        if run.resends and self._too_soon(run.ref, [step.key, again.key], now):
            return
        journal.runs.count_resend(run.ref, again.key, "its message was lost")
        try:
            self._send(run, again, steps)
        except MessageExpired as expired:
            self._never_begins(run, again, expired, report)
            return
        report.sent_again += 1

    def _overtaken(self, run: WorkflowRow, step: StepRow, sent_at: int) -> bool:
        """Whether one that was sent to the same queue later has begun."""
        engine = step.engine or run.engine
        reads = self._journal.reads
        return step.queue is not None and reads.queue_moved_past(step.queue, sent_at, engine=engine, namespace=run.namespace)

    def _too_soon(self, ref: str, keys: Sequence[str], now: int) -> bool:
        """Whether a message was sent again so lately that it is not to be once more: each wait is twice as long as the last."""
        times, at = self._journal.runs.resent(ref, keys)
        # Its look was set a moment before it was sent: one that comes a moment early is on time.
        return times > 0 and now < at + self._journal.runs.resend_after * 2 ** min(times - 1, DOUBLINGS) - GONE

    def _ran_elsewhere(
        self,
        run: WorkflowRow,
        step: StepRow,
        engine: Engine,
        report: Report,
        before: StepRow | None,
        *,
        due: int,
        now: int,
    ) -> bool:
        """A worker without the plugin ran it: its stored result is the evidence, and what follows it was sent.

        A failure is none of a function that began here: where its process dies, it is the engine that calls it failed.
        Nor is it where the task before it failed for the engine: that one then calls the whole rest of the chain failed.
        """
        outcome = _outcome(engine, step)
        if outcome is None:
            return False
        if not outcome.succeeded and before is not None:
            earlier = _outcome(engine, before)
            if earlier is not None and not earlier.succeeded:
                return False
        if not outcome.succeeded and (now < due or (step.kind is Kind.FUNCTION and self._has_calls(run))):
            return False
        if not outcome.succeeded and now < due + VERDICT:
            self._journal.runs.look_again(run.ref, due + VERDICT)
            return True
        why = f"{RAN_ELSEWHERE}: the result store has its result"
        if outcome.at is not None and outcome.at < step.created_at:
            why = (
                "the result store has a result of that task id, stored just before this workflow was started, as its clock has it"
            )
        elif outcome.succeeded and self._adopt(step, outcome.value, why, report):
            return True
        if self._journal.doubts.raise_doubt(step, None, why, over=True, who=self._id):
            report.doubts += 1
        return True

    def _adopt(self, step: StepRow, value: object, why: str, report: Report) -> bool:
        """Takes over the result store's value, in one transition; False where it cannot be written down."""
        try:
            stored = encode(value)
        except UnserialisableValue:
            return False
        if self._journal.doubts.happened(step, stored, who="result store", why=why, send=False).recorded:
            report.adopted += 1
        return True

    def _has_calls(self, run: WorkflowRow) -> bool:
        return any(s.kind is not Kind.FUNCTION for s in self._journal.reads.steps(run.ref))

    def _send(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        engine = engine_of(run, step, self._engines)
        if engine is not None:
            engine.send_step(run, step, list(steps))
        return engine is not None


class SweeperThread:
    """A sweeper in a thread of its own, in the process of a worker that has something else to do.

    Args:
        sweeper: the sweeper; it belongs to this thread alone.
        every: seconds between two sweeps; None where this worker is not to sweep: then it says when nobody does.
        watch: looks after what only this process knows (its children), some times a second; returns whether a sweep is
            wanted at once.
    """

    def __init__(self, sweeper: Sweeper, *, every: float | None, watch: Callable[[], bool] = lambda: False) -> None:
        self._sweeper = sweeper
        self._every = every
        self._watch = watch
        self._absence = sweeper.absence() if every is None else None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="durable-sweeper", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, *, wait: float = 0.0) -> None:
        """Ends the thread, and waits that many seconds for the sweep that is under way."""
        self._stopping.set()
        if wait and self._thread.is_alive():
            self._thread.join(wait)

    def _loop(self) -> None:
        next_sweep = 0.0
        while not self._stopping.wait(WATCH):
            try:
                wanted = self._watch()
            except Exception:
                # This thread is the worker's only sweeper: whatever it was, the next round must come.
                logger.exception("the deaths of this worker's children could not be looked at")
                wanted = False
            if self._absence is not None:
                self._absence.look()
            if self._every is not None and (wanted or time.monotonic() >= next_sweep):
                self._sweeper.safely()
                next_sweep = time.monotonic() + self._every
        with contextlib.suppress(JournalError):
            self._sweeper.stop()


_DEATHS: dict[str, str] = {
    Death.PARENT_SAW: "died, as its parent saw,",
    Death.STOOD_STILL: "stopped beating and was declared dead",
    Death.STOPPED: "had stopped",
}


def _outcome(engine: Engine, step: StepRow) -> EngineOutcome | None:
    """What the result store has for a step. An older result is another task's, which had the same id before."""
    found = engine.outcome(step)
    return None if found is not None and found.at is not None and found.at < step.created_at - SKEW else found


def _wakes(step: StepRow) -> bool:
    """Whether a call in place has a look of its own to come, which wakes its function."""
    return step.kind in (Kind.STEP, Kind.SLEEP) and (step.status in UNSETTLED_STEPS or step.status is StepStatus.WAITING)


def _without_token(name: str) -> tuple[str, str]:
    """The run and key in an attempt's name."""
    ref, _token, key = name.split(" ", 2)
    return ref, key
