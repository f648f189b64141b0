"""The pytest plugin. Loaded by every pytest run where durable-adapter is installed, so it imports nothing before it must."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .recorded import TestJournal


@pytest.fixture
def durable_app() -> Any:
    """The Celery app whose tasks the test calls: the current one, where Celery is installed. Override it to name another."""
    if find_spec("celery") is None:
        return None
    from .celery import app_in_use

    return app_in_use()


@pytest.fixture
def durable_redis() -> Any:
    """The Redis in which RQ's jobs are kept during the test: one in memory, where RQ and fakeredis are installed.

    Whatever connection the code under test gives to its queues, its jobs are here and nowhere else.
    """
    if find_spec("rq") is None:
        return None
    if find_spec("fakeredis") is None:
        if "rq" not in sys.modules:
            return None
        raise pytest.UsageError(
            "durable_journal keeps RQ's jobs in a Redis in memory, and fakeredis is not installed: "
            "pip install 'durable-adapter[testing]'"
        )
    from fakeredis import FakeServer, FakeStrictRedis

    return FakeStrictRedis(server=FakeServer())


@pytest.fixture(scope="session")
def durable_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with its tables and nothing in them, made once and copied for each test."""
    from ..journal import Journal
    from ..journal.migrations import migrate

    path = tmp_path_factory.mktemp("durable-journal") / "template.sqlite3"
    journal = Journal(f"sqlite:///{path}")
    migrate(journal)
    journal.close()
    return path


@pytest.fixture
def durable_journal(tmp_path: Path, durable_app: Any, durable_redis: Any, durable_template: Path) -> Iterator[TestJournal]:
    """A journal of this test's own, in SQLite; durable calls run in this process and are recorded in it.

    On Celery `.delay()`, `.apply_async()`, `.apply()`, chains, `durable.start()`, on RQ `enqueue()` and its kin, and direct
    calls of durable tasks and steps run at once, through the same code as in a worker. Nothing is sent to a broker, nothing
    is read from a result store, and no time passes but what the test lets pass.

    Example:
        def test_an_order_is_charged_once(durable_journal):
            fulfil.delay("42")
            durable_journal.advance(hours=24)
            assert durable_journal.workflow("order-42").status == "succeeded"
            assert durable_journal.steps("order-42") == ["charge: succeeded", "sleep: succeeded", "ship: succeeded"]
    """
    from .recorded import TestJournal, redirected

    path = tmp_path / "durable-journal.sqlite3"
    shutil.copy(durable_template, path)
    with redirected(f"sqlite:///{path}", app=durable_app, redis=durable_redis) as here:
        yield TestJournal(here)
