"""Publishing a task: a start is committed before it is sent; a publication of an attempt's own id is caught.

`app.send_task` is the one place that every real publication passes. Stamped messages (what Celery sends next in a chain)
go through untouched.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from celery._state import get_current_task
from celery.canvas import _chain
from celery.utils import uuid

from ..current import FUNCTION, STEP
from ..errors import UnsupportedCanvas
from ..model import STAMP, Start, StepStatus, new_ref
from ..runtime.functions import FunctionRun
from ..runtime.kinds.declared import DeclaredCall
from ..runtime.kinds.dispatch import Dispatch
from ..runtime.kinds.unmarked import Unmarked
from ..runtime.order import members_of
from ..runtime.plans import Member, encode_member, plan_fingerprint
from ..runtime.publication import publication
from ..runtime.starting import (
    Identity,
    current_function,
    current_step,
    dispatching,
    identity,
    identity_here,
    planned,
    start_run,
    started_before,
)
from .attempts import ACTIVE, PLAIN
from .binding import Binding
from .branches import holds_marked, is_branch, refusal, refuse_member
from .plans import delay_of, member_of, original_run, place_of, queue_of, sender_of, stamped, stamped_chain, tail_members


def send(
    binding: Binding, name: str, args: Any, kwargs: Any, options: dict[str, Any], as_given: Callable[[], Any] | None = None
) -> Any:
    """One publication.

    Args:
        name: the task.
        args: as `send_task` takes them.
        kwargs: likewise.
        options: everything else that `send_task` was given.
        as_given: publishes it exactly as it was given: with nothing named that was not, so that the defaults of whoever
            overrides `send_task` count.
    """
    if as_given is None:
        as_given = functools.partial(binding.send_task, name, args, kwargs, **options)
    running = ACTIVE.get()
    if running is not None and options.get("task_id") == running.task_id:
        return _caught(binding, name, args, kwargs, options)
    if STAMP in options or binding.is_off or (PLAIN.get() is not None and options.get("task_id") == PLAIN.get()):
        return as_given()
    binding.ensure_hooked()
    registry = binding.registry
    chain = options.get("chain")
    marked = registry.marks_anything and (
        registry.is_marked(name) or any(holds_marked(binding, sig, draw=True) for sig in chain or ())
    )
    if registry.marks_anything:
        refuse_member(binding, name, options, marked=marked)
    if not marked:
        return _unmarked(binding, name, args, kwargs, options, as_given)
    _refuse_unsupported(binding, name, options)
    if chain and current_function() is not None and publication().workflow_id is None:
        raise UnsupportedCanvas(
            f"a workflow function publishes a chain that begins with {name}: its results would have other ids on every "
            "wake. Call the tasks one after the other, or start the chain under an id: durable.start('...', chain)."
        )
    function = dispatching(registry, name)
    if function is not None:
        return _dispatch(binding, function, name, args, kwargs, options)
    return _start(binding, name, args, kwargs, options)


def is_durable(binding: Binding, signature: Any, *, draw: bool = False) -> bool:
    """Whether a signature, or anything inside it, is a durable task; *draw* looks into generators as well."""
    binding.ensure_hooked()
    return holds_marked(binding, signature, draw=draw)


def _unmarked(binding: Binding, name: str, args: Any, kwargs: Any, options: dict[str, Any], as_given: Callable[[], Any]) -> Any:
    step, function = current_step(), current_function()
    if step is not None and step.outbox is not None:
        options["task_id"] = options.get("task_id") or uuid()
        step.outbox.append(lambda: binding.send_task(name, args, kwargs, **options))
        return _result(binding, options)
    if function is not None:
        call = Unmarked(name, lambda task_id: binding.send_task(name, args, kwargs, **{**options, "task_id": task_id}))
        sent = function.call(call)
        return _result(binding, {**options, "task_id": sent}) if isinstance(sent, str) else sent
    return as_given()


def _result(binding: Binding, options: Mapping[str, Any]) -> Any:
    return (options.get("result_cls") or binding.app.AsyncResult)(options["task_id"])


def _caught(binding: Binding, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """An attempt publishes its own id: a retry, which waits for the attempt's end; a replacement is refused."""
    running = ACTIVE.get()
    assert running is not None
    if options.get("replaced_task_nesting", 0) != running.nesting or name != running.name:
        raise UnsupportedCanvas(
            f"task {running.name} replaces itself with {name}: a durable task cannot be replaced yet. Call {name} "
            "from a workflow function, or make it the next member of the chain."
        )
    place = place_of(getattr(get_current_task(), "request", None))
    if place is not None and STAMP not in options:
        options = stamped(options, *place)  # adopted: it names its run from now on, whatever its arguments are
    running.error = sys.exc_info()[1]
    running.arguments = (list(args or ()), dict(kwargs or {}))
    running.delay = delay_of(options)
    running.send = lambda: binding.send_task(name, args, kwargs, **options)
    return _result(binding, options)


