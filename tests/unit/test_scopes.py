"""A scope gives each call of a workflow function its key and its position."""

from __future__ import annotations

import threading

import pytest

from durable_adapter.errors import NotInWorkflow, SameKeyTwice, WorkflowChanged
from durable_adapter.model import Kind, StepRow, StepStatus
from durable_adapter.runtime.scope import Scope

WORKFLOW = "fulfil (0123)"


def recorded(*names: str, kind: Kind = Kind.STEP) -> dict[str, StepRow]:
    rows = [
        StepRow(ref="0123", key=f"{name}#1", position=n, name=name, kind=kind, status=StepStatus.SUCCEEDED)
        for n, name in enumerate(names, 1)
    ]
    return {row.key: row for row in rows}


def test_a_key_is_the_name_and_its_occurrence_or_the_given_one() -> None:
    scope = Scope(WORKFLOW, {})
    calls = [("charge", None), ("ship", None), ("charge", None), ("charge", "order-1"), ("charge", None)]
    places = [scope.next(Kind.STEP, name, given) for name, given in calls]
    assert [place.key for place in places] == ["charge#1", "ship#1", "charge#2", "charge@order-1", "charge#4"]
    assert [place.position for place in places] == [1, 2, 3, 4, 5]


def test_what_is_recorded_is_found_by_its_key() -> None:
    rows = recorded("charge", "ship")
    scope = Scope(WORKFLOW, rows)
    assert scope.next(Kind.STEP, "ship", None).row is rows["ship#1"]
    assert scope.next(Kind.STEP, "charge", None).row is rows["charge#1"]
    assert scope.next(Kind.STEP, "charge", None).row is None


def test_another_call_at_the_position_of_a_recorded_one_is_a_change() -> None:
    scope = Scope(WORKFLOW, recorded("charge", "ship"))
    scope.next(Kind.STEP, "charge", None)
    with pytest.raises(WorkflowChanged, match=r"call number 2 was step 'ship' \(ship#1\) .* and is now step 'mail' \(mail#1\)"):
        scope.next(Kind.STEP, "mail", None)


@pytest.mark.parametrize(
    ("before", "now"),
    [(Kind.STEP, Kind.DISPATCH), (Kind.DISPATCH, Kind.UNMARKED), (Kind.UNMARKED, Kind.STEP)],
)
def test_another_kind_of_call_under_the_same_key_is_a_change(before: Kind, now: Kind) -> None:
    scope = Scope(WORKFLOW, recorded("ship", kind=before))
    with pytest.raises(
        WorkflowChanged, match=rf"call number 1 was {before} 'ship' \(ship#1\) .* and is now {now} 'ship' \(ship#1\)"
    ):
        scope.next(now, "ship", None)


@pytest.mark.parametrize(("before", "now"), [(Kind.DISPATCH, Kind.STEP), (Kind.UNMARKED, Kind.DISPATCH)])
def test_a_dispatched_step_that_is_called_in_place_and_a_task_that_is_marked_now_go_on(before: Kind, now: Kind) -> None:
    rows = recorded("ship", kind=before)
    assert Scope(WORKFLOW, rows).next(now, "ship", None).row is rows["ship#1"]


def test_one_key_names_one_call() -> None:
    scope = Scope(WORKFLOW, {})
    scope.next(Kind.STEP, "charge", "order-1")
    with pytest.raises(SameKeyTwice, match="number 1 and 2, both to charge"):
        scope.next(Kind.STEP, "charge", "order-1")


def test_two_scopes_count_apart() -> None:
    one, other = Scope(WORKFLOW, {}), Scope(WORKFLOW, {})
    assert [one.next(Kind.STEP, "charge", None).position for _ in "ab"] == [1, 2]
    assert other.next(Kind.STEP, "charge", None).key == "charge#1"
    assert (one.launch(), one.launch(), other.launch()) == (1, 2, 1)


def test_a_call_of_another_thread_has_no_place() -> None:
    scope = Scope(WORKFLOW, {})
    scope.check_thread("charge")
    scope.thread = threading.get_ident() + 1
    with pytest.raises(NotInWorkflow, match=r"charge was called in thread .*, which is not the one that runs workflow fulfil"):
        scope.check_thread("charge")
