"""Starting a workflow under an id that the business knows: the same id twice is one run (P5)."""

from __future__ import annotations

import pytest

from durable_adapter.errors import DeclarationError, SameIdOtherArguments
from tests.runtime import shop
from tests.runtime.worlds import World


def test_the_same_id_twice_is_one_run(world: World) -> None:
    world.start("order-42", (shop.charge, "42"), (shop.ship, "42"))
    world.start("order-42", (shop.charge, "42"), (shop.ship, "42"))
    assert world.bank.effects == ["charge 42", "ship 42"]
    assert [w.id for w in world.journal.workflows()] == ["order-42"]


@pytest.mark.parametrize("other", [(shop.charge, "43"), (shop.ship, "42")], ids=["other arguments", "other work"])
def test_the_same_id_for_something_else_is_an_error_and_nothing_is_sent(world: World, other: tuple[object, ...]) -> None:
    world.start("order-42", (shop.charge, "42"))
    with pytest.raises(SameIdOtherArguments, match=r"workflow 'order-42' was started before with other work.*Nothing was sent"):
        world.start("order-42", other)
    assert world.bank.effects == ["charge 42"]


def test_two_ids_are_two_runs(world: World) -> None:
    world.start("order-42", (shop.charge, "42"))
    world.start("order-43", (shop.charge, "42"))
    assert world.count("charge 42") == 2


@pytest.mark.parametrize("bad", ["", "x" * 201, 42, None])
def test_an_id_that_cannot_be_one_is_refused(world: World, bad: object) -> None:
    with pytest.raises(DeclarationError, match="a text of 1 to 200 characters"):
        world.start(bad, (shop.charge, "42"))  # type: ignore[arg-type]
    assert world.bank.effects == []


def test_what_is_not_durable_cannot_be_started_under_an_id(world: World) -> None:
    with pytest.raises(DeclarationError, match="durable"):
        world.start("order-42", (shop.mail, "42"))
    assert world.bank.effects == []


def test_a_function_can_be_started_under_an_id(world: World) -> None:
    world.start("lunch", (shop.sleeper, "42"))
    world.start("lunch", (shop.sleeper, "42"))
    world.journal.advance(hours=2)
    assert world.workflow("lunch").value == ["ch-42", "sh-42"]
    assert world.count("charge 42") == 1
