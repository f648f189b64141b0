"""Steps that write to what RQ keeps of their own jobs."""

from __future__ import annotations

import os

import redis
from rq import get_current_job
from rq.job import Job

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.rq.shop.chains import URL


def _own() -> Job:
    job = get_current_job()
    assert job is not None
    return job


@durable.step
def assigns_meta(order: str, _other: str) -> str:
    """As people do who think that `meta` is theirs."""
    job = _own()
    job.meta = {"progress": 1}
    job.save_meta()
    job.save()
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.step
def saves_meta(order: str, _other: str) -> str:
    job = _own()
    job.meta["progress"] = 1
    job.save_meta()
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.step
def assigns_another_jobs_meta(order: str, other: str) -> str:
    """The worst of it: what it assigns has another run in it."""
    job = _own()
    job.meta = Job.fetch(other, connection=redis.Redis.from_url(os.environ[URL])).meta
    job.save_meta()
    ledger().record("charge", order)
    return f"ch-{order}"


@durable.workflow
def declines(order: str) -> None:
    """A function that fails for good."""
    ledger().record("function", order)
    raise ValueError("out of paper")


class Handler:
    """What large code bases enqueue: a method, by its dotted name."""

    @staticmethod
    def handle(order: str) -> str:
        ledger().record("handle", order)
        return "handled"
