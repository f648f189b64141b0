"""A user's small shop, and the fixtures that come with durable-adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from durable_adapter.declare.registry import DECLARED
from durable_adapter.testing import durable_journal, durable_redis, durable_template
from tests.testing.shop import Shop

# Imported, so that these tests run also where the installed distribution does not have the plugin's entry point yet.
__all__ = ["durable_journal", "durable_redis", "durable_template"]


@pytest.fixture
def shop() -> Iterator[Shop]:
    """The shop; what it declares is forgotten afterwards."""
    before = dict(DECLARED._entries)
    made = Shop()
    yield made
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1
    made.app.close()


@pytest.fixture
def durable_app(shop: Shop) -> Celery:
    """As a user names the app under test."""
    return shop.app


@pytest.fixture
def effects(shop: Shop) -> list[Any]:
    """What happened outside."""
    return shop.effects
