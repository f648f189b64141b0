"""`docs/reference/patches.md` says what `install()` does: every patched object, why, and its guard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from celery import Celery, signals
from celery.worker.consumer import consumer

import durable_adapter as durable
from durable_adapter.celery import install, uninstall
from durable_adapter.celery.binding import Binding

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "patches.md").read_text()
TASK = {
    "patches.charge.run": "`TASK.run`, for each marked task and each compensation",
    "patches.charge.retry": "`TASK.retry`, likewise",
    "patches.charge.replace": "`TASK.replace`, likewise",
    "patches.charge.add_to_chord": "`TASK.add_to_chord`, likewise",
}


@pytest.fixture
def binding(declarations: None, tmp_path: Path) -> Binding:
    """A binding of an app with one marked task, where Celery's consumer has been imported before."""
    assert consumer.__name__ == "celery.worker.consumer.consumer"
    app = Celery("patches", broker="memory://", set_as_current=False)

    @durable.step
    @app.task(name="patches.charge", shared=False)
    def charge() -> None: ...

    made = install(app, journal=f"sqlite:///{tmp_path}/journal.db")
    app.finalize()
    return made


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_every_patched_object_is_on_the_page_with_its_reason_and_its_guard(binding: Binding) -> None:
    # Celery gives every app of the process the tasks of the others; one task stands for all of them.
    own = [patch for patch in binding.patches if not patch.where.startswith("tests.")]
    patched = [[TASK.get(patch.where, f"`{patch.where}`"), patch.why, patch.guard] for patch in own]
    assert table("Objects") == patched
    uninstall(binding.app)


def test_every_signal_that_is_listened_to_is_on_the_page(binding: Binding) -> None:
    names = {id(signal): name for name, signal in vars(signals).items() if isinstance(signal, signals.Signal)}
    names[id(binding.app.on_after_finalize)] = "app.on_after_finalize"
    names[id(binding.app.on_after_configure)] = "app.on_after_configure"
    heard = {names[id(signal)] for signal, _ in binding.receivers}
    told = {name for row in table("Signals that are listened to") for name in re.findall(r"`([^`]+)`", row[0])}
    assert told == heard
    uninstall(binding.app)
