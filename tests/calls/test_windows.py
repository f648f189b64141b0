"""An idempotent step is repeated while its provider remembers the key, and no oftener than it may be: on every path (P4)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import MAX_TAKEOVERS, StepPolicy
from durable_adapter.errors import Deferred, Killed
from durable_adapter.journal import Journal
from durable_adapter.model import Cause, Effect, Kind, Safety, StepStatus, WorkflowStatus
from durable_adapter.recovery import Sweeper
from tests.calls.conftest import Workplace, the_step
from tests.journal.making import (
    MINUTE,
    ONE,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    about,
    age,
    claim,
    fail,
    statuses,
    succeed,
    the,
    the_run,
)

HOUR = 60 * MINUTE
DAYS = 72 * HOUR
IDEMPOTENT = StepPolicy(idempotent=True, retry=durable.RetryPolicy(initial_interval=5, maximum_attempts=9))
OPTIONS = {"counts": True, "window": IDEMPOTENT.window}


def a_member(journal: Journal, **given: Any) -> str:
    return a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, options=OPTIONS, **given))


def timed_out() -> None:
    raise TimeoutError("no answer")


def is_held(journal: Journal, at_work: Workplace, ref: str, call: Callable[[], Any]) -> str:
    """Makes a call that leaves its step held without having run its body, and returns why."""
    before = dict(at_work.ran)
    with pytest.raises(Deferred) as left:
        call()
    assert left.value.held
    assert at_work.ran == before
    return str(left.value)


def test_a_retry_that_waited_longer_than_the_window_is_held(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal)
    with pytest.raises(Deferred, match="tried again in 5 s"):
        at_work.step(ref, "charge", timed_out, IDEMPOTENT)
    assert (the(journal, ref, "charge").status, the(journal, ref, "charge").effect) == (StepStatus.WAITING, Effect.UNKNOWN)
    age(journal, ref, "charge", by=DAYS)
    why = is_held(journal, at_work, ref, lambda: at_work.step(ref, "charge", timed_out, IDEMPOTENT, again=True))
    assert "idempotency window" in why


def test_a_retry_inside_the_window_runs(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal)
    with pytest.raises(Deferred, match="tried again in 5 s"):
        at_work.step(ref, "charge", timed_out, IDEMPOTENT)
    age(journal, ref, "charge", by=23 * HOUR)
    assert at_work.step(ref, "charge", lambda: "ch_1", IDEMPOTENT, again=True) == "ch_1"


def test_a_retry_of_what_did_not_happen_is_older_than_no_window(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(idempotent=True, did_not_happen=(ValueError,), retry=IDEMPOTENT.retry)

    def declined() -> None:
        raise ValueError("declined")

    ref = a_member(journal)
    with pytest.raises(Deferred):
        at_work.step(ref, "charge", declined, policy)
    age(journal, ref, "charge", by=DAYS)
    assert at_work.step(ref, "charge", lambda: "ch_1", policy, again=True) == "ch_1"


def test_a_take_over_that_came_too_late_is_held(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal)
    token = claim(journal, ref, "charge")
    journal.doubts.raise_doubt(the(journal, ref, "charge"), token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    journal.doubts.take_over(the(journal, ref, "charge"), "it is idempotent and inside its window")
    age(journal, ref, "charge", by=DAYS)
    is_held(journal, at_work, ref, lambda: at_work.step(ref, "charge", timed_out, IDEMPOTENT))


def test_a_compensation_that_waited_longer_than_its_window_is_held(journal: Journal, at_work: Workplace) -> None:
    undone = {"undo_safety": "idempotent", "undo_options": {"window": IDEMPOTENT.window}}
    ref = a_run(journal, a_step("charge", compensation="refund", options=undone), "ship")
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")

    def undo(again: bool = False) -> Any:
        return at_work.step(ref, "undo:charge", timed_out, IDEMPOTENT, kind=Kind.COMPENSATION, again=again, name="refund")

    age(journal, ref, "undo:charge", by=DAYS)
    with pytest.raises(Deferred, match="tried again in 5 s"):
        undo()  # it has not been tried before, however long ago it was planned
    age(journal, ref, "undo:charge", by=DAYS)
    is_held(journal, at_work, ref, lambda: undo(again=True))
    is_held(journal, at_work, ref, undo)


def test_the_window_does_not_begin_anew_with_a_neighbour_that_ends_later(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "other#1", 1))
    journal.claims.plan_new(a_dispatch(ref, "charge#1", 2, safety=Safety.IDEMPOTENT, options=OPTIONS))
    token = claim(journal, ref, "charge#1")
    age(journal, ref, "charge#1", by=30 * HOUR)
    journal.ends.succeed_dispatched(ref, "other#1", claim(journal, ref, "other#1"), ONE)
    journal.doubts.raise_doubt(the(journal, ref, "charge#1"), token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    is_held(journal, at_work, ref, lambda: at_work.step(ref, "charge#1", timed_out, IDEMPOTENT, kind=Kind.DISPATCH))


@pytest.mark.parametrize(("first_use", "held"), [(23 * HOUR, False), (25 * HOUR, True)])
def test_the_window_runs_from_the_first_use_of_the_key(journal: Journal, at_work: Workplace, first_use: int, held: bool) -> None:
    """Not from when the step was planned, nor from its latest attempt, nor from the end of what comes before it."""
    ref = a_run(journal, "reserve", a_step("charge", safety=Safety.IDEMPOTENT, options=OPTIONS))
    age(journal, ref, "charge", by=DAYS)
    in_doubt_now(journal, ref, "charge")
    age(journal, ref, "charge", "first_begun_at", by=first_use)
    succeed(journal, ref, "reserve")
    assert (the(journal, ref, "charge").begun_at or 0) > journal.time() - MINUTE
    if held:
        why = is_held(journal, at_work, ref, lambda: at_work.step(ref, "charge", lambda: 1, IDEMPOTENT))
        assert "idempotency window" in why
    else:
        assert at_work.step(ref, "charge", lambda: 1, IDEMPOTENT) == 1


def test_a_step_that_was_planned_longer_ago_than_its_window_and_never_begun_runs(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal)
    age(journal, ref, "charge", by=DAYS)
    assert at_work.step(ref, "charge", lambda: "ch_1", IDEMPOTENT) == "ch_1"
    assert the(journal, ref, "charge").first_begun_at == about(journal.time())


def test_the_claim_itself_refuses_a_step_whose_window_has_passed_since_it_was_read(journal: Journal, at_work: Workplace) -> None:
    """A message that is not marked as delivered again reads nothing before its claim."""
    ref = a_member(journal)
    with pytest.raises(Deferred, match="tried again in 5 s"):
        at_work.step(ref, "charge", timed_out, IDEMPOTENT)
    age(journal, ref, "charge", by=DAYS)
    why = is_held(journal, at_work, ref, lambda: at_work.step(ref, "charge", timed_out, IDEMPOTENT, again=False))
    assert "idempotency window" in why
    assert the(journal, ref, "charge").attempt == 1


def in_doubt_now(journal: Journal, ref: str, key: str) -> None:
    token = claim(journal, ref, key)
    journal.doubts.raise_doubt(the(journal, ref, key), token, "its worker died", cause=Cause.WORKER_DIED, over=True)


charges: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_charged() -> None:
    charges.clear()


@durable.step(idempotent=timedelta(hours=24), compensate="refund")
def charge() -> str:
    charges.append(durable.idempotency_key())
    return "ch_1"


@durable.step(idempotent=True)
def charge_and_die() -> None:
    charges.append(durable.idempotency_key())
    raise Killed("after the charge")


def dies(at_work: Workplace, sweeper: Sweeper, ref: str) -> None:
    """A wake whose process dies in the step's body, and is found dead."""
    with pytest.raises(Killed):
        at_work.function(ref, charge_and_die)
    journal = at_work.journal
    (worker,) = [w for w in journal.workers.alive() if w.id == at_work.host.worker]
    assert journal.workers.stood_still(worker.id, worker.beats, "its beat stood still")
    sweeper.sweep()


