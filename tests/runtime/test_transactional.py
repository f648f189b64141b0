"""Transactional steps: the effect and its record are one commit in the journal's own database."""

from __future__ import annotations

import pytest

import durable_adapter as durable
from durable_adapter.errors import NotInWorkflow
from durable_adapter.model import Effect
from tests.runtime import shop
from tests.runtime.worlds import World


def test_the_row_and_the_record_are_there_together(world: World) -> None:
    sent = world.send(shop.book, "42")
    assert (world.workflow(sent).status, world.booked()) == ("succeeded", ["42"])


def test_an_error_takes_the_row_back_and_nothing_is_unknown(world: World) -> None:
    world.bank.trouble = [ValueError("no")] * 3
    sent = world.send(shop.book, "42")
    row = world.row(sent, "book")
    assert (world.workflow(sent).status, row.effect, row.attention, world.booked()) == ("failed", Effect.DID_NOT_HAPPEN, None, [])


def test_an_attempt_that_failed_is_tried_again_without_a_second_row(world: World) -> None:
    world.bank.trouble = [ValueError("no"), ValueError("no")]
    sent = world.send(shop.book_again, "42")
    assert world.workflow(sent).status == "succeeded"
    assert world.booked() == ["42"]
    assert world.row(sent, "book_again").attempt == 3


def test_what_the_body_sends_leaves_after_the_commit(world: World) -> None:
    sent = world.send(shop.book_and_send, "42")
    assert world.workflow(sent).status == "succeeded"
    assert world.bank.effects == ["book 42", "charge 42"]


def test_what_the_body_sends_does_not_leave_where_it_fails(world: World) -> None:
    world.bank.trouble = [ValueError("no")] * 3
    world.send(shop.book_and_send, "42")
    world.journal.advance(hours=1)
    assert world.booked() == []
    assert world.count("charge 42") == 0
    assert len(world.journal.workflows()) == 1


def test_in_a_function_it_is_not_repeated_on_replay(world: World) -> None:
    sent = world.send(shop.books, "42")
    world.journal.advance(minutes=2)
    assert (world.workflow(sent).value, world.booked()) == (1, ["42"])
    assert world.count("book 42") == 1


def test_outside_of_it_there_is_no_session(world: World) -> None:
    with pytest.raises(NotInWorkflow, match="inside a durable step"):
        durable.session()
