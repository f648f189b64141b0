"""A sleep gives everything back: the run is suspended until its time, nobody looks at it before, and it is woken once."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, SLEEPS, Kind, Safety, StepStatus, WorkflowStatus
from durable_adapter.reconcile.finding import Trouble
from durable_adapter.reconcile.survey import look_for_trouble
from durable_adapter.recovery import Sweeper
from tests.calls.conftest import Workplace, the_step
from tests.journal.making import a_dispatch, a_function, about, age, change, the_run
from tests.sweeper.conftest import NotingEngine

DAY = 86_400 * SECOND
MONTH = 30 * DAY


def naps() -> str:
    durable.sleep(30 * 86_400)
    return "rested"


def test_a_sleeping_run_is_suspended_with_what_it_waits_for_and_until_when(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    left = at_work.leaves(ref, naps)
    run, timer = the_run(journal, ref), the_step(journal, ref, "sleep")
    assert (run.status, run.waiting_for, run.wake_at) == (WorkflowStatus.SUSPENDED, f"{SLEEPS}{timer.key}", timer.next_check_at)
    assert timer.next_check_at == left.wake_at == about(journal.time() + MONTH)
    assert (timer.kind, timer.status) == (Kind.SLEEP, StepStatus.WAITING)


def test_nobody_looks_at_it_before_its_time(journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    now = journal.time()
    assert journal.due.take_runs(now + MONTH - SECOND, 10) == []
    for days in range(0, 30, 3):
        assert not sweeper.sweep(now + days * DAY).did_anything
    assert engine.sent == []


def test_it_is_woken_once(journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine, elsewhere: Any) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    now = journal.time()
    other = Sweeper(elsewhere(), [engine], stale=60)  # type: ignore[list-item]
    for at in (MONTH + SECOND, MONTH + 2 * SECOND, MONTH + 60 * SECOND, MONTH + 500 * SECOND):
        sweeper.sweep(now + at)
        other.sweep(now + at)
    assert len(engine.sent) == 1
    assert at_work.function(ref, naps) == "rested"
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


def test_a_run_whose_timer_and_look_are_due_at_once_is_woken_once(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine
) -> None:
    """A sweeper that could not sweep for long finds both."""
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    sweeper.sweep(journal.time() + MONTH + DAY)
    assert len(engine.sent) == 1


def test_one_whose_wake_up_was_lost_is_woken_again_by_the_runs_own_look(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    now = journal.time()
    sweeper.sweep(now + MONTH + SECOND)
    sweeper.sweep(now + MONTH + journal.resend_after + SECOND)
    assert len(engine.sent) == 2


def test_one_whose_wake_up_could_not_be_sent_is_woken_soon(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    now = journal.time()
    engine.fails = True
    assert sweeper.sweep(now + MONTH + SECOND).errors
    engine.fails = False
    sweeper.sweep(now + MONTH + 20 * SECOND)
    assert len(engine.sent) == 1


def test_a_message_that_comes_before_its_time_lets_it_sleep_on(journal: Journal, at_work: Workplace, sweeper: Sweeper) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    before = the_run(journal, ref)
    assert at_work.leaves(ref, naps).wake_at == before.wake_at
    again = the_run(journal, ref)
    assert (again.status, again.waiting_for, again.wake_at) == (before.status, before.waiting_for, before.wake_at)
    assert journal.due.take_runs(journal.time() + MONTH - SECOND, 10) == []


def test_of_two_wakes_that_go_to_sleep_at_once_both_leave_and_one_timer_runs(
    journal: Journal, at_work: Workplace, elsewhere: Any
) -> None:
    ref = a_function(journal)

    def overtaken() -> str:
        if not journal.reads.steps(ref)[1:]:
            at_work.leaves(ref, naps)  # the other wake goes to sleep while this one is on its way there
        return naps()

    assert at_work.leaves(ref, overtaken).wake_at == the_run(journal, ref).wake_at
    assert [s.kind for s in journal.reads.steps(ref)] == [Kind.FUNCTION, Kind.SLEEP]


def test_a_wake_that_finds_the_sleep_ended_meanwhile_goes_on(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)

    def overtaken() -> str:
        change(journal, ref, the_step(journal, ref, "sleep").key, status=StepStatus.SUCCEEDED.value, next_check_at=None)
        return naps()

    assert at_work.function(ref, overtaken) == "rested"


def test_a_sleep_that_is_over_is_no_wait(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    change(journal, ref, the_step(journal, ref, "sleep").key, next_check_at=journal.time() - SECOND)
    assert at_work.function(ref, naps) == "rested"
    assert the_step(journal, ref, "sleep").status is StepStatus.SUCCEEDED


def test_a_sleep_of_nothing_is_due_at_once(journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, lambda: durable.sleep(0))
    sweeper.sweep(journal.time() + SECOND)
    assert len(engine.sent) == 1
    assert at_work.function(ref, lambda: durable.sleep(0)) is None


def test_a_run_that_was_given_up_does_not_go_to_sleep(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    change(journal, ref, status=WorkflowStatus.CANCELLED.value)
    with pytest.raises(Deferred, match="no longer goes forward"):
        at_work.function(ref, naps)
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED


def test_a_step_that_it_sent_before_it_went_to_sleep_is_not_lost(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "mail#1", 2, safety=Safety.IDEMPOTENT))
    at_work.leaves(ref, naps)
    sweeper.sweep(journal.time() + 2 * journal.resend_after)
    assert engine.sent == ["mail#1"]
    found = journal.reads.unfinished_refs("default", journal.time())
    assert [ref for _, ref in found] == [ref], "reconcile looks at it as well"


def test_reconcile_says_until_when_it_sleeps_and_finds_one_thing_where_nobody_woke_it(
    journal: Journal, at_work: Workplace
) -> None:
    ref = a_function(journal)
    at_work.leaves(ref, naps)
    age(journal, ref, "function", "created_at", by=2 * DAY)
    age(journal, ref, None, "created_at", by=2 * DAY)
    timer = the_step(journal, ref, "sleep").key
    age(journal, ref, timer, "created_at", by=2 * DAY)
    (finding,) = look_for_trouble(journal, namespace="default", longer_than=DAY).findings
    assert finding.kind is Trouble.WAITING_LONG
    assert "It waits for a sleep that ends" in finding.certain
    age(journal, ref, timer, "next_check_at", by=MONTH + DAY)
    age(journal, ref, None, "wake_at", by=MONTH + DAY)
    assert [f.kind for f in look_for_trouble(journal, namespace="default").findings] == [Trouble.LOST]
