"""Running a job: the delivery is named, and handed to the runtime.

The hook sits on `Job._execute`: below RQ's callbacks, retries, time-outs and results, which stay RQ's own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rq.job import Job, Retry
from rq.results import Result

from ..current import FUNCTION, STEP
from ..declare.retry import RetryPolicy
from ..errors import CannotSuspend, Deferred, UnknownStamp, UnsupportedCanvas
from ..model import SECOND, Safety, StepRow, WorkflowRow, kind_of_key
from ..runtime.calls import Call, RetryRequest
from ..runtime.deliveries import BeganPlain, adopted, awaited, come_after, refused, unmarked_ended
from ..runtime.functions import FunctionRun, run_function
from ..runtime.steps import run_step
from . import stamps, ticks
from .binding import Binding
from .deferring import MANY_RETRIES, defer
from .facts import has_retry, has_spent_its_retries, is_of_earlier_job, repeats_left, times_tried
from .fields import ASKED, PUT_ASIDE, count, increment, note_start
from .identity import base_of, place_of
from .jobs import kept_of, member_of, note_queue
from .joining import is_pending
from .publishing import forget_if_sent
from .requeued import warn_if_requeued
from .stamps import is_unmarked, stamp_of
from .versions import COUNTED_RETRY, RETURNED_RETRY, since

logger = logging.getLogger("durable_adapter")

_AGAIN = "its job came again and nothing of its first delivery is recorded: it was sent without the plugin"

#: The attribute of a job object that says whether it had been started before this delivery. Never written to Redis.
_STARTED_BEFORE = "_durable_started_before"

#: The attribute of a job object that says that its body has returned. Never written to Redis.
RETURNED = "_durable_returned"

#: No attempt of our own after the last that RQ grants.
ONCE = RetryPolicy(maximum_attempts=1)


class AskedTooOften(Exception):
    """The body returned a `Retry` once more than that allows: RQ then calls the job failed."""


@dataclass
class Delivery:
    """One job while it runs."""

    job: Job
    #: The body's own request to be run again, returned instead of a result.
    asked: Retry | None = None
    #: The number of such requests before this one.
    times: int = 0

    def retry_request(self, error: BaseException | None) -> RetryRequest | None:
        """RQ's request to run this job again after an error, or the body's own; RQ carries it out itself."""
        if isinstance(error, (AskedTooOften, CannotSuspend)):
            return None
        if error is None:
            if self.asked is None:
                return None
            return self._carried_out(None, Retry.get_interval(self.times, self.asked.intervals))
        if not has_retry(self.job):
            return None
        return self._carried_out(error, self.job.get_retry_interval())

    def granted(self) -> Retry:
        """Returns the `Retry` that grants the body's own request: RQ counts our deferrals along with what the body asked for."""
        assert self.asked is not None
        increment(self.job, ASKED)
        granted = Retry(max=MANY_RETRIES, interval=Retry.get_interval(self.times, self.asked.intervals))
        if getattr(self.asked, "enqueue_at_front", False):  # new in RQ 2.8
            granted.enqueue_at_front = True
        return granted

    def _carried_out(self, error: BaseException | None, wait: float) -> RetryRequest:
        """RQ queues the job at once, or puts it off: then it takes an RQ scheduler, or our sweeper."""
        return RetryRequest(error=error, delay=int(wait * SECOND), send=lambda: None, sent=not wait)


def concerns(binding: Binding, job: Job) -> bool:
    """Whether `execute` has anything to do with a job: with one that is neither marked nor stamped it has not."""
    if stamp_of(job) is not None:
        return True
    try:
        name, func = job.func_name or "", job.func
    except Exception:
        return False  # what RQ cannot read or import, it says itself
    return binding.registry.learn(name, func)


def execute(binding: Binding, run: Callable[[], Any], job: Job, _args: Any, _kwargs: Any) -> Any:
    """`Job._execute`."""
    return _execute(binding, run, job, whole=False)


def execute_whole(binding: Binding, run: Callable[[], Any], job: Job, _args: Any, _kwargs: Any) -> Any:
    """`_execute` of a job class that runs jobs by itself, without `Job._execute`: all that it does is the step's body."""
    return _execute(binding, run, job, whole=True)


