"""What our workers leave where others see it: in the environment of what a job starts, and among temporary files."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from durable_adapter.model import WorkflowStatus
from durable_adapter.rq.worker import RUNNING_FILE, RunningFile
from tests.celery.ledger import Ledger
from tests.rq.shop import steps
from tests.rq.world import SOON, Shop
from tests.rq_versions import SPAWNING
from tests.servers.waiting import eventually

CLASSES = ["durable_adapter.rq.Worker", pytest.param("durable_adapter.rq.SpawnWorker", marks=SPAWNING)]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers keep their temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def said(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{RUNNING_FILE}*"))


@pytest.mark.parametrize("worker_class", CLASSES)
def test_what_a_job_starts_sees_nothing_of_ours(
    busy_shop: Shop, ledger: Ledger, order: str, temporary: Path, worker_class: str
) -> None:
    with busy_shop.worker(worker_class):
        job = busy_shop.queue.enqueue(steps.says_its_environment, order)
        busy_shop.settled(job, WorkflowStatus.SUCCEEDED)
    assert [e["names"] for e in ledger.entries(order)] == [[]]
    assert said(temporary) == []


@pytest.mark.parametrize("worker_class", CLASSES)
def test_the_file_of_a_worker_that_was_killed_is_cleared_away_by_the_next(
    busy_shop: Shop, temporary: Path, worker_class: str
) -> None:
    with busy_shop.worker(worker_class) as killed:
        eventually(lambda: said(temporary), SOON)
        (left,) = said(temporary)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait(SOON)
    with busy_shop.worker(worker_class):
        eventually(lambda: left not in said(temporary) and len(said(temporary)) == 1, SOON)


def test_the_file_of_a_living_worker_is_left_alone(temporary: Path) -> None:
    living, handles = RunningFile(), []
    try:
        for path in said(temporary):
            handle = os.open(path, os.O_RDWR)
            handles.append(handle)
            with pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        another = RunningFile()
        assert len(said(temporary)) == 2
        another.close()
        assert [str(path) for path in said(temporary)] == [living.path]
    finally:
        living.close()
        for handle in handles:
            os.close(handle)
