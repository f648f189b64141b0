"""A worker that is told to stop: a function leaves between two steps and finishes elsewhere."""

from __future__ import annotations

import signal
from dataclasses import replace

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import SHUTTING_DOWN, functions, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

#: Seconds that a worker may take to stop: up to Celery 5.6, billiard's children may wait 30 s for an acknowledgement.
LEISURELY = 45.0


def ask_to_stop(worker: RunningProcess, ledger: Ledger, queue: str) -> None:
    """SIGTERM; returns when the worker has told everybody inside it."""
    worker.kill(signal.SIGTERM)
    eventually(lambda: ledger.count(queue, SHUTTING_DOWN), SOON)


def test_a_function_suspends_between_steps_and_finishes_on_another_worker_without_repeating_one(
    idle_shop: Runs, world: World, ledger: Ledger, order: str
) -> None:
    here = replace(world, queue=f"{world.queue}-{order}")
    with here.worker() as first:
        result = functions.stepwise.apply_async((order,), queue=here.queue)
        eventually(lambda: ledger.count(order, "at step 0"), SOON)
        ledger.open("step 0", order)
        eventually(lambda: ledger.count(order, "at step 1"), SOON)
        ask_to_stop(first, ledger, here.queue)
        ledger.open("step 1", order)
        assert first.wait(LEISURELY) == 0
    run = idle_shop.named(f"stepwise-{order}")
    assert idle_shop.story(run) == [
        ("stepwise", "function", "planned"),
        ("gated", "step", "succeeded"),
        ("gated", "step", "succeeded"),
    ]
    assert not result.ready()
    ledger.open("step 2", order)
    with here.worker():
        assert result.get(timeout=SOON) == ["0", "1", "2"]
    idle_shop.settled(run, WorkflowStatus.SUCCEEDED)
    assert [ledger.count(order, f"step {number}") for number in range(3)] == [1, 1, 1]


def test_a_step_that_runs_when_the_worker_is_told_to_stop_ends_there(
    idle_shop: Runs, world: World, ledger: Ledger, order: str
) -> None:
    here = replace(world, queue=f"{world.queue}-{order}")
    with here.worker() as worker:
        result = steps.slow_charge.apply_async((order,), queue=here.queue)
        eventually(lambda: ledger.count(order, "at slow"), SOON)
        ask_to_stop(worker, ledger, here.queue)
        ledger.open("slow", order)
        assert worker.wait(LEISURELY) == 0
    assert result.get(timeout=SOON) == f"ch-{order}"
    run = idle_shop.settled(idle_shop.of(result), WorkflowStatus.SUCCEEDED)
    assert idle_shop.steps(run)[0].status is StepStatus.SUCCEEDED
    assert ledger.count(order, "charge") == 1


def test_a_worker_that_stopped_says_so_and_is_not_taken_for_dead(
    idle_shop: Runs, world: World, ledger: Ledger, order: str
) -> None:
    here = replace(world, queue=f"{world.queue}-{order}")
    with here.worker() as worker:
        steps.charge.apply_async((order,), queue=here.queue).get(timeout=SOON)
        worker.kill(signal.SIGTERM)
        assert worker.wait(LEISURELY) == 0
    rows = [row for row in idle_shop.workers() if here.queue in row.queues]
    assert rows
    assert all(row.stopped_at is not None and row.dead_at is None for row in rows)
