"""A claim takes what is planned or due, for one winner, who is known by his token (P3)."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.claims import _expected_values, _seen_values
from durable_adapter.journal.schema import worker
from durable_adapter.model import CLAIMABLE, SECOND, Cause, Effect, Expected, Kind, Safety, Shape, StepStatus, Stored, new_token
from tests.journal.interleaving import Interleaving, together
from tests.journal.making import (
    DECLINED,
    MINUTE,
    ONE,
    TIMED_OUT,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    about,
    age,
    change,
    claim,
    fail,
    held,
    in_doubt,
    keys,
    statuses,
    succeed,
    the,
    the_run,
)

_DID_NOT = Effect.DID_NOT_HAPPEN


def test_a_planned_step_is_begun_under_the_token_and_the_worker_of_its_claim(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    before = journal.time()
    assert journal.claims.begin(ref, "charge", "aaaaaaaaaaaaaaaa", "w1", 30 * SECOND)
    row = the(journal, ref, "charge")
    assert (row.status, row.token, row.worker, row.attempt) == (StepStatus.BEGUN, "aaaaaaaaaaaaaaaa", "w1", 1)
    assert before <= (row.begun_at or 0) <= journal.time()
    assert row.deadline_at == about((row.begun_at or 0) + 30 * SECOND)
    assert row.next_check_at == about(row.deadline_at)


def test_a_step_without_a_time_out_is_not_looked_at_while_it_runs(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert (row.deadline_at, row.next_check_at) == (None, None)


def test_a_step_that_is_begun_is_not_claimed_again_however_often_it_is_tried(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")
    assert the(journal, ref, "charge").token == token
    assert journal.claims.begin(ref, "charge", token, "w1"), "its own token finds its own claim"


def test_only_planned_and_waiting_steps_are_claimed(journal: Journal) -> None:
    for status in StepStatus:
        ref = a_run(journal, "charge")
        change(journal, ref, "charge", status=status.value)
        assert journal.claims.begin(ref, "charge", new_token(), "w1").held is (status in CLAIMABLE), status


def test_a_waiting_step_is_claimed_only_once_it_is_due(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", status=StepStatus.WAITING))
    change(journal, ref, "charge", next_check_at=journal.time() + MINUTE)
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")
    change(journal, ref, "charge", next_check_at=journal.time())
    assert journal.claims.begin(ref, "charge", new_token(), "w1")


def a_graph(journal: Journal, *after: str, pending: int | None = None, **given: Any) -> str:
    """A run of `pack` and `charge`, and of `ship`, which comes after some of them."""
    pending = len(after) if pending is None else pending
    return a_run(journal, "pack", "charge", a_step("ship", after=list(after), pending=pending, **given))


@pytest.mark.parametrize(
    ("after", "done", "taken"),
    [
        ([], [], True),
        (["pack"], [], False),
        (["pack"], ["charge"], False),
        (["pack"], ["pack"], True),
        (["pack", "charge"], ["pack"], False),
        (["pack", "charge"], ["pack", "charge"], True),
    ],
)
def test_a_claim_in_turn_is_had_when_nothing_that_it_comes_after_is_open(
    journal: Journal, after: list[str], done: list[str], taken: bool
) -> None:
    ref = a_graph(journal, *after)
    succeed(journal, ref, *done)
    found = journal.claims.begin(ref, "ship", new_token(), "w1", in_turn=True)
    assert found.held is taken
    assert the(journal, ref, "ship").status is (StepStatus.BEGUN if taken else StepStatus.PLANNED)
    assert taken or found.found == the(journal, ref, "ship")


def test_each_success_counts_down_once_whatever_its_key_holds(journal: Journal) -> None:
    odd = 'a "quoted" ключ_%'
    ref = a_run(journal, "pack", odd, a_step("ship", after=["pack", odd], pending=2), a_step("other", after=["pack2"], pending=1))
    token = claim(journal, ref, odd)
    for _ in range(3):
        assert journal.ends.succeed(ref, odd, token, ONE), "its answer was lost"
    assert (the(journal, ref, "ship").pending, the(journal, ref, "other").pending) == (1, 1)
    succeed(journal, ref, "pack")
    assert (the(journal, ref, "ship").pending, the(journal, ref, "other").pending) == (0, 1)


def test_a_row_of_the_first_revision_counts_nothing_and_is_not_taken_in_turn(journal: Journal) -> None:
    ref = a_run(journal, "pack", "ship")
    change(journal, ref, "ship", after=None, pending=None)
    assert not journal.claims.begin(ref, "ship", new_token(), "w1", in_turn=True)
    assert journal.claims.begin(ref, "ship", new_token(), "w1"), "once it is known that it may begin"


@pytest.mark.parametrize(
    ("expected", "why"),
    [
        (Expected("refund", Kind.STEP), "the message is for a step refund"),
        (Expected("ship", Kind.DISPATCH), "the message is for a dispatch ship"),
        (Expected("ship", Kind.STEP, completes_run=True), "lacks what follows"),
        (Expected("ship", Kind.STEP, fingerprints=("b" * 64, None)), "other arguments than the plan"),
    ],
)
def test_a_message_that_is_not_for_the_row_takes_nothing(journal: Journal, expected: Expected, why: str) -> None:
    ref = a_run(journal, a_step("ship", fingerprint="a" * 64), "mail")
    found = journal.claims.begin(ref, "ship", new_token(), "w1", expected=expected)
    assert not found
    assert the(journal, ref, "ship").status is StepStatus.PLANNED
    assert why in (expected.misfit(the(journal, ref, "ship")) or "")


@pytest.mark.parametrize(
    "expected",
    [
        Expected("ship", Kind.STEP),
        Expected("ship", Kind.STEP, fingerprints=("a" * 64, None)),
        Expected("ship", Kind.STEP, fingerprints=("b" * 64, "a" * 64)),
    ],
)
def test_a_message_that_fits_its_row_takes_it(journal: Journal, expected: Expected) -> None:
    ref = a_run(journal, a_step("ship", fingerprint="a" * 64), "mail")
    assert expected.misfit(the(journal, ref, "ship")) is None
    assert journal.claims.begin(ref, "ship", new_token(), "w1", expected=expected)


def test_a_step_that_the_journal_does_not_have_is_not_to_be_had(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    assert journal.claims.get(ref, "ship") is None
    assert not journal.claims.begin(ref, "ship", new_token(), "w1")
    assert not journal.claims.begin("0" * 32, "charge", new_token(), "w1")


@pytest.mark.parametrize("state", ["dead", "stopped", "unknown"])
def test_nothing_begins_under_a_worker_that_is_dead_or_stopped_or_unknown(journal: Journal, state: str) -> None:
    w2 = a_worker(journal, "w2", parent="p", pid=7)
    if state == "dead":
        assert journal.workers.child_died("p", 7, "killed") == 1
    elif state == "stopped":
        journal.workers.stop(w2)
    else:
        journal.db.transaction(lambda conn: conn.execute(sa.delete(worker).where(worker.c.id == w2)))
    ref = a_run(journal, "charge")
    assert not journal.claims.begin(ref, "charge", new_token(), w2)
    function = a_function(journal)
    assert not journal.claims.begin_new(a_call(function, "charge#1", worker=w2))
    assert statuses(journal, ref)["charge"] == "planned"
    assert journal.claims.get(function, "charge#1") is None


def test_keys_and_ids_compare_byte_by_byte(journal: Journal) -> None:
    ref = a_run(journal, "charge", "Charge", "chargé", "CHARGE")
    claim(journal, ref, "charge")
    assert statuses(journal, ref) == {
        "run": "running",
        "charge": "begun",
        "Charge": "planned",
        "chargé": "planned",
        "CHARGE": "planned",
    }
    a_run(journal, "charge", id="order-x")
    a_run(journal, "charge", id="ORDER-X")


def test_of_many_claims_at_once_one_wins(journal: Journal) -> None:
    for _ in range(5):
        ref = a_run(journal, "charge")
        tokens = [new_token() for _ in range(6)]
        won = together(*[lambda t=t: bool(journal.claims.begin(ref, "charge", t, "w1")) for t in tokens])  # type: ignore[misc]
        assert won.count(True) == 1
        assert the(journal, ref, "charge").token == tokens[won.index(True)]
        assert the(journal, ref, "charge").attempt == 1


def test_a_claim_that_waited_for_another_ones_commit_is_lost(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, "charge")

    def held_open(other: Journal) -> bool:
        hot = other.db.hot(other.claims._begin)
        values = {
            "b_ref": ref,
            "b_key": "charge",
            "b_token": "first",
            "b_worker": "w1",
            "b_timeout": None,
            "b_safety": "protected",
            "b_window": None,
            **_expected_values(None),
            **_seen_values(None),
        }
        return other.db.transaction(lambda conn: bool(hot.run(conn, values).rowcount))

    first = meanwhile.stopped_after("UPDATE durable_step", held_open)
    second = meanwhile.run(lambda other: bool(other.claims.begin(ref, "charge", "second", "w1")))
    assert (first.result(), second.result()) == (True, False)
    assert the(journal, ref, "charge").token == "first"


def test_a_call_of_a_function_is_inserted_as_begun(journal: Journal) -> None:
    ref = a_function(journal)
    row = a_call(ref, "charge#1", deadline_at=30 * SECOND, arguments=Stored("json/1", b"[1]"), compensation="refund")
    assert journal.claims.begin_new(row)
    found = the(journal, ref, "charge#1")
    assert (found.status, found.token, found.attempt, found.worker) == (StepStatus.BEGUN, row.token, 1, "w1")
    assert found.deadline_at == about((found.begun_at or 0) + 30 * SECOND)
    assert found.next_check_at == about(found.deadline_at)
    assert (found.arguments, found.compensation) == (row.arguments, "refund")


def test_of_many_calls_with_one_key_at_once_one_wins(journal: Journal) -> None:
    for _ in range(5):
        ref = a_function(journal)
        calls = [a_call(ref, "charge#1") for _ in range(6)]
        won = together(*[lambda c=c: bool(journal.claims.begin_new(c)) for c in calls])  # type: ignore[misc]
        assert won.count(True) == 1
        assert the(journal, ref, "charge#1").token == calls[won.index(True)].token


@pytest.mark.parametrize("over", ["rolled back", "cancelled", "failed"])
def test_nothing_new_begins_in_a_run_that_no_longer_goes_forward(journal: Journal, over: str) -> None:
    ref = a_function(journal)
    if over == "rolled back":
        journal.undo.begin(ref, who="me", why="wrong order")
    elif over == "cancelled":
        journal.runs.cancel(ref, who="me", why="wrong order")
    else:
        journal.ends.fail(the(journal, ref, "function"), None, DECLINED, effect=_DID_NOT, fails_run=True)
    assert not journal.claims.begin_new(a_call(ref, "charge#1"))
    assert not journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    assert list(statuses(journal, ref)) == ["run", "function"]
    assert the_run(journal, ref).open_steps == 1


def test_a_dispatched_step_counts_from_when_it_is_planned(journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    assert not journal.claims.plan_new(a_dispatch(ref, "ship#1")), "it is there"
    assert journal.claims.plan_new(a_step("sleep#1", ref=ref, position=2, kind=Kind.SLEEP))
    assert the_run(journal, ref).open_steps == 2
    assert statuses(journal, ref)["ship#1"] == "planned"


def test_a_step_planned_by_two_at_once_is_counted_once(journal: Journal) -> None:
    for _ in range(5):
        ref = a_function(journal)
        planned = together(*[lambda: journal.claims.plan_new(a_dispatch(ref, "ship#1"))] * 4)
        assert planned.count(True) == 1
        assert the_run(journal, ref).open_steps == 2


def test_a_transactional_step_makes_its_rival_wait_and_hands_it_the_memo(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, "book")

    def book(other: Journal) -> str | None:
        with other.db.open_transaction() as conn:
            row = other.claims.lock(conn, ref, "book", "first", "w1")
            assert row is not None
            other.ends.succeed_locked(conn, row, Stored("json/1", b"1"), completes_run=True)
            return row.token

    def rival(other: Journal) -> StepStatus:
        with other.db.open_transaction() as conn:
            row = other.claims.lock(conn, ref, "book", "second", "w1")
            assert row is not None
            assert row.token == "first"
            return row.status

    first = meanwhile.stopped_after("UPDATE durable_step", book)
    second = meanwhile.run(rival)
    assert first.result() == "first"
    assert second.result() is StepStatus.SUCCEEDED
    assert statuses(journal, ref) == {"run": "succeeded", "book": "succeeded"}


def test_a_transactional_step_that_raised_was_never_begun(journal: Journal) -> None:
    ref = a_run(journal, "book")
    with pytest.raises(ZeroDivisionError), journal.db.open_transaction() as conn:
        row = journal.claims.lock(conn, ref, "book", new_token(), "w1")
        assert row is not None
        assert row.attempt == 1
        raise ZeroDivisionError
    row = the(journal, ref, "book")
    assert (row.status, row.attempt, row.token) == (StepStatus.PLANNED, 0, None)


def test_a_transactional_step_that_is_not_to_be_had_is_handed_back_as_it_is(journal: Journal) -> None:
    ref = a_run(journal, "book", "pack", "ship")
    succeed(journal, ref, "book")
    in_doubt(journal, ref, "pack")
    change(journal, ref, "ship", status="waiting", next_check_at=journal.time() + MINUTE)
    with journal.db.open_transaction() as conn:
        assert journal.claims.lock(conn, ref, "nothing", new_token(), "w1") is None
        for key, status in (("book", "succeeded"), ("pack", "in_doubt"), ("ship", "waiting")):
            row = journal.claims.lock(conn, ref, key, "mine", "w1")
            assert row is not None
            assert (row.status, row.token == "mine") == (status, False)


def test_a_transactional_call_of_a_function_makes_its_rival_wait_for_the_key(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_function(journal)

    def book(other: Journal) -> bool:
        with other.db.open_transaction() as conn:
            row = a_call(ref, "book#1")
            if not other.claims.lock_new(conn, row):
                return False
            other.ends.succeed_locked(conn, row, Stored("json/1", b"1"), completes_run=False)
            return True

    first = meanwhile.stopped_after("INSERT INTO durable_step", book)
    second = meanwhile.run(book)
    assert (first.result(), second.result()) == (True, False)
    assert statuses(journal, ref)["book#1"] == "succeeded"


def test_a_transactional_call_does_not_begin_in_a_run_that_no_longer_goes_forward(journal: Journal) -> None:
    ref = a_function(journal)
    journal.undo.begin(ref, who="me", why="wrong order")
    with journal.db.open_transaction() as conn:
        assert not journal.claims.lock_new(conn, a_call(ref, "book#1"))


def test_a_providers_own_name_for_an_effect_is_kept_under_the_attempts_token_only(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    journal.claims.refer(ref, "charge", token, "ch_1")
    journal.claims.refer(ref, "charge", "another", "ch_2")
    assert the(journal, ref, "charge").reference == "ch_1"


def test_a_claim_that_waits_while_a_rollback_is_decided_is_refused(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "pack", "ship")
    succeed(journal, ref, "charge")
    token = claim(journal, ref, "pack")
    row = the(journal, ref, "pack")
    decision = meanwhile.stopped_after(
        "SELECT durable_step", lambda other: other.ends.fail(row, token, DECLINED, _DID_NOT, fails_run=True)
    )
    sibling = meanwhile.run(lambda other: other.claims.begin(ref, "ship", new_token(), "w1"))
    assert decision.result().recorded
    assert not sibling.result()
    assert statuses(journal, ref) == {
        "run": "rolling_back",
        "charge": "succeeded",
        "undo:charge": "planned",
        "pack": "failed",
        "ship": "cancelled",
    }


def test_a_claim_that_is_committed_first_is_seen_by_the_rollback_that_waited_for_it(
    journal: Journal, meanwhile: Interleaving
) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "pack", a_step("ship", compensation="recall"))
    succeed(journal, ref, "charge")
    token = claim(journal, ref, "pack")
    row = the(journal, ref, "pack")

    def held_open(other: Journal) -> bool:
        hot = other.db.hot(other.claims._begin)
        values = {"b_ref": ref, "b_key": "ship", "b_token": "t", "b_worker": "w1", "b_timeout": None, "b_safety": "protected"}
        values |= {"b_window": None, **_expected_values(None), **_seen_values(None)}
        return other.db.transaction(lambda conn: bool(hot.run(conn, values).rowcount))

    sibling = meanwhile.stopped_after("UPDATE durable_step", held_open)
    decision = meanwhile.run(lambda other: other.ends.fail(row, token, DECLINED, _DID_NOT, fails_run=True))
    assert sibling.result()
    assert decision.result().decision.undo.target == "charge"
    assert statuses(journal, ref)["ship"] == "begun"
    undo = the(journal, ref, "undo:charge")
    journal.ends.succeed_undo(ref, undo.key, claim(journal, ref, undo.key), "charge", Stored("json/1", b"1"))
    assert statuses(journal, ref)["run"] == "rolling_back", "a sibling that may yet have its effect is waited for"


def test_a_call_that_is_inserted_while_a_rollback_is_decided_is_refused(journal: Journal, meanwhile: Interleaving) -> None:
    ref = a_function(journal)
    charge = a_call(ref, "charge#1", compensation="refund")
    assert journal.claims.begin_new(charge)
    assert journal.ends.succeed(ref, "charge#1", charge.token or "", ONE, completes_run=False)
    function = the(journal, ref, "function")
    decision = meanwhile.stopped_after(
        "UPDATE durable_workflow", lambda other: other.ends.fail(function, None, DECLINED, _DID_NOT, fails_run=True)
    )
    call = meanwhile.run(lambda other: other.claims.begin_new(a_call(ref, "ship#1", position=2)))
    planned = meanwhile.run(lambda other: other.claims.plan_new(a_dispatch(ref, "mail#1", position=3)))
    assert decision.result().recorded
    assert not call.result()
    assert not planned.result()
    assert "ship#1" not in statuses(journal, ref)


def test_a_call_that_is_inserted_while_a_rollback_waits_for_the_run_is_not_overlooked_by_it(
    journal: Journal, meanwhile: Interleaving
) -> None:
    ref = a_function(journal)
    ship = a_call(ref, "ship#1", compensation="recall")
    call = meanwhile.stopped_after("INSERT INTO durable_step", lambda other: other.claims.begin_new(ship))
    decision = meanwhile.run(lambda other: other.undo.begin(ref, who="me", why="wrong order"))
    assert call.result()
    assert decision.result() is not None
    assert statuses(journal, ref) == {"run": "rolling_back", "function": "cancelled", "ship#1": "begun"}
    assert journal.ends.succeed(ref, "ship#1", ship.token or "", Stored("json/1", b"1"), completes_run=False)
    undo = journal.undo.advance(ref)
    assert undo is not None
    assert undo.undo is not None
    assert undo.undo.target == "ship#1"


@pytest.mark.parametrize("how", ["a planned step", "a new call"])
def test_nothing_is_claimed_under_a_worker_whose_death_was_written_while_the_claim_waited(
    journal: Journal, meanwhile: Interleaving, how: str
) -> None:
    """Whichever comes first: the claim is refused, or it is committed before the death and a sweeper finds it."""
    a_worker(journal, "w2", parent="p", pid=7)
    ref = a_run(journal, "charge", shape=Shape.FUNCTION)

    def begin(other: Journal) -> bool:
        if how == "a planned step":
            return bool(other.claims.begin(ref, "charge", "t", "w2"))
        return bool(other.claims.begin_new(a_call(ref, "ship#1", worker="w2")))

    # Its first statement tells of a death that was written before, and locks nothing here.
    death = meanwhile.stopped_after("UPDATE durable_worker", lambda other: other.workers.child_died("p", 7, "killed"), skip=1)
    late = meanwhile.run(begin)
    assert death.result() == 1
    assert late.result() is False
    assert keys(row for row, _ in journal.due.of_dead_workers(10)) == []


def test_a_death_that_is_written_while_a_claim_is_being_committed_finds_what_was_claimed(
    journal: Journal, meanwhile: Interleaving
) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    ref = a_run(journal, "charge", shape=Shape.FUNCTION)
    for key, stop, begin in (
        ("charge", "UPDATE durable_step", lambda other: _held_open(other, ref, "charge", "w2")),
        ("ship#1", "INSERT INTO durable_step", lambda other: bool(other.claims.begin_new(a_call(ref, "ship#1", worker="w2")))),
    ):
        claimed = meanwhile.stopped_after(stop, begin)
        death = meanwhile.run(lambda other: other.workers.child_died("p", 7, "killed"))
        assert claimed.result() is True
        assert death.result() == 1
        assert key in keys(row for row, _ in journal.due.of_dead_workers(10))
        journal.workers._db.transaction(lambda conn: conn.execute(sa.update(worker).values(alive=1, dead_at=None)))


def _held_open(other: Journal, ref: str, key: str, worker_id: str) -> bool:
    values = {"b_ref": ref, "b_key": key, "b_token": "t", "b_worker": worker_id, "b_timeout": None, "b_safety": "protected"}
    values |= {"b_window": None, **_expected_values(None), **_seen_values(None)}
    return other.db.transaction(lambda conn: bool(other.db.hot(other.claims._begin).run(conn, values).rowcount))


def test_a_step_that_died_with_its_worker_is_taken_again_by_one_only(journal: Journal) -> None:
    """Death, doubt and the new claim by two sweepers and two workers at once: one new attempt, under a living worker."""
    for round_ in range(3):
        a_worker(journal, f"dead{round_}", parent="p", pid=round_)
        ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
        claim(journal, ref, "charge", worker=f"dead{round_}")

        def take(round_: int = round_, ref: str = ref) -> bool:
            journal.workers.child_died("p", round_, "killed")
            for row, _ in journal.due.of_dead_workers(10):
                journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
            row = the(journal, ref, "charge")
            if row.status is StepStatus.IN_DOUBT:
                journal.doubts.take_over(row, "it is idempotent")
            return bool(journal.claims.begin(ref, "charge", new_token(), "w1", safety=Safety.IDEMPOTENT))

        assert together(*[take] * 4).count(True) == 1
        row = the(journal, ref, "charge")
        assert (row.status, row.worker, row.attempt, row.takeovers) == (StepStatus.BEGUN, "w1", 2, 1)


def test_a_message_that_the_sweeper_sends_for_a_due_step_can_begin_it(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 5 * MINUTE, DECLINED, "declined")
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")
    age(journal, ref, "charge", "next_check_at", by=5 * MINUTE)
    assert keys(journal.due.take_steps(journal.time(), 10)) == ["charge"]
    assert keys(journal.due.take_steps(journal.time(), 10)) == [], "it was taken a moment ago"
    assert journal.claims.begin(ref, "charge", new_token(), "w1")


def test_a_due_step_whose_message_was_lost_is_taken_again_after_a_while(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, DECLINED, "declined")
    now = journal.time()
    assert keys(journal.due.take_steps(now, 10)) == ["charge"]
    assert keys(journal.due.take_steps(now + 29 * SECOND, 10)) == []
    assert keys(journal.due.take_steps(now + 31 * SECOND, 10)) == ["charge"]
    assert journal.claims.begin(ref, "charge", new_token(), "w1")


def test_a_sweep_that_is_given_a_later_time_makes_due_what_it_takes(journal: Journal) -> None:
    """Tests give the sweeper the time; what it then sends must be able to begin by the database's own clock."""
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 5 * MINUTE, DECLINED, "declined")
    assert keys(journal.due.take_steps(journal.time() + 6 * MINUTE, 10)) == ["charge"]
    assert journal.claims.begin(ref, "charge", new_token(), "w1")


