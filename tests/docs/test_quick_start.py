"""The quick start, followed to the letter: its files, its commands, a real worker and a real `kill -9`."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

from tests.docs.pages import DOCS, blocks
from tests.docs.reader import Reader, listing, patched, with_probe
from tests.servers.waiting import eventually

PAGE = DOCS / "tutorial" / "quick-start.md"
WORKER = ["-m", "celery", "-A", "shop", "worker", "--concurrency", "2", "--loglevel", "WARNING"]


def test_the_quick_start_goes_as_it_is_told(tmp_path: Path):
    reader = Reader(tmp_path, WORKER)
    try:
        follow(reader)
    finally:
        reader.stop_worker()


def has_queue(broker: Path) -> bool:
    """Whether the worker has made its queue in the broker's file."""
    if not broker.exists():
        return False
    with contextlib.closing(sqlite3.connect(broker)) as db, contextlib.suppress(sqlite3.OperationalError):
        return db.execute("SELECT 1 FROM kombu_queue WHERE name = 'celery'").fetchone() is not None
    return False


def follow(reader: Reader) -> None:
    """Does what the page says, in its order."""
    plain = listing(PAGE, "shop.py")
    reader.write(plain)
    reader.start_worker()
    eventually(lambda: has_queue(reader.folder / "broker.sqlite3"), 30, reader.log)
    reader.buy_and_kill("order-1")
    shipped, mailed = "shipped {0} for charge-of-{0}", "mailed {0}"
    reader.wait_for("order-1", ["charged order-1", "charged order-1", shipped.format("order-1"), mailed.format("order-1")])

    durable = patched(PAGE, plain, "@app.task\n")
    reader.write(durable)
    reader.command("-A", "shop", "migrate")
    reader.start_worker()
    reader.buy_and_kill("order-2")
    eventually(lambda: "step_held workflow=order-2 " in reader.log(), 30, reader.log)
    assert 'command="durable-adapter explain -- order-2"' in reader.log()
    assert "order-2" in reader.command("-A", "shop", "reconcile")
    (command,) = re.findall(r"^\$ durable-adapter (-A shop resolve .*)$", PAGE.read_text(), re.M)
    assert command == ("""-A shop resolve order-2 --happened '"charge-of-order-2"' --by me --why "it is in bank.txt" --apply""")
    assert reader.bank("order-2") == ["charged order-2"]
    verdict = ["--happened", '"charge-of-order-2"', "--by", "me", "--why", "it is in bank.txt", "--apply"]
    reader.command("-A", "shop", "resolve", "order-2", *verdict)
    reader.wait_for("order-2", ["charged order-2", shipped.format("order-2"), mailed.format("order-2")])

    reader.write(with_probe(PAGE, durable, "@app.task\n"))
    reader.start_worker()
    reader.buy_and_kill("order-3")
    reader.wait_for("order-3", ["charged order-3", shipped.format("order-3"), mailed.format("order-3")])
    story = reader.command("-A", "shop", "explain", "order-3")
    assert "charge" in story
    assert "probe" in story


def test_the_commands_of_the_quick_start_are_those_that_were_run():
    consoles = [block.text for block in blocks(PAGE) if block.language == "console"]
    said = {line.removeprefix("$ ") for text in consoles for line in text.splitlines()}
    assert said >= {
        " ".join(["celery", *WORKER[2:]]),
        "durable-adapter -A shop migrate",
        "durable-adapter -A shop reconcile",
        "durable-adapter -A shop explain order-3",
    }
