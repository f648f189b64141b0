"""Starting and joining runs: the rows of a job are committed, then it is sent.

A job that depends on a durable one joins its run. What was started before under the same id, or sent by an earlier attempt of
the same body, is not sent twice: whoever sends it gets the job that stands for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rq.job import Job

from ..codec import JSON
from ..errors import JournalUnreachable, UnserialisableValue, UnsupportedCanvas
from ..model import ALLOW_FAILURE, ALSO_AFTER, Start, StepRow, StepStatus, WorkflowRow, kind_of_member, make_stamp
from ..runtime.functions import FunctionRun
from ..runtime.kinds.declared import DeclaredCall
from ..runtime.kinds.dispatch import Dispatch
from ..runtime.kinds.unmarked import Unmarked
from ..runtime.order import OUTSIDE, members_of
from ..runtime.plans import encode_member, row_for
from ..runtime.publication import publication
from ..runtime.starting import current_step, planned, start_run, started_before
from . import stamps
from .binding import Binding
from .identity import belongs, own_key, place_of, run_of_tick
from .jobs import fetched, kept_of, kept_of_place, kept_of_serializer, member_of

if TYPE_CHECKING:
    from redis import Redis

#: The attribute of a job object that is about to be sent: what of it must be committed first. Never written to Redis.
PENDING = "_durable_pending"
#: The attribute of a job object that stands for one that was sent before: which of the jobs behind it were met again.
AGAIN = "_durable_again"


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
        kind=kind_of_member(is_function=False, is_marked=False),
        status=StepStatus.PLANNED,
        queue=job.origin,
        task_id=job.id,
        message=message,
        options={OUTSIDE: True, **kept_of_place(job)},
    )


def is_pending(job: Job) -> bool:
    """Whether a job was made in this process and not sent yet: nothing of its run is committed."""
    return PENDING in job.__dict__


def current_outbox() -> list[Callable[[], Any]] | None:
    """The publications that wait for the transaction of the step that runs here; None where none does."""
    step = current_step()
    return step.outbox if step is not None else None


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
        _note(lambda: binding.journal.starts.forget(run.ref))
        return result
    return mark_sent_before(first_job_of(binding, started_before(binding.host, run), job.serializer, job.connection))


def first_job_of(binding: Binding, run: WorkflowRow, serializer: Any, connection: Redis | None = None) -> Job:
    """The first job of a run that was started before; where Redis has none, one that knows its id and its run alone."""
    first = members_of(binding.journal.reads.outline(run.ref))[0]
    return _job_of_step(first, serializer, connection or binding.here.connection)


def _job_of_step(step: StepRow, serializer: Any, connection: Redis) -> Job:
    job_id, name, ref = step.task_id or "", step.name, step.ref
    job = fetched(job_id, connection, serializer)
    if job is None or place_of(job)[0] != ref:  # a fixed id: Redis has it for another run
        job = Job(job_id, connection=connection, serializer=serializer)
        job.func_name = name
        stamps.put(job, make_stamp(ref, step.key))
    return job


def mark_sent_before(job: Job) -> Job:
    """Marks a job that was sent before, for whoever sends it once more; returns it.

    What is made to depend on it is what was made to depend on it then: that is not sent twice either.
    """
    setattr(job, AGAIN, set())
    return job


def _sent_by_an_earlier_attempt(binding: Binding, job: Job, row: StepRow, send: Callable[[], Any]) -> Job:
    """Sends a job of a step's body once, however often the body runs. Only a job that Redis does not have is sent again."""
    there = fetched(job.id, job.connection, job.serializer)
    if there is None or not belongs(there, row):
        step = binding.host.patient.claims.get(row.ref, row.key)
        if step is not None and step.status is StepStatus.PLANNED:
            return mark_sent_before(send())
        there = job
    return mark_sent_before(there)


def _join(binding: Binding, job: Job, pending: Pending, send: Callable[[], Any]) -> Any:
    """A job that depends on a durable one becomes a member of its run."""
    member = member_of(job, job.origin, delay=pending.delay)
    row = row_for(binding.registry, pending.ref, 0, member, after=[])
    row.key = ""  # it follows from its place, which the journal gives
    row.options |= _order_of(pending)
    _keep(row, job)
    beside = [_outside_row(row.ref, other) for other in pending.outside]
    parents = [*(pending.parents or []), *(other.key for other in beside)]
    if pending.inside and _has_joined(binding, row):
        stamps.add_key(job, row.key)
        for met in pending.again:
            met.add(row.key)
        return _sent_by_an_earlier_attempt(binding, job, row, send)
    before = _sent_before(binding, row, parents, pending.again, job) if pending.again else None
    if before is not None:
        return before
    step, members = current_step(), binding.journal.members
    outbox = step.outbox if step is not None else None
    if step is not None and outbox is not None:
        joined = members.join(row, parents, step.session().connection(), beside=beside)
        if joined is None:
            stamps.remove(job)
        else:
            stamps.add_key(job, row.key)
        outbox.append(send)
        if joined is StepStatus.CANCELLED:
            outbox.append(lambda: binding.engine.withdraw([row]))
        return job
    status = members.join(row, parents, beside=beside)
    if status is None:  # the run was pruned: RQ knows a parent of which the journal knows nothing any more
        stamps.remove(job)
        return send()
    stamps.add_key(job, row.key)

    def leave() -> None:
        members.leave(row.ref, row.key)

    try:
        sent = send()
    except Exception:
        with contextlib.suppress(JournalUnreachable):
            leave()
        raise
    _note(leave)
    if status is StepStatus.CANCELLED:
        refused = publication().refused
        if refused is None:
            binding.engine.withdraw([row])
        else:
            refused.append(row)
    return sent


def _order_of(pending: Pending) -> dict[str, Any]:
    """Returns what a job's row keeps of the members of other runs that it comes after."""
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


def _has_joined(binding: Binding, row: StepRow) -> bool:
    """Whether a member that a step's body sends has joined its run already, in an earlier attempt of that step."""
    if current_outbox() is not None:
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
        return mark_sent_before(_job_of_step(step, job.serializer, job.connection))
    return None


def _without_id(step: StepRow) -> tuple[Any, Any]:
    """Returns the arguments of a member, without the id of its job."""
    member: Any = JSON.decode(step.message or b"null")
    return member["args"], member["kwargs"]


def _note(take_back: Callable[[], None]) -> None:
    committed = publication().take_back
    if committed is not None:
        committed.append(take_back)


def dispatch(binding: Binding, function: FunctionRun, job: Job, pending: Pending, send: Callable[[], Job]) -> Job:
    """A job that a workflow function sends: recorded, so that no replay sends it again."""
    name = job.func_name or ""

    def sent_as(task_id: str, key: str | None = None) -> str:
        job.id = task_id
        if key is not None:
            stamps.put(job, make_stamp(function.ref, key))
        send()
        return task_id

    if not pending.marked:
        task_id = function.call(Unmarked(name, sent_as))
    else:
        runs = binding.registry.function(name)
        if runs is None:
            raise UnsupportedCanvas(f"{name} cannot be imported here, and a workflow function dispatches only what it can import")
        policy = binding.registry.policy(name)

        def message(task_id: str, _key: str) -> bytes:
            job.id = task_id
            return encode_member(member_of(job, job.origin, delay=pending.delay))

        call = DeclaredCall(policy, name, runs, tuple(job.args), dict(job.kwargs))
        kept = {**_order_of(pending), **kept_of(job)}
        task_id = function.call(Dispatch(call, binding.engine, job.origin, message, sent_as, kept))
    job.id = str(task_id)
    return job
