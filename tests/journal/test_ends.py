"""An attempt's end is written under its own token, once, together with what it releases (P1, P2, P3)."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import (
    SECOND,
    Attention,
    Cause,
    Effect,
    Event,
    Safety,
    StepStatus,
    Stored,
    WorkflowStatus,
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
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
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
UNDONE_BY = {"pack#1": "unpack", "charge#1": "refund"}


def test_a_success_is_recorded_with_its_value_under_the_token_of_its_claim(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    token = claim(journal, ref, "charge", timeout=30 * SECOND)
    assert journal.ends.succeed(ref, "charge", token, Stored("json/1", b'"ch_1"'))
    row = the(journal, ref, "charge")
    assert (row.status, row.outcome, row.token) == (StepStatus.SUCCEEDED, Stored("json/1", b'"ch_1"'), token)
    assert row.ended_at == about(journal.time())
    assert (row.next_check_at, row.deadline_at) == (None, None)
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING
    assert events(journal, ref) == [], "the happy path writes no event"


def test_the_last_success_ends_the_run(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    succeed(journal, ref, "charge")
    succeed(journal, ref, "ship", completes_run=True)
    run = the_run(journal, ref)
    assert (run.status, run.open_steps, run.next_check_at) == (WorkflowStatus.SUCCEEDED, 0, None)
    assert run.ended_at == about(journal.time())
    assert journal.reads.unfinished() == []


def test_a_success_under_another_token_is_refused(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    assert not journal.ends.succeed(ref, "charge", "another", ONE, completes_run=True)
    assert statuses(journal, ref) == {"run": "running", "charge": "begun"}
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True)


def test_a_success_is_accepted_while_the_step_is_in_doubt_or_held_and_settles_it(journal: Journal) -> None:
    for make in (in_doubt, held):
        ref = a_run(journal, "charge")
        row = make(journal, ref, "charge")
        assert journal.ends.succeed(ref, "charge", row.token or "", ONE, completes_run=True)
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded"}
        assert keys(journal.reads.unsettled()) == []


def test_a_success_that_is_recorded_twice_is_there_once(journal: Journal) -> None:
    ref = a_run(journal, "charge", open_steps=2)
    token = claim(journal, ref, "charge")
    for _ in range(3):
        assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True)
    assert the_run(journal, ref).open_steps == 1


def test_of_two_first_successes_of_an_idempotent_step_the_first_recorded_wins(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT), open_steps=2)
    assert journal.ends.succeed_unclaimed(ref, "charge", "first", "w1", ONE, completes_run=True)
    assert not journal.ends.succeed_unclaimed(ref, "charge", "second", "w1", TWO, completes_run=True)
    assert journal.ends.succeed_unclaimed(ref, "charge", "first", "w1", ONE, completes_run=True), "its own again"
    row = the(journal, ref, "charge")
    assert (row.outcome, row.token, row.worker, row.attempt) == (ONE, "first", "w1", 1)
    assert row.begun_at == about(row.ended_at)
    assert the_run(journal, ref).open_steps == 1


def test_of_many_first_successes_at_once_one_wins_and_counts(journal: Journal) -> None:
    for last in (True, False):
        ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT), open_steps=2)
        tokens = [new_token() for _ in range(6)]
        won = together(
            *[lambda t=t: journal.ends.succeed_unclaimed(ref, "charge", t, "w1", ONE, completes_run=last) for t in tokens]  # type: ignore[misc]
        )
        assert won.count(True) == 1
        assert the(journal, ref, "charge").token == tokens[won.index(True)]
        assert the_run(journal, ref).open_steps == (1 if last else 2)


def test_two_last_ends_at_once_finish_the_run_exactly_once(journal: Journal) -> None:
    for _ in range(5):
        names = ["a", "b", "c", "d", "e"]
        ref = a_run(journal, *names, open_steps=len(names))
        tokens = {name: claim(journal, ref, name) for name in names}
        ended = together(*[lambda n=n: journal.ends.succeed(ref, n, tokens[n], ONE, completes_run=True) for n in names])  # type: ignore[misc]
        assert all(ended)
        run = the_run(journal, ref)
        assert (run.status, run.open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_an_end_that_waits_for_another_ones_counting_counts_after_it(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, "a", "b", open_steps=2)
    a, b = claim(journal, ref, "a"), claim(journal, ref, "b")

    def end_slowly(other: Journal) -> None:
        def work(conn: object) -> None:
            values = {"b_ref": ref, "b_key": "a", "b_token": a, "b_outcome": b"1", "b_codec": "json/1"}
            other.db.hot(other.ends._succeed).run(conn, values)  # type: ignore[arg-type]
            other.db.hot(other.ends._count_down).run(conn, values)  # type: ignore[arg-type]

        other.db.transaction(work)

    first = meanwhile.stopped_after("UPDATE durable_workflow", end_slowly)
    second = meanwhile.run(lambda other: other.ends.succeed(ref, "b", b, ONE, completes_run=True))
    first.result()
    assert second.result()
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_the_counter_goes_down_and_the_status_stays_in_a_run_that_no_longer_goes_forward(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "a", "b", open_steps=1)
    succeed(journal, ref, "charge")
    a = claim(journal, ref, "a")
    fail(journal, ref, "b")
    assert journal.ends.succeed(ref, "a", a, ONE, completes_run=True)
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.ROLLING_BACK, 0)


def test_a_success_that_is_recorded_after_the_rollback_was_decided_joins_its_list(journal: Journal) -> None:
    ref = a_function(journal)
    pack, charge = (a_call(ref, key, place, compensation=undo) for place, (key, undo) in enumerate(UNDONE_BY.items(), 1))
    assert journal.claims.begin_new(pack)
    assert journal.ends.succeed(ref, "pack#1", pack.token or "", ONE)
    assert journal.claims.begin_new(charge)
    assert journal.undo.begin(ref, who="me", why="wrong order") is not None
    _undo(journal, ref, "pack#1")
    assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK, "one that may yet have its effect is waited for"
    assert journal.ends.succeed(ref, "charge#1", charge.token or "", ONE)
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "charge#1"
    _undo(journal, ref, "charge#1")
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


def _undo(journal: Journal, ref: str, target: str) -> None:
    key = f"undo:{target}"
    if journal.claims.get(ref, key) is None:
        journal.undo.advance(ref)
    assert journal.ends.succeed_undo(ref, key, claim(journal, ref, key), target, NOTHING).recorded


def test_a_dispatched_step_wakes_the_function_that_waits_for_it(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    journal.claims.plan_new(a_dispatch(ref, "mail#1", position=2))
    assert journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
    mail = claim(journal, ref, "mail#1")
    assert not journal.ends.succeed_dispatched(ref, "mail#1", mail, ONE).wakes
    ship = claim(journal, ref, "ship#1")
    ended = journal.ends.succeed_dispatched(ref, "ship#1", ship, ONE)
    assert (ended.recorded, ended.wakes) == (True, True)
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.SUSPENDED, 1)
    assert run.next_check_at == about(journal.time()), "a sweeper finds it, should the message be lost"


def test_the_last_dispatched_step_wakes_the_function_that_waits_for_all(journal: Journal) -> None:
    ref = a_function(journal)
    for position, key in enumerate(("a#1", "b#1", "c#1"), 1):
        journal.claims.plan_new(a_dispatch(ref, key, position))
    assert journal.runs.suspend(ref, waiting_for="steps", wake_at=None, unless_ended="*")
    assert not journal.ends.succeed_dispatched(ref, "a#1", claim(journal, ref, "a#1"), ONE).wakes
    assert not journal.ends.succeed_dispatched(ref, "b#1", claim(journal, ref, "b#1"), ONE).wakes
    ended = journal.ends.fail(the(journal, ref, "c#1"), claim(journal, ref, "c#1"), DECLINED, DID_NOT, fails_run=False)
    assert ended.wakes
    assert the_run(journal, ref).open_steps == 1


def test_a_dispatched_success_under_another_token_releases_nothing(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    claim(journal, ref, "ship#1")
    ended = journal.ends.succeed_dispatched(ref, "ship#1", "another", ONE)
    assert (ended.recorded, ended.wakes) == (False, False)
    assert the_run(journal, ref).open_steps == 2


@pytest.mark.parametrize("waits_for", ["step:ship#1", "steps"])
def test_a_suspension_against_the_end_of_what_it_waits_for_never_loses_the_wake(
    journal: Journal, meanwhile: Interleaving, waits_for: str
) -> None:
    unless = "*" if waits_for == "steps" else "ship#1"
    for stop in ("UPDATE durable_step", "UPDATE durable_workflow"):
        ref = a_function(journal)
        journal.claims.plan_new(a_dispatch(ref, "ship#1"))
        token = claim(journal, ref, "ship#1")
        end = meanwhile.stopped_after(stop, lambda other: other.ends.succeed_dispatched(ref, "ship#1", token, ONE))
        suspension = meanwhile.run(
            lambda other: other.runs.suspend(ref, waiting_for=waits_for, wake_at=None, unless_ended=unless)
        )
        _is_awake(journal, ref, woken=end.result().wakes, suspended=suspension.result())


def test_the_end_of_what_is_waited_for_against_the_suspension_never_loses_the_wake(
    journal: Journal, meanwhile: Interleaving
) -> None:
    for stop in ("SELECT durable_workflow", "UPDATE durable_workflow"):
        ref = a_function(journal)
        journal.claims.plan_new(a_dispatch(ref, "ship#1"))
        token = claim(journal, ref, "ship#1")
        suspension = meanwhile.stopped_after(
            stop, lambda other: other.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
        )
        end = meanwhile.run(lambda other: other.ends.succeed_dispatched(ref, "ship#1", token, ONE))
        _is_awake(journal, ref, suspended=suspension.result(), woken=end.result().wakes)


def test_ends_and_suspensions_at_once_never_lose_the_wake(journal: Journal) -> None:
    for _ in range(8):
        ref = a_function(journal)
        journal.claims.plan_new(a_dispatch(ref, "ship#1"))
        token = claim(journal, ref, "ship#1")
        suspended, woken = together(
            lambda: journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1"),
            lambda: journal.ends.succeed_dispatched(ref, "ship#1", token, ONE).wakes,
        )
        _is_awake(journal, ref, suspended=suspended, woken=woken)


def _is_awake(journal: Journal, ref: str, *, suspended: bool, woken: bool) -> None:
    """The function goes on by itself, or it was suspended and is woken, at once and by the sweeper."""
    run = the_run(journal, ref)
    assert suspended is woken
    assert run.status is (WorkflowStatus.SUSPENDED if suspended else WorkflowStatus.RUNNING)
    if suspended:
        assert run.wake_at == about(journal.time())
        assert run.next_check_at == about(journal.time())


def test_a_failure_is_recorded_with_its_error_and_ends_the_run(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    ended = fail(journal, ref, "charge", why="CardDeclined: no money")
    assert ended.recorded
    assert ended.decision.status is WorkflowStatus.FAILED
    row = the(journal, ref, "charge")
    assert (row.status, row.error, row.effect, row.attention) == (StepStatus.FAILED, DECLINED, DID_NOT, None)
    run = the_run(journal, ref)
    assert (run.status, run.error, run.next_check_at) == (WorkflowStatus.FAILED, DECLINED, None)
    assert statuses(journal, ref)["ship"] == "cancelled"
    assert events(journal, ref) == [Event.STEP_FAILED]


def test_a_failure_whose_effect_is_unknown_is_put_in_front_of_a_person(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert keys(marked(journal)) == ["charge"]
    assert the(journal, ref, "charge").attention == Attention.EFFECT_UNKNOWN


def test_a_failure_that_its_function_may_catch_decides_nothing(journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    journal.claims.begin_new(call)
    ended = journal.ends.fail(call, call.token, DECLINED, DID_NOT, fails_run=False)
    assert (ended.recorded, ended.decision, ended.wakes) == (True, None, False)
    assert statuses(journal, ref) == {"run": "running", "function": "planned", "charge#1": "failed"}


def test_a_failure_under_another_token_is_refused(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    assert not journal.ends.fail(the(journal, ref, "charge"), "another", DECLINED, DID_NOT, fails_run=True).recorded
    assert statuses(journal, ref) == {"run": "running", "charge": "begun"}


def test_an_attempt_without_a_claim_cannot_end_a_step_that_was_claimed_after_it(journal: Journal) -> None:
    """An idempotent step's first attempt, which took no claim, is still running when the second one was claimed."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    first = the(journal, ref, "charge")
    assert journal.ends.try_again(first, None, 0, TIMED_OUT, "timed out")
    token = claim(journal, ref, "charge")
    assert not journal.ends.fail(first, None, DECLINED, DID_NOT, fails_run=True).recorded
    assert not journal.ends.try_again(first, None, 0, TIMED_OUT, "timed out")
    assert not journal.doubts.raise_doubt(first, None, "it raised", cause=Cause.WORKER_DIED, over=True)
    row = the(journal, ref, "charge")
    assert (row.status, row.token) == (StepStatus.BEGUN, token)
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True)


