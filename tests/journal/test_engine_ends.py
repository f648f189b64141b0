"""The end of a task that its engine ended on purpose before it began: what it cancels, and what a person's order makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import (
    REPEATABLE,
    SECOND,
    Attention,
    Cause,
    Effect,
    Event,
    Kind,
    Safety,
    StepStatus,
    WorkflowStatus,
    attempt_name,
)
from durable_adapter.runtime.engine import EngineEnd
from durable_adapter.runtime.engine_ends import Fate, end_step, ended_by_engine
from tests.journal.making import (
    TIMED_OUT,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    claim,
    succeed,
    the,
    the_run,
)

REVOKED = EngineEnd("it was revoked", RuntimeError("revoked"))


def end(journal: Journal, ref: str, task_id: str, **given: Any) -> Fate:
    """The engine ended a task."""
    return ended_by_engine(journal, ref, task_id, EngineEnd("it was revoked", RuntimeError("revoked"), **given))


def statuses(journal: Journal, ref: str) -> list[StepStatus]:
    """Where the steps of a run stand."""
    return [s.status for s in journal.reads.steps(ref)]


def test_the_step_and_what_comes_after_it_are_cancelled_and_the_run_is_shown(journal: Journal) -> None:
    ref = a_run(journal, "reserve", a_step("charge", task_id="t-1"), "ship")
    succeed(journal, ref, "reserve")
    assert end(journal, ref, "t-1") is Fate.ENDED
    assert statuses(journal, ref) == [StepStatus.SUCCEEDED, StepStatus.CANCELLED, StepStatus.CANCELLED]
    charge = the(journal, ref, "charge")
    assert (charge.cause, charge.evidence, charge.next_check_at) == (Cause.ENDED_BY_ENGINE, "it was revoked", None)
    run = the_run(journal, ref)
    assert (run.status, run.attention, run.next_check_at) == (WorkflowStatus.CANCELLED, Attention.ENDED_BY_ENGINE, None)
    assert [e["kind"] for e in journal.events.of(ref)] == [Event.ENDED_BY_ENGINE]
    assert ref in journal.reads.troubled_refs()


def test_nothing_of_it_begins_any_more(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    end(journal, ref, "t-1")
    assert not journal.claims.begin(ref, "charge", "t" * 16, a_worker(journal), None, safety=Safety.PROTECTED)


def test_a_second_word_of_it_changes_nothing(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    row = the(journal, ref, "charge")
    assert journal.engine_ends.end(row, "it was revoked")
    assert journal.engine_ends.end(row, "it was revoked"), "its answer may have been lost"
    assert end(journal, ref, "t-1") is Fate.UNTOUCHED
    assert len(journal.events.of(ref)) == 1


def test_one_that_has_begun_is_not_touched(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    row = the(journal, ref, "charge")
    claim(journal, ref, "charge", a_worker(journal))
    assert end(journal, ref, "t-1") is Fate.UNTOUCHED
    assert not journal.engine_ends.end(row, "it was revoked"), "also where it began between the look and the end"
    assert statuses(journal, ref) == [StepStatus.BEGUN]
    assert the_run(journal, ref).attention is None


def test_a_second_message_of_a_function_that_runs_ends_nothing(journal: Journal) -> None:
    ref = a_function(journal)
    worker = a_worker(journal)
    journal.workers.beat(worker, [attempt_name(ref, "function", None)])
    function = the(journal, ref, "function")
    steps = journal.reads.steps(ref)
    assert end_step(journal, the_run(journal, ref), function, steps, REVOKED) is Fate.UNTOUCHED
    killed = EngineEnd("it was revoked, and its process was killed", RuntimeError("revoked"), killed=True)
    assert end_step(journal, the_run(journal, ref), function, steps, killed) is Fate.ENDED


def test_an_earlier_attempt_that_may_have_had_its_effect_is_not_called_cancelled(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1", safety=Safety.IDEMPOTENT), "ship")
    assert Safety.IDEMPOTENT in REPEATABLE
    token = claim(journal, ref, "charge", a_worker(journal))
    row = the(journal, ref, "charge")
    assert journal.ends.try_again(row, token, SECOND, TIMED_OUT, "it timed out", effect=Effect.UNKNOWN)
    assert end(journal, ref, "t-1") is Fate.ENDED
    row = the(journal, ref, "charge")
    assert (row.status, row.effect, row.attention) == (StepStatus.FAILED, Effect.UNKNOWN, Attention.EFFECT_UNKNOWN)
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED


def test_expiry_is_said_of_a_first_attempt_alone(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    token = claim(journal, ref, "charge", a_worker(journal))
    assert journal.ends.try_again(the(journal, ref, "charge"), token, SECOND, None, "not yet", effect=Effect.DID_NOT_HAPPEN)
    assert end(journal, ref, "t-1", first_only=True) is Fate.GOES_ON
    assert statuses(journal, ref) == [StepStatus.WAITING]


def test_members_that_do_not_come_after_it_go_on_and_the_run_is_cancelled_when_they_have_ended(journal: Journal) -> None:
    ref = a_run(
        journal,
        a_step("charge", task_id="t-1", after=[], completes_run=True),
        a_step("mail", after=[], completes_run=True),
        a_step("ship", after=["charge"], completes_run=True),
        a_step("tell", after=["ship"], completes_run=True),
        open_steps=4,
    )
    assert end(journal, ref, "t-1") is Fate.ENDED
    cancelled = StepStatus.CANCELLED
    assert statuses(journal, ref) == [cancelled, StepStatus.PLANNED, cancelled, cancelled]
    run = the_run(journal, ref)
    assert (run.status, run.attention) == (WorkflowStatus.RUNNING, Attention.ENDED_BY_ENGINE)
    succeed(journal, ref, "mail", completes_run=True)
    assert journal.runs.complete(ref)
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED


def test_a_function_is_told_of_a_step_that_it_sent(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1", task_id="t-1"))
    journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
    assert end(journal, ref, "t-1") is Fate.ENDED
    row = the(journal, ref, "ship#1")
    assert (row.status, row.effect) == (StepStatus.FAILED, Effect.DID_NOT_HAPPEN)
    run = the_run(journal, ref)
    assert run.status is WorkflowStatus.SUSPENDED
    assert run.wake_at is not None, "its function is due, and may catch the error"


def test_a_rollback_whose_compensation_was_ended_has_failed(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    decision = journal.undo.begin(ref, who="me", why="it is to be undone")
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.task_id is not None
    assert end(journal, ref, decision.undo.task_id) is Fate.ENDED
    run = the_run(journal, ref)
    assert (run.status, run.attention) == (WorkflowStatus.COMPENSATION_FAILED, Attention.UNDO_FAILED)


def test_a_person_s_order_makes_it_due_and_what_came_after_it_planned(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), "ship")
    end(journal, ref, "t-1")
    now = journal.time()
    assert journal.runs.reopen(ref, ["charge"], who="me", why="it is to run", now=now)
    charge = the(journal, ref, "charge")
    assert (charge.status, charge.next_check_at, charge.cause, charge.evidence) == (StepStatus.WAITING, now, None, None)
    assert the(journal, ref, "ship").status is StepStatus.PLANNED
    run = the_run(journal, ref)
    assert (run.status, run.attention) == (WorkflowStatus.RUNNING, None)


@pytest.mark.parametrize("minutes", [-1, 1])
def test_an_end_from_before_that_order_is_not_heard(journal: Journal, minutes: int) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), "ship")
    end(journal, ref, "t-1")
    assert journal.runs.reopen(ref, ["charge"], who="me", why="it is to run", now=journal.time())
    fate = end(journal, ref, "t-1", at=journal.time() + minutes * 60 * SECOND)
    assert fate is (Fate.GOES_ON if minutes < 0 else Fate.ENDED)


def test_one_that_goes_on_is_due_at_once_unless_it_waits_for_its_time(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    journal.engine_ends.send_again(ref, "t-1")
    charge = the(journal, ref, "charge")
    assert charge.status is StepStatus.WAITING
    assert charge.next_check_at is not None
    assert charge.next_check_at <= journal.time()
    token = claim(journal, ref, "charge", a_worker(journal))
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 60 * SECOND, None, "not yet", sent=True)
    before = the(journal, ref, "charge")
    journal.due.count_send(before)
    journal.engine_ends.send_again(ref, "t-1")
    row = the(journal, ref, "charge")
    assert (row.next_check_at, row.sent_at, row.sends) == (before.next_check_at, None, 0), "its message did not vanish"


def test_an_unmarked_member_is_ended_as_well(journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("legacy", kind=Kind.UNMARKED, task_id="t-1"), "ship")
    succeed(journal, ref, "charge")
    assert end(journal, ref, "t-1") is Fate.ENDED
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED
    assert journal.runs.reopen(ref, ["legacy"], who="me", why="it is to run", now=journal.time())
    assert statuses(journal, ref) == [StepStatus.SUCCEEDED, StepStatus.PLANNED, StepStatus.PLANNED]
    assert the(journal, ref, "charge").next_check_at is not None, "its message is sent once more, and sends what follows"


def test_what_a_function_has_in_hand_is_left_to_be_settled(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.begin_new(a_call(ref, "charge#1", worker=a_worker(journal)))
    function, steps = the(journal, ref, "function"), journal.reads.steps(ref)
    assert journal.engine_ends.end(function, "it was revoked")
    assert len(steps) == 2
    assert the(journal, ref, "charge#1").status is StepStatus.BEGUN
    assert ref in journal.reads.troubled_refs()


def test_one_in_doubt_is_held_because_its_message_will_not_settle_it(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1", safety=Safety.IDEMPOTENT), "ship")
    token = claim(journal, ref, "charge", a_worker(journal))
    assert journal.doubts.raise_doubt(the(journal, ref, "charge"), token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    assert end(journal, ref, "t-1") is Fate.ENDED
    charge = the(journal, ref, "charge")
    assert charge.status is StepStatus.HELD
    assert charge.evidence == "its worker died; it was revoked, so that it is not settled or repeated by itself"
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING


def test_a_person_s_verdict_is_an_order_as_well_and_a_probe_s_is_none(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), a_step("ship", task_id="t-2"))
    for key, who in (("charge", "probe"), ("ship", "ann")):
        token = claim(journal, ref, key, a_worker(journal, f"worker-of-{key}"))
        assert journal.doubts.raise_doubt(the(journal, ref, key), token, "its worker died", cause=Cause.WORKER_DIED, over=True)
        assert journal.verdicts.did_not_happen(the(journal, ref, key), who=who, why="asked the bank").recorded
        assert (journal.engine_ends.ordered_again_at(ref) is None) is (who == "probe")


def test_a_message_that_no_worker_took_is_looked_after_soon(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), "ship")
    assert journal.engine_ends.not_taken(ref, "t-1", "a worker does not know it")
    charge = the(journal, ref, "charge")
    assert (charge.status, charge.cause, charge.evidence) == (StepStatus.PLANNED, Cause.NOT_TAKEN, "a worker does not know it")
    next_check_at = the_run(journal, ref).next_check_at
    assert next_check_at is not None
    assert next_check_at < journal.time() + 60 * SECOND
    journal.engine_ends.taken_up(charge)
    assert (the(journal, ref, "charge").cause, the(journal, ref, "charge").evidence) == (None, None)


def test_an_unmarked_member_is_not_said_to_be_sent_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("mail", task_id="t-1", kind=Kind.UNMARKED), "ship")
    assert not journal.engine_ends.not_taken(ref, "t-1", "a worker does not know it")
    assert the(journal, ref, "mail").cause is None


def test_what_has_begun_was_taken(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"))
    claim(journal, ref, "charge", a_worker(journal))
    assert not journal.engine_ends.not_taken(ref, "t-1", "a worker does not know it")
    assert the(journal, ref, "charge").cause is None


def test_an_end_that_was_stored_when_its_message_was_thrown_away_once_more_is_not_heard_either(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), "ship")
    end(journal, ref, "t-1")
    assert journal.runs.reopen(ref, ["charge"], who="me", why="it is to run", now=journal.time())
    stored = journal.time()
    journal.engine_ends.send_again(ref, "t-1")
    assert end(journal, ref, "t-1", at=stored) is Fate.GOES_ON
    assert end(journal, ref, "t-1", at=journal.time() + SECOND) is Fate.ENDED, "revoked anew"


def test_a_run_ends_behind_a_member_that_was_ended_with_its_effect_unknown(journal: Journal) -> None:
    """Its other branch went on, and is the last to end."""
    steps = (
        a_step("charge", task_id="t-1", safety=Safety.IDEMPOTENT, after=[], pending=0, completes_run=True),
        a_step("mail", after=[], pending=0, completes_run=True),
    )
    ref = a_run(journal, *steps, open_steps=2)
    token = claim(journal, ref, "charge")
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    assert journal.engine_ends.end(the(journal, ref, "charge"), "it was revoked")
    assert (the(journal, ref, "charge").status, the_run(journal, ref).status) == (StepStatus.FAILED, WorkflowStatus.RUNNING)
    succeed(journal, ref, "mail")
    assert journal.runs.complete(ref)
    run = the_run(journal, ref)
    assert (run.status, run.attention) == (WorkflowStatus.CANCELLED, Attention.ENDED_BY_ENGINE)
