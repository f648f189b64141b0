"""RQ as the runtime and the sweeper see it: how a job is sent again, and what Redis can tell of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rq.job import Job, JobStatus
from rq.results import Result

from ..declare.policy import StepPolicy
from ..model import SECOND, StepRow, StepStatus, WorkflowRow, attempt_place
from ..runtime.engine import EngineOutcome, message_of
from ..runtime.order import OUTSIDE, is_done
from ..runtime.plans import arguments_of, compensation_options, stored_member, undo_call
from ..runtime.publication import publishing
from .binding import Binding
from .ended import end_of, is_readable, refused, seconds_to_live
from .facts import is_of_earlier_job, status_of
from .fields import PUT_ASIDE, count, is_gone, rows_of_starts
from .identity import MADE, OVER, belongs, place_of
from .jobs import DB, fetched, made_again, serializer_kept
from .orphans import hand_back
from .place import Place, cancel
from .stamps import stamp_of
from .versions import cannot_suspend

logger = logging.getLogger("durable_adapter")

#: The status of a job that waits for its rate limit; new in RQ 3.0.
RATE_LIMITED = "rate_limited"


class RQEngine:
    """The engine protocol for this process's RQ."""

    name = "rq"
    hands_results_on = False

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    @property
    def cannot_suspend(self) -> str | None:
        """Why no workflow function can wait on this RQ."""
        return cannot_suspend()

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        """Sends a step's job again, whatever became of it in Redis."""
        step = message_of(run, step, steps)
        place = self._binding.place_of(step)
        if place is None:  # it is left to a process that knows its place, and looked at soon by whoever comes
            logger.debug("job_elsewhere job=%s db=%s", step.task_id, step.options.get(DB))
            self._binding.journal.due.check_again(run.ref, self._binding.journal.time() + SECOND)
            return False
        job = place.job_of(step)
        if job is not None and status_of(job) is JobStatus.FAILED and not is_readable(job):
            job = None  # the journal has what it is made of
        if job is not None and not belongs(job, step):
            if status_of(job) not in OVER:
                logger.debug("job_id_in_use job=%s run=%s step=%s", job.id, run.ref, step.key)
                return False
            job = None  # it is made again, over the later one
        with publishing(is_repeated=True):
            before = [(s, hand_back(self._binding, s)) for s in self._unfinished_before(step, steps)]
            again = [s for s, handed_back in before if handed_back]
            if any(handed_back is None for _, handed_back in before):
                return False  # later
            if again:
                place.defer(job or self._made(place, run, step, steps), again)
                for parent in again:
                    self.send_step(run, parent, steps)  # a memo hit: it stores its result and releases what waits for it
                return False
            if job is None:
                left = self._time_left(run, step, steps)
                place.send(self._made(place, run, step, steps), lives=left)
            elif not self._comes_by_itself(place, job, step):
                place.put_back(job)
        return True

    def _job_of(self, step: StepRow) -> Job | None:
        """Returns what Redis has under the id of a step's job; None also where its place is not known."""
        place = self._binding.place_of(step)
        return place.job_of(step) if place is not None else None

    def _unfinished_before(self, step: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
        """The members that a planned one comes after, which succeeded, and of which Redis has no success (any more)."""
        if step.status is not StepStatus.PLANNED:
            return []
        after = step.after or ()
        succeeded = [s for s in steps if s.key in after and s.status is StepStatus.SUCCEEDED and s.kind.marked]
        return [s for s in succeeded if not self._is_finished(s)]

    def _is_finished(self, step: StepRow) -> bool:
        """Whether RQ takes a step's job for done."""
        job = self._job_of(step)
        return job is not None and belongs(job, step) and status_of(job) is JobStatus.FINISHED

    def _time_left(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> int | None:
        """The seconds that are left of the time to live of a job that is made again; None where it has none."""
        if step.kind.undoes:
            return None
        return seconds_to_live(step, steps, stored_member(run, step)["options"], self._binding.journal.time())

    def _made(self, place: Place, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> Job:
        if step.kind.undoes:
            target = next(s for s in steps if s.key == step.target)
            args, kwargs, options = undo_call(self._binding.registry, run, target, steps)
            # A step in place has no queue of its own: it ran where its function did.
            queue = target.queue or next((s.queue for s in steps if s.kind.makes_calls), None)
        else:
            member = stored_member(run, step)
            args, kwargs = arguments_of(self._binding.registry, run, step, steps)
            options, queue = member["options"], step.queue
        assert step.task_id is not None
        return made_again(
            step.name,
            args,
            kwargs,
            job_id=step.task_id,
            queue=queue,
            options=options,
            ref=run.ref,
            key=step.key,
            marked=step.kind.marked,
            made=step.options.get(MADE),
            connection=place.connection,
            serializer=serializer_kept(step.options, place.serializer),
        )

    def _comes_by_itself(self, place: Place, job: Job, step: StepRow) -> bool:
        """Whether a job that Redis has is in its queue, or run: sent twice at once, it is there once."""
        status = status_of(job, refresh=True)
        if status is JobStatus.QUEUED:
            return place.is_listed(job)
        if status is not JobStatus.STARTED:
            return False
        # What succeeded, and what a worker saw die, is over, whatever the last beat says.
        if step.status is StepStatus.SUCCEEDED:
            return self._is_at_its_end(place, job)
        return self._is_running(step) and not is_gone(job)

    def _is_running(self, step: StepRow) -> bool:
        """Whether a living worker says that it runs a step: what RQ itself thinks of that may be minutes old."""
        names = (name for worker in self._binding.journal.workers.alive() for name in worker.running)
        return (step.ref, step.key) in map(attempt_place, names)

    def _is_at_its_end(self, place: Place, job: Job) -> bool:
        """Whether a worker of ours that lives is at a started job's callbacks, or writes its result: behind its body."""
        rows = rows_of_starts([job], place.connection, self._binding.journal)
        return any(row.dead_at is None and row.stopped_at is None for row in rows.values())

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue's list holds no job now."""
        return None if queue is None else self._binding.here.queue(queue).is_empty()

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether a step's job is nowhere: not in Redis, or said to be queued and in no list. None where it cannot be asked."""
        place = self._binding.place_of(step)
        if place is None:
            return None
        job = place.job_of(step)
        if job is None:
            return True
        status = status_of(job)
        if status is None:
            return True
        if not belongs(job, step):
            return status in OVER  # an earlier run of an id waits until the later one is over
        match status:
            case JobStatus.QUEUED:
                return not place.is_listed(job)
            case JobStatus.STARTED:
                return not (place.executions(job) or self._is_running(step))
            case JobStatus.DEFERRED:
                return self._nothing_holds(place, job, step)
            case _ if status.value == RATE_LIMITED:
                return not place.awaits_its_limit(job)
            case JobStatus.SCHEDULED if not step.kind.marked:
                return False
            case JobStatus.SCHEDULED:
                return bool(count(job, PUT_ASIDE))  # we put it aside, and whoever was to send it did not
            case JobStatus.FINISHED:
                return None if self.outcome(step) is not None else False  # a worker without the plugin ran it
        return True  # failed, canceled or stopped before it began: nobody will run it

    def _nothing_holds(self, place: Place, job: Job, step: StepRow) -> bool:
        """Whether all that a deferred job waits for is done, for RQ or in the journal, so that nobody will send it."""
        for parent_id in job._dependency_ids:
            parent = fetched(parent_id, place.connection, place.serializer)
            if parent is None:
                continue  # as RQ reads it: it was done, and is forgotten
            status = status_of(parent)
            if status is JobStatus.FINISHED or (status is JobStatus.FAILED and job.allow_dependency_failures):
                continue
            row = self._binding.journal.claims.get(*place_of(parent)) if stamp_of(parent) is not None else None
            if row is None or not is_done(step, row):
                return False
            if status is JobStatus.STARTED and self._is_at_its_end(place, parent):
                return False
        return True

    def out_of_reach(self, step: StepRow) -> str | None:
        """The database of Redis that has a step's job, if this process knows no connection to it."""
        return None if self._binding.place_of(step) is not None else f"database {step.options.get(DB)} of Redis"

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """Returns the result that RQ holds for a step's job: only of one that has ended for RQ, and of no other under its id."""
        place = self._binding.place_of(step)
        job = place.job_of(step) if place is not None else None
        if place is None or job is None or not belongs(job, step):
            return None
        try:
            status = status_of(job)
            end = end_of(job, status, place.connection)
            if end is not None:
                return EngineOutcome(succeeded=False, at=end.at, ended=end)
            if status not in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED):
                return None
            result = job.latest_result()
        except Exception as error:
            logger.debug("result_unknown job=%s msg=%r", step.task_id, str(error))
            return None
        if result is None or result.type not in (Result.Type.SUCCESSFUL, Result.Type.FAILED) or is_of_earlier_job(result, job):
            return None
        if result.type is Result.Type.FAILED:
            return EngineOutcome(succeeded=False, refused=refused(job))
        return EngineOutcome(succeeded=True, value=result.return_value)

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Cancels jobs that would stay deferred for ever, because what they depend on failed for good."""
        for step in steps:
            if step.options.get(OUTSIDE):
                continue  # it is nobody's member, and runs for whoever sent it
            job = self._job_of(step)
            if job is None or step.status is not StepStatus.CANCELLED or not belongs(job, step):
                continue
            if status_of(job) not in (None, JobStatus.CANCELED, JobStatus.FINISHED, JobStatus.STARTED):
                cancel(job)

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """Returns what a step's row keeps of its compensation."""
        return compensation_options(self._binding.registry, policy)

    def say_held(self, step: StepRow, why: str) -> None:
        """Does nothing: the job stays among the scheduled ones, and RQ has no state that says why."""

    def knows(self, name: str) -> bool:
        """Whether this process can import a function of that name."""
        return self._binding.registry.function(name) is not None
