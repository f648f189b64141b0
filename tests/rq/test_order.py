"""A job does not begin before what it comes after: the journal knows the order, also when Redis has forgotten it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rq import Queue
from rq.job import Dependency, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.model import Attention, StepStatus, WorkflowStatus
from durable_adapter.reconcile import look_for_trouble
from durable_adapter.rq import hooks
from durable_adapter.rq.command import Witness
from tests.celery.ledger import Ledger
from tests.journal.making import age
from tests.rq.shop import functions, steps
from tests.rq.world import Shop, prepare
from tests.rq_versions import WAITING
from tests.servers.fixtures import FreshDatabase
from tests.servers.unavailable import Unavailable


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, make_shop: Callable[..., Shop], fresh_database: FreshDatabase) -> Iterator[Shop]:
    """A shop on a journal that is asked for the order, and one on a journal that sees it in the claim itself."""
    try:
        made = make_shop(fresh_database(request.param, prepare))
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield made
    made.flush()


def lost_by_redis(shop: Shop, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    shop.flush()
    shop.queue.enqueue(steps.book, order, depends_on=charge)


def half_lost(shop: Shop, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    shop.redis.delete(charge.key)
    shop.queue.enqueue(steps.book, order, depends_on=charge)


def in_runs_of_their_own(shop: Shop, order: str) -> None:
    first = shop.queue.enqueue(steps.mail, order)
    second = shop.queue.enqueue(steps.charge, order)
    shop.redis.delete(second.key)
    shop.queue.enqueue(steps.book, order, depends_on=[first, second])


@pytest.mark.parametrize("lose", [lost_by_redis, half_lost, in_runs_of_their_own])
def test_a_job_that_rq_delivers_too_early_waits(
    shop: Shop, ledger: Ledger, order: str, lose: Callable[[Shop, str], None]
) -> None:
    lose(shop, order)
    shop.work()
    assert ledger.count(order, "book") == 0
    shop.sweep_and_work(70, 200, 500)
    assert [name for name in ledger.names(order) if name != "mail"] == ["charge", "book"]


def test_a_job_without_dependencies_costs_no_look(shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.queue.enqueue(steps.charge, order)
    monkeypatch.setattr(shop.journal.reads, "outline", lambda ref: pytest.fail("looked"))
    shop.work()


@WAITING
def test_a_dispatched_step_waits_too(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(functions.dispatches_behind_another, order, shop.name)
    shop.work(jobs=1)
    first = next(s for s in shop.steps(job) if s.name.endswith("charge"))
    shop.redis.delete(f"rq:job:{first.task_id}")
    second = next(s for s in shop.steps(job) if s.name.endswith("book"))
    shop.binding.here.put_back(shop.queue.fetch_job(second.task_id or ""))  # type: ignore[arg-type]
    shop.work()
    assert ledger.count(order, "book") == 0
    shop.sweep_and_work(70, 200, 500)
    assert ledger.names(order) == ["charge", "book"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


class TestBehindAnUnmarkedJob:
    def test_it_runs_when_that_has_ended(self, shop: Shop, ledger: Ledger, order: str) -> None:
        before = shop.queue.enqueue(steps.unmarked, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=before)
        shop.work()
        assert ledger.names(order) == ["unmarked", "charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED
        assert [s.status for s in shop.steps(job)] == [StepStatus.SUCCEEDED] * 2

    def test_it_runs_when_that_has_ended_and_left_nothing(self, shop: Shop, ledger: Ledger, order: str) -> None:
        before = shop.queue.enqueue(steps.unmarked, order, result_ttl=0)
        job = shop.queue.enqueue(steps.charge, order, depends_on=before)
        shop.work()
        assert ledger.names(order) == ["unmarked", "charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED

    @pytest.mark.parametrize("allow_failure", [False, True])
    def test_nobody_guesses_what_became_of_one_that_redis_lost(
        self, shop: Shop, ledger: Ledger, order: str, allow_failure: bool
    ) -> None:
        before = shop.queue.enqueue(steps.unmarked, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=Dependency([before], allow_failure=allow_failure))
        shop.flush()
        shop.sweep_and_work(70, 700)
        assert ledger.names(order) == []
        assert shop.of(job).attention == Attention.UNMARKED
        shop.journal.members.record_unmarked(
            shop.of(job).ref, shop.steps(job)[1].key, None, failed=None, who="a person", why="saw it"
        )
        shop.sweep_and_work(1500, 3000)
        assert ledger.names(order) == ["charge"]

    def test_one_that_redis_has_lost_only_the_dependent_of_is_waited_for(self, shop: Shop, ledger: Ledger, order: str) -> None:
        elsewhere = Queue(f"{shop.name}-slow", connection=shop.redis)
        before = elsewhere.enqueue(steps.unmarked, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=before)
        shop.redis.delete(job.key)
        shop.sweep_and_work(70, 700)
        assert ledger.names(order) == []
        assert shop.of(job).attention is None
        shop.work(queues=[elsewhere.name])
        shop.sweep_and_work(1500, 1600)
        assert ledger.names(order) == ["unmarked", "charge"]

    def test_one_that_failed_is_a_finding_that_says_so(self, shop: Shop, ledger: Ledger, order: str) -> None:
        before = shop.queue.enqueue(steps.unmarked_fails, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=before)
        shop.work()
        shop.sweep(70)
        assert shop.of(job).attention == Attention.UNMARKED
        for key in (None, *(s.key for s in shop.steps(job))):
            age(shop.journal, shop.of(job).ref, key)
        found = look_for_trouble(shop.journal, namespace="default", witnesses={"rq": Witness(shop.binding)}).findings
        finding = next(f for f in found if f.ref == shop.of(job).ref)
        assert finding.kind == "stopped_at_unmarked"
        assert f"RQ says that job {before.id} failed" in finding.certain
        assert "--did-not-happen" in finding.remedies[1].command

    def test_one_that_may_fail_is_waited_for_until_it_has(self, shop: Shop, ledger: Ledger, order: str) -> None:
        before = shop.queue.enqueue(steps.unmarked_fails, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=Dependency([before], allow_failure=True))
        shop.work()
        assert ledger.names(order) == ["unmarked", "charge"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED
        assert shop.of(job).attention is None

    def test_a_member_that_joins_a_run_waits_for_it_as_well(self, shop: Shop, ledger: Ledger, order: str) -> None:
        charge = shop.queue.enqueue(steps.charge, order)
        before = shop.queue.enqueue(steps.unmarked, order)
        book = shop.queue.enqueue(steps.book, order, depends_on=[charge, before])
        assert shop.story(charge) == [("charge", "planned"), ("book", "planned"), ("unmarked", "planned")]
        shop.work()
        assert ledger.names(order) == ["charge", "unmarked", "book"]
        assert shop.status(book) is WorkflowStatus.SUCCEEDED

    def test_what_becomes_of_the_run_does_not_touch_it(self, shop: Shop, ledger: Ledger, order: str) -> None:
        """It is somebody else's job, also where what comes after it is cancelled."""
        fail = shop.queue.enqueue(steps.fail, order)
        before = Queue(f"{shop.name}-slow", connection=shop.redis).enqueue(steps.unmarked, order)
        job = shop.queue.enqueue(steps.charge, order, depends_on=[fail, before])
        shop.work()
        shop.sweep(70)
        assert shop.rq_status(job) is JobStatus.CANCELED
        assert shop.rq_status(before) is JobStatus.QUEUED
        shop.work(queues=[f"{shop.name}-slow"])
        assert ledger.names(order) == ["fail", "unmarked"]

    def test_a_row_that_nothing_comes_after_any_more_is_no_trouble(self, shop: Shop, order: str) -> None:
        charge = shop.queue.enqueue(steps.charge, order)
        before = shop.queue.enqueue(steps.unmarked_fails, order)
        book = shop.queue.enqueue(steps.book, order, depends_on=[charge, before])
        ref = shop.of(charge).ref
        shop.journal.members.leave(ref, next(s.key for s in shop.steps(charge) if s.task_id == book.id))
        shop.work()
        shop.sweep(700)
        assert shop.of(charge).attention is None


