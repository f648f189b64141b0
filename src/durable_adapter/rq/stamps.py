"""The stamp of a job, which names its run and key: in a field of its own hash, which no body writes.

The same stamp stands in `meta`, where dashboards show it. A body may assign `job.meta`, and RQ writes a hash that Redis has
lost without its `meta`: so the field decides, and `meta` counts only in jobs that have no such field. RQ leaves fields that
it does not know in the hash when an id is used again: each says when its job was made, and counts for that job alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rq.utils import utcformat

from ..errors import UnknownStamp
from ..model import STAMP, is_member_key, make_stamp, read_stamp
from .facts import text_of

if TYPE_CHECKING:
    from rq.job import Job

#: The field of a job's hash. Frozen.
FIELD = "durable_run"
#: Entry in `meta` of a member that is not marked, besides its stamp: a worker need not ask the journal what it is.
UNMARKED = "durable_unmarked"
#: The field of RQ's own that says when a job was made.
_MADE = "created_at"
#: The attribute of a job object that holds what its field says: the stamp, and whether its function is not marked.
_STAMP = "_durable_stamp"
#: The attribute of a job object that says when the job was made whose hash was read last.
_READ = "_durable_read"


def put(job: Job, stamp: str, *, unmarked: bool = False) -> None:
    """Stamps a job; it is written to Redis with the job."""
    job.__dict__[_STAMP] = (stamp, unmarked)
    job.meta = {**without_stamp(job.meta), STAMP: stamp, **({UNMARKED: True} if unmarked else {})}


def remove(job: Job) -> None:
    """Makes a job one that stands for nothing."""
    job.__dict__.pop(_STAMP, None)
    if job.meta:
        job.meta = without_stamp(job.meta)


def stamp_of(job: Job) -> tuple[str, str | None] | None:
    """The run and key that a job's stamp names. What cannot be read is no stamp."""
    try:
        return checked_stamp_of(job)
    except UnknownStamp:
        return None


def checked_stamp_of(job: Job) -> tuple[str, str | None] | None:
    """The run and key that a job's stamp names, for whoever is about to run it.

    Raises:
        UnknownStamp: it has a form that this code does not know.
    """
    return read_stamp(_given(job)[0])


def is_call(stamp: tuple[str, str | None]) -> bool:
    """Whether a stamp names a call of a workflow function, or a compensation; else it names a member of a canvas."""
    return stamp[1] is not None and not is_member_key(stamp[1])


def add_key(job: Job, key: str) -> None:
    """Adds its key to the stamp of a job that is about to be sent."""
    stamp = stamp_of(job)
    if stamp is not None:
        put(job, make_stamp(stamp[0], key), unmarked=is_unmarked(job))


def is_unmarked(job: Job) -> bool:
    """Whether a job's stamp says that its function is not marked."""
    return _given(job)[1]


def without_stamp(meta: Any) -> dict[str, Any]:
    """A job's `meta` as its publisher gave it."""
    return {k: v for k, v in meta.items() if k not in (STAMP, UNMARKED)} if isinstance(meta, dict) else {}


def write(job: Job, fields: dict[str, Any]) -> None:
    """Adds a job's stamp to the fields of its hash that are about to be written."""
    text = _as_field(job, fields[_MADE])
    if text is not None:
        fields[FIELD] = text


def save(job: Job, pipeline: Any) -> None:
    """Writes a job's stamp alone: for who sends a job again from a process in which `write` is not hooked in."""
    text = _as_field(job, utcformat(job.created_at))
    if text is not None:
        pipeline.hset(job.key, FIELD, text)


def read(job: Job, fields: Mapping[Any, Any]) -> None:
    """Takes a job's stamp from its hash, as Redis gave it.

    What an object has in memory stays where the hash is that of the same job and says nothing: something without the plugin
    has written it again.
    """
    made, given = _text(fields, _MADE), _text(fields, FIELD)
    known = job.__dict__.get(_READ)
    if known is not None and known != made:
        job.__dict__.pop(_STAMP, None)
    job.__dict__[_READ] = made
    if given is None:
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(given)
        if text["made"] == made:
            job.__dict__[_STAMP] = (text["stamp"], bool(text.get("unmarked")))
        else:  # and so is the `meta` that RQ leaves in the hash as well, where the next job of the id has none
            job.__dict__[_STAMP] = (None, False)


@contextlib.contextmanager
def left_out(job: Job) -> Iterator[None]:
    """A block in which a job is written without its stamp."""
    meta, stamp = job.meta, job.__dict__.pop(_STAMP, None)
    job.meta = without_stamp(meta)
    try:
        yield
    finally:
        job.meta = meta
        if stamp is not None:
            job.__dict__[_STAMP] = stamp


def _as_field(job: Job, made: str) -> str | None:
    stamp, unmarked = _given(job)
    if stamp_of(job) is None:
        return None
    return json.dumps({"made": made, "stamp": stamp, **({"unmarked": True} if unmarked else {})})


def _given(job: Job) -> tuple[Any, bool]:
    own: tuple[str | None, bool] | None = job.__dict__.get(_STAMP)
    if own is not None:
        return own
    meta = job.meta if isinstance(job.meta, dict) else {}
    return meta.get(STAMP), bool(meta.get(UNMARKED))


def _text(fields: Mapping[Any, Any], name: str) -> str | None:
    found = fields.get(name.encode(), fields.get(name))
    return text_of(found) if found is not None else None
