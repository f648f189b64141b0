"""What happens when a job is made and sent: a start is committed before its job is written to Redis.

`Job.create` is the one place that every new job passes, and `Job.to_dict` the one before anything of it is written. A job
that depends on a durable one joins its run, with its row committed before it is sent.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.job import Dependency, Job, JobStatus

from ..codec import JSON
from ..current import FUNCTION
from ..errors import JournalUnreachable, UnserialisableValue, UnsupportedCanvas
from ..model import (
    ALLOW_FAILURE,
    ALSO_AFTER,
    SECOND,
    Kind,
    Start,
    StepRow,
    StepStatus,
    WorkflowRow,
    make_stamp,
    new_ref,
)
from ..runtime.functions import FunctionRun
from ..runtime.order import OUTSIDE, members_of
from ..runtime.plans import encode_member, row_for
from ..runtime.starting import STARTING, current_step, dispatching, identity_here, planned, start_run, started_before
from . import stamps, ticks
from .facts import status_of
from .identity import belongs, own_key, place_of, run_of_tick
from .jobs import fetched, kept_of, kept_of_serializer, member_of
from .pipelines import follow
from .places import kept_of_place, note_queue, prefix_of
from .stamps import stamp_of

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.group import Group

    from .binding import Binding

logger = logging.getLogger("durable_adapter")

#: The attribute of a job object that is about to be sent: what of it must be committed first. Never written to Redis.
_PENDING = "_durable_pending"
#: The attribute of a job object that stands for one that was sent before: which of the jobs behind it were met again.
_AGAIN = "_durable_again"
#: The attribute of a job object whose id was derived, because its publisher gave none.
_DERIVED_ID = "_durable_derived_id"
#: Set while the sweeper or a repair makes a job again: it has its stamp, and its run is in the journal.
SENDING_AGAIN: ContextVar[bool] = ContextVar("durable_rq_sending_again", default=False)
#: What was committed by a publication that is under way, to be taken back if it fails.
_COMMITTED: ContextVar[list[Callable[[], None]] | None] = ContextVar("durable_rq_committed", default=None)
#: What such a publication sends although its run takes no more: written to Redis first, so that it can be cancelled there.
_REFUSED: ContextVar[list[StepRow] | None] = ContextVar("durable_rq_refused", default=None)
#: Set while a synchronous queue takes several jobs, each of which it then runs here.
_RUNS_HERE: ContextVar[bool] = ContextVar("durable_rq_runs_here", default=False)
#: What the keys of the queue begin with to which several jobs are sent at once; None where that is RQ's own.
_INTO: ContextVar[str | None] = ContextVar("durable_rq_into", default=None)
#: The status of a job that was saved and that nobody has sent yet: RQ sends none that has one of these. An older one leaves out
#: the second.
_NOT_SENT = (None, "created", JobStatus.SCHEDULED)


@dataclass
class Pending:
    """A job that was made and not sent yet.

    Attributes:
        ref: what its stamp names: the run that it begins or joins, or for a repeated job the first of its runs.
        parents: keys of the members of that run that it comes after; None for a job that begins its run.
        others: members of other runs, or of its function, that it comes after as well, as run and key.
        outside: jobs that are no member of any run and not done yet, and that it comes after as well.
        allow_failure: what it comes after only has to end.
        inside: it is sent inside of a durable call: there is no caller to tell, and an earlier attempt may have sent it.
        function: the workflow function that dispatches it.
        delay: microseconds by which it is put off.
        marked: its function is durable; else it is a member of somebody's run that is sent and seen to end.
        again: it comes after jobs that stand for some that were sent before, and so may have been sent before itself: the
            keys of what was met again behind each of them.
    """

    ref: str
    parents: list[str] | None = None
    others: list[tuple[str, str]] = field(default_factory=list)
    outside: list[Job] = field(default_factory=list)
    allow_failure: bool = False
    inside: bool = False
    function: FunctionRun | None = None
    delay: int = 0
    marked: bool = True
    again: list[set[str]] = field(default_factory=list)


@contextlib.contextmanager
def sending_again() -> Iterator[None]:
    """A block in which jobs are made and sent past our own hooks."""
    token = SENDING_AGAIN.set(True)
    try:
        yield
    finally:
        SENDING_AGAIN.reset(token)


def create(binding: Binding, make: Callable[..., Job], job_class: type[Job], args: Any, kwargs: dict[str, Any]) -> Job:
    """`Job.create`: stamps a job that begins a run, or joins one."""
    job = make(*args, **kwargs)
    binding.hook(job_class)
    if SENDING_AGAIN.get() or binding.is_off:
        return job
    binding.seen(job.connection, job.serializer)
    stamps.take_off(job)  # somebody has handed on the `meta` of another job
    given = args[0] if args else kwargs.get("func")
    marked = binding.registry.look(job.func_name, given)
    function = dispatching(binding.registry, job.func_name or "")
    parents, plain = _parents(binding, kwargs.get("depends_on"), job if marked else None)
    if function is not None:
        others = [(parent.ref, parent.key) for parent in parents]
        others += [(function.ref, key) for parent in plain if (key := function.key_of(parent.id)) is not None]
        pending = Pending(function.ref, others=others, function=function, marked=marked)
        pending.allow_failure = bool(job.allow_dependency_failures)
        setattr(job, _PENDING, pending)
        return job
    # One that runs although they fail does not join: whatever becomes of their run, its own goes on.
    grows = not job.allow_dependency_failures and STARTING.get() is None
    joined = next((parent.ref for parent in parents if parent.grows), None) if grows else None
    if not marked and joined is None:
        return job
    identity = identity_here(job.func_name or "") if STARTING.get() is None else None
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
    setattr(job, _PENDING, pending)
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
                found.append(Parent(*place_of(job), grows, getattr(job, _AGAIN, None)))
            elif job is not None:
                plain.append(job)
    return found, plain


def _unfinished(jobs: list[Job], *, allow_failure: bool) -> list[Job]:
    """Those of some unmarked jobs that RQ makes a dependent wait for now: what it does not have it takes for done."""
    met = (JobStatus.FINISHED, JobStatus.FAILED) if allow_failure else (JobStatus.FINISHED,)
    there = [fetched(job.id, job.connection, job.serializer) for job in jobs]
    return [job for job in there if job is not None and status_of(job) not in met]


def _outside_row(ref: str, job: Job) -> StepRow:
    """The row of a job that is no member of a run, where a member comes after it: nobody reports its end."""
    message: bytes | None = None
    with contextlib.suppress(UnserialisableValue):
        message = encode_member(member_of(job, job.origin))
    return StepRow(
        ref=ref,
        key=own_key(job),
        position=1,
        name=job.func_name or "",
        kind=Kind.UNMARKED,
        status=StepStatus.PLANNED,
        queue=job.origin,
        task_id=job.id,
        message=message,
        options={OUTSIDE: True, **kept_of_place(job)},
    )


def is_pending(job: Job) -> bool:
    """Whether a job was made in this process and not sent yet: nothing of its run is committed."""
    return _PENDING in job.__dict__


def forget_if_sent(job: Job) -> None:
    """Of a job that was only saved here, and that somebody else has sent meanwhile, what its hash says counts."""
    if is_pending(job) and job._status not in _NOT_SENT:
        del job.__dict__[_PENDING]
        stamps.take_off(job)


def to_dict(binding: Binding, write: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.to_dict`: whatever way leads to Redis, what must be committed first is."""
    if _RUNS_HERE.get():
        _before_it_runs_here(job)
    pending: Pending | None = job.__dict__.get(_PENDING)
    if pending is not None:
        if pending.function is not None:
            raise UnsupportedCanvas(
                f"a workflow function sends {job.func_name} in a way that cannot be repeated: use queue.enqueue(), "
                "enqueue_in() or enqueue_at(), one job at a time"
            )
        if current_step() is not None and _outbox() is not None:
            raise UnsupportedCanvas(
                f"a transactional step sends {job.func_name} in a way that cannot wait for its commit: use queue.enqueue()"
            )
        if job._status in _NOT_SENT:
            with stamps.left_out(job):  # there is no run before it is sent, and a worker may meet it first
                return write(*args, **kwargs)
        del job.__dict__[_PENDING]
        note_queue(job, _INTO.get())
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
    pending: Pending | None = job.__dict__.get(_PENDING)
    if pending is None or not pending.marked:
        return
    if FUNCTION.get() is not None and (current_step() is None or _outbox() is not None):
        raise UnsupportedCanvas(
            f"a workflow function enqueues {job.func_name} on a synchronous queue (is_async=False), which would run it at once, "
            "inside of the function. Call it instead of enqueueing it, or use a queue that has workers. Nothing was sent."
        )
    if current_step() is not None and _outbox() is None:
        _part_of_its_caller(job)


