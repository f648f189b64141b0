"""An app with the plugin in which nothing is marked, for workers."""

from __future__ import annotations

import gc
import json
import os
from typing import Any

from celery import Celery

from tests.celery import shop
from tests.celery.ledger import ledger

app = Celery("plain", set_as_current=False)


@app.task
def note(order: str) -> str:
    ledger().record("plain", order)
    return order


@app.task
def frozen() -> bool:
    """Whether what this process was forked with is kept from the garbage collector."""
    return gc.get_freeze_count() > 0


def connect(settings: dict[str, Any]) -> None:
    """Gives the app its servers, and the plugin."""
    shop.connect(settings, app)


if shop.SETTINGS in os.environ:
    connect(json.loads(os.environ[shop.SETTINGS]))
