"""An app whose steps use no session, for workers; with a transactional step where the environment asks for one."""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

from celery import Celery, chain

import durable_adapter as durable
from tests.celery import shop

#: Set where the app declares a transactional step, which nothing calls.
WITH_TRANSACTIONAL = "DURABLE_TEST_LEAN_TRANSACTIONAL"

app = Celery("lean", set_as_current=False)


def loaded() -> list[str]:
    """Which packages that no step here needs this process has loaded."""
    return sorted({"alembic", "rich", "rq", "sqlalchemy.orm", "typed_settings"} & set(sys.modules))


@durable.step
@app.task
def protected() -> list[str]:
    """A step of a chain."""
    return loaded()


@durable.step(idempotent=True)
@app.task
def keyed(_before: list[str]) -> list[str]:
    """Another, of which the first is over."""
    return loaded()


@durable.step
def in_place() -> list[str]:
    """A step that a workflow function calls."""
    return loaded()


@durable.workflow
@app.task
def function() -> list[str]:
    """A workflow function."""
    return sorted({*in_place(), *loaded()})


@durable.step
@app.task
def frozen() -> bool:
    """Whether what this process was forked with is kept from the garbage collector."""
    return gc.get_freeze_count() > 0


if WITH_TRANSACTIONAL in os.environ:

    @durable.step(transactional=True)
    def never_called() -> None:
        """A step that would need a session."""


def send_chain(queue: str) -> Any:
    """Publishes both tasks as a chain."""
    return chain(protected.s().set(queue=queue), keyed.s().set(queue=queue)).apply_async()


def connect(settings: dict[str, Any]) -> None:
    """Gives the app its servers, and the plugin."""
    shop.connect(settings, app)


if shop.SETTINGS in os.environ:
    connect(json.loads(os.environ[shop.SETTINGS]))
