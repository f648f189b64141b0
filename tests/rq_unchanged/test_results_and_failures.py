"""Results, failures, retries and callbacks of unmarked jobs."""

from __future__ import annotations

import pytest
from rq import Callback, Retry
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.results import Result
from rq.serializers import JSONSerializer

from tests.rq_unchanged import jobs
from tests.rq_unchanged.custom import LoudJob, LoudQueue, OwnWayJob, Readable
from tests.rq_unchanged.stage import RQ, Stage
from tests.rq_versions import RETURNED_RETRY


def test_a_job_ends_with_its_result_in_the_finished_registry(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1, b=2)
    assert job.get_status() == JobStatus.QUEUED
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FINISHED
    assert job.return_value() == 3
    assert job.latest_result().type is Result.Type.SUCCESSFUL
    assert rq.queue().finished_job_registry.get_job_ids() == [job.id]
    assert rq.ledger() == ["add 1 2"]


@pytest.mark.parametrize("ttl", [300, None], ids=["given", "default"])
def test_a_result_is_kept_for_its_time(rq: Stage, ttl: int | None) -> None:
    job = rq.queue().enqueue(jobs.add, 1, result_ttl=ttl)
    rq.work()
    expected = ttl or 500
    assert expected - 10 < rq.connection.ttl(job.key) <= expected
    assert expected - 10 < rq.connection.ttl(f"rq:results:{job.id}") <= expected


def test_a_result_that_nobody_wants_goes_at_once_with_its_job(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1, result_ttl=0)
    rq.work()
    assert not rq.connection.exists(job.key)
    assert rq.ledger() == ["add 1 0"]


def test_a_result_for_ever_has_no_end(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1, result_ttl=-1)
    rq.work()
    assert rq.connection.ttl(job.key) == -1
    assert job.return_value() == 1


def test_a_value_that_cannot_be_written_is_no_failure(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.unserialisable)
    rq.work()
    assert (job.get_status(refresh=True), rq.ledger()) == (JobStatus.FINISHED, ["unserialisable"])
    assert job.return_value() == "Unserializable return value"


def test_a_coroutine_is_awaited(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.later, 4)
    rq.work()
    assert job.return_value() == 4


def test_methods_and_builtins_are_jobs(rq: Stage) -> None:
    queue = rq.queue()
    sent = [queue.enqueue(jobs.Till("a").ring, 5), queue.enqueue(jobs.Till.open, 6), queue.enqueue(len, [1, 2])]
    rq.work()
    assert [job.return_value() for job in sent] == ["a: 5", 6, 2]


def test_a_job_that_raises_is_failed_with_the_text_of_its_error(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail, "no stock", failure_ttl=600)
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FAILED
    text = job.latest_result().exc_string
    assert text.startswith("Traceback (most recent call last):")
    assert text.rstrip().endswith("ValueError: no stock")
    assert "durable_adapter" not in text
    assert rq.queue().failed_job_registry.get_job_ids() == [job.id]
    assert 590 < rq.connection.ttl(job.key) <= 600


def test_a_function_that_cannot_be_imported_fails_its_job_in_rqs_words(rq: Stage) -> None:
    job = rq.queue().enqueue("tests.rq_unchanged.jobs.gone")
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert "Invalid attribute name: gone" in job.latest_result().exc_string


def test_data_that_cannot_be_read_fails_its_job(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1)
    rq.connection.hset(job.key, "data", b"nonsense")
    rq.work()
    assert rq.queue().failed_job_registry.get_job_ids() == [job.id]
    assert rq.ledger() == []


def test_retries_come_at_once_and_end_with_the_success(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail_until, 2, retry=Retry(max=3))
    rq.work()
    job.refresh()
    assert (job.get_status(), job.return_value(), job.retries_left) == (JobStatus.FINISHED, 3, 1)
    assert rq.ledger() == ["try"] * 3


def test_retries_with_intervals_wait_among_the_scheduled(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail_until, 2, retry=Retry(max=3, interval=[60, 120]))
    for tries in (1, 2):
        rq.work(with_scheduler=True)
        assert job.get_status(refresh=True) == JobStatus.SCHEDULED
        assert len(rq.ledger()) == tries
        rq.make_due()
    rq.work(with_scheduler=True)
    assert job.get_status(refresh=True) == JobStatus.FINISHED


def test_retries_that_are_used_up_leave_a_failed_job(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail, retry=Retry(max=2), on_failure=Callback(jobs.failed))
    rq.work()
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.FAILED, 0)
    assert [line for line in rq.ledger() if line.startswith("fail ")] == ["fail no stock"] * 3
    assert rq.ledger().count(f"failed {job.id} ValueError no stock") >= 1


@RETURNED_RETRY
def test_a_returned_retry_runs_the_job_again(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.ask_again, 2)
    rq.work()
    job.refresh()
    assert (job.return_value(), job.number_of_retries) == ("done", 2)
    assert rq.ledger() == ["asked"] * 3


def test_a_job_that_takes_too_long_is_interrupted(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.too_long, job_timeout=1, on_failure=Callback(jobs.failed))
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert "JobTimeoutException" in job.latest_result().exc_string
    assert rq.ledger()[0] == "too long"
    assert rq.ledger()[1].startswith(f"failed {job.id} JobTimeoutException")


