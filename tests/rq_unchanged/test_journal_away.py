"""While the journal is away, or has no tables, only what is marked has to wait: everything else is sent and run (P9, P10)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rq import Queue

from durable_adapter.errors import JournalError
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import step, worker
from durable_adapter.model import StepStatus
from durable_adapter.rq import install, uninstall
from tests.rq_unchanged import jobs
from tests.rq_unchanged.shop import charge
from tests.rq_unchanged.stage import RQ, Stage, prepare
from tests.rq_versions import SPAWNING
from tests.servers.addresses import LOOPBACK, free_port
from tests.servers.waiting import eventually

TROUBLES = ("refused", "silent", "no directory", "no tables")
#: A journal that is set like this is given up quickly enough for a test, and beats often.
FAST = {"DURABLE_ADAPTER_STALE": "4", "DURABLE_ADAPTER_BEAT": "0.5", "DURABLE_ADAPTER_SWEEP_EVERY": "0.5"}


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a database that takes connections and never answers."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        yield f"postgresql+psycopg://root@{LOOPBACK}:{listening.getsockname()[1]}/nothing"


@pytest.fixture(params=TROUBLES)
def trouble(request: pytest.FixtureRequest, silent: str, tmp_path: Path) -> str:
    """The URL of a journal that cannot be used."""
    return {
        "refused": f"postgresql+psycopg://root@{LOOPBACK}:{free_port()}/nothing",
        "silent": silent,
        "no directory": f"sqlite:///{tmp_path}/nowhere/journal.db",
        "no tables": f"sqlite:///{tmp_path}/empty.db",
    }[request.param]


@pytest.fixture
def rq(plain: Stage, trouble: str) -> Iterator[Stage]:
    """RQ with the plugin, and a journal that cannot be used."""
    plain.journal = trouble
    install(journal=trouble)
    yield plain
    plain.end()
    uninstall()


def test_unmarked_jobs_are_sent_in_every_way(rq: Stage) -> None:
    from datetime import timedelta

    began = time.monotonic()
    queue = rq.queue()
    first = queue.enqueue(jobs.add, 1)
    queue.enqueue(jobs.add, 2, depends_on=first)
    queue.enqueue_in(timedelta(hours=1), jobs.add, 3)
    queue.enqueue_many([Queue.prepare_data(jobs.add, (4,))])
    if RQ >= (2, 0):
        from rq.group import Group

        Group.create(connection=rq.connection).enqueue_many(queue, [Queue.prepare_data(jobs.add, (5,))])
    assert rq.queue(is_async=False).enqueue(jobs.add, 6).return_value() == 6
    assert (queue.count, queue.scheduled_job_registry.count, queue.deferred_job_registry.count) == (
        3 if RQ >= (2, 0) else 2,
        1,
        1,
    )
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("kind", ["SimpleWorker", "Worker", pytest.param("SpawnWorker", marks=SPAWNING)])
def test_unmarked_jobs_are_run_by_every_worker(rq: Stage, kind: str) -> None:
    sent = [rq.queue().enqueue(jobs.add, number) for number in (1, 2)]
    bad = rq.queue().enqueue(jobs.fail)
    rq.work(kind=kind, max_jobs=3)
    assert [job.return_value() for job in sent] == [1, 2]
    assert bad.latest_result().exc_string.rstrip().endswith("ValueError: no stock")
    assert rq.ledger() == ["add 1 0", "add 2 0", "fail no stock"]


@pytest.mark.parametrize("trouble", ["refused", "no tables"], indirect=True)
def test_a_marked_job_is_not_sent_and_its_caller_is_told(rq: Stage) -> None:
    with pytest.raises(JournalError):
        rq.queue().enqueue(charge, "42")
    assert rq.queue().count == 0


@pytest.mark.parametrize("kind", ["SimpleWorker", "Worker", pytest.param("SpawnWorker", marks=SPAWNING)])
def test_a_marked_job_waits_for_the_journal_and_is_begun_once(plain: Stage, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker was started without a journal, so that its horse gets a row of its own, and takes it back."""
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    sent = plain.queue().enqueue(charge, "42")
    behind = plain.queue().enqueue(jobs.add, 1)
    aside = plain.queue("aside").enqueue(jobs.add, 2)
    plain.journal = f"sqlite:///{plain.directory}/late.db"
    process = plain.worker_process(kind=kind)
    plain.worker_process("--burst", kind=kind, queue="aside").wait()
    process.wait_for_line("Waiting for it")
    assert aside.return_value() == 2
    assert plain.ledger() == ["add 2 0"]
    prepare(plain.journal)
    assert plain.settled(sent.id).return_value() == "charged 42"
    assert plain.settled(behind.id).return_value() == 1
    assert plain.ledger() == ["add 2 0", "charge 42", "add 1 0"]
    journal = Journal(plain.journal)
    rows = journal.db.select(step.select())
    assert [(row.status, row.attempt) for row in rows] == [(StepStatus.SUCCEEDED, 1)]
    again = plain.queue().enqueue(jobs.named, "afterwards")
    plain.settled(again.id)
    eventually(
        lambda: sum(row.role == "worker" and row.stopped_at is None for row in journal.db.select(worker.select())) == 1,
        message=lambda: str(journal.db.select(worker.select())),
    )
    journal.close()
