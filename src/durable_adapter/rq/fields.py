"""Fields of our own in the hashes that RQ keeps of jobs and workers, which RQ neither reads nor overwrites.

They say which worker's row in the journal stands behind a start: RQ knows workers by their names, and a worker that is started
again may have the name of one that died. The name counts only where no field says it.

They also count what was done with a job. Each count is that of one run: the hash of a fixed id, and that of a periodic job, is
used again, and RQ leaves in it what the next job does not set. RQ's own `number_of_retries` counts something else in each of
its versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rq import Worker

from .facts import aware, text_of
from .identity import place_of

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

    from ..journal import Journal
    from ..model import WorkerRow

#: The field of RQ's own hash of a worker that names the worker's row in the journal.
WORKER_ROW = "durable_row"
#: The field of a job's hash that names the row of the worker that started it, and when: it counts for that start alone.
STARTED_BY = "durable_started_by"
#: The field that says that the process which was started so is gone, although RQ was not told.
GONE = "durable_gone"
#: Counts the deliveries that were deferred: our sweeper, or a worker's round, puts the job into its queue again.
PUT_ASIDE = "durable_put_aside"
#: Counts the `Retry` objects that its body returned.
ASKED = "durable_asked"
#: Counts how often RQ got the job once more although its step had succeeded.
HANDED_BACK = "durable_handed_back"


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
            pipe.hget(f"{Worker.redis_worker_namespace_prefix}{name}", WORKER_ROW)
        rows = dict(zip(names, pipe.execute(), strict=True))
    return {job_id: text_of(rows[name]) for job_id, name in named.items() if rows[name] is not None}


def _row_of(job: Job, said: Any) -> str | None:
    start, _, row = text_of(said).partition(" ") if said is not None else ("", "", "")
    return row if row and start == _start(job) else None


def _start(job: Job) -> str:
    started = aware(job.started_at)
    return started.isoformat() if started is not None else ""


def count(job: Job, what: str) -> int:
    """Returns one count of the run that a job stands for."""
    return _read(job.connection.hget(job.key, what), place_of(job)[0])


def increment(job: Job, what: str) -> None:
    """Adds one to a count. Whoever has the job counts: two never have it at once."""
    ref = place_of(job)[0]
    job.connection.hset(job.key, what, f"{ref} {_read(job.connection.hget(job.key, what), ref) + 1}")


def counts(jobs: list[Job], what: str) -> dict[str, int]:
    """Returns one count of each of several jobs, by their ids. One round trip."""
    if not jobs:
        return {}
    with jobs[0].connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hget(job.key, what)
        found = pipe.execute()
    return {job.id: _read(value, place_of(job)[0]) for job, value in zip(jobs, found, strict=True)}


def _read(value: Any, ref: str) -> int:
    noted, _, number = text_of(value or "").partition(" ")
    return int(number) if noted == ref and number.isdigit() else 0
