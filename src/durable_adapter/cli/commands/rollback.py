"""`rollback`: undo what workflows did, in reverse order, by a person's order."""

from __future__ import annotations

from functools import partial

import click

from ..changing import carry_out, check_bulk, gather, started_since
from ..options import When, bulk, changing, check_changing
from ..session import Session, durable_command

EXAMPLES = (
    ("Celery", 'durable-adapter -A shop rollback order-42 --by ann --why "the customer withdrew" --apply'),
    ("RQ", 'durable-adapter -u redis://localhost:6379 rollback order-42 --by ann --why "the customer withdrew" --apply'),
    ("Many at once: what would be done", "durable-adapter -A shop rollback --task shop.charge --since 2h"),
)


@durable_command("rollback", examples=EXAMPLES)
@click.argument("id", required=False)
@bulk(
    task="every workflow of this name, or in which a step of this name happened or may have; not those that are undone already",
    since="workflows started",
)
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
    """Undo a workflow: its compensations run in reverse order, and what has not begun is cancelled.

    Refused behind a pivot that has succeeded, and while one may have happened. Steps in doubt are undone once `resolve` has
    said that they happened. ID is a workflow's id, a run's reference, or a task's id.
    """
    from ...reconcile.orders import Orders, is_undone, may_have_done
    from ..find import find_run

    check_bulk(id, task, since)
    who, reason = check_changing(apply_, by, why)
    journal = session.checked()
    orders = Orders(journal, who=who, why=reason, engines=session.engines, caller=session.caller)
    if id is not None:
        run = find_run(journal, session.namespace, id, single=True).run
        return carry_out(session, [orders.rollback(run, journal.reads.steps(run.ref))], apply=apply_)
    assert since is not None
    assert task is not None
    chosen = []
    for run, steps in started_since(session, since.on(journal.time())):
        if not is_undone(run) and (run.name == task or may_have_done(steps, task)):
            chosen.append((run, steps))
        if len(chosen) >= limit:
            break
    changes, refused = gather(partial(orders.rollback, run, steps) for run, steps in chosen)
    return carry_out(session, changes, apply=apply_, refused=refused, more=len(chosen) >= limit)