def _part_of_its_caller(job: Job) -> None:
    """Makes a job that was to begin or join a run a plain one."""
    del job.__dict__[_PENDING]
    stamps.take_off(job)


def enqueue(binding: Binding, send: Callable[..., Job | None], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Job | None:
    """`Queue.enqueue`: says so where a chain falls apart, because its queue puts jobs off and gave none to depend on.

    RQ always returns a job. django-rq returns None inside a transaction: `depends_on=` that None means no dependency.
    """
    given = dict(kwargs)  # RQ takes its own options out of it
    sent = send(*args, **kwargs)
    if sent is None and "depends_on" in given and given["depends_on"] is None:
        func = args[0] if args else given.get("f")
        name = func if isinstance(func, str) else f"{getattr(func, '__module__', '')}.{getattr(func, '__qualname__', func)}"
        if not binding.is_off and binding.registry.look(name, func):
            logger.warning(
                "%s was enqueued with depends_on=None, in a queue that puts jobs off (%s): until they are sent, there is no job "
                "to depend on, so this one waits for nothing and is a run of its own. With django-rq, enqueue the whole chain in "
                "transaction.on_commit()",
                name,
                type(queue).__name__,
            )
    return sent


def schedule_job(binding: Binding, send: Callable[..., Job], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Job:
    """`Queue.schedule_job`: what `enqueue_in` and `enqueue_at` come to."""
    job: Job = args[0] if args else kwargs["job"]
    if _lacks_an_id(job, args, kwargs):
        return send(*args, **kwargs)
    pending: Pending | None = job.__dict__.get(_PENDING)
    at = args[1] if len(args) > 1 else kwargs.get("datetime")
    if pending is not None and isinstance(at, datetime):
        now = datetime.now(UTC) if at.tzinfo is not None else datetime.now()  # noqa: DTZ005 - as RQ compares it
        pending.delay = max(0, int((at - now).total_seconds() * SECOND))
    with _waiting_for(args[2] if len(args) > 2 else kwargs.get("pipeline")):
        return _sent(binding, queue, job, lambda: send(*args, **kwargs))


def enqueue_many(binding: Binding, send: Callable[..., Any], queue: Queue, args: Any, kwargs: dict[str, Any]) -> Any:
    """`Queue.enqueue_many`: if it fails, nothing that it committed stands."""
    binding.seen(queue.connection, queue.serializer)
    token, into = _RUNS_HERE.set(not queue.is_async), _INTO.set(prefix_of(queue))
    try:
        with _waiting_for(args[1] if len(args) > 1 else kwargs.get("pipeline")):
            return _all_or_none(binding, lambda: send(*args, **kwargs))
    finally:
        _RUNS_HERE.reset(token)
        _INTO.reset(into)


def enqueue_group(binding: Binding, send: Callable[..., Any], _group: Group, args: Any, kwargs: Any) -> Any:
    """`Group.enqueue_many`, which writes to Redis only after `Queue.enqueue_many` has returned."""
    with _waiting_for(args[2] if len(args) > 2 else kwargs.get("pipeline")):
        return _all_or_none(binding, lambda: send(*args, **kwargs))


@contextlib.contextmanager
def _waiting_for(pipeline: Any) -> Iterator[None]:
    """A publication into a pipeline of the caller's: what it commits is taken back if that is never executed."""
    if pipeline is None or _COMMITTED.get() is not None or _outbox() is not None:
        yield
        return
    with _taken_back_on_failure() as committed:
        yield
    follow(pipeline, committed)


def _all_or_none(binding: Binding, send: Callable[[], Any]) -> Any:
    """Sends several jobs; those that joined a run which takes no more are then cancelled."""
    if _REFUSED.get() is not None:
        return send()
    token = _REFUSED.set([])
    try:
        if _COMMITTED.get() is None:
            with _taken_back_on_failure():
                sent = send()
        else:
            sent = send()
        binding.engine.withdraw(_REFUSED.get() or [])
    finally:
        _REFUSED.reset(token)
    return sent


@contextlib.contextmanager
def _taken_back_on_failure() -> Iterator[list[Callable[[], None]]]:
    committed: list[Callable[[], None]] = []
    token = _COMMITTED.set(committed)
    try:
        yield committed
    except Exception:
        for take_back in reversed(committed):
            with contextlib.suppress(JournalUnreachable):
                take_back()
        raise
    finally:
        _COMMITTED.reset(token)


def _outbox() -> list[Callable[[], Any]] | None:
    step = current_step()
    return step.outbox if step is not None else None


def _sent(binding: Binding, queue: Queue, job: Job, send: Callable[[], Job]) -> Job:
    binding.seen(queue.connection, queue.serializer)
    pending: Pending | None = job.__dict__.pop(_PENDING, None)
    if pending is None:
        outbox = _outbox()
        if outbox is not None and not SENDING_AGAIN.get():
            outbox.append(send)
            return job
        return send()
    job.origin = queue.name
    note_queue(job, prefix_of(queue))
    if pending.function is not None:
        return _from_function(binding, pending.function, job, pending, send)
    return publish(binding, job, pending, send) or job


def _begin_anew(binding: Binding, job: Job) -> None:
    """A job that was saved and is sent only now begins its run, and a finished one that is enqueued once more a new one.

    RQ's own re-sendings do not come this way. Of jobs that rq-scheduler sends again and again, the worker sees the ticks.
    """
    stamp = stamp_of(job)
    if _PENDING in job.__dict__ or SENDING_AGAIN.get() or binding.is_off or ticks.is_periodic(job):
        return
    if stamp is None:
        begins = job._status in _NOT_SENT and job.started_at is None
    else:
        begins = not stamps.is_call(stamp) and status_of(job) is JobStatus.FINISHED
    if begins and binding.registry.look(job.func_name):
        pending = Pending(new_ref())
        stamps.put(job, make_stamp(pending.ref))
        setattr(job, _PENDING, pending)


def publish(binding: Binding, job: Job, pending: Pending, send: Callable[[], Any]) -> Any:
    """Commits what a job begins or joins, then sends it."""
    if pending.parents is not None:
        return _join(binding, job, pending, send)
    member = member_of(job, job.origin, delay=pending.delay)
    run, steps = planned(binding.host, binding.registry, [member], ref=run_of_tick(job, pending.ref))
    beside = [_outside_row(run.ref, other) for other in pending.outside]
    if pending.others or beside:
        steps[0].after = [row.key for row in beside]
        steps[0].pending = len(beside) + len(pending.others)
        steps[0].options |= _order_of(pending)
    _keep(steps[0], job)
    for place, row in enumerate(beside, start=1):
        row.position = place
    steps += beside
    stamps.add_key(job, steps[0].key)
    started, result = start_run(binding.host, run, steps, send=send, inside=pending.inside, delay=pending.delay)
    if started is Start.THERE and pending.inside:
        return _sent_by_an_earlier_attempt(binding, job, steps[0], send)
    if started:
        _note(lambda: binding.journal.runs.forget(run.ref))
        return result
    return again(standing_for(binding, started_before(binding.host, run), job.serializer, job.connection))


def standing_for(binding: Binding, run: WorkflowRow, serializer: Any, connection: Redis | None = None) -> Job:
    """The first job of a run that was started before; where Redis has none, one that knows its id and its run alone."""
    first = members_of(binding.journal.reads.outline(run.ref))[0]
    return _standing_for(first, serializer, connection or binding.engine.connection)


def _standing_for(step: StepRow, serializer: Any, connection: Redis) -> Job:
    job_id, name, ref = step.task_id or "", step.name, step.ref
    job = fetched(job_id, connection, serializer)
    if job is None or place_of(job)[0] != ref:  # a fixed id: Redis has it for another run
        job = Job(job_id, connection=connection, serializer=serializer)
        job.func_name = name
        stamps.put(job, make_stamp(ref, step.key))
    return job


def again(job: Job) -> Job:
    """A job that was sent before, handed out once more to who sends it once more.

    What is made to depend on it is what was made to depend on it then: that is not sent twice either.
    """
    setattr(job, _AGAIN, set())
    return job


def _sent_by_an_earlier_attempt(binding: Binding, job: Job, row: StepRow, send: Callable[[], Any]) -> Job:
    """What a step's body sends is sent once, however often the body runs. Only what Redis does not have is sent again."""
    there = fetched(job.id, job.connection, job.serializer)
    if there is None or not belongs(there, row):
        step = binding.host.patient.claims.look(row.ref, row.key)
        if step is not None and step.status is StepStatus.PLANNED:
            return again(send())
        there = job
    return again(there)


def _join(binding: Binding, job: Job, pending: Pending, send: Callable[[], Any]) -> Any:
    """A job that depends on a durable one becomes a member of its run."""
    member = member_of(job, job.origin, delay=pending.delay)
    row = row_for(binding.registry, pending.ref, 0, member, after=[])
    row.key = ""  # it follows from its place, which the journal gives
    row.options |= _order_of(pending)
    _keep(row, job)
    beside = [_outside_row(row.ref, other) for other in pending.outside]
    parents = [*(pending.parents or []), *(other.key for other in beside)]
    if pending.inside and _stands(binding, row):
        stamps.add_key(job, row.key)
        for met in pending.again:
            met.add(row.key)
        return _sent_by_an_earlier_attempt(binding, job, row, send)
    before = _sent_before(binding, row, parents, pending.again, job) if pending.again else None
    if before is not None:
        return before
    step, runs = current_step(), binding.journal.runs
    outbox = step.outbox if step is not None else None
    if step is not None and outbox is not None:
        joined = runs.join(row, parents, step.session().connection(), beside=beside)
        if joined is None:
            stamps.take_off(job)
        else:
            stamps.add_key(job, row.key)
        outbox.append(send)
        if joined is StepStatus.CANCELLED:
            outbox.append(lambda: binding.engine.withdraw([row]))
        return job
    status = runs.join(row, parents, beside=beside)
    if status is None:  # the run was pruned: RQ knows a parent of which the journal knows nothing any more
        stamps.take_off(job)
        return send()
    stamps.add_key(job, row.key)

    def leave() -> None:
        runs.leave(row.ref, row.key)

    try:
        sent = send()
    except Exception:
        with contextlib.suppress(JournalUnreachable):
            leave()
        raise
    _note(leave)
    if status is StepStatus.CANCELLED:
        refused = _REFUSED.get()
        if refused is None:
            binding.engine.withdraw([row])
        else:
            refused.append(row)
    return sent


def _order_of(pending: Pending) -> dict[str, Any]:
    """What a job's row keeps of the members of other runs that it comes after."""
    order: dict[str, Any] = {ALSO_AFTER: pending.others} if pending.others else {}
    if pending.allow_failure and (pending.others or pending.outside):
        order[ALLOW_FAILURE] = True
    return order


def _keep(row: StepRow, job: Job) -> None:
    """Notes how a job is known again, and how it is written; its compensation is sent likewise, to the same queue."""
    kept = {**kept_of_serializer(job), **kept_of_place(job)}
    row.options |= kept_of(job)
    if kept and "undo_options" in row.options:
        row.options["undo_options"] = {**row.options["undo_options"], **kept}


def _stands(binding: Binding, row: StepRow) -> bool:
    """Whether a member that a step's body sends has joined its run already, in an earlier attempt of that step."""
    if _outbox() is not None:
        return False  # whatever an earlier attempt of a transactional step wrote was rolled back with it
    found = binding.host.patient.reads.of_task(row.ref, row.task_id or "")
    if found is not None:
        row.key, row.position = found.key, found.position
    return found is not None


def _sent_before(binding: Binding, row: StepRow, parents: list[str], met: list[set[str]], job: Job) -> Job | None:
    """The job that was made like *job*, behind the same parents, when its workflow was started for the first time.

    Of several that are alike each is met once: what the first start did not come to send is sent now.
    """
    wanted = _without_id(row)
    for step in binding.journal.reads.steps(row.ref):
        if step.message is None or step.after != parents or step.name != row.name:
            continue
        if any(step.key in keys for keys in met) or _without_id(step) != wanted:
            continue
        for keys in met:
            keys.add(step.key)
        return again(_standing_for(step, job.serializer, job.connection))
    return None


def _without_id(step: StepRow) -> tuple[Any, Any]:
    """What a job is called with."""
    member: Any = JSON.decode(step.message or b"null")
    return member["args"], member["kwargs"]


def _note(take_back: Callable[[], None]) -> None:
    committed = _COMMITTED.get()
    if committed is not None:
        committed.append(take_back)


def _from_function(binding: Binding, function: FunctionRun, job: Job, pending: Pending, send: Callable[[], Job]) -> Job:
    """A job that a workflow function sends: recorded, so that no replay sends it again."""
    name = job.func_name or ""

    def sent_as(task_id: str, key: str | None = None) -> str:
        job.id = task_id
        if key is not None:
            stamps.put(job, make_stamp(function.ref, key))
        send()
        return task_id

    if not pending.marked:
        task_id = function.send_once(name, sent_as)
    else:
        runs = binding.registry.function(name)
        if runs is None:
            raise UnsupportedCanvas(f"{name} cannot be imported here, and a workflow function dispatches only what it can import")
        policy = binding.registry.policy(name)

        def message(task_id: str, _key: str) -> bytes:
            job.id = task_id
            return encode_member(member_of(job, job.origin, delay=pending.delay))

        task_id = function.dispatch(
            policy,
            name,
            runs,
            job.origin,
            tuple(job.args),
            dict(job.kwargs),
            message,
            sent_as,
            binding.engine,
            {**_order_of(pending), **kept_of(job)},
        )
    job.id = str(task_id)
    return job
