"""A run that failed for good is undone in reverse, each undo under a claim of its own, and nothing is overlooked (P8)."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Decision, Journal
from durable_adapter.journal.undo import REST, UNSENT
from durable_adapter.model import (
    Attention,
    Cause,
    Effect,
    Event,
    Kind,
    Safety,
    StepStatus,
    WorkflowStatus,
    derive,
    new_token,
)
from tests.journal.interleaving import Interleaving, together
from tests.journal.making import (
    DECLINED,
    NOTHING,
    ONE,
    TIMED_OUT,
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


def a_saga(journal: Journal) -> str:
    """Three steps that can be undone have succeeded; a fourth fails."""
    ref = a_run(
        journal,
        a_step("charge", compensation="refund", queue="money", options={"undo_safety": "idempotent"}),
        a_step("pack", compensation="unpack"),
        "note",
        a_step("ship", compensation="recall"),
        "mail",
        "stats",
    )
    succeed(journal, ref, "charge", "pack", "note", "ship")
    return ref


def undo(journal: Journal, ref: str, target: str) -> Decision | None:
    """Claims the compensation of a step and records its success."""
    key = f"undo:{target}"
    ended = journal.ends.succeed_undo(ref, key, claim(journal, ref, key), target, NOTHING)
    assert ended.recorded
    return ended.decision


def undo_in_vain(journal: Journal, ref: str, target: str, effect: Effect = DID_NOT) -> Decision | None:
    """Claims the compensation of a step and records that it failed for good."""
    decision: Decision | None = fail(journal, ref, f"undo:{target}", effect).decision
    return decision


def test_a_rollback_undoes_in_reverse_order_of_completion(journal: Journal) -> None:
    ref = a_saga(journal)
    decision = fail(journal, ref, "mail").decision
    assert statuses(journal, ref)["stats"] == "cancelled"
    undone = []
    while decision is not None and decision.undo is not None:
        assert decision.status is WorkflowStatus.ROLLING_BACK
        assert decision.target is not None
        undone.append(decision.undo.target)
        assert decision.target.key == decision.undo.target
        decision = undo(journal, ref, decision.undo.target or "")
    assert undone == ["ship", "pack", "charge"]
    assert decision == Decision(WorkflowStatus.COMPENSATED)
    assert statuses(journal, ref) == {
        "run": "compensated",
        "charge": "undone",
        "undo:charge": "succeeded",
        "pack": "undone",
        "undo:pack": "succeeded",
        "note": "succeeded",
        "ship": "undone",
        "undo:ship": "succeeded",
        "mail": "failed",
        "stats": "cancelled",
    }
    run = the_run(journal, ref)
    assert (run.next_check_at, run.ended_at, run.attention) == (None, about(journal.time()), None)
    assert events(journal, ref) == [Event.STEP_FAILED, Event.ROLLBACK]


def test_a_step_that_ended_last_is_undone_first_wherever_it_stands(journal: Journal) -> None:
    ref = a_saga(journal)
    age(journal, ref, "ship", "ended_at")
    decision = fail(journal, ref, "mail").decision
    assert decision.undo.target == "pack"


def test_an_undo_is_a_step_of_its_own_with_what_it_needs_to_be_sent(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    undo(journal, ref, "ship")
    undo(journal, ref, "pack")
    row = the(journal, ref, "undo:charge")
    assert (row.kind, row.status, row.name, row.target) == (Kind.COMPENSATION, StepStatus.PLANNED, "refund", "charge")
    assert (row.safety, row.queue, row.task_id) == (Safety.IDEMPOTENT, "money", derive("undo", ref, "charge"))
    assert the_run(journal, ref).next_check_at == about(journal.time() + UNSENT)


def test_a_run_without_anything_to_undo_fails(journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", compensation="recall"), "mail")
    succeed(journal, ref, "charge")
    decision = fail(journal, ref, "ship").decision
    assert decision == Decision(WorkflowStatus.FAILED)
    assert statuses(journal, ref) == {"run": "failed", "charge": "succeeded", "ship": "failed", "mail": "cancelled"}
    assert the_run(journal, ref).next_check_at is None


def test_a_passed_pivot_stops_the_rollback(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", pivot=True), "mail")
    succeed(journal, ref, "charge", "ship")
    assert fail(journal, ref, "mail").decision == Decision(WorkflowStatus.FAILED)


def test_a_pivot_that_failed_without_its_effect_does_not(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", pivot=True), "mail")
    succeed(journal, ref, "charge")
    decision = fail(journal, ref, "ship").decision
    assert decision.undo.target == "charge"


@pytest.mark.parametrize("late", ["succeeded", "failed", "did not happen"])
def test_an_unresolved_pivot_is_waited_for_and_then_decides(journal: Journal, late: str) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", pivot=True), "mail", open_steps=2)
    succeed(journal, ref, "charge")
    ship = in_doubt(journal, ref, "ship")
    decision = fail(journal, ref, "mail").decision
    assert decision == Decision(WorkflowStatus.FAILING)
    run = the_run(journal, ref)
    assert (run.status, run.next_check_at) == (WorkflowStatus.FAILING, about(journal.time() + REST))
    assert journal.undo.advance(ref) == Decision(WorkflowStatus.FAILING)
    if late == "succeeded":
        assert journal.ends.succeed(ref, "ship", ship.token or "", ONE), "its own late success"
        assert journal.undo.advance(ref) == Decision(WorkflowStatus.FAILED)
        assert statuses(journal, ref)["run"] == "failed"
        return
    if late == "failed":
        decision = journal.ends.fail(ship, ship.token, DECLINED, DID_NOT, fails_run=True).decision
    else:
        decision = journal.verdicts.did_not_happen(ship, who="me", why="no parcel").decision
        assert statuses(journal, ref)["ship"] == "cancelled"
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "charge"


def test_a_step_in_doubt_blocks_only_its_own_undo(journal: Journal) -> None:
    ref = a_saga(journal)
    change(journal, ref, "pack", status="planned", ended_at=None)
    pack = held(journal, ref, "pack")
    decision = fail(journal, ref, "mail").decision
    assert decision.undo.target == "ship"
    decision = undo(journal, ref, "ship")
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "charge"
    assert undo(journal, ref, "charge") == Decision(WorkflowStatus.ROLLING_BACK), "nothing to do but to wait"
    assert journal.ends.succeed(ref, "pack", pack.token or "", ONE), "a success recorded later joins the list"
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "pack"
    assert undo(journal, ref, "pack") == Decision(WorkflowStatus.COMPENSATED)


def test_a_failure_whose_effect_is_unknown_keeps_the_rollback_open_until_it_is_known(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"))
    decision = fail(journal, ref, "charge", Effect.UNKNOWN).decision
    assert decision == Decision(WorkflowStatus.ROLLING_BACK)
    ended = journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="me", why="it is in the ledger")
    assert ended.decision is not None
    assert ended.decision.undo is not None
    assert undo(journal, ref, "charge") == Decision(WorkflowStatus.COMPENSATED)


def test_an_undo_that_fails_for_good_is_surfaced_and_the_others_still_run(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    decision = undo_in_vain(journal, ref, "ship")
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "pack"
    undo(journal, ref, "pack")
    assert undo(journal, ref, "charge") == Decision(WorkflowStatus.COMPENSATION_FAILED)
    run = the_run(journal, ref)
    assert (run.status, run.attention) == (WorkflowStatus.COMPENSATION_FAILED, Attention.UNDO_FAILED)
    assert keys(marked(journal)) == ["ship"]


def test_a_held_undo_does_not_keep_the_others_from_running_but_the_rollback_from_ending(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    ship = held(journal, ref, "undo:ship")
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "pack"
    undo(journal, ref, "pack")
    assert undo(journal, ref, "charge") == Decision(WorkflowStatus.ROLLING_BACK)
    ended = journal.verdicts.happened(ship, NOTHING, who="me", why="it came back")
    assert ended.decision == Decision(WorkflowStatus.COMPENSATED)
    assert statuses(journal, ref)["ship"] == "undone"


def test_an_undo_in_doubt_is_waited_for(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    row = in_doubt(journal, ref, "undo:ship")
    assert journal.undo.advance(ref) == Decision(WorkflowStatus.ROLLING_BACK)
    assert journal.doubts.take_over(row, "it is idempotent"), "an undo is repeated while its run rolls back"
    decision = undo(journal, ref, "ship")
    assert decision is not None
    assert decision.undo is not None


def test_a_verdict_that_an_undo_did_not_happen_makes_it_due_again(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    row = held(journal, ref, "undo:ship")
    ended = journal.verdicts.did_not_happen(row, who="me", why="it is still away")
    assert ended.recorded
    assert ended.decision is not None
    assert ended.decision.undo is not None
    assert ended.decision.undo.key == "undo:ship"
    undo(journal, ref, "ship")


def test_a_verdict_on_an_undo_that_had_failed_ends_the_rollback_after_all(journal: Journal) -> None:
    for effect in (Effect.UNKNOWN, DID_NOT):
        ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
        succeed(journal, ref, "charge")
        fail(journal, ref, "ship")
        assert undo_in_vain(journal, ref, "charge", effect) == Decision(WorkflowStatus.COMPENSATION_FAILED)
        row = the(journal, ref, "undo:charge")
        ended = journal.verdicts.happened(row, NOTHING, who="me", why="refunded by hand")
        assert ended.decision == Decision(WorkflowStatus.COMPENSATED)
        assert statuses(journal, ref) == {
            "run": "compensated",
            "charge": "undone",
            "undo:charge": "succeeded",
            "ship": "failed",
        }
        assert (marked(journal), the_run(journal, ref).attention) == ([], None)


def test_a_failed_undo_that_is_retried_goes_on_undoing_and_nothing_goes_forward(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    undo_in_vain(journal, ref, "ship")
    undo(journal, ref, "pack")
    undo(journal, ref, "charge")
    assert journal.runs.reopen(ref, ["undo:ship"], who="me", why="the carrier is back", now=journal.time())
    assert statuses(journal, ref)["run"] == "rolling_back"
    assert statuses(journal, ref)["stats"] == "cancelled"
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.key == "undo:ship"
    assert undo(journal, ref, "ship") == Decision(WorkflowStatus.COMPENSATED)
    assert marked(journal) == []


def test_compensated_is_written_only_where_nothing_is_left_to_undo(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    change(journal, ref, "undo:charge", status="cancelled")
    assert journal.undo.advance(ref) == Decision(WorkflowStatus.COMPENSATION_FAILED)


def test_a_person_can_begin_a_rollback_in_any_state(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", compensation="recall"))
    succeed(journal, ref, "charge")
    succeed(journal, ref, "ship", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
    decision = journal.undo.begin(ref, who="me", why="the customer changed their mind")
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.target == "ship"
    run = the_run(journal, ref)
    assert (run.status, run.ended_at) == (WorkflowStatus.ROLLING_BACK, None)
    assert run.next_check_at is not None
    undo(journal, ref, "ship")
    assert undo(journal, ref, "charge") == Decision(WorkflowStatus.COMPENSATED)
    assert events(journal, ref) == [Event.OPERATOR]
    assert journal.undo.begin("0" * 32, who="me", why="no such run") is None


def test_two_operators_who_begin_a_rollback_at_once_plan_each_undo_once(journal: Journal) -> None:
    for _ in range(3):
        ref = a_saga(journal)
        decisions = together(*[lambda who=who: journal.undo.begin(ref, who=who, why="stop") for who in "abcd"])  # type: ignore[misc]
        assert {d.undo.key for d in decisions if d is not None and d.undo is not None} == {"undo:ship"}
        assert [key for key in statuses(journal, ref) if key.startswith("undo:")] == ["undo:ship"]


def test_two_advances_at_once_plan_one_compensation(journal: Journal) -> None:
    for _ in range(3):
        ref = a_saga(journal)
        fail(journal, ref, "mail")
        change(journal, ref, "undo:ship", status="held")
        decisions = together(*[lambda: journal.undo.advance(ref)] * 4)
        assert {d.undo.key for d in decisions if d is not None and d.undo is not None} == {"undo:pack"}
        assert sorted(key for key in statuses(journal, ref) if key.startswith("undo:")) == ["undo:pack", "undo:ship"]


def test_an_advance_that_waits_for_another_one_sees_what_it_planned(journal: Journal, meanwhile: Interleaving) -> None:
    """The compensation that the first one inserts is not among the rows that the second one waits for."""
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    change(journal, ref, "undo:ship", status="held")
    first = meanwhile.stopped_after("INSERT INTO durable_step", lambda other: other.undo.advance(ref))
    second = meanwhile.run(lambda other: other.undo.advance(ref))
    decisions = [first.result(), second.result()]
    assert [d.undo.key for d in decisions if d is not None and d.undo is not None] == ["undo:pack", "undo:pack"]


def test_an_undo_that_ends_while_another_process_advances_is_followed_by_one_compensation(
    journal: Journal, meanwhile: Interleaving
) -> None:
    for first_is_end in (True, False):
        ref = a_saga(journal)
        fail(journal, ref, "mail")
        token = claim(journal, ref, "undo:ship")

        def end(other: Journal) -> object:
            return other.ends.succeed_undo(ref, "undo:ship", token, "ship", NOTHING).decision

        def advance(other: Journal) -> object:
            return other.undo.advance(ref)

        first, second = (end, advance) if first_is_end else (advance, end)
        stop = "INSERT INTO durable_step" if first_is_end else "SELECT durable_workflow"
        running = meanwhile.stopped_after(stop, first)
        following = meanwhile.run(second)
        decisions = [running.result(), following.result()]
        assert all(isinstance(d, Decision) for d in decisions)
        assert sorted(key for key in statuses(journal, ref) if key.startswith("undo:")) == ["undo:pack", "undo:ship"]


def test_a_success_that_arrives_while_the_last_undo_ends_the_rollback_is_undone_too(
    journal: Journal, meanwhile: Interleaving
) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", compensation="recall"))
    succeed(journal, ref, "charge")
    token = claim(journal, ref, "ship")
    journal.doubts.raise_doubt(the(journal, ref, "ship"), token, "its worker is silent", cause=Cause.WORKER_DIED, over=True)
    journal.verdicts.did_not_happen(the(journal, ref, "ship"), who="me", why="no parcel")
    journal.undo.begin(ref, who="me", why="stop")
    assert the(journal, ref, "ship").status is StepStatus.CANCELLED
    refund = claim(journal, ref, "undo:charge")

    def last_undo(other: Journal) -> object:
        return other.ends.succeed_undo(ref, "undo:charge", refund, "charge", NOTHING)

    ending = meanwhile.stopped_after("UPDATE durable_workflow", last_undo)
    late = meanwhile.run(lambda other: other.ends.late(ref, "ship", token, ONE, "w1"))
    ending.result()
    late.result()
    assert (the_run(journal, ref).status, the(journal, ref, "ship").status) == ("rolling_back", "succeeded")
    decision = journal.undo.advance(ref)
    assert decision is not None
    assert decision.undo is not None
    assert decision.undo.key == "undo:ship"


def test_two_failures_at_once_decide_once(journal: Journal) -> None:
    for _ in range(4):
        ref = a_run(journal, a_step("charge", compensation="refund"), "a", "b", "c")
        succeed(journal, ref, "charge")
        tokens = {name: claim(journal, ref, name) for name in "abc"}
        found = {name: the(journal, ref, name) for name in "abc"}
        ended = together(
            *[
                lambda n=n: journal.ends.fail(found[n], tokens[n], DECLINED, DID_NOT, fails_run=True)  # type: ignore[misc]
                for n in "abc"
            ]
        )
        assert all(e.recorded for e in ended)
        assert all(e.decision is not None and e.decision.status is WorkflowStatus.ROLLING_BACK for e in ended)
        assert events(journal, ref).count(Event.ROLLBACK) == 1
        assert [key for key in statuses(journal, ref) if key.startswith("undo:")] == ["undo:charge"]


def test_a_success_and_a_failure_at_once_leave_nothing_that_is_not_undone(journal: Journal) -> None:
    for _ in range(4):
        ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
        charge, ship = claim(journal, ref, "charge"), claim(journal, ref, "ship")
        row = the(journal, ref, "ship")
        together(
            lambda: journal.ends.succeed(ref, "charge", charge, ONE),
            lambda: journal.ends.fail(row, ship, DECLINED, DID_NOT, fails_run=True).recorded,
        )
        decision = journal.undo.advance(ref)
        assert decision is not None
        assert decision.undo is not None
        assert undo(journal, ref, "charge") == Decision(WorkflowStatus.COMPENSATED)


def test_an_undo_under_another_token_changes_nothing(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    claim(journal, ref, "undo:ship")
    assert not journal.ends.succeed_undo(ref, "undo:ship", "another", "ship", NOTHING).recorded
    assert statuses(journal, ref)["ship"] == "succeeded"


def test_an_undo_that_is_recorded_twice_names_what_follows_both_times(journal: Journal) -> None:
    ref = a_saga(journal)
    fail(journal, ref, "mail")
    token = claim(journal, ref, "undo:ship")
    first = journal.ends.succeed_undo(ref, "undo:ship", token, "ship", NOTHING)
    again = journal.ends.succeed_undo(ref, "undo:ship", token, "ship", NOTHING)
    assert first.recorded
    assert again.recorded
    assert first.decision is not None
    assert first.decision.undo is not None
    assert again.decision is not None
    assert again.decision.undo is not None
    assert first.decision.undo.key == again.decision.undo.key == "undo:pack"


def test_a_function_that_fails_undoes_what_its_calls_did(journal: Journal) -> None:
    ref = a_function(journal)
    for position, key in enumerate(("charge#1", "ship#1"), 1):
        call = a_call(ref, key, position, compensation=f"undo_{key}")
        assert journal.claims.begin_new(call)
        assert journal.ends.succeed(ref, key, call.token or "", ONE)
    ended = journal.ends.fail(the(journal, ref, "function"), None, TIMED_OUT, DID_NOT, fails_run=True)
    assert ended.decision is not None
    assert ended.decision.undo is not None
    assert ended.decision.undo.target == "ship#1"
    undo(journal, ref, "ship#1")
    assert undo(journal, ref, "charge#1") == Decision(WorkflowStatus.COMPENSATED)


def test_an_unmarked_member_that_failed_decides_too(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("legacy", kind=Kind.UNMARKED), "ship")
    succeed(journal, ref, "charge")
    journal.members.record_unmarked(ref, "legacy", None, failed=DECLINED)
    assert statuses(journal, ref) == {
        "run": "rolling_back",
        "charge": "succeeded",
        "undo:charge": "planned",
        "legacy": "failed",
        "ship": "cancelled",
    }


def test_a_run_that_is_over_is_not_decided_again(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    charge, ship = claim(journal, ref, "charge"), claim(journal, ref, "ship")
    assert journal.ends.fail(the(journal, ref, "charge"), charge, DECLINED, DID_NOT, fails_run=True).decision is not None
    ended = journal.ends.fail(the(journal, ref, "ship"), ship, DECLINED, DID_NOT, fails_run=True)
    assert (ended.recorded, ended.decision) == (True, None)
    assert journal.undo.advance(ref) is None
    assert journal.undo.advance("0" * 32) is None
    assert journal.undo.reconsider(ref) is None


def test_what_waits_for_its_next_attempt_and_may_have_had_its_effect_is_not_forgotten_by_a_rollback(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, compensation="refund"), a_step("nap", kind=Kind.SLEEP))
    change(journal, ref, "nap", status="waiting", safety="idempotent")
    assert journal.doubts.take_over(in_doubt(journal, ref, "charge"), "it is idempotent")
    decision = journal.undo.begin(ref, who="me", why="wrong order")
    assert decision == Decision(WorkflowStatus.ROLLING_BACK)
    assert statuses(journal, ref) == {"run": "rolling_back", "charge": "failed", "nap": "cancelled"}
    row = the(journal, ref, "charge")
    assert (row.effect, row.attention) == (Effect.UNKNOWN, Attention.EFFECT_UNKNOWN)
    ended = journal.verdicts.happened(row, ONE, who="me", why="it is in the ledger")
    assert ended.decision is not None
    assert ended.decision.undo is not None
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")


@pytest.mark.parametrize("pivot", ["succeeded", "is in doubt"])
def test_a_persons_rollback_does_not_pass_a_pivot_that_was_passed_while_they_decided(journal: Journal, pivot: str) -> None:
    ref = a_run(journal, a_step("reserve", compensation="release"), a_step("pay", pivot=True), "ship")
    succeed(journal, ref, "reserve")
    if pivot == "succeeded":
        succeed(journal, ref, "pay")
    else:
        in_doubt(journal, ref, "pay")
    before = statuses(journal, ref)
    assert journal.undo.begin(ref, who="me", why="wrong order") is None
    assert statuses(journal, ref) == before


def test_a_rollback_that_waits_for_a_pivots_end_sees_it(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, a_step("reserve", compensation="release"), a_step("pay", pivot=True), "ship")
    succeed(journal, ref, "reserve")
    claim(journal, ref, "pay")
    row = the(journal, ref, "pay")

    def pay(other: Journal) -> bool:
        with other.db.open_transaction() as conn:
            return other.ends.succeed_locked(conn, row, ONE, completes_run=False).recorded

    paying = meanwhile.stopped_after("UPDATE durable_step", pay)
    rolling_back = meanwhile.run(lambda other: other.undo.begin(ref, who="me", why="wrong order"))
    assert paying.result()
    assert rolling_back.result() is None
    assert statuses(journal, ref)["ship"] == "planned"


def test_a_rollback_is_not_begun_a_second_time(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    assert journal.undo.begin(ref, who="me", why="wrong order") is not None
    assert journal.undo.begin(ref, who="you", why="wrong order") is None
    for _ in range(2):
        decision = journal.undo.begin(ref, who="me", why="wrong order")
        assert decision is not None, "its answer was lost"
        assert decision.status in (WorkflowStatus.ROLLING_BACK, WorkflowStatus.COMPENSATED)
        if decision.undo is not None:
            token = claim(journal, ref, decision.undo.key)
            assert journal.ends.succeed_undo(ref, decision.undo.key, token, "charge", NOTHING).recorded


@pytest.mark.parametrize("kind", ["in place", "dispatched"])
def test_a_verdict_on_a_failure_that_a_function_was_told_changes_nothing_for_it_and_is_undone_with_the_rest(
    journal: Journal, kind: str
) -> None:
    ref = a_function(journal)
    if kind == "in place":
        assert journal.claims.begin_new(a_call(ref, "charge#1", compensation="refund"))
        row = the(journal, ref, "charge#1")
        assert journal.ends.fail(row, row.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False).recorded
    else:
        journal.claims.plan_new(a_dispatch(ref, "charge#1", compensation="refund"))
        fail(journal, ref, "charge#1", Effect.UNKNOWN, fails_run=False)
    row = the(journal, ref, "charge#1")
    assert journal.verdicts.happened(row, ONE, who="me", why="the bank has it").recorded
    assert journal.verdicts.happened(row, ONE, who="me", why="the bank has it").recorded, "its answer was lost"
    row = the(journal, ref, "charge#1")
    assert (row.status, row.error, row.effect, row.attention) == (StepStatus.FAILED, row.error, Effect.HAPPENED, None)
    assert row.verdict == "me: happened: the bank has it"
    assert row.next_check_at is None, "nobody waits for its message"

    decision = journal.ends.fail(the(journal, ref, "function"), None, DECLINED, DID_NOT, fails_run=True).decision
    assert decision is not None
    assert decision.status is WorkflowStatus.ROLLING_BACK
    assert decision.undo is not None
    assert (the(journal, ref, "charge#1").status, the(journal, ref, "charge#1").outcome) == (StepStatus.SUCCEEDED, ONE)
    token = claim(journal, ref, "undo:charge#1")
    assert journal.ends.succeed_undo(ref, "undo:charge#1", token, "charge#1", NOTHING).recorded
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED


def test_a_verdict_on_a_failure_of_a_function_that_has_ended_makes_it_a_success(journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.claims.begin_new(a_call(ref, "charge#1"))
    row = the(journal, ref, "charge#1")
    journal.ends.fail(row, row.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, TIMED_OUT, DID_NOT, fails_run=True)
    assert journal.verdicts.happened(the(journal, ref, "charge#1"), ONE, who="me", why="the bank has it").recorded
    assert the(journal, ref, "charge#1").status is StepStatus.SUCCEEDED
