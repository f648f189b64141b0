"""Messages that a worker threw away unread, and the ends that its parent writes down: no worker is needed for either."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.journal.schema import step
from durable_adapter.model import STAMP, Cause, StepStatus, WorkflowRow, WorkflowStatus, make_stamp
from tests.celery.shop import endings
from tests.celery.world import Runs

FIRST: dict[str, Any] = {}
CAME_BEFORE = [{"redelivered": True}, {"retries": 2}]


def planned(shop: Runs, task: Any, queue: str, *arguments: str) -> tuple[WorkflowRow, str]:
    """A run whose message waits on a queue that nobody serves, and its task's id."""
    result = task.apply_async(arguments, queue=queue)
    return shop.of(result), result.id


def thrown_away(shop: Runs, run: WorkflowRow, task_id: str, said: dict[str, Any]) -> None:
    """A worker's parent hears that its message was thrown away, and writes that down."""
    headers = {"id": task_id, "retries": said.get("retries", 0), "stamps": {STAMP: make_stamp(run.ref, shop.steps(run)[0].key)}}
    delivery = {"routing_key": "celery", "redelivered": said.get("redelivered", False)}
    shop.binding.discards.note_not_taken(SimpleNamespace(headers=headers, delivery_info=delivery), "does not know the task")
    shop.binding.discards.record()


@pytest.mark.parametrize("said", CAME_BEFORE)
def test_a_guarded_step_that_an_earlier_delivery_may_have_run_is_in_doubt(
    idle_shop: Runs, order: str, said: dict[str, Any]
) -> None:
    run, task_id = planned(idle_shop, endings.noted, f"nobody-{order}", order)
    thrown_away(idle_shop, run, task_id, said)
    (row,) = idle_shop.steps(run)
    assert (row.status, row.cause) == (StepStatus.IN_DOUBT, Cause.MESSAGE_LOST)
    assert "an earlier delivery of it may have run" in (row.doubt or "")


@pytest.mark.parametrize("said", CAME_BEFORE)
def test_an_idempotent_one_is_sent_again_and_not_said_to_have_done_nothing(
    idle_shop: Runs, order: str, said: dict[str, Any]
) -> None:
    run, task_id = planned(idle_shop, endings.idempotent, f"nobody-{order}", "effect", order)
    thrown_away(idle_shop, run, task_id, said)
    (row,) = idle_shop.steps(run)
    assert (row.status, row.cause) == (StepStatus.PLANNED, Cause.NOT_TAKEN)
    assert "its body did not run" not in (row.evidence or "")


def test_the_first_delivery_proves_that_nothing_ran(idle_shop: Runs, order: str) -> None:
    run, task_id = planned(idle_shop, endings.noted, f"nobody-{order}", order)
    thrown_away(idle_shop, run, task_id, FIRST)
    (row,) = idle_shop.steps(run)
    assert (row.status, row.cause) == (StepStatus.PLANNED, Cause.NOT_TAKEN)
    assert "its body did not run" in (row.evidence or "")


@pytest.mark.parametrize("task", [endings.noted, endings.idempotent])
def test_a_step_whose_process_was_killed_by_a_revoke_before_it_began_is_never_sent_again(
    idle_shop: Runs, order: str, task: Any
) -> None:
    run, task_id = planned(idle_shop, task, f"nobody-{order}", "effect", order)
    revoked = SimpleNamespace(id=task_id, task=task.name, stamps={STAMP: make_stamp(run.ref, idle_shop.steps(run)[0].key)})
    idle_shop.binding.discards.note_end(revoked, terminated=True, expired=False)
    idle_shop.binding.discards.record()
    (row,) = idle_shop.steps(run)
    assert (row.status, row.cause) == (StepStatus.CANCELLED, Cause.ENDED_BY_ENGINE)
    assert idle_shop.of(task_id).status is WorkflowStatus.CANCELLED


def test_an_end_that_cannot_be_written_is_logged_and_stops_no_other(
    idle_shop: Runs, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [planned(idle_shop, endings.noted, f"nobody-{order}", order) for _ in range(2)]
    requests = [
        SimpleNamespace(id=task_id, task=endings.noted.name, stamps={STAMP: make_stamp(run.ref, idle_shop.steps(run)[0].key)})
        for run, task_id in runs
    ]
    damaged = sa.update(step).where(step.c.ref == runs[0][0].ref)
    idle_shop.journal.db.transaction(lambda conn: conn.execute(damaged.values(status="newer")))
    try:
        for request in requests:
            idle_shop.binding.discards.note_end(request, terminated=False, expired=False)
        idle_shop.binding.discards.record()
        assert not idle_shop.binding.discards
        assert idle_shop.of(runs[1][1]).status is WorkflowStatus.CANCELLED
        assert f"end_not_written task={runs[0][1]}" in caplog.text
    finally:
        idle_shop.binding.discards.clear()
        idle_shop.journal.db.transaction(lambda conn: conn.execute(damaged.values(status="planned")))
