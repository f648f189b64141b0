"""Ticks of jobs that rq-scheduler sends again and again: one job, under one id, and each time a run of its own.

rq-scheduler puts the same job into its queue at every tick, and nothing in it says which tick that is. A worker notes what
it met, in a field of the job's own hash that RQ neither reads nor overwrites. What comes in with another time of enqueueing is
the next tick, unless it is a retry, or was put back after it had been started: that is the same one, delivered again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..model import derive_ref
from .facts import aware, times_tried

if TYPE_CHECKING:
    from rq.job import Job

#: The field of a job's hash.
FIELD = "durable_tick"
#: Entries that rq-scheduler writes into `meta` of a job that it sends again.
_PERIODIC = ("interval", "cron_string")
#: The attribute of a job object that holds what was noted for the delivery that is under way.
_NOTED = "_durable_tick"


@dataclass(frozen=True)
class Tick:
    """What a worker met.

    Attributes:
        base: the run that the job names, or would have, without its ticks.
        ref: the run of this tick.
        enqueued_at: when it was enqueued, as text.
        retries: how often it had been tried again, and how often it still may be.
        put_off: how often the run's job had been put aside, or had asked to be run again: RQ before 2.8 counts neither.
    """

    base: str
    ref: str
    enqueued_at: str
    retries: tuple[int | None, int | None]
    put_off: int = 0


def is_periodic(job: Job) -> bool:
    """Whether rq-scheduler sends this job again and again."""
    return isinstance(job.meta, dict) and any(job.meta.get(name) for name in _PERIODIC)


def run_now(job: Job, base: str) -> str:
    """The run of the tick that a job stands for now."""
    noted = _noted(job)
    return noted.ref if noted is not None and noted.base == base else base


def delivered(job: Job, base: str, *, started_before: bool, put_off: int = 0) -> bool:
    """Notes the tick that is delivered now; returns whether it is another than the last.

    Args:
        job: the job, as its worker has it.
        base: the run that it names without its ticks.
        started_before: whether it had been started since it was put into its queue by anybody but rq-scheduler.
        put_off: how often the run for which it was delivered last gave its worker back.
    """
    noted, at = _noted(job), str(aware(job.enqueued_at) or "")
    retries = (times_tried(job), job.retries_left)
    is_same = noted is None or noted.enqueued_at == at or not started_before
    is_same = is_same or (noted is not None and (noted.retries != retries or noted.put_off != put_off))
    if noted is None or noted.base != base:
        ref = base
    else:
        ref = noted.ref if is_same else derive_ref(base, "tick", at)
    tick = Tick(base, ref, at, retries, put_off if noted is not None and ref == noted.ref else 0)
    job.connection.hset(job.key, FIELD, json.dumps(asdict(tick)))
    job.__dict__[_NOTED] = tick
    return noted is not None and noted.ref != ref


def put_back(job: Job) -> None:
    """Makes the next delivery of a job one of the tick that it stands for now."""
    if is_periodic(job):
        job.started_at = None


def _noted(job: Job) -> Tick | None:
    if _NOTED in job.__dict__:
        found: Tick | None = job.__dict__[_NOTED]
        return found
    given = job.connection.hget(job.key, FIELD)
    if given is None:
        return None
    try:
        read = json.loads(given)
        retries = (read["retries"][0], read["retries"][1])
        return Tick(read["base"], read["ref"], read["enqueued_at"], retries, read["put_off"])
    except (ValueError, KeyError, TypeError, IndexError):
        return None
