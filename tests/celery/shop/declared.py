"""The same step, marked in every way and place."""

from __future__ import annotations

from celery import shared_task

import durable_adapter as durable
from tests.celery.ledger import ledger
from tests.celery.shop import app


@durable.step
@app.task
def above_task(order: str) -> str:
    ledger().record("run", order)
    return "done"


@app.task
@durable.step
def below_task(order: str) -> str:
    ledger().record("run", order)
    return "done"


@durable.step(idempotent=True)
@app.task(acks_late=False)
def above_task_with_options(order: str) -> str:
    ledger().record("run", order)
    return "done"


@app.task(acks_late=False)
@durable.step(idempotent=True)
def below_task_with_options(order: str) -> str:
    ledger().record("run", order)
    return "done"


@durable.step
@shared_task
def above_shared(order: str) -> str:
    ledger().record("run", order)
    return "done"


@shared_task
@durable.step
def below_shared(order: str) -> str:
    ledger().record("run", order)
    return "done"


@shared_task(name="tests.celery.shop.declared.by_another_name")
@durable.step(name="charge the customer")
def named(order: str) -> str:
    ledger().record("run", order)
    return "done"


@durable.workflow(id="above-{order}")
@shared_task
def workflow_above(order: str) -> str:
    return above_task(order)


@shared_task
@durable.workflow(id="below-{order}")
def workflow_below(order: str) -> str:
    return below_task(order)
