"""A new key for the provider where a step is known not to have happened, and only there."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.journal import Journal
from durable_adapter.model import Effect, Safety, StepStatus
from tests.calls.conftest import Workplace, the_step
from tests.journal.making import a_function, a_run, a_step, in_doubt, the


class Declined(Exception):
    """The provider refuses, and remembers that under the key."""


ONCE = StepPolicy(idempotent=True, did_not_happen=(Declined,), retry=durable.RetryPolicy(maximum_attempts=1))
TWICE = StepPolicy(idempotent=True, did_not_happen=(Declined,), retry=durable.RetryPolicy(initial_interval=0, maximum_attempts=2))


@pytest.fixture
def keys() -> list[str]:
    return []


def pays(keys: list[str], *errors: Exception) -> Any:
    """A body that notes its key, and raises these errors in turn."""
    left = list(errors)

    def body() -> str:
        keys.append(durable.idempotency_key())
        if left:
            raise left.pop(0)
        return "ch_1"

    return body


def a_canvas(journal: Journal) -> str:
    return a_run(journal, a_step("pay", safety=Safety.IDEMPOTENT))


def test_a_persons_retry_of_what_did_not_happen_has_a_new_key(journal: Journal, at_work: Workplace, keys: list[str]) -> None:
    ref = a_canvas(journal)
    with pytest.raises(Declined):
        at_work.step(ref, "pay", pays(keys, Declined("no")), ONCE)
    assert journal.runs.reopen(ref, ["pay"], who="me", why="the card is mended", now=journal.time())
    assert at_work.step(ref, "pay", pays(keys), ONCE) == "ch_1"
    assert len(set(keys)) == 2


def test_so_has_the_next_attempt_behind_an_error_that_says_so(journal: Journal, at_work: Workplace, keys: list[str]) -> None:
    ref = a_canvas(journal)
    assert at_work.step(ref, "pay", pays(keys, Declined("no")), TWICE) == "ch_1"
    assert len(set(keys)) == 2


def test_an_error_that_says_nothing_keeps_the_key(journal: Journal, at_work: Workplace, keys: list[str]) -> None:
    ref = a_canvas(journal)
    assert at_work.step(ref, "pay", pays(keys, TimeoutError()), TWICE) == "ch_1"
    assert (len(keys), len(set(keys))) == (2, 1)


def test_a_refusal_behind_an_attempt_that_may_have_happened_keeps_the_key(
    journal: Journal, at_work: Workplace, keys: list[str]
) -> None:
    ref = a_canvas(journal)
    thrice = StepPolicy(
        idempotent=True, did_not_happen=(Declined,), retry=durable.RetryPolicy(initial_interval=0, maximum_attempts=3)
    )
    assert at_work.step(ref, "pay", pays(keys, TimeoutError(), Declined("no")), thrice) == "ch_1"
    assert (len(keys), len(set(keys))) == (3, 1)


def test_a_verdict_that_it_did_not_happen_gives_a_new_key_and_doubt_alone_does_not(
    journal: Journal, at_work: Workplace, keys: list[str]
) -> None:
    ref = a_canvas(journal)
    row = in_doubt(journal, ref, "pay")
    assert journal.doubts.take_over(row, "it is idempotent")
    assert the(journal, ref, "pay").generation == 0
    row = in_doubt(journal, ref, "pay")
    assert journal.verdicts.did_not_happen(row, who="me", why="asked the provider").recorded
    found = the(journal, ref, "pay")
    assert (found.generation, found.first_begun_at, found.effect) == (1, None, Effect.DID_NOT_HAPPEN)


def test_a_call_in_place_has_a_new_key_as_well(journal: Journal, at_work: Workplace, keys: list[str]) -> None:
    ref, body = a_function(journal), pays(keys, Declined("no"))

    @durable.step(idempotent=True, did_not_happen=(Declined,), retry=TWICE.retry)
    def pay() -> str:
        return str(body())

    assert at_work.function(ref, pay) == "ch_1"
    assert len(set(keys)) == 2
    assert the_step(journal, ref, "pay").status is StepStatus.SUCCEEDED
