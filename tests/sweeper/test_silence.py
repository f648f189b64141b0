"""A worker is judged by its own beat, and by sweepers of its own namespace: whatever a sweeper's own `stale` says."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal import Journal
from durable_adapter.model import SECOND
from durable_adapter.recovery import Absence, Sweeper
from durable_adapter.recovery.absence import LOOK_EVERY
from durable_adapter.runtime import host as module
from durable_adapter.runtime.host import Host
from tests.journal.making import a_worker
from tests.sweeper.conftest import Clock, NotingEngine


def hasty(journal: Journal, engine: NotingEngine, clock: Clock, **given: Any) -> Sweeper:
    """A sweeper that waits for eight seconds, where workers may beat every ten."""
    return Sweeper(journal, [engine], monotonic=clock, **({"stale": 8, "beat": 2} | given))


def is_dead(journal: Journal, worker: str) -> bool:
    row = journal.workers.get(worker)
    assert row is not None
    return row.dead_at is not None


def watch(sweeper: Sweeper, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.at += 1
        sweeper.sweep()


def test_a_worker_that_beats_rarely_is_not_declared_dead_before_it_missed_four_of_its_own_beats(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    a_worker(journal, "slow", namespace="default", beat_every=10 * SECOND)
    sweeper = hasty(journal, engine, clock)
    sweeper.sweep()
    for _ in range(5):
        watch(sweeper, clock, 39)
        assert not is_dead(journal, "slow")
        journal.workers.beat("slow", [])
    watch(sweeper, clock, 42)
    assert is_dead(journal, "slow")


def test_a_worker_that_beats_often_is_declared_dead_after_stale(journal: Journal, engine: NotingEngine, clock: Clock) -> None:
    a_worker(journal, "quick", namespace="default", beat_every=SECOND // 10)
    sweeper = hasty(journal, engine, clock)
    sweeper.sweep()
    watch(sweeper, clock, 7)
    assert not is_dead(journal, "quick")
    watch(sweeper, clock, 3)
    assert is_dead(journal, "quick")


def test_a_worker_of_another_namespace_is_left_to_the_sweepers_of_that(
    journal: Journal, elsewhere: Any, engine: NotingEngine, clock: Clock
) -> None:
    a_worker(journal, "theirs", namespace="another", beat_every=SECOND)
    watch(hasty(journal, engine, clock), clock, 60)
    assert not is_dead(journal, "theirs")
    other = elsewhere()
    other.namespace = "another"
    watch(hasty(other, engine, clock), clock, 12)
    assert is_dead(journal, "theirs")


def test_a_worker_of_an_earlier_release_is_judged_by_four_beats_of_the_sweeper_s_own(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    a_worker(journal, "old")
    sweeper = hasty(journal, engine, clock, beat=5)
    sweeper.sweep()
    watch(sweeper, clock, 19)
    assert not is_dead(journal, "old")
    watch(sweeper, clock, 3)
    assert is_dead(journal, "old")


def test_a_host_and_a_sweeper_say_how_often_they_beat_and_where(journal: Journal, engine: NotingEngine, clock: Clock) -> None:
    hasty(journal, engine, clock).sweep()
    host = Host(journal, engine, stale=60, beat=7)  # type: ignore[arg-type]
    try:
        assert journal.workers.get(host.worker) is not None
        found = [row for row in journal.workers.alive() if row.id != "w1"]
    finally:
        host.stop()
    said = {(row.role, row.namespace, row.beat_every) for row in found}
    assert said == {("sweeper", "default", 2 * SECOND), ("worker", "default", 7 * SECOND)}


def test_a_process_that_missed_two_of_its_beats_beats_before_it_begins_anything(
    journal: Journal, engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "monotonic", clock)
    host = Host(journal, engine, stale=600, beat=10)  # type: ignore[arg-type]
    try:
        host.fit_to_begin()
        row = journal.workers.get(host.worker)
        assert row is not None
        for silence, beats in ((19, 0), (2, 1), (19, 1), (2, 2)):
            clock.at += silence
            host.fit_to_begin()
            row = journal.workers.get(host.worker)
            assert row is not None
            assert row.beats == beats
    finally:
        host.stop()


def test_a_sweeper_of_another_namespace_sweeps_nothing_here(
    journal: Journal, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    absence = Absence(journal, lambda: ["celery"], stale=60, monotonic=clock)
    a_worker(journal, "theirs", role="sweeper", namespace="another", beat_every=SECOND)
    clock.at += LOOK_EVERY
    absence.check()
    assert absence.is_told
    a_worker(journal, "ours", role="sweeper", namespace="default", beat_every=SECOND)
    clock.at += LOOK_EVERY
    absence.check()
    assert not absence.is_told


def test_a_failed_look_at_the_beats_counts_for_nobody_s_silence(
    journal: Journal, engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_worker(journal, "slow", namespace="default", beat_every=10 * SECOND)
    sweeper = hasty(journal, engine, clock)
    sweeper.sweep()
    watch(sweeper, clock, 38)

    def away(**_: Any) -> Any:
        raise JournalUnreachable("away")

    with monkeypatch.context() as patch:
        patch.setattr(journal.workers, "alive", away)
        sweeper.safely()
    watch(sweeper, clock, 38)
    assert not is_dead(journal, "slow")