def test_the_callback_of_a_success_gets_the_result(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1, on_success=Callback(jobs.succeeded), on_failure=jobs.failed)
    rq.work()
    assert rq.ledger() == ["add 1 0", f"succeeded {job.id} 1"]


def test_a_callback_that_raises_fails_the_job(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.add, 1, on_success=Callback(jobs.bad_callback))
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert "KeyError: 'callback'" in job.latest_result().exc_string


def test_exception_handlers_are_called_until_one_says_that_it_was_the_last(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail)
    rq.work(options={"exception_handlers": [jobs.handler, jobs.last_handler, jobs.handler]})
    assert rq.ledger() == ["fail no stock", f"handled {job.id} ValueError", f"last {job.id} ValueError"]


def test_without_the_default_handler_the_job_is_not_called_failed(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail)
    rq.work(options={"exception_handlers": [jobs.handler], "disable_default_exception_handler": True})
    assert f"handled {job.id} ValueError" in rq.ledger()
    assert job.latest_result() is None


def test_a_failed_job_is_put_back_into_its_queue(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.fail_until, 1)
    rq.work()
    assert rq.queue().failed_job_registry.get_job_ids() == [job.id]
    job.requeue()
    assert rq.queue().job_ids == [job.id]
    assert rq.queue().failed_job_registry.get_job_ids() == []
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.FINISHED


def test_a_canceled_job_does_not_run(rq: Stage) -> None:
    queue = rq.queue()
    job = queue.enqueue(jobs.add, 1)
    waits = queue.enqueue(jobs.named, "waits", depends_on=job)
    runs = queue.enqueue(jobs.add, 2)
    job.cancel()
    rq.work()
    assert job.get_status(refresh=True) == JobStatus.CANCELED
    assert waits.get_status(refresh=True) == JobStatus.DEFERRED
    assert queue.canceled_job_registry.get_job_ids() == [job.id]
    assert (rq.ledger(), runs.return_value()) == (["add 2 0"], 2)


def test_a_synchronous_queue_runs_the_job_where_it_is_enqueued(rq: Stage) -> None:
    queue = rq.queue(is_async=False)
    job = queue.enqueue(jobs.add, 1, b=1, on_success=Callback(jobs.succeeded))
    assert (job.get_status(), job.return_value()) == (JobStatus.FINISHED, 2)
    bad = queue.enqueue(jobs.fail, on_failure=Callback(jobs.failed))
    assert bad.get_status() == JobStatus.FAILED
    assert rq.ledger() == ["add 1 1", f"succeeded {job.id} 2", "fail no stock", f"failed {bad.id} ValueError no stock"]


def test_meta_description_and_ttl_are_the_callers(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.note_progress, 3, meta={"colour": "red"}, description="notes", ttl=900)
    assert 890 < rq.connection.ttl(job.key) <= 900
    rq.work()
    again = rq.job(job.id)
    assert (again.meta, again.description) == ({"colour": "red", "step": 3}, "notes")


@pytest.mark.parametrize("serializer", [JSONSerializer, Readable], ids=["json", "own"])
def test_serializers_are_respected(rq: Stage, serializer: type) -> None:
    queue = rq.queue(serializer=serializer)
    job = queue.enqueue(jobs.add, 1, b=4, meta={"a": [1]})
    rq.work(queue, options={"serializer": serializer})
    again = Job.fetch(job.id, connection=rq.connection, serializer=serializer)
    assert (again.return_value(), again.meta) == (5, {"a": [1]})


def test_job_and_queue_classes_of_ones_own_are_used(rq: Stage) -> None:
    queue = LoudQueue("loud", connection=rq.connection)
    job = queue.enqueue(jobs.add, 1)
    assert type(job) is LoudJob
    rq.work(queue, options={"queue_class": LoudQueue, "job_class": LoudJob})
    assert rq.ledger() == ["loud", "add 1 0"]
    own = rq.queue("own", job_class=OwnWayJob)
    job = own.enqueue(jobs.add, 2)
    rq.work(own, options={"job_class": OwnWayJob})
    assert job.return_value() == ("own", 2)


def test_a_job_whose_hash_is_gone_is_passed_over(rq: Stage) -> None:
    gone = rq.queue().enqueue(jobs.add, 1)
    stays = rq.queue().enqueue(jobs.add, 2)
    rq.connection.delete(gone.key)
    rq.work()
    assert stays.return_value() == 2
    with pytest.raises(NoSuchJobError):
        rq.job(gone.id)


@pytest.mark.skipif(RQ < (2, 8), reason="unique= came with RQ 2.8")
def test_a_unique_job_is_refused_a_second_time(rq: Stage) -> None:
    from rq.exceptions import DuplicateJobError

    rq.queue().enqueue(jobs.add, 1, job_id="one", unique=True)
    with pytest.raises(DuplicateJobError):
        rq.queue().enqueue(jobs.add, 2, job_id="one", unique=True)
    rq.work()
    assert rq.ledger() == ["add 1 0"]
