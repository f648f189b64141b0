"""A statement was committed and its answer was lost: whoever asks again finds his own token and goes on (section 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal import Decision, Journal
from durable_adapter.model import (
    SECOND,
    Cause,
    Effect,
    Event,
    Kind,
    Safety,
    StepStatus,
    WorkflowStatus,
    new_ref,
    new_token,
)
from tests.journal.conftest import OpenJournal
from tests.journal.making import (
    DECLINED,
    MINUTE,
    NOTHING,
    ONE,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    a_workflow,
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
from tests.servers import TcpProxy

DID_NOT = Effect.DID_NOT_HAPPEN
COMMIT = b"COMMIT"
STEP = b"UPDATE durable_step"
NEW_STEP = b"INSERT INTO durable_step"
#: How a commit looks on the wire, which is not how the isolation level READ COMMITTED looks.
ON_THE_WIRE = {"postgresql": b"COMMIT\x00", "mysql": b"\x03COMMIT"}


@pytest.fixture(params=["postgresql", "mariadb"])
def dialect(request: pytest.FixtureRequest) -> str:
    """SQLite has no network to lose an answer in."""
    return str(request.param)


@dataclass
class Lossy:
    """The journal through a proxy that loses the answer to one request, which the server nevertheless carries out."""

    journal: Journal
    proxy: TcpProxy

    def losing(self, what: bytes, operation: Callable[[Journal], Any]) -> Any:
        """Run an operation whose answer to a statement with these bytes never comes."""
        self.journal.time()  # it is connected: connecting makes commits of its own
        lost = self.proxy.swallow_next_answer(ON_THE_WIRE[self.journal.db.dialect_name] if what == COMMIT else what)
        result = operation(self.journal)
        lost.wait()
        return result


@pytest.fixture
def lossy(journal: Journal, url: str, elsewhere: OpenJournal, tcp_proxy: Callable[[str], TcpProxy]) -> Lossy:
    proxy = tcp_proxy(url)
    return Lossy(elsewhere(proxy.url(url)), proxy)


def test_a_claim_whose_answer_was_lost_is_found_by_its_token(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    assert lossy.losing(STEP, lambda j: j.claims.begin(ref, "charge", "mine", "w1"))
    row = the(journal, ref, "charge")
    assert (row.status, row.token, row.attempt) == (StepStatus.BEGUN, "mine", 1)


def test_a_claim_that_was_lost_to_another_is_not_found(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    assert not lossy.losing(STEP, lambda j: j.claims.begin(ref, "charge", "mine", "w1"))


def test_a_claim_whose_answer_was_lost_is_not_taken_up_once_its_worker_is_dead(journal: Journal, lossy: Lossy) -> None:
    """The journal was away for so long that the worker was declared dead: the step is the sweeper's, nothing of it ran."""
    a_worker(journal, "w2", parent="p", pid=7)
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge", worker="w2")
    token = the(journal, ref, "charge").token or ""
    assert journal.claims.begin(ref, "charge", token, "w2")
    journal.workers.child_died("p", 7, "killed")
    assert not journal.claims.begin(ref, "charge", token, "w2")
    function = a_function(journal)
    assert not journal.claims.begin_new(a_call(function, "ship#1", worker="w2"))


def test_a_new_call_whose_answer_was_lost_is_found_by_its_token(journal: Journal, lossy: Lossy) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    assert lossy.losing(NEW_STEP, lambda j: j.claims.begin_new(call))
    assert the(journal, ref, "charge#1").token == call.token


