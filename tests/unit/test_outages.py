"""An outage of the journal is told once per process, with what is in flight, and once more when it is over."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal import Journal
from durable_adapter.runtime import outages
from durable_adapter.runtime.waiting import PARTS

JOURNAL: Any = SimpleNamespace(db=SimpleNamespace(safe_url="sqlite:////var/journal.db"))
GONE = JournalUnreachable("the journal cannot be reached: no route")


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    outages._since.clear()
    yield
    outages._since.clear()


def test_every_beat_of_an_outage_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        outages.away(JOURNAL, GONE, [])
        outages.away(JOURNAL, GONE)
    outages.back(JOURNAL)
    outages.back(JOURNAL)
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == ["journal_away", "journal_back"]
    assert "Nothing is in flight in this process, and nothing is begun." in caplog.text


def test_what_is_in_flight_is_named_and_not_called_nothing(caplog: pytest.LogCaptureFixture) -> None:
    outages.away(JOURNAL, GONE, ["ref1 token charge"])
    assert "in_flight=1" in caplog.text
    assert "step charge of run ref1" in caplog.text
    assert "Nothing is in flight" not in caplog.text


def test_a_forked_child_tells_for_itself(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    outages.away(JOURNAL, GONE, [])
    monkeypatch.setattr(os, "getpid", lambda: -1)
    outages.away(JOURNAL, GONE, [])
    assert len(caplog.records) == 2


def test_every_part_of_the_journal_waits_out_an_outage(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    parts = {name for name, part in vars(journal).items() if hasattr(part, "__dict__") and not name.startswith("_")}
    assert parts == PARTS
