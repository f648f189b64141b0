"""Ends of a task that are neither a value nor an error of its body's own, and what they mean for its step.

A hook of the task may end it before its body is called; a body may change what is to follow it; and a recorded error may be one
that Celery does not take for an end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.states import FAILURE, IGNORED, REJECTED, SUCCESS
from kombu.utils.json import dumps

from ..errors import JournalError, StepFailed, UnserialisableValue
from ..model import Effect, StepRow, StepStatus
from ..runtime.deliveries import unmarked_ended
from ..runtime.engine import EngineEnd
from ..runtime.engine_ends import end_step
from ..runtime.values import encode_for, write_failure
from .binding import Binding
from .plans import NO_MESSAGE, PLACE, place_of, tail_members

if TYPE_CHECKING:
    from celery.app.task import Context, Task

    from ..runtime.calls import Call

logger = logging.getLogger("durable_adapter")

#: Set on a request whose body was reached: by our hook on the task's own `run`.
REACHED = "_durable_reached"
#: Set on a request: its chain, and the member of it that is sent next. Before 5.7 Celery takes that out of the list itself.
_FOLLOWS = "_durable_follows"


def is_final(error: BaseException) -> bool:
    """Whether a body says with an error that its task is over: nobody tries it again for that.

    A `Reject` that puts the message back, and a `Retry` of `self.retry()`, are requests for another attempt; they are heard
    before this is asked.
    """
    return isinstance(error, (Ignore, Reject, Retry))


def chain_text(chain: Sequence[Any] | None) -> str | None:
    """Returns what follows a task as text, to see afterwards whether its body changed it."""
    return dumps(chain) if chain else None


def chain_changed(binding: Binding, request: Context, call: Call, before: Sequence[Any]) -> None:
    """A body changed what follows it other than by `self.request.chain = None`: nothing of that is sent, and it is shown.

    The journal has a plan, and neither what the body added nor an order without what it took out is in it.
    """
    request.chain = None
    why = (
        f"{call.name} changed self.request.chain: what follows a durable step is what was published with it. Set it to None to "
        "stop there; to run something else, start that from the body"
    )
    logger.error("chain_changed task=%s name=%s msg=%r", request.id, call.name, f"{why}. Nothing of it was sent")
    first = tail_members(binding.app, before)[0]
    host = binding.host
    steps = host.patient.reads.steps(call.ref)
    row = next((s for s in steps if s.task_id == first.task_id), None)
    if row is not None:
        host.patient.engine_ends.end(row, why)


def as_celery_error(task: Task, error: Exception) -> Exception:
    """A recorded error as Celery is told of it, when its body is not run again.

    Some errors are none to Celery: it puts the message back into the queue, or ends the worker, and would do so for ever.
    """
    requeued = (
        (isinstance(error, WorkerLostError) and (task.reject_on_worker_lost or getattr(task, "retry_on_worker_lost", False)))
        or (isinstance(error, TimeLimitExceeded) and not task.acks_on_timeout)
        or (isinstance(error, Reject) and error.requeue)
    )
    if not requeued and not isinstance(error, MemoryError):
        return error
    kind = type(error)
    return StepFailed(f"{kind.__name__}: {error}", type_name=f"{kind.__module__}.{kind.__qualname__}")


def note_follows(request: Context) -> None:
    """Keeps what follows a task, before anybody takes it out of its chain."""
    if request.chain:
        request.__dict__[_FOLLOWS] = (request.chain, request.chain[-1])


def forget(request: Context) -> None:
    """Takes from a request what was set on it: its delivery belongs to no run after all."""
    for name in (PLACE, REACHED, _FOLLOWS):
        request.__dict__.pop(name, None)


def unmarked_end(binding: Binding, task: Any, value: Any = None, error: BaseException | None = None) -> None:
    """Records the end of an unmarked member of a durable chain."""
    request, name = getattr(task, "request", None), getattr(task, "name", "")
    place = place_of(request)
    if place is not None and not binding.registry.is_marked(name):
        unmarked_ended(binding.host, *place, name, value=value, error=error)


def succeeded(binding: Binding, sender: Any = None, result: Any = None, **_: Any) -> None:
    """Celery's signal `task_success`."""
    unmarked_end(binding, sender, result)


