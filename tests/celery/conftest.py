"""The shop, its workers, and what a test asks about them."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from durable_adapter.celery import binding_of, uninstall
from durable_adapter.celery.binding import Binding
from durable_adapter.declare.registry import DECLARED
from tests.celery import shop as shop_module
from tests.celery.ledger import DIRECTORY, Ledger
from tests.celery.world import Runs, World, prepare
from tests.servers.databases import Databases
from tests.servers.process import RunningProcess
from tests.servers.unavailable import Unavailable


def journal_of(databases: Databases) -> str:
    """A journal on PostgreSQL; on SQLite where there is none."""
    try:
        return databases.fresh("postgresql", prepare)
    except Unavailable:
        return databases.fresh("sqlite", prepare)


@pytest.fixture(scope="session")
def world(redis_url: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Broker, journal, queue and ledger of this session; the test process publishes, and is installed, too."""
    made = World(redis_url, journal_of(databases), tmp_path_factory.mktemp("shop"))
    os.environ[DIRECTORY] = str(made.directory)
    shop_module.connect(made.settings())
    yield made
    del os.environ[DIRECTORY]
    uninstall(shop_module.app)
    shop_module.app.close()


@pytest.fixture
def binding(world: World) -> Binding:
    """What `install()` made of the shop's app in this process."""
    return binding_of(shop_module.app)


@contextlib.contextmanager
def reinstalled(world: World, **durable: Any) -> Iterator[Runs]:
    """The shop's app in this process under other settings, for one test."""
    uninstall(shop_module.app)
    journal = durable.pop("journal", world.journal)
    there = replace(world, journal=journal, durable={**world.durable, **durable})
    binding = shop_module.connect(there.settings())
    shop_module.app.set_current()
    try:
        yield Runs(binding)
    finally:
        uninstall(shop_module.app)
        shop_module.connect(world.settings())


@pytest.fixture
def reinstall(world: World) -> Callable[..., contextlib.AbstractContextManager[Runs]]:
    """`with reinstall(mode="off") as shop:` - the shop's app in this process under other settings."""
    return functools.partial(reinstalled, world)


@pytest.fixture
def sqlite_world(world: World, databases: Databases) -> World:
    """Another world, with a journal in SQLite and a queue of its own."""
    return World(world.redis, databases.fresh("sqlite", prepare), world.directory)


@pytest.fixture(scope="session")
def shop_worker(world: World) -> Iterator[RunningProcess]:
    """The worker that most tests share: prefork, three children."""
    with world.worker(concurrency=3) as process:
        yield process


@pytest.fixture
def idle_shop(world: World, binding: Binding) -> Runs:
    """The shop as this process sees it, whether a worker listens or not."""
    shop_module.app.set_current()
    return Runs(binding)


@pytest.fixture
def shop(idle_shop: Runs, shop_worker: RunningProcess) -> Iterator[Runs]:
    """The shop with its worker. If the test fails, the worker's log is shown."""
    seen = len(shop_worker.output)
    yield idle_shop
    assert shop_worker.returncode is None, f"the shared worker ended:\n{shop_worker.tail()}"
    print(f"--- the shared worker's log\n{shop_worker.output[seen:]}")


@pytest.fixture
def ledger(world: World) -> Ledger:
    """What happened."""
    return world.ledger


@pytest.fixture
def order() -> str:
    """An order that no other test knows."""
    return f"order-{secrets.token_hex(5)}"


@pytest.fixture
def declarations() -> Iterator[None]:
    """Forgets afterwards what the test declared: declarations are kept for the life of a process."""
    before = dict(DECLARED._entries)
    yield
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1
