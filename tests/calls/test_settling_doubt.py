"""What becomes of a step in doubt when its message is run: taken over, asked about, or held (section 6 of the design)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import MAX_TAKEOVERS, StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, Cause, StepStatus
from durable_adapter.runtime.alerts import Held
from durable_adapter.runtime.doubt import MAX_PROBED, PROBE_AGAIN, PROBE_PATIENCE
from tests.calls.conftest import Workplace
from tests.journal.making import a_run, a_step, about, age, change, in_doubt, the

HOUR = 3600 * SECOND
IDEMPOTENT = StepPolicy(idempotent=True)


class Dies(BaseException):
    """The process ends here."""


def dies() -> None:
    raise Dies


def one() -> int:
    return 1


def doubted(journal: Journal, policy: StepPolicy, **given: Any) -> str:
    """A step whose attempt is in doubt and over."""
    ref = a_run(journal, a_step("charge", safety=policy.safety, options=policy.stored()), "ship")
    in_doubt(journal, ref, "charge")
    if given:
        change(journal, ref, "charge", **given)
    return ref


def left(at_work: Workplace, ref: str, policy: StepPolicy, body: Callable[[], Any] = one) -> Deferred:
    """Runs the step's message, which is left alone, and returns why."""
    with pytest.raises(Deferred) as caught:
        at_work.step(ref, "charge", body, policy)
    return caught.value


def test_an_idempotent_step_is_taken_over_three_times_and_then_held(
    journal: Journal, at_work: Workplace, told: list[Held]
) -> None:
    ref = doubted(journal, IDEMPOTENT)
    for takeovers in range(1, MAX_TAKEOVERS + 1):
        with pytest.raises(Dies):
            at_work.step(ref, "charge", dies, IDEMPOTENT)
        row = the(journal, ref, "charge")
        assert (row.status, row.takeovers, row.attempt) == (StepStatus.BEGUN, takeovers, takeovers + 1)
        assert journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    assert "taken over 3 times and never ended; last: its worker died" in str(left(at_work, ref, IDEMPOTENT))
    assert the(journal, ref, "charge").status is StepStatus.HELD
    assert at_work.ran == {"charge": MAX_TAKEOVERS}
    assert len(told) == 1


@pytest.mark.parametrize(("window", "hours"), [(True, 24), (timedelta(hours=2), 2)])
def test_an_idempotent_step_is_taken_over_inside_its_window_alone(
    journal: Journal, at_work: Workplace, window: Any, hours: int
) -> None:
    policy = StepPolicy(idempotent=window)
    inside, outside = doubted(journal, policy), doubted(journal, policy)
    age(journal, inside, "charge", "first_begun_at", by=hours * HOUR - 60 * SECOND)
    age(journal, outside, "charge", "first_begun_at", by=hours * HOUR + 60 * SECOND)
    assert at_work.step(inside, "charge", one, policy) == 1
    assert f"its idempotency window of {hours} h has passed" in str(left(at_work, outside, policy))
    assert the(journal, outside, "charge").status is StepStatus.HELD


def test_a_window_is_not_over_because_a_step_was_planned_long_ago(journal: Journal, at_work: Workplace) -> None:
    ref = doubted(journal, IDEMPOTENT)
    age(journal, ref, "charge", "created_at", by=48 * HOUR)
    assert at_work.step(ref, "charge", one, IDEMPOTENT) == 1


def test_an_attempt_that_may_still_run_is_not_taken_over(journal: Journal, at_work: Workplace) -> None:
    over_at = journal.time() + HOUR
    ref = doubted(journal, IDEMPOTENT, over_at=over_at)
    assert "may still be running" in str(left(at_work, ref, IDEMPOTENT))
    row = the(journal, ref, "charge")
    assert (row.status, row.next_check_at) == (StepStatus.IN_DOUBT, over_at)


