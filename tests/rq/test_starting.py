"""Workflows under an id that the business knows, and results long after RQ forgot them (P5)."""

from __future__ import annotations

import pytest

import durable_adapter.rq as durable_rq
from durable_adapter.errors import DeclarationError, UnknownWorkflow
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, steps
from tests.rq.world import Shop, forget


def test_a_workflow_is_found_by_its_id(shop: Shop, ledger: Ledger, order: str) -> None:
    job = durable_rq.start(order, shop.queue, steps.charge, order)
    shop.work()
    found = durable_rq.handle(order)
    assert found.id == order
    assert found.status is WorkflowStatus.SUCCEEDED
    assert found.job().id == job.id
    assert [step.name for step in found.steps()] == ["tests.rq.shop.steps.charge"]


def test_the_same_id_twice_is_one_run(shop: Shop, ledger: Ledger, order: str) -> None:
    first = durable_rq.start(order, shop.queue, steps.charge, order)
    again = durable_rq.start(order, shop.queue, steps.charge, order=order)
    assert again.id == first.id
    assert shop.queue.count == 1
    shop.work()
    assert durable_rq.start(order, shop.queue, steps.charge, order).id == first.id
    assert not shop.work()
    assert ledger.names(order) == ["charge"]


def test_a_function_can_be_started_under_an_id(shop: Shop, ledger: Ledger, order: str) -> None:
    job = durable_rq.start(order, shop.queue, functions.in_place, order)
    shop.work()
    assert durable_rq.result_of(job) == [f"ch-{order}", f"bk-{order}", f"ml-{order}"]


@pytest.mark.parametrize("func", [steps.unmarked, "tests.rq.shop.late.charge"], ids=["unmarked", "not imported here"])
def test_what_is_not_known_to_be_durable_cannot_be_started_under_an_id(shop: Shop, order: str, func: object) -> None:
    forget("late")
    with pytest.raises(DeclarationError, match="Nothing was sent"):
        durable_rq.start(order, shop.queue, func, order)
    assert shop.queue.count == 0


def test_an_id_that_nobody_started_is_unknown(shop: Shop, order: str) -> None:
    with pytest.raises(UnknownWorkflow):
        durable_rq.handle(order)


def test_results_outlive_rqs_own(shop: Shop, ledger: Ledger, order: str) -> None:
    job = durable_rq.start(order, shop.queue, steps.charge, order, result_ttl=0)
    shop.work()
    assert not shop.redis.exists(job.key)
    assert durable_rq.result_of(job) == f"ch-{order}"
    again = durable_rq.handle(order).job()
    assert again.id == job.id
    assert durable_rq.start(order, shop.queue, steps.charge, order, result_ttl=0).id == job.id
    assert not shop.work()


def test_the_recorded_error_is_raised(shop: Shop, order: str) -> None:
    job = shop.queue.enqueue(steps.fail, order)
    with pytest.raises(UnknownWorkflow, match="not ended"):
        durable_rq.result_of(job)
    shop.work()
    with pytest.raises(ValueError, match="out of paper"):
        durable_rq.result_of(job)


def test_a_job_behind_a_handle_is_a_new_one_each_time(shop: Shop, ledger: Ledger, order: str) -> None:
    """Only a second start stands for the first, with all that was enqueued behind that."""
    durable_rq.start(order, shop.queue, steps.charge, order)
    shop.work()
    behind = [shop.queue.enqueue(steps.mail, order, depends_on=durable_rq.handle(order).job()) for _ in range(2)]
    shop.work()
    assert len({job.id for job in behind}) == 2
    assert ledger.names(order) == ["charge", "mail", "mail"]


def test_a_second_start_sends_what_the_first_did_not_come_to_send(shop: Shop, ledger: Ledger, order: str) -> None:
    def send(mails: int) -> None:
        charge = durable_rq.start(order, shop.queue, steps.charge, order)
        for _ in range(mails):
            shop.queue.enqueue(steps.mail, order, depends_on=charge)

    send(1)
    send(2)
    send(2)
    shop.work()
    assert ledger.names(order) == ["charge", "mail", "mail"]
