"""Whatever holds a step says so: one ERROR line with the command, `on_held`, and whoever waits for its result."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, StepStatus
from durable_adapter.runtime.alerts import Held
from tests.calls.conftest import CallingEngine, Workplace, the_step
from tests.journal.making import a_function, a_run, a_step, change, in_doubt, the

WORKFLOW = "order-42"


@durable.step
def charge(amount: int) -> int:
    return amount


@durable.step
def pay(amount: int) -> int:
    return amount


def a_result_that_cannot_be_recorded(journal: Journal, at_work: Workplace) -> str:
    ref = a_function(journal, id=WORKFLOW, declared=True)
    left = at_work.leaves(ref, object)
    assert left.held
    return ref


def a_steps_result_that_cannot_be_recorded(journal: Journal, at_work: Workplace) -> str:
    ref = a_run(journal, a_step("charge", task_id="t"), "ship", id=WORKFLOW, declared=True)
    with pytest.raises(Deferred):
        at_work.step(ref, "charge", object)
    return ref


def _stopped_after(at_work: Workplace, ref: str, call: Callable[[], Any]) -> None:
    def first() -> None:
        call()
        raise Deferred("stop here")

    at_work.leaves(ref, first)


def other_arguments(journal: Journal, at_work: Workplace) -> str:
    ref = a_function(journal, id=WORKFLOW, declared=True)
    _stopped_after(at_work, ref, lambda: charge(1))
    assert at_work.leaves(ref, lambda: charge(2)).held
    return ref


def a_call_that_was_renamed(journal: Journal, at_work: Workplace) -> str:
    ref = a_function(journal, id=WORKFLOW, declared=True)
    _stopped_after(at_work, ref, lambda: charge(1))
    assert at_work.leaves(ref, lambda: pay(1)).held
    return ref


def a_doubt_that_nothing_settles(journal: Journal, at_work: Workplace) -> str:
    ref = a_run(journal, a_step("charge"), "ship", id=WORKFLOW, declared=True)
    in_doubt(journal, ref, "charge")
    with pytest.raises(Deferred):
        at_work.step(ref, "charge", lambda: 1)
    return ref


def a_probe_that_cannot_tell(journal: Journal, at_work: Workplace) -> str:
    policy = StepPolicy(probe=durable.cannot_tell)
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship", id=WORKFLOW, declared=True)
    in_doubt(journal, ref, "charge")
    with pytest.raises(Deferred):
        at_work.step(ref, "charge", lambda: 1, policy)
    return ref


@pytest.mark.parametrize(
    "hold",
    [
        a_result_that_cannot_be_recorded,
        a_steps_result_that_cannot_be_recorded,
        other_arguments,
        a_call_that_was_renamed,
        a_doubt_that_nothing_settles,
        a_probe_that_cannot_tell,
    ],
)
def test_every_hold_is_told_once(
    hold: Callable[[Journal, Workplace], str], journal: Journal, at_work: Workplace, engine: CallingEngine,
    told: list[Held], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.ERROR)
    ref = hold(journal, at_work)
    (held,) = [s for s in journal.reads.steps(ref) if s.status is StepStatus.HELD]
    (alert,) = told
    assert (alert.workflow, alert.step, alert.key) == (WORKFLOW, held.name, held.key)
    assert alert.command == f"durable-adapter explain -- {WORKFLOW}"
    # Receivers that other tests of this process have connected may raise, which is logged as well.
    names = ("step_held ", "value_missing ", "workflow_drifted ")
    errors = [message for record in caplog.records if (message := record.getMessage()).startswith(names)]
    assert len(errors) == 1
    assert f" why={json.dumps(alert.why)} command={json.dumps(alert.command)} " in errors[0]
    assert engine.told == [held.key]


def test_what_was_decided_otherwise_meanwhile_is_not_held_and_nobody_is_told(
    journal: Journal, at_work: Workplace, told: list[Held]
) -> None:
    ref = a_run(journal, "charge", "ship")

    def overtaken() -> object:
        change(journal, ref, "charge", status=StepStatus.SUCCEEDED.value)
        return object()

    with pytest.raises(Deferred) as left:
        at_work.step(ref, "charge", overtaken)
    assert (left.value.held, told) == (False, [])


def test_a_drift_is_in_front_of_people(journal: Journal, at_work: Workplace) -> None:
    ref = other_arguments(journal, at_work)
    assert the(journal, ref, "function").attention == Attention.DRIFT.value
    assert the_step(journal, ref, "charge").status is StepStatus.SUCCEEDED