def _execute(binding: Binding, run: Callable[[], Any], job: Job, *, whole: bool) -> Any:
    binding.seen(job.connection, job.serializer)
    if is_pending(job):
        raise UnsupportedCanvas(
            f"job {job.id} ({job.func_name}) was made by Job.create() and never enqueued: it belongs to no run, so nothing would "
            "be recorded of it. It was not run. Enqueue it with queue.enqueue_job(job), on a queue with is_async=False to "
            "run it here, or call the function itself to run it plainly."
        )
    try:
        stamp = stamps.checked_stamp_of(job)
    except UnknownStamp as unknown:
        return defer(binding, job, refused(binding.host, job.func_name or "", str(unknown)))
    name = job.func_name or ""
    if STEP.get() is not None or FUNCTION.get() is not None:
        return run()  # a synchronous queue runs a job inside of another one: it is part of that
    func, missing = _function_of(job)
    marked = binding.registry.learn(name, func)
    if stamp is None and (not marked or missing is not None or binding.is_off):
        return run()  # also to fail as ever where the function is not there
    if stamp is not None and (missing is not None or not (marked or stamps.is_call(stamp))):
        if is_unmarked(job) or not _is_a_step(binding, job):
            return _unmarked(binding, run, job, stamp)
        return _leave_to_another_worker(binding, job, missing)
    return _delivered(binding, run, job, name, stamp, whole=whole)


def _function_of(job: Job) -> tuple[Any, Exception | None]:
    """A job's function; where this worker cannot import it, why."""
    try:
        return job.func, None
    except Exception as error:
        return None, error


def _is_a_step(binding: Binding, job: Job) -> bool:
    """Whether the publisher sent a durable step that this worker does not know: here it would run unprotected, or not at all."""
    try:
        row = binding.host.beginning.claims.get(*place_of(job))
    except Deferred:
        return True  # this worker is shutting down, and nobody can say: it is left to another
    return row is not None and row.kind.marked


def _leave_to_another_worker(binding: Binding, job: Job, missing: Exception | None) -> Any:
    """Runs nothing, and lets the sweeper send the job again until a worker gets it that knows its function, and its mark."""
    why = f"job {job.id} was sent as the durable step {job.func_name}, and this worker "
    if missing is not None:
        why += f"cannot import that ({type(missing).__name__}: {missing}): deploy it where workers serve {job.origin!r}"
    else:
        why += "does not know its mark: call durable_adapter.rq.mark(...) where workers import it too"
    logger.error("job_not_run job=%s msg=%r", job.id, f"{why}. It was not run")
    ref, _ = place_of(job)
    with contextlib.suppress(Deferred):
        binding.host.beginning.members.not_begun(job.id, why, ref=ref, in_hand=True)
    return defer(binding, job, Deferred(why))


def _delivered(
    binding: Binding, run: Callable[[], Any], job: Job, name: str, stamp: tuple[str, str | None] | None, *, whole: bool
) -> Any:
    """A delivery of a marked job."""
    kind = kind_of_key(place_of(job)[1], is_function=name in binding.registry.workflows)
    is_function = kind.makes_calls
    delivery = Delivery(job)

    def body(call: Call) -> Any:
        delivery.asked = None
        value = awaited(run()) if whole else _below(binding, job, run)
        if not (isinstance(value, Retry) and since(RETURNED_RETRY)):
            return value
        if is_function:
            raise UnsupportedCanvas(
                f"workflow function {name} returned rq.Retry: it runs from the top on every wake anyway. Wait with "
                "durable.sleep(), or raise an error and enqueue it with retry=."
            )
        delivery.asked = value
        delivery.times = count(job, ASKED)
        if delivery.times >= value.max:
            if call.policy.safety in (Safety.IDEMPOTENT, Safety.PROBE):
                call.policy = replace(call.policy, retry=ONCE)
            raise AskedTooOften(f"it asked to be run again more often than the {value.max} times that its Retry allows")
        return None

    is_next = False
    if ticks.is_periodic(job):
        put_off = count(job, PUT_ASIDE) + count(job, ASKED)
        is_next = ticks.delivered(job, base_of(job), started_before=bool(job.__dict__.get(_STARTED_BEFORE)), put_off=put_off)
    ref, key = place_of(job)  # only now: a tick is a run of its own
    call = Call(
        ref=ref,
        key=key,
        name=name,
        policy=binding.registry.policy(name),
        kind=kind,
        args=tuple(job.args),
        kwargs=dict(job.kwargs),
        body=body,
        again=not is_next and (_came_again(job) if stamp is not None else _may_have_run(job)),
        retry_request=delivery.retry_request,
        declines=lambda _attempt, _error: has_spent_its_retries(job),
        adopt=lambda call: _adopted(binding, job, call),
    )
    if stamp is not None and repeats_left(job) is None and ref == stamp[0]:
        call.adopt = None
    if stamp is not None and job._dependency_ids:
        call.turn = lambda: come_after(binding.host, ref, key, lambda step: _is_forgotten(binding, step))
    try:
        value = run_function(binding.host, call) if is_function else run_step(binding.host, call)
    except BeganPlain:
        pass
    except AskedTooOften:
        if delivery.asked is None or (times_tried(job) or 0) < delivery.asked.max:
            raise  # it was recorded before, or RQ has not counted every time
        return delivery.asked
    except Deferred as left:
        if delivery.asked is not None:
            return delivery.granted()
        return defer(binding, job, left)
    except Exception:
        warn_if_requeued(binding, job, call)
        raise
    else:
        job.__dict__[RETURNED] = True
        return value
    return run()  # outside of the handler: the body's own error is raised without ours as its context


