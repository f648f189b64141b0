"""The shop of one test: a journal and a queue of its own, and the plugin installed in this process for as long."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

import durable_adapter.rq as durable_rq
from durable_adapter.declare.registry import DECLARED
from durable_adapter.rq import registry
from tests.celery.ledger import DIRECTORY, Ledger
from tests.rq.shop import chains
from tests.rq.world import Shop, installed, prepare
from tests.servers.fixtures import FreshDatabase
from tests.servers.unavailable import Unavailable


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ledger lies."""
    return tmp_path_factory.mktemp("shop")


@pytest.fixture
def make_shop(
    redis_url: str, directory: Path, fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Shop]]:
    """`make_shop(journal=, redis=, mode=...)`: the plugin in this process, under settings of the test's own."""
    monkeypatch.setenv(DIRECTORY, str(directory))
    named = dict(registry.NAMED)
    declared = dict(DECLARED._entries)
    connections: list[Redis] = []

    def make(journal: str | None = None, redis: str | None = None, **options: Any) -> Shop:
        durable_rq.uninstall()
        url = redis or redis_url
        monkeypatch.setenv(chains.URL, url)
        connections.append(Redis.from_url(url))
        journal = journal or fresh_database("sqlite", prepare)
        binding = installed(journal, **options)
        return Shop(url, journal, directory, binding, connections[-1], f"durable-test-{secrets.token_hex(4)}")

    yield make
    durable_rq.uninstall()
    for connection in connections:
        connection.close()
    registry.NAMED.clear()
    registry.NAMED.update(named)
    DECLARED._entries.clear()
    DECLARED._entries.update(declared)
    DECLARED.generation += 1


@pytest.fixture
def shop(make_shop: Callable[..., Shop], redis_url: str) -> Iterator[Shop]:
    """The shop of tests in which no process has to die."""
    made = make_shop()
    yield made
    with contextlib.suppress(Exception):
        made.flush()


@pytest.fixture
def busy_shop(make_shop: Callable[..., Shop], fresh_database: FreshDatabase) -> Shop:
    """The shop of tests with real workers: on PostgreSQL, on SQLite where there is none."""
    return make_shop(journal_for_workers(fresh_database))


def journal_for_workers(fresh_database: FreshDatabase) -> str:
    """A journal that several processes write to at once."""
    try:
        return fresh_database("postgresql", prepare)
    except Unavailable:
        return fresh_database("sqlite", prepare)


@pytest.fixture
def ledger(directory: Path) -> Ledger:
    """What happened."""
    return Ledger(directory)


@pytest.fixture
def order() -> str:
    """An order that no other test knows."""
    return f"order-{secrets.token_hex(5)}"
