"""Imported by workers alone: a publisher names its jobs by text."""

from __future__ import annotations

import durable_adapter as durable
from tests.celery.ledger import ledger


@durable.step
def charge(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"
