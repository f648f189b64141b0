"""Jobs that depend on each other: one run, which grows job by job."""

from __future__ import annotations

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.job import Dependency, Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import STAMP, StepStatus, WorkflowStatus
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import chains, functions, steps
from tests.rq.world import Shop
from tests.rq_versions import WAITING, since


def test_jobs_that_depend_on_each_other_are_one_run(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=book)
    assert shop.of(mail).ref == shop.of(charge).ref
    assert shop.story(charge) == [("charge", "planned"), ("book", "planned"), ("mail", "planned")]
    shop.work()
    assert ledger.names(order) == ["charge", "book", "mail"]
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED
    assert shop.events(charge) == []


def test_a_dependency_may_be_named_by_its_id(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=charge.id)
    assert shop.of(book).ref == shop.of(charge).ref
    shop.work()
    assert ledger.names(order) == ["charge", "book"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unmarked_job_may_stand_in_any_place(shop: Shop, ledger: Ledger, order: str, place: int) -> None:
    functions = [steps.charge, steps.book, steps.mail]
    functions[place] = steps.unmarked
    jobs: list[Job] = []
    for function in functions:
        jobs.append(shop.queue.enqueue(function, order, depends_on=jobs[-1:] or None))
    shop.work()
    assert len(ledger.names(order)) == 3
    assert [shop.rq_status(job) for job in jobs] == [JobStatus.FINISHED] * 3
    assert shop.status(jobs[-1] if place == 0 else jobs[0]) is WorkflowStatus.SUCCEEDED
    if place:
        names = [name for name, status in shop.story(jobs[0]) if status == "succeeded"]
        assert names == [function.__name__ for function in functions]


def test_an_unmarked_job_that_fails_cancels_what_comes_after_it(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    fails = shop.queue.enqueue(steps.unmarked_fails, order, depends_on=charge)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=fails)
    shop.work()
    assert shop.status(charge) is WorkflowStatus.FAILED
    assert shop.story(charge) == [("charge", "succeeded"), ("unmarked_fails", "failed"), ("mail", "cancelled")]
    assert shop.rq_status(mail) is JobStatus.CANCELED


def test_jobs_behind_one_that_fails_for_good_are_cancelled(shop: Shop, ledger: Ledger, order: str) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=fail)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=book)
    shop.work()
    assert ledger.names(order) == ["fail"]
    assert [shop.rq_status(job) for job in (fail, book, mail)] == [JobStatus.FAILED, JobStatus.CANCELED, JobStatus.CANCELED]
    assert shop.status(fail) is WorkflowStatus.FAILED
    assert shop.queue.deferred_job_registry.count == 0


def test_a_worker_that_died_before_it_cancelled_them_is_made_good(
    shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=fail)
    with monkeypatch.context() as there:
        there.setattr(shop.binding.engine, "withdraw", lambda _steps: None)
        shop.work()
    assert shop.rq_status(book) is JobStatus.DEFERRED
    shop.sweep(70)
    assert shop.rq_status(book) is JobStatus.CANCELED


def test_a_dependency_that_allows_failure_runs_after_a_failure(shop: Shop, ledger: Ledger, order: str) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    always = shop.queue.enqueue(steps.mail, order, depends_on=Dependency(jobs=[fail], allow_failure=True))
    never = shop.queue.enqueue(steps.book, order, depends_on=fail)
    shop.work()
    assert ledger.names(order) == ["fail", "mail"]
    assert shop.status(fail) is WorkflowStatus.FAILED
    assert shop.status(always) is WorkflowStatus.SUCCEEDED
    assert shop.rq_status(never) is JobStatus.CANCELED


