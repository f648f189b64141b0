"""A class that only workers import."""

from __future__ import annotations

from tests.celery.ledger import ledger


class Handler:
    @staticmethod
    def handle(order: str) -> None:
        ledger().record("handle", order)
