"""`cancel`: end workflows without undoing anything."""

from __future__ import annotations

from functools import partial

import click

from ..changing import carry_out, check_bulk, gather, started_since
from ..options import When, bulk, changing, check_changing
from ..session import Session, durable_command

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop cancel order-42 --by ann --why "a test order" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 cancel order-42 --by ann --why "a test order" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop cancel --task shop.nightly --since 2h"),
)


@durable_command("cancel", examples=EXAMPLES)
@click.argument("id", required=False)
@bulk(task="unfinished workflows of this name, or with an open step of this name", since="workflows started")
@changing
def command(
    session: Session,
    id: str | None,
    task: str | None,
    since: When | None,
    limit: int,
    apply_: bool,
    by: str | None,
    why: str | None,
) -> int:
    """End a workflow: what has not begun never will. Undoes nothing; `rollback` does that.

    What is running, in doubt or held stays to be settled, and is named. ID is a workflow's id, a run's reference, or a
    task's id.
    """
    from ...model import FORWARD_WORKFLOWS, OPEN_STEPS, WorkflowStatus
    from ...reconcile.orders import Orders
    from ..find import find_run

    check_bulk(id, task, since)
    who, reason = check_changing(apply_, by, why)
    journal = session.checked()
    orders = Orders(journal, who=who, why=reason, engines=session.engines, caller=session.caller)
    if id is not None:
        run = find_run(journal, session.namespace, id, single=True).run
        return carry_out(session, [orders.cancel(run, journal.reads.steps(run.ref))], apply=apply_)
    assert since is not None
    chosen = []
    for run, steps in started_since(session, since.on(journal.time())):
        unfinished = run.status in FORWARD_WORKFLOWS | {WorkflowStatus.FAILING}
        if unfinished and (run.name == task or any(s.name == task and s.status in OPEN_STEPS for s in steps)):
            chosen.append((run, steps))
        if len(chosen) >= limit:
            break
    changes, refused = gather(partial(orders.cancel, run, steps) for run, steps in chosen)
    return carry_out(session, changes, apply=apply_, refused=refused, more=len(chosen) >= limit)
