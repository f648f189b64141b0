"""A job by itself: the smallest workflow."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from rq import Queue, Retry
from rq.exceptions import DeserializationError
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.errors import DeclarationError, UnserialisableValue, UnsupportedCanvas
from durable_adapter.model import STAMP, Effect, StepStatus, WorkflowStatus, make_stamp, new_ref
from durable_adapter.rq import hooks
from tests.celery.ledger import Ledger
from tests.rq.shop import chains, steps
from tests.rq.world import Shop
from tests.rq_versions import REPEATS, RETURNED_RETRY, UNIQUE, since


def test_a_marked_job_runs_once_and_its_result_is_recorded(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    assert shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert shop.story(job) == [("charge", "succeeded")]


def test_an_unmarked_job_leaves_no_trace(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.unmarked, order)
    assert STAMP not in job.meta
    shop.work()
    assert shop.value(job) == f"unmarked-{order}"
    assert shop.count_runs() == 0


def test_every_way_to_enqueue_makes_a_run(shop: Shop, ledger: Ledger, order: str) -> None:
    queue = shop.queue
    jobs = [
        queue.enqueue(steps.charge, order),
        queue.enqueue_call(steps.charge, (order,)),
        queue.enqueue("tests.rq.shop.steps.charge", order),
        *queue.enqueue_many([Queue.prepare_data(steps.charge, (order,)) for _ in range(2)]),
    ]
    if since("2.0"):
        from rq.group import Group

        many = [Queue.prepare_data(steps.charge, (order,)) for _ in range(2)]
        jobs += Group(connection=shop.redis).enqueue_many(queue, many)
    assert shop.count_runs() == len(jobs)
    shop.work()
    assert [shop.value(job) for job in jobs] == [f"ch-{order}"] * len(jobs)
    assert [shop.status(job) for job in jobs] == [WorkflowStatus.SUCCEEDED] * len(jobs)
    assert ledger.names(order) == ["charge"] * len(jobs)


@pytest.mark.parametrize("decorated", [chains.marked_above, chains.marked_below], ids=["step above", "step below"])
def test_rqs_own_decorator_and_ours_go_in_either_order(
    shop: Shop, ledger: Ledger, order: str, decorated: Callable[[str], str]
) -> None:
    job = decorated.delay(order)  # type: ignore[attr-defined]
    assert shop.status(job) is WorkflowStatus.RUNNING
    shop.work(queues=[chains.QUEUE])
    assert shop.value(job) == f"ch-{order}"
    assert shop.status(job) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"]


def test_a_scheduled_job_is_not_sent_before_its_time(shop: Shop, ledger: Ledger, order: str) -> None:
    later = shop.queue.enqueue_in(timedelta(hours=1), steps.charge, order)
    at = shop.queue.enqueue_at(datetime.now(UTC) + timedelta(hours=1), steps.charge, order)
    for moment in (70, 600, 3000):
        assert shop.sweep(moment).sent_again == 0
    assert [shop.rq_status(job) for job in (later, at)] == [JobStatus.SCHEDULED] * 2
    assert not shop.work()


def test_a_scheduled_job_that_redis_lost_is_sent_when_its_time_has_come(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue_in(timedelta(hours=1), steps.charge, order)
    shop.flush()
    shop.sweep(3000)
    assert not shop.work()
    shop.sweep_and_work(3700)
    assert ledger.names(order) == ["charge"]
    assert shop.status(job) is WorkflowStatus.SUCCEEDED


def test_a_job_that_is_delivered_again_hands_back_the_recorded_value(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    shop.binding.engine.send_step(shop.of(job), shop.steps(job)[0], shop.steps(job))
    assert shop.rq_status(job) is JobStatus.QUEUED
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]


def test_a_failing_job_fails_as_before_and_its_effect_is_recorded_as_unknown(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.fail, order)
    shop.work()
    assert shop.rq_status(job) is JobStatus.FAILED
    assert "out of paper" in str(job.latest_result().exc_string)
    assert shop.status(job) is WorkflowStatus.FAILED
    failed = shop.steps(job)[0]
    assert (failed.status, failed.effect, failed.attention) == (StepStatus.FAILED, Effect.UNKNOWN, "effect_unknown")


def test_a_failed_job_that_is_requeued_fails_again_without_a_second_effect(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.fail, order)
    shop.work()
    job.requeue()
    shop.work()
    assert ledger.names(order) == ["fail"]
    assert shop.rq_status(job) is JobStatus.FAILED
    assert "out of paper" in str(job.latest_result().exc_string)


def test_rqs_retry_is_granted_to_an_idempotent_step(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.keyed, order, 2, retry=Retry(max=3))
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert len(ledger.names(order)) == 3
    assert steps.charges(order) == 1
    assert shop.steps(job)[0].attempt == 3


def test_rqs_retry_is_granted_where_nothing_happened(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.decline, order, retry=Retry(max=2))
    shop.work()
    assert ledger.names(order) == ["decline"] * 3
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.status(job) is WorkflowStatus.FAILED


def test_rqs_retry_of_a_protected_step_is_refused_and_the_step_held(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.fail, order, retry=Retry(max=3))
    shop.work()
    shop.sweep_and_work(0, 60, 600)
    assert ledger.names(order) == ["fail"]
    assert shop.steps(job)[0].status is StepStatus.HELD
    assert shop.rq_status(job) is JobStatus.SCHEDULED


def test_a_retry_that_is_put_off_is_sent_by_the_sweeper_without_a_scheduler(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.keyed, order, 1, retry=Retry(max=3, interval=30))
    shop.work()
    assert shop.rq_status(job) is JobStatus.SCHEDULED
    shop.sweep_and_work(10)
    assert len(ledger.names(order)) == 1
    shop.sweep_and_work(31, 70)  # RQ's own scheduler would be first, where there is one
    assert shop.value(job) == f"ch-{order}"
    assert steps.charges(order) == 1


def test_a_policy_of_ours_tries_again_without_rqs_retry(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.retried_by_policy, order)
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert shop.steps(job)[0].attempt == 3


@REPEATS
def test_each_tick_of_a_repeated_job_is_a_run_of_its_own(shop: Shop, ledger: Ledger, order: str) -> None:
    from rq import Repeat

    job = shop.queue.enqueue(steps.charge, order, repeat=Repeat(times=2))
    shop.work()
    assert ledger.names(order) == ["charge"] * 3
    runs = shop.runs_of(job)
    assert [run.status for run in runs] == [WorkflowStatus.SUCCEEDED] * 3
    assert len({run.ref for run in runs}) == 3


@REPEATS
@pytest.mark.parametrize("left", [2, 1, 0])
def test_a_redelivered_tick_is_not_a_new_run(shop: Shop, ledger: Ledger, order: str, left: int) -> None:
    from rq import Repeat

    job = shop.queue.enqueue(steps.charge, order, repeat=Repeat(times=2, interval=3600))
    shop.work()
    for _ in range(2 - left):
        shop.redis.zrem(shop.queue.scheduled_job_registry.key, job.id)
        job.refresh()
        shop.queue._enqueue_job(job)
        shop.work()
    seen = len(ledger.names(order))
    run = shop.of(job)
    shop.flush()
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    shop.work()
    assert len(ledger.names(order)) == seen == 3 - left
    assert shop.value(job) == f"ch-{order}"


def test_a_fixed_id_that_is_enqueued_twice_names_two_runs(shop: Shop, ledger: Ledger, order: str) -> None:
    for _ in range(2):
        job = shop.queue.enqueue(steps.charge, order, job_id=f"nightly-{order}")
        shop.work()
    assert ledger.names(order) == ["charge"] * 2
    assert [run.status for run in shop.runs_of(job)] == [WorkflowStatus.SUCCEEDED] * 2


def test_a_finished_job_that_is_enqueued_anew_is_a_new_run(shop: Shop, ledger: Ledger, order: str) -> None:
    """Nobody but a person or their code calls `enqueue_job()`: it is a publication from outside."""
    job = shop.queue.enqueue(steps.charge, order)
    shop.work()
    job.refresh()
    shop.queue.enqueue_job(job)
    shop.work()
    assert ledger.names(order) == ["charge"] * 2
    assert len(shop.runs_of(job)) == 2


def test_a_coroutine_is_awaited_before_its_result_is_recorded(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.awaited, order)
    shop.work()
    assert shop.value(job) == f"ch-{order}"
    assert shop.steps(job)[0].status is StepStatus.SUCCEEDED
    assert durable_rq.result_of(job) == f"ch-{order}"


@RETURNED_RETRY
def test_a_job_that_returns_rqs_retry_is_run_again_and_that_is_no_result(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.polls, order)
    shop.work()
    assert ledger.names(order) == ["poll"] * 3
    assert shop.value(job) == "done"
    assert durable_rq.result_of(job) == "done"


@RETURNED_RETRY
def test_a_returned_retry_that_is_put_off_needs_no_scheduler(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.polls, order, 1, interval=30)
    shop.work()
    assert not shop.sweep(10).did_anything
    shop.sweep_and_work(31, 70)
    assert shop.value(job) == "done"


@RETURNED_RETRY
def test_a_job_that_asks_more_often_than_its_own_max_has_failed_for_good(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.polls, order, 9, most=2)
    shop.work()
    shop.sweep_and_work(0, 70, 700)
    assert ledger.names(order) == ["poll"] * 3
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.status(job) is WorkflowStatus.FAILED


@UNIQUE
class TestAJobThatIsToBeUnique:
    def test_needs_an_id_as_ever(self, shop: Shop, ledger: Ledger, order: str) -> None:
        before = shop.sent()
        with pytest.raises(ValueError, match="explicit job_id") as plainly:
            shop.queue.enqueue(steps.unmarked, order, unique=True)
        with pytest.raises(ValueError, match="explicit job_id") as marked:
            shop.queue.enqueue(steps.charge, order, unique=True)
        assert str(marked.value) == str(plainly.value)
        with pytest.raises(ValueError, match="explicit job_id"):
            shop.queue.enqueue_in(timedelta(hours=1), steps.charge, order, unique=True)
        with pytest.raises(ValueError, match="explicit job_id"):
            shop.queue.enqueue_job(Job.create(steps.charge, (order,), connection=shop.redis), unique=True)
        assert shop.sent() == before
        assert shop.count_runs() == 0

    def test_and_with_one_it_is(self, shop: Shop, ledger: Ledger, order: str) -> None:
        from rq.exceptions import DuplicateJobError

        shop.queue.enqueue(steps.charge, order, job_id=order, unique=True)
        with pytest.raises(DuplicateJobError):
            shop.queue.enqueue(steps.charge, order, job_id=order, unique=True)
        shop.work()
        assert ledger.names(order) == ["charge"]
        assert shop.count_runs() == 1


def test_a_job_that_was_never_enqueued_is_not_performed_and_says_so(shop: Shop, ledger: Ledger, order: str) -> None:
    job = Job.create(steps.charge, (order,), connection=shop.redis)
    with pytest.raises(UnsupportedCanvas, match=r"never enqueued.*queue.enqueue_job"):
        job.perform()
    assert ledger.names(order) == []
    assert shop.count_runs() == 0
    shop.queue.enqueue_job(job)
    shop.work()
    assert ledger.names(order) == ["charge"]


def test_what_is_named_in_a_class_cannot_be_marked(shop: Shop, ledger: Ledger, order: str) -> None:
    import_module("tests.rq.shop.identity")  # whether a name is that of a method is known once its module is loaded
    name = "tests.rq.shop.identity.Handler.handle"
    with pytest.raises(DeclarationError, match="is a method"):
        durable_rq.mark(name)
    job = shop.queue.enqueue(name, order)
    shop.work()
    assert ledger.names(order) == ["handle"]
    assert shop.runs_of(job) == []


def test_nor_where_its_class_is_seen_only_by_the_worker(shop: Shop, ledger: Ledger, order: str) -> None:
    name = "tests.rq.shop.late_class.Handler.handle"
    durable_rq.mark(name)
    job = shop.queue.enqueue(name, order)
    shop.work()
    assert "is a method" in str(job.latest_result().exc_string)
    assert ledger.names(order) == []


def test_what_cannot_be_written_down_is_refused_at_the_caller(shop: Shop, order: str) -> None:
    before = shop.sent()
    with pytest.raises(UnserialisableValue, match=r"steps\.charge cannot be made durable"):
        shop.queue.enqueue(steps.charge, steps.Unserialisable())
    with pytest.raises(UnserialisableValue):
        shop.queue.enqueue_many([Queue.prepare_data(steps.charge, (given,)) for given in (order, steps.Unserialisable())])
    assert shop.count_runs() == 0
    assert shop.sent() == before


def test_a_result_that_cannot_be_recorded_holds_the_step_as_happened(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.returns_what_cannot_be_recorded, order, retry=Retry(max=3))
    shop.work()
    shop.sweep_and_work(0, 70)
    held = shop.steps(job)[0]
    assert (held.status, held.attention) == (StepStatus.HELD, "value_missing")
    assert ledger.names(order) == ["charge"]


@pytest.mark.skipif(since("2.1"), reason="RQ 2.1 and newer run a job again that returns a Retry")
def test_a_retry_that_an_old_rq_takes_for_a_result_is_a_value_that_cannot_be_recorded(
    shop: Shop, ledger: Ledger, order: str
) -> None:
    job = shop.queue.enqueue(steps.polls, order)
    shop.work()
    shop.sweep_and_work(0, 70)
    held = shop.steps(job)[0]
    assert (held.status, held.attention) == (StepStatus.HELD, "value_missing")
    assert ledger.names(order) == ["poll"]


def test_a_job_whose_run_the_journal_does_not_have_is_refused_and_reported(shop: Shop, ledger: Ledger, order: str) -> None:
    ref = new_ref()
    durable_rq.uninstall()
    shop.queue.enqueue(steps.charge, order, meta={STAMP: make_stamp(ref)})
    hooks.install(shop.binding)
    shop.work()
    assert shop.events(ref) == ["refused"]
    assert ledger.names(order) == []


def test_a_function_that_the_worker_does_not_have_fails_as_before(shop: Shop, order: str) -> None:
    job = shop.queue.enqueue("tests.rq.shop.nowhere.charge", order)
    shop.work()
    assert shop.rq_status(job) is JobStatus.FAILED
    assert shop.count_runs() == 0


def test_arguments_that_cannot_be_read_fail_as_before(shop: Shop, order: str) -> None:
    job = shop.queue.enqueue(steps.unmarked, order)
    shop.redis.hset(job.key, "data", b"nonsense")
    shop.work()
    with pytest.raises(DeserializationError):
        _ = shop.queue.fetch_job(job.id).args
    assert shop.rq_status(job) is JobStatus.FAILED
