"""Lost messages: whether a planned step's message is to be sent again, and what speaks against it.

A message counts as lost only where it was not begun in time, no beat lists its step, and its queue is empty or has moved
past it. What somebody without the plugin may have run is in doubt instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

from ..errors import DurableError, MessageExpired, UnserialisableValue
from ..model import SECOND, Cause, Effect, StepRow, StepStatus, WorkerRow, WorkflowRow
from ..runtime.engine import Engine, EngineEnd, EngineOutcome, engine_of
from ..runtime.engine_ends import Fate, end_step
from ..runtime.values import encode_for, write_failure
from .sweep import Sweep

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
#: Seconds that sending them has at the least.
SENDS = 1.0
#: How many are counted together first; then each time so many times more, as long as they are sent in time.
FIRST, MORE = 1, 10
#: How often a guarded step's message is sent again: if that one vanishes unbegun as well, the step is in doubt.
SENT_AGAIN = 1


class Again(NamedTuple):
    """A message that is to be sent again."""

    run: WorkflowRow
    #: The step whose message is sent.
    sent: StepRow
    #: The one whose message was lost: the same, or one that follows it.
    lost: StepRow
    steps: list[StepRow]
    #: The last one is known to have been thrown away unread.
    not_taken: bool


class LostMessages:
    """Judges the messages of one sweep.

    Args:
        sweep: the sweep.
        now: its time, in microseconds.
        running: the run and key of every attempt that a beat names.
    """

    def __init__(self, sweep: Sweep, now: int, running: set[tuple[str, str]]) -> None:
        self._sweep = sweep
        self._now = now
        self._running = running
        self._again: list[Again] = []
        self._seen_empty: dict[tuple[str, str | None], bool | None] = {}

    def never_begins(self, run: WorkflowRow, step: StepRow, error: DurableError) -> None:
        """Fails a step that never began and never will, and begins what that decides."""
        if isinstance(error, MessageExpired):
            self.end(run, step, EngineEnd(str(error), error, first_only=True))
            return
        failure, fails_run = write_failure(error), step.kind.fails_run
        ended = self._sweep.journal.ends.fail(step, None, failure, Effect.DID_NOT_HAPPEN, fails_run=fails_run, why=str(error))
        if not ended.recorded:
            return
        steps = self._sweep.journal.reads.steps(run.ref)
        self._sweep.withdraw(run, [*steps, replace(step, status=StepStatus.CANCELLED)])
        if ended.decision is not None and ended.decision.undo is not None:
            self._sweep.send(run, ended.decision.undo, steps)
        self._sweep.report.failed += 1

    def ended_by_engine(self, run: WorkflowRow, step: StepRow) -> bool:
        """Whether the result store says that the engine ended a step's task on purpose; then that is recorded."""
        engine = engine_of(run, step, self._sweep.engines)
        outcome = stored_outcome(engine, step) if engine is not None else None
        return outcome is not None and outcome.ended is not None and self.end(run, step, outcome.ended)

    def end(self, run: WorkflowRow, step: StepRow, end: EngineEnd) -> bool:
        """Records that a step's task was ended by its engine before it began; False where it goes on all the same."""
        steps = self._sweep.journal.reads.steps(run.ref)
        if end_step(self._sweep.journal, run, step, steps, end, who=self._sweep.who) is not Fate.ENDED:
            return False
        self._sweep.report.ended += 1
        self._sweep.withdraw(run, self._sweep.journal.reads.steps(run.ref))
        return True

    def send_again_if_lost(
        self,
        run: WorkflowRow,
        step: StepRow,
        steps: list[StepRow],
        since: int,
        before: StepRow | None = None,
    ) -> None:
        """Sends a planned step's message again if it is lost; in doubt if somebody without the plugin may have run it."""
        journal = self._sweep.journal
        engine = engine_of(run, step, self._sweep.engines)
        if engine is None or len(self._again) >= RESENDS or (run.ref, step.key) in self._running:
            return
        if not self._sweep.reaches(run, step, since=since, now=self._now):
            self._sweep.check_again(run.ref, self._now)
            return
        not_taken = self._was_not_taken(step, engine)
        gone = not_taken or engine.is_gone(step)
        patience = min(GONE, journal.resend_after) if gone else journal.resend_after
        due = since + patience + int(step.options.get("delay", 0))
        if self._ran_elsewhere(run, step, engine, before, due=due) or gone is False:
            return
        if self._now < due:
            self._sweep.check_again(run.ref, due)
            return
        empty = gone or self._is_empty(engine, step.queue)
        if not empty and not self._overtaken(run, step, since):
            return
        again = step
        if before is not None and before.kind.marked and stored_outcome(engine, before) is None:
            again = before  # its result was never stored: as a memo hit it stores it, and sends what follows
        if self._too_soon(step):
            return
        why = None
        if step.is_guarded and not not_taken:
            why = self._taken_by_others(run, step, engine, since, again=step.sends, gone=bool(empty))
        if why is not None:
            if journal.doubts.raise_doubt(step, None, why, cause=Cause.MESSAGE_LOST, over=True, who=self._sweep.who):
                self._sweep.report.doubts += 1
            return
        self._again.append(Again(run, again, step, steps, not_taken))

    def send_again(self) -> None:
        """Sends again what was found to be lost, for `SENDS` seconds at the least; what is left is due again at once.

        What is counted is sent. A broker that lets each publication wait shows with the first, before more are counted.
        """
        lost, self._again = self._again, []
        self._sweep.lasts_at_least(SENDS)
        together = FIRST
        while lost and not self._sweep.is_over():
            for again in self._counted(lost[:together]):
                self._sweep.attend()
                self._sweep.guarded(again.run.ref, partial(self._send, again))
            lost = lost[together:]
            together *= MORE
        for again in lost:
            self._sweep.check_again(again.run.ref, self._now)

    def _counted(self, lost: Sequence[Again]) -> list[Again]:
        """Counts what is about to be sent again; returns all of it but what belongs to a run of which somebody keeps a row.

        Two commits at the most, if nobody does.
        """
        by_run: dict[str, list[Again]] = {}
        for again in lost:
            by_run.setdefault(again.run.ref, []).append(again)
        counted: list[Again] = []

        def count(some: Mapping[str, list[Again]]) -> None:
            these = [again for of_its_run in some.values() for again in of_its_run]
            for again in these:
                if again.not_taken:
                    self._sweep.journal.engine_ends.taken_up(again.lost)
            rows = [(again.run.ref, again.sent.key, again.lost.key) for again in these]
            self._sweep.journal.due.count_resends(rows, "its message was lost")
            counted.extend(these)

        self._sweep.at_once(by_run, count)
        return counted

    def _send(self, again: Again) -> None:
        try:
            sent = self._sweep.send(again.run, again.sent, again.steps)
        except MessageExpired as expired:
            self.never_begins(again.run, again.sent, expired)
            return
        if not sent:
            self._sweep.journal.due.count_send(again.lost, -1)
        self._sweep.report.sent_again += 1

    def _was_not_taken(self, step: StepRow, engine: Engine) -> bool:
        """Whether it is proven that the last message of a step was thrown away unread, so that its body did not run."""
        if step.cause == Cause.NOT_TAKEN:
            return True
        outcome = stored_outcome(engine, step)
        if outcome is None or outcome.refused is None:
            return False
        # What was stored before the message was sent again says nothing of that one.
        return step.sends == 0 or (outcome.at is not None and outcome.at > (step.sent_at or 0))

    def _taken_by_others(
        self, run: WorkflowRow, step: StepRow, engine: Engine, since: int, *, again: int, gone: bool
    ) -> str | None:
        """Why what took a guarded step's message may have run it without the plugin; None where nothing says so."""
        if gone and not any(each.takes(engine.name, step.queue) and each.beat_at >= since for each in self._living):
            return "its message is gone, and no worker with the plugin has listened on its queue since it was sent"
        if again >= SENT_AGAIN:
            return "its message was sent again, and that one vanished as well: whatever took it may have run it unrecorded"
        return None

    def vanished(self, run: WorkflowRow, step: StepRow, since: int) -> str | None:
        """Why a due step's message must not be sent once more, where what took the last one may have run it unrecorded.

        Args:
            run: the step's run.
            step: the step, which waits for its next attempt or has a probe to be asked, and whose message was sent.
            since: when it was first sent.

        Returns:
            The reason, empty where it is only too early to say; None where the message may be sent again.
        """
        engine = engine_of(run, step, self._sweep.engines)
        if engine is None or (run.ref, step.key) in self._running or (gone := engine.is_gone(step)) is False:
            return ""
        empty = gone or self._is_empty(engine, step.queue)
        if empty is False and not self._overtaken(run, step, since):
            return ""
        why = self._taken_by_others(run, step, engine, since, again=step.sends - 1, gone=bool(empty))
        return why if why is None or self._now - since >= self._sweep.journal.resend_after else ""

    def _overtaken(self, run: WorkflowRow, step: StepRow, sent_at: int) -> bool:
        """Whether one that was sent to the same queue later has begun."""
        return step.queue is not None and self._moved_to.get((step.engine or run.engine, step.queue), 0) > sent_at

    @cached_property
    def _moved_to(self) -> dict[tuple[str, str], int]:
        journal = self._sweep.journal
        return journal.reads.queues_moved_to(journal.namespace)

    @cached_property
    def _living(self) -> list[WorkerRow]:
        journal = self._sweep.journal
        return journal.workers.alive(namespace=journal.namespace)

    def _is_empty(self, engine: Engine, queue: str | None) -> bool | None:
        """Whether a queue was seen empty in this sweep: what had been sent to it before is not in it, whatever is sent now."""
        seen = self._seen_empty
        if (engine.name, queue) not in seen:
            seen[engine.name, queue] = engine.queue_is_empty(queue)
        return seen[engine.name, queue]

    def _too_soon(self, step: StepRow) -> bool:
        """Whether a message was sent again so lately that it is not to be once more: each wait is twice as long as the last."""
        if step.sends == 0 or step.sent_at is None:
            return False
        # Its look was set a moment before it was sent: one that comes a moment early is on time.
        wait: int = self._sweep.journal.resend_after * 2 ** min(step.sends - 1, DOUBLINGS) - GONE
        return self._now < step.sent_at + wait

    def _ran_elsewhere(
        self,
        run: WorkflowRow,
        step: StepRow,
        engine: Engine,
        before: StepRow | None,
        *,
        due: int,
    ) -> bool:
        """A worker without the plugin ran it: its stored result is the evidence, and what follows it was sent.

        A failure is none of a function that began here: where its process dies, it is the engine that calls it failed.
        Nor is it where the task before it failed for the engine: that one then calls the whole rest of the chain failed.
        """
        outcome = stored_outcome(engine, step)
        if outcome is None or outcome.refused is not None:
            return False
        if outcome.ended is not None:
            return self.end(run, step, outcome.ended)
        if not outcome.succeeded and before is not None:
            earlier = stored_outcome(engine, before)
            if earlier is not None and not earlier.succeeded:
                return False
        if not outcome.succeeded and (self._now < due or (step.kind.makes_calls and self._has_calls(run))):
            return False
        if not outcome.succeeded and self._now < due + VERDICT:
            self._sweep.check_again(run.ref, due + VERDICT)
            return True
        why, cause = "a worker without the plugin ran it: the result store has its result", Cause.RAN_ELSEWHERE
        if outcome.at is not None and outcome.at < step.created_at:
            why, cause = (
                "the result store has a result of that task id, stored just before this workflow was started, by its own clock",
                Cause.OLD_RESULT,
            )
        elif outcome.succeeded and self._adopt(step, outcome.value, why):
            return True
        doubts = self._sweep.journal.doubts
        if doubts.raise_doubt(step, None, why, cause=cause, over=True, who=self._sweep.who):
            self._sweep.report.doubts += 1
        return True

    def _adopt(self, step: StepRow, value: object, why: str) -> bool:
        """Takes over the result store's value, in one transition; False where it cannot be written down."""
        try:
            stored = encode_for(self._sweep.journal, value)
        except UnserialisableValue:
            return False
        happened, cause = self._sweep.journal.verdicts.happened, Cause.RAN_ELSEWHERE
        if happened(step, stored, who="result store", why=why, send=False, cause=cause).recorded:
            self._sweep.report.adopted += 1
        return True

    def _has_calls(self, run: WorkflowRow) -> bool:
        return any(not s.kind.makes_calls for s in self._sweep.journal.reads.steps(run.ref))


def stored_outcome(engine: Engine, step: StepRow) -> EngineOutcome | None:
    """What the result store has for a step. An older result is another task's, which had the same id before."""
    found = engine.outcome(step)
    return None if found is not None and found.at is not None and found.at < step.created_at - SKEW else found
