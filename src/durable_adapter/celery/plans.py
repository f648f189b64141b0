"""A Celery canvas as the journal keeps it, and the messages that are made of it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature
from celery.utils.time import maybe_iso8601

from ..codec import JSON
from ..errors import MessageExpired, UnknownStamp
from ..model import SECOND, STAMP, StepRow, StepStatus, WorkflowRow, make_stamp, read_stamp, task_key
from ..runtime.order import members_of
from ..runtime.plans import Member, arguments_of, plain, step_before, stored_member, undo_call
from .tasks import task_named

if TYPE_CHECKING:
    from celery import Celery

    from ..runtime.marked import Marked

#: Set on the request of an adopted delivery: its run and its key.
PLACE = "_durable_place"
#: Properties of a message that a publication may name, and that Celery hands on as they are.
PROPERTIES = ("delivery_mode", "message_id", "app_id", "user_id", "type")
#: Kept beside the options of a member that is a group or a chord: which of the two. It is no option of a publication.
CANVAS = "subtask_type"
#: The canvases that are no message of their own, so that nobody hears of their end.
NO_MESSAGE = frozenset(["celery.group", "celery.chord"])

#: Options of a publication that a later one needs as well. Connections, producers and the like are not among them.
KEPT = frozenset(
    [
        "queue",
        "exchange",
        "routing_key",
        "priority",
        "serializer",
        "compression",
        "ignore_result",
        "link",
        "link_error",
        "time_limit",
        "soft_time_limit",
        "shadow",
        "expires",
        "headers",
        "reply_to",
        "root_id",
        "parent_id",
        "group_id",
        "group_index",
        "argsrepr",
        "kwargsrepr",
        "chord",
        "replaced_task_nesting",
        "stamped_headers",
        "correlation_id",
        *PROPERTIES,
        CANVAS,
    ]
)

#: Options kept as well of a member that is sent later: they say how long after that it is to begin.
_LATER = frozenset(["countdown", "eta"])


def member_of(
    app: Celery, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], *, immutable: bool, later: bool = False
) -> Member:
    """A member of a canvas, from what its publication is given; its task id is among the options.

    Args:
        app: the app.
        name: the task.
        args: its own arguments.
        kwargs: likewise.
        options: its options.
        immutable: it is not given the result of the member before it.
        later: it is sent once the member before it has ended: what its options count, they count from then.
    """
    kept = stamps_of(options) | (KEPT | _LATER if later else KEPT)
    return Member(
        name,
        args or (),
        kwargs or {},
        task_id=options["task_id"],
        immutable=immutable,
        options={k: plain(_storable(k, v, later=later)) for k, v in options.items() if k in kept and v is not None},
        queue=queue_of(app, name, args, kwargs, options),
        delay=delay_of(options),
    )


def stamps_of(options: Mapping[str, Any]) -> frozenset[str]:
    """The names of the stamps that a publication carries; whoever sends it adds ours."""
    return frozenset(str(name) for name in options.get("stamped_headers") or ()) - {STAMP}


def sender_of(app: Celery, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what Celery adds to a message about the task or thread that sends it: whoever sends it again is another one."""
    added: dict[str, Any] = {} if options.get("reply_to") else {"reply_to": app.thread_oid}
    parent = app.current_worker_task
    if parent is None:
        return added
    request = parent.request
    if not options.get("root_id"):
        added["root_id"] = request.root_id or request.id
    if not options.get("parent_id"):
        added["parent_id"] = request.id
    if app.conf.task_inherit_parent_priority and options.get("priority") is None:
        added["priority"] = (request.delivery_info or {}).get("priority")
    return added


def _storable(option: str, value: Any, *, later: bool) -> Any:
    if option in ("queue", "exchange") and hasattr(value, "name"):
        return value.name
    if option == "stamped_headers":
        return [name for name in value if name != STAMP]
    if option == "expires" and isinstance(value, (int, float)):
        return value if later else (datetime.now(UTC) + timedelta(seconds=value)).isoformat()
    if option in ("expires", "eta") and isinstance(value, (str, datetime)):
        return _moment(value).isoformat()
    return value


