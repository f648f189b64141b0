"""Undoing: in reverse, each undo a step of its own, and nothing forward after it."""

from __future__ import annotations

from durable_adapter.model import Effect, StepStatus
from durable_adapter.runtime.values import encode, write_failure
from durable_adapter.testing import Killed
from tests.runtime import shop
from tests.runtime.worlds import World

KILLED = Killed("kill -9")


def test_a_chain_is_undone_in_reverse_and_what_was_planned_is_cancelled(world: World) -> None:
    sent = world.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.decline, "42"), (shop.ship, "42"))
    workflow = world.workflow(sent)
    assert workflow.status == "compensated"
    assert world.bank.effects == ["reserve 42", "allot 42", "ask 42", "release al-42 of 42", "refund re-42 of 42"]
    assert workflow.steps == [
        "reserve: undone", "allot: undone", "decline: failed", "ship: cancelled", "release: succeeded", "refund: succeeded",
    ]  # fmt: skip
    assert "rollback" in world.events(sent)


def test_a_function_is_undone_as_a_chain_is(world: World) -> None:
    sent = world.send(shop.fails, "42")
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "allot 42", "ask 42", "release al-42 of 42", "refund re-42 of 42"]


def test_what_a_function_dispatched_is_undone_too(world: World) -> None:
    sent = world.send(shop.undoes_what_it_dispatched, "42")
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "ask 42", "refund re-42 of 42"]


def test_a_step_under_a_key_that_is_too_long_for_its_column_is_undone_too(world: World) -> None:
    sent = world.send(shop.undoes_a_long_key, "42")
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["long 42", "ask 42", "refund lo-42 of 42"]


def test_behind_a_pivot_nothing_is_undone(world: World) -> None:
    sent = world.chain((shop.reserve, "42"), (shop.commit, "42"), (shop.decline, "42"))
    assert world.workflow(sent).status == "failed"
    assert world.bank.effects == ["reserve 42", "commit 42", "ask 42"]


def test_before_a_pivot_everything_is(world: World) -> None:
    sent = world.chain((shop.reserve, "42"), (shop.decline, "42"), (shop.commit, "42"))
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "ask 42", "refund re-42 of 42"]


def test_an_undo_that_fails_for_good_is_surfaced_and_the_others_still_run(world: World) -> None:
    world.bank.trouble = [None, None, None, ("before", shop.Declined("the provider refuses"))]
    sent = world.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.decline, "42"))
    assert world.workflow(sent).status == "compensation_failed"
    assert world.statuses(sent) == [
        ("reserve", "undone"), ("allot", "succeeded"), ("decline", "failed"), ("release", "failed"), ("refund", "succeeded"),
    ]  # fmt: skip
    assert (world.run(sent).attention, world.row(sent, "allot").attention) == ("undo_failed", "undo_failed")
    assert world.bank.effects[-1] == "refund re-42 of 42"


def test_an_undo_that_is_killed_is_held_like_any_step_and_the_others_still_run(world: World) -> None:
    world.bank.trouble = [None, None, None, KILLED]
    sent = world.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.decline, "42"))
    world.journal.advance(hours=1)
    assert world.row(sent, "release").status is StepStatus.HELD
    assert world.row(sent, "reserve").status is StepStatus.UNDONE
    assert world.workflow(sent).status == "rolling_back"
    held = world.row(sent, "release")
    assert world.here.journal.verdicts.happened(held, encode("released"), who="ann", why="they wrote so").recorded
    world.journal.advance(hours=1)
    assert world.workflow(sent).status == "compensated"
    assert world.count("release al-42 of 42") == 1


def test_a_step_that_may_have_happened_keeps_only_its_own_undo_waiting(world: World) -> None:
    """The chain's last step is refused while an earlier one's fate is unknown."""
    world.bank.trouble = [None, KILLED]
    sent = world.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.ship, "42"))
    held = world.row(sent, "allot")
    error = write_failure(ValueError("given up"))
    ended = world.here.journal.ends.fail(held, None, error, Effect.UNKNOWN, fails_run=True, who="ann", why="by hand")
    assert ended.recorded
    world.journal.advance(hours=1)
    assert world.row(sent, "reserve").status is StepStatus.UNDONE
    assert world.workflow(sent).status == "rolling_back"
    failed = world.row(sent, "allot")
    assert world.here.journal.verdicts.happened(failed, encode("al-42"), who="ann", why="it did after all").recorded
    world.journal.advance(hours=1)
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "allot 42", "refund re-42 of 42", "release al-42 of 42"]


def test_a_step_that_was_undone_is_never_handed_back_as_done(world: World) -> None:
    sent = world.chain((shop.reserve, "42"), (shop.decline, "42"))
    before = list(world.bank.effects)
    world.again(sent, "reserve")
    world.again(sent, "decline")
    world.journal.advance(hours=1)
    assert world.bank.effects == before
    assert world.row(sent, "reserve").status is StepStatus.UNDONE


def test_compensations_whose_messages_are_lost_or_come_again_run_once(world: World) -> None:
    sent = world.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.decline, "42"))
    for name in ("release", "refund"):
        world.again(sent, name)
    assert (world.count("release al-42 of 42"), world.count("refund re-42 of 42")) == (1, 1)


def test_a_rollback_survives_the_loss_of_every_message(world: World) -> None:
    with world.here.busy():
        sent = world.sends.chain((shop.reserve, "42"), (shop.allot, "42"), (shop.decline, "42"))
    while world.row(sent, "decline").status is not StepStatus.FAILED:
        assert world.here.run_next()
    world.sends.lose()
    world.journal.advance(hours=2)
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "allot 42", "ask 42", "release al-42 of 42", "refund re-42 of 42"]


def test_a_person_may_begin_a_rollback(world: World) -> None:
    world.bank.trouble = [None, KILLED]
    sent = world.chain((shop.reserve, "42"), (shop.ship, "42"))
    assert world.here.journal.undo.begin(world.run(sent).ref, who="ann", why="the customer called") is not None
    world.journal.advance(hours=1)
    assert world.bank.effects == ["reserve 42", "ship 42", "refund re-42 of 42"]
    assert world.workflow(sent).status == "compensated"