def _is_forgotten(binding: Binding, step: StepRow) -> bool:
    """Whether Redis has nothing of a step's job: with `result_ttl=0` nothing is left of one that has ended."""
    place = binding.place_of(step)
    return place is None or place.job_of(step) is None


def _below(binding: Binding, job: Job, run: Callable[[], Any]) -> Any:
    """The user's function, below its own mark; what it returns to be awaited is awaited here, before it is recorded."""
    function = binding.registry.function(job.func_name or "")
    if function is None:
        return run()
    return awaited(function(*job.args, **job.kwargs))


def prepare(binding: Binding, go_on: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.prepare_for_execution`: notes whether this job had been started before, which RQ overwrites now, and who starts it."""
    job.__dict__.setdefault(_STARTED_BEFORE, job.started_at is not None)
    prepared = go_on(*args, **kwargs)
    row = binding.host.row
    if row is not None and stamp_of(job) is not None:
        note_start(job, row, args[1] if len(args) > 1 else kwargs["pipeline"])
    return prepared


def restore(_binding: Binding, go_on: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.restore`: reads a job's stamp from its hash."""
    restored = go_on(*args, **kwargs)
    forget_if_sent(job)
    stamps.read(job, args[0] if args else kwargs["raw_data"])
    return restored


def _came_again(job: Job) -> bool:
    """Whether a job is known to have been put aside, or may have been where RQ does not count that."""
    return bool(times_tried(job)) or (not since(COUNTED_RETRY) and bool(job.__dict__.get(_STARTED_BEFORE)))


def _may_have_run(job: Job) -> bool:
    """Whether an attempt of this job may have run already, as far as Redis remembers; the last tick of one is none of this."""
    try:
        last = job.latest_result()
    except Exception:
        return True
    if last is not None and not is_of_earlier_job(last, job):
        over = (Result.Type.SUCCESSFUL, Result.Type.FAILED) if ticks.is_periodic(job) else (Result.Type.SUCCESSFUL,)
        return last.type not in over
    return repeats_left(job) is None and bool(job.__dict__.get(_STARTED_BEFORE))


def _adopted(binding: Binding, job: Job, call: Call) -> tuple[WorkflowRow, list[StepRow]]:
    """A job from a publisher without the plugin becomes a run at first touch; if it may have run before, in doubt.

    So does each further tick of a repeated job, whose stamp names the first.
    """
    run, steps = adopted(
        binding.host,
        binding.registry,
        [member_of(job, job.origin)],
        ref=call.ref,
        key=call.key,
        code_version=binding.settings.code_version,
        again=_AGAIN if call.again and stamp_of(job) is None else None,
        plain_until=binding.settings.plain_until,
    )
    note_queue(job, binding.prefix)
    steps[0].options |= kept_of(job)
    return run, steps


def _unmarked(binding: Binding, run: Callable[[], Any], job: Job, stamp: tuple[str, str | None] | None) -> Any:
    """A job that is not marked runs as ever; of one that is a member of a run, its end is recorded."""
    if stamp is None:
        return run()
    try:
        value = run()
    except Exception as error:
        if not has_retry(job):
            unmarked_ended(binding.host, *place_of(job), job.func_name or "", error=error)
        raise
    if not (isinstance(value, Retry) and since(RETURNED_RETRY)):
        unmarked_ended(binding.host, *place_of(job), job.func_name or "", value=value)
        job.__dict__[RETURNED] = True
    return value


def return_value(binding: Binding, read: Callable[..., Any], job: Job, args: Any, kwargs: Any) -> Any:
    """`Job.return_value`: inside a workflow function, of a job that it dispatched, the recorded value; else RQ's own."""
    function = FUNCTION.get()
    if isinstance(function, FunctionRun) and STEP.get() is None and function.dispatched(job.id):
        return function.wait_for(job.id)
    return read(*args, **kwargs)
