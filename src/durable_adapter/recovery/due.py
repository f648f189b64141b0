"""What is due: what becomes of a step, or of an unfinished run, whose next look has come."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from functools import partial

from ..errors import CannotSendAgain, DependencyFailed, MessageExpired, UnreadableRow, UnserialisableValue
from ..journal.engine_ends import is_left_behind
from ..model import (
    ALLOW_FAILURE,
    FORWARD_WORKFLOWS,
    OPEN_STEPS,
    UNSETTLED_STEPS,
    Attention,
    Cause,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkflowRow,
    WorkflowStatus,
    function_of,
    in_place,
)
from ..runtime import alerts
from ..runtime.doubt import why_in_doubt
from ..runtime.engine import engine_of, message_of
from ..runtime.order import before, behind, elsewhere, is_done, may_begin, may_fail, members_of, ready
from ..runtime.values import encode, encode_for
from .lost import GONE, LostMessages, stored_outcome
from .sweep import Sweep


class Due:
    """Looks after what is due in one sweep.

    Args:
        sweep: the sweep.
        now: its time, in microseconds.
        running: the run and key of every attempt that a beat names.
    """

    def __init__(self, sweep: Sweep, now: int, running: set[tuple[str, str]]) -> None:
        self._sweep = sweep
        self._now = now
        self._running = running
        self._messages = LostMessages(sweep, now, running)
        self._loaded: dict[str, tuple[WorkflowRow, list[StepRow]]] = {}

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Looks after several steps whose next looks have come; what the time does not reach is due again at once.

        Their runs are read at once.
        """
        refs = sorted({row.ref for row in rows})
        unreadable: list[UnreadableRow] = []
        runs = self._sweep.journal.reads.runs(refs, unreadable=unreadable)
        steps = self._sweep.journal.reads.steps_of(refs, unreadable=unreadable)
        self._sweep.leave(unreadable)
        self._loaded = {ref: (run, steps[ref]) for ref, run in runs.items()}
        for number, row in enumerate(rows):
            if self._sweep.is_over():
                self._give_back(rows[number:])
                break
            self._sweep.attend()
            if row.ref not in self._sweep.left:
                self._sweep.guarded(row.ref, partial(self.step, row))
        self._loaded = {}
        self._sweep.settle()

    def _give_back(self, rows: Sequence[StepRow]) -> None:
        late: dict[str, list[StepRow]] = {}
        for row in rows:
            late.setdefault(row.ref, []).append(row)
        give_back, at = self._sweep.journal.due.give_back, self._now
        self._sweep.at_once(late, lambda some: give_back([row for of_its_run in some.values() for row in of_its_run], at))

    def runs(self, taken: Sequence[tuple[WorkflowRow, list[StepRow]]]) -> None:
        """Looks after several unfinished runs whose next looks have come; what the time does not reach is due again at once."""
        for number, (run, steps) in enumerate(taken):
            if self._sweep.is_over():
                for late, _ in taken[number:]:
                    self._sweep.check_again(late.ref, self._now)
                break
            self._sweep.attend()
            self._sweep.guarded(run.ref, partial(self.run, run, steps))
        self._messages.send_again()
        self._sweep.settle()

    def _read(self, ref: str) -> tuple[WorkflowRow | None, list[StepRow]]:
        """A run with its steps, as read for all of these at once; anew where something of it was looked after since."""
        loaded = self._loaded.pop(ref, None)
        if loaded is not None:
            return loaded
        reads = self._sweep.journal.reads
        return reads.run(ref), reads.steps(ref)

    def step(self, row: StepRow) -> None:
        """A step whose next look has come; its following look is committed already."""
        journal = self._sweep.journal
        if row.status is StepStatus.CANCELLED:
            run, _ = self._read(row.ref)
            if run is not None:
                self._sweep.withdraw(run, [row])
            return
        if row.status is StepStatus.IN_DOUBT and row.safety is Safety.PROTECTED:
            why = why_in_doubt(row)
            run, _ = self._read(row.ref)
            engine = engine_of(run, row, self._sweep.engines) if run is not None else None
            if alerts.hold(journal, engine, row, why, who=self._sweep.who):
                self._sweep.report.held += 1
            return
        sleep = row.status is StepStatus.WAITING and row.kind.timed
        if sleep:
            journal.ends.succeed_unclaimed(
                row.ref, row.key, uuid.uuid4().hex[:16], self._sweep.who, encode(None), completes_run=False
            )
            self._loaded.pop(row.ref, None)
        run, steps = self._read(row.ref)
        if run is None:
            return
        if sleep and run.next_check_at is not None and run.next_check_at <= self._now:
            journal.due.check_again(row.ref, self._now + journal.resend_after)  # overdue as well: it is woken by this look
        if self._comes_too_early(run, row, steps) or self._holds_for_want_of_a_function(run, row, steps):
            return
        if row.status is StepStatus.WAITING and not sleep and self._messages.ended_by_engine(run, row):
            return
        if not self._sweep.reaches(run, message_of(run, row, steps), since=_since(row), now=self._now):
            journal.due.give_back([row], self._now)
            return
        counted = self._is_counted(run, row)
        vanished = self._messages.vanished(run, row, _since(row)) if counted and row.sends else None
        if vanished is not None:
            self._no_more(run, row, vanished)
            return
        if counted:
            journal.due.count_send(row)
        try:
            sent = self._sweep.send(run, row, steps)
        except CannotSendAgain:
            journal.due.nothing_to_send(row)
            raise
        except MessageExpired as expired:
            self._messages.never_begins(run, row, expired)
            return
        except Exception:
            if counted:
                journal.due.count_send(row, -1)
            if sleep:  # it has no look of its own any more: its run has
                journal.due.check_again(row.ref, self._now + GONE)
            raise
        if counted and not sent:
            journal.due.count_send(row, -1)
        if sent:
            journal.due.nothing_to_send(row)
        self._sweep.report.woken += 1

    def _holds_for_want_of_a_function(self, run: WorkflowRow, row: StepRow, steps: Sequence[StepRow]) -> bool:
        """Holds a call in place that is in doubt when its function is over: it is settled on its function's message alone.

        The run was cancelled or rolled back while the call ran. Its function never calls it again, so that no worker would
        take it over or ask its probe.
        """
        if row.status is not StepStatus.IN_DOUBT or not in_place(run, row):
            return False
        function = function_of(steps)
        if function is None or function.status in OPEN_STEPS:
            return False
        why = why_in_doubt(row)
        why += f"; its function is {function.status.value} and does not call it again, so that no worker can settle it"
        if alerts.hold(self._sweep.journal, engine_of(run, row, self._sweep.engines), row, why, who=self._sweep.who):
            self._sweep.report.held += 1
        return True

    @staticmethod
    def _is_counted(run: WorkflowRow, row: StepRow) -> bool:
        """Whether the messages of a due step are counted: each of them might be run by a worker without the plugin.

        The message of a call in place is its function's.
        """
        return row.status in (StepStatus.WAITING, StepStatus.IN_DOUBT) and row.is_guarded and not in_place(run, row)

    def _no_more(self, run: WorkflowRow, row: StepRow, why: str) -> None:
        """Does not send a due step's message once more; puts the step in doubt, or holds it, where there is a reason to."""
        if not why:
            return
        if row.status is StepStatus.WAITING:
            doubt = self._sweep.journal.doubts.doubt_waiting
            self._sweep.report.doubts += doubt(row, why, cause=Cause.MESSAGE_LOST, who=self._sweep.who)
            return
        engine = engine_of(run, row, self._sweep.engines)
        self._sweep.report.held += alerts.hold(self._sweep.journal, engine, row, why, who=self._sweep.who)

    def run(self, run: WorkflowRow, steps: list[StepRow]) -> None:
        """An unfinished run whose next look has come."""
        match run.status:
            case WorkflowStatus.ROLLING_BACK | WorkflowStatus.FAILING:
                decision = self._sweep.journal.undo.reconsider(run.ref)
                self._sweep.withdraw(run, steps)
                if decision is not None and decision.undo is not None and self._reaches(run, decision.undo, run.next_check_at):
                    self._sweep.send(run, decision.undo, self._sweep.journal.reads.steps(run.ref))
                    self._sweep.report.undone += 1
            case WorkflowStatus.RUNNING | WorkflowStatus.SUSPENDED if run.shape is Shape.FUNCTION:
                self._function(run, steps)
            case WorkflowStatus.RUNNING:
                self._canvas(run, steps)

    def _function(self, run: WorkflowRow, steps: list[StepRow]) -> None:
        function = function_of(steps)
        if function is None or function.status not in (StepStatus.PLANNED, StepStatus.WAITING):
            return
        due = run.wake_at is not None and run.wake_at <= self._now
        if due and not any(_wakes(s) for s in steps):  # else it is woken by the look of that
            # Whatever a beat says: the wake that it tells of may be the one that suspended the run, or have died since.
            if self._reaches(run, function, run.wake_at):
                self._sweep.send(run, function, steps)
                self._sweep.report.woken += 1
            return
        if (run.ref, function.key) in self._running:
            return
        sent = [s for s in steps if s.kind.awaited and s.status in OPEN_STEPS]
        for step in sent:
            if step.status is StepStatus.PLANNED and not self._waits(run, step):
                self._messages.send_again_if_lost(run, step, steps, step.created_at)
        if any(_wakes(s) for s in steps):
            if run.wake_at is not None and not due and not sent:
                self._sweep.check_again(run.ref, run.wake_at + self._sweep.journal.resend_after)
            return
        if run.status is WorkflowStatus.SUSPENDED and sent and run.waiting_for in ("steps", *(f"step:{s.key}" for s in sent)):
            return
        if function.status is StepStatus.WAITING and function.next_check_at is not None:
            self._sweep.check_again(run.ref, max(self._now, function.next_check_at) + self._sweep.journal.resend_after)
            return  # its own retry: a due step like any other
        since = max([run.created_at, *(s.ended_at or 0 for s in steps)])
        self._messages.send_again_if_lost(run, function, steps, since)

    def _canvas(self, run: WorkflowRow, steps: list[StepRow]) -> None:
        """Finds where a canvas stands, and sends what was lost."""
        members = members_of(steps)
        if all(is_left_behind(s) for s in members):
            self._sweep.journal.runs.complete(run.ref)
            return
        done = partial(self._is_done, run)
        for step, since in ready(run, steps, done):
            if self._will_never_come(run, step):
                continue
            outside = elsewhere(self._sweep.journal, step)
            if not all(done(step, s) for s in outside):
                continue
            turn = max([since, *(s.ended_at or 0 for s in outside)])
            if not step.kind.marked:
                self._stands_at(run, step, behind(step, members), turn, self._now)
            else:
                self._messages.send_again_if_lost(run, step, steps, turn, before=self._hands_on(run, step, steps))

    def _hands_on(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> StepRow | None:
        """The member whose own message hands its result on to a member, where the engine does so."""
        engine = engine_of(run, step, self._sweep.engines)
        earlier = before(step, steps)
        return earlier[0] if engine is not None and engine.hands_results_on and len(earlier) == 1 else None

    def _is_done(self, run: WorkflowRow, step: StepRow, before: StepRow) -> bool:
        """Whether what a step waits for is done; of what nobody reports, whether it failed, where that is enough."""
        if is_done(step, before):
            return True
        if before.kind.marked or not step.options.get(ALLOW_FAILURE):
            return False
        engine = engine_of(run, before, self._sweep.engines)
        outcome = stored_outcome(engine, before) if engine is not None else None
        return outcome is not None

    def _reaches(self, run: WorkflowRow, step: StepRow, since: int | None) -> bool:
        """Whether this process can look where the step's message is; if not, the run is due at once for those who can."""
        if self._sweep.reaches(run, step, since=since or self._now, now=self._now):
            return True
        self._sweep.check_again(run.ref, self._now)
        return False

    def _stands_at(self, run: WorkflowRow, step: StepRow, following: Sequence[StepRow], since: int, now: int) -> None:
        """A canvas stands at a member that is not marked: its engine may know of an end that nobody reported."""
        if self._messages.ended_by_engine(run, step):
            return
        if not self._reaches(run, step, since):
            return
        engine = engine_of(run, step, self._sweep.engines)
        outcome = stored_outcome(engine, step) if engine is not None else None
        if outcome is not None and outcome.succeeded:
            self._learn(step, outcome.value)
            return
        if outcome is None:
            waits = engine is not None and engine.is_gone(step) is False
            stands = now - since >= self._sweep.journal.resend_after and not waits
        else:
            stands = not may_fail(following)
        if stands:
            self._sweep.mark(run, Attention.UNMARKED)

    def _learn(self, step: StepRow, value: object) -> None:
        """Records the end of an unmarked member that its engine knows of; what it returned, if that can be written down."""
        stored: Stored | None = None
        with contextlib.suppress(UnserialisableValue):
            stored = encode_for(self._sweep.journal, value)
        if self._sweep.journal.members.record_unmarked(step.ref, step.key, stored, failed=None):
            self._sweep.journal.due.check_again(step.ref, self._sweep.journal.time())
            self._sweep.report.adopted += 1

    def _comes_too_early(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        """Whether a due step comes after another that has not succeeded: after a restore, or by a person's verdict on it.

        In a run that is over, or is being undone, nothing begins any more: its message only lets a worker settle it.
        """
        if run.status not in FORWARD_WORKFLOWS:
            return False
        if step.status is StepStatus.WAITING and self._will_never_come(run, step):
            return True
        if run.shape is Shape.CANVAS and step.kind.member and not may_begin(step, steps, partial(self._is_done, run)):
            return True
        return not all(self._is_done(run, step, s) for s in elsewhere(self._sweep.journal, step))

    def _waits(self, run: WorkflowRow, step: StepRow) -> bool:
        """Whether a dispatched step comes after another that has not succeeded."""
        if self._will_never_come(run, step):
            return True
        for earlier in elsewhere(self._sweep.journal, step):
            if not earlier.kind.marked and earlier.status is StepStatus.PLANNED:
                self._stands_at(run, earlier, [step], earlier.created_at, earlier.created_at)
            if not self._is_done(run, step, earlier):
                return True
        return False

    def _will_never_come(self, run: WorkflowRow, step: StepRow) -> bool:
        """Fails a planned step that comes after one of another run, or of its function, which has failed for good."""
        over = (StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.UNDONE)
        if step.options.get(ALLOW_FAILURE):
            return False
        failed = next((s for s in elsewhere(self._sweep.journal, step) if s.status in over), None)
        if failed is None:
            return False
        why = f"it comes after {failed.name} of run {failed.ref}, which is {failed.status}"
        self._messages.never_begins(run, step, DependencyFailed(f"{step.name} never began: {why}"))
        return True


def _wakes(step: StepRow) -> bool:
    """Whether a call in place has a look of its own to come, which wakes its function."""
    return step.kind.in_place and (step.status in UNSETTLED_STEPS or step.status is StepStatus.WAITING)


def _since(row: StepRow) -> int:
    """Since when a step waits for a message to be begun: as far as its row says."""
    since = row.doubt_at if row.status is StepStatus.IN_DOUBT else row.next_check_at
    return since or row.created_at
