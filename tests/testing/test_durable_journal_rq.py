"""`durable_journal` where the code under test enqueues: RQ's jobs run in the test's own process, in a Redis of its memory."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fakeredis import FakeServer, FakeStrictRedis
from redis import Redis
from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.errors import SameIdOtherArguments
from durable_adapter.rq.binding import Binding
from durable_adapter.testing import Killed, TestJournal
from durable_adapter.testing.recorded import redirected
from tests.rq_versions import REPEATS, WAITING
from tests.runtime import shop

#: A queue as a user's module makes it when it is imported: on a Redis that no unit test should touch.
nowhere = Queue("shop", connection=Redis(host="127.0.0.1", port=1))


@pytest.fixture
def durable_app() -> None:
    """These tests have no Celery."""
    return


@pytest.fixture(autouse=True)
def bank() -> shop.Bank:
    """The shop's bank, which nothing was asked of yet."""
    shop.bank.__init__()  # type: ignore[misc]
    return shop.bank


def plain(what: str) -> str:
    """Not marked."""
    shop.bank.effects.append(what)
    return what


def called_back(job: Job, _connection: Any, value: Any) -> None:
    """An `on_success`."""
    shop.bank.effects.append(f"{job.func_name} gave {value}")


def test_a_job_runs_at_once_whatever_redis_its_queue_has(durable_journal: TestJournal, bank: shop.Bank) -> None:
    job = nowhere.enqueue(shop.charge, "42")
    assert bank.effects == ["charge 42"]
    assert (job.get_status(), job.return_value()) == (JobStatus.FINISHED, "ch-42")
    assert durable_journal.steps(job) == ["charge: succeeded"]


def test_a_chain_is_one_workflow(durable_journal: TestJournal, bank: shop.Bank) -> None:
    charged = nowhere.enqueue(shop.charge, "42")
    shipped = nowhere.enqueue(shop.ship, "42", depends_on=charged)
    assert durable_journal.steps(shipped) == ["charge: succeeded", "ship: succeeded"]
    assert durable_journal.workflow(charged) == durable_journal.workflow(shipped)


def test_what_fails_undoes_what_was_done(durable_journal: TestJournal, bank: shop.Bank) -> None:
    reserved = nowhere.enqueue(shop.reserve, "42")
    nowhere.enqueue(shop.decline, "42", depends_on=reserved)
    workflow = durable_journal.workflow(reserved)
    assert workflow.status == "compensated"
    assert workflow.steps == ["reserve: undone", "decline: failed", "refund: succeeded"]


@WAITING
def test_a_function_sleeps_until_the_test_lets_time_pass(durable_journal: TestJournal, bank: shop.Bank) -> None:
    job = nowhere.enqueue(shop.sleeper, "42")
    assert durable_journal.steps(job) == ["charge: succeeded", "sleep: waiting"]
    assert job.get_status(refresh=True) is JobStatus.SCHEDULED
    durable_journal.advance(hours=1)
    assert job.return_value(refresh=True) == ["ch-42", "sh-42"]


def test_a_job_that_is_put_off_waits_for_the_test(durable_journal: TestJournal, bank: shop.Bank) -> None:
    nowhere.enqueue_in(timedelta(minutes=10), shop.charge, "42")
    nowhere.enqueue_in(timedelta(minutes=5), plain, "mail")
    assert bank.effects == []
    durable_journal.advance(minutes=6)
    assert bank.effects == ["mail"]
    durable_journal.advance(minutes=5)
    assert bank.effects == ["mail", "charge 42"]


@REPEATS
def test_each_tick_of_a_repeat_is_a_workflow(durable_journal: TestJournal, bank: shop.Bank) -> None:
    from rq import Repeat

    nowhere.enqueue(shop.charge, "42", repeat=Repeat(times=2, interval=60))
    durable_journal.advance(minutes=5)
    assert bank.effects == ["charge 42"] * 3
    assert [workflow.status for workflow in durable_journal.workflows()] == ["succeeded"] * 3


def test_rqs_retry_is_refused_to_what_may_have_happened(durable_journal: TestJournal, bank: shop.Bank) -> None:
    bank.trouble = [TimeoutError("no answer")]
    nowhere.enqueue(shop.charge, "42", retry=Retry(max=3))
    durable_journal.advance(hours=1)
    assert durable_journal.held() == ["charge: held"]
    assert bank.effects == ["charge 42"]