def _refuse_unsupported(binding: Binding, name: str, options: Mapping[str, Any]) -> None:
    """Raises where durable tasks are published in a shape that is not durable yet."""
    if options.get("chord") is not None:
        raise refusal(f"the chord that task {name} belongs to")
    for sig in options.get("chain") or ():
        if is_branch(sig) and holds_marked(binding, sig, draw=True):
            raise refusal(f"a chain with a group in it, behind task {name}")
        if sig.get("task") in binding.registry.workflows:
            raise UnsupportedCanvas(
                f"task {sig['task']} is a workflow function and stands in a chain behind {name}: a workflow function "
                "is started by itself. Start it from the chain's last step, or make the chain its steps."
            )
    if name in binding.registry.workflows and options.get("chain"):
        raise UnsupportedCanvas(
            f"task {name} is a workflow function and begins a chain: a workflow function is started by itself. "
            "Call what follows at its end."
        )


def _start(binding: Binding, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """A new run: its plan is committed, then its first message is sent."""
    inside = _identity(binding, name) if publication().workflow_id is None else None
    ref = inside.ref if inside is not None else new_ref()
    options["task_id"] = options.get("task_id") or (inside.task_id if inside is not None else uuid())
    members = [
        member_of(binding.app, name, args, kwargs, options | sender_of(binding.app, options), immutable=True),
        *tail_members(binding.app, options.get("chain")),
    ]
    run, steps = planned(binding.host, binding.registry, members, ref=ref)
    outgoing = stamped(options, ref, steps[0].key)
    outgoing["chain"] = stamped_chain(options.get("chain"), ref, [step.key for step in steps[1:]])

    def send() -> Any:
        return binding.send_task(name, args, kwargs, **outgoing)

    started, result = start_run(binding.host, run, steps, send=send, inside=inside is not None, delay=members[0].delay)
    if started is Start.THERE and inside is not None:
        if _is_as_before(binding, ref, outgoing["chain"]):
            send()
        return _result(binding, options)
    if started:
        return _result(binding, options) if result is None else result
    existing = started_before(binding.host, run)
    first = members_of(binding.journal.reads.outline(existing.ref))[0]
    return _result(binding, {**options, "task_id": first.task_id})


def _is_as_before(binding: Binding, ref: str, chain: list[Any] | None) -> bool:
    """Gives a chain the ids that an earlier attempt gave it: of those that it has now the journal knows nothing.

    Returns:
        Whether it is to be sent once more: the first of it did not begin, so that its message may be missing.
    """
    reads = binding.host.patient.reads
    run = reads.run(ref)
    steps = reads.steps(ref)
    if run is None or not steps or steps[0].status is not StepStatus.PLANNED:
        return False
    before = members_of(steps)[1:]
    tail = list(reversed(chain or ()))
    if [member.name for member in before] != [sig["task"] for sig in tail]:
        return False
    for member, sig in zip(before, tail, strict=True):
        sig["options"]["task_id"] = member.task_id
    return True


def _identity(binding: Binding, name: str) -> Identity | None:
    """The identity of a start from inside a durable task; a link, which Celery publishes after the body, has one too."""
    if STEP.get() is not None or FUNCTION.get() is not None:
        return identity_here(name)
    current = get_current_task()
    request = current.request_stack.top if current is not None else None
    place = place_of(request)
    if request is None or place is None:
        return None
    ref = place[0]
    # Its ordinal is counted on the delivery.
    ordinal = request.__dict__["_durable_links"] = request.__dict__.get("_durable_links", 0) + 1
    return identity(ref, request.id, "link", ordinal, name)


def _dispatch(binding: Binding, function: FunctionRun, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
    """A step that a workflow function sends to a worker of its own."""
    policy = binding.registry.policy(name)
    positional, named = tuple(args or ()), dict(kwargs or {})
    queue = queue_of(binding.app, name, args, kwargs, options)
    runs = original_run(binding.app, name)

    def message(task_id: str, _key: str) -> bytes:
        given = {**options, **sender_of(binding.app, options), "task_id": task_id, "queue": queue}
        return encode_member(member_of(binding.app, name, positional, named, given, immutable=True))

    def send(task_id: str, key: str) -> Any:
        outgoing = stamped({**options, "task_id": task_id}, function.ref, key)
        binding.send_task(name, args, kwargs, **outgoing)
        return task_id

    call = DeclaredCall(policy, name, runs, positional, named)
    task_id = function.call(Dispatch(call, binding.engine, queue, message, send))
    return _result(binding, {**options, "task_id": task_id})


def signature_fingerprint(binding: Binding, signature: Any) -> str:
    """The fingerprint of the start that publishing a signature would make."""
    tasks = list(signature.tasks) if isinstance(signature, _chain) else [signature]
    members = [
        Member(
            sig["task"],
            sig.get("args") or (),
            sig.get("kwargs") or {},
            task_id="",
            immutable=position == 0 or bool(sig.get("immutable")),
        )
        for position, sig in enumerate(tasks)
    ]
    return plan_fingerprint(binding.registry, members)
