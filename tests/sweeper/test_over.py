"""A step that is over is never due: nothing of it is sent again, and it keeps nothing from being forgotten."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import step
from durable_adapter.model import SECOND, StepStatus, WorkflowStatus
from durable_adapter.recovery import Sweeper
from tests.journal.making import ONE, a_run, a_step, age, claim, held, succeed, the, the_run
from tests.sweeper.conftest import Clock, NotingEngine

DAY = 86_400 * SECOND


def settled_and_undone(journal: Journal) -> str:
    """A run whose step a person settled as happened, and that was rolled back before the sweeper had sent it again."""
    ref = a_run(journal, a_step("charge", compensation="refund", options={"counts": True}))
    assert journal.verdicts.happened(held(journal, ref, "charge"), ONE, who="ann", why="the provider says so").recorded
    assert the(journal, ref, "charge").next_check_at is not None, "its message is to be sent, for the engine to know"
    decision = journal.undo.begin(ref, who="ann", why="the customer changed his mind")
    assert decision is not None
    assert decision.undo is not None
    undo = decision.undo.key
    token = claim(journal, ref, undo)
    assert journal.ends.succeed_undo(ref, undo, token, "charge", ONE).recorded
    return ref


def undone(journal: Journal) -> str:
    ref = settled_and_undone(journal)
    assert the(journal, ref, "charge").status is StepStatus.UNDONE
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED
    return ref


def test_an_undone_step_that_a_person_had_settled_is_not_sent_again(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    undone(journal)
    for day in range(1, 5):
        sweeper.sweep(journal.time() + day * DAY)
    assert engine.sent == []


def test_one_that_an_earlier_release_left_due_is_not_sent_either_and_is_put_right(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = undone(journal)
    journal.db.transaction(lambda conn: conn.execute(sa.update(step).where(step.c.key == "charge").values(next_check_at=1)))
    sweeper.sweep(journal.time() + DAY)
    assert engine.sent == []
    assert the(journal, ref, "charge").next_check_at is None


def test_its_run_is_forgotten_like_any_other(journal: Journal, engine: NotingEngine, clock: Clock) -> None:
    ref = undone(journal)
    age(journal, ref, None, "ended_at", by=8 * DAY)
    assert Sweeper(journal, [engine], retention=7, monotonic=clock).sweep().pruned == 1
    assert journal.reads.run(ref) is None


@pytest.mark.parametrize("status", [StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.UNDONE])
def test_no_look_that_is_left_on_a_step_that_is_over_keeps_its_run_for_ever(journal: Journal, status: StepStatus) -> None:
    ref = a_run(journal, "charge")
    succeed(journal, ref, "charge", completes_run=True)
    age(journal, ref, None, "ended_at", by=8 * DAY)
    left = sa.update(step).where(step.c.ref == ref).values(status=status.value, next_check_at=1)
    journal.db.transaction(lambda conn: conn.execute(left))
    assert journal.retention.forget(journal.time() - 7 * DAY).total == 1