def test_a_new_call_whose_answer_was_lost_is_found_although_the_run_was_stopped_meanwhile(journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    assert journal.claims.begin_new(call)
    journal.runs.cancel(ref, who="me", why="wrong order")
    assert journal.claims.begin_new(call), "it began before"
    assert not journal.claims.begin_new(a_call(ref, "ship#1", 2))


def test_a_new_call_whose_answer_was_lost_is_not_taken_up_once_it_was_decided(journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    assert journal.claims.begin_new(call)
    row = the(journal, ref, "charge#1")
    journal.doubts.raise_doubt(row, row.token, "its worker lost it", cause=Cause.WORKER_DIED, over=True)
    assert not journal.claims.begin_new(call)
    journal.verdicts.did_not_happen(the(journal, ref, "charge#1"), who="probe", why="no such charge")
    assert not journal.claims.begin_new(call), "another worker may claim it at any moment"


def test_a_planned_step_whose_answer_was_lost_is_counted_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_function(journal)
    lossy.losing(COMMIT, lambda j: j.claims.plan_new(a_dispatch(ref, "ship#1")))
    assert the_run(journal, ref).open_steps == 2
    assert statuses(journal, ref)["ship#1"] == "planned"


def test_a_start_whose_answer_was_lost_is_found(journal: Journal, lossy: Lossy) -> None:
    run = a_workflow(new_ref(), id="order-42")
    assert lossy.losing(COMMIT, lambda j: j.starts.start(run, [a_step("charge", ref=run.ref)]))
    assert statuses(journal, run.ref) == {"run": "running", "charge": "planned"}


def test_a_start_whose_answer_was_lost_and_that_was_lost_to_another_is_not_found(journal: Journal, lossy: Lossy) -> None:
    a_run(journal, id="order-42")
    run = a_workflow(new_ref(), id="order-42")
    assert not lossy.losing(b"INSERT INTO durable_workflow", lambda j: j.starts.start(run, []))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("claimed", [False, True])
def test_a_success_whose_answer_was_lost_is_recorded_and_counted_once(
    journal: Journal, lossy: Lossy, last: bool, claimed: bool
) -> None:
    ref = a_run(journal, "charge", open_steps=2)
    what = COMMIT if last and not journal.db.is_postgresql else STEP
    if claimed:
        token = claim(journal, ref, "charge")
        assert lossy.losing(what, lambda j: j.ends.succeed(ref, "charge", token, ONE, completes_run=last))
    else:
        assert lossy.losing(what, lambda j: j.ends.succeed_unclaimed(ref, "charge", "mine", "w1", ONE, completes_run=last))
    assert the(journal, ref, "charge").outcome == ONE
    assert the_run(journal, ref).open_steps == (1 if last else 2)


def test_a_dispatched_success_whose_answer_was_lost_is_counted_once_and_wakes(journal: Journal, lossy: Lossy) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    token = claim(journal, ref, "ship#1")
    journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
    ended = lossy.losing(COMMIT, lambda j: j.ends.succeed_dispatched(ref, "ship#1", token, ONE))
    assert (ended.recorded, ended.wakes) == (True, True)
    assert the_run(journal, ref).open_steps == 1


def test_a_transactional_step_whose_commit_was_not_answered_is_known_by_its_token(journal: Journal, lossy: Lossy) -> None:
    from sqlalchemy.exc import DBAPIError

    ref = a_run(journal, "book")

    def book(j: Journal) -> None:
        with pytest.raises(DBAPIError), j.db.open_transaction() as conn:
            row = j.claims.lock(conn, ref, "book", "mine", "w1")
            assert row is not None
            j.ends.succeed_locked(conn, row, ONE, completes_run=True)

    lossy.losing(COMMIT, book)
    row = the(journal, ref, "book")
    assert (row.status, row.token, row.outcome) == (StepStatus.SUCCEEDED, "mine", ONE)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
    assert lossy.journal.db.time() > 0, "the connection that broke is not used again"


def test_a_failure_whose_answer_was_lost_names_the_compensation_to_send(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    token = claim(journal, ref, "ship")
    row = the(journal, ref, "ship")
    ended = lossy.losing(COMMIT, lambda j: j.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True))
    assert ended.recorded
    assert ended.decision.undo.key == "undo:charge"
    assert events(journal, ref) == [Event.STEP_FAILED, Event.ROLLBACK]


def test_a_dispatched_failure_whose_answer_was_lost_is_counted_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ship#1"))
    token = claim(journal, ref, "ship#1")
    row = the(journal, ref, "ship#1")
    ended = lossy.losing(COMMIT, lambda j: j.ends.fail(row, token, DECLINED, DID_NOT, fails_run=False))
    assert (ended.recorded, ended.wakes) == (True, True)
    assert the_run(journal, ref).open_steps == 1


def test_an_undo_whose_answer_was_lost_names_what_follows(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), a_step("pack", compensation="unpack"), "ship")
    succeed(journal, ref, "charge", "pack")
    fail(journal, ref, "ship")
    token = claim(journal, ref, "undo:pack")
    ended = lossy.losing(COMMIT, lambda j: j.ends.succeed_undo(ref, "undo:pack", token, "pack", NOTHING))
    assert ended.recorded
    assert ended.decision.undo.key == "undo:charge"
    token = claim(journal, ref, "undo:charge")
    row = the(journal, ref, "undo:charge")
    ended = lossy.losing(COMMIT, lambda j: j.ends.fail(row, token, DECLINED, DID_NOT, fails_run=True))
    assert ended.recorded
    assert statuses(journal, ref)["run"] == "compensation_failed"


def test_a_wish_to_try_again_whose_answer_was_lost_is_recorded_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert lossy.losing(COMMIT, lambda j: j.ends.try_again(row, token, MINUTE, DECLINED, "declined"))
    assert statuses(journal, ref)["charge"] == "waiting"
    assert events(journal, ref) == [Event.ATTEMPT_FAILED]


def test_a_doubt_and_a_hold_whose_answers_were_lost_are_recorded_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    row = the(journal, ref, "charge")
    assert lossy.losing(COMMIT, lambda j: j.doubts.raise_doubt(row, token, "its worker died", cause=Cause.WORKER_DIED, over=True))
    doubtful = the(journal, ref, "charge")
    assert lossy.losing(COMMIT, lambda j: j.doubts.hold(doubtful, "nobody can tell"))
    assert events(journal, ref) == [Event.IN_DOUBT, Event.HELD]


def test_a_take_over_whose_answer_was_lost_is_counted_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    row = in_doubt(journal, ref, "charge")
    assert lossy.losing(COMMIT, lambda j: j.doubts.take_over(row, "it is idempotent"))
    assert the(journal, ref, "charge").takeovers == 1


@pytest.mark.parametrize("verdict", ["happened", "did not happen", "failed"])
def test_a_verdict_whose_answer_was_lost_is_given_once_and_was_given(journal: Journal, lossy: Lossy, verdict: str) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True), open_steps=2)
    row = held(journal, ref, "charge")

    def say(j: Journal) -> Any:
        if verdict == "happened":
            return j.verdicts.happened(row, ONE, who="me", why="it is there")
        if verdict == "failed":
            return j.ends.fail(row, None, DECLINED, DID_NOT, fails_run=True, who="me", why="no")
        return j.verdicts.did_not_happen(row, who="me", why="it is not there")

    assert lossy.losing(COMMIT, say).recorded
    assert the_run(journal, ref).open_steps == (1 if verdict == "happened" else 2)
    told = events(journal, ref)
    assert told.count(Event.VERDICT) + told.count(Event.STEP_FAILED) == 1