def test_an_attempt_without_a_claim_ends_while_nobody_has_claimed_it(journal: Journal) -> None:
    for make in ("planned", "waiting", "in doubt"):
        ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
        row = the(journal, ref, "charge")
        if make == "waiting":
            assert journal.ends.try_again(row, None, 0, TIMED_OUT, "timed out")
        elif make == "in doubt":
            assert journal.doubts.raise_doubt(row, None, "redelivered", cause=Cause.WORKER_DIED, over=True)
        assert journal.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True).recorded
        assert statuses(journal, ref) == {"run": "failed", "charge": "failed"}


def test_a_failure_that_was_recorded_is_recorded_when_it_is_said_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    token = claim(journal, ref, "ship")
    row = the(journal, ref, "ship")
    first = journal.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True)
    again = journal.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True)
    assert again.recorded
    assert again.decision is not None
    assert first.decision is not None
    assert first.decision.undo is not None
    assert again.decision.undo is not None
    assert again.decision.undo.key == first.decision.undo.key
    assert events(journal, ref).count(Event.STEP_FAILED) == 1
    assert not journal.ends.fail(row, token, TIMED_OUT, DID_NOT, fails_run=True).recorded, "another failure is another one"


def test_a_step_that_is_tried_again_is_due_after_its_delay(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge", timeout=MINUTE)
    row = the(journal, ref, "charge")
    assert journal.ends.try_again(row, token, 5 * MINUTE, DECLINED, "declined", effect=DID_NOT)
    row = the(journal, ref, "charge")
    assert (row.status, row.attempt, row.error, row.effect) == (StepStatus.WAITING, 1, DECLINED, DID_NOT)
    assert (row.next_check_at, row.deadline_at) == (about(journal.time() + 5 * MINUTE), None)
    assert journal.ends.try_again(row, token, 5 * MINUTE, DECLINED, "declined"), "its answer may have been lost"
    assert events(journal, ref) == [Event.ATTEMPT_FAILED]
    assert journal.events.of(ref)[0]["detail"] == {"next_in_seconds": 300.0}
    assert not journal.ends.try_again(row, "another", 0, DECLINED, "declined")


def test_an_attempt_without_a_claim_is_counted_when_it_is_tried_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = the(journal, ref, "charge")
    assert journal.ends.try_again(row, None, 0, TIMED_OUT, "timed out")
    assert the(journal, ref, "charge").attempt == 1


@pytest.mark.parametrize(
    ("safety", "effect", "closed"),
    [
        (Safety.PROTECTED, None, "cancelled"),
        (Safety.PROBE, None, "cancelled"),
        (Safety.IDEMPOTENT, Effect.UNKNOWN, "failed"),
        (Safety.IDEMPOTENT, DID_NOT, "cancelled"),
    ],
)
def test_no_next_attempt_becomes_due_in_a_run_that_is_rolling_back(
    journal: Journal, safety: Safety, effect: Effect | None, closed: str
) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("pack", safety=safety), "ship")
    succeed(journal, ref, "charge")
    pack = claim(journal, ref, "pack")
    fail(journal, ref, "ship")
    assert not journal.ends.try_again(the(journal, ref, "pack"), pack, 0, DECLINED, "declined", effect=effect)
    assert not journal.claims.begin(ref, "pack", new_token(), "w1")
    assert statuses(journal, ref)["pack"] == closed
    assert keys(marked(journal)) == (["pack"] if closed == "failed" else [])