def _moment(value: str | datetime) -> datetime:
    """A time as an option has it; one without a zone is taken as `delay_of` takes it."""
    moment: datetime = maybe_iso8601(value)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def tail_members(app: Celery, chain: Sequence[Any] | None) -> list[Member]:
    """The members that follow the one that is sent now, in their order; Celery keeps them in reverse."""
    return [
        member_of(
            app,
            sig["task"],
            sig.get("args"),
            sig.get("kwargs"),
            {**(sig.get("options") or {}), CANVAS: sig.get("subtask_type")},
            immutable=bool(sig.get("immutable")),
            later=True,
        )
        for sig in reversed(chain or ())
    ]


def signature_call(given: Any) -> dict[str, Any]:
    """Returns how a compensation is to be called, where it was declared as a signature."""
    if not isinstance(given, Signature):
        return {}
    return {
        "undo_call": plain(
            {"args": list(given.args or ()), "kwargs": dict(given.kwargs or {}), "immutable": bool(given.immutable),
             "options": {k: v for k, v in given.options.items() if k in KEPT}}
        )
    }  # fmt: skip


def queue_of(app: Celery, name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str | None:
    """The queue that a message goes to, where that can be told without asking the broker."""
    queue = options.get("queue")
    if queue is not None:
        return str(getattr(queue, "name", queue))
    task = task_named(app, name)
    if not app.conf.task_routes:
        return str(getattr(task, "queue", None) or app.conf.task_default_queue)
    routed = app.amqp.router.route({}, name, tuple(args or ()), dict(kwargs or {}), task)
    found = routed.get("queue")
    return str(getattr(found, "name", found)) if found is not None else None


def place_of(request: Any) -> tuple[str, str] | None:
    """The run and key of a delivery: by its stamp, or because it was adopted; None where it belongs to no run."""
    if request is None:
        return None
    try:
        stamp = read_stamp((getattr(request, "stamps", None) or {}).get(STAMP))
    except UnknownStamp:
        return None  # it was refused, and ran nothing
    if stamp is None:
        adopted: tuple[str, str] | None = getattr(request, "__dict__", {}).get(PLACE)
        return adopted
    return stamp[0], stamp[1] or task_key(request.id, request.task or "")


def original_run(app: Celery, name: str) -> Any:
    """A task's own function, below our wrapper."""
    run = task_named(app, name).run
    return getattr(run, "__wrapped__", run)


def stamped(options: dict[str, Any], ref: str, key: str | None) -> dict[str, Any]:
    """Options with the run's stamp added; other stamps are kept."""
    headers = [h for h in options.get("stamped_headers") or [] if h != STAMP]
    return {**options, "stamped_headers": [*headers, STAMP], STAMP: make_stamp(ref, key)}


def stamped_chain(chain: Sequence[Any] | None, ref: str, keys: Sequence[str]) -> list[Any] | None:
    """The tail of a chain with every member stamped, as copies: the user's own signatures stay as they are.

    Args:
        chain: the tail, in reverse, as Celery keeps it.
        ref: the run.
        keys: the members' keys, in their order.
    """
    if not chain:
        return None
    copies = []
    for sig, key in zip(chain, reversed(keys), strict=True):
        copy = Signature.from_dict(dict(sig)) if not isinstance(sig, Signature) else sig.clone()
        copy["options"] = stamped(dict(sig.get("options") or {}), ref, key)
        copies.append(copy)
    return copies


def delay_of(options: Mapping[str, Any]) -> int:
    """The microseconds by which a publication is put off by its countdown or ETA."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown:
        return max(0, int(float(countdown) * SECOND))
    if not eta:
        return 0
    moment = maybe_iso8601(eta)
    now = datetime.now(moment.tzinfo or UTC)
    if moment.tzinfo is None:
        now = now.replace(tzinfo=None)
    return max(0, int((moment - now).total_seconds() * SECOND))


def message_for(
    marked: Marked, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]
) -> tuple[str, list[Any], dict[str, Any], dict[str, Any]]:
    """Returns what sends a canvas member again: task, arguments and options, with the rest of the chain behind it.

    Raises:
        MessageExpired: it never began, and its message was to be discarded by now.
    """
    member = stored_member(run, step)
    args, kwargs = arguments_of(marked, run, step, steps)
    options = stamped({k: v for k, v in member["options"].items() if k not in _LATER | {CANVAS}}, run.ref, step.key)
    _set_expiry(options, run, step, steps)
    options["task_id"] = member["id"]
    options["retries"] = step.attempt
    tail, begun = [], {s.task_id for s in steps if _has_begun(s, steps)}
    for row in reversed(_following(step, steps)):
        later = stored_member(run, row)
        sig = Signature(later["task"], tuple(later["args"]), dict(later["kwargs"]), immutable=later["immutable"])
        given = {**later["options"], "task_id": later["id"]}
        if later["id"] in begun:
            given.pop("expires", None)
        sig["subtask_type"] = given.pop(CANVAS, None)
        sig["options"] = stamped(given, run.ref, row.key)
        tail.append(sig)
    if tail:
        options["chain"] = tail
    before = step_before(step, steps)
    if before is not None:
        options["parent_id"] = before.task_id
        options["root_id"] = members_of(steps)[0].task_id
    return member["task"], args, kwargs, options


def _following(step: StepRow, steps: Sequence[StepRow]) -> list[StepRow]:
    """The members of a chain behind a step, in their order."""
    members, found = members_of(steps), [step.key]
    for member in members:
        if any(key in found for key in member.after or ()):
            found.append(member.key)
    return [s for s in members if s.key in found[1:]]


def dispatched_message(
    run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]
) -> tuple[str, list[Any], dict[str, Any], dict[str, Any]]:
    """Returns what sends a step again that a function dispatched.

    Raises:
        MessageExpired: as `message_for`.
    """
    stored: Any = JSON.decode(step.message or b"null")
    options = stamped(dict(stored["options"]), run.ref, step.key)
    _set_expiry(options, run, step, steps)
    options["task_id"] = step.task_id
    options["retries"] = step.attempt
    return step.name, list(stored["args"]), dict(stored["kwargs"]), options


def _set_expiry(options: dict[str, Any], run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> None:
    """Until when a worker may begin a step. That is said of its first attempt: none after that is to be discarded.

    Raises:
        MessageExpired: that time has passed.
    """
    expires = options.pop("expires", None)
    if expires is None or not step.kind.marked or _has_begun(step, steps):
        return  # a person's order to send an unmarked member is not bound by it either
    if isinstance(expires, (int, float)):
        before = step_before(step, steps)
        since = (before.ended_at if before is not None else None) or run.created_at
        until = datetime.fromtimestamp(since / SECOND, UTC) + timedelta(seconds=expires)
    else:
        until = _moment(expires)
    if until <= datetime.now(UTC):
        raise MessageExpired(f"step {step.name} of {run.ref} never began: its message expired at {until:%Y-%m-%d %H:%M:%S} UTC")
    options["expires"] = until.isoformat()


def _has_begun(step: StepRow, steps: Sequence[StepRow]) -> bool:
    """Whether an attempt of a step began, as far as the journal knows. A function has, where it has called anything."""
    called = step.kind.makes_calls and any(not s.kind.makes_calls for s in steps)
    return step.attempt > 0 or step.status is not StepStatus.PLANNED or called


def undo_message(
    marked: Marked, run: WorkflowRow, undo: StepRow, target: StepRow, steps: Sequence[StepRow]
) -> tuple[str, list[Any], dict[str, Any], dict[str, Any]]:
    """Returns what sends a compensation: it is called as Celery calls a link."""
    args, kwargs, options = undo_call(marked, run, target, steps)
    options = stamped({k: v for k, v in options.items() if k != "expires"}, run.ref, undo.key)  # what is owed does not expire
    options["task_id"] = undo.task_id
    options["retries"] = undo.attempt
    return undo.name, args, kwargs, options
