"""DURABLE_ADAPTER_MODE=off: nothing starts durable; what began durable ends durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
from celery import chain, group

import durable_adapter as durable
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, functions, saga, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.waiting import eventually

Reinstall = Callable[..., AbstractContextManager[Runs]]


@pytest.fixture(scope="module")
def off(world: World) -> Iterator[World]:
    """A world whose worker is switched off by its environment."""
    there = replace(world, queue=f"{world.queue}-off")
    with there.worker(env={"DURABLE_ADAPTER_MODE": "off"}):
        yield there


@pytest.fixture
def switched_off(reinstall: Reinstall, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """This process is switched off by its environment."""
    monkeypatch.setenv("DURABLE_ADAPTER_MODE", "off")
    with reinstall() as shop:
        monkeypatch.delenv("DURABLE_ADAPTER_MODE")
        assert shop.binding.is_off
        yield shop


def test_what_starts_while_off_runs_as_without_the_plugin(off: World, switched_off: Runs, ledger: Ledger, order: str) -> None:
    sent = {"queue": off.queue}
    result = chain(chains.reserve.s(order).set(**sent), chains.ship.s().set(**sent)).apply_async()
    assert result.get(timeout=SOON) == order
    failed = steps.fail.apply_async((order,), **sent)
    with pytest.raises(ValueError, match="out of paper"):
        failed.get(timeout=SOON)
    assert group(steps.charge.s(order).set(**sent)).apply_async().get(timeout=SOON) == [f"ch-{order}"]
    assert switched_off.traces(order) == []
    assert ledger.names(order) == ["reserve", "ship", "fail", "charge"]


def test_a_start_by_id_while_off_publishes_and_keeps_no_record(
    off: World, switched_off: Runs, ledger: Ledger, order: str
) -> None:
    result = durable.start(order, steps.charge.s(order).set(queue=off.queue))
    assert result.get(timeout=SOON) == f"ch-{order}"
    assert switched_off.find(result) is None


def test_what_began_durable_ends_durable_on_workers_that_are_off(off: World, idle_shop: Runs, ledger: Ledger, order: str) -> None:
    sent = {"queue": off.queue}
    members = [saga.charge.s(order).set(**sent), chains.note.s().set(**sent), chains.ship.s().set(**sent)]
    result = chain(*members).apply_async()
    assert result.get(timeout=SOON) == order
    run = idle_shop.settled(idle_shop.of(result), WorkflowStatus.SUCCEEDED)
    # An unmarked member's end is recorded a moment after its successor was sent.
    eventually(lambda: [status for _, _, status in idle_shop.story(run)] == ["succeeded"] * 3, SOON)

    slept = functions.sleeper.apply_async((order,), {"seconds": 0.3}, **sent)
    assert slept.get(timeout=SOON) == [f"ch-{order}", f"packed-{order}"]
    assert (ledger.count(order, "body"), ledger.count(order, "charge")) == (2, 2)


def test_a_message_of_a_run_that_is_over_is_a_memo_hit_on_workers_that_are_off(
    off: World, idle_shop: Runs, ledger: Ledger, order: str
) -> None:
    result = steps.charge.apply_async((order,), queue=off.queue)
    result.get(timeout=SOON)
    run = idle_shop.settled(idle_shop.of(result))
    result.backend.delete(result.backend.get_key_for_task(result.id))
    idle_shop.binding.engine.send_step(run, idle_shop.steps(run)[0], idle_shop.steps(run))
    assert type(result)(result.id).get(timeout=SOON) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]


def test_a_message_without_a_run_stays_without_one_on_workers_that_are_off(
    off: World, idle_shop: Runs, ledger: Ledger, order: str
) -> None:
    result = idle_shop.binding.send_task("tests.celery.shop.steps.charge", (order,), {}, queue=off.queue)
    assert result.get(timeout=SOON) == f"ch-{order}"
    assert idle_shop.find(result) is None
