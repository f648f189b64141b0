"""A worker that does not sweep says so when nobody does: once, and once more when somebody does again."""

from __future__ import annotations

import logging
import threading
from typing import Any
from unittest.mock import ANY

import pytest

from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import SECOND
from durable_adapter.recovery import Sweeper, SweeperThread
from durable_adapter.recovery.absence import LOOK_EVERY, Absence
from tests.journal.counting import cost
from tests.journal.making import a_worker
from tests.sweeper.conftest import Clock, NotingEngine

__all__ = ["cost"]

STALE = 60.0


@pytest.fixture
def absence(journal: Journal, clock: Clock) -> Absence:
    return Absence(journal, lambda: ["celery"], stale=STALE, monotonic=clock)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    """`said()`: what was said since the last time that it was asked."""
    caplog.set_level(logging.WARNING)

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return lines


def silent(journal: Journal, seconds: float) -> None:
    """Every worker beat for the last time that long ago."""
    at = journal.time() - int(seconds * SECOND)
    journal.db.transaction(lambda conn: conn.execute(worker.update().values(beat_at=at)))


def after(clock: Clock, seconds: float, absence: Absence) -> None:
    clock.at += seconds
    absence.check()


def test_it_is_said_once_and_once_more_when_it_is_over(journal: Journal, absence: Absence, clock: Clock, said: Any) -> None:
    a_worker(journal, "s", role="sweeper")
    after(clock, LOOK_EVERY, absence)
    silent(journal, STALE - 5)
    after(clock, LOOK_EVERY, absence)
    assert said() == []
    silent(journal, STALE + 5)
    for _ in range(3):
        after(clock, LOOK_EVERY, absence)
    (line,) = said()
    assert line.startswith("nobody_sweeps journal=")
    assert "the last one beat 6" in line
    assert "`durable-adapter sweep`" in line
    journal.workers.beat("s", [])
    for _ in range(3):
        after(clock, LOOK_EVERY, absence)
    (line,) = said()
    assert line.startswith("swept_again journal=")
    assert "is swept again" in line
    silent(journal, 3600)
    after(clock, LOOK_EVERY, absence)
    assert len(said()) == 1, "another absence"


def test_where_there_never_was_one_it_is_said_a_minute_after_the_start(absence: Absence, clock: Clock, said: Any) -> None:
    after(clock, LOOK_EVERY - 1, absence)
    assert said() == [], "one that is started together with this worker has a minute"
    after(clock, 1, absence)
    (line,) = said()
    assert "no sweeper is known" in line


def test_a_sweeper_that_cannot_send_for_this_engine_does_not_count(
    journal: Journal, absence: Absence, clock: Clock, said: Any
) -> None:
    a_worker(journal, "s1", role="sweeper", engine="rq")
    a_worker(journal, "s2", role="sweeper", engine="none")
    after(clock, LOOK_EVERY, absence)
    assert "engines=celery" in said()[0]
    a_worker(journal, "s3", role="sweeper", engine="celery,rq")
    after(clock, LOOK_EVERY, absence)
    assert "is swept again" in said()[0]


def test_a_sweeper_that_beats_seldom_is_given_four_of_its_own_beats(
    journal: Journal, absence: Absence, clock: Clock, said: Any
) -> None:
    a_worker(journal, "s", role="sweeper", beat_every=30 * SECOND)
    silent(journal, 115)
    after(clock, LOOK_EVERY, absence)
    assert said() == []
    silent(journal, 125)
    after(clock, LOOK_EVERY, absence)
    assert "nobody_sweeps" in said()[0]


def test_it_is_one_small_read_a_minute(journal: Journal, absence: Absence, clock: Clock, cost: Any) -> None:
    def an_hour() -> None:
        for _ in range(3600):
            after(clock, 1, absence)

    found = cost(an_hour)
    assert (found.commits, found.reads) == (0, 60)


def test_a_journal_that_is_away_is_no_absence(
    journal: Journal, absence: Absence, clock: Clock, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Any:
        raise JournalUnreachable("away")

    monkeypatch.setattr(journal.surveys, "around", away)
    after(clock, LOOK_EVERY, absence)
    assert said() == []


@pytest.mark.parametrize("every", [None, 3600.0])
@pytest.mark.parametrize("dialect", ["sqlite"])
def test_only_a_worker_that_does_not_sweep_looks(
    journal: Journal, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch, every: float | None
) -> None:
    looked, watched = threading.Event(), threading.Semaphore(0)
    monkeypatch.setattr(Absence, "check", lambda _self: looked.set())

    def watch() -> bool:
        watched.release()
        return False

    thread = SweeperThread(Sweeper(journal, [engine]), every=every, watch=watch)
    thread.start()
    for _ in range(2):  # at the second, the first round is over
        assert watched.acquire(timeout=30)
    thread.stop(wait=30)
    assert looked.is_set() is (every is None)


@pytest.mark.parametrize(("sweeps_for", "is_told"), [("celery", False), ("rq", True)])
def test_a_worker_that_does_not_sweep_knows_for_which_engines_somebody_must(
    journal: Journal, engine: NotingEngine, clock: Clock, said: Any, sweeps_for: str, is_told: bool
) -> None:
    """It has not swept before it looks, and what is installed beside its engine may come later."""
    a_worker(journal, "s", role="sweeper", engine=sweeps_for)
    engines: list[NotingEngine] = []
    rounds = threading.Semaphore(0)

    def watch() -> bool:
        clock.at += LOOK_EVERY
        rounds.release()
        return False

    thread = SweeperThread(Sweeper(journal, lambda: engines, stale=STALE, monotonic=clock), every=None, watch=watch)
    engines.append(engine)
    thread.start()
    for _ in range(2):  # at the second, the first look is over
        assert rounds.acquire(timeout=30)
    thread.stop(wait=30)
    assert [line for line in said() if "nobody" in line] == ([ANY] if is_told else [])
