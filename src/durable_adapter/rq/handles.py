"""Workflows under the ids that the business knows, and recorded results, long after RQ forgot them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rq import get_current_job
from rq.job import Job

from ..current import FUNCTION, STEP
from ..errors import DeclarationError, UnknownWorkflow, UnsupportedCanvas
from ..model import StepRow, StepStatus
from ..runtime.handles import Found, find
from ..runtime.plans import recorded
from ..runtime.publication import publishing
from ..runtime.starting import AlreadyStarted, check_id, found_by_id
from ..runtime.values import read_failure
from .binding import Binding
from .identity import place_of
from .installing import installed
from .jobs import serializer_kept
from .joining import first_job_of, mark_sent_before
from .stamps import stamp_of

if TYPE_CHECKING:
    from rq import Queue


def start(workflow_id: str, queue: Queue, func: Any, *args: Any, **kwargs: Any) -> Job:
    """Starts a workflow under an id that the business knows; the same id twice gives one run (P5).

    Args:
        workflow_id: such as `order-42`; at most 200 characters.
        queue: where its first job goes.
        func: a function that is marked, or its dotted name.
        *args: what `queue.enqueue(func, ...)` takes.
        **kwargs: likewise.

    Returns:
        The job. A second start sends nothing and returns the first one's.

    Raises:
        SameIdOtherArguments: the id was started before with another function or other arguments.
        JournalUnreachable: the journal is away; nothing was sent (P10).
        DeclarationError: the function is not durable, or the id is not usable.
        UnsupportedCanvas: the queue puts jobs off (django-rq inside a transaction): the id would be lost.
    """
    check_id(workflow_id)
    here = installed()
    here.seen(queue.connection, queue.serializer)
    name = func if isinstance(func, str) else f"{func.__module__}.{func.__qualname__}"
    if not here.is_off and not here.registry.learn(name, func):
        raise DeclarationError(
            f"durable_adapter.rq.start({workflow_id!r}, ...): {name} is not durable, or cannot be seen to be from here. Mark "
            "it with @durable.step or @durable.workflow, and import it where it is started. Nothing was sent."
        )
    existing = found_by_id(here.host, here.settings.namespace, workflow_id, off=True) if here.is_off else None
    if existing is None:
        try:
            with publishing(workflow_id=workflow_id):
                sent: Any = queue.enqueue(func, *args, **kwargs)
        except AlreadyStarted as before:
            existing = before.run
        else:
            if sent is None and not here.is_off:
                raise UnsupportedCanvas(
                    f"durable_adapter.rq.start({workflow_id!r}, ...): {type(queue).__name__} puts jobs off and gave none, and "
                    "what it sends later would not have the id. With django-rq, call start() in transaction.on_commit(). Do not "
                    "catch this inside of the transaction: it is the roll-back that takes the job back."
                )
            return sent  # type: ignore[no-any-return]
    return mark_sent_before(first_job_of(here, existing, queue.serializer, queue.connection))


@dataclass(frozen=True)
class Handle(Found):
    """One workflow, found again by its id."""

    binding: Binding

    def job(self) -> Job:
        """Its first job, as Redis has it; where Redis has none, one that knows its id alone."""
        first = next((s for s in self.steps() if s.position == 0), None)
        default = self.binding.serializer
        return first_job_of(self.binding, self.run, serializer_kept(first.options, default) if first is not None else default)


def handle(workflow_id: str) -> Handle:
    """Finds a workflow by its id.

    Raises:
        UnknownWorkflow: the journal has none under that id.
    """
    here = installed()
    return Handle(here.journal, find(here.journal, workflow_id), here)


def result_of(job: Job | str) -> Any:
    """The recorded result of a durable job, however long ago RQ's own `result_ttl` has passed.

    Args:
        job: a job, or inside a job the name of a function whose job it depends on (`"shop.charge"` or `"charge"`).

    Raises:
        UnknownWorkflow: the journal has no such result yet.
        Exception: what the job failed with.
    """
    here = installed()
    row: StepRow | None = None
    if isinstance(job, Job):
        row = here.journal.claims.get(*place_of(job)) if stamp_of(job) is not None else None
    else:
        current, running = get_current_job(), STEP.get() or FUNCTION.get()
        stamp = stamp_of(current) if current is not None else None
        if running is not None or stamp is not None:
            steps = here.journal.reads.steps(running.ref if running is not None else stamp[0])  # type: ignore[index]
            row = next((s for s in reversed(steps) if job in (s.name, s.name.rpartition(".")[2], s.task_id)), None)
    if row is None or row.status not in (StepStatus.SUCCEEDED, StepStatus.FAILED):
        raise UnknownWorkflow(f"the journal has no result of {job!r}: it is not durable, or has not ended")
    if row.status is StepStatus.FAILED:
        raise read_failure(row.error)
    return recorded(here.registry, row)
