"""A job as the journal keeps it: everything with which it can be made again, under the same id, in an empty Redis.

What RQ pickles (arguments) is written through the journal's own codec instead. What only describes one delivery (times,
status, the worker, how often it was put aside, results) is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import resolve_serializer
from rq.utils import import_attribute

from ..model import STAMP, make_stamp, read_stamp
from ..runtime.plans import Member
from .facts import repeats_left
from .identity import UNMARKED, without_stamp

if TYPE_CHECKING:
    from redis import Redis

#: Attributes of a job that a later publication of it needs as well, as RQ names them.
KEPT = (
    "timeout",
    "result_ttl",
    "ttl",
    "failure_ttl",
    "description",
    "retries_left",
    "retry_intervals",
    "enqueue_at_front_on_retry",
    "repeats_left",
    "repeat_intervals",
    "rate_limit_key",
    "rate_limit_concurrency",
    "group_id",
    "allow_dependency_failures",
    "enqueue_at_front",
    "_success_callback_name",
    "_success_callback_timeout",
    "_failure_callback_name",
    "_failure_callback_timeout",
    "_stopped_callback_name",
    "_stopped_callback_timeout",
)


#: What a step's row keeps of the serializer with which its job is written, unless that is RQ's own.
SERIALIZER = "serializer"


def kept_of_serializer(job: Job) -> dict[str, Any]:
    """What a step's row keeps of a job's serializer; nothing where that is RQ's own, or has no name that leads back to it."""
    own = job.serializer
    if own is resolve_serializer(None):
        return {}
    named = own if hasattr(own, "__qualname__") else type(own)
    name = f"{named.__module__}.{named.__qualname__}"
    with contextlib.suppress(Exception):
        if resolve_serializer(name) is own:
            return {SERIALIZER: name}
    return {}


def serializer_kept(options: Mapping[str, Any], default: Any) -> Any:
    """The serializer of the job of a step whose row keeps this."""
    name = options.get(SERIALIZER)
    return resolve_serializer(name) if name is not None else default


def member_of(job: Job, queue: str | None, *, delay: int = 0) -> Member:
    """A job as a member of a canvas. Jobs are not given each other's results.

    Raises:
        UnserialisableValue: when it is encoded: an argument cannot be written down.
    """
    # 0 is a value: no repeat left is another tick than none at all, and a result that is kept for 0 seconds is not kept.
    given = {name: job.__dict__.get(name) for name in KEPT}
    options = {name: value for name, value in given.items() if value is not None and value is not False and value != []}
    if getattr(job, "webhooks", None):
        options["webhooks"] = [webhook.to_dict() for webhook in job.webhooks]
    meta = without_stamp(job.meta)
    if meta:
        options["meta"] = meta
    stamp = read_stamp(job.meta.get(STAMP)) if isinstance(job.meta, dict) else None
    if repeats_left(job) is not None and stamp is not None:
        options["stamp"] = stamp[0]  # the runs of its ticks are derived from it
    if type(job) is not Job:
        options["job_class"] = f"{type(job).__module__}.{type(job).__qualname__}"
    return Member(
        job.func_name or "",
        list(job.args),
        job.kwargs,
        task_id=job.id,
        immutable=True,
        options=options,
        queue=queue,
        delay=delay,
    )


def made_again(
    name: str,
    args: list[Any],
    kwargs: Mapping[str, Any],
    *,
    job_id: str,
    queue: str | None,
    options: Mapping[str, Any],
    ref: str,
    key: str | None,
    marked: bool,
    connection: Redis,
    serializer: Any,
) -> Job:
    """A job made from what the journal keeps; not yet saved."""
    job_class: Any = import_attribute(options["job_class"]) if "job_class" in options else Job
    job: Job = job_class.create(
        name,
        args=tuple(args),
        kwargs=dict(kwargs),
        connection=connection,
        id=job_id,
        origin=queue or "default",
        meta={
            **options.get("meta", {}),
            STAMP: make_stamp(options.get("stamp", ref), key),
            **({} if marked else {UNMARKED: True}),
        },
        serializer=serializer,
    )
    for attribute in KEPT:
        if attribute in options:
            setattr(job, attribute, options[attribute])
    if options.get("webhooks"):
        from rq.webhook import Webhook

        job.webhooks = [Webhook.from_dict(webhook) for webhook in options["webhooks"]]
    return job


def fetched(job_id: str | None, connection: Redis, serializer: Any = None, job_class: type[Job] = Job) -> Job | None:
    """A job as Redis has it; None where it has none."""
    if job_id is None:
        return None
    try:
        return job_class.fetch(job_id, connection=connection, serializer=serializer)
    except NoSuchJobError:
        return None


def fetched_many(job_ids: Sequence[str], connection: Redis, serializer: Any = None) -> dict[str, Job]:
    """Those of several jobs that Redis has, by id."""
    wanted = list(dict.fromkeys(job_ids))
    found = Job.fetch_many(wanted, connection=connection, serializer=serializer) if wanted else []
    return {job.id: job for job in found if job is not None}
