"""A step begins when what it comes after is done: on a claim that sees that itself, and on one that has to be told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus
from durable_adapter.runtime.order import unmet
from tests.calls.conftest import Workplace
from tests.journal.making import a_run, a_step, age, in_doubt, succeed, the


def nothing_happened(*_args: object, **_kwargs: object) -> durable.Verdict:
    return durable.did_not_happen()


POLICIES = {
    "protected": StepPolicy(),
    "probe": StepPolicy(probe=nothing_happened, settle=0),
    "idempotent": StepPolicy(idempotent=True),
    "transactional": StepPolicy(transactional=True),
}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def a_pair(journal: Journal, policy: StepPolicy) -> str:
    """A run of two members, of which the second comes after the first."""
    second = a_step(
        "ship", safety=policy.safety, after=["pack"], pending=1, completes_run=True, options={"window": policy.window}
    )
    return a_run(journal, "pack", second)


def turn(journal: Journal, ref: str, asked: list[str]) -> Callable[[], None]:
    """What a binding hands over that keeps no order by itself."""

    def look() -> None:
        asked.append(ref)
        if unmet(journal, ref, "ship"):
            raise Deferred("it comes after pack")

    return look


@every_policy
def test_it_is_not_begun_before(journal: Journal, at_work: Workplace, policy: StepPolicy) -> None:
    ref = a_pair(journal, policy)
    with pytest.raises(Deferred, match="it comes after pack"):
        at_work.step(ref, "ship", lambda: "sent", policy, turn=turn(journal, ref, []))
    row = the(journal, ref, "ship")
    assert (row.status, row.attempt, at_work.ran) == (StepStatus.PLANNED, 0, {})


@every_policy
def test_it_runs_once_that_is_done(journal: Journal, at_work: Workplace, policy: StepPolicy) -> None:
    ref, asked = a_pair(journal, policy), list[str]()
    succeed(journal, ref, "pack")
    assert at_work.step(ref, "ship", lambda: "sent", policy, turn=turn(journal, ref, asked)) == "sent"
    assert asked == [], "its row says that nothing before it is open"


@pytest.mark.parametrize("name", ["probe", "idempotent"])
def test_one_that_is_delivered_again_in_doubt_is_settled_and_runs(journal: Journal, at_work: Workplace, name: str) -> None:
    policy = POLICIES[name]
    ref = a_pair(journal, policy)
    succeed(journal, ref, "pack")
    in_doubt(journal, ref, "ship")
    age(journal, ref, "ship", "over_at", "doubt_at", by=60)
    assert at_work.step(ref, "ship", lambda: "sent", policy, again=True, turn=turn(journal, ref, [])) == "sent"
    assert the(journal, ref, "ship").attempt == 2


@pytest.mark.parametrize("name", ["protected", "probe", "idempotent"])
def test_what_the_claim_cannot_see_is_looked_at(journal: Journal, at_work: Workplace, name: str) -> None:
    policy = POLICIES[name]
    other = a_run(journal, "book")
    succeed(journal, other, "book")
    second = a_step(
        "ship", safety=policy.safety, after=[], pending=1, completes_run=True, options={"also_after": [[other, "book"]]}
    )
    ref, asked = a_run(journal, second), list[str]()
    assert at_work.step(ref, "ship", lambda: "sent", policy, turn=turn(journal, ref, asked)) == "sent"
    assert asked == [ref]


@every_policy
def test_a_memo_does_not_ask(journal: Journal, at_work: Workplace, policy: StepPolicy) -> None:
    ref, asked = a_pair(journal, policy), list[str]()
    succeed(journal, ref, "pack", "ship")
    assert at_work.step(ref, "ship", lambda: "sent", policy, again=True, turn=turn(journal, ref, asked)) == 1
    assert (asked, at_work.ran) == ([], {})
