"""Facts about a job, in the form of the newest RQ: older ones leave some of them out, or write them in another way.

Whatever of a job is not spelled the same on every RQ is read here, and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, overload

from rq.exceptions import InvalidJobOperation
from rq.job import JobStatus

from .versions import EXECUTIONS, since

if TYPE_CHECKING:
    from rq.job import Job
    from rq.results import Result


def status_of(job: Job, *, refresh: bool = False) -> JobStatus | None:
    """Returns the status of a job; None where Redis has none. RQ 1.16 gives a plain string."""
    try:
        found = job.get_status(refresh=refresh)
    except InvalidJobOperation:
        return None
    return JobStatus(found) if found else None


def has_retry(job: Job) -> bool:
    """Whether RQ runs a job again if it raises."""
    return bool(job.retries_left and job.retries_left > 0)


def has_spent_its_retries(job: Job) -> bool:
    """Whether RQ was told to run a job again if it raises, and has done so as often as it may."""
    return job.retries_left is not None and job.retries_left <= 0


def repeats_left(job: Job) -> int | None:
    """Returns how often a job is repeated after this tick; None where it never is, as always before RQ 2.3."""
    found: int | None = vars(job).get("repeats_left")
    return found


def times_tried(job: Job) -> int | None:
    """Returns how often a job was run again, as far as RQ counts that: since 2.1."""
    found: int | None = vars(job).get("number_of_retries")
    return found


def failure_text(job: Job) -> str:
    """Returns the text of a job's last failure. Before RQ 2.2 an abandoned job has it in its hash, not in a result."""
    last = job.latest_result()
    return (last.exc_string if last is not None else job._exc_info) or ""


def is_of_earlier_job(result: Result, job: Job) -> bool:
    """Whether a result is that of an earlier job under the same id: RQ keeps them together, and they outlive their jobs.

    The two clocks may differ a little.
    """
    return aware(result.created_at) <= aware(job.created_at) - timedelta(minutes=1)


def text_of(value: Any) -> str:
    """Returns a value of Redis as text, whether or not the connection decodes it."""
    return value.decode() if isinstance(value, bytes) else str(value)


def job_id_of(member: str) -> str:
    """The id of the job that a member of the registry of started jobs stands for."""
    return member.partition(":")[0] if since(EXECUTIONS) else member


def made_at(job: Job) -> str:
    """Returns when a job was made, as its row in the journal keeps it."""
    return aware(job.created_at).isoformat()


@overload
def aware(moment: datetime) -> datetime: ...
@overload
def aware(moment: datetime | None) -> datetime | None: ...
def aware(moment: datetime | None) -> datetime | None:
    """A moment that says that it is UTC, as since RQ 2.2 each does."""
    return moment if moment is None or moment.tzinfo is not None else moment.replace(tzinfo=UTC)