def test_an_attempt_that_is_tried_again_while_a_rollback_is_decided_is_not(journal: Journal, meanwhile: Interleaving) -> None:
    for first_is_decision in (True, False):
        ref = a_run(journal, a_step("charge", compensation="refund"), "pack", "ship")
        succeed(journal, ref, "charge")
        pack, ship = claim(journal, ref, "pack"), claim(journal, ref, "ship")
        pack_row, ship_row = the(journal, ref, "pack"), the(journal, ref, "ship")

        def decide(other: Journal) -> object:
            return other.ends.fail(ship_row, ship, DECLINED, DID_NOT, fails_run=True)

        def again(other: Journal) -> object:
            return other.ends.try_again(pack_row, pack, 0, DECLINED, "declined")

        if first_is_decision:
            first = meanwhile.stopped_after("UPDATE durable_workflow", decide)
            second = meanwhile.run(again)
        else:
            first = meanwhile.stopped_after("UPDATE durable_step", again)
            second = meanwhile.run(decide)
        first.result()
        second.result()
        assert statuses(journal, ref)["pack"] == "cancelled"
        assert not journal.claims.begin(ref, "pack", new_token(), "w1")


def test_a_compensation_is_tried_again_in_a_run_that_is_rolling_back(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    token = claim(journal, ref, "undo:charge")
    assert journal.ends.try_again(the(journal, ref, "undo:charge"), token, 0, TIMED_OUT, "timed out")
    assert journal.claims.begin(ref, "undo:charge", new_token(), "w1")


def test_a_late_success_after_a_verdict_stops_an_attempt_that_nobody_has_claimed(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="me", why="not in the ledger")
    found = journal.ends.late(ref, "charge", row.token or "", ONE, "w1")
    assert found is not None
    assert (found.status, found.outcome, found.marks) == (StepStatus.SUCCEEDED, ONE, [Attention.TWICE])
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")
    assert keys(marked(journal)) == ["charge"]
    assert Event.LATE_SUCCESS in events(journal, ref)
    again = journal.ends.late(ref, "charge", row.token or "", ONE, "w1")
    assert again == the(journal, ref, "charge")
    assert events(journal, ref).count(Event.LATE_SUCCESS) == 1


def test_a_late_success_after_a_new_claim_is_kept_and_shown_and_changes_no_outcome(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="me", why="not in the ledger")
    token = claim(journal, ref, "charge")
    assert not journal.ends.succeed(ref, "charge", row.token or "", ONE, completes_run=True)
    found = journal.ends.late(ref, "charge", row.token or "", Stored("json/1", b'"ch_1"'), "w1")
    assert found is not None
    assert (found.status, found.token, found.marks) == (StepStatus.BEGUN, token, [Attention.TWICE])
    kept = next(e for e in journal.events.of(ref) if e["kind"] == Event.LATE_SUCCESS)
    assert (kept["token"], kept["detail"]["outcome"]) == (row.token, '"ch_1"')
    assert journal.ends.succeed(ref, "charge", token, TWO, completes_run=True)
    assert the(journal, ref, "charge").outcome == TWO
    assert keys(marked(journal)) == ["charge"], "it stays in front of a person after the run has ended"


def test_a_late_success_of_a_dispatched_step_counts_and_wakes(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    row = held(journal, ref, "ship#1")
    assert journal.runs.suspend(ref, waiting_for="steps", wake_at=None, unless_ended="*")
    journal.verdicts.did_not_happen(row, who="me", why="not in the ledger")
    age(journal, ref, None, "next_check_at", by=-MINUTE)
    journal.ends.late(ref, "ship#1", row.token or "", ONE, "w1")
    run = the_run(journal, ref)
    assert (run.open_steps, run.wake_at, run.next_check_at) == (1, about(journal.time()), about(journal.time()))


def test_a_second_success_of_an_idempotent_step_is_no_finding(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    first = in_doubt(journal, ref, "charge")
    assert journal.doubts.take_over(first, "it is idempotent")
    succeed(journal, ref, "charge", outcome=TWO, completes_run=True)
    found = journal.ends.late(ref, "charge", first.token or "", ONE, "w1")
    assert found is not None
    assert (found.outcome, found.marks) == (TWO, [])


def test_a_late_success_of_a_step_that_is_not_there_is_nothing(journal: Journal) -> None:
    assert journal.ends.late("0" * 32, "charge", "t", ONE, "w1") is None


def test_a_step_that_happened_without_a_value_is_held_as_such(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge", timeout=MINUTE)
    row = the(journal, ref, "charge")
    assert journal.ends.happened_without_value(row, token, "a lock cannot be recorded", "w1")
    row = the(journal, ref, "charge")
    assert (row.status, row.effect, row.attention) == (StepStatus.HELD, Effect.HAPPENED, Attention.VALUE_MISSING)
    assert (row.doubt, row.next_check_at) == ("a lock cannot be recorded", None)
    assert events(journal, ref) == [Event.VALUE_MISSING]
    assert journal.verdicts.happened(row, ONE, who="me", why="it is ch_1").recorded
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


def test_a_step_that_happened_without_a_value_is_held_also_where_it_took_no_claim(journal: Journal) -> None:
    planned = a_run(journal, "charge")
    assert journal.ends.happened_without_value(the(journal, planned, "charge"), None, "a lock", "w1")
    assert statuses(journal, planned)["charge"] == "held"


def test_a_value_that_is_missing_changes_nothing_where_the_step_was_decided_otherwise(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = the(journal, ref, "charge")
    succeed(journal, ref, "charge", completes_run=True)
    assert not journal.ends.happened_without_value(row, None, "a lock", "w1")
    assert not journal.ends.happened_without_value(row, "another", "a lock", "w1")
    assert statuses(journal, ref)["charge"] == "succeeded"


def test_an_error_whose_text_no_database_stores_does_not_keep_an_end_from_being_recorded(journal: Journal) -> None:
    bad = "card \0 declined \ud83d ✗ 💳"
    stored = "card � declined ? ✗ 💳"
    ref = a_run(journal, "charge", "pack", "ship")
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, DECLINED, bad)
    row = in_doubt(journal, ref, "charge", why=bad)
    assert row.doubt == stored
    assert journal.doubts.raise_doubt(row, row.token, bad, cause=Cause.WORKER_DIED, over=True), "the same again is the same"
    assert journal.doubts.hold(row, bad)
    row = the(journal, ref, "charge")
    assert row.evidence == stored
    assert journal.verdicts.happened(row, ONE, who="me", why=bad).recorded
    assert fail(journal, ref, "pack", why=bad, fails_run=False).recorded
    token = claim(journal, ref, "ship")
    assert journal.ends.happened_without_value(the(journal, ref, "ship"), token, bad, "w1")
    assert {e["why"] for e in journal.events.of(ref)} == {stored}


def test_a_key_as_long_as_its_column_is_waited_for_and_undone(journal: Journal) -> None:
    key = "k" * 400
    ref = a_function(journal)
    dispatched = a_dispatch(ref, key, compensation="refund", name="charge")
    assert journal.claims.plan_new(dispatched)
    assert journal.runs.suspend(ref, waiting_for=f"step:{key}", wake_at=None, unless_ended=key)
    assert journal.ends.succeed_dispatched(ref, key, claim(journal, ref, key), ONE).wakes
    decision = journal.undo.begin(ref, who="me", why="wrong order")
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == key
    undo = decision.undo.key
    assert journal.ends.succeed_undo(ref, undo, claim(journal, ref, undo), key, NOTHING).decision.status == "compensated"


def test_values_come_back_byte_by_byte(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    value = Stored("pickle/1", bytes(range(256)) * 300)
    token = claim(journal, ref, "charge")
    assert journal.ends.succeed(ref, "charge", token, value, completes_run=True)
    assert the(journal, ref, "charge").outcome == value


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
@pytest.mark.parametrize("compensation", ["refund", None])
def test_a_success_of_a_step_that_was_cancelled_while_it_ran_is_recorded_and_undone(
    journal: Journal, compensation: str | None, safety: Safety
) -> None:
    """A verdict said that nothing had happened, and the attempt that it was about ends after that."""
    ref = a_run(journal, a_step("charge", safety=safety, compensation=compensation))
    row = held(journal, ref, "charge")
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger").recorded
    assert statuses(journal, ref)["charge"] == "cancelled"
    assert not journal.ends.succeed(ref, "charge", row.token or "", ONE, completes_run=True)
    found = journal.ends.late(ref, "charge", row.token or "", ONE, "w1")
    assert found is not None
    assert (found.status, found.outcome, found.marks) == (StepStatus.SUCCEEDED, ONE, [])
    assert the_run(journal, ref).status == ("rolling_back" if compensation else "cancelled")
    if compensation:
        decision = journal.undo.advance(ref)
        assert decision is not None
        assert decision.undo is not None
        _undo(journal, ref, "charge")
        assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


@pytest.mark.parametrize("first", ["tried again", "taken over"])
def test_a_last_attempt_that_did_nothing_says_nothing_about_an_earlier_one(journal: Journal, first: str) -> None:
    """A time-out after the charge, then a refused connection: the charge is neither forgotten nor undone silently."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, compensation="refund"), "ship")
    if first == "tried again":
        token = claim(journal, ref, "charge")
        row = the(journal, ref, "charge")
        assert journal.ends.try_again(row, token, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    else:
        assert journal.doubts.take_over(in_doubt(journal, ref, "charge"), "it is idempotent")
    token = claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert journal.ends.try_again(row, token, 0, DECLINED, "connection refused", effect=DID_NOT)
    decision = fail(journal, ref, "charge").decision
    row = the(journal, ref, "charge")
    assert (row.effect, row.attention) == (Effect.UNKNOWN, Attention.EFFECT_UNKNOWN)
    assert decision.status is WorkflowStatus.ROLLING_BACK
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger").recorded
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


def test_a_verdict_is_about_the_step_whatever_its_attempts_knew(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    assert journal.doubts.take_over(in_doubt(journal, ref, "charge"), "it is idempotent")
    row = in_doubt(journal, ref, "charge")
    assert journal.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="me", why="not in the ledger").recorded
    assert the(journal, ref, "charge").effect is DID_NOT


def test_a_late_success_of_a_step_that_another_attempt_failed_is_undone_with_the_rest(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, compensation="refund"))
    fail(journal, ref, "charge")
    assert the_run(journal, ref).status is WorkflowStatus.FAILED
    found = journal.ends.late(ref, "charge", "first", ONE, "w1")
    assert found is not None
    assert (found.status, found.marks) == (StepStatus.SUCCEEDED, [Attention.TWICE])
    assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None


def test_a_late_success_behind_a_passed_pivot_begins_no_rollback(journal: Journal) -> None:
    ref = a_run(
        journal,
        a_step("ship", pivot=True),
        a_step("charge", safety=Safety.IDEMPOTENT, compensation="refund"),
        a_step("mail"),
    )
    succeed(journal, ref, "ship")
    fail(journal, ref, "mail")
    assert statuses(journal, ref)["charge"] == "cancelled"
    found = journal.ends.late(ref, "charge", "first", ONE, "w1")
    assert found is not None
    assert found.status is StepStatus.SUCCEEDED
    assert the_run(journal, ref).status is WorkflowStatus.FAILED


def test_a_failure_that_a_function_was_told_stays_what_it_was_told(journal: Journal) -> None:
    """Its code may have gone on after the error; a success instead would be another story on the next replay."""
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    assert journal.claims.begin_new(call)
    assert journal.ends.fail(call, call.token, DECLINED, DID_NOT, fails_run=False).recorded
    found = journal.ends.late(ref, "charge#1", "another", ONE, "w1")
    assert found is not None
    assert (found.status, found.marks) == (StepStatus.FAILED, [Attention.TWICE])


def test_a_late_success_stops_a_next_attempt_that_nobody_has_claimed_whichever_attempt_it_is_of(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    first = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(first, who="me", why="not in the ledger")
    second = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), second, MINUTE, DECLINED, "declined")
    found = journal.ends.late(ref, "charge", first.token or "", ONE, "w1")
    assert found is not None
    assert (found.status, found.outcome, found.marks) == (StepStatus.SUCCEEDED, ONE, [Attention.TWICE])
    assert not journal.ends.succeed(ref, "charge", second, ONE, completes_run=True)


def test_a_late_success_of_a_step_that_was_planned_again_is_recorded(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, completes_run=True))
    row = held(journal, ref, "charge")
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger").recorded
    assert not journal.ends.succeed(ref, "charge", row.token or "", ONE, completes_run=True)
    journal.runs.reopen(ref, [], who="me", why="right after all", now=journal.time())
    assert statuses(journal, ref)["charge"] == "planned"
    found = journal.ends.late(ref, "charge", row.token or "", ONE, "w1")
    assert found is not None
    assert found.status is StepStatus.SUCCEEDED
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


@pytest.mark.parametrize("known", [StepStatus.SUCCEEDED, StepStatus.UNDONE])
def test_the_success_of_the_one_attempt_that_a_verdict_was_about_is_no_second_one(journal: Journal, known: StepStatus) -> None:
    ref = a_run(journal, "charge")
    row = held(journal, ref, "charge")
    assert journal.verdicts.happened(row, ONE, who="me", why="it is in the ledger").recorded
    change(journal, ref, "charge", status=known.value)
    found = journal.ends.late(ref, "charge", row.token or "", TWO, "w1")
    assert found is not None
    assert (found.status, found.outcome, found.marks) == (known, ONE, [])
    assert Event.LATE_SUCCESS in events(journal, ref), "what it returned is kept"


def test_a_success_of_another_attempt_than_a_verdict_was_about_may_be_a_second_one(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    first = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(first, who="me", why="not in the ledger")
    second = held(journal, ref, "charge")
    assert journal.verdicts.happened(second, ONE, who="me", why="now it is").recorded
    found = journal.ends.late(ref, "charge", first.token or "", TWO, "w1")
    assert found is not None
    assert found.marks == [Attention.TWICE]


def test_a_late_success_of_an_idempotent_step_that_nobody_has_claimed_again_is_no_finding(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = in_doubt(journal, ref, "charge")
    assert journal.doubts.take_over(row, "it is idempotent")
    found = journal.ends.late(ref, "charge", row.token or "", ONE, "w1")
    assert found is not None
    assert (found.status, found.marks) == (StepStatus.SUCCEEDED, [])


@pytest.mark.parametrize("meanwhile_its_rollback", ["goes on", "has ended"])
def test_a_compensation_that_succeeds_late_undoes_its_target(journal: Journal, meanwhile_its_rollback: str) -> None:
    undo = {"undo_safety": "idempotent", "undo_options": {"window": 60 * MINUTE}}
    ref = a_run(journal, a_step("reserve", compensation="release"), a_step("charge", compensation="refund", options=undo), "ship")
    succeed(journal, ref, "reserve", "charge")
    fail(journal, ref, "ship")
    row = in_doubt(journal, ref, "undo:charge")
    assert journal.doubts.take_over(row, "it is idempotent")
    if meanwhile_its_rollback == "has ended":
        fail(journal, ref, "undo:charge", fails_run=False)
        _undo(journal, ref, "reserve")
        assert the_run(journal, ref).status is WorkflowStatus.COMPENSATION_FAILED
    assert not journal.ends.succeed_undo(ref, "undo:charge", row.token or "", "charge", ONE).recorded
    journal.ends.late(ref, "undo:charge", row.token or "", ONE, "w1")
    assert (the(journal, ref, "charge").status, the(journal, ref, "charge").attention) == (StepStatus.UNDONE, None)
    if meanwhile_its_rollback == "goes on":
        run = the_run(journal, ref)
        assert (run.status, run.next_check_at) == (WorkflowStatus.ROLLING_BACK, about(journal.time())), (
            "the next undo is sent now"
        )
        _undo(journal, ref, "reserve")
    run = the_run(journal, ref)
    # Behind a failure it may be the second refund: an attempt of which it was decided otherwise.
    shown = Attention.TWICE if meanwhile_its_rollback == "has ended" else None
    assert (run.status, run.attention) == (WorkflowStatus.COMPENSATED, shown)


def test_a_success_settles_what_its_step_was_held_for(journal: Journal) -> None:
    ref = a_function(journal)
    journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
    assert the(journal, ref, "function").attention == Attention.DRIFT
    assert journal.ends.succeed_unclaimed(ref, "function", new_token(), "w1", ONE, completes_run=True)
    assert the(journal, ref, "function").attention is None


@pytest.mark.parametrize("how", ["succeeds", "fails"])
def test_what_may_have_happened_twice_stays_so_however_the_other_attempt_ends(journal: Journal, how: str) -> None:
    ref = a_run(journal, "charge")
    first = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(first, who="me", why="not in the ledger")
    token = claim(journal, ref, "charge")
    journal.ends.late(ref, "charge", first.token or "", ONE, "w1")
    if how == "succeeds":
        assert journal.ends.succeed(ref, "charge", token, TWO, completes_run=True)
    else:
        assert journal.ends.fail(the(journal, ref, "charge"), token, DECLINED, DID_NOT, fails_run=True).recorded
    assert the(journal, ref, "charge").marks == [Attention.TWICE]


def test_a_key_under_which_an_earlier_attempt_may_have_acted_stays_whatever_was_read(journal: Journal) -> None:
    """The attempt that is told to try again has read the row before an earlier one was known to have timed out."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    read = the(journal, ref, "charge")
    first = claim(journal, ref, "charge")
    journal.ends.try_again(read, first, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    began = the(journal, ref, "charge").first_begun_at
    second = claim(journal, ref, "charge")
    assert journal.ends.try_again(read, second, 0, DECLINED, "refused", effect=DID_NOT)
    row = the(journal, ref, "charge")
    assert (row.effect, row.generation, row.first_begun_at) == (Effect.UNKNOWN, 0, began)


@pytest.mark.parametrize(("generation", "twice"), [(0, True), (None, True), (1, False)])
def test_a_late_success_under_another_key_of_the_provider_may_be_a_second_one(
    journal: Journal, generation: int | None, twice: bool
) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = held(journal, ref, "charge")
    assert journal.verdicts.did_not_happen(row, who="me", why="not in the ledger").recorded
    assert the(journal, ref, "charge").generation == 1
    found = journal.ends.late(ref, "charge", row.token or "", ONE, "w1", generation=generation)
    assert found is not None
    assert found.marks == ([Attention.TWICE] if twice else [])
    succeeded = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    first = held(journal, succeeded, "charge")
    journal.verdicts.did_not_happen(first, who="me", why="not in the ledger")
    succeed(journal, succeeded, "charge")
    found = journal.ends.late(succeeded, "charge", first.token or "", ONE, "w1", generation=generation)
    assert found is not None
    assert found.marks == ([Attention.TWICE] if twice else [])