def test_a_late_success_whose_answer_was_lost_is_kept_once_where_it_is_accepted(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True), open_steps=2)
    row = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="me", why="not in the ledger")
    found = lossy.losing(COMMIT, lambda j: j.ends.late(ref, "charge", row.token or "", ONE, "w1"))
    assert found.status is StepStatus.SUCCEEDED
    assert the_run(journal, ref).open_steps == 1
    assert events(journal, ref).count(Event.LATE_SUCCESS) == 1


def test_a_missing_value_whose_answer_was_lost_is_held(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    row = the(journal, ref, "charge")
    assert lossy.losing(COMMIT, lambda j: j.ends.happened_without_value(row, None, "a lock", "w1"))
    assert statuses(journal, ref)["charge"] == "held"


def test_an_unmarked_end_whose_answer_was_lost_is_counted_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("legacy", kind=Kind.UNMARKED, completes_run=True), open_steps=2)
    lossy.losing(COMMIT, lambda j: j.members.record_unmarked(ref, "legacy", ONE, failed=None))
    assert the_run(journal, ref).open_steps == 1


def test_a_persons_orders_whose_answers_were_lost_are_carried_out_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship", "mail")
    succeed(journal, ref, "charge")
    journal.undo.begin(a_run(journal, "other"), who="me", why="another run is left alone")
    decision = lossy.losing(COMMIT, lambda j: j.undo.begin(ref, who="me", why="wrong order"))
    assert isinstance(decision, Decision)
    assert decision.undo is not None
    assert decision.undo.key == "undo:charge"
    assert [key for key in statuses(journal, ref) if key.startswith("undo:")] == ["undo:charge"]
    failed = a_run(journal, "charge", "ship")
    fail(journal, failed, "charge")
    lossy.losing(COMMIT, lambda j: j.runs.reopen(failed, ["charge"], who="me", why="again", now=j.time()))
    assert statuses(journal, failed) == {"run": "running", "charge": "waiting", "ship": "planned"}
    lossy.losing(COMMIT, lambda j: j.runs.cancel(failed, who="me", why="no"))
    assert statuses(journal, failed) == {"run": "cancelled", "charge": "cancelled", "ship": "cancelled"}


