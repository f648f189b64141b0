"""Workflows under the ids that the business knows: `start()` begins one, `handle()` finds it again.

A declared id starts one run, however often it is started (P5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from ..errors import DeclarationError
from ..model import WorkflowRow
from ..runtime.handles import Found, find
from ..runtime.order import members_of
from ..runtime.publication import publishing
from ..runtime.starting import AlreadyStarted, check_id, check_same_start, found_by_id
from .binding import Binding
from .installing import binding_of
from .publishing import is_durable, signature_fingerprint

if TYPE_CHECKING:
    from celery import Celery


def start(workflow_id: str, signature: Signature, *, app: Celery | None = None) -> Any:
    """Starts a workflow under an id that the business knows; the same id twice gives one run (P5).

    Args:
        workflow_id: such as `order-42`; at most 200 characters.
        signature: a task's signature or a chain of them.
        app: the Celery app; the signature's own where it is not given.

    Returns:
        The usual `AsyncResult`. A second start sends nothing and returns the first one's.

    Raises:
        SameIdOtherArguments: the id was started before with other tasks or arguments.
        UnsupportedCanvas: the signature cannot be kept durable (groups and chords, for now).
        JournalUnreachable: the journal is away; nothing was sent (P10).
        DeclarationError: nothing in the signature is durable, or the id is not usable.
    """
    check_id(workflow_id)
    if not isinstance(signature, Signature):
        raise DeclarationError(
            f"durable.start({workflow_id!r}, {signature!r}): give a signature, such as charge.s(42) or chain(...), not a "
            "result or a task"
        )
    binding = binding_of(app or signature.app)
    if not binding.is_off and not is_durable(binding, signature, draw=True):
        raise DeclarationError(
            f"durable.start({workflow_id!r}, ...): no task in this signature is durable. Mark the ones with effects with "
            "@durable.step. Nothing was sent."
        )
    with publishing(workflow_id=workflow_id):
        existing = found_by_id(binding.host, binding.settings.namespace, workflow_id, off=binding.is_off)
        try:
            result = signature.apply_async() if existing is None else None
        except AlreadyStarted as before:
            existing, result = before.run, None
    if existing is None:
        return result
    check_same_start(existing, workflow_id, signature_fingerprint(binding, signature))
    return result_of(binding, existing)


def result_of(binding: Binding, run: WorkflowRow) -> Any:
    """The result object of a run's last task, with its chain's results behind it, under the ids of the first start."""
    result = None
    for member in members_of(binding.journal.reads.outline(run.ref)):
        following = binding.app.AsyncResult(member.task_id)
        following.parent = result
        result = following
    return result


@dataclass(frozen=True)
class Handle(Found):
    """One workflow, found again by its id."""

    binding: Binding

    def result(self) -> Any:
        """The `AsyncResult` of its last task."""
        return result_of(self.binding, self.run)


def handle(workflow_id: str, *, app: Celery | None = None) -> Handle:
    """Finds a workflow by its id.

    Raises:
        UnknownWorkflow: the journal has none under that id.
    """
    binding = binding_of(app)
    return Handle(binding.journal, find(binding.journal, workflow_id), binding)
