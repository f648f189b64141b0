"""Running a marked task: the delivery is named, and handed to the runtime.

The hook sits on the task's own `run`: below routing, time limits, retries, events, serializers and custom `__call__`
methods, which stay Celery's. Direct calls, eager calls and recursion run the function as it is.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore
from celery.states import SUCCESS
from celery.utils.saferepr import saferepr

from ..codec import fingerprint
from ..current import FUNCTION, STEP, called_plainly
from ..declare.decorators import as_called
from ..errors import Deferred, UnknownStamp, UnserialisableValue
from ..model import (
    STAMP,
    StepRow,
    StepStatus,
    WorkflowRow,
    derive_ref,
    kind_of_key,
    member_key,
    read_stamp,
    task_key,
)
from ..runtime.calls import Call
from ..runtime.current_step import RunningStep
from ..runtime.deliveries import BeganPlain, adopted, awaited, refused
from ..runtime.functions import run_function
from ..runtime.steps import run_step
from . import endings
from .attempts import ActiveTask, Limits, current, plainly
from .binding import Binding
from .plans import KEPT, PLACE, PROPERTIES, member_of, stamped_chain, stamps_of, tail_members
from .results import HELD

if TYPE_CHECKING:
    from celery.app.task import Context, Task

logger = logging.getLogger("durable_adapter")

_AGAIN = "its message came again and nothing of its first delivery is recorded: it was sent without the plugin"


def run_wrapper(binding: Binding, task: Task, original: Callable[..., Any]) -> Any:
    """The hook for one task; it looks like the task's own `run`."""
    name = task.name
    registry = binding.registry

    @functools.wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not binding.is_installed:
            return original(*args, **kwargs)
        request = task.request_stack.top
        if request is None or request.called_directly or not request.id or request.is_eager:
            return _in_place(binding, task, original, args, kwargs, request)
        if STEP.get() is not None or FUNCTION.get() is not None:
            # A task that calls itself: Celery shows it the outer request, but it is a call like any other.
            return _in_place(binding, task, original, args, kwargs, None)
        try:
            stamp = read_stamp((request.stamps or {}).get(STAMP))
        except UnknownStamp as unknown:
            return _defer(task, request, refused(binding.host, name, str(unknown)))
        if stamp is None and (binding.is_off or not registry.is_marked(name)):
            return original(*args, **kwargs)
        return _delivered(binding, task, original, args, kwargs, request, stamp)

    run.__wrapped__ = original
    return run


def _in_place(
    binding: Binding,
    task: Task,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Any,
) -> Any:
    """A call that no broker delivered: a step where a workflow function makes it, and itself everywhere else."""
    name = task.name
    function = FUNCTION.get()
    if function is None or STEP.get() is not None:
        here = binding.in_process
        if here is not None and here.is_idle and binding.registry.is_marked(name):
            return here.call_task(name, args, kwargs)
        if STEP.get() is None and name in binding.registry.steps:
            if here is not None:
                here.refuse_beside(name)
            called_plainly(name)
        return original(*args, **kwargs)
    policy = binding.registry.steps.get(name)
    if policy is None:
        return original(*args, **kwargs)
    limits = Limits(task)
    with current(limits):
        value = function.call_step(policy, policy.name or name, original, args, kwargs, declines=limits.declines)
    return as_called(original, value)


def _delivered(
    binding: Binding,
    task: Task,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Context,
    stamp: tuple[str, str | None] | None,
) -> Any:
    """A message of a marked task."""
    name = task.name
    # A marked task is never a replacement, but stands behind one that Celery counts in the messages that follow.
    nesting = request.replaced_task_nesting or 0
    delivery, limits = ActiveTask(request.id, name, nesting), Limits(task)
    if stamp is None:
        ref, key = _unstamped_ref(request, name, args, kwargs), member_key(0, name)
    else:
        ref, key = stamp[0], stamp[1] or task_key(request.id, name)
    kind = kind_of_key(key, is_function=name in binding.registry.workflows)
    again = bool((request.delivery_info or {}).get("redelivered")) or bool(request.retries)
    call = Call(
        ref=ref,
        key=key,
        name=name,
        policy=binding.registry.policy(name),
        kind=kind,
        args=args,
        kwargs=kwargs,
        body=_body(binding, delivery, limits, original, args, kwargs, request),
        completes_run=not request.chain,
        again=again,
        retry_request=delivery.retry_request,
        declines=limits.declines,
        final=endings.is_final,
        adopt=None if stamp is not None else lambda call: _adopted(binding, task, request, args, kwargs, call),
    )
    had_chain = request.chain
    if stamp is None and request.chain:
        # Adopted: what follows belongs to the run that is made of this message, on this delivery and on every other.
        tail = [member_key(place, sig["task"]) for place, sig in enumerate(reversed(request.chain), start=1)]
        request.chain = stamped_chain(request.chain, call.ref, tail)
        endings.note_follows(request)
    request.__dict__[PLACE] = (call.ref, call.key)
    request.__dict__[endings.REACHED] = True
    began_plain, value = False, None
    try:
        value = run_function(binding.host, call) if kind.makes_calls else run_step(binding.host, call)
    except BeganPlain:
        began_plain = True
    except Deferred as left:
        return _defer(task, request, left)
    except Exception as error:
        if delivery.ran or (raised := endings.as_celery_error(task, error)) is error:
            raise
        raise raised from error
    if began_plain:  # outside of the handler: the body's own error is raised without ours as its context
        request.chain = had_chain
        endings.forget(request)
        with plainly(request.id):
            return original(*args, **kwargs)
    if request.chain and not delivery.ran:
        _stop_again(binding, request, call.ref)
    return value