def failed(binding: Binding, sender: Any = None, exception: Any = None, **_: Any) -> None:
    """Celery's signal `task_failure`."""
    unmarked_end(binding, sender, error=exception)


def before_run(binding: Binding, sender: Any = None, **_: Any) -> None:
    """Celery begins a delivery: one of an unmarked member that comes again is counted, because nobody else tells of it."""
    request = getattr(sender, "request", None)
    place = place_of(request)
    if request is None or place is None:
        return
    note_follows(request)
    if not (request.delivery_info or {}).get("redelivered") or binding.registry.is_marked(sender.name):
        return
    try:
        binding.journal.engine_ends.begins_again(place[0], str(request.id))
    except JournalError as error:
        logger.warning("redelivery_not_recorded task=%s msg=%r", request.id, str(error))


def after_run(binding: Binding, sender: Any = None, state: Any = None, retval: Any = None, **_: Any) -> None:
    """Celery is done with a delivery: where the body of a step was never reached, its end is recorded all the same.

    `Task.before_start` and a task's own `__call__` may end it: raise `Ignore` or `Reject`, fail, or answer by themselves.
    """
    request = getattr(sender, "request", None)
    place = place_of(request)
    if request is None or place is None:
        return
    chain, follows = request.__dict__.get(_FOLLOWS, (None, None))
    if state == SUCCESS and follows is not None and request.chain is chain:  # else its body stopped it
        _hand_over(binding, place[0], follows)
    if request.__dict__.get(REACHED):
        return
    if state not in (SUCCESS, FAILURE, IGNORED, REJECTED) or (state == REJECTED and getattr(retval, "requeue", False)):
        return
    if not binding.registry.is_marked(sender.name):
        if state in (IGNORED, REJECTED):  # of these Celery tells nobody else
            unmarked_end(binding, sender, error=retval)
        return
    try:
        _record(binding, sender, place[0], str(request.id), state, retval)
    except JournalError as error:
        logger.warning("end_not_recorded task=%s reason=%s msg=%r", request.id, "body_not_called", str(error))


def _hand_over(binding: Binding, ref: str, follows: Any) -> None:
    """Ends the run where a group or a chord follows: Celery has sent it now, and reports no end of it."""
    if follows.get("task") not in NO_MESSAGE:
        return
    following = tail_members(binding.app, [follows])[0]
    try:
        row = next((s for s in binding.journal.reads.steps(ref) if s.task_id == following.task_id), None)
        if row is not None and not row.kind.marked:
            binding.journal.members.record_unmarked(ref, row.key, None, failed=None)
    except JournalError as error:
        logger.warning("end_not_recorded task=%s reason=%s msg=%r", following.task_id, "handed_to_celery", str(error))


def _record(binding: Binding, task: Task, ref: str, task_id: str, state: str, retval: Any) -> None:
    journal = binding.journal
    run, steps = journal.reads.run(ref), journal.reads.steps(ref)
    step = next((s for s in steps if s.task_id == task_id), None)
    if run is None or step is None or step.status not in (StepStatus.PLANNED, StepStatus.WAITING):
        return
    if state == SUCCESS:
        _record_answer(binding, step, retval)
        return
    error = retval if isinstance(retval, BaseException) else RuntimeError(str(retval))
    why = f"{task.name} raised {type(error).__name__} before its body was called"
    if state == FAILURE:
        fails_run = step.kind.fails_run
        journal.ends.fail(step, None, write_failure(error), Effect.DID_NOT_HAPPEN, fails_run=fails_run, why=why)
    else:
        end_step(journal, run, step, steps, EngineEnd(why, error), who=binding.host.row)


def _record_answer(binding: Binding, step: StepRow, value: Any) -> None:
    """A task answered without its body: what follows it is sent by Celery, so that its answer is the step's."""
    try:
        stored = encode_for(binding.journal, value)
    except UnserialisableValue:
        return
    binding.journal.verdicts.happened(step, stored, who="celery", why="its task answered without calling its body", send=False)
