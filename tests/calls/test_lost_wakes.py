"""No wake of a waiting function is lost: not with a wake that dies, nor behind a beat that is older than the suspension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from durable_adapter.current import FUNCTION
from durable_adapter.errors import Killed
from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, Cause, Kind, Safety, Shape, StepStatus, WorkflowStatus, attempt_name
from durable_adapter.recovery import Sweeper
from tests.calls.conftest import Workplace
from tests.journal.making import ONE, a_call, a_dispatch, a_run, a_step, change, claim, the, the_run
from tests.sweeper.conftest import NotingEngine

HOUR = 3600 * SECOND


@pytest.fixture
def waiting(journal: Journal, at_work: Workplace) -> tuple[str, Callable[[], Any]]:
    """A function that sent a step to a worker, and is suspended until that has ended; its run, and its body."""
    ref = a_run(journal, a_step("function", name="order", kind=Kind.FUNCTION), shape=Shape.FUNCTION)
    row = a_dispatch(ref, "mail#1", 1, task_id="t-1", queue="celery", safety=Safety.IDEMPOTENT)
    assert journal.claims.plan_new(row)

    def order() -> Any:
        return FUNCTION.get().wait_for("t-1")  # type: ignore[union-attr]

    left = at_work.leaves(ref, order)
    assert "waits for" in left.why, left.why
    assert the_run(journal, ref).status is WorkflowStatus.SUSPENDED
    return ref, order


def end(journal: Journal, ref: str) -> Any:
    """The step that it waits for succeeds."""
    token = claim(journal, ref, "mail#1")
    return journal.ends.succeed_dispatched(ref, "mail#1", token, ONE)


def test_a_duplicate_wake_that_dies_before_it_waits_again_takes_nothing_with_it(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine, waiting: tuple[str, Callable[[], Any]]
) -> None:
    ref, order = waiting

    def dies() -> None:
        raise Killed

    with pytest.raises(Killed):
        at_work.function(ref, dies)
    assert end(journal, ref).wakes, "whoever ended the step wakes the function"
    sweeper.sweep(journal.time() + SECOND)
    assert engine.sent == ["function"], "and where that message is lost, the next sweep does"
    assert at_work.function(ref, order) == 1
    assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


def test_a_wake_that_dies_after_it_was_due_leaves_the_run_due(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine, waiting: tuple[str, Callable[[], Any]]
) -> None:
    ref, order = waiting
    assert end(journal, ref).wakes

    def dies() -> None:
        raise Killed

    with pytest.raises(Killed):
        at_work.function(ref, dies)
    sweeper.sweep(journal.time() + SECOND)
    assert engine.sent == ["function"]
    assert at_work.function(ref, order) == 1


def test_a_due_run_is_woken_although_the_last_beat_still_names_its_function(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine, waiting: tuple[str, Callable[[], Any]]
) -> None:
    ref, order = waiting
    journal.workers.beat("w1", [attempt_name(ref, "function", "t")])  # of the wake that suspended the run a moment ago
    end(journal, ref)
    sweeper.sweep(journal.time() + SECOND)
    assert engine.sent == ["function"]
    assert at_work.function(ref, order) == 1


def test_a_suspended_run_that_is_not_due_is_not_sent_again(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, engine: NotingEngine, waiting: tuple[str, Callable[[], Any]]
) -> None:
    ref, order = waiting
    token = claim(journal, ref, "mail#1")  # it runs for hours
    journal.workers.beat("w1", [attempt_name(ref, "mail#1", token)])
    for hours in range(1, 10):
        change(journal, ref, next_check_at=1)
        at_work.leaves(ref, order)  # duplicates come as well
        sweeper.sweep(journal.time() + hours * HOUR)
    assert engine.sent == []


def test_a_due_run_whose_step_in_place_is_not_settled_is_woken_by_that(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, waiting: tuple[str, Callable[[], Any]]
) -> None:
    ref, _ = waiting
    end(journal, ref)
    call = a_call(ref, "charge#1", 2)
    assert journal.claims.begin_new(call)
    assert journal.doubts.raise_doubt(
        the(journal, ref, "charge#1"), call.token, "its worker died", cause=Cause.WORKER_DIED, over=True
    )
    sweeper.sweep(journal.time() + SECOND)
    assert the(journal, ref, "charge#1").status is StepStatus.HELD
    for hours in range(1, 5):
        change(journal, ref, next_check_at=1)
        sweeper.sweep(journal.time() + hours * HOUR)
    assert engine.sent == [], "a person decides about it, and that wakes it"