def _unstamped_ref(request: Context, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The run of a message without a stamp: the same when it comes again, another for another publication.

    As far as the message tells: one that is published under the id of an earlier one, with the same arguments, looks like
    that one delivered again.
    """
    try:
        given = fingerprint([list(args), kwargs])
    except UnserialisableValue:
        given = ""  # it is refused when it is written down
    return derive_ref("unstamped", request.root_id or request.id, request.id, name, given)


def _body(
    binding: Binding,
    delivery: ActiveTask,
    limits: Limits,
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Context,
) -> Callable[[Call], Any]:
    """The user's code, with the delivery current, so that a retry is caught and a chain that it stops is noticed."""

    def body(call: Call) -> Any:
        task = limits.task
        had_chain, as_it_was = list(request.chain or ()), endings.chain_text(request.chain)
        delivery.begin()
        limits.declined, limits.most = False, None
        with current(limits, delivery):
            value = awaited(original(*args, **kwargs))
        if delivery.send is not None:
            delivery.before_sending = functools.partial(_store_meanwhile, task, request, value)
        elif request.retries:
            _forget_meanwhile(task, request)
        if had_chain and not request.chain:
            _after_body(functools.partial(_stopped, binding, call))
        elif had_chain and endings.chain_text(request.chain) != as_it_was:
            request.chain = None
            _after_body(functools.partial(endings.chain_changed, binding, request, call, had_chain))
        return value

    return body


def _stopped(binding: Binding, call: Call) -> None:
    """The body took its own chain away (`self.request.chain = None`): what followed is cancelled, as it always was."""
    call.completes_run = True
    binding.host.patient.members.stop_after(call.ref, call.key)


def _after_body(record: Callable[[], None]) -> None:
    """Records what a body did to its chain; of a transactional step, after its own transaction."""
    step = STEP.get()
    outbox = step.outbox if isinstance(step, RunningStep) else None
    if outbox is not None:
        outbox.append(record)  # its own transaction holds the lock on its row
    else:
        record()


def _stop_again(binding: Binding, request: Context, ref: str) -> None:
    """A memo hit sends what follows, as Celery does; not where that was cancelled: its body stopped the chain, or a person."""
    following = request.chain[-1]
    stamp = read_stamp((following.get("options") or {}).get(STAMP))
    key = stamp[1] if stamp is not None else None
    row = binding.host.patient.claims.get(ref, key or task_key(following["options"]["task_id"], following["task"]))
    if row is not None and row.status is StepStatus.CANCELLED:
        request.chain = None


def _adopted(
    binding: Binding, task: Task, request: Context, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call
) -> tuple[WorkflowRow, list[StepRow]]:
    """A message from a producer without the plugin becomes a run at first touch; if it may have run before, in doubt."""
    carried = request.as_execution_options()
    options = {k: v for k, v in carried.items() if k in KEPT | stamps_of(carried)}
    options["task_id"] = request.id
    # What Celery keeps of a message elsewhere than among the options with which it would send that again.
    if request.ignore_result is not None:
        options["ignore_result"] = request.ignore_result
    priority = (request.delivery_info or {}).get("priority")
    if priority is not None:
        options["priority"] = priority
    if request.correlation_id and request.correlation_id != request.id:
        options["correlation_id"] = request.correlation_id
    if getattr(request, "compression", None):
        options["compression"] = request.compression
    properties = getattr(request, "properties", None) or {}
    options |= {name: properties[name] for name in PROPERTIES if properties.get(name) is not None}
    for name, value, most in (
        ("argsrepr", tuple(args), binding.app.amqp.argsrepr_maxsize),
        ("kwargsrepr", kwargs, binding.app.amqp.kwargsrepr_maxsize),
    ):
        given = getattr(request, name, None)
        if given is not None and given != saferepr(value, most):
            options[name] = given
    queue = (request.delivery_info or {}).get("routing_key")
    if queue and not options.get("queue"):
        options["queue"] = queue
    members = [
        member_of(binding.app, task.name, args, kwargs, options, immutable=True),
        *tail_members(binding.app, request.chain),
    ]
    return adopted(
        binding.host,
        binding.registry,
        members,
        ref=call.ref,
        key=call.key,
        code_version=binding.settings.code_version,
        again=_AGAIN if call.again else None,
        plain_until=binding.settings.plain_until,
    )


def _store_meanwhile(task: Task, request: Context, value: Any) -> None:
    """Stores what a body returned after `retry(throw=False)`, as Celery does; the step itself is not done yet."""
    if task.ignore_result or request.ignore_result:
        return
    try:
        task.backend.store_result(request.id, value, SUCCESS, request=request)
    except Exception:
        logger.warning("result_not_stored task=%s state=%s", request.id, SUCCESS, exc_info=True)


def _forget_meanwhile(task: Task, request: Context) -> None:
    """Makes room for the step's own value: Celery keeps the first success that it has stored of a task."""
    if task.ignore_result or request.ignore_result:
        return
    try:
        if task.backend.get_task_meta(request.id, cache=False).get("status") == SUCCESS:
            task.backend.forget(request.id)
    except Exception:
        logger.debug("result_unknown task=%s", request.id, exc_info=True)


def _defer(task: Task, request: Context, left: Deferred) -> Any:
    """Gives the slot back: the message is acknowledged, no result is stored, and the sweeper owns what is left."""
    logger.info("task_deferred task=%s name=%s msg=%r", request.id, task.name, str(left))
    if left.held and not task.ignore_result and not request.ignore_result:
        try:
            task.backend.store_result(request.id, {"why": str(left)}, HELD, request=request)
        except Exception:
            logger.warning("result_not_stored task=%s state=%s", request.id, HELD, exc_info=True)
    raise Ignore() from left
