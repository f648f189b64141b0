"""Which call a job is: the run and the key that it stands for, wherever it is met.

A job's id alone names nothing. A fixed id is used again, each tick of a repeated job is a run of its own, and a job that
somebody else enqueued under the same id since is another's: what RQ holds under an id counts only for the run whose it is.
"""

from __future__ import annotations

from rq.job import Job, JobStatus

from ..model import StepRow, derive_ref, member_key, task_key
from . import ticks
from .facts import aware, made_at, repeats_left
from .stamps import stamp_of

#: Option of a step's row: when its job was made. RQ writes that with every job, and never changes it.
MADE = "made"
#: Statuses of a job that nobody will run, unless somebody sends it again.
OVER = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


def own_key(job: Job) -> str:
    """The key of a job whose stamp has none, and of one that is no member of the run in which its row stands."""
    return task_key(job.id, job.func_name or "")


def run_of_tick(job: Job, ref: str) -> str:
    """The run of one tick of a repeated job: each is a run of its own, and a redelivery of one is the same."""
    left = repeats_left(job)
    return ref if left is None else derive_ref(ref, "repeat", left)


def place_of(job: Job) -> tuple[str, str]:
    """The run and key that a job stands for; of one without a stamp, those that it has from its first delivery on."""
    stamp = stamp_of(job)
    base = _base(job, stamp)
    key = member_key(0, job.func_name or "") if stamp is None else stamp[1] or own_key(job)
    return ticks.run_now(job, base) if ticks.is_periodic(job) else base, key


def base_of(job: Job) -> str:
    """The run that a job names; for one that rq-scheduler sends again and again, without its ticks."""
    return _base(job, stamp_of(job))


def _base(job: Job, stamp: tuple[str, str | None] | None) -> str:
    if stamp is not None:
        return run_of_tick(job, stamp[0])
    # Not its id alone: a fixed id names a new job each time that it is enqueued.
    return derive_ref("unstamped", job.id, aware(job.created_at), repeats_left(job), job.func_name or "")


def belongs(job: Job, step: StepRow) -> bool:
    """Whether a job under a step's id is that step's, and not one that was enqueued under the same id since.

    Of a job that lost its stamp the journal says so: it knows when the step's own job was made.
    """
    try:
        if stamp_of(job) is None and step.options.get(MADE) == made_at(job):
            return True
        if not step.kind.marked and stamp_of(job) is None:
            return job.func_name == step.name
        return place_of(job) == (step.ref, step.key)
    except Exception:
        return False  # it cannot be read
