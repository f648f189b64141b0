"""Chains as they exist, with unmarked members in any place."""

from __future__ import annotations

import pytest
from celery import chain

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, steps
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually

RESERVE, BOOK, SHIP, NOTE = chains.reserve, chains.book, chains.ship, chains.note


@pytest.mark.parametrize(
    "members",
    [
        [RESERVE, BOOK, SHIP],
        [NOTE, BOOK, SHIP],
        [RESERVE, NOTE, SHIP],
        [RESERVE, BOOK, NOTE],
        [NOTE, BOOK, NOTE],
        [NOTE, NOTE, SHIP],
        [RESERVE, NOTE, NOTE],
    ],
    ids=lambda members: "-".join("unmarked" if m is NOTE else "marked" for m in members),
)
def test_a_chain_runs_each_member_once_whichever_are_marked(
    shop: Runs, ledger: Ledger, order: str, members: list[object]
) -> None:
    first, *rest = members
    result = chain(first.s(order), *(member.s() for member in rest)).apply_async()  # type: ignore[attr-defined]
    assert result.get(timeout=SOON) == order
    names = [str(member.name).rpartition(".")[2] for member in members]  # type: ignore[attr-defined]
    assert ledger.names(order) == names
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    kinds = ["unmarked" if member is NOTE else "step" for member in members]
    expected = list(zip(names, kinds, ["succeeded"] * 3, strict=True))
    # An unmarked member's end is recorded a moment after its successor was sent.
    eventually(lambda: shop.story(run) == expected, SOON, lambda: f"{expected}, not {shop.story(run)}")


