"""What is set reaches the places that it is about: the version of the code, and whether a worker sweeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from durable_adapter.recovery import SweeperThread
from tests.rq.shop import steps
from tests.rq.world import Shop


def test_the_version_of_the_code_is_kept_with_each_run_and_each_worker(make_shop: Callable[..., Shop], order: str) -> None:
    shop = make_shop(code_version="v7")
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    run = shop.of(job)
    row = shop.journal.workers.get(shop.steps(run)[0].worker or "")
    assert row is not None
    assert (run.code_version, row.code_version) == ("v7", "v7")


@pytest.mark.parametrize("sweeps", [True, False])
def test_whether_a_worker_sweeps(make_shop: Callable[..., Shop], sweeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Noted(SweeperThread):
        def __init__(self, sweeper: Any, **given: Any) -> None:
            made.append(given)
            super().__init__(sweeper, **given)

    monkeypatch.setattr("durable_adapter.rq.worker.SweeperThread", Noted)
    make_shop(sweeper=sweeps, sweep_every=0.5).work()
    assert [given["every"] for given in made] == [0.5 if sweeps else None]
