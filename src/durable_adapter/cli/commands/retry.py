"""`retry`: go on with a workflow that failed, was stopped by drift, was cancelled, or came to rest."""

from __future__ import annotations

from functools import partial

import click

from ..changing import carry_out, check_bulk, gather, started_since
from ..options import When, bulk, changing, check_changing
from ..session import Session, durable_command

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop retry order-42 --by ann --why "the address is right now" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 retry order-42 --by ann --why "the address is right now" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop retry --task shop.ship --since 2h"),
)


@durable_command("retry", examples=EXAMPLES)
@click.argument("id", required=False)
@click.argument("step", required=False)
@bulk(
    task="every workflow that failed at a step of this name, or whose function of this name was stopped",
    since="workflows started",
)
@changing
def command(
    session: Session,
    id: str | None,
    step: str | None,
    task: str | None,
    since: When | None,
    limit: int,
    apply_: bool,
    by: str | None,
    why: str | None,
) -> int:
    """Go on with a workflow: failed steps run again, and what was cancelled behind them.

    A function that was stopped because its code no longer fitted runs again; a message that was lost is sent again, if the
    promises allow it; compensations that failed are tried again. A step whose effect may have happened is not run again
    before `resolve` has said that it did not, unless it is idempotent and inside its window.

    ID is a workflow's id, a run's reference, or a task's id. STEP names one failed step; otherwise all that made the
    workflow fail.
    """
    from ...model import StepStatus
    from ...reconcile.orders import Orders, is_stopped
    from ..find import find_run, find_step

    check_bulk(id, task, since)
    who, reason = check_changing(apply_, by, why)
    journal = session.checked()
    orders = Orders(
        journal,
        who=who,
        why=reason,
        engines=session.engines,
        caller=session.caller,
        stale=session.settings.stale,
        in_bulk=id is None,
    )
    if id is not None:
        run = find_run(journal, session.namespace, id, single=True).run
        steps = journal.reads.steps(run.ref)
        row = find_step(run, steps, step) if step is not None else None
        return carry_out(session, [orders.retry(run, steps, row)], apply=apply_)
    assert since is not None
    chosen = []
    for run, steps in started_since(session, since.on(journal.time())):
        if any(s.name == task and (s.status is StepStatus.FAILED or is_stopped(s)) for s in steps):
            chosen.append((run, steps))
        if len(chosen) >= limit:
            break
    changes, refused = gather(partial(orders.retry, run, steps) for run, steps in chosen)
    return carry_out(
        session, changes, apply=apply_, refused=refused, more=len(chosen) >= limit, at_the_end=orders.sending.at_the_end
    )
