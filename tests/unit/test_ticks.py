"""Which tick of a periodic job a delivery is of, where RQ counts little: before 2.8 not what a body asked for with a wait."""

from __future__ import annotations

import datetime as dt

import fakeredis
import pytest
from rq.job import Job

from durable_adapter.rq import ticks

BASE = "b" * 32


@pytest.fixture
def redis() -> fakeredis.FakeStrictRedis:
    return fakeredis.FakeStrictRedis(server=fakeredis.FakeServer())


def delivered(redis: fakeredis.FakeStrictRedis, *, started_before: bool, put_off: int, minute: int) -> str:
    """A delivery of a job of every minute, by an RQ that counts nothing; returns the run that it is of."""
    if not redis.exists("rq:job:periodic"):
        Job.create("shop.charge", connection=redis, id="periodic", meta={"interval": 60}, origin="default").save()
    job = Job.fetch("periodic", connection=redis)
    job.enqueued_at = dt.datetime(2026, 3, 1, 12, minute, tzinfo=dt.UTC)
    ticks.delivered(job, BASE, started_before=started_before, put_off=put_off)
    return ticks.run_now(job, BASE)


def test_one_that_gave_its_worker_back_is_the_same_tick_and_the_next_is_not(redis: fakeredis.FakeStrictRedis) -> None:
    first = delivered(redis, started_before=False, put_off=0, minute=0)
    assert delivered(redis, started_before=True, put_off=1, minute=1) == first
    assert delivered(redis, started_before=True, put_off=2, minute=2) == first
    second = delivered(redis, started_before=True, put_off=2, minute=3)
    assert second != first
    assert delivered(redis, started_before=True, put_off=1, minute=4) == second, "counts are those of a run"
    assert delivered(redis, started_before=True, put_off=1, minute=5) not in (first, second)
