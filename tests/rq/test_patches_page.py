"""`docs/reference/patches-rq.md` says what `install()` does to RQ: every patched object, why, and its guard."""

from __future__ import annotations

import re
from pathlib import Path

import rq

import durable_adapter.rq
from durable_adapter.rq.installing import SPAWNED
from durable_adapter.rq.worker import ROW, RUNNING, SimpleWorker, Worker
from tests.rq.world import Shop
from tests.rq_versions import since

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    section = (REFERENCE / "patches-rq.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_patched_object_is_on_the_page_with_its_reason_and_its_guard(shop: Shop) -> None:
    there = [row for row in table("Objects") if since("2.0") or "rq.group" not in row[0]]
    assert there == [[f"`{patch.where}`", patch.why, patch.guard] for patch in shop.binding.patches]


def test_every_environment_variable_that_workers_hand_to_their_horses_is_in_the_reference() -> None:
    text = (REFERENCE / "rq.md").read_text()
    assert [name for name in (ROW, RUNNING, SPAWNED) if f"`{name}`" not in text] == []


def test_every_method_that_our_workers_override_is_on_the_page() -> None:
    workers: list[type] = [Worker, SimpleWorker]
    if since("2.2"):
        workers.append(durable_adapter.rq.SpawnWorker)
    ours = [cls for worker in workers for cls in worker.__mro__ if "durable" in cls.__module__]
    overridden = {name for cls in ours for name in vars(cls) if not name.startswith("__") and hasattr(rq.Worker, name)}
    assert {name for row in table("In our worker classes") for name in re.findall(r"`([^`]+)`", row[0])} == overridden
