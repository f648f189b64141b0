"""One place in Redis where jobs are: a database, the prefix of its queues' keys, and how jobs are written there.

What is done with a job there is done in one transaction, whatever list or registry of RQ's it stands in. No rule of durability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError
from rq import Queue, registry
from rq.defaults import DEFAULT_FAILURE_TTL
from rq.exceptions import InvalidJobOperation
from rq.job import JobStatus
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from ..model import StepRow
from . import stamps, ticks
from .facts import job_id_of, text_of
from .jobs import fetched, serializer_kept
from .versions import GROUPS, READY_REGISTRY, since

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

#: The registries in which a job may stand besides its queue and the started ones.
REGISTRIES: tuple[type[BaseRegistry], ...] = (
    ScheduledJobRegistry,
    FinishedJobRegistry,
    FailedJobRegistry,
    DeferredJobRegistry,
    CanceledJobRegistry,
    *([registry.ReadyJobRegistry] if since(READY_REGISTRY) else []),
)


@dataclass(frozen=True)
class Place:
    """A place where jobs are.

    Attributes:
        connection: the connection to its database.
        prefix: what the keys of its queues begin with; None where that is RQ's own.
        serializer: how a job is written whose row names no other serializer.
    """

    connection: Redis
    prefix: str | None
    serializer: Any

    def queue(self, name: str) -> Queue:
        """A queue, whatever its class is: with the prefix that its key has."""
        cls = Queue if self.prefix is None else type("Queue", (Queue,), {"redis_queue_namespace_prefix": self.prefix})
        made: Queue = cls(name, connection=self.connection, serializer=self.serializer)
        return made

    def job_of(self, step: StepRow) -> Job | None:
        """Returns what Redis has under the id of a step's job: that job, or another that was enqueued under its id since."""
        return fetched(step.task_id, self.connection, serializer_kept(step.options, self.serializer))

    def is_listed(self, job: Job) -> bool:
        """Whether the list of a job's queue holds it."""
        key = self.queue(job.origin).key
        try:
            return self.connection.lpos(key, job.id) is not None
        except ResponseError:  # Redis before 6.0.6, on which RQ runs
            return job.id.encode() in self.connection.lrange(key, 0, -1)

    def executions(self, job: Job) -> list[str]:
        """The members of the registry of started jobs that belong to a job: its id, or its id with an execution's."""
        started = StartedJobRegistry(job.origin, connection=self.connection)
        members = [text_of(m) for m in self.connection.zrange(started.key, 0, -1)]
        return [member for member in members if job_id_of(member) == job.id]

    def awaits_its_limit(self, job: Job) -> bool:
        """Whether a job stands where it waits for its rate limit."""
        limiter = _limiter_of(job)
        return limiter is not None and self.connection.zscore(limiter.rate_limited_key, job.id) is not None

    def send(self, job: Job, *, lives: int | None = None) -> None:
        """Sends a job that is made again.

        Args:
            job: the job; Redis has none.
            lives: seconds after which it is to be forgotten; None where it has no time to live.
        """
        with self.connection.pipeline() as pipe:
            _into_its_group(job, pipe)
            _into_queue(self.queue(job.origin), job, pipe)
            if lives is not None:
                pipe.expire(job.key, lives)  # not for as long as it was to be kept when it was sent first
            pipe.execute()

    def put_back(self, job: Job) -> None:
        """Puts a job into its queue, out of wherever it is."""
        queue = self.queue(job.origin)
        with self.connection.pipeline() as pipe:
            self._take_out(job, queue, pipe)
            job.ended_at = None
            ticks.put_back(job)
            _into_queue(queue, job, pipe)
            pipe.execute()

    def defer(self, job: Job, before: Sequence[StepRow]) -> None:
        """Makes a job wait for the jobs of some steps, so that RQ hands it on when they have ended."""
        job._dependency_ids = [s.task_id for s in before if s.task_id is not None]
        queue = self.queue(job.origin)
        with self.connection.pipeline() as pipe:
            self._take_out(job, queue, pipe)
            pipe.sadd(queue.redis_queues_keys, queue.key)
            job.set_status(JobStatus.DEFERRED, pipeline=pipe)
            job.register_dependency(pipeline=pipe)
            _into_its_group(job, pipe)
            job.save(pipeline=pipe)
            stamps.save(job, pipe)
            pipe.execute()

    def _take_out(self, job: Job, queue: Queue, pipe: Any) -> None:
        """Takes a job out of every list and registry."""
        for where in REGISTRIES:
            pipe.zrem(where(job.origin, connection=self.connection).key, job.id)
        started = StartedJobRegistry(job.origin, connection=self.connection)
        for execution in self.executions(job):
            pipe.zrem(started.key, execution)
        pipe.lrem(queue.key, 0, job.id)
        pipe.lrem(queue.intermediate_queue_key, 0, job.id)
        limiter = _limiter_of(job)
        if limiter is not None:
            pipe.zrem(limiter.allowed_key, job.id)
            pipe.zrem(limiter.rate_limited_key, job.id)


def cancel(job: Job) -> None:
    """Cancels a job that waits for nothing that could come; Redis keeps it no longer than a failed one."""
    try:
        job.cancel()
    except InvalidJobOperation:
        return
    job.connection.expire(job.key, job.failure_ttl or DEFAULT_FAILURE_TTL)


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
