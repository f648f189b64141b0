"""What an RQ worker loads: SQLAlchemy's ORM only for transactional steps, and before it forks where it knows of one."""

from __future__ import annotations

import pytest

from tests.rq.shop import lean
from tests.rq.world import Shop


@pytest.mark.parametrize("worker", ["durable_adapter.rq.Worker", "durable_adapter.rq.SimpleWorker"])
def test_a_worker_that_runs_steps_without_a_session_has_not_loaded_the_orm(busy_shop: Shop, worker: str) -> None:
    step, function = busy_shop.queue.enqueue(lean.protected), busy_shop.queue.enqueue(lean.function)
    with busy_shop.worker(worker):
        for job in (step, function):
            busy_shop.settled(job)
    assert [busy_shop.value(step), busy_shop.value(function)] == [[], []]


def test_a_worker_that_has_imported_a_transactional_step_loads_the_orm_before_it_forks(busy_shop: Shop) -> None:
    job = busy_shop.queue.enqueue(lean.protected)
    with busy_shop.worker("tests.rq.shop.lean_worker.Preloaded"):
        busy_shop.settled(job)
    assert busy_shop.value(job) == ["sqlalchemy.orm"]
