"""A marked task that replaces itself, or adds to its chord, is refused before anything is sent, and not tried again."""

from __future__ import annotations

import pytest

from durable_adapter.errors import UnsupportedCanvas
from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import habits
from tests.celery.world import SOON, Runs


@pytest.mark.parametrize("shape", ["task", "chain", "group", "chord"])
def test_a_replacement_of_any_shape_is_refused_once_and_nothing_is_sent(
    shop: Runs, ledger: Ledger, order: str, shape: str
) -> None:
    result = habits.replaces_itself_with.delay(order, shape)
    with pytest.raises(UnsupportedCanvas, match=r"a durable task cannot be replaced yet\. Nothing of the replacement was sent"):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    (step,) = shop.steps(run)
    assert (step.status, step.attempt) == (StepStatus.FAILED, 1)
    assert ledger.names(order) == ["replaces"]


def test_a_refusal_is_not_tried_again_where_the_body_asks_for_it(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.replaces_itself_although_it_is_retried.delay(order)
    with pytest.raises(UnsupportedCanvas):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert shop.steps(run)[0].attempt == 1
    assert ledger.names(order) == ["replaces"]


def test_a_member_that_adds_to_its_chord_is_refused(shop: Runs, ledger: Ledger, order: str) -> None:
    """The chord comes from a producer without the plugin: its member is adopted."""
    chord = habits.unmarked_note.si(order)
    result = shop.binding.send_task(
        habits.adds_to_its_chord.name, (order,), group_id=f"group-{order}", chord=dict(chord.set(task_id=f"body-{order}"))
    )
    with pytest.raises(UnsupportedCanvas, match=r"adds .*unmarked_note to the chord"):
        result.get(timeout=SOON)
    shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert ledger.names(order) == ["adds"]


def test_a_task_that_is_in_no_chord_hears_of_it_from_celery(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.adds_to_its_chord.delay(order)
    with pytest.raises(ValueError, match="not member of any chord"):
        result.get(timeout=SOON)


def test_replacing_stays_what_it_is_for_eager_and_unmarked_tasks(shop: Runs, ledger: Ledger, order: str) -> None:
    assert habits.replaces_itself_with.apply((order, "task")).get() == order
    assert ledger.names(order) == ["replaces", "unmarked"]
