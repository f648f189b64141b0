"""Starting a run: its rows are committed, then its first message is sent; a declared id starts once (P5).

A start from inside a durable call is the same start each time that call runs. Inside a transactional step it is a part of
that step's own transaction, and its message leaves after the commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..current import FUNCTION, STEP
from ..declare.policy import template_fields
from ..errors import DeclarationError, JournalError, JournalUnreachable, SameIdOtherArguments, WorkflowPruned
from ..model import ID_LENGTH, Start, StepRow, WorkflowRow, derive, derive_ref, is_storable
from .alerts import explain
from .arguments import parameters_of
from .current_step import RunningStep
from .functions import FunctionRun
from .host import Host
from .marked import Marked
from .plans import Member, rows_for
from .publication import publication


class AlreadyStarted(BaseException):
    """Raised to end a publication whose workflow id was started before; never reaches the user."""

    def __init__(self, run: WorkflowRow) -> None:
        super().__init__(run.id)
        self.run = run


@dataclass(frozen=True, slots=True)
class Identity:
    """The run reference and task id of a start from inside a durable call: the same each time that call runs."""

    ref: str
    task_id: str


def check_id(workflow_id: Any) -> None:
    """Refuses what cannot be the id of a workflow."""
    _check_id(workflow_id, f"durable.start({workflow_id!r:.80}, ...)")


def _check_id(workflow_id: Any, who: str) -> None:
    if not isinstance(workflow_id, str) or not 0 < len(workflow_id) <= ID_LENGTH or not is_storable(workflow_id):
        raise DeclarationError(
            f"{who}: the id must be a text of 1 to {ID_LENGTH} characters, without control characters and halves of "
            "surrogate pairs. Nothing was sent."
        )


def current_step() -> RunningStep | None:
    """The step whose body runs in this context."""
    step = STEP.get()
    return step if isinstance(step, RunningStep) else None


def current_function() -> FunctionRun | None:
    """The workflow function that runs in this context, outside of any step."""
    function = FUNCTION.get()
    return function if isinstance(function, FunctionRun) and STEP.get() is None else None


def identity_here(name: str) -> Identity | None:
    """The identity of a start of *name* from inside a durable call; None outside of one."""
    step, function = current_step(), current_function()
    if step is not None:
        step.launched += 1
        return identity(step.ref, step.key, "launch", step.launched, name)
    if function is not None:
        return identity(function.ref, "launch", function.launch(), name)
    return None


def identity(*base: object) -> Identity:
    """The identity that follows from what a start belongs to."""
    return Identity(derive_ref(*base), derive(*base, "id"))


def template_id(marked: Marked, name: str, args: Any, kwargs: Any) -> str | None:
    """Returns the workflow id that a function's template makes of its arguments; None where it has no template."""
    policy = marked.workflows.get(name)
    function = marked.function(name)
    if policy is None or policy.id is None or function is None:
        return None
    found = template_fields(policy.id, parameters_of(function, tuple(args or ()), dict(kwargs or {})), f"workflow {name}")
    _check_id(found, f"workflow {name}: its template {policy.id!r} gives the id {found!r:.80}")
    return found


def dispatching(marked: Marked, name: str) -> FunctionRun | None:
    """Returns the workflow function that dispatches what is published here; None where it begins a run of its own.

    A workflow function always begins a run of its own, and so does a start under an id.
    """
    return None if publication().workflow_id is not None or name in marked.workflows else current_function()


def planned(host: Host, marked: Marked, members: Sequence[Member], *, ref: str) -> tuple[WorkflowRow, list[StepRow]]:
    """The rows of a run that is about to start: under the declared id, or under the one that its function's template gives.

    Args:
        host: this process.
        marked: the engine's marked tasks.
        members: what is to be sent, in its order.
        ref: the run's reference.
    """
    first, workflow_id = members[0], publication().workflow_id
    return rows_for(
        marked,
        members,
        engine=host.engine.name,
        ref=ref,
        namespace=host.journal.namespace,
        workflow_id=workflow_id if workflow_id is not None else template_id(marked, first.name, first.args, first.kwargs),
        parent=getattr(current_step() or current_function(), "ref", None),
        code_version=host.code_version,
    )


