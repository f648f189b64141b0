"""Imported before there is any app."""

from __future__ import annotations

from celery import shared_task

import durable_adapter as durable
from tests.celery.ledger import ledger


@durable.step
@shared_task
def above_early(order: str) -> str:
    ledger().record("run", order)
    return order


@shared_task
@durable.step
def below_early(order: str) -> str:
    ledger().record("run", order)
    return order
