"""A recorded value that this process cannot read is drift: held or shown, and never a failure of the workflow."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter import codec
from durable_adapter.errors import Deferred, ValueUnreadable
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, StepStatus
from durable_adapter.runtime.alerts import Held
from tests.calls.conftest import Workplace, the_step
from tests.journal.making import a_function, a_run, a_step, change, the, the_run


@durable.step
def charge() -> int:
    return 7


@durable.step
def ship(receipt: Any) -> str:
    return "shipped"


@pytest.fixture(params=["a class that is not registered", "an unknown codec", "damaged bytes"])
def unreadable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the recorded value of a step unreadable in this process, as a deploy without its `register()` does."""

    def make(journal: Journal, ref: str, key: str) -> None:
        row = the(journal, ref, key)
        assert row.outcome is not None
        if request.param == "an unknown codec":
            change(journal, ref, key, outcome_codec="yaml/1")
        elif request.param == "damaged bytes":
            change(journal, ref, key, outcome=b"{")
        else:
            gone = b'{"$durable":"@shop.Gone","v":{"number":7}}'
            with pytest.raises(codec.UnregisteredType):
                codec.decode_stored("json/1", gone)
            change(journal, ref, key, outcome=gone, outcome_codec="json/1")

    return make


def test_a_function_whose_memo_cannot_be_read_is_held_and_goes_on_once_it_can(
    journal: Journal, at_work: Workplace, unreadable: Any, told: list[Held]
) -> None:
    ref = a_function(journal)

    def order() -> str:
        receipt = charge()
        durable.sleep(3600)
        return ship(receipt)

    at_work.leaves(ref, order)
    key = the_step(journal, ref, "charge").key
    good = the(journal, ref, key).outcome
    assert good is not None
    unreadable(journal, ref, key)
    left = at_work.leaves(ref, order)
    assert left.held
    assert "cannot be read here" in str(left)
    assert the_run(journal, ref).status in ("running", "suspended"), "nothing failed, so nothing is undone"
    own = the(journal, ref, "function")
    assert (own.status, own.attention) == (StepStatus.HELD, Attention.DRIFT)
    assert the(journal, ref, key).status is StepStatus.SUCCEEDED
    assert len(told) == 1
    change(journal, ref, key, outcome=good.data, outcome_codec=good.codec)  # code that reads it is deployed
    assert journal.verdicts.release(own, who="me", why="deployed")
    at_work.leaves(ref, order)  # it sleeps again
    assert the(journal, ref, "function").status is not StepStatus.HELD


def test_a_memo_of_a_canvas_that_cannot_be_read_is_shown_and_hands_nothing_on(
    journal: Journal, at_work: Workplace, unreadable: Any
) -> None:
    ref = a_run(journal, a_step("charge"), "ship")
    assert at_work.step(ref, "charge", lambda: 7) == 7
    unreadable(journal, ref, "charge")
    for _ in range(2):
        with pytest.raises(Deferred, match="cannot be read here"):
            at_work.step(ref, "charge", lambda: 7, again=True)
    row = the(journal, ref, "charge")
    assert (row.status, row.attention, at_work.ran) == (StepStatus.SUCCEEDED, Attention.DRIFT, {"charge": 1})
    assert the_run(journal, ref).status == "running"


def test_what_is_to_be_sent_with_a_value_that_cannot_be_read_is_not_sent(journal: Journal, unreadable: Any) -> None:
    from durable_adapter.runtime.marked import Named
    from durable_adapter.runtime.plans import recorded

    ref = a_run(journal, a_step("charge"), "ship")
    change(journal, ref, "charge", outcome=b"7", outcome_codec="json/1", status="succeeded")
    unreadable(journal, ref, "charge")
    with pytest.raises(ValueUnreadable, match="cannot be read here"):
        recorded(Named(), the(journal, ref, "charge"))
