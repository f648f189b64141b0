"""Where a job is: the number of its database in Redis, and what its queue's key begins with.

Several database numbers of one Redis may share a journal, as django-rq's `DB` has it, and so may queue classes with a key prefix
of their own. A step's row keeps both, and its job is sent to no other place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rq import Queue

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

#: What a step's row keeps of its job's place: the number of the database,
DB = "db"
#: and what its queue's key begins with, unless that is RQ's own.
PREFIX = "queue_prefix"
#: The attribute of a job object that names the prefix of the queue that it is sent to. Never written to Redis.
_PREFIX = "_durable_queue_prefix"


def db_of(connection: Redis) -> int:
    """The number of the database that a connection is to."""
    return int(connection.connection_pool.connection_kwargs.get("db") or 0)


def prefix_of(queue: Queue) -> str | None:
    """What a queue's key begins with; None where that is RQ's own."""
    own = queue.redis_queue_namespace_prefix
    return own if own != Queue.redis_queue_namespace_prefix else None


def note_queue(job: Job, prefix: str | None) -> None:
    """Notes on a job object to which queue it is sent."""
    job.__dict__[_PREFIX] = prefix


def kept_of_place(job: Job) -> dict[str, Any]:
    """What a step's row keeps of its job's place."""
    prefix = job.__dict__.get(_PREFIX)
    return {DB: db_of(job.connection), **({PREFIX: prefix} if prefix is not None else {})}


def place_kept(options: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """The place that a step's row keeps; without a number where it keeps none."""
    return options.get(DB), options.get(PREFIX)


def queue_at(name: str, prefix: str | None, connection: Redis, serializer: Any) -> Queue:
    """A queue, whatever its class is: with the prefix that its key has."""
    cls = Queue if prefix is None else type("Queue", (Queue,), {"redis_queue_namespace_prefix": prefix})
    made: Queue = cls(name, connection=connection, serializer=serializer)
    return made
