"""Putting the plugin in and taking it out: RQ is then as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

import durable_adapter.rq as durable_rq
from durable_adapter.errors import DeclarationError, InstallConflict, NotInstalled
from durable_adapter.model import STAMP, StepStatus, WorkflowStatus
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, steps
from tests.rq.world import FAST, InProcess, Shop, forget, spec
from tests.rq_versions import REPEATS, WAITING, since

PATCHED: list[type] = [Job, Queue]
if since("2.0"):
    from rq.group import Group

    PATCHED.append(Group)


def test_installing_twice_alike_is_nothing_new(shop: Shop) -> None:
    before = [dict(vars(owner)) for owner in PATCHED]
    assert durable_rq.install(journal=shop.journal_url, sweeper=False, **FAST) is shop.binding
    assert durable_rq.install() is shop.binding
    assert [dict(vars(owner)) for owner in PATCHED] == before


def test_installing_twice_differently_is_an_error(shop: Shop) -> None:
    with pytest.raises(InstallConflict, match="another namespace"):
        durable_rq.install(journal=shop.journal_url, sweeper=False, **FAST, namespace="other")
    assert durable_rq.installed() is shop.binding


def test_uninstalling_puts_everything_back(make_shop: Callable[..., Shop]) -> None:
    durable_rq.uninstall()
    before = [dict(vars(owner)) for owner in PATCHED]
    shop = make_shop()
    patched = [f"{owner.__module__}.{owner.__name__}.{n}" for owner in PATCHED for n, v in vars(owner).items()
               if dict(before[PATCHED.index(owner)])[n] is not v]  # fmt: skip
    assert sorted(patched) == sorted(patch.where for patch in shop.binding.patches if patch.where.startswith("rq."))
    durable_rq.uninstall()
    assert [dict(vars(owner)) for owner in PATCHED] == before
    with pytest.raises(NotInstalled):
        durable_rq.installed()


def test_a_marked_job_without_the_plugin_is_as_it_always_was(shop: Shop, ledger: Ledger, order: str) -> None:
    durable_rq.uninstall()
    job = shop.queue.enqueue(steps.charge, order)
    from rq import SimpleWorker

    class Plain(SimpleWorker):
        pubsub_thread = None

        def subscribe(self) -> None: ...

        def _install_signal_handlers(self) -> None: ...

    shop.work(Plain)
    assert job.meta == {}
    assert shop.value(job) == f"ch-{order}"
    hooks.install(shop.binding)
    assert shop.count_runs() == 0


def test_off_starts_nothing_and_finishes_what_began(make_shop: Callable[..., Shop], ledger: Ledger, order: str) -> None:
    shop = make_shop()
    began = shop.queue.enqueue(steps.charge, order)
    off = make_shop(shop.journal_url, mode="off")
    off.name = shop.name
    plain = off.queue.enqueue(steps.book, order)
    assert STAMP not in plain.meta
    off.work()
    assert ledger.names(order) == ["charge", "book"]
    assert off.status(began) is WorkflowStatus.SUCCEEDED
    assert off.count_runs() == 1


def test_functions_that_nobody_may_edit_are_marked_by_name(shop: Shop, ledger: Ledger, order: str) -> None:
    durable_rq.mark("tests.rq.shop.legacy.charge", idempotent=True)
    from tests.rq.shop import legacy

    jobs = [shop.queue.enqueue(legacy.charge, order), shop.queue.enqueue("tests.rq.shop.legacy.charge", order)]
    shop.work()
    assert [shop.status(job) for job in jobs] == [WorkflowStatus.SUCCEEDED] * 2
    assert shop.steps(jobs[0])[0].safety == "idempotent"
    with pytest.raises(DeclarationError, match=r"mark\('legacy.x'\)"):
        durable_rq.mark("legacy.x", nonsense=True)


def test_a_function_that_is_sent_by_a_name_nobody_imported_is_adopted_by_the_worker(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    forget("late")
    job = shop.queue.enqueue("tests.rq.shop.late.charge", order)
    assert STAMP not in job.meta
    assert shop.count_runs() == 0
    shop.work()
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    job.refresh()
    shop.queue._enqueue_job(job)
    shop.work()
    assert ledger.names(order) == ["charge"]


def test_a_job_from_a_publisher_without_the_plugin_that_may_have_run_is_in_doubt(shop: Shop, ledger: Ledger, order: str) -> None:
    """Its first delivery ran where there was no plugin, and its worker died."""
    durable_rq.uninstall()
    job = shop.queue.enqueue(steps.charge, order, retry=Retry(max=1))
    shop.redis.hset(job.key, "started_at", "2026-01-01T00:00:00.000000Z")
    hooks.install(shop.binding)
    shop.binding.settings = replace(shop.binding.settings, plain_until=0.0)
    shop.work()
    assert shop.steps(job)[0].status is StepStatus.HELD
    assert ledger.names(order) == []


@REPEATS
def test_each_tick_from_a_publisher_without_the_plugin_is_a_run(shop: Shop, ledger: Ledger, order: str) -> None:
    from rq import Repeat

    durable_rq.uninstall()
    job = shop.queue.enqueue(steps.charge, order, repeat=Repeat(times=2))
    hooks.install(shop.binding)
    shop.work()
    assert ledger.names(order) == ["charge"] * 3
    assert len(shop.runs_of(job)) == 3


class OwnJob(Job):
    """A job class of the user's own, which says when it runs."""

    ran: ClassVar[list[str]] = []

    def _execute(self) -> object:
        self.ran.append(self.id)
        return super()._execute()


class OwnJobWorker(InProcess):
    """Its worker."""

    job_class = OwnJob

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "job_class": OwnJob})


def test_a_job_class_of_the_users_own_is_durable_and_made_again_as_it_was(shop: Shop, ledger: Ledger, order: str) -> None:
    queue = Queue(shop.name, connection=shop.redis, job_class=OwnJob)
    job = queue.enqueue(steps.charge, order, description="a charge", result_ttl=77, retry=Retry(max=2, interval=[1, 2]))
    shop.flush()
    shop.sweep(70)
    again = queue.fetch_job(job.id)
    assert again is not None
    assert spec(again) == spec(job)
    shop.work(OwnJobWorker)
    assert job.id in OwnJob.ran
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"]


@pytest.mark.parametrize("function", [False, pytest.param(True, marks=WAITING)], ids=["step", "function"])
def test_rqs_json_serializer_works_with_steps_and_functions(shop: Shop, ledger: Ledger, order: str, function: bool) -> None:
    queue = Queue(shop.name, connection=shop.redis, serializer=JSONSerializer)
    job = queue.enqueue(functions.sleeps, order, 3600) if function else queue.enqueue(steps.charge, order)
    shop.work(serializer=JSONSerializer)
    assert shop.rq_status(job) is (JobStatus.SCHEDULED if function else JobStatus.FINISHED)
    shop.sweep(3601)
    shop.work(serializer=JSONSerializer)
    assert shop.value(job) == (f"bk-{order}" if function else f"ch-{order}")


def test_a_job_made_by_a_callers_own_call_of_create_is_durable(shop: Shop, ledger: Ledger, order: str) -> None:
    job = Job.create(steps.charge, (order,), connection=shop.redis, origin=shop.name)
    assert shop.count_runs() == 0
    shop.queue.enqueue_job(job)
    shop.work()
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_function_called_directly_is_itself(shop: Shop, ledger: Ledger, order: str) -> None:
    assert steps.charge(order) == f"ch-{order}"
    assert shop.count_runs() == 0