class TestAllowFailure:
    def test_it_waits_for_the_end_of_its_parent_after_a_loss(self, shop: Shop, ledger: Ledger, order: str) -> None:
        elsewhere = Queue(f"{shop.name}-slow", connection=shop.redis)
        charge = elsewhere.enqueue(steps.charge, order)
        job = shop.queue.enqueue(steps.mail, order, depends_on=Dependency([charge], allow_failure=True))
        shop.redis.delete(job.key)
        shop.sweep_and_work(70, 700)
        assert ledger.names(order) == []
        shop.work(queues=[elsewhere.name])
        shop.sweep_and_work(1500, 1600)
        assert ledger.names(order) == ["charge", "mail"]

    def test_it_runs_after_a_failure_that_redis_forgot(self, shop: Shop, ledger: Ledger, order: str) -> None:
        fail = shop.queue.enqueue(steps.fail, order)
        job = shop.queue.enqueue(steps.mail, order, depends_on=Dependency([fail], allow_failure=True))
        shop.work(jobs=1)
        shop.flush()
        shop.sweep_and_work(70, 200)
        assert ledger.names(order) == ["fail", "mail"]
        assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_start_under_an_id_keeps_its_id_behind_other_jobs(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    durable_rq.start(f"{order}-book", shop.queue, steps.book, order, depends_on=charge)
    assert durable_rq.handle(f"{order}-book").status is WorkflowStatus.RUNNING
    shop.work()
    assert ledger.names(order) == ["charge", "book"]
    assert durable_rq.handle(f"{order}-book").status is WorkflowStatus.SUCCEEDED


def test_an_unmarked_member_of_which_only_rq_knows_the_end_is_learned_of(shop: Shop, ledger: Ledger, order: str) -> None:
    charge = shop.queue.enqueue(steps.charge, order)
    between = shop.queue.enqueue(steps.unmarked, order, depends_on=charge)
    shop.queue.enqueue(steps.book, order, depends_on=between)
    shop.work(jobs=1)
    durable_rq.uninstall()
    shop.work_plainly(jobs=1)
    hooks.install(shop.binding)
    assert shop.rq_status(between) is JobStatus.FINISHED
    shop.work()
    assert ledger.names(order) == ["charge", "unmarked", "book"]
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED
