"""Marking: above and below every decorator, before there is an app and after it was installed."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path

import pytest

from durable_adapter.model import Safety, WorkflowStatus
from tests.celery import ledger as ledger_module
from tests.celery.ledger import Ledger
from tests.celery.shop import SETTINGS, declared
from tests.celery.world import ROOT, SOON, Runs, World
from tests.servers.fixtures import StartProcess


@pytest.mark.parametrize(
    "name",
    [
        "above_task",
        "below_task",
        "above_task_with_options",
        "below_task_with_options",
        "above_shared",
        "below_shared",
        "named",
    ],
)
def test_a_task_is_durable_however_it_is_marked(shop: Runs, ledger: Ledger, order: str, name: str) -> None:
    result = getattr(declared, name).delay(order)
    assert result.get(timeout=SOON) == "done"
    (step,) = shop.steps(shop.settled(shop.of(result), WorkflowStatus.SUCCEEDED))
    assert step.safety is (Safety.IDEMPOTENT if "options" in name else Safety.PROTECTED)
    assert ledger.names(order) == ["run"]


@pytest.mark.parametrize("place", ["above", "below"])
def test_a_workflow_function_is_one_however_it_is_marked(shop: Runs, ledger: Ledger, order: str, place: str) -> None:
    result = getattr(declared, f"workflow_{place}").delay(order)
    assert result.get(timeout=SOON) == "done"
    run = shop.named(f"{place}-{order}")
    assert shop.story(run)[1] == (f"{place}_task", "step", "succeeded")
    assert ledger.names(order) == ["run"]


def test_tasks_imported_before_the_app_and_found_after_install_are_all_durable(
    idle_shop: Runs, world: World, ledger: Ledger, order: str, tmp_path: Path, start_process: StartProcess
) -> None:
    late = World(world.redis, world.journal, world.directory)
    env = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        SETTINGS: json.dumps(late.settings()),
        ledger_module.DIRECTORY: str(world.directory),
    }
    with late.worker(app="tests.celery.late.app"):
        producer = start_process([sys.executable, "-m", "tests.celery.late.produce", order], env=env, cwd=ROOT)
        assert producer.wait() == 0, producer.tail()
        task_id, value = producer.output.split()
        assert value == order
        run = idle_shop.settled(idle_shop.of(task_id), WorkflowStatus.SUCCEEDED)
        assert idle_shop.story(run) == [
            (name, "step", "succeeded") for name in ("above_early", "below_early", "above_discovered", "below_discovered")
        ]
    assert ledger.names(order) == ["run"] * 4


def test_a_marked_task_looks_like_itself() -> None:
    """To an editor, to `inspect` and to Celery's check of arguments."""
    assert list(inspect.signature(declared.below_task.run).parameters) == ["order"]
    assert declared.below_task.name == "tests.celery.shop.declared.below_task"
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'order'"):
        declared.below_task.delay()
