"""The keys of a function's calls: each names one call, and no call passes for another."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.current import FUNCTION
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import DeclarationError, SameKeyTwice
from durable_adapter.journal import Journal
from durable_adapter.runtime.kinds.declared import DeclaredCall
from durable_adapter.runtime.kinds.dispatch import Dispatch
from durable_adapter.runtime.kinds.unmarked import Unmarked
from tests.calls.conftest import Workplace
from tests.journal.making import a_function, a_run, a_step, statuses, the

shipped: list[object] = []


@pytest.fixture(autouse=True)
def _nothing_shipped() -> None:
    shipped.clear()


@durable.step(name="ship", key="item-{sku}")
def ship(sku: str, quantity: int) -> int:
    shipped.append((sku, quantity))
    return quantity


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_two_calls_under_one_key_are_an_error_that_names_both(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    def order() -> list[int]:
        return [ship("A", 1), ship("B", 1), ship("A", 2)]

    with pytest.raises(SameKeyTwice, match="number 1 and 3, both to ship, under one key: ship@item-A"):
        at_work.function(ref, order)
    assert shipped == [("A", 1), ("B", 1)]
    assert statuses(journal, ref)["run"] == "failed"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_two_sleeps_under_one_key_are_an_error(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    def order() -> None:
        durable.sleep(0, key="cooling off")
        durable.sleep(86_400, key="cooling off")

    at_work.leaves(ref, order)
    with pytest.raises(SameKeyTwice, match="number 1 and 2, both to sleep"):
        at_work.function(ref, order)


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_key_means_the_same_call_in_every_wake(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    def order() -> int:
        done = ship("A", 1)
        durable.sleep(0)
        return done + ship("B", 2)

    at_work.leaves(ref, order)
    assert at_work.function(ref, order) == 3
    assert shipped == [("A", 1), ("B", 2)]


def send_ship(at_work: Workplace, **declared: Any) -> Any:
    """Sends `ship` to a worker of its own, from the body of a workflow function."""
    call = DeclaredCall(StepPolicy(**declared), "ship", lambda sku, quantity: None, ("A", 1), {})
    sent = Dispatch(call, at_work.host.engine, None, lambda *_: b"{}", lambda task_id, _: shipped.append(task_id) or task_id)
    return FUNCTION.get().call(sent)  # type: ignore[union-attr]


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_task_that_was_sent_unmarked_and_is_marked_now_is_not_sent_again(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    def before() -> None:
        FUNCTION.get().call(Unmarked("ship", shipped.append))  # type: ignore[union-attr]
        durable.sleep(3600)

    at_work.leaves(ref, before)
    assert at_work.function(ref, lambda: send_ship(at_work)) == the(journal, ref, "ship#1").task_id
    assert len(shipped) == 1


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_step_that_was_called_in_place_and_is_sent_now_holds_the_workflow(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    def before() -> None:
        durable.sleep(ship("A", 1) * 3600)

    at_work.leaves(ref, before)
    assert at_work.leaves(ref, lambda: send_ship(at_work, key="item-{sku}")).held
    assert "call number 1 was step 'ship' (ship@item-A) when it was recorded and is now dispatch 'ship'" in str(
        the(journal, ref, "function").evidence
    )
    assert shipped == [("A", 1)], "nothing was sent"


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("sku", ["A\0B", "A\ud800"])
def test_a_key_that_cannot_be_kept_is_refused(journal: Journal, at_work: Workplace, sku: str) -> None:
    ref = a_function(journal)
    with pytest.raises(DeclarationError, match="gives the key"):
        at_work.function(ref, lambda: ship(sku, 1))
    assert shipped == []


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("name", ["undo:mail#1", "m" * 300])
def test_a_call_whose_name_would_pass_for_another_is_refused(journal: Journal, at_work: Workplace, name: str) -> None:
    """A message under a key that begins with `undo:` is taken for a compensation's."""
    ref = a_function(journal)

    def order() -> None:
        FUNCTION.get().call(Unmarked(name, shipped.append))  # type: ignore[union-attr]

    with pytest.raises(DeclarationError, match="the name of a call"):
        at_work.function(ref, order)
    assert shipped == []


def test_a_reference_that_no_database_keeps_as_it_is_is_kept_as_far_as_it_can_be(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, "charge", "ship")
    at_work.step(ref, "charge", lambda: durable.external_reference("ch_\0\ud800" + "1" * 300))
    assert (the(journal, ref, "charge").reference or "").startswith("ch_\N{REPLACEMENT CHARACTER}?111")


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_quick_retries_are_not_taken_for_changing_hands(journal: Journal, at_work: Workplace) -> None:
    retry = durable.RetryPolicy(initial_interval=0.0, coefficient=1, maximum_attempts=50)
    policy = StepPolicy(idempotent=True, retry=retry)
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")

    def charge() -> str:
        if at_work.ran["charge"] < 45:
            raise TimeoutError("no answer")
        return "ch_1"

    assert at_work.step(ref, "charge", charge, policy) == "ch_1"
    booking = StepPolicy(transactional=True, retry=retry)
    ref = a_run(journal, a_step("book", safety=booking.safety), "ship")

    def book() -> str:
        if at_work.ran["book"] < 45:
            raise TimeoutError("no answer")
        return "bk_1"

    assert at_work.step(ref, "book", book, booking) == "bk_1"
