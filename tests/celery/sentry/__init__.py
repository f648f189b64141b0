"""The shop with sentry-sdk: installed before our plugin, and after it. Nothing leaves the process but a line in the ledger."""

from __future__ import annotations

from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport

from tests.celery.ledger import ledger

#: Under which order the ledger keeps what sentry was told.
TOLD = "told-sentry"


class Recorder(Transport):
    """Writes what would have been sent into the ledger."""

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            event: dict[str, Any] = item.payload.json or {} if item.type in ("event", "transaction") else {}
            for error in (event.get("exception") or {}).get("values", ()):
                ledger().record("error", TOLD, type=error["type"], value=error["value"])
            if item.type == "transaction":
                ledger().record("transaction", TOLD, task=event["transaction"])


def init() -> None:
    """As a user does it."""
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=Recorder,
        traces_sample_rate=1.0,
        integrations=[CeleryIntegration()],
        default_integrations=False,
    )
