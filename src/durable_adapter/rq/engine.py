"""RQ as the runtime and the sweeper see it: how a job is sent again, and what Redis can tell of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError
from rq import Queue, registry
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.results import Result

from ..declare.policy import StepPolicy
from ..errors import NotInstalled
from ..model import SECOND, Attention, Kind, StepRow, StepStatus, WorkflowRow
from ..runtime.engine import EngineOutcome, message_of
from ..runtime.order import OUTSIDE, is_done
from ..runtime.plans import arguments_of, compensation_options, stored_member, undo_call
from . import stamps, ticks
from .ended import end_of, is_readable, look_for_expiry, refused
from .facts import aware, is_of_before, of_member, status_of
from .identity import MADE, OVER, belongs, place_of
from .jobs import fetched, made_again, serializer_kept
from .notes import HANDED_BACK, PUT_ASIDE, count, once_more
from .places import DB, db_of, place_kept, queue_at
from .publishing import sending_again
from .rows import is_gone, rows_of_starts
from .stamps import stamp_of
from .versions import GROUPS, READY_REGISTRY, cannot_suspend, since

if TYPE_CHECKING:
    from redis import Redis

    from .binding import Binding

logger = logging.getLogger("durable_adapter")

#: Where a job may stand besides in its queue, and among the started.
REGISTRIES: tuple[type[BaseRegistry], ...] = (
    ScheduledJobRegistry,
    FinishedJobRegistry,
    FailedJobRegistry,
    DeferredJobRegistry,
    CanceledJobRegistry,
    *([registry.ReadyJobRegistry] if since(READY_REGISTRY) else []),
)
#: What RQ says of a job that it will not run again, and that is not done.
CALLED_OFF = (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)
#: The status of a job that waits for its rate limit; new in RQ 3.0.
RATE_LIMITED = "rate_limited"
#: How often RQ gets a job once more whose step has succeeded; how long after its verdict for the second time, in seconds. Each
#: wait is twice the last.
HAND_BACKS, HAND_BACK_AFTER = 3, 10.0


class RQEngine:
    """The engine protocol for this process's RQ."""

    name = "rq"
    hands_results_on = False

    #: What the keys of its queues begin with; None where that is RQ's own.
    prefix: str | None = None

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def at(self, step: StepRow) -> RQEngine | None:
        """This engine where a step's job is; None where this process knows no connection to that place.

        Raises:
            RedisError: it is not known, and the Redis that is does not answer.
        """
        db, prefix = place_kept(step.options)
        connection = self.connection if db in (None, db_of(self.connection)) else self._binding.connections.get(db)
        if connection is None:
            self.connection.ping()  # who reaches no Redis at all says that, and not that the job is another's to look after
            return None
        if connection is self.connection and (prefix == self.prefix or db is None):
            return self
        return Elsewhere(self._binding, connection, prefix)

    @property
    def cannot_suspend(self) -> str | None:
        """Why no workflow function can wait on this RQ."""
        return cannot_suspend()

    @property
    def connection(self) -> Redis:
        """Where jobs are.

        Raises:
            NotInstalled: no queue, worker or job was seen yet.
        """
        found = self._binding.connection
        if found is None:
            raise NotInstalled("it is not known where RQ's jobs are: no queue or worker was used in this process yet")
        return found

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        """Sends a step's job again, whatever became of it in Redis. A call in place is its function's to run again."""
        step = message_of(run, step, steps)
        there = self.at(step)
        if there is None:  # it is left to a process that knows its place, and looked at soon by whoever comes
            logger.debug("job %s is in another database of Redis", step.task_id)
            self._binding.journal.runs.look_again(run.ref, self._binding.journal.time() + SECOND)
            return False
        return there.send_step_here(run, step, steps)

    def send_step_here(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> bool:
        """As `send_step`, of a step whose job is where this engine is."""
        job = self.job_of(step)
        if job is not None and status_of(job) is JobStatus.FAILED and not is_readable(job):
            job = None  # the journal has what it is made of
        if job is not None and not belongs(job, step):
            if status_of(job) not in OVER:
                logger.debug("job %s is another run's now; step %s of run %s waits until that is over", job.id, step.key, run.ref)
                return False
            job = None  # and it is made anew, over the later one
        with sending_again():
            before = [(s, self.hand_back(s)) for s in self._unfinished_before(step, steps)]
            again = [s for s, handed_back in before if handed_back]
            if any(handed_back is None for _, handed_back in before):
                return False  # later
            if again:
                self._deferred(job or self._made(run, step, steps), again)
                for parent in again:
                    self.send_step(run, parent, steps)  # a memo hit: it stores its result and releases what waits for it
                return False
            if job is None:
                left = self._time_left(run, step, steps)
                job = self._made(run, step, steps)
                with self.connection.pipeline() as pipe:
                    _into_its_group(job, pipe)
                    _into_queue(self._queue(job.origin), job, pipe)
                    if left is not None:
                        pipe.expire(job.key, left)  # not for as long as it was to be kept when it was sent first
                    pipe.execute()
            else:
                self._queued_again(job, step)
        return True

    def _unfinished_before(self, step: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
        """The members that a planned one comes after, which succeeded, and of which Redis has no success (any more)."""
        if step.status is not StepStatus.PLANNED:
            return []
        after = step.after or ()
        succeeded = [s for s in steps if s.key in after and s.status is StepStatus.SUCCEEDED and s.kind is Kind.STEP]
        return [s for s in succeeded if not self._is_finished(s)]

    def _is_finished(self, step: StepRow) -> bool:
        """Whether RQ takes a step's job for done."""
        job = self.job_of(step)
        return job is not None and belongs(job, step) and status_of(job) is JobStatus.FINISHED

    def job_of(self, step: StepRow) -> Job | None:
        """What Redis has under the id of a step's job: that job, or another that was enqueued under its id since."""
        there = self.at(step)
        if there is None:
            return None
        return fetched(step.task_id, there.connection, serializer_kept(step.options, self._binding.serializer))

    def hand_back(self, step: StepRow) -> bool | None:
        """Whether RQ gets a job once more whose step succeeded and which it calls failed; None where it is not time yet.

        As a memo hit the job ends well for RQ too, unless its success callback fails, or kills its process, each time.
        After some tries RQ's verdict stands, in front of people, and what depends on the job is sent without it.
        """
        if self.at(step) is None:
            return None
        job = self.job_of(step)
        if job is None or not belongs(job, step) or status_of(job) not in CALLED_OFF:
            return True
        tried = count(job, HANDED_BACK)
        if tried >= HAND_BACKS:
            if tried == HAND_BACKS:  # once: a person may have seen it meanwhile
                self._binding.journal.doubts.put_before_people(
                    step.ref, step.key, Attention.CALLBACK, "the step succeeded, and its job fails behind it"
                )
                once_more(job, HANDED_BACK)
            return False
        ended = aware(job.ended_at).timestamp() if job.ended_at is not None else 0.0
        if tried and time.time() < ended + HAND_BACK_AFTER * 2 ** (tried - 1):
            return None
        once_more(job, HANDED_BACK)
        return True

    def let_go(self, job: Job) -> None:
        """Cancels a job that waits for nothing that could come; Redis keeps it no longer than a failed one."""
        try:
            job.cancel()
        except InvalidJobOperation:
            return
        job.connection.expire(job.key, job.failure_ttl or DEFAULT_FAILURE_TTL)

    def _deferred(self, job: Job, before: Sequence[StepRow]) -> None:
        """Makes a job wait for others, so that RQ hands it on when they have ended."""
        job._dependency_ids = [s.task_id for s in before if s.task_id is not None]
        queue = self._queue(job.origin)
        with self.connection.pipeline() as pipe:
            self._taken_out(job, queue, pipe)
            pipe.sadd(queue.redis_queues_keys, queue.key)
            job.set_status(JobStatus.DEFERRED, pipeline=pipe)
            job.register_dependency(pipeline=pipe)
            _into_its_group(job, pipe)
            job.save(pipeline=pipe)
            stamps.save(job, pipe)
            pipe.execute()

    def _time_left(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> int | None:
        """The seconds that are left of the time to live of a job that is made again; None where it has none."""
        if step.kind is Kind.COMPENSATION:
            return None
        return look_for_expiry(step, steps, stored_member(run, step)["options"], self._binding.journal.time())

    def _made(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> Job:
        if step.kind is Kind.COMPENSATION:
            target = next(s for s in steps if s.key == step.target)
            args, kwargs, options = undo_call(self._binding.registry, run, target, steps)
            # A step in place has no queue of its own: it ran where its function did.
            queue = target.queue or next((s.queue for s in steps if s.kind is Kind.FUNCTION), None)
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
            marked=step.kind is not Kind.UNMARKED,
            made=step.options.get(MADE),
            connection=self.connection,
            serializer=serializer_kept(step.options, self._binding.serializer),
        )

    def _queue(self, name: str) -> Queue:
        return queue_at(name, self.prefix, self.connection, self._binding.serializer)

    def _queued_again(self, job: Job, step: StepRow) -> None:
        """Puts a job that Redis has back into its queue, out of wherever it is; sent twice at once, it is there once."""
        status = status_of(job, refresh=True)
        if status is JobStatus.QUEUED and self._is_listed(job):
            return
        if status is JobStatus.STARTED:
            # What succeeded, and what a worker saw die, is over, whatever the last beat says.
            at_its_end = step.status is StepStatus.SUCCEEDED and self._is_at_its_end(job)
            if at_its_end or (step.status is not StepStatus.SUCCEEDED and self._is_running(step) and not is_gone(job)):
                return
        self.put_back(job)

    def put_back(self, job: Job) -> None:
        """Puts a job into its queue, out of wherever it is."""
        queue = self._queue(job.origin)
        with self.connection.pipeline() as pipe:
            self._taken_out(job, queue, pipe)
            job.ended_at = None
            ticks.put_back(job)
            _into_queue(queue, job, pipe)
            pipe.execute()

    def _taken_out(self, job: Job, queue: Queue, pipe: Any) -> None:
        """Takes a job out of every list and registry."""
        for where in REGISTRIES:
            pipe.zrem(where(job.origin, connection=self.connection).key, job.id)
        started = StartedJobRegistry(job.origin, connection=self.connection)
        for execution in self._executions(started, job):
            pipe.zrem(started.key, execution)
        pipe.lrem(queue.key, 0, job.id)
        pipe.lrem(queue.intermediate_queue_key, 0, job.id)
        limiter = _limiter_of(job)
        if limiter is not None:
            pipe.zrem(limiter.allowed_key, job.id)
            pipe.zrem(limiter.rate_limited_key, job.id)

    def _is_listed(self, job: Job) -> bool:
        key = self._queue(job.origin).key
        try:
            return self.connection.lpos(key, job.id) is not None
        except ResponseError:  # Redis before 6.0.6, on which RQ runs
            return job.id.encode() in self.connection.lrange(key, 0, -1)

    def _is_running(self, step: StepRow) -> bool:
        """Whether a living worker says that it runs a step: what RQ itself thinks of that may be minutes old."""
        names = (name.split(" ", 2) for worker in self._binding.journal.workers.alive() for name in worker.running)
        return any((ref, key) == (step.ref, step.key) for ref, _token, key in names)

    def _is_at_its_end(self, job: Job) -> bool:
        """Whether a worker of ours that lives is at a started job's callbacks, or writes its result: behind its body."""
        rows = rows_of_starts([job], self.connection, self._binding.journal)
        return any(row.dead_at is None and row.stopped_at is None for row in rows.values())

    def _executions(self, started: StartedJobRegistry, job: Job) -> list[str]:
        """The members of a registry that belong to a job: its id, or its id with an execution's."""
        members = [m.decode() if isinstance(m, bytes) else str(m) for m in self.connection.zrange(started.key, 0, -1)]
        return [member for member in members if of_member(member) == job.id]

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue's list holds no job now."""
        return None if queue is None else self._queue(queue).is_empty()

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether a step's job is nowhere: not in Redis, or said to be queued and in no list. None where it cannot be asked."""
        there = self.at(step)
        if there is not self:
            return there.is_gone(step) if there is not None else None
        job = self.job_of(step)
        if job is None:
            return True
        status = status_of(job)
        if status is None:
            return True
        if not belongs(job, step):
            return status in OVER  # an earlier run of an id waits until the later one is over
        match status:
            case JobStatus.QUEUED:
                return not self._is_listed(job)
            case JobStatus.STARTED:
                started = StartedJobRegistry(job.origin, connection=self.connection)
                return not (self._executions(started, job) or self._is_running(step))
            case JobStatus.DEFERRED:
                return self._nothing_holds(job, step)
            case _ if status.value == RATE_LIMITED:
                limiter = _limiter_of(job)
                return limiter is None or self.connection.zscore(limiter.rate_limited_key, job.id) is None
            case JobStatus.SCHEDULED if step.kind is Kind.UNMARKED:
                return False
            case JobStatus.SCHEDULED:
                return bool(count(job, PUT_ASIDE))  # we put it aside, and whoever was to send it did not
            case JobStatus.FINISHED:
                return None if self.outcome(step) is not None else False  # a worker without the plugin ran it
        return True  # failed, canceled or stopped before it began: nobody will run it

    def _nothing_holds(self, job: Job, step: StepRow) -> bool:
        """Whether all that a deferred job waits for is done, for RQ or in the journal, so that nobody will send it."""
        for parent_id in job._dependency_ids:
            parent = fetched(parent_id, self.connection, self._binding.serializer)
            if parent is None:
                continue  # as RQ reads it: it was done, and is forgotten
            status = status_of(parent)
            if status is JobStatus.FINISHED or (status is JobStatus.FAILED and job.allow_dependency_failures):
                continue
            row = self._binding.journal.claims.look(*place_of(parent)) if stamp_of(parent) is not None else None
            if row is None or not is_done(step, row) or (status is JobStatus.STARTED and self._is_at_its_end(parent)):
                return False
        return True

    def out_of_reach(self, step: StepRow) -> str | None:
        """The database of Redis that has a step's job, if this process knows no connection to it."""
        return None if self.at(step) is not None else f"database {step.options.get(DB)} of Redis"

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """What RQ's own results hold for a step's job: of one that RQ takes for over, and of no other under its id."""
        there = self.at(step)
        if there is not self:
            return there.outcome(step) if there is not None else None
        job = self.job_of(step)
        if job is None or not belongs(job, step):
            return None
        try:
            status = status_of(job)
            end = end_of(job, status, self.connection)
            if end is not None:
                return EngineOutcome(succeeded=False, at=end.at, ended=end)
            if status not in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED):
                return None
            result = job.latest_result()
        except Exception as error:
            logger.debug("the result of job %s is not known: %s", step.task_id, error)
            return None
        if result is None or result.type not in (Result.Type.SUCCESSFUL, Result.Type.FAILED) or is_of_before(result, job):
            return None
        if result.type is Result.Type.FAILED:
            return EngineOutcome(succeeded=False, refused=refused(job))
        return EngineOutcome(succeeded=True, value=result.return_value)

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Cancels jobs that would stay deferred for ever, because what they depend on failed for good."""
        for step in steps:
            if step.options.get(OUTSIDE):
                continue  # it is nobody's member, and runs for whoever sent it
            job = self.job_of(step)
            if job is None or step.status is not StepStatus.CANCELLED or not belongs(job, step):
                continue
            if status_of(job) not in (None, JobStatus.CANCELED, JobStatus.FINISHED, JobStatus.STARTED):
                self.let_go(job)

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """What a step's row keeps of its compensation."""
        return compensation_options(self._binding.registry, policy)

    def say_held(self, step: StepRow, why: str) -> None:
        """Nothing: the job stays among the scheduled ones, and RQ has no state that says why."""

    def knows(self, name: str) -> bool:
        """Whether this process can import a function of that name."""
        return self._binding.registry.function(name) is not None


class Elsewhere(RQEngine):
    """The engine where some other job is than most of this process: in another database, or behind another prefix."""

    def __init__(self, binding: Binding, connection: Redis, prefix: str | None) -> None:
        super().__init__(binding)
        self._connection = connection
        self.prefix = prefix

    @property
    def connection(self) -> Redis:
        """Where that job is."""
        return self._connection


def _into_queue(queue: Queue, job: Job, pipe: Any) -> None:
    """Puts a job into its queue, or where it waits for its rate limit."""
    pipe.sadd(queue.redis_queues_keys, queue.key)  # a flush took the list of queues as well
    stamps.save(job, pipe)
    if _limiter_of(job) is not None:
        queue._enqueue_rate_limited_job(job, pipeline=pipe)
    else:
        queue._enqueue_job(job, pipeline=pipe)


def _limiter_of(job: Job) -> Any:
    """RQ's registry of a job's rate limit; None where it has none."""
    if not getattr(job, "has_rate_limit", False):
        return None
    from rq.rate_limit import RateLimitRegistry

    return RateLimitRegistry.from_job(job)


def _into_its_group(job: Job, pipe: Any) -> None:
    """Makes a job that is made again a member of its group once more."""
    if not since(GROUPS) or job.group_id is None:
        return
    from rq.group import Group

    pipe.sadd(Group.get_key(job.group_id), job.id)
    pipe.sadd(Group.REDIS_GROUP_KEY, job.group_id)
