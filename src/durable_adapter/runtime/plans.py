"""Plans: the rows and messages of a canvas as the journal keeps them, so that any process can send any member again.

None of an engine's own objects is stored, only plain data, encoded by the journal's codec. What cannot be encoded is refused at
the caller, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..codec import JSON, PickleCodec, fingerprint
from ..declare.policy import StepPolicy
from ..errors import CannotSendAgain, DeclarationError, NotReadable, UnserialisableValue, ValueUnreadable
from ..model import (
    NAME_LENGTH,
    TASK_ID_LENGTH,
    Mode,
    Shape,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
    is_storable,
    kind_of_member,
    member_key,
)
from .arguments import parameters_of
from .attributes import storable
from .marked import Marked, compensation_name
from .order import before
from .publication import Attributes, publication
from .values import decode, member_fingerprint

Arguments = tuple[list[Any], dict[str, Any]]


def plain(value: Any) -> Any:
    """Returns a value with an engine's subclasses of dict, list and str replaced by these types."""
    if isinstance(value, Mapping):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if type(value) is tuple:
        return tuple(plain(v) for v in value)
    if isinstance(value, str):
        return str.__str__(value)
    return value


class Member:
    """One member of a canvas before it is sent.

    Args:
        name: the task.
        args: its own arguments.
        kwargs: likewise.
        task_id: the engine's id of it.
        immutable: it does not get the result of the member before it.
        options: what else a later publication of it needs, as plain data.
        queue: the queue that it is sent to, if that is known.
        delay: microseconds by which it is delayed.
    """

    __slots__ = ("args", "delay", "immutable", "kwargs", "name", "options", "queue", "task_id")

    def __init__(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        task_id: str,
        immutable: bool,
        options: Mapping[str, Any] | None = None,
        queue: str | None = None,
        delay: int = 0,
    ) -> None:
        self.name = name
        self.args = list(args)
        self.kwargs = dict(kwargs)
        self.task_id = task_id
        self.immutable = immutable
        self.options = dict(options or {})
        self.queue = queue
        self.delay = delay

    def stored(self) -> dict[str, Any]:
        """Returns what the journal keeps of it."""
        return {
            "task": self.name,
            "id": self.task_id,
            "args": plain(self.args),
            "kwargs": plain(self.kwargs),
            "immutable": self.immutable,
            "options": self.options,
        }


def encode_member(member: Member) -> bytes:
    """Returns a member as bytes: a step's message, as its row has it.

    Raises:
        UnserialisableValue: an argument cannot be encoded; names the task and the place.
    """
    try:
        return JSON.encode(member.stored())
    except UnserialisableValue as error:
        raise UnserialisableValue(
            f"task {member.name} cannot be made durable with these arguments: {error} Nothing was sent."
        ) from error


def decode_plan(plan: bytes | None) -> list[dict[str, Any]]:
    """Returns the members of a plan of revision 0001. Since then members have their messages in their own rows."""
    if not plan:
        return []
    decoded: Any = JSON.decode(plan)
    members: list[dict[str, Any]] = decoded["members"]
    return members


def stored_member(run: WorkflowRow, step: StepRow) -> dict[str, Any]:
    """Returns a step's message, from its own row or from the plan of its canvas.

    Raises:
        CannotSendAgain: the journal has none.
    """
    if step.message is not None:
        found: Any = JSON.decode(step.message)
        return dict(found)
    members = decode_plan(run.plan)
    if step.position >= len(members):
        raise CannotSendAgain(f"step {step.name} of {run.ref} cannot be sent again: the journal has no message of it")
    return members[step.position]


def plan_fingerprint(marked: Marked, members: Sequence[Member]) -> str:
    """Returns the fingerprint of a plan: names and arguments, without the engine's ids, stamps and times.

    The first member's arguments are compared by parameter, so that `f(42)` and `f(order_id=42)` are the same start.
    """
    first = members[0]
    function = marked.function(first.name)
    named: Any = [plain(first.args), plain(first.kwargs)]
    if function is not None:
        named = plain(parameters_of(function, tuple(first.args), first.kwargs))
    return fingerprint([[first.name, named], *([m.name, plain(m.args), plain(m.kwargs), m.immutable] for m in members[1:])])


def rows_for(
    marked: Marked,
    members: Sequence[Member],
    *,
    engine: str,
    ref: str,
    namespace: str,
    workflow_id: str | None,
    parent: str | None,
    code_version: str | None,
    name: str | None = None,
) -> tuple[WorkflowRow, list[StepRow]]:
    """Returns the rows of a run that is about to start."""
    first = members[0]
    function = marked.workflows.get(first.name)
    carried = publication().attributes or Attributes()
    attributes = dict(carried.values)
    if function is not None and function.attributes:
        runs = marked.function(first.name)
        given = parameters_of(runs, tuple(first.args), first.kwargs) if runs is not None else {}
        attributes |= {a: storable(given.get(a)) for a in function.attributes if a in given}
    steps: list[StepRow] = []
    for member in members:  # one after the other: a chain
        steps.append(row_for(marked, ref, len(steps), member, after=[steps[-1].key] if steps else []))
    steps[-1].completes_run = True
    run = WorkflowRow(
        ref=ref,
        namespace=namespace,
        id=workflow_id if workflow_id is not None else f"{members[-1].task_id}.{ref[-8:]}",
        run=1,
        name=name or (function.name if function is not None else None) or first.name,
        shape=Shape.FUNCTION if function is not None else Shape.CANVAS,
        engine=engine,
        mode=Mode.ENFORCE,
        status=WorkflowStatus.RUNNING,
        declared=workflow_id is not None,
        fingerprint=plan_fingerprint(marked, members),
        parent=parent,
        code_version=code_version,
        attributes=attributes,
        amount=carried.amount or (function.amount if function is not None else None),
        open_steps=1,
    )
    return run, steps


