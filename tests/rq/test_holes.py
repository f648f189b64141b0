"""Ways in which marked jobs were once run twice, or without anybody's knowledge: each closed, each played again."""

from __future__ import annotations

import sys
import types

import pytest
import rq
from rq import Queue, Retry
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.errors import JournalUnreachable
from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.rq import hooks, registry
from tests.celery.ledger import Ledger
from tests.rq.shop import legacy, sql, steps
from tests.rq.world import InProcess, Shop
from tests.rq_versions import RETURNED_RETRY


@pytest.mark.parametrize("forgotten", [False, True], ids=["in Redis", "forgotten by Redis"])
def test_a_chain_that_is_started_twice_is_sent_once_to_its_last_job(
    shop: Shop, ledger: Ledger, order: str, forgotten: bool
) -> None:
    def send() -> list[str]:
        charge = durable_rq.start(order, shop.queue, steps.charge, order)
        book = shop.queue.enqueue(steps.book, order, depends_on=charge)
        return [charge.id, book.id, shop.queue.enqueue(steps.mail, order, depends_on=book).id]

    first = send()
    assert send() == first
    shop.work()
    if forgotten:
        shop.flush()
    assert send() == first
    shop.work()
    assert ledger.names(order) == ["charge", "book", "mail"]


def test_what_a_worker_without_the_plugin_ran_is_taken_over_while_its_result_is_known(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    durable_rq.uninstall()
    rq.SimpleWorker([shop.queue], connection=shop.redis).work(burst=True, logging_level="ERROR")
    hooks.install(shop.binding)
    shop.sweep(120)
    assert shop.story(job) == [("charge", "succeeded")]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"]


def test_a_worker_that_has_not_seen_a_mark_does_not_run_the_step(shop: Shop, ledger: Ledger, order: str) -> None:
    name = "tests.rq.shop.legacy.charge"
    durable_rq.mark(name, idempotent=True)
    job = shop.queue.enqueue(legacy.charge, order, retry=Retry(max=1))
    seen = registry.NAMED.pop(name)
    shop.binding.wrapping.undo()
    shop.binding.registry.steps.clear()
    shop.binding.registry._looked.clear()
    shop.work()
    assert ledger.names(order) == []
    assert [status for _, status in shop.story(job)] == [StepStatus.WAITING]
    registry.NAMED[name] = seen
    shop.binding.registry._looked.clear()
    shop.sweep_and_work(120)
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_step_whose_function_a_worker_cannot_import_waits_for_another(
    shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    """Workers are deployed after what enqueues: nothing ran, so nothing is in doubt."""
    name = "tests.rq.shop.arriving.charge"
    durable_rq.mark(name, idempotent=idempotent)
    job = shop.queue.enqueue(name, order)
    behind = shop.queue.enqueue(steps.book, order, depends_on=job)
    shop.work()
    shop.sweep_and_work(70, 140)
    assert [status for _, status in shop.story(job)] == [StepStatus.WAITING, StepStatus.PLANNED]
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    module = types.ModuleType("tests.rq.shop.arriving")
    vars(module)["charge"] = legacy.charge
    monkeypatch.setitem(sys.modules, module.__name__, module)
    shop.sweep_and_work(700, 2000, 5000)
    assert ledger.names(order) == ["charge", "book"]
    assert shop.status(behind) is WorkflowStatus.SUCCEEDED


def test_an_unmarked_member_runs_while_the_journal_is_away(
    shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    job = shop.queue.enqueue(steps.unmarked, order, depends_on=charge)
    shop.work(jobs=1)

    def away(*_: object, **__: object) -> None:
        raise JournalUnreachable("the journal is away")

    with monkeypatch.context() as patch:
        patch.setattr(shop.journal.claims, "get", away)
        patch.setattr(shop.journal.members, "record_unmarked", away)
        shop.work()
    assert ledger.names(order) == ["charge", "unmarked"]
    assert shop.rq_status(job) is JobStatus.FINISHED
    shop.sweep(70)
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED


def test_a_job_of_which_nobody_can_say_what_it_is_is_put_aside_and_not_failed(
    shop: Shop, ledger: Ledger, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark is not known here, the journal is away, and this worker is told to stop."""
    name = "tests.rq.shop.legacy.charge"
    durable_rq.mark(name)
    job = shop.queue.enqueue(name, order)
    seen = registry.NAMED.pop(name)
    shop.binding.wrapping.undo()
    shop.binding.registry.steps.clear()
    shop.binding.registry._looked.clear()

    def away(*_: object, **__: object) -> None:
        raise JournalUnreachable("the journal is away")

    class Stopping(InProcess):
        def perform_job(self, *args: object, **kwargs: object) -> object:
            shop.binding.host.is_stopping = lambda: True
            return super().perform_job(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shop.journal.claims, "get", away)
        patch.setattr(shop.journal.members, "not_begun", away)
        shop.work(Stopping)
    assert ledger.names(order) == []
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    registry.NAMED[name] = seen
    shop.sweep_and_work(70, 140)
    assert ledger.names(order) == ["charge"]


@RETURNED_RETRY
def test_what_rq_counts_for_our_putting_aside_is_not_taken_from_a_bodys_own_retry(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    shop.redis.delete(charge.key)
    job = shop.queue.enqueue(steps.polls, order, 2, 2, depends_on=charge)
    shop.work()
    for moment in (70, 200):
        shop.sweep(moment)
        shop.work()
    assert ledger.names(order) == ["charge", "poll", "poll", "poll"]
    assert shop.value(job) == "done"


def test_a_member_that_a_transactional_step_adds_to_a_run_that_failed_is_cancelled(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    fail = shop.queue.enqueue(steps.fail, order)
    shop.work()
    shop.queue.enqueue(sql.adds_to_a_run, order, shop.name, fail.id)
    shop.work()
    added = shop.steps(fail)[1]
    assert added.status is StepStatus.CANCELLED
    assert Job.fetch(added.task_id or "", connection=shop.redis).get_status() == JobStatus.CANCELED


class RunsByItself(Job):
    """A job class of the user's own that does not call `Job._execute`."""

    def _execute(self) -> object:
        steps.ledger().record("by itself", self.args[0])
        return self.func(*self.args, **self.kwargs)


class HandsOn(Job):
    """One that does."""

    def _execute(self) -> object:
        return super()._execute()


@pytest.mark.parametrize("published", [True, False], ids=["its publisher has the plugin", "its publisher has not"])
def test_a_job_class_that_runs_jobs_by_itself_is_hooked(shop: Shop, ledger: Ledger, order: str, published: bool) -> None:
    before = len(shop.binding.patches)
    if not published:
        durable_rq.uninstall()
    queue = Queue(shop.name, connection=shop.redis, job_class=RunsByItself)
    job = queue.enqueue(steps.charge, order)
    if not published:
        hooks.install(shop.binding)
    shop.work(job_class=RunsByItself)
    assert ledger.names(order) == ["by itself", "charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    again = Job.fetch(job.id, connection=shop.redis)
    shop.binding.here.put_back(again)
    shop.work(job_class=RunsByItself)
    assert ledger.names(order) == ["by itself", "charge"]
    assert shop.binding.patches[before:][0].where.endswith("RunsByItself._execute")
    durable_rq.uninstall()
    assert "hooked" not in RunsByItself._execute.__qualname__
    assert not hasattr(RunsByItself._execute, "_ours")
    hooks.install(shop.binding)


def test_one_that_hands_on_is_left_as_it_is(shop: Shop, order: str) -> None:
    own = HandsOn.__dict__["_execute"]
    Queue(shop.name, connection=shop.redis, job_class=HandsOn).enqueue(steps.charge, order)
    assert HandsOn.__dict__["_execute"] is own
