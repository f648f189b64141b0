"""A fork in the middle of another thread's write leaves the child a journal that it can use."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.forking import Gate
from durable_adapter.journal.migrations import migrate


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