def test_no_verdict_and_no_hold_is_taken_for_a_claim(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    assert not journal.claims.begin(ref, "charge", new_token(), "w1")
    fail(journal, ref, "ship")
    assert not journal.claims.begin(ref, "ship", new_token(), "w1")


def test_the_first_claim_says_when_a_key_was_first_used_and_later_ones_leave_that(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    assert the(journal, ref, "charge").first_begun_at is None
    age(journal, ref, "charge", "created_at", by=60 * MINUTE)
    token = claim(journal, ref, "charge")
    first = the(journal, ref, "charge").first_begun_at
    assert first == about(journal.time())
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    age(journal, ref, "charge", by=MINUTE)
    claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert (row.attempt, row.first_begun_at, row.begun_at) == (2, (first or 0) - MINUTE, about(journal.time()))


def test_a_step_that_a_function_calls_in_place_keeps_when_its_key_was_first_used(journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.claims.begin_new(a_call(ref, "charge#1"))
    with journal.db.open_transaction() as conn:
        assert journal.claims.lock_new(conn, a_call(ref, "book#1", 2))
    for key in ("charge#1", "book#1"):
        assert the(journal, ref, key).first_begun_at == about(journal.time())


def repeatable(journal: Journal, effect: Effect | None, *, begun_before: int, planned_before: int) -> str:
    """An idempotent step whose first attempt began some time ago and is to be repeated."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    token = claim(journal, ref, "charge")
    assert journal.ends.try_again(the(journal, ref, "charge"), token, 0, TIMED_OUT, "timed out", effect=effect)
    age(journal, ref, "charge", "first_begun_at", by=begun_before)
    age(journal, ref, "charge", "created_at", by=planned_before)
    return ref


def begins(journal: Journal, ref: str, window: int | None) -> bool:
    return journal.claims.begin(ref, "charge", new_token(), "w1", safety=Safety.IDEMPOTENT, window=window).held


def test_a_claim_outside_of_the_window_of_its_key_is_refused(journal: Journal) -> None:
    """The window runs from the first use of the key, however long ago the step was planned."""
    ref = repeatable(journal, Effect.UNKNOWN, begun_before=61 * MINUTE, planned_before=61 * MINUTE)
    assert not begins(journal, ref, 60 * MINUTE)
    row = the(journal, ref, "charge")
    assert (row.status, row.attempt) == (StepStatus.WAITING, 1)
    assert begins(journal, ref, 62 * MINUTE)

    ref = repeatable(journal, Effect.UNKNOWN, begun_before=59 * MINUTE, planned_before=600 * MINUTE)
    assert begins(journal, ref, 60 * MINUTE)


def test_a_row_that_does_not_know_its_first_use_counts_from_when_it_was_planned(journal: Journal) -> None:
    ref = repeatable(journal, Effect.UNKNOWN, begun_before=0, planned_before=61 * MINUTE)
    change(journal, ref, "charge", first_begun_at=None)
    assert not begins(journal, ref, 60 * MINUTE)
    assert begins(journal, ref, 62 * MINUTE)
    row = the(journal, ref, "charge")
    assert row.first_begun_at == row.created_at, "the claim of a later attempt is no first use"


@pytest.mark.parametrize("effect", [None, Effect.DID_NOT_HAPPEN])
def test_no_window_is_over_for_what_cannot_have_happened(journal: Journal, effect: Effect | None) -> None:
    ref = repeatable(journal, effect, begun_before=600 * MINUTE, planned_before=600 * MINUTE)
    assert begins(journal, ref, 60 * MINUTE)


def test_two_claims_of_an_idempotent_step_at_once_have_one_winner(journal: Journal) -> None:
    for _ in range(20):
        ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
        first, second = together(lambda: begins(journal, ref, MINUTE), lambda: begins(journal, ref, MINUTE))
        assert first is not second
        assert the(journal, ref, "charge").attempt == 1


def test_a_claim_that_takes_nothing_hands_back_what_it_found(journal: Journal) -> None:
    ref, function = a_run(journal, "charge"), a_function(journal)
    succeed(journal, ref, "charge")
    lost = journal.claims.begin(ref, "charge", new_token(), "w1")
    assert (lost.held, lost.found) == (False, the(journal, ref, "charge"))
    assert journal.claims.begin_new(a_call(function, "charge#1"))
    lost = journal.claims.begin_new(a_call(function, "charge#1"))
    assert (lost.held, lost.found) == (False, the(journal, function, "charge#1"))


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_transactional_body_that_is_frozen_keeps_nobody_waiting_who_writes_its_workers_death(
    journal: Journal, meanwhile: Interleaving
) -> None:
    a_worker(journal, "w2", parent="p", pid=7)
    ref = a_run(journal, "book")

    def book(other: Journal) -> None:
        with other.db.open_transaction() as conn:
            row = other.claims.lock(conn, ref, "book", "t", "w2")
            assert row is not None
            other.ends.succeed_locked(conn, row, Stored("json/1", b"1"), completes_run=True)

    frozen = meanwhile.stopped_before("UPDATE durable_workflow", book)
    death = meanwhile.run(lambda other: other.workers.child_died("p", 7, "killed"))
    assert death.ended.is_set(), "it did not wait"
    assert death.result() == 1
    frozen.result()
    assert statuses(journal, ref) == {"run": "succeeded", "book": "succeeded"}, "it was one transaction, and it holds"


def test_a_providers_name_comes_too_late_from_an_attempt_whose_step_is_to_be_tried_again(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = in_doubt(journal, ref, "charge")
    journal.claims.refer(ref, "charge", row.token or "", "ch_1")
    assert the(journal, ref, "charge").reference == "ch_1", "doubt does not change the token"
    assert journal.doubts.take_over(row, "it is idempotent")
    journal.claims.refer(ref, "charge", row.token or "", "ch_stale")
    assert the(journal, ref, "charge").reference == "ch_1"


@pytest.mark.parametrize("safety", [Safety.PROTECTED, Safety.IDEMPOTENT])
def test_whoever_has_claimed_nothing_tells_no_providers_name(journal: Journal, safety: Safety) -> None:
    ref = a_run(journal, a_step("charge", safety=safety))
    journal.claims.refer(ref, "charge", new_token(), "ch_1")
    assert the(journal, ref, "charge").reference is None
    journal.claims.refer(ref, "charge", claim(journal, ref, "charge"), "ch_2")
    assert the(journal, ref, "charge").reference == "ch_2"


@pytest.mark.parametrize("told", ["that it is declined", "nothing"])
def test_a_claim_rests_on_the_row_that_was_read(journal: Journal, told: str) -> None:
    """Between the read and the claim another attempt came and went, and perhaps the provider's key with it."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    read = the(journal, ref, "charge")
    token = claim(journal, ref, "charge")
    effect = _DID_NOT if told == "that it is declined" else None
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, DECLINED, "declined", effect=effect)
    claimed = journal.claims.begin(ref, "charge", new_token(), "w1", seen=read, safety=Safety.IDEMPOTENT)
    assert not claimed
    assert claimed.found == the(journal, ref, "charge"), "so that nobody reads it again"
    assert journal.claims.begin(ref, "charge", new_token(), "w1", seen=claimed.found, safety=Safety.IDEMPOTENT)
