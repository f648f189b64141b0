"""Jobs that RQ ended on purpose before they began: cancelled, stopped, deleted, expired. They are never sent again by themselves.

Redis keeps a cancelled or stopped job, and the sweeper finds it there. Of a deleted one nothing is left, so that the journal is
told before it is deleted, where the plugin is installed in what deletes it. What has expired is told from its time to live.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry

from ..errors import EndedByEngine, MessageExpired
from ..model import SECOND, StepRow
from ..runtime.engine import EngineEnd
from ..runtime.engine_ends import ended_by_engine
from ..runtime.publication import publication
from .binding import Binding
from .facts import aware, status_of
from .fields import is_started_by_us
from .identity import place_of
from .jobs import fetched_many
from .joining import is_pending
from .running import RETURNED
from .stamps import stamp_of

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue


#: The statuses with which a job that RQ deletes has run.
_RAN = (JobStatus.FINISHED, JobStatus.FAILED)
#: RQ's own frames where a job's function cannot be had: the call of its body would stand between them.
_NO_FUNCTION = re.compile(r'in _execute\n(?:    .*\n)*  File "[^"]*", line \d+, in func\n')


def end_of(job: Job, status: JobStatus | None, connection: Redis) -> EngineEnd | None:
    """Returns how RQ ended a job on purpose, by its hash; None where it did not, or where somebody else may have begun it."""
    if status is JobStatus.CANCELED:
        at: Any = connection.zscore(CanceledJobRegistry(job.origin, connection=connection).key, job.id)
        word = "it was cancelled in RQ"
        return EngineEnd(word, EndedByEngine(f"job {job.id}: {word}"), int(at * SECOND) if at is not None else None)
    if status is JobStatus.STOPPED and is_started_by_us(job, connection):
        word = "it was stopped in RQ"
        ended = aware(job.ended_at)
        at = int(ended.timestamp() * SECOND) if ended is not None else None
        return EngineEnd(word, EndedByEngine(f"job {job.id}: {word}"), at, killed=True)
    return None


def is_readable(job: Job) -> bool:
    """Whether what a job calls can be read from its data."""
    try:
        return bool(job.func_name)
    except Exception:
        return False


def refused(job: Job) -> str | None:
    """Why a worker called a job failed without running its body; None where it may have run."""
    if not is_readable(job):
        return "its data cannot be read"
    last = job.latest_result()
    said = (last.exc_string if last is not None else None) or ""
    if _NO_FUNCTION.search(said) is None:
        return None
    return f"its worker could not import its function, or read the job ({said.strip().splitlines()[-1][:200]})"


def seconds_to_live(step: StepRow, steps: Sequence[StepRow], options: Mapping[str, Any], now: int) -> int | None:
    """The seconds that are left of a job's time to live, counted from when it was to be sent; None where it has none.

    Args:
        step: the step, which has not begun.
        steps: all of its run.
        options: those of its job.
        now: the time, in microseconds.

    Raises:
        MessageExpired: none are left.
    """
    ttl = options.get("ttl")
    if ttl is None or step.attempt:
        return None
    before = set(step.after or ())
    since = max([step.created_at + int(step.options.get("delay", 0)), *(s.ended_at or 0 for s in steps if s.key in before)])
    left = (since + int(ttl) * SECOND - now) // SECOND
    if left <= 0:
        raise MessageExpired(f"step {step.name} of {step.ref} never began: its job had a ttl of {ttl} s, which have passed")
    return int(left)


def delete(binding: Binding, go_on: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.delete`: the journal is told first. What RQ itself deletes has run: before 3.0 its status does not say so yet."""
    has_run = job._status in _RAN or RETURNED in job.__dict__
    if not publication().is_repeated and not is_pending(job) and stamp_of(job) is not None and not has_run:
        _record_deleted(binding, [job])
    return go_on(*args, **kwargs)


def empty(binding: Binding, go_on: Callable[..., Any], queue: Queue, args: Any, kwargs: Any) -> Any:
    """`Queue.empty`, which deletes the jobs in a queue inside of Redis: the journal is told first."""
    jobs = fetched_many(queue.get_job_ids(), queue.connection, queue.serializer)
    _record_deleted(binding, (job for job in jobs.values() if stamp_of(job) is not None and status_of(job) not in _RAN))
    return go_on(*args, **kwargs)


def _record_deleted(binding: Binding, jobs: Iterable[Job]) -> None:
    """Records that jobs were deleted. What has begun, or is over, stays as it is."""
    word = "its job was deleted in RQ"
    for job in jobs:
        ref, _ = place_of(job)
        end = EngineEnd(word, EndedByEngine(f"job {job.id}: {word}"), binding.journal.time())
        ended_by_engine(binding.journal, ref, job.id, end, who=binding.host.row)
