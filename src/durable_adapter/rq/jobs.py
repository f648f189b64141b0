"""A job as the journal keeps it: everything with which it can be made again, under the same id, at its place in an empty Redis.

Several database numbers of one Redis may share a journal, as django-rq's `DB` has it, and so may queue classes with a key prefix
of their own. A step's row keeps both, and its job is sent to no other place.

What RQ pickles (arguments) is written through the journal's own codec instead. What only describes one delivery (times, status,
the worker, how often it was put aside, results) is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import resolve_serializer
from rq.utils import import_attribute

from ..model import make_stamp
from ..runtime.plans import Member
from . import stamps
from .facts import made_at, repeats_left
from .identity import MADE
from .stamps import stamp_of, without_stamp

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
    "_dependency_ids",
    "_success_callback_name",
    "_success_callback_timeout",
    "_failure_callback_name",
    "_failure_callback_timeout",
    "_stopped_callback_name",
    "_stopped_callback_timeout",
)

#: Options of a step's row for its job's place: the number of the database,
DB = "db"
#: and the prefix of its queue's key, unless that is RQ's own.
PREFIX = "queue_prefix"
#: The attribute of a job object that names the prefix of the queue that it is sent to. Never written to Redis.
_PREFIX = "_durable_queue_prefix"
#: Option of a step's row for the serializer with which its job is written, unless that is RQ's own.
SERIALIZER = "serializer"


def kept_of(job: Job) -> dict[str, Any]:
    """Returns what a step's row keeps of its job, so that the job is known again."""
    return {MADE: made_at(job), **kept_of_serializer(job), **kept_of_place(job)}


def db_of(connection: Redis) -> int:
    """The number of the database that a connection is to."""
    return int(connection.connection_pool.connection_kwargs.get("db") or 0)


def prefix_of(queue: Queue) -> str | None:
    """Returns the prefix of a queue's key; None where that is RQ's own."""
    own = queue.redis_queue_namespace_prefix
    return own if own != Queue.redis_queue_namespace_prefix else None


def note_queue(job: Job, prefix: str | None) -> None:
    """Notes on a job object to which queue it is sent."""
    job.__dict__[_PREFIX] = prefix


def kept_of_place(job: Job) -> dict[str, Any]:
    """Returns what a step's row keeps of its job's place."""
    prefix = job.__dict__.get(_PREFIX)
    return {DB: db_of(job.connection), **({PREFIX: prefix} if prefix is not None else {})}


def place_kept(options: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """The place that a step's row keeps; without a number where it keeps none."""
    return options.get(DB), options.get(PREFIX)


def kept_of_serializer(job: Job) -> dict[str, Any]:
    """Returns what a step's row keeps of a job's serializer; nothing where it is RQ's own, or cannot be found by a name."""
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
    stamp = stamp_of(job)
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
    made: str | None,
    connection: Redis,
    serializer: Any,
) -> Job:
    """A job made from what the journal keeps; not yet saved.

    Args:
        name: its function.
        args: its arguments.
        kwargs: likewise.
        job_id: its id.
        queue: where it goes.
        options: those of the member that it is.
        ref: its run.
        key: its key in that, where its id does not name it.
        marked: whether its function is.
        made: when the first job of this id and run was made; None where that is not known.
        connection: where it is written.
        serializer: how.
    """
    job_class: Any = import_attribute(options["job_class"]) if "job_class" in options else Job
    job: Job = job_class.create(
        name,
        args=tuple(args),
        kwargs=dict(kwargs),
        connection=connection,
        id=job_id,
        origin=queue or "default",
        meta=dict(options.get("meta", {})),
        serializer=serializer,
    )
    stamps.put(job, make_stamp(options.get("stamp", ref), key), unmarked=not marked)
    if made is not None:
        job.created_at = datetime.fromisoformat(made)
    for attribute in KEPT:
        if attribute in options:
            setattr(job, attribute, options[attribute])
    if options.get("webhooks"):
        from rq.webhook import Webhook

        job.webhooks = [Webhook.from_dict(webhook) for webhook in options["webhooks"]]
    return job


def fetched(job_id: str | None, connection: Redis, serializer: Any = None, job_class: type[Job] = Job) -> Job | None:
    """A job as Redis has it; None where it has none.

    Read here and not by `Job.fetch`: in a process that only looks, nothing is patched that would read its stamp.
    """
    if job_id is None:
        return None
    return _restored(job_id, connection.hgetall(job_class.key_for(job_id)), connection, serializer, job_class)


def fetched_many(job_ids: Sequence[str], connection: Redis, serializer: Any = None) -> dict[str, Job]:
    """Those of several jobs that Redis has, by id."""
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return {}
    with connection.pipeline(transaction=False) as pipe:
        for job_id in wanted:
            pipe.hgetall(Job.key_for(job_id))
        found = zip(wanted, pipe.execute(), strict=True)
    jobs = (_restored(job_id, fields, connection, serializer, Job) for job_id, fields in found)
    return {job.id: job for job in jobs if job is not None}


def _restored(job_id: str, fields: Any, connection: Redis, serializer: Any, job_class: type[Job]) -> Job | None:
    """A job from the fields of its hash. A hash without a job is none: RQ writes a heartbeat into one that Redis has lost."""
    job = job_class(job_id, connection=connection, serializer=serializer)
    try:
        job.restore(fields)
    except NoSuchJobError:
        return None
    stamps.read(job, fields)
    return job
