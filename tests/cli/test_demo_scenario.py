"""The stories' own machinery: processes that hide in a group of their own, and a customer who presses twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from legacy_sidekiq_style import scenario
from legacy_sidekiq_style.app import create_app
from legacy_sidekiq_style.processes import Processes, kill_child, kill_with_children

from tests.servers.waiting import eventually

#: Forks a child that leaves its parent's group, as RQ's work horses do, and says who it is.
HORSE = """
import os, time
if os.fork() == 0:
    os.setpgrp()
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_worker_is_killed_together_with_the_child_that_left_its_group(tmp_path: Path):
    with Processes(tmp_path, os.environ) as processes:
        worker = processes.start(["-c", HORSE], "log")
        eventually(lambda: processes.tail("log"))
        child = int(processes.tail("log"))
        assert os.getpgid(child) == child
        kill_with_children(worker)
        eventually(lambda: not is_running(child))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_child_is_killed_alone_and_a_stranger_never(tmp_path: Path):
    with Processes(tmp_path, os.environ) as processes:
        worker = processes.start(["-c", HORSE], "log")
        eventually(lambda: processes.tail("log"))
        child = int(processes.tail("log"))
        with pytest.raises(ValueError, match="does not belong"):
            kill_child(worker, os.getpid())
        kill_child(worker, child)
        eventually(lambda: not is_running(child))
        assert worker.poll() is None


@pytest.mark.parametrize("engine", scenario.ENGINES)
def test_a_button_that_is_pressed_twice_starts_one_durable_chain(engine: str, tmp_path: Path):
    story = scenario.STORIES[engine]["order-chain"]
    processes = scenario.stage(story, tmp_path)

    def press_once_more(line: str) -> None:
        if "presses the button" in line:
            processes.run(["-c", scenario._customer(story, "after")], "web.log")

    told = scenario.tell(story, "after", processes, press_once_more)
    assert told.counts == story.subject.ledger
    assert told.finished


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_worker_of_the_shop_takes_its_messages_in_transactions(side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # A transport on plain files may read a message while another process writes it, and that ends the worker.
    monkeypatch.setenv("SHOP_DIR", str(tmp_path))
    monkeypatch.delenv("SHOP_BROKER_URL", raising=False)
    app = create_app(f"legacy_sidekiq_style.{side}")
    with app.connection() as connection:
        assert connection.transport.driver_type == "sql"
        connection.SimpleQueue("celery").put({"order": 42})
    assert (tmp_path / "broker.sqlite3").is_file()
