"""The workers of the RQ matrix: the plugin's own, and at the moments that nothing else shows they tell the bank of them.

Run as `rq worker -w tests.crash.rq_workers.Fork --queue-class tests.crash.rq_workers.ToldQueue shop`. All that is overridden
here is RQ's; nothing of the plugin is.
"""

from __future__ import annotations

from typing import Any

from rq import Queue
from rq.job import Job

from durable_adapter.rq import SimpleWorker, Worker
from tests.crash.rq_app import occupy
from tests.crash.shop import pause, step_of
from tests.rq_versions import since


def tell(job: Job, moment: str) -> None:
    """Tells the bank where a job of the shop is."""
    step = step_of(job.func_name or "")
    if step != occupy.__name__:
        pause(job.args[-1], step, moment)


class Told:
    """What is added to each worker class."""

    def execute_job(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        """It was taken out of its queue, and nothing in Redis says by whom."""
        tell(job, "taken")
        return super().execute_job(job, *args, **kwargs)  # type: ignore[misc]

    def prepare_job_execution(self, job: Job, *args: Any, **kwargs: Any) -> Any:
        """It is about to run, where it will run."""
        result = super().prepare_job_execution(job, *args, **kwargs)  # type: ignore[misc]
        tell(job, "before-body")
        return result

    def handle_job_success(self, job: Job, queue: ToldQueue, *args: Any, **kwargs: Any) -> Any:
        """It has returned; afterwards RQ has its result, and what comes after it is queued."""
        tell(job, "after-end")
        queue.told_of = job
        result = super().handle_job_success(job, queue, *args, **kwargs)  # type: ignore[misc]
        tell(job, "after-result")
        return result


class ToldQueue(Queue):
    """A queue that tells when RQ has a job's result, and what comes after that is not queued."""

    told_of: Job | None = None

    def enqueue_ready_jobs_by_queue(self, *args: Any, **kwargs: Any) -> Any:
        """Between RQ's two writes."""
        if self.told_of is not None:
            tell(self.told_of, "after-commit")
        return super().enqueue_ready_jobs_by_queue(*args, **kwargs)


class Fork(Told, Worker):
    """Forks a horse for each job."""


class Simple(Told, SimpleWorker):
    """Runs jobs in its own process."""


if since("2.2"):
    from durable_adapter.rq import SpawnWorker

    class Spawn(Told, SpawnWorker):
        """Starts a fresh interpreter for each job."""
