"""A run starts once, waits and is woken, is watched until it ends, and is cancelled or reopened by people (P5, P6)."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.members import MAX_UNBEGUN
from durable_adapter.journal.orders import Change
from durable_adapter.model import (
    SECOND,
    Effect,
    Event,
    Kind,
    Mode,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkflowRow,
    WorkflowStatus,
    new_ref,
    new_token,
)
from tests.journal.conftest import OpenJournal
from tests.journal.interleaving import Interleaving, aborted_once, together
from tests.journal.making import (
    DECLINED,
    MINUTE,
    ONE,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_workflow,
    about,
    age,
    change,
    claim,
    events,
    fail,
    held,
    in_doubt,
    statuses,
    succeed,
    the,
    the_run,
)

DID_NOT = Effect.DID_NOT_HAPPEN


def test_a_run_and_its_steps_come_back_as_they_were_started(journal: Journal) -> None:
    ref = new_ref()
    run = WorkflowRow(
        ref=ref,
        namespace="shop",
        id="Bestellung-42-ü",
        run=3,
        name="order",
        shape=Shape.FUNCTION,
        engine="rq",
        mode=Mode.ENFORCE,
        status=WorkflowStatus.RUNNING,
        declared=True,
        fingerprint="f" * 64,
        arguments=Stored("json/1", b"[42]"),
        plan=b"\x00plan",
        parent=new_ref(),
        code_version="v7",
        attributes={"customer": "Zoë", "amount": "9.99"},
        amount="amount",
        resends=0,
        open_steps=2,
    )
    row = StepRow(
        ref=ref,
        key="charge#1",
        position=4,
        name="shop.charge",
        kind=Kind.DISPATCH,
        status=StepStatus.PLANNED,
        queue="money",
        task_id="task-1",
        arguments=Stored("json/1", b"[1]"),
        fingerprint="e" * 64,
        safety=Safety.PROBE,
        options={"timeout": 5, "redact": ["card"]},
        compensation="shop.refund",
        pivot=True,
        message=b"\xffmessage",
        sent_at=17,
    )
    assert journal.starts.start(run, [row])
    found = the_run(journal, ref)
    assert (found.created_at, found.next_check_at) == (about(journal.time()), about(journal.time() + journal.resend_after))
    run.created_at, run.next_check_at = found.created_at, found.next_check_at
    assert found == run
    row.created_at = the(journal, ref, "charge#1").created_at
    assert the(journal, ref, "charge#1") == row
    assert row.created_at == about(journal.time())


def test_a_declared_id_starts_once(journal: Journal) -> None:
    first = a_run(journal, "charge", id="order-42")
    assert not journal.starts.start(a_workflow(new_ref(), id="order-42"), [a_step("charge", ref="x" * 32)])
    assert statuses(journal, first) == {"run": "running", "charge": "planned"}
    assert journal.reads.steps("x" * 32) == [], "nothing of the second start was written"
    assert journal.starts.start(a_workflow(new_ref(), id="order-42", run=2), [])
    assert journal.starts.start(a_workflow(new_ref(), id="order-42", namespace="other"), [])


def test_of_many_starts_of_one_id_at_once_one_wins(journal: Journal) -> None:
    for number in range(4):
        refs = [new_ref() for _ in range(5)]
        started = together(
            *[
                lambda r=r: journal.starts.start(a_workflow(r, id=f"order-{number}"), [a_step("charge", ref=r)])  # type: ignore[misc]
                for r in refs
            ]
        )
        assert started.count(True) == 1
        latest = journal.reads.latest("default", f"order-{number}")
        assert latest is not None
        assert latest.ref == refs[started.index(True)]
        assert [len(journal.reads.steps(ref)) for ref in refs].count(1) == 1


def test_a_start_that_is_said_again_is_the_same_start(journal: Journal) -> None:
    run = a_workflow(new_ref(), id="order-42")
    assert journal.starts.start(run, [a_step("charge", ref=run.ref)])
    assert journal.starts.start(run, [a_step("charge", ref=run.ref)]), "its answer may have been lost"
    assert len(journal.reads.steps(run.ref)) == 1


def test_a_start_inside_the_callers_transaction_is_committed_and_rolled_back_with_it(journal: Journal) -> None:
    kept, lost = a_workflow(new_ref()), a_workflow(new_ref())
    with journal.db.open_transaction() as conn:
        journal.starts.start(kept, [a_step("charge", ref=kept.ref)], conn)
    with pytest.raises(ZeroDivisionError), journal.db.open_transaction() as conn:
        journal.starts.start(lost, [a_step("charge", ref=lost.ref)], conn)
        raise ZeroDivisionError
    assert journal.reads.run(kept.ref) is not None
    assert journal.reads.run(lost.ref) is None
    assert journal.reads.steps(lost.ref) == []


def test_a_run_can_start_with_a_step_that_has_begun(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", status=StepStatus.BEGUN, token="t", worker="w1", attempt=1), "ship")
    row = the(journal, ref, "charge")
    assert (row.status, row.token, row.begun_at) == (StepStatus.BEGUN, "t", about(journal.time()))
    assert the(journal, ref, "ship").begun_at is None


@pytest.mark.parametrize("safety", list(Safety))
def test_a_start_whose_message_could_not_be_sent_is_taken_back(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", safety=safety), "ship")
    journal.starts.forget(ref)
    assert journal.reads.run(ref) is None
    assert journal.reads.steps(ref) == []
    journal.starts.forget(ref)


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
def test_a_start_is_not_taken_back_once_something_of_it_has_begun(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", safety=safety), "ship")
    claim(journal, ref, "charge")
    journal.starts.forget(ref)
    assert statuses(journal, ref) == {"run": "running", "charge": "begun", "ship": "planned"}


def test_a_claim_against_the_taking_back_of_its_start_gives_one_winner(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, "charge")
    back = meanwhile.stopped_after("DELETE FROM durable_step", lambda other: other.starts.forget(ref))
    late = meanwhile.run(lambda other: other.claims.begin(ref, "charge", new_token(), "w1"))
    back.result()
    assert not late.result()
    assert journal.reads.run(ref) is None


def test_a_function_is_suspended_with_what_it_waits_for(journal: Journal) -> None:
    ref = a_function(journal)
    at = journal.time() + MINUTE
    assert journal.runs.suspend(ref, waiting_for="a timer", wake_at=at)
    run = the_run(journal, ref)
    assert (run.status, run.waiting_for, run.wake_at, run.next_check_at) == (WorkflowStatus.SUSPENDED, "a timer", at, at)
    assert journal.runs.suspend(ref, waiting_for="a signal", wake_at=None)
    run = the_run(journal, ref)
    assert (run.waiting_for, run.wake_at) == ("a signal", None)
    assert run.next_check_at == about(journal.time() + journal.resend_after)


def test_a_function_is_not_suspended_for_what_is_there_already(journal: Journal) -> None:
    ref = a_function(journal)
    assert not journal.runs.suspend(ref, waiting_for="steps", wake_at=None, unless_ended="*")
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    assert journal.ends.succeed_dispatched(ref, "ship#1", claim(journal, ref, "ship#1"), ONE).recorded
    assert not journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING


def test_a_run_that_is_over_stays_over_when_its_function_suspends(journal: Journal) -> None:
    ref = a_function(journal)
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert journal.runs.suspend(ref, waiting_for="a timer", wake_at=None), "so that the function stops"
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED
    assert journal.runs.suspend("0" * 32, waiting_for="a timer", wake_at=None)


def test_a_wake_leaves_what_its_run_waits_for_and_that_it_is_due(journal: Journal) -> None:
    ref = a_function(journal)
    at = journal.time()
    journal.runs.suspend(ref, waiting_for="a timer", wake_at=at)
    journal.runs.woken(ref, "function")
    run = the_run(journal, ref)
    assert (run.status, run.waiting_for, run.wake_at) == (WorkflowStatus.SUSPENDED, "a timer", at)
    assert journal.ends.succeed_unclaimed(ref, "function", new_token(), "w1", ONE, completes_run=True)
    run = the_run(journal, ref)
    assert (run.status, run.waiting_for, run.wake_at) == (WorkflowStatus.SUCCEEDED, None, None)


def test_what_is_due_is_taken_with_its_steps_and_pushed_on(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    a_run(journal, "charge")
    age(journal, ref, None, "next_check_at")
    now = journal.time()
    ((run, steps),) = journal.due.take_runs(now, 10)
    assert (run.ref, [s.key for s in steps]) == (ref, ["charge", "ship"])
    assert the_run(journal, ref).next_check_at == now + journal.resend_after
    assert journal.due.take_runs(now, 10) == []


def test_the_wait_for_the_next_look_doubles_with_every_message_that_was_sent_again_up_to_a_bound(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    for resends, factor in ((1, 2), (2, 4), (3, 8), (12, 8)):
        change(journal, ref, resends=resends - 1, next_check_at=1)
        journal.due.count_resend(ref, "charge", "its message was lost")
        now = journal.time()
        ((run, _),) = journal.due.take_runs(now, 10)
        assert (run.resends, the_run(journal, ref).resends) == (resends, resends)
        assert the_run(journal, ref).next_check_at == now + factor * journal.resend_after
    assert events(journal, ref) == [Event.SENT_AGAIN] * 4


def test_how_often_and_when_a_step_s_lost_message_was_sent_again_stands_in_its_row(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    other = a_run(journal, "charge")
    again = [(ref, "charge", "charge"), (ref, "charge", "ship"), (other, "charge", None)]
    journal.due.count_resends(again, "its message was lost")
    journal.due.count_resend(ref, "ship", "its message was lost", lost="ship")
    steps = [the(journal, ref, "charge"), the(journal, ref, "ship"), the(journal, other, "charge")]
    assert [row.sends for row in steps] == [1, 2, 0], "a message that a person sends was not lost"
    assert [row.sent_at is not None for row in steps] == [True, True, False]
    assert [the_run(journal, r).resends for r in (ref, other)] == [3, 1]
    assert [(e["ref"], e["key"]) for r in (ref, other) for e in journal.events.of(r)] == [
        (ref, "charge"), (ref, "charge"), (ref, "ship"), (other, "charge"),
    ]  # fmt: skip


@pytest.mark.parametrize("moves", ["begun_at", "ended_at"])
def test_the_wait_is_as_short_as_ever_once_anything_has_begun_or_ended_since(journal: Journal, moves: str) -> None:
    ref = a_run(journal, "charge", "ship")
    change(journal, ref, resends=6)
    journal.due.count_resend(ref, "charge", "its message was lost")
    at = int(journal.events.of(ref)[-1]["at"])
    change(journal, ref, "charge", **{moves: at + 1})
    change(journal, ref, next_check_at=1)
    now = journal.time()
    ((run, _),) = journal.due.take_runs(now, 10)
    assert run.resends == the_run(journal, ref).resends == 0
    assert the_run(journal, ref).next_check_at == now + journal.resend_after


def test_runs_that_are_due_are_taken_once_by_two_sweepers_at_once(journal: Journal) -> None:
    refs = [a_run(journal, "charge") for _ in range(20)]
    now = journal.time() + 60 * MINUTE
    taken = together(*[lambda: journal.due.take_runs(now, 8)] * 4)
    found = [run.ref for batch in taken for run, _ in batch]
    assert len(found) == len(set(found))
    assert sorted([*found, *(run.ref for run, _ in journal.due.take_runs(now, 100))]) == sorted(refs)


def test_a_sweeper_does_not_wait_for_runs_that_another_one_has_locked(journal: Journal, meanwhile: Interleaving) -> None:
    for _ in range(4):
        a_run(journal, "charge")
    now = journal.time() + 60 * MINUTE
    first = meanwhile.stopped_after("SELECT durable_workflow", lambda other: other.due.take_runs(now, 2), skip=1)
    second = meanwhile.run(lambda other: other.due.take_runs(now, 10))
    if not journal.db.is_sqlite:
        assert second.ended.is_set(), "it did not wait"
    taken = [*first.result(), *second.result(), *journal.due.take_runs(now, 10)]
    assert len(taken) == len({run.ref for run, _ in taken}) == 4


def test_the_next_look_of_an_unfinished_run_can_be_set_and_that_of_a_finished_one_not(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    journal.due.check_again(ref, 17)
    assert the_run(journal, ref).next_check_at == 17
    succeed(journal, ref, "charge", completes_run=True)
    journal.due.check_again(ref, 17)
    assert the_run(journal, ref).next_check_at is None


def test_a_run_is_put_in_front_of_people_and_taken_away_again(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    journal.runs.mark(ref, "unmarked")
    assert journal.reads.troubled_refs() == {ref}
    journal.runs.mark(ref, None)
    assert journal.reads.troubled_refs() == set()


def test_a_cancelled_run_begins_nothing_more_and_names_what_may_have_happened(journal: Journal) -> None:
    ref = a_run(journal, "done", "begun", "doubtful", "held", "planned", "waiting", a_step("retried", safety=Safety.IDEMPOTENT))
    succeed(journal, ref, "done")
    begun = claim(journal, ref, "begun")
    in_doubt(journal, ref, "doubtful")
    held(journal, ref, "held")
    for key in ("waiting", "retried"):
        token = claim(journal, ref, key)
        effect = Effect.UNKNOWN if key == "retried" else DID_NOT
        journal.ends.try_again(the(journal, ref, key), token, 0, DECLINED, "declined", effect=effect)
    assert journal.runs.cancel(ref, who="me", why="wrong order") == ["begun", "doubtful", "held", "retried"]
    assert statuses(journal, ref) == {
        "run": "cancelled",
        "done": "succeeded",
        "begun": "begun",
        "doubtful": "in_doubt",
        "held": "held",
        "planned": "cancelled",
        "waiting": "cancelled",
        "retried": "failed",
    }
    run = the_run(journal, ref)
    assert (run.next_check_at, run.ended_at) == (None, about(journal.time()))
    assert events(journal, ref)[-1] is Event.OPERATOR
    assert journal.ends.succeed(ref, "begun", begun, ONE, completes_run=True), "what had begun is still recorded"
    assert the_run(journal, ref).status is WorkflowStatus.CANCELLED


def test_nothing_becomes_due_again_in_a_cancelled_run(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    token = claim(journal, ref, "charge")
    row = held(journal, ref, "ship")
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert not journal.ends.try_again(the(journal, ref, "charge"), token, 0, DECLINED, "declined")
    assert journal.verdicts.did_not_happen(row, who="me", why="no parcel").recorded
    assert statuses(journal, ref) == {"run": "cancelled", "charge": "cancelled", "ship": "cancelled"}


def test_a_rollback_is_not_cancelled(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    assert journal.runs.cancel(ref, who="me", why="leave it") == []
    assert statuses(journal, ref)["run"] == "rolling_back"
    assert statuses(journal, ref)["undo:charge"] == "planned"
    assert journal.runs.cancel("0" * 32, who="me", why="no such run") == []


def test_a_failed_run_is_reopened_and_what_was_cancelled_behind_the_failure_planned_again(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", "mail")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    now = journal.time()
    assert journal.runs.reopen(ref, ["ship"], who="me", why="the carrier is back", now=now)
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "waiting", "mail": "planned"}
    run = the_run(journal, ref)
    assert (run.next_check_at, run.ended_at, run.error) == (now, None, None)
    assert the(journal, ref, "ship").attention is None
    succeed(journal, ref, "ship")
    succeed(journal, ref, "mail", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


@pytest.mark.parametrize("status", ["succeeded", "rolling_back", "compensated", "compensation_failed"])
def test_a_run_that_succeeded_or_is_being_undone_does_not_go_forward_again(journal: Journal, status: str) -> None:
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge")
    change(journal, ref, status=status)
    before = statuses(journal, ref)
    assert not journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
    assert statuses(journal, ref) == before
    assert not journal.runs.reopen("0" * 32, ["charge"], who="me", why="again", now=journal.time())


def test_a_retry_against_a_rollback_by_another_operator_gives_one_direction(journal: Journal, meanwhile: Interleaving) -> None:
    for retry_first in (True, False):
        ref = a_run(journal, a_step("charge", compensation="refund"), "ship", "mail", "stats")
        succeed(journal, ref, "charge", "ship")
        journal.runs.cancel(ref, who="them", why="wait")

        def retry(other: Journal) -> object:
            return other.runs.reopen(ref, ["mail"], who="me", why="again", now=other.time())

        def roll_back(other: Journal) -> object:
            return other.undo.begin(ref, who="you", why="stop")

        first, second = (retry, roll_back) if retry_first else (roll_back, retry)
        running = meanwhile.stopped_after("UPDATE durable_workflow", first)
        following = meanwhile.run(second)
        results = [running.result(), following.result()]
        assert statuses(journal, ref) == {
            "run": "rolling_back",
            "charge": "succeeded",
            "undo:charge": "planned",
            "ship": "succeeded",
            "mail": "cancelled",
            "stats": "cancelled",
        }
        assert bool(results[0]) is True
        assert bool(results[1]) is retry_first


def test_a_dispatched_step_that_is_reopened_is_counted_again(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    fail(journal, ref, "ship#1", fails_run=False)
    assert the_run(journal, ref).open_steps == 1
    ended = journal.ends.fail(the(journal, ref, "function"), None, DECLINED, DID_NOT, fails_run=True)
    assert ended.recorded
    assert journal.runs.reopen(ref, ["ship#1", "function"], who="me", why="again", now=journal.time())
    assert the_run(journal, ref).open_steps == 2
    assert journal.ends.succeed_dispatched(ref, "ship#1", claim(journal, ref, "ship#1"), ONE).recorded
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING
    assert journal.ends.succeed_unclaimed(ref, "function", new_token(), "w1", ONE, completes_run=True)
    assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_what_was_cancelled_stays_counted_where_only_compensations_are_reopened(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship", "mail")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    undo = journal.undo.advance(ref)
    assert undo is not None
    fail(journal, ref, "undo:charge", fails_run=False)
    assert statuses(journal, ref)["run"] == "compensation_failed"
    assert journal.runs.reopen(ref, ["undo:charge"], who="me", why="the bank is back", now=journal.time())
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.ROLLING_BACK, 1)
    assert the(journal, ref, "mail").status is StepStatus.CANCELLED


def test_compensations_and_other_steps_are_not_reopened_together(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    fail(journal, ref, "undo:charge")
    assert not journal.runs.reopen(ref, ["ship", "undo:charge"], who="me", why="again", now=journal.time())
    assert statuses(journal, ref)["run"] == "compensation_failed"


def test_an_unmarked_members_end_is_recorded_once(journal: Journal) -> None:
    ref = a_run(
        journal, a_step("legacy", kind=Kind.UNMARKED, completes_run=True), a_step("charge", completes_run=True), open_steps=2
    )
    journal.members.record_unmarked(ref, "legacy", ONE, failed=None)
    journal.members.record_unmarked(ref, "legacy", ONE, failed=None)
    journal.members.record_unmarked(ref, "legacy", None, failed=DECLINED)
    row = the(journal, ref, "legacy")
    assert (row.status, row.outcome) == (StepStatus.SUCCEEDED, ONE)
    assert (the_run(journal, ref).open_steps, the_run(journal, ref).status) == (1, WorkflowStatus.RUNNING)
    journal.members.record_unmarked(ref, "charge", ONE, failed=None)
    assert statuses(journal, ref)["charge"] == "planned", "a marked member is not recorded that way"


def test_an_unmarked_last_member_ends_the_run(journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("legacy", kind=Kind.UNMARKED))
    succeed(journal, ref, "charge")
    journal.members.record_unmarked(ref, "legacy", None, failed=None)
    assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "legacy": "succeeded"}


def test_a_chain_that_is_ended_early_cancels_what_was_planned_behind(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", "mail")
    token = claim(journal, ref, "charge")
    journal.members.stop_after(ref, "charge")
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True)
    assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "cancelled", "mail": "cancelled"}


def test_times_are_those_of_the_database_in_microseconds(journal: Journal) -> None:
    import time

    assert journal.time() == pytest.approx(time.time() * SECOND, abs=5 * SECOND)


def test_a_person_can_have_a_run_looked_at_now_and_what_waits_in_it_sent_again(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, DECLINED, "declined")
    now = journal.time()
    assert journal.due.take_steps(now, 10)
    assert journal.due.take_steps(now, 10) == []
    assert journal.due.check_now(ref, who="me", why="the broker is back")
    assert [row.key for row in journal.due.take_steps(journal.time(), 10)] == ["charge"]
    assert [run.ref for run, _ in journal.due.take_runs(journal.time(), 10)] == [ref]
    assert events(journal, ref)[-1] is Event.OPERATOR
    journal.runs.cancel(ref, who="me", why="no")
    assert not journal.due.check_now(ref, who="me", why="the broker is back")
    assert not journal.due.check_now("0" * 32, who="me", why="no such run")


def test_what_a_person_has_seen_of_a_run_is_taken_out_of_the_findings(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    journal.runs.mark(ref, "unmarked")
    journal.runs.acknowledge(ref, who="me", why="it shipped by hand")
    assert journal.reads.troubled_refs() == set()
    journal.runs.acknowledge("0" * 32, who="me", why="another journal's")
    seen = {e["ref"] for e in journal.events.since(Event.OPERATOR, 0) if e["detail"].get("action") == "acknowledge"}
    assert seen == {ref, "0" * 32}


def test_a_message_that_a_worker_lost_before_its_body_began_becomes_due(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="task-1"), a_step("ship", task_id="task-2"))
    other = a_run(journal, a_step("charge", task_id="task-1"))
    claim(journal, other, "charge")
    assert journal.members.not_begun("task-1", "revoked") == 1
    assert statuses(journal, ref) == {"run": "running", "charge": "waiting", "ship": "planned"}
    assert statuses(journal, other)["charge"] == "begun"
    assert [row.key for row in journal.due.take_steps(journal.time(), 10)] == ["charge"]
    assert journal.members.not_begun("task-1", "revoked") == 0
    assert journal.claims.begin(ref, "charge", new_token(), "w1")


def test_a_death_before_the_begin_makes_due_what_was_sent_and_is_believed_only_so_often(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="task-1"), a_step("legacy", kind=Kind.UNMARKED))
    assert journal.members.died_unbegun(the(journal, ref, "charge"), "its horse died")
    row = the(journal, ref, "charge")
    assert (row.status, row.next_check_at, row.sends, row.losses) == (StepStatus.WAITING, about(journal.time()), 0, 1)
    assert not journal.members.died_unbegun(the(journal, ref, "legacy"), "its body begins without a claim")
    for losses in range(2, MAX_UNBEGUN + 1):
        journal.due.count_send(the(journal, ref, "charge"))
        assert journal.members.died_unbegun(the(journal, ref, "charge"), "its horse died")
        row = the(journal, ref, "charge")
        assert (row.status, row.sends, row.losses) == (StepStatus.WAITING, 0, losses)
    assert not journal.members.died_unbegun(row, "its horse died")
    assert events(journal, ref) == [Event.SENT_AGAIN] * MAX_UNBEGUN


def test_a_death_before_the_begin_changes_nothing_of_what_began_or_waits_for_its_time(journal: Journal) -> None:
    begun, later = a_run(journal, "charge"), a_run(journal, "charge")
    seen = the(journal, begun, "charge")
    claim(journal, begun, "charge")
    token = claim(journal, later, "charge")
    journal.ends.try_again(the(journal, later, "charge"), token, MINUTE, DECLINED, "declined")
    before = [the(journal, begun, "charge"), the(journal, later, "charge")]
    for row in (seen, *before):
        assert not journal.members.died_unbegun(row, "its horse died")
    assert [the(journal, begun, "charge"), the(journal, later, "charge")] == before


def test_a_function_that_runs_again_is_not_woken_a_second_time(journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.ends.try_again(the(journal, ref, "function"), None, 0, DECLINED, "declined")
    journal.runs.suspend(ref, waiting_for="a timer", wake_at=journal.time())
    journal.runs.woken(ref, "function")
    assert journal.due.take_steps(journal.time(), 10) == []


def test_a_member_that_joins_is_planned_behind_its_parents_and_the_run_waits_for_it(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    assert journal.members.join(a_step("ship", ref=ref), ["charge"]) is StepStatus.PLANNED
    assert journal.members.join(a_step("ship", ref=ref), ["charge"]) is StepStatus.PLANNED, "its answer was lost"
    row = the(journal, ref, "ship")
    assert (row.position, row.after, row.pending, row.completes_run) == (1, ["charge"], 1, True)
    succeed(journal, ref, "charge", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING
    succeed(journal, ref, "ship", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


def test_a_run_that_had_succeeded_goes_on_with_a_member_that_joins_late(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    succeed(journal, ref, "charge", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
    assert journal.members.join(a_step("ship", ref=ref), ["charge"]) is StepStatus.PLANNED
    run = the_run(journal, ref)
    assert (run.status, run.ended_at, run.open_steps) == (WorkflowStatus.RUNNING, None, 1)
    assert run.next_check_at is not None
    journal.members.leave(ref, "ship")
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED, "its message could not be sent"
    assert statuses(journal, ref) == {"charge": "succeeded", "run": "succeeded"}


def test_a_run_that_failed_or_is_being_undone_takes_no_more_members(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    assert journal.members.join(a_step("mail", ref=ref), ["ship"]) is StepStatus.CANCELLED
    assert not journal.claims.begin(ref, "mail", new_token(), "w1")
    assert journal.members.join(a_step("mail", ref=new_ref()), ["ship"]) is None, "a run that is not there"


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
def test_a_member_that_has_begun_is_not_taken_back(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    journal.members.join(a_step("ship", ref=ref, safety=safety), ["charge"])
    claim(journal, ref, "ship")
    journal.members.leave(ref, "ship")
    assert the(journal, ref, "ship").status is StepStatus.BEGUN
    assert the_run(journal, ref).open_steps == 2


def test_a_member_joins_while_the_last_one_ends(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    token = claim(journal, ref, "charge")
    joining = meanwhile.stopped_after(
        "INSERT INTO durable_step", lambda other: other.members.join(a_step("ship", ref=ref), ["charge"])
    )
    ending = meanwhile.run(lambda other: other.ends.succeed(ref, "charge", token, ONE, completes_run=True))
    joining.result()
    assert ending.result()
    run = the_run(journal, ref)
    assert (run.status, run.open_steps) == (WorkflowStatus.RUNNING, 1)


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
def test_a_planned_step_whose_message_a_worker_lost_has_not_begun_and_is_due(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", task_id="task-1", safety=safety, compensation="refund"), "ship")
    assert journal.members.not_begun("task-1", "revoked") == 1
    row = the(journal, ref, "charge")
    assert (row.status, row.doubt, row.attempt, row.next_check_at) == (StepStatus.WAITING, None, 0, about(journal.time()))
    assert events(journal, ref) == [Event.SENT_AGAIN]
    assert journal.members.not_begun("task-1", "revoked") == 0, "said before"
    assert journal.runs.cancel(ref, who="me", why="wrong order") == []
    assert statuses(journal, ref) == {"run": "cancelled", "charge": "cancelled", "ship": "cancelled"}


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
def test_a_step_that_has_begun_is_not_said_to_have_lost_its_message(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", task_id="task-1", safety=safety))
    claim(journal, ref, "charge")
    assert journal.members.not_begun("task-1", "revoked") == 0
    assert statuses(journal, ref)["charge"] == "begun"


def test_a_dispatch_that_was_given_up_while_it_waited_is_counted_once_when_it_is_tried_again(journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "charge#1", safety=Safety.IDEMPOTENT))
    token = claim(journal, ref, "charge#1")
    row = the(journal, ref, "charge#1")
    assert journal.ends.try_again(row, token, 0, DECLINED, "timed out", effect=Effect.UNKNOWN)
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert the(journal, ref, "charge#1").status is StepStatus.FAILED
    assert journal.runs.reopen(ref, ["charge#1"], who="me", why="right after all", now=journal.time())
    assert the_run(journal, ref).open_steps == 2
    token = claim(journal, ref, "charge#1")
    assert journal.ends.succeed_dispatched(ref, "charge#1", token, ONE).recorded
    assert journal.ends.succeed_unclaimed(ref, "function", new_token(), "w1", ONE, completes_run=True)
    assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_a_member_that_joined_a_failed_run_is_waited_for_when_that_is_taken_up_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options={"counts": True, "after": []}))
    fail(journal, ref, "charge")
    assert journal.members.join(a_step("ship", ref=ref), ["charge"]) is StepStatus.CANCELLED
    assert journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
    assert the_run(journal, ref).open_steps == 2
    succeed(journal, ref, "charge", completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING
    succeed(journal, ref, "ship", completes_run=True)
    assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_a_success_that_came_late_to_a_failed_run_is_not_waited_for_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("a", options={"counts": True, "after": []}))
    token = claim(journal, ref, "a")
    journal.members.join(a_step("b", ref=ref), ["a"])
    journal.ends.fail(the(journal, ref, "a"), token, DECLINED, DID_NOT, fails_run=True)
    journal.ends.late(ref, "a", token, ONE, "w1")
    assert journal.runs.reopen(ref, [], who="me", why="again", now=journal.time())
    assert the_run(journal, ref).open_steps == 1
    succeed(journal, ref, "b", completes_run=True)
    assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.SUCCEEDED, 0)


def test_a_run_that_is_complete_when_it_is_taken_up_again_leaves_nothing_planned_behind(journal: Journal) -> None:
    ref = a_run(journal, "charge", "mail")
    token = claim(journal, ref, "charge")
    journal.members.stop_after(ref, "charge")
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=True)
    change(journal, ref, "mail", completes_run=False)
    assert journal.runs.reopen(ref, [], who="me", why="right after all", now=journal.time())
    assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "mail": "cancelled"}


def test_a_step_that_is_tried_again_after_the_last_one_succeeded_keeps_its_run_open_until_a_sweeper_ends_it(
    journal: Journal,
) -> None:
    ref = a_run(journal, "charge", "ship")
    last = claim(journal, ref, "ship")
    fail(journal, ref, "charge")
    journal.ends.succeed(ref, "ship", last, ONE, completes_run=True)
    assert journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
    assert statuses(journal, ref) == {"run": "running", "charge": "waiting", "ship": "succeeded"}
    assert not journal.runs.complete(ref)
    succeed(journal, ref, "charge")
    assert journal.runs.complete(ref)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
    assert not journal.runs.complete(ref)


@pytest.mark.parametrize("sent", [True, False])
def test_a_cancelled_function_that_is_taken_up_again_sleeps_until_the_time_that_it_was_to_sleep_until(
    journal: Journal, sent: bool
) -> None:
    ref, wake_at = a_function(journal), journal.time() + 30 * 24 * 60 * MINUTE
    if sent:
        journal.claims.plan_new(a_dispatch(ref, "ship#1", 1))
    timer = a_step("sleep#1", ref=ref, position=2, kind=Kind.SLEEP, status=StepStatus.WAITING, next_check_at=wake_at)
    assert journal.runs.sleep(timer)
    before = the_run(journal, ref)
    journal.runs.cancel(ref, who="me", why="oops")
    assert the(journal, ref, "sleep#1").next_check_at is None
    assert journal.runs.reopen(ref, [], who="me", why="it was a mistake", now=journal.time())
    row, run = the(journal, ref, "sleep#1"), the_run(journal, ref)
    assert (row.status, row.next_check_at) == (StepStatus.WAITING, wake_at)
    assert (run.status, run.waiting_for, run.wake_at) == (WorkflowStatus.SUSPENDED, "sleep:sleep#1", wake_at)
    assert run.next_check_at == about(before.next_check_at)


def test_a_function_whose_step_is_tried_again_does_not_wait_for_its_timer_first(journal: Journal) -> None:
    ref, wake_at = a_function(journal), journal.time() + 60 * MINUTE
    journal.claims.plan_new(a_dispatch(ref, "ship#1", 1))
    timer = a_step("sleep#1", ref=ref, position=2, kind=Kind.SLEEP, status=StepStatus.WAITING, next_check_at=wake_at)
    assert journal.runs.sleep(timer)
    fail(journal, ref, "ship#1", fails_run=False)
    journal.runs.cancel(ref, who="me", why="oops")
    assert journal.runs.reopen(ref, ["ship#1"], who="me", why="it was a mistake", now=journal.time())
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING
    assert the(journal, ref, "sleep#1").next_check_at == wake_at


def test_a_failure_that_happened_after_all_is_not_run_again(journal: Journal) -> None:
    """A verdict may come while its function goes on from the failure, and a retry after that has failed with it."""
    ref = a_function(journal)
    assert journal.claims.begin_new(a_call(ref, "charge#1"))
    row = the(journal, ref, "charge#1")
    assert journal.ends.fail(row, row.token, DECLINED, Effect.UNKNOWN, fails_run=False).recorded
    assert journal.verdicts.happened(the(journal, ref, "charge#1"), ONE, who="me", why="the bank has it").recorded
    assert journal.runs.reopen(ref, ["charge#1"], who="me", why="again", now=journal.time())
    assert the(journal, ref, "charge#1").status is StepStatus.FAILED, "its function goes on from that"
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, DID_NOT, fails_run=True)
    assert journal.runs.reopen(ref, ["charge#1", "function"], who="me", why="again", now=journal.time())
    row = the(journal, ref, "charge#1")
    assert (row.status, row.outcome) == (StepStatus.SUCCEEDED, ONE)
    assert the(journal, ref, "function").status is StepStatus.WAITING


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_member_that_joins_at_a_second_try_has_the_key_of_its_place(journal: Journal, elsewhere: OpenJournal) -> None:
    """The place that the first try gave it is another's by then."""
    ref = a_run(journal, a_step("charge", completes_run=True))
    other = elsewhere()
    first, second = a_step("", name="ship", ref=ref, task_id="t-1"), a_step("", name="ship", ref=ref, task_id="t-2")
    with aborted_once(journal, lambda: other.members.join(second, ["charge"])):
        assert journal.members.join(first, ["charge"]) is StepStatus.PLANNED
    assert [(s.key, s.task_id) for s in journal.reads.steps(ref)[1:]] == [("2:ship", "t-2"), ("3:ship", "t-1")]


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_an_order_looks_again_where_its_first_try_was_rolled_back(journal: Journal, elsewhere: OpenJournal) -> None:
    ref = a_run(journal, "charge")
    other = elsewhere()
    looks = []

    class Changed(Exception):
        pass

    def judge(change: Change[bool]) -> None:
        looks.append(change.steps_before[0].status)
        if looks[-1] is not StepStatus.PLANNED:
            raise Changed

    def act() -> bool:
        return journal.runs.cancel(ref, who="me", why="wrong order")

    with pytest.raises(Changed), aborted_once(journal, lambda: claim(other, ref, "charge")):
        journal.orders.carry_out(ref, act, judge)
    assert looks == [StepStatus.PLANNED, StepStatus.BEGUN]
    assert the(journal, ref, "charge").status is StepStatus.BEGUN
