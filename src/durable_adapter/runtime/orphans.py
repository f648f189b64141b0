"""Orphans: tasks that an engine keeps in its store and nobody runs any more. What becomes of each is decided from the rows.

A binding finds such tasks and carries out what is decided here. Keeps P6.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..model import ALSO_AFTER, Attention, StepRow, StepStatus
from .order import is_done

if TYPE_CHECKING:
    from ..journal import Journal

#: How often an engine gets a task back whose step has succeeded, and the seconds before the second time. Each further delay is
#: twice the last.
HAND_BACKS, HAND_BACK_AFTER = 3, 10.0

#: The statuses of a step whose task need not wait: it returns what is recorded.
OVER = (StepStatus.SUCCEEDED, StepStatus.FAILED)
#: The statuses of a step that never runs: its task would wait for ever.
GIVEN_UP = (StepStatus.CANCELLED, StepStatus.UNDONE)


class Orphan(enum.Enum):
    """What is done about a task that nobody runs."""

    #: Its message is sent again: it returns its memo, or its doubt is settled.
    SENT_AGAIN = "sent_again"
    #: It is cancelled.
    CANCELLED = "cancelled"
    #: Nothing changes.
    LEFT = "left"


def of_dead_worker(step: StepRow | None) -> Orphan:
    """Decides on a task whose worker had started it and is dead in the journal."""
    return Orphan.SENT_AGAIN if step is not None and step.kind.marked else Orphan.LEFT


def put_aside(step: StepRow | None, steps: Mapping[tuple[str, str], StepRow]) -> Orphan:
    """Decides on a task whose delivery was put aside without a time at which it is sent again.

    Args:
        step: its step.
        steps: the steps that were read, by run and key.
    """
    if step is None or step.status in GIVEN_UP:
        return Orphan.CANCELLED
    return Orphan.SENT_AGAIN if step.status in OVER or _may_begin(step, steps) else Orphan.LEFT


def _may_begin(step: StepRow, steps: Mapping[tuple[str, str], StepRow]) -> bool:
    """Whether a step that was delivered too early may begin now. Of steps of other runs only the sweeper knows."""
    after = step.after or ()
    if step.status is not StepStatus.PLANNED or not after or step.options.get(ALSO_AFTER):
        return False
    before = [steps.get((step.ref, key)) for key in after]
    return all(row is not None and is_done(step, row) for row in before)


def is_success(step: StepRow | None) -> bool:
    """Whether a step has succeeded whose engine calls it failed. Then the engine gets its task back."""
    return step is not None and step.kind.marked and step.status is StepStatus.SUCCEEDED


def hands_back(journal: Journal, step: StepRow, tried: int, *, failed_at: float, now: float) -> bool | None:
    """Decides whether an engine gets a task again whose step has succeeded and which the engine calls failed.

    As a memo hit the task succeeds for the engine too, unless its success callback fails, or kills its process, each time.
    After some tries it stays failed and is shown to people, and the tasks that depend on it are sent without it.

    Args:
        journal: the journal.
        step: the step.
        tried: how often it was asked before. The caller counts each answer but None.
        failed_at: when the engine last called it failed, in seconds since 1970.
        now: the time, likewise.

    Returns:
        None where it is not time yet.
    """
    if tried >= HAND_BACKS:
        if tried == HAND_BACKS:  # only once: a person may have acknowledged it since
            journal.doubts.raise_attention(
                step.ref, step.key, Attention.CALLBACK, "the step succeeded, and its job fails behind it"
            )
        return False
    if tried and now < failed_at + HAND_BACK_AFTER * 2 ** (tried - 1):
        return None
    return True
