"""Making and sending a job: a start is committed before its job is written to Redis.

`Job.create` is the one place that every new job passes, and `Job.to_dict` the one before anything of it is written. `joining`
says what is committed of a job.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.job import Dependency, Job, JobStatus

from ..current import FUNCTION
from ..errors import JournalUnreachable, UnsupportedCanvas
from ..model import SECOND, StepRow, make_stamp, new_ref
from ..runtime.publication import publication, publishing
from ..runtime.starting import current_step, dispatching, identity_here
from . import stamps, ticks
from .binding import Binding
from .facts import status_of
from .identity import place_of
from .jobs import fetched, note_queue, prefix_of
from .joining import AGAIN, PENDING, Pending, current_outbox, dispatch, is_pending, publish
from .pipelines import follow
from .stamps import stamp_of

if TYPE_CHECKING:
    from rq import Queue
    from rq.group import Group

logger = logging.getLogger("durable_adapter")

#: The attribute of a job object whose id was derived, because its publisher gave none.
_DERIVED_ID = "_durable_derived_id"
#: The status of a job that was saved and that nobody has sent yet: RQ sends none that has one of these. An older one leaves out
#: the second.
_NOT_SENT = (None, "created", JobStatus.SCHEDULED)


def create(binding: Binding, make: Callable[..., Job], job_class: type[Job], args: Any, kwargs: dict[str, Any]) -> Job:
    """`Job.create`: stamps a job that begins a run, or joins one."""
    job = make(*args, **kwargs)
    binding.hook(job_class)
    if publication().is_repeated or binding.is_off:
        return job
    binding.seen(job.connection, job.serializer)
    stamps.remove(job)  # somebody has handed on the `meta` of another job
    given = args[0] if args else kwargs.get("func")
    marked = binding.registry.learn(job.func_name, given)
    function = dispatching(binding.registry, job.func_name or "")
    parents, plain = _parents(binding, kwargs.get("depends_on"), job if marked else None)
    if function is not None:
        others = [(parent.ref, parent.key) for parent in parents]
        others += [(function.ref, key) for parent in plain if (key := function.key_of(parent.id)) is not None]
        pending = Pending(function.ref, others=others, function=function, marked=marked)
        pending.allow_failure = bool(job.allow_dependency_failures)
        setattr(job, PENDING, pending)
        return job
    # One that runs although they fail does not join: whatever becomes of their run, its own goes on.
    grows = not job.allow_dependency_failures and publication().workflow_id is None
    joined = next((parent.ref for parent in parents if parent.grows), None) if grows else None
    if not marked and joined is None:
        return job
    identity = identity_here(job.func_name or "") if publication().workflow_id is None else None
    if identity is not None and not kwargs.get("id"):
        job.id = identity.task_id
        job.__dict__[_DERIVED_ID] = True
    if joined is not None:
        ref = joined
        others = [(parent.ref, parent.key) for parent in parents if parent.ref != ref]
        pending = Pending(ref, [parent.key for parent in parents if parent.ref == ref], others, marked=marked)
        pending.again = [parent.again for parent in parents if parent.again is not None]
        pending.inside = identity is not None
    else:
        ref = identity.ref if identity is not None else new_ref()
        others = [(parent.ref, parent.key) for parent in parents]
        pending = Pending(ref, others=others, inside=identity is not None)
    pending.allow_failure = bool(job.allow_dependency_failures)
    pending.outside = _unfinished(plain, allow_failure=pending.allow_failure)
    stamps.put(job, make_stamp(ref), unmarked=not marked)
    setattr(job, PENDING, pending)
    return job


class Parent(NamedTuple):
    """A durable job that another depends on.

    Attributes:
        ref: its run.
        key: its key in that.
        grows: whether what depends on it joins its run: that of a workflow function is as the function makes it.
        again: where it stands for a job that was sent before, the keys of what was met again behind it.
    """

    ref: str
    key: str
    grows: bool
    again: set[str] | None


def _parents(binding: Binding, depends_on: Any, dependent: Job | None) -> tuple[list[Parent], list[Job]]:
    """The durable jobs among those that a job depends on, and the others.

    What is named by its id is looked up in Redis where *dependent* is given, as that is written.
    """
    found: list[Parent] = []
    plain: list[Job] = []
    if not depends_on:
        return found, plain
    for item in depends_on if isinstance(depends_on, (list, tuple)) else [depends_on]:
        for parent in item.dependencies if isinstance(item, Dependency) else [item]:
            job = parent if isinstance(parent, Job) else None
            if job is None and dependent is not None:
                job = fetched(str(parent), dependent.connection, dependent.serializer)
            stamp = stamp_of(job) if job is not None else None
            if job is not None and stamp is not None:
                grows = not stamps.is_call(stamp) and job.func_name not in binding.registry.workflows
                found.append(Parent(*place_of(job), grows, getattr(job, AGAIN, None)))
            elif job is not None:
                plain.append(job)
    return found, plain


def _unfinished(jobs: list[Job], *, allow_failure: bool) -> list[Job]:
    """Those of some unmarked jobs that RQ makes a dependent wait for now: what it does not have it takes for done."""
    met = (JobStatus.FINISHED, JobStatus.FAILED) if allow_failure else (JobStatus.FINISHED,)
    there = [fetched(job.id, job.connection, job.serializer) for job in jobs]
    return [job for job in there if job is not None and status_of(job) not in met]


def forget_if_sent(job: Job) -> None:
    """Of a job that was only saved here, and that somebody else has sent meanwhile, what its hash says counts."""
    if is_pending(job) and job._status not in _NOT_SENT:
        del job.__dict__[PENDING]
        stamps.remove(job)


def to_dict(binding: Binding, write: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.to_dict`: whatever way leads to Redis, what must be committed first is."""
    if publication().runs_here:
        _before_it_runs_here(job)
    pending: Pending | None = job.__dict__.get(PENDING)
    if pending is not None:
        if pending.function is not None:
            raise UnsupportedCanvas(
                f"a workflow function sends {job.func_name} in a way that cannot be repeated: use queue.enqueue(), "
                "enqueue_in() or enqueue_at(), one job at a time"
            )
        if current_step() is not None and current_outbox() is not None:
            raise UnsupportedCanvas(
                f"a transactional step sends {job.func_name} in a way that cannot wait for its commit: use queue.enqueue()"
            )
        if job._status in _NOT_SENT:
            with stamps.left_out(job):  # there is no run before it is sent, and a worker may meet it first
                return write(*args, **kwargs)
        del job.__dict__[PENDING]
        note_queue(job, publication().prefix)
        if publish(binding, job, pending, lambda: job) is not job:
            raise UnsupportedCanvas(
                f"{job.func_name} was started before under the id that these arguments give it, and where several jobs are sent "
                "at once the first start's job cannot be handed back: use queue.enqueue(). Nothing was sent."
            )
    fields = write(*args, **kwargs)
    stamps.write(job, fields)
    return fields


