"""Starting a workflow under an id that the business knows, and finding it again (P5)."""

from __future__ import annotations

import pytest
from celery import chain, group

import durable_adapter as durable
from durable_adapter.errors import DeclarationError, SameIdOtherArguments, UnknownWorkflow, UnsupportedCanvas
from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import app, chains, functions, steps
from tests.celery.world import SOON, Runs


def test_the_same_id_twice_is_one_run_and_both_results_are_the_first_ones(shop: Runs, ledger: Ledger, order: str) -> None:
    first = durable.start(order, chain(chains.reserve.s(order), chains.ship.s()))
    second = durable.start(order, chain(chains.reserve.s(order), chains.ship.s()))
    assert (second.id, second.parent.id) == (first.id, first.parent.id)
    assert first.get(timeout=SOON) == second.get(timeout=SOON) == order
    assert ledger.names(order) == ["reserve", "ship"]


def test_the_same_id_after_its_run_is_over_still_sends_nothing(shop: Runs, ledger: Ledger, order: str) -> None:
    durable.start(order, steps.charge.s(order)).get(timeout=SOON)
    shop.settled(shop.named(order), WorkflowStatus.SUCCEEDED)
    again = durable.start(order, steps.charge.s(order))
    assert again.get(timeout=SOON) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]


def test_the_same_id_with_other_arguments_is_an_error_that_tells_both_apart(shop: Runs, ledger: Ledger, order: str) -> None:
    durable.start(order, steps.charge.s(order)).get(timeout=SOON)
    with pytest.raises(SameIdOtherArguments) as caught:
        durable.start(order, steps.charge.s(order, amount=2))
    message = str(caught.value)
    first, second = shop.named(order).fingerprint, message.partition("this one ")[2][:8]
    assert f"workflow '{order}' was started before with other work" in message
    assert (first or "")[:8] in message
    assert second != (first or "")[:8]
    assert f"durable-adapter explain -- {order}" in message
    assert "Nothing was sent" in message
    assert ledger.names(order) == ["charge"]


@pytest.mark.parametrize("other", ["another task", "one more member"])
def test_the_same_id_with_other_tasks_is_an_error(idle_shop: Runs, order: str, other: str) -> None:
    durable.start(order, chain(chains.reserve.s(order), chains.ship.s()))
    members = {
        "another task": [chains.reserve.s(order), chains.book.s()],
        "one more member": [chains.reserve.s(order), chains.ship.s(), chains.note.s()],
    }[other]
    with pytest.raises(SameIdOtherArguments):
        durable.start(order, chain(*members))


def test_positional_and_named_arguments_countdown_and_headers_are_the_same_start(shop: Runs, ledger: Ledger, order: str) -> None:
    first = durable.start(order, steps.charge.s(order, 2))
    second = durable.start(order, steps.charge.s(order=order, amount=2).set(countdown=60, headers={"a": "b"}))
    assert first.id == second.id
    first.get(timeout=SOON)
    assert ledger.names(order) == ["charge"]


def test_a_function_started_by_id_and_one_started_by_its_template_are_told_apart_by_their_ids(
    shop: Runs, ledger: Ledger, order: str
) -> None:
    started = durable.start(f"mine-{order}", functions.in_place.s(order))
    delayed = functions.in_place.delay(order)
    assert started.get(timeout=SOON) == delayed.get(timeout=SOON)
    assert ledger.count(order, "body") == 2
    assert shop.named(f"mine-{order}").ref != shop.named(f"in-place-{order}").ref


def test_a_template_id_with_other_arguments_is_an_error(idle_shop: Runs, order: str) -> None:
    functions.sleeper.delay(order, amount=1)
    with pytest.raises(SameIdOtherArguments, match=f"sleeper-{order}"):
        functions.sleeper.delay(order, amount=2)


def test_a_chain_with_an_unmarked_head_can_be_started_by_id(shop: Runs, ledger: Ledger, order: str) -> None:
    for _ in range(2):
        assert durable.start(order, chain(chains.note.s(order), chains.ship.s())).get(timeout=SOON) == order
    assert ledger.names(order) == ["note", "ship"]


def test_a_handle_finds_the_workflow_its_status_its_steps_and_its_result(shop: Runs, order: str) -> None:
    result = durable.start(order, chain(chains.reserve.s(order), chains.ship.s()))
    handle = durable.handle(order)
    assert handle.id == order
    assert handle.result().id == result.id
    assert handle.result().get(timeout=SOON) == order
    shop.settled(handle.run)
    assert handle.status is WorkflowStatus.SUCCEEDED
    assert [step.status for step in handle.steps()] == [StepStatus.SUCCEEDED, StepStatus.SUCCEEDED]


def test_a_handle_on_an_unknown_workflow_says_which_journal_and_namespace_was_asked(idle_shop: Runs) -> None:
    with pytest.raises(UnknownWorkflow, match=r"has no workflow 'no-such-order' in namespace 'default'"):
        durable.handle("no-such-order")


@pytest.mark.parametrize("bad", ["", "x" * 201, 42, None])
def test_an_id_that_cannot_be_one_is_refused(idle_shop: Runs, bad: object) -> None:
    with pytest.raises(DeclarationError, match="the id must be a text of 1 to 200 characters"):
        durable.start(bad, steps.charge.s("x"))


def test_what_is_no_signature_cannot_be_started(idle_shop: Runs) -> None:
    with pytest.raises(DeclarationError, match="give a signature"):
        durable.start("order-1", steps.charge)


def test_a_start_without_any_durable_task_is_refused_and_sends_nothing(idle_shop: Runs, ledger: Ledger, order: str) -> None:
    with pytest.raises(DeclarationError, match=r"no task in this signature is durable.*Nothing was sent"):
        durable.start(order, chain(chains.note.s(order), chains.note.s()))
    assert ledger.names(order) == []


def test_a_group_cannot_be_started_yet(idle_shop: Runs, order: str) -> None:
    with pytest.raises(UnsupportedCanvas, match="groups and chords are not durable yet"):
        durable.start(order, group(steps.charge.s(order), steps.charge.s(order)))
    assert idle_shop.traces(order) == []


def test_a_start_belongs_to_the_app_of_its_signature(shop: Runs, order: str) -> None:
    """Also where another app is the current one."""
    from celery import Celery

    other = Celery("other", set_as_current=True)
    try:
        assert durable.start(order, steps.charge.s(order)).get(timeout=SOON) == f"ch-{order}"
        assert durable.handle(order, app=app).status in (WorkflowStatus.SUCCEEDED, WorkflowStatus.RUNNING)
    finally:
        other.close()
        app.set_current()
