"""Putting a job aside: it gives its worker back, and stands among the scheduled ones until our sweeper queues it again.

RQ 2.1 and newer do that for a job that returns a `Retry`. An older one puts off only what has failed and has a retry left:
there the job raises `PutAside`, and its object says by itself how it is put off. What Redis has of it stays as it was: no
retry is used up, no callback called, nothing counted as a failure of the job, and what depends on it stays deferred.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rq.job import JobStatus, Retry

from ..errors import PutAside
from .versions import RETURNED_RETRY, since

if TYPE_CHECKING:
    from rq import Queue
    from rq.job import Job

#: Seconds for which a job that waits for something else is put aside, where no time is known: our sweeper wakes it.
ASIDE = 30 * 86_400
#: How often RQ may put a job aside: as often as need be.
OFTEN = 10**9


def aside(job: Job, seconds: int, why: str) -> Retry:
    """What the job has to return, so that RQ puts it aside.

    Args:
        job: the object with which RQ performs it.
        seconds: for how long, at least one.
        why: for whoever sees it in RQ's own log.

    Raises:
        PutAside: RQ is older than that.
    """
    if since(RETURNED_RETRY):
        return Retry(max=OFTEN, interval=seconds)
    left = job.retries_left

    def put_off(queue: Queue, pipeline: Any) -> None:
        """In place of `Job.retry`, which would use up a retry, and wait for as long as that is to wait."""
        job.retries_left = left
        job.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
        queue.schedule_job(job, datetime.now(UTC) + timedelta(seconds=seconds), pipeline=pipeline)

    vars(job).update(retries_left=1, retry=put_off, _failure_callback=None)
    raise PutAside(f"job {job.id} ({job.func_name}) was put aside, it has not failed: {why}")


def far_off() -> float:
    """From when on a scheduled job is one that was put aside without a time: nobody but our sweeper will send it."""
    return time.time() + ASIDE / 2
