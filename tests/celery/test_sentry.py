"""sentry-sdk wraps the same places as we do, in either order: both go on working."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from celery import chain

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.sentry import TOLD
from tests.celery.shop import chains, functions, habits, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.waiting import eventually


@pytest.mark.parametrize("order_of_installation", ["before", "after"])
def test_sentry_hears_of_errors_and_tasks_stay_durable(
    idle_shop: Runs, world: World, tmp_path: Path, order: str, order_of_installation: str
) -> None:
    here = replace(world, directory=tmp_path, queue=f"{world.queue}-{order}")
    ledger = Ledger(tmp_path)
    sent = {"queue": here.queue}
    with here.worker(app=f"tests.celery.sentry.{order_of_installation}"):
        result = chain(chains.reserve.s(order).set(**sent), chains.ship.s().set(**sent)).apply_async()
        assert result.get(timeout=SOON) == order
        run = idle_shop.settled(idle_shop.of(result), WorkflowStatus.SUCCEEDED)

        result.parent.backend.delete(result.parent.backend.get_key_for_task(result.parent.id))
        idle_shop.binding.engine.send_step(run, idle_shop.steps(run)[0], idle_shop.steps(run))
        assert type(result)(result.parent.id).get(timeout=SOON) == order
        assert (ledger.count(order, "reserve"), ledger.count(order, "ship")) == (1, 1)

        slept = functions.mails_once.apply_async((order,), **sent)
        assert slept.get(timeout=SOON) == "mailed"
        eventually(lambda: ledger.count(order, "mail"), SOON)

        context = habits.in_context.apply_async((order,), **sent)
        assert context.get(timeout=SOON) == "done"
        assert idle_shop.of(context).status is WorkflowStatus.SUCCEEDED

        failed = steps.fail.apply_async((order, f"out of {order}"), **sent)
        with pytest.raises(ValueError, match=f"out of {order}"):
            failed.get(timeout=SOON)
        eventually(lambda: [e["value"] for e in ledger.entries(TOLD, "error")] == [f"out of {order}"], SOON)

        held = habits.retries_protected.apply_async((f"{order}-h",), **sent)
        idle_shop.step_is(eventually(lambda: idle_shop.find(held), SOON), "retries_protected", StepStatus.HELD)
        assert ledger.count(f"{order}-h", "attempt") == 1

        names = {entry["task"].rpartition(".")[2] for entry in ledger.entries(TOLD, "transaction")}
        assert {"reserve", "ship", "mails_once", "mail", "in_context", "fail"} <= names
    assert [e["value"] for e in ledger.entries(TOLD, "error")] == [f"out of {order}"]
