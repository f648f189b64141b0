"""Somebody who follows a quick start to the letter: its files, its commands, a real worker and a real `kill -9`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.docs.pages import blocks
from tests.servers.waiting import eventually


class Reader:
    """Somebody who does what the page says, in a folder of their own."""

    def __init__(self, folder: Path, worker: Sequence[str], **environment: str) -> None:
        self.folder = folder
        self.how = worker
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1", **environment}
        self.worker: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        """Saves `shop.py`, with a bank that answers a little sooner."""
        assert "time.sleep(10)" in text
        (self.folder / "shop.py").write_text(text.replace("time.sleep(10)", "time.sleep(4)"))

    def run(self, *arguments: str) -> str:
        """Runs `python *arguments`, and returns what it prints."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def command(self, *arguments: str) -> str:
        """Runs `durable-adapter *arguments`, and returns what it prints."""
        return self.run("-c", "from durable_adapter.cli import main; main()", *arguments)

    def start_worker(self, *arguments: str) -> None:
        """Starts the worker anew."""
        self.stop_worker()
        with (self.folder / "worker.log").open("ab") as log:
            self.worker = subprocess.Popen(
                [sys.executable, *self.how, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_worker(self) -> None:
        """Ends the worker and its children; work horses of RQ's have process groups of their own."""
        if self.worker is not None:
            for child in psutil.Process(self.worker.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait()
            self.worker = None

    def bank(self, order: str) -> list[str]:
        """What happened for an order, without the process numbers."""
        book = self.folder / "bank.txt"
        lines = book.read_text().splitlines() if book.exists() else []
        return [re.sub(r" \(process \d+\)", "", line) for line in lines if order in line]

    def buy_and_kill(self, order: str) -> None:
        """Buys, waits for the charge, and kills the process that charges."""
        self.run("-c", f"import shop; shop.buy({order!r})")
        eventually(lambda: self.bank(order), 30, self.log)
        (pid,) = re.findall(rf"charged {order} \(process (\d+)\)", (self.folder / "bank.txt").read_text())
        assert self.worker is not None
        assert psutil.Process(self.worker.pid) in psutil.Process(int(pid)).parents()
        os.kill(int(pid), signal.SIGKILL)

    def wait_for(self, order: str, expected: list[str]) -> None:
        """Waits until the bank's book says so."""
        eventually(lambda: self.bank(order) == expected, 40, lambda: f"{self.bank(order)}\n{self.log()}")

    def log(self) -> str:
        """What the workers said."""
        return (self.folder / "worker.log").read_text(errors="replace")[-4000:]


def listing(page: Path, title: str) -> str:
    """A listing of a page."""
    (found,) = [block.text for block in blocks(page) if block.title == title]
    return found


def patched(page: Path, text: str, mark_above: str) -> str:
    """The shop with every `diff` of the page applied, and the tasks behind the first marked as well."""
    for block in blocks(page):
        if block.language != "diff":
            continue
        before = "".join(f"{line[1:]}\n" for line in block.text.splitlines() if not line.startswith("+"))
        after = "".join(f"{line[1:]}\n" for line in block.text.splitlines() if not line.startswith("-"))
        assert before in text, f"{block.page}:{block.line} does not fit the listing"
        text = text.replace(before, after)
    for task in ("ship", "mail"):
        text = text.replace(f"{mark_above}def {task}(", f"@durable.step\n{mark_above}def {task}(")
    return text


def with_probe(page: Path, text: str, mark_above: str) -> str:
    """The shop with the charge replaced."""
    start, end = (text.index(f"@durable.step\n{mark_above}def {name}") for name in ("charge", "ship"))
    return text[:start] + listing(page, "shop.py, the charge") + "\n\n" + text[end:]


def shown(page: Path, command: str) -> list[str]:
    """Returns what a page shows below a command, in the parts between its lines of three full stops.

    Raises:
        ValueError: the page shows nothing below it.
    """
    for block in blocks(page):
        lines = block.text.splitlines()
        if block.language == "console" and f"$ {command}" in lines:
            below = lines[lines.index(f"$ {command}") + 1 :]
            end = next((number for number, line in enumerate(below) if line.startswith("$ ")), len(below))
            parts = re.split(r"^\.\.\.$", "\n".join(below[:end]), flags=re.M)
            if found := [part for part in parts if part.strip()]:
                return found
    raise ValueError(f"{page.name} shows nothing below `{command}`")


def same(text: str) -> str:
    """Returns an output without what differs from one run to the next: spaces, hosts, times, numbers."""
    text = " ".join(text.split())
    text = re.sub(r"\bon \S+ \(pid", "on HOST (pid", text)
    text = re.sub(r"\b\d+(\.\d+)? (ms|s)\b", "TIME", text)
    return re.sub(r"\d+", "0", text)