def start_run(
    host: Host,
    run: WorkflowRow,
    steps: Sequence[StepRow],
    *,
    send: Callable[[], Any],
    inside: bool,
    delay: int = 0,
) -> tuple[Start, Any]:
    """Commits a run and sends its first message.

    A start inside a durable call may have been made by an earlier attempt of that call: then nothing is sent.

    Args:
        host: this process.
        run: the run.
        steps: its planned rows.
        send: publishes the first message.
        inside: the start is made inside a durable call. There is no caller to tell, so it waits for a journal that is away, as
            that call's own writes do.
        delay: microseconds by which the message is put off.

    Returns:
        What became of the start, and what *send* returned: None inside a transactional step, whose messages leave later.

    Raises:
        JournalUnreachable: the journal is away; nothing was sent (P10).
        Exception: what *send* raised; the start is taken back.
    """
    journal, step = host.journal, current_step()
    outbox = step.outbox if step is not None else None
    connection = step.session().connection() if step is not None and outbox is not None else None
    if connection is not None and run.declared and journal.reads.latest(run.namespace, run.id) is not None:
        return Start.OTHER, None

    patient = host.patient if inside and connection is None else journal
    try:
        started = patient.starts.start(run, steps, connection=connection, delay=delay)
    except JournalUnreachable as error:
        raise JournalUnreachable(f"{error} Nothing was sent.") from error
    if not started or (inside and started is Start.THERE):
        return started, None
    if outbox is not None:
        outbox.append(send)
        return started, None
    try:
        return started, send()
    except Exception:
        # The caller is told that nothing was sent, so nothing may be sent later by the sweeper either.
        with contextlib.suppress(JournalUnreachable):
            journal.starts.forget(run.ref)
        raise


def started_before(host: Host, run: WorkflowRow) -> WorkflowRow:
    """Returns the run that already has the id of *run*: the first start counts, and the second sends nothing (P5).

    Raises:
        SameIdOtherArguments: it was started for other work.
        AlreadyStarted: it was started for this work, and this start declares the id.
    """
    reads = host.journal.reads
    existing = reads.latest(run.namespace, run.id) or reads.run(run.ref)
    assert existing is not None
    check_same_start(existing, run.id, run.fingerprint or "")
    if publication().workflow_id is not None:
        raise AlreadyStarted(existing)
    return existing


def found_by_id(host: Host, namespace: str, workflow_id: str, *, off: bool) -> WorkflowRow | None:
    """Returns the run that has an id already. While the plugin is off, a journal that is away does not prevent sending."""
    try:
        return host.journal.reads.latest(namespace, workflow_id)
    except JournalError as error:
        if off:
            return None
        if isinstance(error, JournalUnreachable):
            raise JournalUnreachable(f"{error} Nothing was sent.") from error
        raise


def check_same_start(existing: WorkflowRow, workflow_id: str, wanted: str) -> None:
    """Refuses an id that was started for other work, or so long ago that only its tombstone is left."""
    if existing.fingerprint == wanted and existing.pruned_at is None:
        return
    if existing.fingerprint == wanted:
        raise WorkflowPruned(
            f"workflow {workflow_id!r} was started before and ended as {existing.status}; its results were forgotten by the "
            "journal's retention, and an id starts once. Nothing was sent. Use another id for new work."
        )
    raise SameIdOtherArguments(
        f"workflow {workflow_id!r} was started before with other work: the first start has fingerprint "
        f"{(existing.fingerprint or '')[:8]}, this one {wanted[:8]} (task names and arguments, without ids and times). "
        f"Nothing was sent. Use another id, or look at the first with `{explain(existing, workflow_id)}`."
    )