def enqueue_job(binding: Binding, send: Callable[..., Job], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Job:
    """`Queue.enqueue_job`: what `enqueue`, `enqueue_call` and `@job` come to."""
    job: Job = args[0] if args else kwargs["job"]
    if _lacks_an_id(job, args, kwargs):
        return send(*args, **kwargs)
    _begin_anew(binding, job)
    if not queue.is_async:
        _before_it_runs_here(job)
    if is_pending(job) and job.timeout is None:
        job.timeout = queue._default_timeout  # as RQ does a moment later; what makes the job again has no such queue
    with _waiting_for(args[1] if len(args) > 1 else kwargs.get("pipeline")):
        return _sent(binding, queue, job, lambda: send(*args, **kwargs))


def _lacks_an_id(job: Job, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a job is to be unique that was given no id: RQ refuses that, and asks for an id that nothing has given it yet."""
    unique = args[3] if len(args) > 3 else kwargs.get("unique", False)
    if not unique or (job._id and not job.__dict__.get(_DERIVED_ID)):
        return False
    job._id = None
    return True


def _before_it_runs_here(job: Job) -> None:
    """A synchronous queue runs a job inside of what enqueues it: inside of a step it is part of that, and no run.

    Raises:
        UnsupportedCanvas: a workflow function enqueues it. It would be a call in place, which a replay has to know as one.
    """
    pending: Pending | None = job.__dict__.get(PENDING)
    if pending is None or not pending.marked:
        return
    if FUNCTION.get() is not None and (current_step() is None or current_outbox() is not None):
        raise UnsupportedCanvas(
            f"a workflow function enqueues {job.func_name} on a synchronous queue (is_async=False), which would run it at once, "
            "inside of the function. Call it instead of enqueueing it, or use a queue that has workers. Nothing was sent."
        )
    if current_step() is not None and current_outbox() is None:
        _part_of_its_caller(job)


def _part_of_its_caller(job: Job) -> None:
    """Makes a job that was to begin or join a run a plain one."""
    del job.__dict__[PENDING]
    stamps.remove(job)


def enqueue(binding: Binding, send: Callable[..., Job | None], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Job | None:
    """`Queue.enqueue`: says so where a chain falls apart, because its queue puts jobs off and gave none to depend on.

    RQ always returns a job. django-rq returns None inside a transaction: `depends_on=` that None means no dependency.
    """
    given = dict(kwargs)  # RQ takes its own options out of it
    sent = send(*args, **kwargs)
    if sent is None and "depends_on" in given and given["depends_on"] is None:
        func = args[0] if args else given.get("f")
        name = func if isinstance(func, str) else f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', func)}"
        if not binding.is_off and binding.registry.learn(name, func):
            why = (
                f"{name} was enqueued with depends_on=None, in a queue that puts jobs off ({type(queue).__name__}): until they "
                "are sent, there is no job to depend on, so this one waits for nothing and is a run of its own. With django-rq, "
                "enqueue the whole chain in transaction.on_commit()"
            )
            logger.warning("chain_broken name=%s msg=%r", name, why)
    return sent


def schedule_job(binding: Binding, send: Callable[..., Job], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Job:
    """`Queue.schedule_job`: what `enqueue_in` and `enqueue_at` come to."""
    job: Job = args[0] if args else kwargs["job"]
    if _lacks_an_id(job, args, kwargs):
        return send(*args, **kwargs)
    pending: Pending | None = job.__dict__.get(PENDING)
    at = args[1] if len(args) > 1 else kwargs.get("datetime")
    if pending is not None and isinstance(at, datetime):
        now = datetime.now(UTC) if at.tzinfo is not None else datetime.now()  # noqa: DTZ005 - as RQ compares it
        pending.delay = max(0, int((at - now).total_seconds() * SECOND))
    with _waiting_for(args[2] if len(args) > 2 else kwargs.get("pipeline")):
        return _sent(binding, queue, job, lambda: send(*args, **kwargs))


def enqueue_many(binding: Binding, send: Callable[..., Any], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Any:
    """`Queue.enqueue_many`: if it fails, nothing that it committed stands."""
    binding.seen(queue.connection, queue.serializer)
    pipeline = args[1] if len(args) > 1 else kwargs.get("pipeline")
    with publishing(runs_here=not queue.is_async, prefix=prefix_of(queue)), _waiting_for(pipeline):
        return _all_or_none(binding, lambda: send(*args, **kwargs))


def enqueue_group(binding: Binding, send: Callable[..., Any], _group: Group, args: Any, kwargs: Any) -> Any:
    """`Group.enqueue_many`, which writes to Redis only after `Queue.enqueue_many` has returned."""
    with _waiting_for(args[2] if len(args) > 2 else kwargs.get("pipeline")):
        return _all_or_none(binding, lambda: send(*args, **kwargs))


@contextlib.contextmanager
def _waiting_for(pipeline: Any) -> Iterator[None]:
    """A publication into a pipeline of the caller's: what it commits is taken back if that is never executed."""
    if pipeline is None or publication().take_back is not None or current_outbox() is not None:
        yield
        return
    with _taken_back_on_failure() as committed:
        yield
    follow(pipeline, committed)


def _all_or_none(binding: Binding, send: Callable[[], Any]) -> Any:
    """Sends several jobs; those that joined a run which takes no more are then cancelled."""
    if publication().refused is not None:
        return send()
    refused: list[StepRow] = []
    with publishing(refused=refused):
        if publication().take_back is None:
            with _taken_back_on_failure():
                sent = send()
        else:
            sent = send()
        binding.engine.withdraw(refused)
    return sent


@contextlib.contextmanager
def _taken_back_on_failure() -> Iterator[list[Callable[[], None]]]:
    committed: list[Callable[[], None]] = []
    try:
        with publishing(take_back=committed):
            yield committed
    except Exception:
        for take_back in reversed(committed):
            with contextlib.suppress(JournalUnreachable):
                take_back()
        raise


def _sent(binding: Binding, queue: Queue, job: Job, send: Callable[[], Job]) -> Job:
    binding.seen(queue.connection, queue.serializer)
    pending: Pending | None = job.__dict__.pop(PENDING, None)
    if pending is None:
        outbox = current_outbox()
        if outbox is not None and not publication().is_repeated:
            outbox.append(send)
            return job
        return send()
    job.origin = queue.name
    note_queue(job, prefix_of(queue))
    if pending.function is not None:
        return dispatch(binding, pending.function, job, pending, send)
    return publish(binding, job, pending, send) or job


def _begin_anew(binding: Binding, job: Job) -> None:
    """A job that was saved and is sent only now begins its run, and a finished one that is enqueued once more a new one.

    RQ's own re-sendings do not come this way. Of jobs that rq-scheduler sends again and again, the worker sees the ticks.
    """
    stamp = stamp_of(job)
    if PENDING in job.__dict__ or publication().is_repeated or binding.is_off or ticks.is_periodic(job):
        return
    if stamp is None:
        begins = job._status in _NOT_SENT and job.started_at is None
    else:
        begins = not stamps.is_call(stamp) and status_of(job) is JobStatus.FINISHED
    if begins and binding.registry.learn(job.func_name):
        pending = Pending(new_ref())
        stamps.put(job, make_stamp(pending.ref))
        setattr(job, PENDING, pending)
