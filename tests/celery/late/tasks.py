"""Found by autodiscovery, after the plugin was installed."""

from __future__ import annotations

from celery import shared_task

import durable_adapter as durable
from tests.celery.late.app import app
from tests.celery.ledger import ledger


@durable.step
@shared_task
def above_discovered(order: str) -> str:
    ledger().record("run", order)
    return order


@app.task
@durable.step
def below_discovered(order: str) -> str:
    ledger().record("run", order)
    return order