def test_a_dependency_that_allows_failure_runs_after_a_success_too(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    always = shop.queue.enqueue(steps.mail, order, depends_on=Dependency(jobs=[charge], allow_failure=True))
    shop.sweep(70)
    shop.work()
    assert ledger.names(order) == ["charge", "mail"]
    assert shop.status(always) is WorkflowStatus.SUCCEEDED


def test_several_parents_of_one_run_are_all_waited_for(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    sides = [shop.queue.enqueue(steps.book, order, depends_on=charge) for _ in range(2)]
    end = shop.queue.enqueue(steps.mail, order, depends_on=sides)
    shop.work()
    assert ledger.names(order) == ["charge", "book", "book", "mail"]
    assert shop.of(end).ref == shop.of(charge).ref
    assert shop.status(end) is WorkflowStatus.SUCCEEDED


def test_several_parents_of_runs_of_their_own_are_all_waited_for(shop: Shop, ledger: Ledger, order: str) -> None:
    parents = [shop.queue.enqueue(steps.charge, order) for _ in range(3)]
    end = shop.queue.enqueue(steps.mail, order, depends_on=parents)
    assert shop.of(end).ref == shop.of(parents[0]).ref
    shop.work()
    assert ledger.names(order) == ["charge"] * 3 + ["mail"]
    assert {shop.status(job) for job in (*parents, end)} == {WorkflowStatus.SUCCEEDED}


@pytest.mark.parametrize("failing", [0, 1])
def test_a_job_is_cancelled_whichever_of_its_parents_fails(shop: Shop, ledger: Ledger, order: str, failing: int) -> None:
    functions = [steps.charge, steps.charge]
    functions[failing] = steps.fail  # type: ignore[call-overload]
    parents = [shop.queue.enqueue(function, order) for function in functions]
    end = shop.queue.enqueue(steps.mail, order, depends_on=parents)
    shop.work()
    shop.sweep(70)
    assert shop.rq_status(end) is JobStatus.CANCELED
    assert shop.status(end) is WorkflowStatus.FAILED
    assert shop.status(parents[failing]) is WorkflowStatus.FAILED
    assert ledger.count(order, "mail") == 0


def test_a_job_that_waits_for_a_parent_in_doubt_elsewhere_is_left_waiting(shop: Shop, ledger: Ledger, order: str) -> None:
    parents = [shop.queue.enqueue(steps.charge, order), shop.queue.enqueue(steps.fail, order, retry=Retry(max=1))]
    end = shop.queue.enqueue(steps.mail, order, depends_on=parents)
    shop.work()
    shop.sweep_and_work(70, 700)
    assert shop.steps(parents[1])[0].status is StepStatus.HELD
    assert shop.rq_status(end) is JobStatus.DEFERRED
    assert shop.status(end) is WorkflowStatus.RUNNING


def test_a_job_that_joins_a_finished_run_makes_it_go_on(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    shop.work()
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    assert shop.status(charge) is WorkflowStatus.RUNNING
    shop.work()
    assert shop.of(book).ref == shop.of(charge).ref
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge", "book"]


def test_a_job_that_joins_a_failed_run_is_cancelled_and_not_deferred_for_ever(shop: Shop, ledger: Ledger, order: str) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    shop.work()
    book = shop.queue.enqueue(steps.book, order, depends_on=fail)
    jobs = [book, *shop.queue.enqueue_many([Queue.prepare_data(steps.mail, (order,), depends_on=fail)])]
    if since("2.0"):
        from rq.group import Group

        group = Group(connection=shop.redis)
        jobs += group.enqueue_many(shop.queue, [Queue.prepare_data(steps.mail, (order,), depends_on=fail)])
    assert {shop.rq_status(job) for job in jobs} == {JobStatus.CANCELED}
    assert shop.queue.deferred_job_registry.count == 0
    assert not shop.work()
    assert ledger.names(order) == ["fail"]


def test_jobs_of_one_call_may_depend_on_jobs_before_it(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    many = shop.queue.enqueue_many([Queue.prepare_data(f, (order,), depends_on=charge) for f in (steps.book, steps.mail)])
    shop.work()
    assert sorted(ledger.names(order)) == ["book", "charge", "mail"]
    assert {shop.of(job).ref for job in many} == {shop.of(charge).ref}
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED


def test_a_step_reads_the_recorded_result_of_one_before_it(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order, result_ttl=0)
    after = shop.queue.enqueue(chains.after, order, "charge", "tests.rq.shop.steps.charge", depends_on=charge)
    shop.work()
    assert shop.value(after) == [f"ch-{order}"] * 2


def test_a_chain_from_a_publisher_without_the_plugin_is_durable_job_by_job(shop: Shop, ledger: Ledger, order: str) -> None:
    durable_rq.uninstall()
    charge = shop.queue.enqueue(steps.charge, order)
    book = shop.queue.enqueue(steps.book, order, depends_on=charge)
    assert STAMP not in charge.meta
    hooks.install(shop.binding)
    shop.work()
    assert ledger.names(order) == ["charge", "book"]
    assert [shop.status(job) for job in (charge, book)] == [WorkflowStatus.SUCCEEDED] * 2


def test_a_chain_on_two_queues_is_one_run(shop: Shop, ledger: Ledger, order: str, redis_url: str) -> None:
    other = Queue(f"{shop.name}-other", connection=Redis.from_url(redis_url))
    charge = shop.queue.enqueue(steps.charge, order)
    book = other.enqueue(steps.book, order, depends_on=charge)
    shop.work(queues=[shop.name, other.name])
    assert shop.status(book) is WorkflowStatus.SUCCEEDED
    assert [step.queue for step in shop.steps(book)] == [shop.name, other.name]


@WAITING
def test_a_job_behind_a_workflow_function_is_a_run_of_its_own(shop: Shop, ledger: Ledger, order: str) -> None:
    function = shop.queue.enqueue(functions.forgets_what_it_dispatched, order, shop.name)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=function)
    shop.sweep(70)
    shop.work()
    assert ledger.names(order) == ["charge", "mail"]
    assert {shop.status(job) for job in (function, mail)} == {WorkflowStatus.SUCCEEDED}


def test_a_job_behind_a_workflow_function_that_fails_is_cancelled(shop: Shop, ledger: Ledger, order: str) -> None:
    function = shop.queue.enqueue(functions.fails_once, order)
    mail = shop.queue.enqueue(steps.mail, order, depends_on=function)
    shop.work()
    shop.sweep(70)
    assert shop.rq_status(mail) is JobStatus.CANCELED
    assert {shop.status(job) for job in (function, mail)} == {WorkflowStatus.FAILED}


def test_a_job_behind_parents_of_several_runs_waits_for_all_of_them_after_a_loss(shop: Shop, ledger: Ledger, order: str) -> None:
    slow = Queue(f"{shop.name}-slow", connection=shop.redis)
    both = [shop.name, slow.name]
    shop.queue.enqueue(steps.mail, order, depends_on=[shop.queue.enqueue(steps.charge, order), slow.enqueue(steps.book, order)])
    shop.work()
    shop.flush()
    for moment in (70, 1000):
        shop.sweep(moment, queues=both)
        shop.work()
    assert ledger.names(order) == ["charge"]
    for moment in (2000, 10_000, 20_000):
        shop.sweep(moment, queues=both)
        shop.work(queues=both)
    assert ledger.names(order) == ["charge", "book", "mail"]
