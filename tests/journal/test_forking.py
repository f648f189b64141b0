"""A fork in the middle of another thread's write leaves the child a journal that it can use."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.forking import Gate
from durable_adapter.journal.migrations import migrate
from tests.journal.making import a_run, a_worker, statuses


def test_a_child_that_is_forked_while_another_thread_writes_to_sqlite_can_write_too(tmp_path: Path):
    journal = Journal(f"sqlite:///{tmp_path}/journal.sqlite3")
    migrate(journal)
    writing, go = threading.Event(), threading.Event()

    def write() -> None:
        with journal.db.open_transaction() as connection:
            connection.execute(sa.text("DELETE FROM durable_event"))
            writing.set()
            go.wait(10)

    other = threading.Thread(target=write)
    other.start()
    assert writing.wait(10)
    threading.Timer(0.2, go.set).start()
    child = os.fork()  # waits for the other thread's transaction
    if child == 0:
        try:
            with journal.db.open_transaction() as connection:
                connection.execute(sa.text("DELETE FROM durable_event"))
            os._exit(0)
        finally:
            os._exit(1)
    assert go.is_set()
    until = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    other.join()
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0), "the child found the journal locked for ever"


def test_a_block_within_a_block_passes_and_the_gate_opens_again():
    gate = Gate()
    with gate.passed():
        with gate.passed():
            gate._close()  # as a fork of this very thread does
            gate._open()
        gate._close()
        gate._open()
    assert gate._inside == {}


@pytest.mark.parametrize("used", ["straight through the driver", "by way of SQLAlchemy"])
def test_what_a_child_commits_to_sqlite_outlives_the_connections_of_everybody_else(tmp_path: Path, used: str):
    """SQLite keeps its locks in the process: a child that goes on with what its parent had open holds none, and whoever
    closes the file as the last one, as far as the locks tell, takes away the log into which that child writes."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(f"sqlite:///{path}")
    migrate(journal)
    a_worker(journal)
    ref = a_run(journal, "charge", "ship")
    if used == "by way of SQLAlchemy":
        journal.time()
    else:
        assert journal.claims.get(ref, "charge") is not None
    others_are_gone = multiprocessing.get_context("fork").Event()
    child_is_there = multiprocessing.get_context("fork").Event()
    child = os.fork()
    if child == 0:
        try:
            begun = [journal.claims.begin(ref, "charge", "one", "w1")]
            child_is_there.set()
            others_are_gone.wait(30)
            begun.append(journal.claims.begin(ref, "ship", "two", "w1"))
            os._exit(0 if all(begun) else 1)
        except BaseException:
            os._exit(2)
    assert child_is_there.wait(30)
    journal.close()
    stranger = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM durable_event'); c.commit()"
    subprocess.run([sys.executable, "-c", stranger, str(path)], check=True)
    others_are_gone.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert statuses(journal, ref) == {"run": "running", "charge": "begun", "ship": "begun"}
    journal.close()
