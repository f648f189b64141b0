"""A step is settled by what its attempt was declared to be, not by what a later deploy declares (P4)."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Cause, Kind, Safety
from tests.calls.conftest import Workplace
from tests.journal.making import a_dispatch, a_function, a_run, a_step, age, claim, the

NEVER = durable.RetryPolicy(maximum_attempts=1)
LATER = durable.RetryPolicy(initial_interval=5, maximum_attempts=9)
PROTECTED = StepPolicy()
IDEMPOTENT = StepPolicy(idempotent=True, retry=LATER)
PROBED = StepPolicy(probe=durable.did_not_happen, settle=0)
PROBED_TOO = StepPolicy(idempotent=True, probe=durable.did_not_happen, settle=0)
TRANSACTIONAL = StepPolicy(transactional=True)


def timed_out() -> None:
    raise TimeoutError("no answer")


def died(journal: Journal, policy: StepPolicy) -> str:
    """A step whose worker died in an attempt that was declared so."""
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
    token = claim(journal, ref, "charge")
    journal.doubts.raise_doubt(the(journal, ref, "charge"), token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    return ref


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (PROTECTED, IDEMPOTENT),
        (PROTECTED, PROBED),
        (PROTECTED, TRANSACTIONAL),
        (IDEMPOTENT, PROTECTED),
        (IDEMPOTENT, TRANSACTIONAL),
        (PROBED, IDEMPOTENT),
        (PROBED, PROTECTED),
    ],
    ids=lambda policy: str(policy.safety),
)
def test_an_attempt_that_was_declared_otherwise_is_held(
    journal: Journal, at_work: Workplace, then: StepPolicy, now: StepPolicy
) -> None:
    ref = died(journal, then)
    with pytest.raises(Deferred) as left:
        at_work.step(ref, "charge", lambda: 1, now, again=True)
    assert (left.value.held, at_work.ran) == (True, {})
    assert f"declared {then.safety} then" in str(left.value)


@pytest.mark.parametrize(("then", "now"), [(IDEMPOTENT, PROBED), (PROBED, PROBED_TOO), (IDEMPOTENT, IDEMPOTENT)])
def test_what_both_declarations_allow_is_done(journal: Journal, at_work: Workplace, then: StepPolicy, now: StepPolicy) -> None:
    assert at_work.step(died(journal, then), "charge", lambda: 1, now, again=True) == 1


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("now", [PROTECTED, TRANSACTIONAL], ids=lambda policy: str(policy.safety))
def test_a_retry_of_what_was_idempotent_is_not_made_by_code_in_which_it_is_not(
    journal: Journal, at_work: Workplace, now: StepPolicy, again: bool
) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT), "ship")
    with pytest.raises(Deferred, match="tried again in 5 s"):
        at_work.step(ref, "charge", timed_out, IDEMPOTENT)
    age(journal, ref, "charge", "next_check_at")
    with pytest.raises(Deferred) as left:
        at_work.step(ref, "charge", lambda: 1, now, again=again)
    assert (left.value.held, at_work.ran["charge"]) == (True, 1)


def test_a_step_that_was_planned_as_something_else_is_what_its_attempt_was(journal: Journal, at_work: Workplace) -> None:
    """Its producer is older than its workers: the claim says what the attempt is, so none goes without one."""
    ref = a_run(journal, a_step("charge", safety=Safety.PROTECTED), "ship")

    def look() -> str:
        found = the(journal, ref, "charge")
        assert found.safety is Safety.IDEMPOTENT
        return found.status.value

    assert at_work.step(ref, "charge", look, IDEMPOTENT) == "begun"


def test_an_attempt_of_older_code_is_not_taken_for_what_its_newer_producer_planned(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "charge#1", safety=Safety.IDEMPOTENT))

    def look() -> Any:
        assert the(journal, ref, "charge#1").safety is Safety.PROTECTED
        return 1

    assert at_work.step(ref, "charge#1", look, PROTECTED, kind=Kind.DISPATCH) == 1