def test_a_functions_step_that_died_is_not_tried_again_after_its_window(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    ref = a_function(journal)
    dies(at_work, sweeper, ref)
    for row in journal.reads.steps(ref):
        age(journal, ref, row.key, by=DAYS)
    assert at_work.leaves(ref, charge_and_die).held
    assert len(charges) == 1
    assert "window" in (the_step(journal, ref, "charge_and_die").evidence or "")


def test_a_functions_step_that_dies_again_and_again_is_held_at_last(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    ref = a_function(journal)
    for _ in range(1 + MAX_TAKEOVERS):
        dies(at_work, sweeper, ref)
    assert at_work.leaves(ref, charge_and_die).held
    assert len(charges) == 1 + MAX_TAKEOVERS
    assert len(set(charges)) == 1


def cancelled(journal: Journal, ref: str) -> None:
    journal.runs.cancel(ref, who="ann", why="the customer changed her mind")


def rolled_back(journal: Journal, ref: str) -> None:
    journal.undo.begin(ref, who="ann", why="the customer changed her mind")


@pytest.mark.parametrize("give_up", [cancelled, rolled_back])
def test_a_function_begins_no_step_once_its_run_was_given_up(
    journal: Journal, at_work: Workplace, give_up: Callable[[Journal, str], None]
) -> None:
    ref = a_function(journal)

    def order() -> None:
        give_up(journal, ref)
        charge()

    assert "no longer goes forward" in str(at_work.leaves(ref, order))
    assert charges == []


def test_an_attempt_that_ends_in_an_error_while_its_run_is_rolled_back_leaves_its_effect_unknown(
    journal: Journal, at_work: Workplace
) -> None:
    ref = a_function(journal)

    @durable.step(idempotent=True, compensate="refund", name="charge")
    def charge_with_a_hitch() -> None:
        rolled_back(journal, ref)
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK, "it is waited for"
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError):
        at_work.function(ref, charge_with_a_hitch)
    row = the(journal, ref, "charge#1")
    assert (row.status, row.effect) == (StepStatus.FAILED, Effect.UNKNOWN)
    assert statuses(journal, ref)["run"] == "rolling_back", "a person says whether there is anything to undo"
