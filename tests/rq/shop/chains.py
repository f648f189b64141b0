"""Jobs that read what a job before them left, and jobs with RQ's own decorator."""

from __future__ import annotations

import os

import redis
from rq import get_current_job
from rq.decorators import job

import durable_adapter as durable
import durable_adapter.rq as durable_rq
from tests.celery.ledger import ledger

#: Where `delay()` of these jobs goes; a test names its own queue.
QUEUE = "durable-test-decorated"
URL = "DURABLE_TEST_RQ_REDIS"


class _Later:
    """A connection that is made when it is first used, as a project that reads its settings does."""

    def __getattr__(self, name: str) -> object:
        return getattr(redis.Redis.from_url(os.environ[URL]), name)


@durable.step
def after(order: str, *names: str) -> list[str]:
    """Reads the recorded results of jobs that it depends on."""
    ledger().record("after", order)
    return [durable_rq.result_of(name) for name in names]


@durable.step
def reads_as_rq_does(order: str) -> str:
    """Reads its parent's result by RQ's own means."""
    current = get_current_job()
    assert current is not None
    assert current.dependency is not None
    value = str(current.dependency.return_value())
    ledger().record("read", order, value=value)
    return value


def later() -> redis.Redis:
    return _Later()  # type: ignore[return-value]


@durable.step
@job(QUEUE, connection=later())
def marked_above(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"


@job(QUEUE, connection=later())
@durable.step
def marked_below(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"
