"""Nobody may edit this module."""

from __future__ import annotations

from tests.celery.ledger import ledger


def charge(order: str) -> str:
    ledger().record("charge", order)
    return f"ch-{order}"
