"""How often something was done with a job, counted in its own hash, in fields that RQ neither reads nor overwrites.

Each count is that of one run: the hash of a fixed id, and that of a periodic job, is used again, and RQ leaves in it what the
next job does not set. RQ's own `number_of_retries` counts something else in each of its versions, and is left there as well.
"""

from __future__ import annotations

from typing import Any

from rq.job import Job

from .identity import place_of

#: That a delivery gave its worker back: our sweeper, or a worker's round, puts the job into its queue again.
PUT_ASIDE = "durable_put_aside"
#: That its body returned a `Retry`.
ASKED = "durable_asked"
#: That RQ got it once more although its step had succeeded.
HANDED_BACK = "durable_handed_back"


def count(job: Job, what: str) -> int:
    """How often it was done in the run that a job stands for."""
    return _read(job.connection.hget(job.key, what), place_of(job)[0])


def once_more(job: Job, what: str) -> None:
    """It was done once more. Whoever has the job counts: two never have it at once."""
    ref = place_of(job)[0]
    job.connection.hset(job.key, what, f"{ref} {_read(job.connection.hget(job.key, what), ref) + 1}")


def counts(jobs: list[Job], what: str) -> dict[str, int]:
    """How often it was done with each of several jobs, by their ids. One round trip."""
    if not jobs:
        return {}
    with jobs[0].connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hget(job.key, what)
        found = pipe.execute()
    return {job.id: _read(value, place_of(job)[0]) for job, value in zip(jobs, found, strict=True)}


def _read(value: Any, ref: str) -> int:
    noted, _, number = (value.decode() if isinstance(value, bytes) else str(value or "")).partition(" ")
    return int(number) if noted == ref and number.isdigit() else 0