def test_rqs_retry_with_an_interval_of_an_idempotent_job(durable_journal: TestJournal, bank: shop.Bank) -> None:
    bank.trouble = [TimeoutError("no answer")]
    job = nowhere.enqueue(shop.keyed, "42", retry=Retry(max=3, interval=600))
    durable_journal.advance(hours=1)
    assert job.return_value(refresh=True) == "ke-42"
    assert len(set(bank.keys)) == 1


def test_a_job_whose_horse_is_killed(durable_journal: TestJournal, bank: shop.Bank) -> None:
    bank.trouble = [Killed("kill -9")]
    nowhere.enqueue(shop.charge, "42", retry=Retry(max=3))
    durable_journal.advance(hours=1)
    assert durable_journal.held() == ["charge: held"]
    assert bank.effects == ["charge 42"]


def test_unmarked_jobs_run_here_too_and_are_not_recorded(durable_journal: TestJournal, bank: shop.Bank) -> None:
    first = nowhere.enqueue(plain, "one", on_success=Callback(called_back))
    nowhere.enqueue(plain, "two", depends_on=first)
    assert bank.effects == ["one", f"{plain.__module__}.plain gave one", "two"]
    assert durable_journal.workflows() == []


def test_an_unmarked_job_that_fails_is_retried_as_rq_would(durable_journal: TestJournal, bank: shop.Bank) -> None:
    bank.trouble = [ValueError("no"), ValueError("no")]
    nowhere.enqueue(shop.mail, "42", retry=Retry(max=2, interval=[10, 60]))
    assert bank.effects == ["mail 42"]
    durable_journal.advance(11)
    assert bank.effects == ["mail 42"] * 2
    durable_journal.advance(61)
    assert bank.effects == ["mail 42"] * 3


def test_jobs_of_several_queues_and_many_at_once(durable_journal: TestJournal, bank: shop.Bank) -> None:
    other = Queue("other", connection=nowhere.connection)
    other.enqueue_many([Queue.prepare_data(shop.charge, (n,)) for n in ("1", "2")])
    nowhere.enqueue(shop.ship, "3")
    assert sorted(bank.effects) == ["charge 1", "charge 2", "ship 3"]


def test_a_synchronous_queue_runs_where_it_enqueues(durable_journal: TestJournal, bank: shop.Bank) -> None:
    job = Queue("now", is_async=False, connection=nowhere.connection).enqueue(shop.charge, "42")
    assert job.return_value() == "ch-42"
    assert durable_journal.steps(job) == ["charge: succeeded"]


def test_a_declared_id_starts_once(durable_journal: TestJournal, bank: shop.Bank) -> None:
    first = durable_rq.start("order-42", nowhere, shop.charge, "42")
    second = durable_rq.start("order-42", nowhere, shop.charge, "42")
    assert first.id == second.id
    assert bank.effects == ["charge 42"]
    with pytest.raises(SameIdOtherArguments):
        durable_rq.start("order-42", nowhere, shop.charge, "43")
    assert durable_rq.handle("order-42").status == "succeeded"


def test_results_are_read_long_after_rq_forgot_them(durable_journal: TestJournal, bank: shop.Bank) -> None:
    job = nowhere.enqueue(shop.charge, "42", result_ttl=0)
    assert durable_rq.result_of(job) == "ch-42"


def test_afterwards_rq_is_as_it_was(durable_template: Path, tmp_path: Path) -> None:
    methods = [(Queue, "enqueue_job"), (Queue, "enqueue"), (Queue, "schedule_job"), (Job, "create"), (Job, "_execute")]
    before = [owner.__dict__[name] for owner, name in methods]
    shutil.copy(durable_template, tmp_path / "journal.sqlite3")
    with redirected(f"sqlite:///{tmp_path}/journal.sqlite3", redis=FakeStrictRedis(server=FakeServer())):
        assert nowhere.enqueue(plain, "here").return_value() == "here"
        assert [owner.__dict__[name] for owner, name in methods] != before
    assert [owner.__dict__[name] for owner, name in methods] == before


def test_outside_of_the_fixture_queues_have_their_own_redis() -> None:
    assert nowhere.connection.connection_pool.connection_kwargs["port"] == 1
    assert Binding.installed == []
    assert "connection" not in vars(Queue)
    assert "connection" not in vars(Job)
