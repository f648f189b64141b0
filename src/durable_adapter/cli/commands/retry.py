"""`retry`: go on with a workflow that failed, was stopped by drift, was cancelled, or came to rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..changes import Given, changing_command, give, whole
from ..session import Session

if TYPE_CHECKING:
    from ...model import StepRow, WorkflowRow

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop retry order-42 --by ann --why "the address is right now" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 retry order-42 --by ann --why "the address is right now" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop retry --task shop.ship --since 2h"),
)


@changing_command(
    "retry",
    examples=EXAMPLES,
    step=True,
    task="every workflow that failed at a step of this name, or whose function of this name was stopped",
    since="workflows started",
)
def command(session: Session, given: Given) -> int:
    """Go on with a workflow: failed steps run again, and what was cancelled behind them.

    A function that was stopped because its code no longer fitted runs again; a message that was lost is sent again, if the
    promises allow it; compensations that failed are tried again. A step whose effect may have happened is not run again
    before `resolve` has said that it did not, unless it is idempotent and inside its window.

    ID is a workflow's id, a run's reference, or a task's id. STEP names one failed step; otherwise all that made the
    workflow fail.
    """
    from ...model import StepStatus
    from ...reconcile.orders import is_stopped, retry

    def fits(_run: WorkflowRow, steps: list[StepRow]) -> bool:
        return any(s.name == given.task and (s.status is StepStatus.FAILED or is_stopped(s)) for s in steps)

    return give(session, given, retry, whole(fits))
