"""The quick start for RQ, followed to the letter: its files, its commands, a real worker and a real `kill -9`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks
from tests.docs.reader import Reader, listing, patched, same, shown, with_probe
from tests.servers.waiting import eventually

PAGE = DOCS / "tutorial" / "quick-start-rq.md"
WORKER = ["-c", "from rq.cli import main; main()", "worker"]
OURS = ["-w", "durable_adapter.rq.Worker"]


@pytest.fixture
def reader(tmp_path: Path, redis_url: str) -> Iterator[Reader]:
    journal = "sqlite:///journal.sqlite3"  # as the page says
    someone = Reader(tmp_path, WORKER, RQ_REDIS_URL=redis_url, DURABLE_ADAPTER_JOURNAL=journal)
    yield someone
    someone.stop_worker()


def sees(reader: Reader, command: str) -> None:
    """Runs a command of the page, and compares what it prints with what the page shows; times, hosts and pids may differ."""
    seen = told(reader.command(*shlex.split(command)))
    for part in shown(PAGE, f"durable-adapter {command}"):
        assert told(part) in seen, seen


def told(output: str) -> str:
    """What a command prints, without when attempts began: one that took less than a second is told in one line."""
    text = re.sub(r"0-0-0 0:0:0 UTC \S+: attempt 0 began on HOST \(pid 0\) ", "", same(output))
    return text.replace(", attempt 0 on HOST (pid 0)", "")


def test_the_quick_start_for_rq_goes_as_it_is_told(reader: Reader) -> None:
    plain = listing(PAGE, "shop.py")
    reader.write(plain)
    reader.start_worker()
    reader.buy_and_kill("order-1")
    shipped, mailed = "shipped {0}", "mailed {0}"
    reader.wait_for("order-1", ["charged order-1", "charged order-1", shipped.format("order-1"), mailed.format("order-1")])

    durable = patched(PAGE, plain, "")
    reader.write(durable)
    sees(reader, "migrate")
    reader.start_worker(*OURS)
    reader.buy_and_kill("order-2")
    eventually(lambda: "step_held workflow=order-2 " in reader.log(), 30, reader.log)
    assert 'command="durable-adapter explain -- order-2"' in reader.log()
    sees(reader, "list")
    sees(reader, "explain order-2")
    (command,) = re.findall(r"^\$ durable-adapter (resolve .*)$", PAGE.read_text(), re.M)
    assert command == ("""resolve order-2 --happened '"charge-of-order-2"' --by me --why "it is in bank.txt" --apply""")
    assert reader.bank("order-2") == ["charged order-2"]
    sees(reader, command)
    reader.wait_for("order-2", ["charged order-2", shipped.format("order-2"), mailed.format("order-2")])

    reader.write(with_probe(PAGE, durable, ""))
    reader.start_worker(*OURS)
    reader.buy_and_kill("order-3")
    reader.wait_for("order-3", ["charged order-3", shipped.format("order-3"), mailed.format("order-3")])
    sees(reader, "explain order-3")


def test_the_commands_of_the_quick_start_for_rq_are_those_that_were_run() -> None:
    consoles = [block.text for block in blocks(PAGE) if block.language == "console"]
    said = {line.removeprefix("$ ") for text in consoles for line in text.splitlines()}
    assert said >= {
        "rq worker",
        " ".join(["rq worker", *OURS]),
        "durable-adapter migrate",
        "durable-adapter list",
        "durable-adapter explain order-2",
        "durable-adapter explain order-3",
    }
