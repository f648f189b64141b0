"""What takes real processes: stopping a job, dying horses, shutdowns, pools, spawned horses, the commands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rq import Callback, Retry
from rq.command import send_kill_horse_command, send_shutdown_command, send_stop_job_command
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from tests.rq_unchanged import jobs
from tests.rq_unchanged.stage import ROOT, RQ, Stage
from tests.rq_versions import SPAWNING
from tests.servers.waiting import eventually


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file for which a job waits."""
    return tmp_path / "gate"


def test_a_forked_horse_runs_each_job(rq: Stage) -> None:
    sent = [rq.queue().enqueue(jobs.environment, job_id=name) for name in ("one", "two")]
    worker = rq.work(kind="Worker")
    found = [job.return_value() for job in sent]
    assert found == [{"RQ_JOB_ID": name, "RQ_WORKER_ID": worker.name} for name in ("one", "two")]


def test_a_horse_that_dies_fails_its_job_and_the_handler_hears_of_it(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.die, on_failure=Callback(jobs.failed))
    rq.work(kind="Worker", options={"work_horse_killed_handler": jobs.horse_killed})
    assert job.get_status(refresh=True) == JobStatus.FAILED
    assert "Work-horse terminated unexpectedly" in job.latest_result().exc_string
    assert rq.ledger() == ["die", f"horse killed {job.id} {int(signal.SIGKILL)}"]


def test_a_job_whose_horse_died_is_tried_again(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.die, retry=Retry(max=1))
    rq.work(kind="Worker")
    assert (job.get_status(refresh=True), rq.ledger()) == (JobStatus.FAILED, ["die", "die"])


def test_a_running_job_is_seen_and_can_be_stopped(rq: Stage, gate: Path) -> None:
    job = rq.queue().enqueue(jobs.wait_for, str(gate), on_stopped=Callback(jobs.stopped), on_failure=Callback(jobs.failed))
    rq.worker_process()
    rq.said("began")
    assert rq.job(job.id).get_status() == JobStatus.STARTED
    running = rq.queue().started_job_registry.get_job_ids()
    assert [name.partition(":")[0] for name in running] == [job.id]  # RQ 2.0 and 2.1 name the execution as well
    send_stop_job_command(rq.connection, job.id)
    assert rq.settled(job.id, "stopped", "failed").get_status() == JobStatus.STOPPED
    rq.said("stopped")
    eventually(lambda: rq.queue().failed_job_registry.get_job_ids() == [job.id])
    assert "Job stopped by user" in job.latest_result().exc_string
    assert rq.queue().enqueue(jobs.named, "next")
    rq.said("next")
    assert not any(line.startswith(("ended", "failed")) for line in rq.ledger())


def test_a_horse_is_killed_on_command(rq: Stage, gate: Path) -> None:
    job = rq.queue().enqueue(jobs.wait_for, str(gate))
    rq.worker_process("--name", "killed")
    rq.said("began")
    send_kill_horse_command(rq.connection, "killed")
    assert "Work-horse terminated unexpectedly" in rq.settled(job.id, "failed").latest_result().exc_string


@pytest.mark.parametrize("kind", ["Worker", "SimpleWorker"])
def test_a_warm_shutdown_lets_the_job_end(rq: Stage, gate: Path, kind: str) -> None:
    job = rq.queue().enqueue(jobs.wait_for, str(gate))
    process = rq.worker_process(kind=kind)
    rq.said("began")
    waits = rq.queue().enqueue(jobs.named, "waits")
    process.kill(signal.SIGTERM)
    process.wait_for_line("[Ww]arm shut ?down|received SIGTERM|shutdown requested|got signal")
    gate.touch()
    assert process.wait() == 0
    assert (job.return_value(), waits.get_status(refresh=True)) == ("waited", JobStatus.QUEUED)


def test_a_cold_shutdown_kills_the_horse(rq: Stage, gate: Path) -> None:
    rq.queue().enqueue(jobs.wait_for, str(gate))
    process = rq.worker_process()
    rq.said("began")
    horse = int(rq.ledger()[0].split()[1])
    process.kill(signal.SIGTERM)
    process.wait_for_line("[Ww]arm shut ?down|received SIGTERM|shutdown requested|got signal")
    # RQ takes a second signal within a second for the first one's echo.
    eventually(lambda: process.kill(signal.SIGTERM) or process.returncode is not None, interval=1.1)
    eventually(lambda: not Path(f"/proc/{horse}").exists() or b"Z" in Path(f"/proc/{horse}/stat").read_bytes().split()[2])
    assert not any(line.startswith("ended") for line in rq.ledger())


def test_a_worker_is_shut_down_on_command(rq: Stage) -> None:
    process = rq.worker_process("--name", "leaving")
    eventually(lambda: rq.connection.pubsub_numsub("rq:pubsub:leaving")[0][1])
    send_shutdown_command(rq.connection, "leaving")
    assert process.wait() == 0


@SPAWNING
def test_a_spawned_horse_runs_the_job(rq: Stage) -> None:
    job = rq.queue().enqueue(jobs.environment, job_id="one")
    bad = rq.queue().enqueue(jobs.fail)
    died = rq.queue().enqueue(jobs.die)
    rq.worker_process("--burst", "--name", "spawning", kind="SpawnWorker").wait()
    around = job.return_value()
    assert around["RQ_WORKER_ID"] == "spawning"
    if not (2, 8) <= RQ < (3, 0):  # plain RQ leaves it out there
        assert around["RQ_JOB_ID"] == "one"
    assert bad.latest_result().exc_string.rstrip().endswith("ValueError: no stock")
    assert "durable_adapter" not in bad.latest_result().exc_string
    assert "Work-horse terminated unexpectedly" in died.latest_result().exc_string


@pytest.mark.skipif(RQ < (2, 9), reason="a spawned horse is told the serializer since RQ 2.9")
def test_a_spawned_horse_reads_with_the_workers_serializer(rq: Stage) -> None:
    job = rq.queue(serializer=JSONSerializer).enqueue(jobs.add, 1)
    rq.worker_process("--burst", "-S", "rq.serializers.JSONSerializer", kind="SpawnWorker").wait()
    assert job.return_value() == 1


def test_a_pool_of_workers_serves_a_queue(rq: Stage) -> None:
    sent = [rq.queue().enqueue(jobs.add, number) for number in range(4)]
    rq.process("worker-pool", "-u", rq.url, "-w", f"{rq.room}.Worker", "-n", "2", "--burst", "shop").wait()
    assert [job.return_value() for job in sent] == [0, 1, 2, 3]


def test_the_scheduler_process_of_a_worker_sends_what_is_due(rq: Stage) -> None:
    from datetime import timedelta

    job = rq.queue().enqueue_in(timedelta(seconds=1), jobs.named, "later")
    rq.worker_process("--with-scheduler")
    assert rq.settled(job.id).return_value() == "later"


def test_a_worker_class_of_the_environment_is_used(rq: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """`RQ_WORKER_CLASS` is all that a deployment has to change."""
    monkeypatch.setenv("RQ_WORKER_CLASS", f"{rq.room}.SimpleWorker")
    job = rq.queue().enqueue(jobs.wait_for, str(ROOT))
    rq.process("worker", "-u", rq.url, "--burst", "--name", "simple", "shop").wait()
    assert job.return_value() == "waited"
    assert rq.ledger()[0] == f"began {rq.processes[-1].pid}"
    assert os.getpid() != rq.processes[-1].pid
