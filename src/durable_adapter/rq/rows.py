"""Which of RQ's workers are ours: each names its row in the journal, in a field of RQ's own hash of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rq import Worker

if TYPE_CHECKING:
    from redis import Redis

    from ..journal import Journal
    from ..model import WorkerRow

#: The field of RQ's own hash of a worker that names the worker's row in the journal.
ROW = "durable_row"


def rows_of(names: Iterable[str], connection: Redis, journal: Journal) -> dict[str, WorkerRow]:
    """The rows of those of RQ's workers that are ours, by the workers' names. One round trip, and one read."""
    named = sorted(set(names))
    if not named:
        return {}
    with connection.pipeline(transaction=False) as pipe:
        for name in named:
            pipe.hget(f"{Worker.redis_worker_namespace_prefix}{name}", ROW)
        given = dict(zip(named, pipe.execute(), strict=True))
    refs = {name: row.decode() if isinstance(row, bytes) else str(row) for name, row in given.items() if row is not None}
    found = journal.reads.workers(sorted(set(refs.values())))
    return {name: found[row] for name, row in refs.items() if row in found}
