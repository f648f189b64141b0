"""What the happy path costs, counted per dialect: by the journal's own count, and by the statements that it sends."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, Event, Kind, Safety, StepStatus, WorkflowStatus, new_ref, new_token
from tests.journal.counting import cost
from tests.journal.making import (
    MINUTE,
    ONE,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_workflow,
    claim,
    succeed,
    the,
    the_run,
)

__all__ = ["cost"]


@pytest.fixture
def known(journal: Journal) -> None:
    """This process has read since when these tasks are enforced."""
    for task in ("a", "b", "c", *(f"s{i}" for i in range(50))):
        journal.enforced.since(task)


def test_the_first_start_of_a_task_reads_and_notes_since_when_it_is_enforced(journal: Journal, cost: Any) -> None:
    def start() -> None:
        run = a_workflow(new_ref())
        journal.starts.start(run, [a_step("new", ref=run.ref)])

    first, second, third = cost(start), cost(start), cost(start)
    assert [(f.commits, len(f.statements)) for f in (first, second, third)] == [(1, 6), (1, 5), (1, 4)]


def test_a_task_whose_first_start_is_rolled_back_is_noted_by_the_next(journal: Journal) -> None:
    def start(conn: Any = None) -> None:
        run = a_workflow(new_ref())
        journal.starts.start(run, [a_step("new", ref=run.ref)], conn)

    class RolledBack(Exception):
        pass

    with pytest.raises(RolledBack), journal.db.open_transaction() as conn:
        start(conn)
        start(conn)
        raise RolledBack
    assert journal.events.since(Event.ENFORCED, 0) == []
    start()
    start()
    (noted,) = journal.events.since(Event.ENFORCED, 0)
    assert journal.enforced.since("new") == noted["at"]


@pytest.mark.usefixtures("known")
def test_a_start_is_one_commit_however_many_steps_it_plans(journal: Journal, cost: Any) -> None:
    for size in (1, 3, 50):
        run = a_workflow(new_ref())
        steps = [a_step(f"s{i}", ref=run.ref, position=i) for i in range(size)]
        found = cost(lambda: journal.starts.start(run, steps))
        assert (found.commits, found.reads) == (1, 0)
        assert len(found.statements) == 4, "begin, the run, its steps in one go, commit"


def test_a_start_in_the_callers_transaction_is_no_commit_of_its_own(journal: Journal, cost: Any) -> None:
    def work() -> None:
        with journal.db.open_transaction() as conn:
            for _ in range(3):
                assert journal.starts.start(a_workflow(new_ref()), [], conn)

    assert cost(work).commits == 1, "the caller's"


def test_a_protected_step_is_two_commits_of_one_statement_each(journal: Journal, cost: Any) -> None:
    ref = a_run(journal, "charge", "ship")
    begun = cost(lambda: journal.claims.begin(ref, "charge", "t", "w1", 30 * SECOND))
    ended = cost(lambda: journal.ends.succeed(ref, "charge", "t", ONE, completes_run=False))
    assert (begun.commits, begun.reads, len(begun.statements)) == (1, 0, 1)
    assert (ended.commits, ended.reads) == (1, 0)
    assert len(ended.statements) == (1 if journal.db.is_postgresql else 5), "it releases what comes after it as well"


def test_the_end_of_the_run_rides_on_its_last_step(journal: Journal, cost: Any) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    ended = cost(lambda: journal.ends.succeed(ref, "charge", token, ONE, completes_run=True))
    assert (ended.commits, ended.reads) == (1, 0)
    assert len(ended.statements) == (1 if journal.db.is_postgresql else 5)
    assert journal.reads.unfinished() == []


@pytest.mark.parametrize("last", [False, True])
def test_an_idempotent_step_is_two_commits_like_any_other_that_is_claimed(journal: Journal, cost: Any, last: bool) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT))
    begun = cost(lambda: journal.claims.begin(ref, "charge", "t", "w1", safety=Safety.IDEMPOTENT, window=MINUTE))
    ended = cost(lambda: journal.ends.succeed(ref, "charge", "t", ONE, completes_run=last))
    assert (begun.commits, begun.reads, ended.commits, ended.reads) == (1, 0, 1, 0)


def test_the_end_of_a_function_is_one_commit(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    ended = cost(lambda: journal.ends.succeed_unclaimed(ref, "function", "t", "w1", ONE, completes_run=True))
    assert (ended.commits, ended.reads) == (1, 0)


def test_a_transactional_step_is_one_commit(journal: Journal, cost: Any) -> None:
    ref = a_run(journal, "book")

    def book() -> None:
        with journal.db.open_transaction() as conn:
            row = journal.claims.lock(conn, ref, "book", "t", "w1")
            assert row is not None
            journal.ends.succeed_locked(conn, row, ONE, completes_run=True)

    found = cost(book)
    assert (found.commits, found.reads) == (1, 0)


def test_a_memo_hit_is_one_read_that_writes_nothing(journal: Journal, cost: Any) -> None:
    ref = a_run(journal, "charge")
    succeed(journal, ref, "charge", completes_run=True)
    found = cost(lambda: journal.claims.get(ref, "charge"))
    assert (found.commits, found.reads, len(found.statements)) == (0, 1, 1)


def test_a_replay_of_many_steps_is_one_read(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    for position in range(1, 30):
        row = a_call(ref, f"charge#{position}", position)
        assert journal.claims.begin_new(row)
        assert journal.ends.succeed(ref, row.key, row.token or "", ONE, completes_run=False)
    found = cost(lambda: journal.reads.steps(ref))
    assert (found.commits, found.reads, len(found.statements)) == (0, 1, 1)


def test_a_functions_call_is_two_commits(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge#1")
    assert cost(lambda: journal.claims.begin_new(call)).commits == 1
    assert cost(lambda: journal.ends.succeed(ref, "charge#1", call.token or "", ONE, completes_run=False)).commits == 1


def test_a_suspension_is_one_commit(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    at = journal.time() + MINUTE
    found = cost(lambda: journal.runs.suspend(ref, waiting_for="a timer", wake_at=at))
    assert (found.commits, found.reads) == (1, 0)


def test_a_sleep_is_one_commit_with_its_suspension(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    timer = a_step("sleep#1", ref=ref, kind=Kind.SLEEP, status=StepStatus.WAITING, next_check_at=journal.time() + MINUTE)
    found = cost(lambda: journal.runs.sleep(timer))
    assert (found.commits, found.reads) == (1, 0)
    assert the_run(journal, ref).status is WorkflowStatus.SUSPENDED


def test_a_dispatch_is_one_commit_and_its_end_another(journal: Journal, cost: Any) -> None:
    ref = a_function(journal)
    planned = cost(lambda: journal.claims.plan_new(a_dispatch(ref, "ship#1")))
    token = claim(journal, ref, "ship#1")
    ended = cost(lambda: journal.ends.succeed_dispatched(ref, "ship#1", token, ONE))
    assert (planned.commits, planned.reads, ended.commits, ended.reads) == (1, 0, 1, 0)


def test_a_beat_is_one_commit(journal: Journal, cost: Any) -> None:
    assert cost(lambda: journal.workers.beat("w1", ["a"])).commits == 1


def test_a_sweep_that_finds_nothing_writes_nothing(journal: Journal, cost: Any) -> None:
    a_run(journal, "charge")
    now = journal.time()

    def sweep() -> None:
        assert journal.due.take_steps(now, 100) == []
        assert journal.due.take_runs(now, 100) == []
        assert journal.due.of_dead_workers(100) == []
        assert journal.due.missing_from_heartbeats(100) == []

    found = cost(sweep)
    assert (found.commits, found.reads) == (0, 4)


def test_a_sweep_takes_a_batch_in_one_commit(journal: Journal, cost: Any) -> None:
    for _ in range(5):
        a_run(journal, "charge")
    found = cost(lambda: journal.due.take_runs(journal.time() + 60 * MINUTE, 100))
    assert found.commits == 1


@pytest.mark.usefixtures("known")
def test_the_happy_path_of_a_chain_of_three_is_seven_commits_and_writes_no_event(journal: Journal, cost: Any) -> None:
    run = a_workflow(new_ref())

    def chain() -> None:
        journal.starts.start(run, [a_step(key, ref=run.ref, position=i) for i, key in enumerate("abc")])
        for key in "abc":
            token = new_token()
            assert journal.claims.begin(run.ref, key, token, "w1")
            assert journal.ends.succeed(run.ref, key, token, ONE, completes_run=key == "c")

    found = cost(chain)
    assert (found.commits, found.reads) == (7, 0)
    assert journal.events.of(run.ref) == []
    assert the(journal, run.ref, "c").status is StepStatus.SUCCEEDED
    assert journal.reads.unfinished() == []
