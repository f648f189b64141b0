"""Doubt, hold and verdicts: the attempt's own outcome counts until a verdict or a new claim commits; then one wins (P4)."""

from __future__ import annotations

from collections import Counter

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.doubts import AGAIN, NOT_OVER, SILENT
from durable_adapter.journal.losses import Doubtful
from durable_adapter.model import (
    SECOND,
    Attention,
    Cause,
    Death,
    Effect,
    Event,
    Kind,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    WorkflowStatus,
    attempt_name,
    new_token,
)
from tests.journal.interleaving import Interleaving, together
from tests.journal.making import (
    DECLINED,
    MINUTE,
    NOTHING,
    ONE,
    TIMED_OUT,
    TWO,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    about,
    age,
    change,
    claim,
    events,
    fail,
    held,
    in_doubt,
    keys,
    marked,
    statuses,
    succeed,
    the,
    the_run,
)

DID_NOT = Effect.DID_NOT_HAPPEN


def test_a_begun_step_is_put_in_doubt_with_its_reason_and_keeps_its_token(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge", timeout=MINUTE)
    row = the(journal, ref, "charge")
    assert journal.doubts.raise_doubt(
        row, token, "its worker died", cause=Cause.WORKER_DIED, over=True, error=TIMED_OUT, who="sweeper"
    )
    row = the(journal, ref, "charge")
    assert (row.status, row.token, row.doubt, row.error) == (StepStatus.IN_DOUBT, token, "its worker died", TIMED_OUT)
    now = about(journal.time())
    assert (row.doubt_at, row.over_at, row.next_check_at, row.deadline_at) == (now, now, now, None)
    assert events(journal, ref) == [Event.IN_DOUBT]


def test_only_the_holder_of_the_token_is_put_in_doubt(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    token = claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert not journal.doubts.raise_doubt(row, "another", "its worker died", cause=Cause.WORKER_DIED, over=True)
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=False)
    assert not journal.doubts.raise_doubt(row, token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    assert statuses(journal, ref)["charge"] == "succeeded"


def test_a_planned_step_that_somebody_else_may_have_run_is_put_in_doubt(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = the(journal, ref, "charge")
    assert journal.doubts.raise_doubt(
        row, None, "a worker without the plugin may have run it", cause=Cause.WORKER_DIED, over=True
    )
    assert (the(journal, ref, "charge").status, the(journal, ref, "charge").attempt) == (StepStatus.IN_DOUBT, 1)


def test_a_doubt_about_a_planned_step_comes_too_late_for_one_that_was_claimed(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = the(journal, ref, "charge")
    token = claim(journal, ref, "charge")
    assert not journal.doubts.raise_doubt(
        row, None, "a worker without the plugin may have run it", cause=Cause.WORKER_DIED, over=True
    )
    assert (the(journal, ref, "charge").status, the(journal, ref, "charge").token) == (StepStatus.BEGUN, token)


def test_an_attempt_on_a_worker_that_stopped_beating_is_over_when_its_time_out_has_passed_as_well(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options={"timeout": 5 * MINUTE}), "ship")
    row = in_doubt(journal, ref, "charge", over=False)
    assert row.over_at == about((row.begun_at or 0) + 5 * MINUTE)
    assert in_doubt(journal, ref, "ship", over=False).over_at == SILENT, "without one nobody knows when"


def test_a_time_out_makes_an_attempt_in_doubt_and_not_over(journal: Journal) -> None:
    """Where the pool cannot kill the body it goes on: nothing may be begun, and no probe's "did not happen" counts."""
    ref = a_run(journal, a_step("charge", safety=Safety.PROBE, options={"timeout": MINUTE}))
    token = claim(journal, ref, "charge", timeout=MINUTE)
    age(journal, ref, "charge", "begun_at", "deadline_at", "next_check_at")
    assert journal.due.take_steps(journal.time(), 10) == []
    row = the(journal, ref, "charge")
    assert (row.status, row.doubt, row.over_at) == (StepStatus.IN_DOUBT, "its time-out has passed", NOT_OVER)
    assert keys(journal.due.take_steps(journal.time(), 10)) == ["charge"], "its probe may say that it happened"
    assert journal.doubts.ask_later(row, NOT_OVER + 60 * SECOND)
    assert the(journal, ref, "charge").next_check_at == about(journal.time() + AGAIN), "and is asked again and again"
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True), "its own outcome counts"


@pytest.mark.parametrize("how", ["its body returned", "its worker died", "its worker stopped", "its worker lost it"])
def test_a_timed_out_attempt_is_over_when_its_body_returns_or_its_process_is_dead(journal: Journal, how: str) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    ref = a_run(journal, a_step("charge", options={"timeout": MINUTE}))
    token = claim(journal, ref, "charge", worker="w2", timeout=MINUTE)
    running = [attempt_name(ref, "charge", token)]
    age(journal, ref, "charge", "begun_at", "deadline_at", "next_check_at")
    journal.due.take_steps(journal.time(), 10)
    for _ in range(2):
        journal.workers.beat("w2", running)
    assert journal.due.of_dead_workers(10) == journal.due.missing_from_heartbeats(10) == []
    row = the(journal, ref, "charge")
    if how == "its body returned":
        assert journal.doubts.raise_doubt(row, token, "it raised", cause=Cause.WORKER_DIED, over=True, error=TIMED_OUT)
    elif how == "its worker lost it":
        for _ in range(2):
            journal.workers.beat("w2", [])
        ((row, _),) = journal.due.missing_from_heartbeats(10)
        assert journal.doubts.raise_doubt(
            row, row.token, "its worker lives, but does not run it any more", cause=Cause.WORKER_DIED, over=True
        )
    else:
        if how == "its worker died":
            journal.workers.child_died("p", 7, "killed")
        else:
            journal.workers.stop("w2")
        ((row, death),) = journal.due.of_dead_workers(10)
        assert death == (Death.PARENT_SAW if how == "its worker died" else Death.STOPPED)
        assert journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    row = the(journal, ref, "charge")
    assert row.over_at == about(journal.time())
    assert row.next_check_at == about(journal.time())
    assert journal.due.of_dead_workers(10) == journal.due.missing_from_heartbeats(10) == []


def test_the_moment_at_which_an_attempt_was_over_does_not_move_again(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = in_doubt(journal, ref, "charge")
    age(journal, ref, "charge")
    before = the(journal, ref, "charge")
    assert not journal.doubts.raise_doubt(row, row.token, "another reason", cause=Cause.WORKER_DIED, over=True)
    assert the(journal, ref, "charge").over_at == before.over_at


def test_a_step_in_doubt_is_held_with_its_evidence_until_a_person_decides(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = in_doubt(journal, ref, "charge")
    assert journal.doubts.hold(row, "the provider cannot tell", who="w1")
    found = the(journal, ref, "charge")
    assert (found.status, found.evidence, found.next_check_at) == (StepStatus.HELD, "the provider cannot tell", None)
    assert found.token == row.token
    assert events(journal, ref) == [Event.IN_DOUBT, Event.HELD]
    assert journal.doubts.hold(row, "the provider cannot tell", who="w1"), "its answer may have been lost"
    assert not journal.doubts.hold(row, "another reason", who="w2")
    assert events(journal, ref) == [Event.IN_DOUBT, Event.HELD]


def test_a_step_that_was_claimed_again_is_not_held_for_its_earlier_attempt(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = in_doubt(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="probe", why="no such charge")
    second = in_doubt(journal, ref, "charge")
    assert second.token != row.token
    assert not journal.doubts.hold(row, "the provider cannot tell")
    assert not journal.doubts.take_over(row, "it is idempotent")
    assert not journal.verdicts.happened(row, ONE, who="probe", why="found").recorded
    assert not journal.verdicts.did_not_happen(row, who="probe", why="still none").recorded
    assert statuses(journal, ref)["charge"] == "in_doubt"


def test_a_function_whose_code_no_longer_fits_is_held_and_runs_again_by_a_persons_order(journal: Journal) -> None:
    ref = a_function(journal)
    function = the(journal, ref, "function")
    assert journal.doubts.hold_drift(function, "other arguments")
    found = the(journal, ref, "function")
    assert (found.status, found.attention, found.next_check_at) == (StepStatus.HELD, Attention.DRIFT, None)
    assert events(journal, ref) == [Event.DRIFT]
    assert journal.verdicts.release(found, who="me", why="the code is fixed")
    assert statuses(journal, ref) == {"run": "running", "function": "waiting"}
    assert not journal.verdicts.release(found, who="me", why="the code is fixed")


def test_a_held_function_is_not_released_into_a_run_that_is_over(journal: Journal) -> None:
    ref = a_function(journal)
    journal.doubts.hold_drift(the(journal, ref, "function"), "other arguments")
    held_function = the(journal, ref, "function")
    journal.runs.cancel(ref, who="me", why="wrong order")
    journal.verdicts.release(held_function, who="me", why="the code is fixed")
    assert statuses(journal, ref) == {"run": "cancelled", "function": "cancelled"}


def test_a_step_in_doubt_is_asked_about_later(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = in_doubt(journal, ref, "charge")
    at = journal.time() + MINUTE
    assert journal.doubts.ask_later(row, at, "the probe raised")
    found = the(journal, ref, "charge")
    assert (found.next_check_at, found.evidence) == (at, "the probe raised")
    journal.doubts.hold(row, "nobody can tell")
    assert not journal.doubts.ask_later(row, at)


def test_a_step_that_is_safe_to_repeat_is_taken_over_by_a_new_attempt(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = in_doubt(journal, ref, "charge")
    assert journal.doubts.take_over(row, "it is idempotent", who="w1", delay=MINUTE)
    found = the(journal, ref, "charge")
    assert (found.status, found.takeovers, found.next_check_at) == (StepStatus.WAITING, 1, about(journal.time() + MINUTE))
    assert journal.doubts.take_over(row, "it is idempotent", who="w1"), "its answer may have been lost"
    assert the(journal, ref, "charge").takeovers == 1
    assert events(journal, ref) == [Event.IN_DOUBT, Event.TAKEN_OVER]


@pytest.mark.parametrize(("safety", "closed"), [(Safety.IDEMPOTENT, "failed"), (Safety.TRANSACTIONAL, "cancelled")])
def test_nothing_is_taken_over_in_a_run_that_is_rolling_back(journal: Journal, safety: Safety, closed: str) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("pack", safety=safety, compensation="unpack"), "ship")
    succeed(journal, ref, "charge")
    row = in_doubt(journal, ref, "pack")
    fail(journal, ref, "ship")
    assert not journal.doubts.take_over(row, "repeating it is safe")
    assert not journal.claims.begin(ref, "pack", new_token(), "w1")
    assert statuses(journal, ref)["pack"] == closed
    _undo(journal, ref, "charge")
    if closed == "failed":
        assert keys(marked(journal)) == ["pack"]
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK, "what may have happened must be settled first"
        journal.verdicts.did_not_happen(the(journal, ref, "pack"), who="me", why="not in the ledger")
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


def _undo(journal: Journal, ref: str, target: str) -> None:
    key = f"undo:{target}"
    assert journal.ends.succeed_undo(ref, key, claim(journal, ref, key), target, NOTHING).recorded


def test_a_verdict_that_it_happened_records_the_value_and_the_evidence(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    row = held(journal, ref, "charge")
    journal.due.check_again(ref, journal.time() + MINUTE)
    ended = journal.verdicts.happened(row, TWO, who="me", why="it is in the ledger")
    assert (ended.recorded, ended.decision) == (True, None)
    found = the(journal, ref, "charge")
    assert (found.status, found.outcome, found.effect) == (StepStatus.SUCCEEDED, TWO, Effect.HAPPENED)
    assert found.verdict == "me: happened: it is in the ledger"
    assert found.next_check_at == about(journal.time()), "its message is sent once more, and stores the engine's result"
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
    assert keys(journal.due.take_steps(journal.time(), 10)) == ["charge"]
    assert keys(journal.due.take_steps(journal.time(), 10)) == []
    again = journal.verdicts.happened(row, TWO, who="me", why="it is in the ledger")
    assert again.recorded, "its answer may have been lost"
    assert the_run(journal, ref).open_steps == 0
    assert events(journal, ref).count(Event.VERDICT) == 1


def test_a_verdict_that_it_happened_wakes_the_function_that_waits(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    row = held(journal, ref, "ship#1")
    journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
    assert journal.verdicts.happened(row, ONE, who="me", why="the parcel is there").recorded
    run = the_run(journal, ref)
    assert (run.open_steps, run.next_check_at, run.wake_at) == (1, about(journal.time()), about(journal.time()))


def test_a_verdict_that_it_did_not_happen_makes_a_new_attempt_due(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger", delay=MINUTE).recorded
    found = the(journal, ref, "charge")
    assert (found.status, found.effect, found.verdict) == (StepStatus.WAITING, DID_NOT, "me: did not happen: not in the ledger")
    assert (found.token, found.next_check_at) == (row.token, about(journal.time() + MINUTE))
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger").recorded, "its answer may have been lost"
    assert not journal.verdicts.did_not_happen(row, who="you", why="not in the ledger").recorded
    assert events(journal, ref).count(Event.VERDICT) == 1


def test_a_verdict_that_it_failed_is_a_compare_and_set_too(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="me", why="not in the ledger")
    token = claim(journal, ref, "charge")
    assert not journal.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="you", why="give it up").recorded
    assert the(journal, ref, "charge").token == token
    assert statuses(journal, ref) == {"run": "running", "charge": "begun"}
    again = a_run(journal, "charge")
    row = held(journal, again, "charge")
    ended = journal.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="you", why="give it up")
    assert ended.recorded
    assert (the(journal, again, "charge").verdict, statuses(journal, again)["run"]) == ("give it up", "failed")
    assert the(journal, again, "charge").next_check_at == about(journal.time()), "its message is sent once more"


@pytest.mark.parametrize("status", [s for s in StepStatus if s not in ("in_doubt", "held", "failed")])
def test_a_verdict_is_accepted_only_on_what_is_in_doubt_held_or_failed(journal: Journal, status: StepStatus) -> None:
    ref = a_run(journal, "charge")
    change(journal, ref, "charge", status=status.value)
    row = the(journal, ref, "charge")
    assert not journal.verdicts.happened(row, ONE, who="me", why="it is there").recorded
    assert not journal.verdicts.did_not_happen(row, who="me", why="it is not there").recorded
    assert the(journal, ref, "charge").status is status


def test_a_verdict_on_a_failure_with_unknown_effect_lets_the_rollback_be_decided(journal: Journal) -> None:
    for happened, status in ((True, "failed"), (False, "rolling_back")):
        ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", pivot=True))
        succeed(journal, ref, "charge")
        ended = fail(journal, ref, "ship", Effect.UNKNOWN)
        assert ended.decision.status is WorkflowStatus.FAILING
        row = the(journal, ref, "ship")
        if happened:
            ended = journal.verdicts.happened(row, ONE, who="me", why="the parcel is there")
        else:
            ended = journal.verdicts.did_not_happen(row, who="me", why="no parcel")
        assert ended.recorded
        assert ended.decision is not None
        assert ended.decision.status == status
        assert (ended.decision.undo is None) is happened
        assert the(journal, ref, "ship").status is (StepStatus.SUCCEEDED if happened else StepStatus.FAILED)


def test_a_verdict_in_a_run_that_rolls_back_makes_nothing_due_and_takes_the_rollback_further(journal: Journal) -> None:
    for happened in (True, False):
        ref = a_run(journal, a_step("charge", compensation="refund"), a_step("pack", compensation="unpack"), "ship")
        succeed(journal, ref, "charge")
        row = in_doubt(journal, ref, "pack")
        fail(journal, ref, "ship")
        _undo(journal, ref, "charge")
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK
        if happened:
            ended = journal.verdicts.happened(row, ONE, who="me", why="it is packed")
            assert ended.decision is not None
            assert ended.decision.undo is not None
            assert ended.decision.undo.target == "pack"
            _undo(journal, ref, "pack")
        else:
            ended = journal.verdicts.did_not_happen(row, who="me", why="it is not packed")
            assert not journal.claims.begin(ref, "pack", new_token(), "w1")
            assert statuses(journal, ref)["pack"] == "cancelled"
        assert ended.recorded
        assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


def test_two_verdicts_at_once_give_one(journal: Journal) -> None:
    for _ in range(4):
        ref = a_run(journal, a_step("charge", completes_run=True))
        row = held(journal, ref, "charge")
        said = together(
            lambda: journal.verdicts.happened(row, ONE, who="me", why="it is there").recorded,
            lambda: journal.verdicts.did_not_happen(row, who="you", why="it is not").recorded,
            lambda: journal.verdicts.happened(row, TWO, who="her", why="twice").recorded,
            lambda: journal.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="him", why="no").recorded,
        )
        assert said.count(True) == 1
        verdict = the(journal, ref, "charge").verdict or ""
        assert verdict.startswith(("me", "you", "her", "no")[said.index(True)])
        assert events(journal, ref).count(Event.VERDICT) + events(journal, ref).count(Event.STEP_FAILED) == 1


@pytest.mark.parametrize("verdict", ["happened", "did not happen", "failed"])
def test_a_verdict_against_a_late_success_gives_one_winner_and_keeps_the_loser(
    journal: Journal, meanwhile: Interleaving, verdict: str
) -> None:
    for success_first in (True, False):
        ref = a_run(journal, a_step("charge", completes_run=True), open_steps=2)
        row = held(journal, ref, "charge")

        def decide(other: Journal) -> bool:
            if verdict == "happened":
                return other.verdicts.happened(row, TWO, who="me", why="it is there").recorded
            if verdict == "failed":
                return other.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="me", why="no").recorded
            return other.verdicts.did_not_happen(row, who="me", why="it is not there").recorded

        def succeed_late(other: Journal) -> bool:
            token = row.token or ""
            recorded = other.ends.succeed(ref, "charge", token, ONE, completes_run=True)
            if not recorded:
                other.ends.late(ref, "charge", token, ONE, "w1")
            return recorded

        if success_first:
            success = meanwhile.stopped_before("UPDATE durable_step", succeed_late)
            decision = meanwhile.run(decide)
        else:
            decision = meanwhile.stopped_after("UPDATE durable_step", decide)
            success = meanwhile.run(succeed_late)
        success.go()
        decision.go()
        if success.result():  # SQLite: whoever has begun a transaction has the only lock
            assert success_first
            assert not decision.result()
            assert (the(journal, ref, "charge").outcome, the_run(journal, ref).open_steps) == (ONE, 1)
            continue
        assert decision.result()
        found = the(journal, ref, "charge")
        # A person may have seen another value of the one attempt that there was.
        assert found.marks == ([] if verdict == "happened" else [Attention.TWICE])
        assert Event.LATE_SUCCESS in events(journal, ref), "what the loser tried to write is kept"
        assert found.status is StepStatus.SUCCEEDED, "a success is stored; a new attempt that is not claimed is stopped"
        assert found.outcome == (TWO if verdict == "happened" else ONE)
        assert the_run(journal, ref).open_steps == (2 if verdict == "failed" else 1), "counted once"


def test_a_success_that_is_recorded_first_refuses_the_verdict(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    decision = meanwhile.stopped_before(
        "UPDATE durable_step", lambda other: other.verdicts.did_not_happen(row, who="me", why="it is not there").recorded
    )
    success = meanwhile.run(lambda other: other.ends.succeed(ref, "charge", row.token or "", ONE, completes_run=True))
    assert {decision.result(), success.result()} == {True, False}
    found = the(journal, ref, "charge")
    assert found.status is (StepStatus.SUCCEEDED if success.result() else StepStatus.WAITING)


def test_a_verdict_against_a_new_claim_gives_one_attempt(journal: Journal) -> None:
    """Two operators say "did not happen" at once, and workers try to claim meanwhile: one verdict, one attempt."""
    for _ in range(3):
        ref = a_run(journal, "charge")
        row = held(journal, ref, "charge")
        done = together(
            *[lambda who=who: journal.verdicts.did_not_happen(row, who=who, why="no").recorded for who in "ab"],  # type: ignore[misc]
            *[lambda: bool(journal.claims.begin(ref, "charge", new_token(), "w1"))] * 3,
        )
        assert done[:2].count(True) == 1
        won = done[2:].count(True) or bool(journal.claims.begin(ref, "charge", new_token(), "w1"))
        assert won == 1
        assert the(journal, ref, "charge").attempt == 2


def test_what_is_due_is_taken_once_by_two_sweepers_at_once(journal: Journal) -> None:
    now = journal.time()
    refs = [a_run(journal, "charge", "ship") for _ in range(15)]
    for ref in refs:
        in_doubt(journal, ref, "charge")
        token = claim(journal, ref, "ship")
        journal.ends.try_again(the(journal, ref, "ship"), token, 0, DECLINED, "declined")
    taken = together(*[lambda: journal.due.take_steps(now + MINUTE, 10)] * 4)
    found = [(row.ref, row.key) for batch in taken for row in batch]
    assert len(found) == len(set(found)), "nothing is taken twice"
    rest = journal.due.take_steps(now + MINUTE, 100)
    assert sorted(found + [(row.ref, row.key) for row in rest]) == sorted(
        (ref, key) for ref in refs for key in ("charge", "ship")
    )


def test_a_sweeper_does_not_wait_for_rows_that_another_one_has_locked(journal: Journal, meanwhile: Interleaving) -> None:
    for _ in range(4):
        in_doubt(journal, a_run(journal, "charge"), "charge")
    now = journal.time() + MINUTE
    first = meanwhile.stopped_after("SELECT durable_step", lambda other: other.due.take_steps(now, 2), skip=1)
    second = meanwhile.run(lambda other: other.due.take_steps(now, 10))
    if not journal.db.is_sqlite:
        assert second.ended.is_set(), "it did not wait"
    taken = [*first.result(), *second.result(), *journal.due.take_steps(now, 10)]
    assert len(taken) == len({row.ref for row in taken}) == 4


def test_a_step_in_doubt_is_taken_again_and_again_until_it_is_decided(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    in_doubt(journal, ref, "charge")
    now = journal.time() + SECOND
    assert keys(journal.due.take_steps(now, 10)) == ["charge"]
    assert keys(journal.due.take_steps(now, 10)) == []
    assert keys(journal.due.take_steps(now + AGAIN, 10)) == ["charge"]


def test_a_planned_step_with_a_timer_is_taken_until_it_begins(journal: Journal) -> None:
    now = journal.time()
    ref = a_run(journal, a_step("sleep", kind=Kind.SLEEP, next_check_at=now))
    assert keys(journal.due.take_steps(now, 10)) == ["sleep"]
    assert keys(journal.due.take_steps(now + AGAIN, 10)) == ["sleep"], "a sweeper that died in between loses nothing"
    assert the(journal, ref, "sleep").next_check_at == now, "it stays due"


def test_a_batch_is_as_large_as_is_asked_for_and_takes_what_is_due_longest(journal: Journal) -> None:
    refs = [a_run(journal, "charge") for _ in range(5)]
    for number, ref in enumerate(refs):
        in_doubt(journal, ref, "charge")
        change(journal, ref, "charge", next_check_at=journal.time() - (number + 1) * MINUTE)
    assert {row.ref for row in journal.due.take_steps(journal.time(), 2)} == set(refs[3:])


def test_begun_steps_of_the_dead_are_found_with_how_that_is_known(journal: Journal) -> None:
    ref = a_run(journal, "stopped", "killed", "silent", "gone", "living")
    for pid, key in enumerate(("stopped", "killed", "silent", "gone", "living"), 10):
        a_worker(journal, f"w-{key}", parent="p", pid=pid)
        claim(journal, ref, key, worker=f"w-{key}")
    journal.workers.stop("w-stopped")
    journal.workers.child_died("p", 11, "killed")
    journal.workers.stood_still("w-silent", 0, "silent for 60 s")
    change(journal, ref, "gone", worker="nobody")
    found = {row.key: death for row, death in journal.due.of_dead_workers(10)}
    assert found == {
        "stopped": Death.STOPPED,
        "killed": Death.PARENT_SAW,
        "silent": Death.STOOD_STILL,
        "gone": None,
    }
    assert len(journal.due.of_dead_workers(2)) == 2
    assert journal.due.missing_from_heartbeats(10) == []


def test_a_begun_attempt_that_is_missing_from_two_beats_of_its_living_worker_is_found(journal: Journal) -> None:
    ref = a_run(journal, "forgotten", "running", "new", 'odd "key" %_\\')
    forgotten = claim(journal, ref, "forgotten")
    running = [attempt_name(ref, key, claim(journal, ref, key)) for key in ("running", 'odd "key" %_\\')]
    age(journal, ref, "forgotten", "begun_at", by=SECOND)  # SQLite's clock knows milliseconds only
    journal.workers.beat("w1", [*running, attempt_name(ref, "forgotten", forgotten)])
    assert journal.due.missing_from_heartbeats(10) == []
    journal.workers.beat("w1", running)
    assert journal.due.missing_from_heartbeats(10) == [], "missing from one beat only"
    journal.workers.beat("w1", running)
    claim(journal, ref, "new")
    assert [row.key for row, _ in journal.due.missing_from_heartbeats(10)] == ["forgotten"]


def test_forgotten_attempts_are_found_among_any_number_of_running_ones(journal: Journal) -> None:
    names = [f"step{i}" for i in range(30)]
    ref = a_run(journal, *names, "forgotten")
    running = [attempt_name(ref, name, claim(journal, ref, name)) for name in names]
    claim(journal, ref, "forgotten")
    age(journal, ref, "forgotten", "begun_at", by=SECOND)  # SQLite's clock knows milliseconds only
    for _ in range(2):
        journal.workers.beat("w1", running)
    assert [row.key for row, _ in journal.due.missing_from_heartbeats(5)] == ["forgotten"]


def test_a_finding_is_taken_away_by_a_persons_word(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert journal.verdicts.acknowledge(ref, "charge", who="me", why="written off")
    assert not journal.verdicts.acknowledge(ref, "charge", who="me", why="written off")
    assert keys(marked(journal)) == []
    assert the(journal, ref, "charge").effect is Effect.UNKNOWN
    assert events(journal, ref) == [Event.STEP_FAILED, Event.OPERATOR]


def test_after_a_restore_everything_unfinished_that_may_have_run_is_put_in_doubt(journal: Journal) -> None:
    ref = a_run(
        journal,
        "done",
        "begun",
        "planned",
        "waiting",
        a_step("booked", safety=Safety.TRANSACTIONAL),
        a_step("legacy", kind=Kind.UNMARKED),
    )
    succeed(journal, ref, "done")
    claim(journal, ref, "begun")
    token = claim(journal, ref, "waiting")
    journal.ends.try_again(the(journal, ref, "waiting"), token, MINUTE, DECLINED, "declined")
    finished = a_run(journal, "charge")
    succeed(journal, finished, "charge", completes_run=True)
    would = journal.doubts.would_doubt("default", 0)
    assert journal.doubts.doubt_unfinished("default", 0, who="me", why="restored from the backup of 3 o'clock") == would
    assert (would.runs, would.steps, would.functions, would.asleep) == (1, 3, 0, 0)
    assert would.tasks[("planned", Kind.STEP, Safety.PROTECTED)] == 1
    assert statuses(journal, ref) == {
        "run": "running",
        "done": "succeeded",
        "begun": "in_doubt",
        "planned": "in_doubt",
        "waiting": "in_doubt",
        "booked": "planned",
        "legacy": "planned",
    }
    assert the(journal, ref, "planned").over_at == about(journal.time())
    assert the(journal, ref, "begun").over_at == NOT_OVER, "it may be running now, on a worker whose beats say so"
    assert statuses(journal, finished) == {"run": "succeeded", "charge": "succeeded"}
    assert the(journal, ref, "planned").doubt == "the journal may have lost commits: restored from the backup of 3 o'clock"


def test_after_a_restore_a_function_waits_for_a_person_because_even_the_rows_of_its_calls_may_be_lost(journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.doubts.doubt_unfinished("default", 0, who="me", why="restored").functions == 1
    row = the(journal, ref, "function")
    assert (row.status, row.attention) == (StepStatus.HELD, Attention.DRIFT)
    assert journal.verdicts.release(row, who="me", why="nothing was lost of it")
    assert statuses(journal, ref) == {"run": "running", "function": "waiting"}


def test_after_a_loss_what_stood_still_all_the_while_is_left_alone(journal: Journal) -> None:
    def sleeping(wakes_in: int = 60 * MINUTE, *steps: StepRow) -> str:
        ref = a_run(journal, a_step("function", kind=Kind.FUNCTION), *steps, shape=Shape.FUNCTION)
        change(journal, ref, status=WorkflowStatus.SUSPENDED.value, wake_at=journal.time() + wakes_in)
        age(journal, ref, None, "created_at", by=24 * 60 * MINUTE)
        for row in journal.reads.steps(ref):
            age(journal, ref, row.key, "created_at", by=24 * 60 * MINUTE)
        return ref

    asleep = sleeping()
    due = sleeping(-MINUTE)
    dispatched = sleeping(60 * MINUTE, a_dispatch("", "ship"))
    stirred = sleeping()
    change(journal, stirred, "function", begun_at=journal.time())
    since = journal.time() - 60 * MINUTE
    found = journal.doubts.doubt_unfinished("default", since, who="me", why="a fail-over")
    assert (found.runs, found.functions, found.steps, found.asleep) == (3, 3, 1, 1)
    assert statuses(journal, asleep)["function"] == "planned"
    assert [statuses(journal, ref)["function"] for ref in (due, dispatched, stirred)] == ["held"] * 3
    assert journal.doubts.would_doubt("default", 0) == Doubtful(1, Counter({("function", Kind.FUNCTION, Safety.PROTECTED): 1}), 0)


def test_a_loss_concerns_one_namespace_and_not_what_was_started_when_the_database_was_there_again(journal: Journal) -> None:
    mine, others, later = a_run(journal, "charge"), a_run(journal, "charge", namespace="other"), a_run(journal, "charge")
    age(journal, mine, None, "created_at", by=60 * MINUTE)
    back = journal.time() - 30 * MINUTE
    assert journal.doubts.would_doubt("default", back - 60 * MINUTE).runs == 2
    found = journal.doubts.doubt_unfinished("default", back - 60 * MINUTE, until=back, who="me", why="a fail-over")
    assert found.runs == 1
    assert [statuses(journal, ref)["charge"] for ref in (mine, others, later)] == ["in_doubt", "planned", "planned"]
    (event,) = journal.events.since(Event.OPERATOR, 0)
    asked = {"namespace": "default", "since": back - 60 * MINUTE, "until": back}
    assert event["detail"] == {"action": "doubt", **asked, "steps": 1, "functions": 0, "runs": 1}


def test_a_failure_whose_effect_is_unknown_is_in_doubt_again_when_something_wants_to_repeat_it(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    row = the(journal, ref, "charge")
    assert journal.doubts.doubt_failed(row, "its message came again", who="w1")
    found = the(journal, ref, "charge")
    assert (found.status, found.attention, found.ended_at) == (StepStatus.IN_DOUBT, None, None)
    assert (found.over_at, found.next_check_at) == (about(journal.time()), about(journal.time()))
    assert journal.doubts.doubt_failed(row, "its message came again"), "its answer may have been lost"
    assert events(journal, ref).count(Event.IN_DOUBT) == 1
    assert journal.runs.reopen(ref, [], who="me", why="again", now=journal.time())
    fail(journal, ref, "ship")
    assert not journal.doubts.doubt_failed(the(journal, ref, "ship"), "it did not happen, that is known")


def test_a_failure_that_turns_out_to_have_happened_is_counted(journal: Journal) -> None:
    """The run stays failed, and its counter says what its steps say."""
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="I looked").recorded
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.FAILED, 0)
    assert statuses(journal, ref)["charge"] == "succeeded"
