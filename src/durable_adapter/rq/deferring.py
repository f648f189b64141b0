"""Deferring a job: it gives its worker back, and stands among the scheduled ones until our sweeper queues it again.

RQ 2.1 and newer do that for a job that returns a `Retry`. An older one puts off only what has failed and has a retry left:
there the job raises `PutAside`, and its object says by itself how it is put off. What Redis has of it stays as it was: no
retry is used up, no callback called, nothing counted as a failure of the job, and what depends on it stays deferred.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rq.job import JobStatus, Retry

from ..errors import Deferred, PutAside, UnsupportedCanvas
from ..model import SECOND
from .binding import Binding
from .fields import PUT_ASIDE, increment
from .versions import RETURNED_RETRY, since

if TYPE_CHECKING:
    from rq import Queue
    from rq.job import Job

logger = logging.getLogger("durable_adapter")

#: Seconds for which a job is deferred that waits for something else, where no time is known: our sweeper wakes it.
UNTIL_WOKEN = 30 * 86_400
#: The `max` of a `Retry` that limits nothing.
MANY_RETRIES = 10**9


def defer(binding: Binding, job: Job, why: Deferred) -> Retry:
    """Returns what the job, as RQ performs it, has to return, so that RQ keeps it among the scheduled ones.

    Raises:
        PutAside: it is by raising that this RQ defers a job.
        UnsupportedCanvas: there is no worker to give back.
    """
    if getattr(job, "worker_name", None) == "sync":
        raise UnsupportedCanvas(
            f"job {job.id} ({job.func_name}) has to wait, and its queue is synchronous (is_async=False), so that there is no "
            f"worker to come back to it: {why}"
        ) from why
    logger.info("job_deferred job=%s name=%s msg=%r", job.id, job.func_name, str(why))
    increment(job, PUT_ASIDE)
    seconds = UNTIL_WOKEN
    if why.wake_at is not None:
        seconds = max(1, math.ceil((why.wake_at - binding.host.patient.time()) / SECOND))
    if since(RETURNED_RETRY):
        return Retry(max=MANY_RETRIES, interval=seconds)
    left = job.retries_left

    def put_off(queue: Queue, pipeline: Any) -> None:
        """In place of `Job.retry`, which would use up a retry, and wait for as long as that is to wait."""
        job.retries_left = left
        job.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
        queue.schedule_job(job, datetime.now(UTC) + timedelta(seconds=seconds), pipeline=pipeline)

    vars(job).update(retries_left=1, retry=put_off, _failure_callback=None)
    raise PutAside(f"job {job.id} ({job.func_name}) was put aside, it has not failed: {why}")


def long_deferred() -> float:
    """Returns the time from which on a scheduled job is one that was deferred without a time: only our sweeper sends it."""
    return time.time() + UNTIL_WOKEN / 2
