"""Which worker's row in the journal stands behind what RQ has: of a job the one that started it, of a worker its own.

RQ knows workers by their names, and a worker that is started anew may have the name of one that died. So a job of ours says
in its own hash which row started it. The name counts only where that is not said.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rq import Worker

from .facts import aware

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

    from ..journal import Journal
    from ..model import WorkerRow

#: The field of RQ's own hash of a worker that names the worker's row in the journal.
ROW = "durable_row"
#: The field of a job's hash that names the row of the worker that started it, and when: it counts for that start alone.
STARTED_BY = "durable_started_by"
#: The field that says that the process which was started so is gone, although RQ was not told.
GONE = "durable_gone"


def note_start(job: Job, row: str, pipeline: Any) -> None:
    """Names the row of the worker that starts a job, along with what RQ itself writes of that."""
    pipeline.hset(job.key, mapping={STARTED_BY: f"{_start(job)} {row}", GONE: ""})


def note_gone(job: Job) -> None:
    """Says that a job's process is gone: RQ takes one that ended with 0 for one that told it how the job ended."""
    if job.connection.hexists(job.key, STARTED_BY):
        job.connection.hset(job.key, GONE, "1")


def is_gone(job: Job) -> bool:
    """Whether the process that a worker of ours started last for a job is known to be gone."""
    return bool(job.connection.hget(job.key, GONE))


def is_started_by_us(job: Job, connection: Redis) -> bool:
    """Whether it was a worker of ours that started a job last, so that the journal knows whether its body began."""
    return job.started_at is not None and _row_of(job, connection.hget(job.key, STARTED_BY)) is not None


def rows_of_starts(jobs: Iterable[Job], connection: Redis, journal: Journal) -> dict[str, WorkerRow]:
    """The rows of the workers of ours that have these jobs, by the jobs' ids. Two round trips at the most, and one read."""
    started = list(jobs)
    if not started:
        return {}
    with connection.pipeline(transaction=False) as pipe:
        for job in started:
            pipe.hmget(job.key, STARTED_BY, GONE)
        said = {job.id: (_row_of(job, by), bool(gone)) for job, (by, gone) in zip(started, pipe.execute(), strict=True)}
    refs = {job_id: row for job_id, (row, gone) in said.items() if row is not None and not gone}
    named = {job.id: str(job.worker_name) for job in started if said[job.id][0] is None and job.worker_name}
    refs |= _refs_of_names(named, connection)
    found = journal.reads.workers(sorted(set(refs.values())))
    return {job_id: found[row] for job_id, row in refs.items() if row in found}


def _refs_of_names(named: dict[str, str], connection: Redis) -> dict[str, str]:
    """The rows that workers of some names have now, by the ids of the jobs that name them."""
    names = sorted(set(named.values()))
    if not names:
        return {}
    with connection.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hget(f"{Worker.redis_worker_namespace_prefix}{name}", ROW)
        rows = dict(zip(names, pipe.execute(), strict=True))
    return {job_id: _text(rows[name]) for job_id, name in named.items() if rows[name] is not None}


def _row_of(job: Job, said: Any) -> str | None:
    start, _, row = _text(said).partition(" ") if said is not None else ("", "", "")
    return row if row and start == _start(job) else None


def _start(job: Job) -> str:
    started = aware(job.started_at)
    return started.isoformat() if started is not None else ""


def _text(found: Any) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)
