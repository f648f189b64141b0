"""A sweep stays short: what it sends and forgets at a time has a bound, and what is left comes with the next ones."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import SECOND, WorkflowStatus
from durable_adapter.recovery import Sweeper, lost
from durable_adapter.recovery import sweeper as module
from durable_adapter.recovery.lost import RESENDS
from durable_adapter.recovery.sweeper import FORGET_EVERY
from tests.journal.making import a_run, a_step, a_worker, age, change, succeed, the_run
from tests.sweeper.conftest import Clock, NotingEngine

DAY = 86_400 * SECOND


def test_of_many_lost_messages_a_sweep_sends_so_many_again_and_the_next_ones_the_rest(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RESENDS < module.BATCH, "else it would be no bound"
    monkeypatch.setattr(lost, "RESENDS", 3)
    refs = [a_run(journal, a_step("one", queue="celery"), a_step("two", queue="celery")) for _ in range(7)]
    a_worker(journal, "listener", queues=["celery"])
    journal.workers.beat("listener", [])
    at, counts = journal.time(), []
    for _ in range(3):
        at += journal.runs.resend_after + SECOND
        counts.append(sweeper.sweep(at).sent_again)
        for ref in refs:  # what was sent has arrived: it is not sent a second time
            if the_run(journal, ref).resends:
                change(journal, ref, look_at=at + DAY)
    assert counts == [3, 3, 1]
    assert sorted(the_run(journal, ref).resends for ref in refs) == [1] * 7
    assert engine.sent == ["one"] * 7


def finished(journal: Journal, days: float, **given: Any) -> str:
    """A run that ended so many days ago."""
    ref = a_run(journal, "charge", **given)
    succeed(journal, ref, "charge", last=True)
    age(journal, ref, None, "ended_at", by=int(days * DAY))
    return ref


def forgetful(journal: Journal, engine: NotingEngine, clock: Clock, retention: float | None) -> Sweeper:
    return Sweeper(journal, [engine], retention=retention, monotonic=clock)


def test_it_forgets_what_ended_before_its_retention_and_leaves_a_tombstone_of_a_declared_id(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    old, fresh = finished(journal, 8), finished(journal, 6)
    declared = finished(journal, 8, id="order-42", declared=True)
    running = a_run(journal, "charge")
    assert forgetful(journal, engine, clock, 7).sweep().pruned == 2
    assert journal.reads.run(old) is None
    assert journal.reads.steps(declared) == []
    tombstone = the_run(journal, declared)
    assert (tombstone.id, tombstone.status, tombstone.pruned_at is None) == ("order-42", WorkflowStatus.SUCCEEDED, False)
    for ref in (fresh, running):
        assert journal.reads.steps(ref) != []


def test_it_forgets_a_batch_at_a_time_and_looks_rarely_once_there_is_no_more(
    journal: Journal, engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    for _ in range(7):
        finished(journal, 8)
    sweeper = forgetful(journal, engine, clock, 7)
    assert [sweeper.sweep().pruned for _ in range(3)] == [3, 3, 1]
    finished(journal, 8)
    clock.at += FORGET_EVERY - 1
    assert sweeper.sweep().pruned == 0, "there was no more a moment ago"
    clock.at += 1
    assert sweeper.sweep().pruned == 1


def test_without_retention_it_forgets_nothing(journal: Journal, engine: NotingEngine, clock: Clock) -> None:
    ref = finished(journal, 10_000)
    assert forgetful(journal, engine, clock, None).sweep().pruned == 0
    assert journal.reads.steps(ref) != []


def test_it_forgets_processes_that_ended_and_that_nothing_unsettled_names(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    for name in ("ended", "ended today", "alive"):
        a_worker(journal, name)
    journal.workers.stop("ended")
    journal.workers.stop("ended today")
    at = journal.time() - 8 * DAY
    journal.db.transaction(lambda conn: conn.execute(worker.update().where(worker.c.id == "ended").values(beat_at=at)))
    forgetful(journal, engine, clock, 7).sweep()
    assert [name for name in ("ended", "ended today", "alive") if journal.workers.get(name) is None] == ["ended"]
