"""Canvases: a plan that is known at the start, whose members follow one another."""

from __future__ import annotations

import pytest

from durable_adapter.testing import Killed
from tests.runtime import shop
from tests.runtime.worlds import World

KILLED = Killed("kill -9")


@pytest.mark.parametrize(
    "members",
    [
        (shop.charge, shop.ship, shop.pick_b),
        (shop.charge, shop.mail, shop.ship),
        (shop.charge, shop.ship, shop.mail),
    ],
    ids=["all marked", "unmarked in the middle", "unmarked at the end"],
)
def test_each_member_runs_once_whichever_are_marked(world: World, members: tuple[object, ...]) -> None:
    sent = world.chain(*((member, "42") for member in members))
    workflow = world.workflow(sent)
    assert workflow.status == "succeeded"
    assert [step.status for step in workflow.steps] == ["succeeded"] * 3
    assert len(world.bank.effects) == len(set(world.bank.effects)) == 3


def test_a_member_that_fails_ends_the_chain(world: World) -> None:
    sent = world.chain((shop.charge, "42"), (shop.decline, "42"), (shop.ship, "42"))
    assert world.workflow(sent).status == "failed"
    assert world.statuses(sent) == [("charge", "succeeded"), ("decline", "failed"), ("ship", "cancelled")]
    assert world.bank.effects == ["charge 42", "ask 42"]


def test_an_unmarked_member_that_fails_ends_the_chain_and_undoes_what_was_done(world: World) -> None:
    world.bank.trouble = [None, ValueError("no such address")]
    sent = world.chain((shop.reserve, "42"), (shop.mail, "42"), (shop.ship, "42"))
    world.journal.advance(1)
    assert world.workflow(sent).status == "compensated"
    assert world.bank.effects == ["reserve 42", "mail 42", "refund re-42 of 42"]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_chain_whose_message_is_lost_goes_on(world: World, lost: int) -> None:
    world.send(shop.charge, "somebody else's")  # a worker listens
    with world.here.busy():
        sent = world.sends.chain((shop.charge, "42"), (shop.ship, "42"), (shop.pick_b, "42"))
    for _ in range(lost):
        world.here.run_next()
    world.sends.lose()
    world.journal.advance(hours=1)
    assert world.workflow(sent).status == "succeeded"
    assert world.bank.effects[1:] == ["charge 42", "ship 42", "pick b 42"]
    assert "sent_again" in world.events(sent)


def test_a_chain_that_is_lost_at_an_unmarked_member_is_reported_and_not_guessed_at(world: World) -> None:
    with world.here.busy():
        sent = world.sends.chain((shop.charge, "42"), (shop.mail, "42"), (shop.ship, "42"))
    world.here.run_next()
    world.sends.lose()
    world.journal.advance(hours=1)
    assert world.statuses(sent) == [("charge", "succeeded"), ("mail", "planned"), ("ship", "planned")]
    assert world.run(sent).attention == "unmarked"


def test_a_message_that_is_lost_where_no_worker_listens_leaves_the_step_in_doubt(world: World) -> None:
    """Workers without the plugin may have run it."""
    if world.engine == "inline":
        pytest.skip("whoever looks is the worker")
    with world.here.busy():
        sent = world.sends.send(shop.charge, "42")
    world.sends.lose()
    world.journal.advance(hours=1)
    assert world.statuses(sent) == [("charge", "held")]
    assert "no worker with the plugin has listened" in world.workflow(sent).step("charge").why


def test_a_member_that_is_delivered_again_sends_what_follows_and_runs_nothing(world: World) -> None:
    with world.here.busy():
        sent = world.sends.chain((shop.charge, "42"), (shop.ship, "42"))
    world.here.run_next()
    world.sends.lose()
    world.again(sent, "charge")
    world.journal.advance(hours=1)
    assert world.workflow(sent).status == "succeeded"
    assert world.bank.effects == ["charge 42", "ship 42"]


def test_a_chain_behind_a_killed_member_waits_for_a_person(world: World) -> None:
    world.bank.trouble = [None, KILLED]
    sent = world.chain((shop.charge, "42"), (shop.ship, "42"), (shop.pick_b, "42"))
    world.journal.advance(days=1)
    assert world.statuses(sent) == [("charge", "succeeded"), ("ship", "held"), ("pick_b", "planned")]


def test_two_chains_do_not_know_each_other(world: World) -> None:
    first, second = (world.chain((shop.charge, "42"), (shop.ship, "42")) for _ in range(2))
    assert world.run(first).ref != world.run(second).ref
    assert world.bank.effects == ["charge 42", "ship 42"] * 2


def test_a_cancelled_chain_begins_nothing_more(world: World) -> None:
    with world.here.busy():
        sent = world.sends.chain((shop.charge, "42"), (shop.ship, "42"))
    world.here.run_next()
    assert world.here.journal.runs.cancel(world.run(sent).ref, who="ann", why="the customer called") == []
    world.journal.advance(hours=1)
    assert world.statuses(sent) == [("charge", "succeeded"), ("ship", "cancelled")]
    assert world.bank.effects == ["charge 42"]
    assert world.workflow(sent).status == "cancelled"
