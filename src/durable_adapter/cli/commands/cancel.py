"""`cancel`: end workflows without undoing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..changes import Given, changing_command, give, whole
from ..session import Session

if TYPE_CHECKING:
    from ...model import StepRow, WorkflowRow

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop cancel order-42 --by ann --why "a test order" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 cancel order-42 --by ann --why "a test order" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop cancel --task shop.nightly --since 2h"),
)


@changing_command(
    "cancel",
    examples=EXAMPLES,
    task="unfinished workflows of this name, or with an open step of this name",
    since="workflows started",
)
def command(session: Session, given: Given) -> int:
    """End a workflow: what has not begun never will. Undoes nothing; `rollback` does that.

    What is running, in doubt or held stays to be settled, and is named. ID is a workflow's id, a run's reference, or a
    task's id.
    """
    from ...model import OPEN_STEPS
    from ...reconcile.orders import cancel, is_cancellable

    def fits(run: WorkflowRow, steps: list[StepRow]) -> bool:
        named = run.name == given.task or any(s.name == given.task and s.status in OPEN_STEPS for s in steps)
        return named and is_cancellable(run)

    return give(session, given, cancel, whole(fits))
