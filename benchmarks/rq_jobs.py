"""The jobs of the RQ benchmark: no-op steps that say when they ran, plain, marked, and with the barest journal by hand."""

from __future__ import annotations

import functools
import os
import time
from typing import Any

import rq

import durable_adapter as durable


def plain() -> float:
    """Does nothing but say when."""
    return time.time()


@durable.step
def protected() -> float:
    """The same, as a durable step with nothing declared."""
    return time.time()


#: The sketch's only table.
SKETCH = "CREATE TABLE IF NOT EXISTS sketch (job text PRIMARY KEY, state text NOT NULL, value float)"


@functools.cache
def _connection() -> Any:
    import psycopg

    return psycopg.connect(os.environ["BENCH_SKETCH"], autocommit=True)


def sketch() -> float:
    """A row before and a row after, one commit each, and nothing else: no order, no claim, no recovery."""
    job = rq.get_current_job()
    assert job is not None
    _connection().execute("INSERT INTO sketch VALUES (%s, 'begun', NULL)", (job.id,))
    now = time.time()
    _connection().execute("UPDATE sketch SET state = 'done', value = %s WHERE job = %s AND state = 'begun'", (now, job.id))
    return now
