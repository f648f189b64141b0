"""What is set reaches the places that it is about: the version of the code, and whether a worker sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

import durable_adapter as durable
from durable_adapter.celery import install, uninstall
from durable_adapter.celery.worker import SweeperStep
from durable_adapter.journal.migrations import migrate
from durable_adapter.recovery import SweeperThread

pytestmark = pytest.mark.usefixtures("declarations")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    made = Celery("settings", broker="memory://", set_as_current=False)
    made.conf.result_backend = "cache+memory://"
    made.finalize()
    yield made
    uninstall(made)
    made.close()


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/journal.db"


def test_the_version_of_the_code_is_kept_with_each_run_and_each_worker(app: Celery, tmp_path: Path) -> None:
    @durable.step
    @app.task(name="settings.charge", shared=False)
    def charge() -> None: ...

    binding = install(app, journal=url(tmp_path), code_version="v7")
    migrate(binding.journal)
    charge.delay()
    (run,) = binding.journal.reads.listed()
    row = binding.journal.workers.get(binding.host.worker)
    assert row is not None
    assert (run.code_version, row.code_version) == ("v7", "v7")


@pytest.mark.parametrize("sweeps", [True, False])
def test_whether_a_worker_sweeps(app: Celery, tmp_path: Path, sweeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Noted(SweeperThread):
        def __init__(self, sweeper: Any, **given: Any) -> None:
            made.append(given)
            super().__init__(sweeper, **given)

        def start(self) -> None:
            """Not at all."""

    monkeypatch.setattr("durable_adapter.celery.worker.SweeperThread", Noted)
    install(app, journal=url(tmp_path), sweeper=sweeps, sweep_every=7)
    worker = SimpleNamespace(app=app)
    step = SweeperStep(worker)
    step.start(worker)
    assert [given["every"] for given in made] == [7.0 if sweeps else None]
