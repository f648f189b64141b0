"""What happened, as the tests count it: every effect of a task is one line in a file that all processes append to.

A gate lets a test stop a task at a telling place: the task waits there, for a bounded time, until the test opens it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

#: Where the ledger lies; workers inherit it.
DIRECTORY = "DURABLE_TEST_LEDGER"
#: Seconds that a task waits at a gate before it gives up, so that no lost test leaves a worker waiting.
PATIENCE = 20.0


class Ledger:
    """The ledger in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "ledger.jsonl"

    def record(self, what: str, order: str, **details: Any) -> None:
        """One effect."""
        line = json.dumps({"what": what, "order": order, "pid": os.getpid(), **details}) + "\n"
        with self._file.open("a") as lines:
            lines.write(line)

    def entries(self, order: str, what: str | None = None) -> list[dict[str, Any]]:
        """Every effect for one order, in the order in which they happened."""
        if not self._file.exists():
            return []
        found = [json.loads(line) for line in self._file.read_text().splitlines()]
        return [e for e in found if e["order"] == order and (what is None or e["what"] == what)]

    def names(self, order: str) -> list[str]:
        """What happened for one order."""
        return [entry["what"] for entry in self.entries(order)]

    def count(self, order: str, what: str) -> int:
        """How often something happened for one order."""
        return self.names(order).count(what)

    def wait_at(self, gate: str, order: str) -> None:
        """In a task: says that it is here, and waits until the test opens the gate."""
        self.record(f"at {gate}", order)
        until = time.monotonic() + PATIENCE
        while not self._gate(gate, order).exists():
            if time.monotonic() > until:
                raise TimeoutError(f"nobody opened gate {gate} of {order}")
            time.sleep(0.01)

    def open(self, gate: str, order: str) -> None:
        """In a test: lets whoever waits, or will come, pass."""
        self._gate(gate, order).touch()

    def is_open(self, gate: str, order: str) -> bool:
        """Whether a gate was opened: also a switch by which a task changes how it behaves."""
        return self._gate(gate, order).exists()

    def _gate(self, gate: str, order: str) -> Path:
        return self.directory / f"{order}.{gate}"


def ledger() -> Ledger:
    """The ledger of this process."""
    return Ledger(Path(os.environ[DIRECTORY]))