def test_what_is_due_and_whose_answer_was_lost_is_taken_by_a_later_sweep(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge")
    in_doubt(journal, ref, "charge")
    now = journal.time()
    assert lossy.losing(COMMIT, lambda j: j.due.take_steps(now, 10)) == []
    assert [row.key for row in journal.due.take_steps(now + MINUTE, 10)] == ["charge"]


def test_a_beat_and_a_registration_whose_answers_were_lost_count(journal: Journal, lossy: Lossy) -> None:
    lossy.losing(COMMIT, lambda j: a_worker(j, "w2", parent="p", pid=7))
    assert lossy.losing(b"UPDATE durable_worker", lambda j: j.workers.beat("w2", []))
    found = journal.workers.get("w2")
    assert found is not None
    assert (found.death, found.dead_at) == (None, None)


def test_a_suspension_whose_answer_was_lost_stands(journal: Journal, lossy: Lossy) -> None:
    ref = a_function(journal)
    at = journal.time() + MINUTE
    assert lossy.losing(COMMIT, lambda j: j.runs.suspend(ref, waiting_for="a timer", wake_at=at))
    assert (the_run(journal, ref).status, the_run(journal, ref).wake_at) == (WorkflowStatus.SUSPENDED, at)


def test_a_doubt_about_everything_whose_answer_was_lost_is_told_and_written_once(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge", "ship")
    found = lossy.losing(COMMIT, lambda j: j.doubts.doubt_unfinished("default", 0, who="me", why="restored"))
    assert (found.runs, found.steps) == (1, 2)
    assert statuses(journal, ref) == {"run": "running", "charge": "in_doubt", "ship": "in_doubt"}
    assert len(journal.events.since(Event.OPERATOR, 0)) == 1


def test_a_journal_that_is_away_says_so_and_is_used_again_when_it_is_back(journal: Journal, lossy: Lossy) -> None:
    ref = a_run(journal, "charge", "ship")
    away, back = lossy.proxy.cut, lossy.proxy.restore
    assert lossy.journal.claims.begin(ref, "charge", "mine", "w1")
    away()
    operations: list[Callable[[Journal], Any]] = [
        lambda j: j.claims.get(ref, "charge"),
        lambda j: j.claims.begin(ref, "ship", new_token(), "w1"),
        lambda j: j.ends.succeed(ref, "charge", "mine", ONE, completes_run=False),
        lambda j: j.starts.start(a_workflow(new_ref()), []),
        lambda j: j.workers.beat("w1", []),
        lambda j: j.reads.listed(),
        lambda j: j.check(),
    ]
    for operation in operations:
        with pytest.raises(JournalUnreachable, match=r"cannot be reached.*Check the URL and the database"):
            operation(lossy.journal)
    back()
    assert lossy.journal.ends.succeed(ref, "charge", "mine", ONE, completes_run=False)
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "planned"}


def test_connections_that_a_restarted_database_broke_are_replaced_without_anybody_noticing(
    journal: Journal, lossy: Lossy
) -> None:
    ref = a_run(journal, "charge")
    assert lossy.journal.claims.begin(ref, "charge", "mine", "w1")
    lossy.proxy.cut()
    lossy.proxy.restore()
    assert lossy.journal.ends.succeed(ref, "charge", "mine", ONE, completes_run=True)
    lossy.proxy.cut()
    lossy.proxy.restore()
    assert lossy.journal.reads.run(ref) is not None


def test_a_pooled_connection_that_was_broken_while_idle_does_not_lose_a_step(journal: Journal, lossy: Lossy) -> None:
    names = [f"step{i}" for i in range(4)]
    ref = a_run(journal, *names, open_steps=4)
    for name in names:
        assert lossy.journal.claims.begin(ref, name, name, "w1", 60 * SECOND)
        lossy.proxy.cut()
        lossy.proxy.restore()
        assert lossy.journal.ends.succeed(ref, name, name, ONE, completes_run=True)
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED
