"""Workflow functions: they call steps in their own order, suspend, and run from the top on every wake."""

from __future__ import annotations

import logging

import pytest

import durable_adapter as durable
from durable_adapter.errors import NotInWorkflow
from durable_adapter.model import SECOND, Kind, StepStatus
from durable_adapter.runtime.alerts import Held
from durable_adapter.testing import Killed
from tests.runtime import shop
from tests.runtime.worlds import World

KILLED = Killed("kill -9")


def test_steps_in_place_run_once_and_are_recorded_in_their_order(world: World) -> None:
    sent = world.send(shop.in_place, "42")
    assert world.bank.effects == ["body 42", "charge 42", "ship 42"]
    workflow = world.workflow(sent)
    assert (workflow.status, workflow.value) == ("succeeded", ["ch-42", "sh-42"])
    assert workflow.steps == ["in_place: succeeded", "charge: succeeded", "ship: succeeded"]


def test_a_template_gives_it_an_id_its_attributes_and_the_amount_at_stake(world: World) -> None:
    world.send(shop.in_place, "42", amount=120)
    run = world.run("order-42")
    assert (run.attributes, run.amount, run.declared) == ({"order": "42", "amount": 120}, "amount", True)


def test_a_template_id_starts_once_however_the_arguments_are_given(world: World) -> None:
    world.send(shop.in_place, "42")
    world.send(shop.in_place, order="42")
    assert world.bank.effects == ["body 42", "charge 42", "ship 42"]


def test_a_finished_function_hands_back_its_result(world: World) -> None:
    sent = world.send(shop.in_place, "42")
    world.again(sent, "in_place")
    assert world.count("body 42") == 1


def test_a_step_inside_a_step_is_part_of_the_outer_one(world: World) -> None:
    sent = world.send(shop.nested, "42")
    assert world.bank.effects == ["outer 42", "charge 42"]
    assert world.statuses(sent) == [("outer", "succeeded")]
    assert world.workflow(sent).value == "ch-42"


def test_a_sleep_gives_the_worker_back_and_repeats_no_step(world: World) -> None:
    sent = world.send(shop.sleeper, "42")
    assert world.here.is_empty
    assert world.statuses(sent) == [("charge", "succeeded"), ("sleep", "waiting")]
    world.journal.advance(minutes=59)
    assert world.bank.effects == ["body 42", "charge 42"]
    world.journal.advance(minutes=1)
    assert world.bank.effects == ["body 42", "charge 42", "body 42", "ship 42"]
    assert world.workflow(sent).value == ["ch-42", "sh-42"]


def test_a_function_is_never_woken_before_its_time(world: World) -> None:
    sent = world.send(shop.sleeper, "42", seconds=86_400.0)
    world.journal.advance(days=2)
    began, slept = world.row(sent, "charge"), world.row(sent, "sleep")
    assert (slept.ended_at or 0) - (began.ended_at or 0) >= 86_400 * SECOND
    assert world.count("body 42") == 2


def test_sleeps_follow_one_another(world: World) -> None:
    sent = world.send(shop.naps, "42")
    world.journal.advance(minutes=25)
    assert world.statuses(sent) == [("sleep", "succeeded"), ("sleep", "succeeded"), ("sleep", "waiting")]
    world.journal.advance(minutes=10)
    assert world.workflow(sent).value == ["ch-42"]
    assert world.count("body 42") == 4


def test_asking_for_the_result_of_a_dispatched_step_suspends_until_it_is_there(world: World) -> None:
    sent = world.send(shop.dispatcher, "42")
    assert world.workflow(sent).value == "got sh-42"
    assert [(s.name, s.kind) for s in world.workflow(sent).steps] == [
        ("dispatcher", "function"),
        ("ship", "dispatch"),
        ("charge", "step"),
    ]
    assert (world.count("ship 42"), world.count("charge 42")) == (1, 1)


def test_a_function_is_complete_only_when_what_it_dispatched_is(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.send(shop.forgetful, "42")
    assert world.workflow(sent).status == "suspended"
    assert world.run(sent).waiting_for == "steps"
    (held,) = world.journal.held()
    assert held == "ship: held"
    assert world.here.journal.verdicts.did_not_happen(world.row(sent, "ship"), who="ann", why="asked").recorded
    world.journal.sweep()
    assert (world.workflow(sent).status, world.workflow(sent).value) == ("succeeded", "done")


def test_several_dispatched_steps_are_each_waited_for(world: World) -> None:
    sent = world.send(shop.fans_out, "42")
    assert world.workflow(sent).value == ["picked a", "picked b", "picked c"]
    assert sorted(e for e in world.bank.effects if "pick" in e) == ["pick a", "pick b", "pick c"]


def test_dispatched_steps_survive_the_loss_of_every_message(world: World) -> None:
    world.send(shop.charge, "somebody else's")  # a worker listens
    with world.here.busy():
        sent = world.sends.send(shop.fans_out, "42")
    world.here.run_next()
    world.sends.lose()
    world.journal.advance(hours=2)
    assert world.workflow(sent).value == ["picked a", "picked b", "picked c"]
    assert [world.count(f"pick {sku}") for sku in "abc"] == [1, 1, 1]


def test_an_error_that_the_function_catches_is_a_recorded_outcome(world: World) -> None:
    sent = world.send(shop.catches, "42")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == "ch-42 although no money for 42"
    assert world.bank.effects == ["body 42", "ask 42", "body 42", "charge 42"]


def test_an_error_of_a_dispatched_step_is_raised_as_its_own_type(world: World) -> None:
    assert world.workflow(world.send(shop.catches_dispatched, "42")).value == "caught no money for 42"


def test_a_functions_own_error_fails_it_and_undoes_its_steps(world: World) -> None:
    sent = world.send(shop.fails_by_itself, "42")
    workflow = world.workflow(sent)
    assert workflow.status == "compensated"
    assert str(workflow.error) == "the function's own"
    assert world.bank.effects == ["reserve 42", "refund re-42 of 42"]


def test_a_killed_function_repeats_no_finished_step(world: World) -> None:
    world.bank.trouble = [None, ("before", KILLED)]
    sent = world.send(shop.in_place, "42")
    held = world.row(sent, "ship")
    assert held.status is StepStatus.HELD
    assert world.here.journal.verdicts.did_not_happen(held, who="ann", why="nothing was sent").recorded
    world.journal.advance(hours=1)
    assert world.workflow(sent).value == ["ch-42", "sh-42"]
    assert (world.count("charge 42"), world.count("ship 42")) == (1, 1)


def test_a_finished_step_with_other_arguments_holds_the_workflow_and_shows_both(world: World) -> None:
    sent = world.send(shop.wavers, "42")
    world.journal.advance(minutes=2)
    row = world.row(sent, "wavers")
    assert (row.status, row.attention) == (StepStatus.HELD, "drift")
    assert "was recorded with arguments" in (row.evidence or "")
    assert "not deterministic" in (row.evidence or "")
    assert [e for e in world.bank.effects if e.startswith("charge")] == ["charge 42-1"]


def test_declared_drift_and_ignored_arguments_hold_nothing(world: World) -> None:
    sent = world.send(shop.wavers_as_declared, "42")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == [1, 1]


def test_a_step_that_was_renamed_under_a_running_workflow_holds_it_and_names_both(world: World) -> None:
    sent = world.send(shop.redeployed, "42")
    shop.world_outside["deployed"] = True
    world.journal.advance(minutes=2)
    row = world.row(sent, "redeployed")
    assert row.status is StepStatus.HELD
    assert "shop.book" in (row.evidence or "")
    assert "shop.ship" in (row.evidence or "")
    assert world.count("ship 42") == 0


def test_a_workflow_that_was_held_for_its_code_goes_on_with_the_right_one(world: World) -> None:
    sent = world.send(shop.redeployed, "42")
    shop.world_outside["deployed"] = True
    world.journal.advance(minutes=2)
    shop.world_outside["deployed"] = False
    assert world.here.journal.verdicts.release(world.row(sent, "redeployed"), who="ann", why="rolled back")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == "ch-42"
    assert world.booked() == ["42"]


def test_calls_with_a_key_of_their_own_are_found_in_any_order(world: World) -> None:
    sent = world.send(shop.reordered, "42")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == ["picked a", "picked b", "picked c"]
    assert [world.count(f"pick {sku}") for sku in "abc"] == [1, 1, 1]


def test_a_swallowed_suspension_stands_and_the_warning_names_the_place(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "durable_adapter"):
        sent = world.send(shop.swallows, "42")
    assert "caught its own suspension" in caplog.text
    assert "in swallows" in caplog.text
    assert world.bank.effects == ["body 42", "swallowed"]
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == "went on"
    assert world.bank.effects == ["body 42", "swallowed", "body 42"]


def test_many_steps_are_each_recorded_and_replayed(world: World) -> None:
    sent = world.send(shop.many, "42")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == 25
    assert len([e for e in world.bank.effects if e.startswith("charge")]) == 25
    assert len(world.rows(sent)) == 27


def test_a_workflow_that_a_function_starts_is_started_once(world: World) -> None:
    sent = world.send(shop.starts_another, "42")
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == "started"
    assert world.count("charge 42") == 1
    parent = world.run(sent)
    assert world.run("order-42").parent == parent.ref


def test_a_function_that_cannot_say_its_result_is_held_and_somebody_is_told(world: World) -> None:
    told: list[Held] = []
    durable.on_held.connect(told.append)
    try:
        sent = world.send(shop.unspeakable_end, "42")
    finally:
        durable.on_held.disconnect(told.append)
    row = world.row(sent, "unspeakable_end")
    assert row.status is StepStatus.HELD
    assert len(told) == 1


def test_a_sleep_outside_of_a_function_says_where_it_belongs(world: World) -> None:
    with pytest.raises(NotInWorkflow, match="suspends a workflow function"):
        durable.sleep(1)


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf")])
def test_a_sleep_of_no_length_that_there_is_is_refused(world: World, duration: float) -> None:
    world.send(shop.sleeper, "42", seconds=duration)
    (workflow,) = world.journal.workflows()
    assert workflow.status == "failed"
    assert isinstance(workflow.error, ValueError)
    assert Kind.SLEEP not in [step.kind for step in workflow.steps]
