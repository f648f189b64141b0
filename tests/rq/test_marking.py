"""What is marked, and how: decorators of the user's own around a mark, and functions that nobody may edit."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

import durable_adapter.rq as durable_rq
from durable_adapter.model import WorkflowStatus
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import decorated, functions, legacy
from tests.rq.world import Shop, forget
from tests.rq_versions import WAITING

NAME = "tests.rq.shop.legacy.charge"


@pytest.mark.parametrize(
    "function",
    [
        decorated.step_with_one_above,
        decorated.step_with_one_below,
        decorated.workflow_with_one_above,
        decorated.workflow_with_one_below,
    ],
    ids=lambda function: function.__name__,
)
def test_a_decorator_of_the_users_own_runs_on_a_worker(
    shop: Shop, ledger: Ledger, order: str, function: Callable[[str], str]
) -> None:
    job = shop.queue.enqueue(function, order)
    shop.work()
    assert ledger.names(order) == ["charge for shop"]
    assert shop.value(job) == f"ch-{order}"
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_and_where_a_workflow_function_calls_the_step(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(decorated.calls_both, order)
    shop.work()
    assert ledger.names(order) == ["charge for shop"] * 2
    assert [s.name.rpartition(".")[2] for s in shop.steps(job)[1:]] == ["step_with_one_above", "step_with_one_below"]


@WAITING
def test_a_function_that_is_marked_by_name_is_a_step_where_a_workflow_function_calls_it(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    durable_rq.mark(NAME)
    job = shop.queue.enqueue(functions.charges_as_ever, order)
    shop.work()
    shop.sweep_and_work(3601)
    assert ledger.names(order) == ["charge"]
    assert shop.value(job) == f"ch-{order}"
    assert (f"{NAME}", "succeeded") in [(s.name, s.status) for s in shop.steps(job)]


def test_so_is_one_whose_module_is_loaded_later(shop: Shop, ledger: Ledger, order: str) -> None:
    forget("untouched")
    durable_rq.mark("tests.rq.shop.untouched.charge", idempotent=True)
    job = shop.queue.enqueue(functions.charges_untouched, order)
    shop.work()
    assert ledger.names(order) == ["charge"]
    assert [s.name for s in shop.steps(job)[1:]] == ["tests.rq.shop.untouched.charge"]
    module = sys.modules["tests.rq.shop.untouched"]
    assert "exec_module" not in vars(module.__loader__)


def test_it_is_itself_elsewhere_and_put_back_by_uninstall(shop: Shop, ledger: Ledger, order: str) -> None:
    before = legacy.charge
    durable_rq.mark(NAME)
    assert legacy.charge is not before
    assert legacy.charge(order) == f"ch-{order}"
    assert shop.count_runs() == 0
    durable_rq.uninstall()
    assert legacy.charge is before
    hooks.install(shop.binding)
    assert legacy.charge is not before
    durable_rq.uninstall()
    assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("durable_adapter")]
    hooks.install(shop.binding)


def test_what_somebody_else_put_there_since_stays(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "charge", legacy.charge)  # to be put back in the end
    durable_rq.mark(NAME)

    def other(order: str) -> str:
        return order

    legacy.charge = other
    durable_rq.uninstall()
    assert legacy.charge is other
    hooks.install(shop.binding)


def test_a_mark_that_comes_after_the_first_look_counts(shop: Shop, ledger: Ledger, order: str) -> None:
    shop.queue.enqueue(legacy.charge, order)
    assert shop.count_runs() == 0
    durable_rq.mark(NAME)
    job = shop.queue.enqueue(NAME, order)
    assert shop.status(job) is WorkflowStatus.RUNNING
    shop.work()
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"] * 2