def test_a_chain_of_unmarked_tasks_leaves_no_trace_in_the_journal(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(NOTE.s(order), NOTE.s()).apply_async()
    assert result.get(timeout=SOON) == order
    assert shop.find(result) is None
    assert shop.find(result.parent) is None
    assert ledger.names(order) == ["note", "note"]


def test_every_result_of_a_chain_is_reached_by_its_parents(shop: Runs, order: str) -> None:
    result = (RESERVE.s(order) | NOTE.s() | SHIP.s()).delay()
    assert result.get(timeout=SOON) == order
    assert result.parent.get(timeout=SOON) == order
    assert result.parent.parent.get(timeout=SOON) == order
    assert result.parent.parent.parent is None
    run = shop.of(result)
    assert [s.task_id for s in shop.steps(run)] == [result.parent.parent.id, result.parent.id, result.id]


def test_immutable_members_and_partial_arguments_are_kept(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(RESERVE.s(order), BOOK.s("extra", "more"), SHIP.si(order)).apply_async()
    assert result.get(timeout=SOON) == order
    assert ledger.entries(order, "book")[0]["extra"] == ["extra", "more"]


def test_chains_in_chains_are_one_workflow(shop: Runs, ledger: Ledger, order: str) -> None:
    inner = chain(BOOK.s(), NOTE.s())
    result = chain(RESERVE.s(order), inner, SHIP.s()).apply_async()
    assert result.get(timeout=SOON) == order
    assert ledger.names(order) == ["reserve", "book", "note", "ship"]
    assert len(shop.steps(shop.of(result))) == 4


def test_the_same_signature_published_twice_is_two_runs(shop: Runs, ledger: Ledger, order: str) -> None:
    signature = chain(RESERVE.s(order), SHIP.s())
    first, second = signature.apply_async(), signature.apply_async()
    assert first.get(timeout=SOON) == second.get(timeout=SOON) == order
    # Celery itself gives the last members one id; the heads tell the runs apart.
    assert shop.of(first.parent).ref != shop.of(second.parent).ref
    eventually(lambda: ledger.count(order, "ship") == 2, SOON)


def test_publishing_leaves_the_callers_own_signature_as_it_was(shop: Runs, order: str) -> None:
    signature = chain(RESERVE.s(order), NOTE.s(), SHIP.s())
    before = repr([dict(task) for task in signature.tasks])
    signature.apply_async().get(timeout=SOON)
    assert "durable" not in repr(dict(signature))
    assert repr([dict(task) for task in signature.tasks]) == before


def test_a_member_that_fails_ends_the_chain_and_calls_its_errback(shop: Runs, ledger: Ledger, order: str) -> None:
    signature = chain(RESERVE.s(order), chains.breaks.s(), SHIP.s())
    result = signature.apply_async(link_error=chains.on_error.s(order))
    with pytest.raises(ValueError, match="out of stock"):
        result.get(timeout=SOON)
    eventually(lambda: ledger.count(order, "on_error"), SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert shop.story(run) == [
        ("reserve", "step", "succeeded"),
        ("breaks", "step", "failed"),
        ("ship", "step", "cancelled"),
    ]
    assert ledger.names(order) == ["reserve", "break", "on_error"]


def test_an_unmarked_member_that_fails_ends_the_workflow(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(RESERVE.s(order), chains.failing_note.s(), SHIP.s()).apply_async()
    with pytest.raises(LookupError, match="no such order"):
        result.get(timeout=SOON)
    run = shop.settled(shop.of(result), WorkflowStatus.FAILED)
    assert [status for _, _, status in shop.story(run)] == ["succeeded", "failed", "cancelled"]
    assert ledger.count(order, "ship") == 0


def test_a_body_that_takes_its_chain_away_stops_it(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(RESERVE.s(order), chains.stops_the_chain.s(), SHIP.s()).apply_async()
    assert result.parent.get(timeout=SOON) == order
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    assert [status for _, _, status in shop.story(run)] == ["succeeded", "succeeded", "cancelled"]


def test_a_chain_that_was_stopped_stays_stopped_when_its_message_comes_again(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(chains.stops_the_chain.s(order), NOTE.s(), SHIP.s()).apply_async()
    head = result.parent.parent
    assert head.get(timeout=SOON) == order
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    head.backend.delete(head.backend.get_key_for_task(head.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    assert type(head)(head.id).get(timeout=SOON) == order
    # The worker takes messages in order: when this one is done, whatever the memo hit had sent would have run.
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["stop"]


def test_a_message_of_a_finished_member_runs_nothing_again(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(RESERVE.s(order), BOOK.s(), SHIP.s()).apply_async()
    assert result.get(timeout=SOON) == order
    run = shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED)
    for task in (result, result.parent, result.parent.parent):
        task.backend.delete(task.backend.get_key_for_task(task.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    assert type(result)(result.id).get(timeout=SOON) == order
    assert ledger.names(order) == ["reserve", "book", "ship"]


def test_a_link_is_called_with_the_result_and_a_marked_one_is_a_run_of_its_own(shop: Runs, ledger: Ledger, order: str) -> None:
    result = RESERVE.apply_async((order,), link=[chains.on_done.s(order), chains.marked_on_done.s(order)])
    result.get(timeout=SOON)
    eventually(lambda: ledger.count(order, "on_done") and ledger.count(order, "marked_on_done"), SOON)
    assert ledger.entries(order, "marked_on_done")[0]["result"] == order


def test_a_marked_link_runs_once_although_its_parent_is_delivered_again(shop: Runs, ledger: Ledger, order: str) -> None:
    result = RESERVE.apply_async((order,), link=chains.marked_on_done.s(order))
    result.get(timeout=SOON)
    eventually(lambda: ledger.count(order, "marked_on_done"), SOON)
    run = shop.settled(shop.of(result))
    result.backend.delete(result.backend.get_key_for_task(result.id))
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    type(result)(result.id).get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["reserve", "marked_on_done"]


def test_a_step_of_a_chain_that_is_held_leaves_the_others_planned(shop: Runs, ledger: Ledger, order: str) -> None:
    ledger.open("probe-cannot-tell", order)
    result = chain(RESERVE.s(order), steps.probed_charge.s(), SHIP.s()).apply_async()
    held = shop.step_is(eventually(lambda: shop.find(result), SOON), "probed_charge", StepStatus.HELD)
    assert "cannot tell" in (held.evidence or "")
    assert [status for _, _, status in shop.story(shop.of(result))] == ["succeeded", "held", "planned"]
