"""RQ, plain and with the plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rq import Queue
from rq.job import Job

from durable_adapter.rq import install, uninstall
from durable_adapter.rq.binding import Binding
from tests.rq_unchanged.stage import Stage, prepare, rows_of
from tests.servers.fixtures import FreshDatabase
from tests.servers.redis import RedisServer
from tests.servers.unavailable import Unavailable


@pytest.fixture(scope="session")
def own_server(note_server: Callable[[str], None]) -> Iterator[RedisServer]:
    """A Redis server that these tests may empty: RQ has keys that belong to no queue."""
    try:
        server = RedisServer()
    except Unavailable as reason:
        pytest.skip(str(reason))
    with server:
        note_server(server.description)
        yield server


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RQ as it came: what other tests have installed in this process is out meanwhile."""
    monkeypatch.delenv("DURABLE_ADAPTER_JOURNAL", raising=False)
    others = list(Binding.installed)
    hooked = {(owner, name): value for owner in (Job, Queue) for name, value in list(vars(owner).items())}
    for other in reversed(others):
        for patch in reversed(other.patches):
            patch.undo()
    Binding.installed.clear()
    yield
    uninstall()
    if others:
        for (owner, name), value in hooked.items():
            if vars(owner).get(name) is not value:
                setattr(owner, name, value)
    Binding.installed[:] = others


@pytest.fixture
def plain(alone: None, own_server: RedisServer, tmp_path: Path) -> Iterator[Stage]:
    """RQ without the plugin."""
    own_server.flush_all()
    stage = Stage(own_server.url, tmp_path)
    yield stage
    stage.end()


@pytest.fixture(params=["plain", "plugin"])
def rq(request: pytest.FixtureRequest, plain: Stage, fresh_database: FreshDatabase) -> Iterator[Stage]:
    """RQ, once without the plugin and once with it; of what is not marked, the journal must not know."""
    if request.param == "plain":
        yield plain
        return
    plain.journal = fresh_database("sqlite", prepare)
    install(journal=plain.journal)
    yield plain
    plain.end()
    uninstall()
    assert rows_of(plain.journal) == {"workflow": 0, "step": 0}
