"""What a worker pays for a call, counted through `run_step` and `run_function`: the budget of the design, per dialect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Kind, StepStatus
from tests.calls.conftest import Workplace
from tests.journal.counting import cost
from tests.journal.making import a_dispatch, a_function, a_run, a_step, claim, succeed, the

__all__ = ["cost"]

PROTECTED = StepPolicy()
IDEMPOTENT = StepPolicy(idempotent=True)
TRANSACTIONAL = StepPolicy(transactional=True)
PROBED = StepPolicy(probe=lambda: durable.happened(1))
POLICIES = {"protected": PROTECTED, "idempotent": IDEMPOTENT, "transactional": TRANSACTIONAL, "probed": PROBED}

each_policy = pytest.mark.parametrize("declared", POLICIES)


def one() -> int:
    return 1


@durable.step
def plain(number: int) -> int:
    return number


@durable.step(idempotent=timedelta(hours=1))
def harmless(number: int) -> int:
    return number


@durable.step(transactional=True)
def booked(number: int) -> int:
    durable.session()
    return number


def a_member(journal: Journal, policy: StepPolicy) -> str:
    return a_run(journal, a_step("charge", safety=policy.safety), "ship")


@each_policy
def test_a_first_attempt_is_no_dearer_than_its_claim_and_its_end(
    journal: Journal, at_work: Workplace, cost: Any, declared: str
) -> None:
    policy = POLICIES[declared]
    ref = a_member(journal, policy)
    found = cost(lambda: at_work.step(ref, "charge", one, policy))
    assert (found.commits, found.reads) == (1 if declared == "transactional" else 2, 0)
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED


@each_policy
def test_a_memo_hit_of_a_message_that_comes_again_is_one_read_and_no_commit(
    journal: Journal, at_work: Workplace, cost: Any, declared: str
) -> None:
    policy = POLICIES[declared]
    ref = a_member(journal, policy)
    at_work.step(ref, "charge", one, policy)
    found = cost(lambda: at_work.step(ref, "charge", one, policy, again=True))
    assert (found.commits, found.reads, len(found.statements)) == (0, 1, 1)
    assert at_work.ran == {"charge": 1}


@each_policy
def test_a_memo_hit_of_a_message_that_is_not_marked_is_one_read_besides_the_claim_that_it_tries(
    journal: Journal, at_work: Workplace, cost: Any, declared: str
) -> None:
    """Its claim, or its transaction, comes first, because on the happy path there is nothing to look for."""
    policy = POLICIES[declared]
    ref = a_member(journal, policy)
    at_work.step(ref, "charge", one, policy)
    found = cost(lambda: at_work.step(ref, "charge", one, policy))
    assert (found.commits, found.reads) == ((0, 0) if declared == "transactional" else (1, 1))
    assert sum(s.startswith("SELECT") for s in found.statements) == 1
    assert at_work.ran == {"charge": 1}


@pytest.mark.parametrize("again", [False, True])
def test_a_recorded_failure_costs_no_more(journal: Journal, at_work: Workplace, cost: Any, again: bool) -> None:
    ref = a_run(journal, a_step("charge", kind=Kind.DISPATCH), "ship")

    def declined() -> None:
        raise ValueError("declined")

    for _ in range(2):
        with pytest.raises(ValueError, match="declined"):
            at_work.step(ref, "charge", declined, kind=Kind.DISPATCH)

    def replay() -> None:
        with pytest.raises(ValueError, match="declined"):
            at_work.step(ref, "charge", declined, kind=Kind.DISPATCH, again=again)

    found = cost(replay)
    assert (found.commits, found.reads) == (0 if again else 1, 1)
    assert at_work.ran == {"charge": 1}


def test_a_message_of_a_step_that_runs_elsewhere_is_one_read_besides_its_claim(
    journal: Journal, at_work: Workplace, cost: Any
) -> None:
    ref = a_run(journal, "charge", "ship")
    claim(journal, ref, "charge")

    def come() -> None:
        with pytest.raises(Deferred, match="running under another claim"):
            at_work.step(ref, "charge", one)

    assert cost(come).reads == 1


@pytest.mark.parametrize("step", [plain, harmless, booked], ids=["protected", "idempotent", "transactional"])
def test_a_wake_reads_its_steps_once_however_many_have_ended(
    journal: Journal, at_work: Workplace, cost: Any, step: Callable[[int], int]
) -> None:
    ref = a_function(journal)

    def first() -> int:
        done = [step(number) for number in range(5)]
        if not first_time:
            return sum(done)
        raise Deferred("stop here")

    first_time = True
    at_work.leaves(ref, first)
    first_time = False
    found = cost(lambda: at_work.function(ref, first))
    assert (found.reads, found.commits) == (1, 1), "one read, and the function's own end"
    again = cost(lambda: at_work.function(ref, first))
    assert (again.reads, again.commits) == (1, 0), "of one that has ended, the read alone"


def test_a_failure_that_the_function_caught_is_not_read_again(journal: Journal, at_work: Workplace, cost: Any) -> None:
    ref = a_function(journal)

    @durable.step
    def declined() -> None:
        raise ValueError("declined")

    def order() -> str:
        try:
            declined()
        except ValueError:
            if first_time:
                raise Deferred("stop here") from None
        return "done"

    first_time = True
    at_work.leaves(ref, order)
    first_time = False
    found = cost(lambda: at_work.function(ref, order))
    assert (found.reads, found.commits) == (1, 1)


def test_a_wake_with_sleeps_and_sent_steps_behind_it_pays_nothing_for_being_woken(
    journal: Journal, at_work: Workplace, cost: Any
) -> None:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "mail#1", 9))
    succeed(journal, ref, "mail#1")

    def order() -> int:
        durable.sleep(0)
        return plain(1)

    at_work.leaves(ref, order)
    journal.ends.succeed_unclaimed(ref, "sleep#1", "t" * 16, "w1", the(journal, ref, "mail#1").outcome, completes_run=False)  # type: ignore[arg-type]
    found = cost(lambda: at_work.function(ref, order))
    assert (found.reads, found.commits) == (1, 3), "the step's claim and end; the function's end"


def test_going_to_sleep_is_one_commit(journal: Journal, at_work: Workplace, cost: Any) -> None:
    ref = a_function(journal)
    found = cost(lambda: at_work.leaves(ref, lambda: durable.sleep(60)))
    assert (found.commits, found.reads) == (1, 2), "the wake's own read, and the clock"


def test_a_functions_calls_cost_what_a_members_cost(journal: Journal, at_work: Workplace, cost: Any) -> None:
    ref = a_function(journal)
    found = cost(lambda: at_work.function(ref, lambda: plain(1)))
    assert (found.commits, found.reads) == (3, 1), "its claim and end, the function's end; the wake's read"
    ref = a_function(journal)
    found = cost(lambda: at_work.function(ref, lambda: booked(1)))
    assert (found.commits, found.reads) == (2, 1)
    ref = a_function(journal)
    found = cost(lambda: at_work.function(ref, lambda: harmless(1)))
    assert (found.commits, found.reads) == (3, 1), "it has no row before: a claim is all that a death would leave of it"