def test_a_transactional_step_in_doubt_did_not_happen(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(transactional=True)
    assert at_work.step(doubted(journal, policy), "charge", one, policy) == 1


def probed(*answers: Any, **given: Any) -> tuple[StepPolicy, list[Any]]:
    """A step with a probe that gives these answers one after the other, or raises them, and what it was asked."""
    asked: list[Any] = []

    def probe(*args: Any) -> Any:
        asked.append(args)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return StepPolicy(probe=probe, **given), asked


def test_a_probe_gets_the_steps_own_arguments_and_its_value_counts_at_any_time(journal: Journal, at_work: Workplace) -> None:
    policy, asked = probed(durable.happened("ch_1"))
    ref = doubted(journal, policy, over_at=journal.time() + HOUR)
    assert at_work.step(ref, "charge", one, policy, args=("42",)) == "ch_1"
    assert asked == [("42",)]
    assert at_work.ran == {}


@pytest.mark.parametrize(("given", "settle"), [({}, 60), ({"settle": 5}, 5), ({"timeout": 20}, 20)])
def test_did_not_happen_counts_only_after_the_attempt_was_over_and_settled(
    journal: Journal, at_work: Workplace, given: dict[str, Any], settle: int
) -> None:
    policy, asked = probed(durable.did_not_happen(), **given)
    ref = doubted(journal, policy)
    over_at = the(journal, ref, "charge").over_at or 0
    assert "“did not happen” counts only in" in str(left(at_work, ref, policy))
    row = the(journal, ref, "charge")
    assert (row.status, row.next_check_at) == (StepStatus.IN_DOUBT, over_at + settle * SECOND), "asked again as soon as it counts"
    age(journal, ref, "charge", "over_at", by=settle * SECOND - SECOND // 2)
    left(at_work, ref, policy)
    age(journal, ref, "charge", "over_at", by=SECOND)
    assert at_work.step(ref, "charge", one, policy) == 1
    assert len(asked) == 3
    assert the(journal, ref, "charge").attempt == 2


def test_a_probe_that_raises_is_asked_again_and_held_after_fifteen_minutes(
    journal: Journal, at_work: Workplace, told: list[Held]
) -> None:
    policy, asked = probed(ConnectionError("the bank is away"))
    ref = doubted(journal, policy)
    evidence = "the probe raised ConnectionError: the bank is away"
    assert f"{evidence}; it is asked again" in str(left(at_work, ref, policy))
    row = the(journal, ref, "charge")
    assert (row.status, row.evidence, row.next_check_at) == (StepStatus.IN_DOUBT, evidence, about(journal.time() + PROBE_AGAIN))
    age(journal, ref, "charge", "doubt_at", by=PROBE_PATIENCE - 10 * SECOND)
    left(at_work, ref, policy)
    assert (the(journal, ref, "charge").status, told) == (StepStatus.IN_DOUBT, [])
    age(journal, ref, "charge", "doubt_at", by=20 * SECOND)
    assert left(at_work, ref, policy).held
    row = the(journal, ref, "charge")
    assert (row.status, row.evidence) == (StepStatus.HELD, evidence)
    assert (len(asked), len(told)) == (3, 1)


def test_a_step_of_which_nothing_ever_happens_and_whose_workers_die_is_held_in_the_end(
    journal: Journal, at_work: Workplace
) -> None:
    policy, _ = probed(durable.did_not_happen(), settle=0)
    ref = doubted(journal, policy)
    for attempt in range(2, MAX_PROBED + 1):
        with pytest.raises(Dies):
            at_work.step(ref, "charge", dies, policy)
        row = the(journal, ref, "charge")
        assert row.attempt == attempt
        assert journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
    assert f"{MAX_PROBED} attempts began and none ended" in str(left(at_work, ref, policy))
    assert the(journal, ref, "charge").status is StepStatus.HELD


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (durable.cannot_tell(evidence="the bank is closed"), "its probe cannot tell. the bank is closed"),
        ("yes", "its probe answered str, which is no verdict"),
        (durable.happened(object()), "its probe says that it happened, with a value that cannot be recorded"),
    ],
    ids=["cannot tell", "no verdict", "no value"],
)
def test_what_a_probe_does_not_decide_is_held(journal: Journal, at_work: Workplace, answer: Any, says: str) -> None:
    policy, _ = probed(answer)
    ref = doubted(journal, policy)
    assert says in str(left(at_work, ref, policy))
    assert the(journal, ref, "charge").status is StepStatus.HELD
