"""The same tasks on other pools, on children that are spawned instead of forked, and on a journal in SQLite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from celery import VERSION, chain

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, functions, habits, saga, sql, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.waiting import eventually

SPAWN = pytest.param(
    "prefork", "spawn", marks=pytest.mark.skipif(VERSION < (5, 7), reason="worker_pool_start_method came with Celery 5.7")
)


@pytest.mark.parametrize(("pool", "start_method"), [("solo", "fork"), ("threads", "fork"), SPAWN])
def test_chains_functions_rollbacks_and_held_steps_work_on_every_pool(
    idle_shop: Runs, world: World, ledger: Ledger, order: str, pool: str, start_method: str
) -> None:
    here = replace(world, queue=f"{world.queue}-{pool}-{start_method}-{order}")
    settings = {"celery": {"worker_pool_start_method": start_method} if start_method == "spawn" else {}}
    with here.worker(pool=pool, concurrency=2, settings=settings):
        tell_the_stories(idle_shop, ledger, order, queue=here.queue)


def tell_the_stories(shop: Runs, ledger: Ledger, order: str, **options: Any) -> None:
    """One of each, when the pool is up."""
    steps.charge.apply_async((f"{order}-warm",), **options).get(timeout=2 * SOON)
    chained = chain(chains.reserve.s(order), chains.note.s(), chains.ship.s())
    for member in chained.tasks:
        member.set(**options)
    assert chained.apply_async().get(timeout=SOON) == order
    assert ledger.names(order) == ["reserve", "note", "ship"]

    tried = steps.keyed_charge.apply_async((f"{order}-k",), {"failures": 1}, **options)
    assert tried.get(timeout=SOON) == f"ch-{order}-k"
    assert ledger.count(f"{order}-k", "charge") == 2

    result = functions.sleeper.apply_async((f"{order}-f",), {"seconds": 0.2}, **options)
    assert result.get(timeout=SOON) == [f"ch-{order}-f", f"packed-{order}-f"]
    assert (ledger.count(f"{order}-f", "body"), ledger.count(f"{order}-f", "charge")) == (2, 1)

    booked = sql.book.apply_async((f"{order}-t",), **options)
    assert booked.get(timeout=SOON) == "booked"

    held = habits.autoretries_protected.apply_async((f"{order}-h",), **options)
    shop.step_is(eventually(lambda: shop.find(held), SOON), "autoretries_protected", StepStatus.HELD)
    assert ledger.names(f"{order}-h") == ["attempt"]


def test_a_journal_in_sqlite_serves_a_prefork_worker(
    sqlite_world: World,
    reinstall: Callable[..., AbstractContextManager[Runs]],
    ledger: Ledger,
    order: str,
) -> None:
    with (
        reinstall(journal=sqlite_world.journal) as shop,
        sqlite_world.worker(concurrency=2),
    ):
        tell_the_stories(shop, ledger, order, queue=sqlite_world.queue)
        undone = chain(saga.charge.s(f"{order}-u"), saga.decline.s())
        for member in undone.tasks:
            member.set(queue=sqlite_world.queue)
        run = shop.of(undone.apply_async())
        assert eventually(lambda: ledger.names(f"{order}-u") == ["charge", "decline", "refund"], SOON)
        shop.settled(run, WorkflowStatus.COMPENSATED)