def row_for(marked: Marked, ref: str, position: int, member: Member, *, after: Sequence[str]) -> StepRow:
    """Returns the row of a member of a canvas.

    Args:
        marked: the engine's marked tasks.
        ref: the run.
        position: its place in the plan.
        member: the member.
        after: the keys of the members that it comes after, all of them open.
    """
    is_marked = marked.is_marked(member.name)
    policy = marked.policy(member.name)
    function = member.name in marked.workflows
    options: dict[str, Any] = policy.stored() if is_marked and not function else {}
    compensation = compensation_name(policy) if is_marked else None
    if compensation is not None:
        options |= compensation_options(marked, policy)
    if member.delay:
        options["delay"] = member.delay
    _check_texts(member, compensation)
    return StepRow(
        ref=ref,
        key=member_key(position, member.name),
        position=position,
        after=list(after),
        pending=len(after),
        message=encode_member(member),
        fingerprint=member_fingerprint(member.args, member.kwargs, behind=bool(after) and not member.immutable),
        name=member.name,
        kind=kind_of_member(is_function=function, is_marked=is_marked),
        status=StepStatus.PLANNED,
        queue=member.queue,
        task_id=member.task_id,
        safety=policy.safety,
        options=options,
        compensation=compensation,
        pivot=policy.pivot and is_marked,
    )


def _check_texts(member: Member, compensation: str | None) -> None:
    """Refuses texts that the journal cannot keep or that are too long for it, while there is a caller to tell."""
    for what, given, most in (
        ("name", member.name, NAME_LENGTH),
        ("id", member.task_id, TASK_ID_LENGTH),
        ("queue's name", member.queue or "", NAME_LENGTH),
        ("compensation's name", compensation or "", NAME_LENGTH),
    ):
        if len(given) > most:
            raise DeclarationError(
                f"task {member.name:.80}: its {what} has {len(given)} characters, and the journal keeps {most}. Nothing was sent."
            )
        if not is_storable(given):
            raise DeclarationError(
                f"task {member.name:.80}: its {what} {given!r:.80} has a control character or half of a surrogate pair, and "
                "the journal keeps neither. Nothing was sent."
            )


def compensation_options(marked: Marked, policy: StepPolicy) -> dict[str, Any]:
    """Returns what a step's row keeps of its compensation; an empty dict where it has none."""
    name = compensation_name(policy)
    if name is None and policy.compensate is not None:
        raise DeclarationError(
            f"{policy.subject}: compensate={policy.compensate!r} is nothing that can be sent to a worker: give a task, its "
            "signature, its name, or a function of a module"
        )
    if name is None:
        return {}
    undo = marked.policy(name)
    return {"undo_safety": undo.safety.value, "undo_options": undo.stored(), **marked.compensation_call(policy.compensate)}


def recorded(marked: Marked, step: StepRow) -> Any:
    """Returns what a step returned. Pickle is read only where the step declares it by name.

    Raises:
        ValueUnreadable: it is pickle that is not declared, or this process cannot read it.
    """
    pickled = step.outcome is not None and step.outcome.codec.startswith(f"{PickleCodec.id}/")
    try:
        return decode(step.outcome, marked.declared(step.name) if pickled else None)
    except NotReadable as error:
        raise ValueUnreadable(f"the recorded value of step {step.name} of {step.ref} cannot be read here: {error}") from error


def arguments_of(marked: Marked, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> Arguments:
    """Returns the arguments that a step is called with: those recorded, or those planned after the result before it.

    Raises:
        CannotSendAgain: the result that it gets was not recorded.
        ValueUnreadable: as `recorded`.
    """
    if step.arguments is not None:
        try:
            given: Any = decode(step.arguments)
        except NotReadable as error:
            raise ValueUnreadable(f"the arguments of step {step.name} of {step.ref} cannot be read here: {error}") from error
        return list(given[0]), dict(given[1])
    member = stored_member(run, step)
    args, kwargs = list(member["args"]), dict(member["kwargs"])
    giver = step_before(step, steps)
    if giver is None or member.get("immutable", True):
        return args, kwargs
    if giver.outcome is None:
        raise CannotSendAgain(
            f"step {step.name} of {run.ref} cannot be sent again: the result of {giver.name} before it was not recorded"
        )
    return [recorded(marked, giver), *args], kwargs


def step_before(step: StepRow, steps: Sequence[StepRow]) -> StepRow | None:
    """Returns the member whose result a step gets; None where there is none, or more than one."""
    earlier = before(step, steps)
    return earlier[0] if len(earlier) == 1 else None


def undo_call(
    marked: Marked, run: WorkflowRow, target: StepRow, steps: Sequence[StepRow]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Returns how a compensation is called: the step's result and then its arguments, and the options of the call."""
    call = target.options.get("undo_call")
    if call is None:
        args, kwargs = arguments_of(marked, run, target, steps)
        return [recorded(marked, target), *args], kwargs, {}
    args = list(call["args"]) if call["immutable"] else [recorded(marked, target), *call["args"]]
    return args, dict(call["kwargs"]), dict(call["options"])
