"""What happens when a task is published: a start is committed before it is sent; an attempt's own id is caught.

`app.send_task` is the one place that every real publication passes. Stamped messages (what Celery sends next in a chain)
go through untouched.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery._state import get_current_task
from celery.canvas import _chain
from celery.utils import uuid

from ..current import FUNCTION, STEP
from ..errors import UnknownStamp, UnsupportedCanvas
from ..model import STAMP, Start, StepStatus, new_ref, read_stamp, task_key
from ..runtime.deliveries import unmarked_ended
from ..runtime.functions import FunctionRun
from ..runtime.order import members_of
from ..runtime.plans import Member, encode_member, plan_fingerprint
from ..runtime.starting import (
    STARTING,
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
from .active import ACTIVE
from .branches import holds_marked, is_branch, refusal, refuse_member
from .plans import delay_of, member_of, original_run, queue_of, sender_of, stamped, stamped_chain, tail_members

if TYPE_CHECKING:
    from .binding import Binding

logger = logging.getLogger("durable_adapter")


class Publishing:
    """The hook on one app's `send_task`."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._app = binding.app
        self._before: Any = None
        #: Publishes in place of the broker's own producers: set by the test journal.
        self.producer: Any = None

    def original(self, *args: Any, **options: Any) -> Any:
        """`app.send_task` as it is without us; looked up late, so that whoever patches the class after us is heard."""
        if self.producer is not None:
            options = {**options, "producer": self.producer}
        if self._before is not None:
            return self._before(*args, **options)
        return type(self._app).send_task(self._app, *args, **options)

    def install(self) -> None:
        """Hooks `app.send_task`."""
        app = self._app
        self._before = app.__dict__.get("send_task")
        by_position = [
            parameter.name
            for parameter in inspect.signature(app.send_task).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]

        @functools.wraps(app.send_task)
        def send_task(*given: Any, **named: Any) -> Any:
            def as_given() -> Any:
                return self.original(*given, **named)

            options = dict(zip(by_position, given, strict=False)) | named
            if not self._binding.is_installed or len(options) < len(given) + len(named) or "name" not in options:
                return as_given()  # as ever; a call that does not fit the signature fails there as ever, too
            return self.send(options.pop("name"), options.pop("args", None), options.pop("kwargs", None), options, as_given)

        app.send_task = send_task

        def undo() -> None:
            if app.__dict__.get("send_task") is not send_task:
                return
            if self._before is not None:
                app.send_task = self._before
            else:
                del app.send_task

        self._binding.patched(
            "app.send_task",
            "commits a start before it is sent, and an attempt's end before it is retried",
            undo,
            guard="restates none of its defaults, and calls the class's own method as it is at that moment",
        )

    def send(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], as_given: Callable[[], Any] | None = None) -> Any:
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
            as_given = functools.partial(self.original, name, args, kwargs, **options)
        running = ACTIVE.get()
        if running is not None and options.get("task_id") == running.task_id:
            return self._caught(name, args, kwargs, options)
        binding = self._binding
        if STAMP in options or binding.is_off:
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
            return self._unmarked(name, args, kwargs, options, as_given)
        self._refuse_unsupported(name, options)
        if chain and current_function() is not None and STARTING.get() is None:
            raise UnsupportedCanvas(
                f"a workflow function publishes a chain that begins with {name}: its results would have other ids on every "
                "wake. Call the tasks one after the other, or start the chain under an id: durable.start('...', chain)."
            )
        function = dispatching(registry, name)
        if function is not None:
            return self._dispatch(function, name, args, kwargs, options)
        return self._start(name, args, kwargs, options)

    def is_durable(self, signature: Any, *, draw: bool = False) -> bool:
        """Whether a signature, or anything inside it, is a durable task; *draw* looks into generators as well."""
        self._binding.ensure_hooked()
        return holds_marked(self._binding, signature, draw=draw)

    def _unmarked(self, name: str, args: Any, kwargs: Any, options: dict[str, Any], as_given: Callable[[], Any]) -> Any:
        step, function = current_step(), current_function()
        if step is not None and step.outbox is not None:
            options["task_id"] = options.get("task_id") or uuid()
            step.outbox.append(lambda: self.original(name, args, kwargs, **options))
            return self._result(options)
        if function is not None:
            sent = function.send_once(name, lambda task_id: self.original(name, args, kwargs, **{**options, "task_id": task_id}))
            return self._result({**options, "task_id": sent}) if isinstance(sent, str) else sent
        return as_given()

    def _result(self, options: Mapping[str, Any]) -> Any:
        return (options.get("result_cls") or self._app.AsyncResult)(options["task_id"])

    def _caught(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
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
        running.send = lambda: self.original(name, args, kwargs, **options)
        return self._result(options)

    def _refuse_unsupported(self, name: str, options: Mapping[str, Any]) -> None:
        """Raises where durable tasks are published in a shape that is not durable yet."""
        if options.get("chord") is not None:
            raise refusal(f"the chord that task {name} belongs to")
        for sig in options.get("chain") or ():
            if is_branch(sig) and holds_marked(self._binding, sig, draw=True):
                raise refusal(f"a chain with a group in it, behind task {name}")
            if sig.get("task") in self._binding.registry.workflows:
                raise UnsupportedCanvas(
                    f"task {sig['task']} is a workflow function and stands in a chain behind {name}: a workflow function "
                    "is started by itself. Start it from the chain's last step, or make the chain its steps."
                )
        if name in self._binding.registry.workflows and options.get("chain"):
            raise UnsupportedCanvas(
                f"task {name} is a workflow function and begins a chain: a workflow function is started by itself. "
                "Call what follows at its end."
            )

    def _start(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """A new run: its plan is committed, then its first message is sent."""
        binding = self._binding
        inside = self._identity(name) if STARTING.get() is None else None
        ref = inside.ref if inside is not None else new_ref()
        options["task_id"] = options.get("task_id") or (inside.task_id if inside is not None else uuid())
        members = [
            member_of(self._app, name, args, kwargs, options | sender_of(self._app, options), immutable=True),
            *tail_members(self._app, options.get("chain")),
        ]
        run, steps = planned(binding.host, binding.registry, members, ref=ref)
        outgoing = stamped(options, ref, steps[0].key)
        outgoing["chain"] = stamped_chain(options.get("chain"), ref, [step.key for step in steps[1:]])

        def send() -> Any:
            return self.original(name, args, kwargs, **outgoing)

        started, result = start_run(binding.host, run, steps, send=send, inside=inside is not None, delay=members[0].delay)
        if started is Start.THERE and inside is not None:
            if self._is_as_before(ref, outgoing["chain"]):
                send()
            return self._result(options)
        if started:
            return self._result(options) if result is None else result
        existing = started_before(binding.host, run)
        first = members_of(binding.journal.reads.outline(existing.ref))[0]
        return self._result({**options, "task_id": first.task_id})

    def _is_as_before(self, ref: str, chain: list[Any] | None) -> bool:
        """Gives a chain the ids that an earlier attempt gave it: of those that it has now the journal knows nothing.

        Returns:
            Whether it is to be sent once more: the first of it did not begin, so that its message may be missing.
        """
        reads = self._binding.host.patient.reads
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

    def _identity(self, name: str) -> Identity | None:
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

    def _dispatch(self, function: FunctionRun, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """A step that a workflow function sends to a worker of its own."""
        policy = self._binding.registry.policy(name)
        positional, named = tuple(args or ()), dict(kwargs or {})
        queue = queue_of(self._app, name, args, kwargs, options)
        runs = original_run(self._app, name)

        def message(task_id: str, _key: str) -> bytes:
            given = {**options, **sender_of(self._app, options), "task_id": task_id, "queue": queue}
            return encode_member(member_of(self._app, name, positional, named, given, immutable=True))

        def send(task_id: str, key: str) -> Any:
            outgoing = stamped({**options, "task_id": task_id}, function.ref, key)
            self.original(name, args, kwargs, **outgoing)
            return task_id

        task_id = function.dispatch(policy, name, runs, queue, positional, named, message, send, self._binding.engine)
        return self._result({**options, "task_id": task_id})

    def unmarked_ended(self, task: Any, result: Any = None, error: BaseException | None = None) -> None:
        """An unmarked member of a durable chain ended: its end is recorded."""
        request = getattr(task, "request", None)
        place = place_of(request)
        name = getattr(task, "name", "")
        if place is None or request is None or self._binding.registry.is_marked(name):
            return
        unmarked_ended(self._binding.host, *place, name, value=result, error=error)


def place_of(request: Any) -> tuple[str, str] | None:
    """The run and key of a delivery: by its stamp, or because it was adopted; None where it belongs to no run."""
    if request is None:
        return None
    try:
        stamp = read_stamp((getattr(request, "stamps", None) or {}).get(STAMP))
    except UnknownStamp:
        return None  # it was refused, and ran nothing
    if stamp is None:
        adopted: tuple[str, str] | None = getattr(request, "__dict__", {}).get("_durable_place")
        return adopted
    return stamp[0], stamp[1] or task_key(request.id, request.task or "")


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
