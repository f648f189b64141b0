"""`rollback`: undo what workflows did, in reverse order, by a person's order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..changes import Given, changing_command, give, whole
from ..session import Session

if TYPE_CHECKING:
    from ...model import StepRow, WorkflowRow

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop rollback order-42 --by ann --why "the customer withdrew" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 rollback order-42 --by ann --why "the customer withdrew" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop rollback --task shop.charge --since 2h"),
)


@changing_command(
    "rollback",
    examples=EXAMPLES,
    task="every workflow of this name, or in which a step of this name happened or may have; not those that are undone already",
    since="workflows started",
)
def command(session: Session, given: Given) -> int:
    """Undo a workflow: its compensations run in reverse order, and what has not begun is cancelled.

    Refused behind a pivot that has succeeded, and while one may have happened. Steps in doubt are undone once `resolve` has
    said that they happened. ID is a workflow's id, a run's reference, or a task's id.
    """
    from ...reconcile.orders import is_undone, may_have_done, rollback

    def fits(run: WorkflowRow, steps: list[StepRow]) -> bool:
        return not is_undone(run) and (run.name == given.task or may_have_done(steps, given.task or ""))

    return give(session, given, rollback, whole(fits))
