"""A step that only the journal keeps from running twice is sent again once; if that vanishes too, it is in doubt."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, Safety, StepStatus
from durable_adapter.recovery import Sweeper
from tests.journal.making import a_run, a_step, a_worker, change, claim, in_doubt, the
from tests.sweeper.conftest import NotingEngine

DAY = 86_400 * SECOND
GUARDED = [Safety.PROTECTED, Safety.PROBE]


@pytest.fixture(autouse=True)
def listening(journal: Journal) -> None:
    """A worker with the plugin that listens all the time."""
    a_worker(journal, "listener", queues=["celery"], namespace="default")
    journal.workers.beat("listener", [])


def sweep_for_days(journal: Journal, sweeper: Sweeper, ref: str | None = None) -> None:
    """Sweeps again and again, each time long after the last, and the listener beats meanwhile."""
    for day in range(1, 8):
        journal.workers.beat("listener", [])
        if ref is not None:
            change(journal, ref, next_check_at=1)
        sweeper.sweep(journal.time() + day * DAY)


@pytest.mark.parametrize("safety", GUARDED)
def test_a_planned_one_is_in_doubt_the_second_time(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety
) -> None:
    ref = a_run(journal, a_step("charge", queue="celery", safety=safety))
    journal.workers.beat("listener", [])
    sweeper.sweep(journal.time() + DAY)
    assert engine.sent == ["charge"]
    assert the(journal, ref, "charge").sends == 1
    change(journal, ref, next_check_at=1)
    sweeper.sweep(journal.time() + 2 * DAY)
    assert engine.sent == ["charge"], "not a third time"
    assert the(journal, ref, "charge").status is StepStatus.IN_DOUBT


def test_an_idempotent_one_is_sent_again_and_again(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_run(journal, a_step("ship", queue="celery", safety=Safety.IDEMPOTENT))
    sweep_for_days(journal, sweeper, ref)
    assert len(engine.sent) > 2
    assert the(journal, ref, "ship").status is StepStatus.PLANNED


@pytest.mark.parametrize("safety", GUARDED)
@pytest.mark.parametrize("by_engine", [False, True])
def test_one_that_waits_for_its_next_attempt_as_well(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety, by_engine: bool
) -> None:
    ref = a_run(journal, a_step("charge", queue="celery", safety=safety))
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined", sent=by_engine)
    sweep_for_days(journal, sweeper)
    # Its own message, which the engine or the sweeper sent, and one more.
    assert [key for key in engine.sent if key == "charge"][: 2 - by_engine] == ["charge"] * (2 - by_engine)
    doubted = [e for e in journal.events.of(ref) if e["kind"] == "in_doubt"]
    assert [e["why"] for e in doubted if "vanished" in e["why"]], "and then it is in doubt"


def test_the_count_begins_anew_when_an_attempt_began(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_run(journal, a_step("charge", queue="celery"))
    for _ in range(5):
        token = claim(journal, ref, "charge")
        assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined")
        sweeper.sweep(journal.time() + SECOND)
    assert engine.sent == ["charge"] * 5
    assert the(journal, ref, "charge").status is StepStatus.WAITING


def test_one_is_not_sent_again_while_its_first_message_waits_in_the_queue(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_run(journal, a_step("charge", queue="celery"))
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined")
    engine.empty = False
    sweep_for_days(journal, sweeper)
    assert engine.sent == ["charge"]
    assert the(journal, ref, "charge").status is StepStatus.WAITING


def test_a_send_that_raised_is_not_counted(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_run(journal, a_step("charge", queue="celery"))
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined")
    engine.fails = True
    sweep_for_days(journal, sweeper)
    row = the(journal, ref, "charge")
    assert (row.status, row.sends) == (StepStatus.WAITING, 0)


def test_one_whose_probe_nobody_with_the_plugin_asks_is_held(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_run(journal, a_step("charge", queue="celery", safety=Safety.PROBE))
    in_doubt(journal, ref, "charge")
    sweep_for_days(journal, sweeper)
    assert engine.sent == ["charge"] * 2
    assert the(journal, ref, "charge").status is StepStatus.HELD


def test_one_whose_probe_is_asked_goes_on_being_asked(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_run(journal, a_step("charge", queue="celery", safety=Safety.PROBE))
    in_doubt(journal, ref, "charge")
    for day in range(1, 6):
        sweeper.sweep(journal.time() + day * DAY)
        assert journal.doubts.ask_later(the(journal, ref, "charge"), journal.time(), "the provider is away")
    assert engine.sent == ["charge"] * 5
    assert the(journal, ref, "charge").status is StepStatus.IN_DOUBT


def test_where_only_plain_workers_listen_a_waiting_one_is_sent_once_and_then_in_doubt(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_run(journal, a_step("charge", queue="plain"))
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined")
    a_worker(journal, "theirs", queues=["plain"], namespace="another")
    journal.workers.beat("theirs", [])
    sweeper.sweep(journal.time() + SECOND)
    assert engine.sent == ["charge"]
    sweeper.sweep(journal.time() + DAY)
    assert engine.sent == ["charge"]
    assert the(journal, ref, "charge").status is StepStatus.IN_DOUBT
