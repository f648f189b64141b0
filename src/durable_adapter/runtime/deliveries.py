"""Deliveries: refusing a message, adopting one that carries no run, waiting for its turn, and the end of an unmarked task.

Each binding reads its own messages. What follows from a message is the same for all bindings, and is here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Deferred, JournalUnreachable, UnserialisableValue
from ..journal import Ended
from ..model import ALLOW_FAILURE, SECOND, Event, StepRow, StepStatus, WorkflowRow
from .calls import awaited as awaited
from .order import OUTSIDE, unmet
from .plans import Member, rows_for
from .steps import released
from .values import encode_for, write_failure

if TYPE_CHECKING:
    from .host import Host
    from .marked import Marked

logger = logging.getLogger("durable_adapter")


def refused(host: Host, name: str, why: str) -> Deferred:
    """Reports a message that does not fit the journal. Returns what is to be raised instead of running it."""
    host.patient.events.note(Event.REFUSED, who=host.row, why=why, name=name, namespace=host.journal.namespace)
    told = f"The message was not run: {why}. See: durable-adapter reconcile"
    logger.error("message_refused task=%s msg=%r", name, told)
    return Deferred(why)


class BeganPlain(Exception):
    """A delivery that began plain, or without the plugin, before its task was enforced: it ends as it began."""


def adopted(
    host: Host,
    marked: Marked,
    members: Sequence[Member],
    *,
    ref: str,
    key: str,
    code_version: str | None,
    again: str | None = None,
    plain_until: float = 0.0,
) -> tuple[WorkflowRow, list[StepRow]]:
    """Returns the rows of a run for a message that carries none: its producer has no plugin, or it repeats.

    Args:
        host: this process.
        marked: the engine's marked tasks.
        members: the message, and what follows it.
        ref: the run's reference, derived from the message: the same for each delivery of it.
        key: the key of its first step.
        code_version: the user's own version of the code.
        again: why it may have been run before, in words: then it is in doubt. None where it was not.
        plain_until: for so many seconds after the journal first recorded its task as enforced, a message that may have been run
            before is run plain.

    Raises:
        BeganPlain: it must be run plain.
    """
    name = members[0].name
    if again is not None and host.beginning.enforced.since(name) + int(plain_until * SECOND) > host.beginning.time():
        why = f"{again}, and {name} is enforced since less than plain_until={plain_until:g} s: it runs as before"
        host.beginning.events.note(Event.RAN_PLAIN, who=host.row, why=why, name=name, namespace=host.journal.namespace)
        logger.warning("ran_plain task=%s msg=%r", name, f"Its message came again unstamped, so it began plain: {why}.")
        raise BeganPlain(name)
    run, steps = rows_for(
        marked,
        members,
        engine=host.engine.name,
        ref=ref,
        namespace=host.journal.namespace,
        workflow_id=None,
        parent=None,
        code_version=code_version,
    )
    first = steps[0]
    first.key = key
    if again is not None and first.is_guarded:
        first.status = StepStatus.IN_DOUBT
        first.attempt = 1
        first.doubt = again
    return run, steps


def come_after(host: Host, ref: str, key: str, is_forgotten: Callable[[StepRow], bool]) -> None:
    """Makes sure that the steps which a task comes after are done in the journal. An engine may take a job it has lost for done.

    Args:
        host: this process.
        ref: the run.
        key: the task's step.
        is_forgotten: whether the engine has nothing of a step.

    Raises:
        Deferred: one is not done; the sweeper sends the task later.
    """
    for own, row in unmet(host.beginning, ref, key):
        if not row.kind.marked and row.status is StepStatus.PLANNED:
            gone = is_forgotten(row) and bool(row.options.get(OUTSIDE))  # nothing is left of one whose result is not kept
            outcome = host.engine.outcome(row)
            if gone or (outcome is not None and outcome.succeeded):
                unmarked_ended(host, row.ref, row.key, row.name, value=outcome.value if outcome is not None else None)
                continue
            if outcome is not None and own.options.get(ALLOW_FAILURE):
                continue
        raise Deferred(f"it comes after {row.name} of run {row.ref}, which is {row.status} in the journal")


def unmarked_ended(host: Host, ref: str, key: str, name: str, *, value: Any = None, error: BaseException | None = None) -> None:
    """Records the end of an unmarked member, and begins what its failure decides.

    It does not wait for a journal that is away, since the task is done in any case. A run whose unmarked member has no recorded
    end is reported as stopped at an unmarked task.

    Args:
        host: this process.
        ref: the run.
        key: the member.
        name: its task.
        value: what it returned; recorded if it can be.
        error: what it raised, if it is not tried again.
    """
    try:
        outcome = encode_for(host.journal, value) if error is None else None
    except (UnserialisableValue, JournalUnreachable):
        outcome = None
    failed = write_failure(error) if error is not None else None
    journal = host.journal
    try:
        if journal.members.record_unmarked(ref, key, outcome, failed=failed) and failed is not None:
            released(host, ref, name, Ended(True, journal.undo.decision(ref)))
    except JournalUnreachable as away:
        logger.warning("end_not_recorded run=%s step=%s msg=%r", ref, key, f"The end of unmarked task {name}: {away}")
