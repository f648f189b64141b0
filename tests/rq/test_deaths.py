"""The scenarios in which a process dies, with real `rq worker` processes; A to N as the notes name them."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Retry
from rq import Worker as RQWorker
from rq.command import send_stop_job_command
from rq.job import JobStatus

from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal.members import MAX_UNBEGUN
from durable_adapter.model import StepStatus, WorkflowStatus
from durable_adapter.rq import Worker, install, worker
from durable_adapter.rq.identity import place_of
from durable_adapter.runtime.values import encode
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, steps
from tests.rq.test_scenarios import SAFETIES, abandoned, chain, is_whole
from tests.rq.world import SOON, Shop, prepare, started_worker
from tests.rq_versions import SPAWNING, since
from tests.servers.databases import Databases
from tests.servers.process import RunningProcess
from tests.servers.unavailable import Unavailable
from tests.servers.waiting import eventually

#: The queue of the worker that most tests here share.
QUEUE = "durable-test-shared"


class DiesBeforeItCommits(Worker):
    """F: the function returned; its horse and the worker die before Redis hears of it."""

    def handle_job_success(self, *args: Any, **kwargs: Any) -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


class DiesBeforeItBegins(Worker):
    """Its horses die before the first job of an order begins, as often as the test has written down."""

    def main_work_horse(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        deaths = deaths_of(job.args[0])
        if self.connection.exists(deaths) and self.connection.decr(deaths) >= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().main_work_horse(job, *args, **kwargs)


class SweepsBehindADeath(Worker):
    """It beats no more once it is told to stop, and is gone only after its sweeper has looked at the step of its dead horse."""

    def request_stop(self, *args: Any, **kwargs: Any) -> Any:
        install().host.beat = lambda: True  # type: ignore[method-assign]
        return super().request_stop(*args, **kwargs)

    def monitor_work_horse(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().monitor_work_horse(job, *args, **kwargs)
        finally:
            eventually(lambda: self._was_looked_at(job), SOON)

    def _was_looked_at(self, job: Any) -> bool:
        row = install().journal.claims.get(*place_of(job))
        assert row is not None
        return row.next_check_at is None or row.next_check_at > (row.over_at or row.next_check_at)


def deaths_of(order: str) -> str:
    """The key in Redis that says how many horses are still to die for an order."""
    return f"durable-test-deaths:{order}"


@pytest.fixture(scope="module")
def journal(databases: Databases) -> str:
    """A journal for several processes: PostgreSQL; SQLite where there is none."""
    try:
        return databases.fresh("postgresql", prepare)
    except Unavailable:
        return databases.fresh("sqlite", prepare)


@pytest.fixture(scope="module")
def shared_worker(redis_url: str, journal: str, directory: Path) -> Iterator[RunningProcess]:
    """A worker that forks; only its horses die."""
    with started_worker(redis_url, journal, directory, QUEUE) as process:
        yield process


@pytest.fixture
def shop(make_shop: Callable[..., Shop], journal: str) -> Shop:
    """This process publishes to a journal that real workers use."""
    return make_shop(journal)


@pytest.fixture
def served(shop: Shop, shared_worker: RunningProcess) -> Iterator[Shop]:
    """The same, with the shared worker. If the test fails, its log is shown."""
    shop.name = QUEUE
    seen = len(shared_worker.output)
    yield shop
    assert shared_worker.returncode is None, shared_worker.tail()
    print(f"--- the shared worker's log\n{shared_worker.output[seen:]}")


def becomes_whole(shop: Shop, jobs: list[Any], order: str) -> bool:
    """Waits until a chain is done, and looks at it."""
    shop.settled(jobs[0], WorkflowStatus.SUCCEEDED)
    eventually(lambda: shop.rq_status(jobs[-1]) is JobStatus.FINISHED, SOON)
    return is_whole(shop, jobs, order)


def is_held(shop: Shop, jobs: list[Any], order: str) -> bool:
    """Waits until the charge is held, and looks at what happened."""
    shop.step_is(jobs[0], StepStatus.HELD)
    assert [steps.charges(order), shop.ledger.count(order, "book")] == [1, 0]
    assert shop.status(jobs[0]) is WorkflowStatus.RUNNING
    return True


@pytest.mark.parametrize("retry", [Retry(max=3), None], ids=["a", "b"])
@pytest.mark.parametrize("safety", SAFETIES)
def test_ab_a_horse_is_killed_after_the_effect(
    served: Shop, ledger: Ledger, order: str, safety: str, retry: Retry | None
) -> None:
    jobs = chain(served, order, safety, "kill", retry=retry)
    if safety != "undeclared":
        assert becomes_whole(served, jobs, order)
        return
    assert is_held(served, jobs, order)
    if retry is None:  # B2: an operator sends it again
        eventually(lambda: served.rq_status(jobs[0]) is JobStatus.FAILED, SOON)
        jobs[0].requeue()
        eventually(lambda: served.rq_status(jobs[0]) is JobStatus.SCHEDULED, SOON)
        assert is_held(served, jobs, order)


@pytest.mark.parametrize("safety", SAFETIES)
def test_c_a_horse_is_killed_every_time(served: Shop, ledger: Ledger, order: str, safety: str) -> None:
    jobs = chain(served, order, safety, "kill always", retry=Retry(max=3))
    if safety == "probe":
        assert becomes_whole(served, jobs, order)
    else:
        assert is_held(served, jobs, order)
        assert ledger.count(order, "charge") == (1 if safety == "undeclared" else 4)


@pytest.mark.parametrize("safety", SAFETIES)
def test_horses_that_die_before_the_step_begins_leave_no_doubt(shop: Shop, ledger: Ledger, order: str, safety: str) -> None:
    shop.redis.set(deaths_of(order), 3, ex=300)
    jobs = chain(shop, order, safety)
    with shop.worker("tests.rq.test_deaths.DiesBeforeItBegins"):
        assert becomes_whole(shop, jobs, order)
    charge = shop.steps(jobs[0])[0]
    assert (charge.attempt, charge.losses) == (1, 3)
    assert "in_doubt" not in shop.events(jobs[0])


def test_the_death_of_a_horse_is_written_once_by_two_threads(shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = Worker([shop.queue], connection=shop.redis)
    charge = shop.steps(chain(shop, order)[0])[0]
    dead._durable_lost = [(f"{charge.ref} - {charge.key}", "its horse died")]
    dead._durable_writing = threading.Lock()
    sweeping = threading.Thread(target=dead._durable_record_lost, args=(shop.binding,))
    written: list[str] = []

    def write(*_args: Any, **_options: Any) -> bool:
        written.append(threading.current_thread().name)
        if len(written) == 1:
            sweeping.start()
            sweeping.join(0.5)
        return True

    monkeypatch.setattr(worker, "attempt_lost", write)
    assert dead._durable_record_lost(shop.binding)
    sweeping.join(SOON)
    assert written == [threading.current_thread().name]


@pytest.mark.parametrize("away_for", [3, 10**6])
def test_a_worker_that_ends_records_the_deaths_of_its_horses_first(
    shop: Shop, order: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, away_for: int
) -> None:
    """RQ ended it because Redis was away, and the journal was away as well."""
    monkeypatch.setattr(worker, "RECORDED_WITHIN", 5.0 if away_for == 3 else 0.0)
    dead = Worker([shop.queue], connection=shop.redis)
    charge = shop.steps(chain(shop, order)[0])[0]
    dead._durable_lost = [(f"{charge.ref} - {charge.key}", "its horse died")]
    dead._durable_writing = threading.Lock()
    get, asked = shop.journal.claims.get, itertools.count(1)

    def sometimes(ref: str, key: str) -> Any:
        if next(asked) < away_for:
            raise JournalUnreachable("the journal is away")
        return get(ref, key)

    with monkeypatch.context() as patch:
        patch.setattr(shop.journal.claims, "get", sometimes)
        dead._durable_record_rest(shop.binding)
    recorded = away_for == 3
    assert (dead._durable_lost == [], shop.journal.claims.get(charge.ref, charge.key).losses) == (recorded, int(recorded))
    assert ("deaths_not_recorded" in caplog.text) is not recorded


def test_a_function_whose_horses_die_before_it_begins_goes_on(shop: Shop, ledger: Ledger, order: str) -> None:
    ledger.open("function", order)
    shop.redis.set(deaths_of(order), 3, ex=300)
    job = shop.queue.enqueue(functions.waits_at_a_gate, order)
    with shop.worker("tests.rq.test_deaths.DiesBeforeItBegins"):
        assert shop.settled(job).status is WorkflowStatus.SUCCEEDED


def test_a_step_that_kills_its_horse_each_time_comes_to_rest_with_a_person(shop: Shop, ledger: Ledger, order: str) -> None:
    shop.redis.set(deaths_of(order), 1000, ex=300)
    jobs = chain(shop, order)
    with shop.worker("tests.rq.test_deaths.DiesBeforeItBegins"):
        eventually(lambda: shop.steps(jobs[0])[0].losses == MAX_UNBEGUN, SOON)
        for later in (100, 200, 400, 800, 1600):
            eventually(lambda: not shop.queue.job_ids and shop.rq_status(jobs[0]) is JobStatus.FAILED, SOON)
            shop.sweep(later)
        row = shop.step_is(jobs[0], StepStatus.HELD)
    assert (row.attempt, row.losses) == (0, MAX_UNBEGUN)
    assert 1000 - int(shop.redis.get(deaths_of(order))) <= MAX_UNBEGUN + 3
    assert ledger.names(order) == []


@pytest.mark.parametrize("safety", SAFETIES)
def test_n_a_person_stops_the_job(served: Shop, ledger: Ledger, order: str, safety: str) -> None:
    jobs = chain(served, order, safety, "gate", retry=Retry(max=3))
    eventually(lambda: ledger.count(order, "at gate"), SOON)
    send_stop_job_command(served.redis, jobs[0].id)
    if safety != "undeclared":
        assert becomes_whole(served, jobs, order)
        return
    assert is_held(served, jobs, order)
    eventually(lambda: served.rq_status(jobs[0]) is JobStatus.STOPPED, SOON)
    # RQ before 2.8 sends what comes after it all the same.
    waits = JobStatus.DEFERRED if since("2.8") else JobStatus.SCHEDULED
    eventually(lambda: served.rq_status(jobs[1]) is waits, SOON)
    held = served.steps(jobs[0])[0]
    served.journal.verdicts.happened(held, encode(f"ch-{order}"), who="ann", why="the bank says so")
    eventually(lambda: served.rq_status(jobs[0]) is JobStatus.FINISHED, SOON)
    assert becomes_whole(served, jobs, order)


def test_a_function_whose_horse_is_killed_goes_on_where_it_was(served: Shop, ledger: Ledger, order: str) -> None:
    job = served.queue.enqueue(functions.waits_at_a_gate, order)
    eventually(lambda: ledger.count(order, "at function"), SOON)
    os.kill(ledger.entries(order, "at function")[0]["pid"], signal.SIGKILL)
    ledger.open("function", order)
    served.settled(job, WorkflowStatus.SUCCEEDED)
    assert [ledger.count(order, what) for what in ("charge", "at function", "book")] == [1, 2, 1]
    eventually(lambda: served.value(job) == [f"ch-{order}", f"bk-{order}"], SOON)


@pytest.mark.parametrize("retry", [Retry(max=3), None], ids=["retry", ""])
def test_f_horse_and_worker_die_before_the_success_is_committed(
    shop: Shop, ledger: Ledger, order: str, retry: Retry | None
) -> None:
    jobs = chain(shop, order, retry=retry)
    with shop.worker("tests.rq.test_deaths.DiesBeforeItCommits") as worker:
        assert worker.wait() == -signal.SIGKILL
    assert [shop.rq_status(job) for job in jobs] == [JobStatus.STARTED, JobStatus.DEFERRED, JobStatus.DEFERRED]
    for row in shop.journal.workers.alive():
        if row.pid == worker.pid:
            assert shop.journal.workers.stood_still(row.id, row.beats, "its beat stood still")
    shop.sweep_and_work(70, 140)
    assert is_whole(shop, jobs, order)


@pytest.mark.parametrize("safety", SAFETIES)
def test_l_the_parent_is_killed_and_its_horse_goes_on(shop: Shop, ledger: Ledger, order: str, safety: str) -> None:
    jobs = chain(shop, order, safety, "gate", retry=Retry(max=3))
    with shop.worker() as worker:
        pid = worker.pid
        eventually(lambda: ledger.count(order, "at gate"), SOON)
        rows = shop.journal.workers.alive
        row = eventually(lambda: next((w for w in rows() if w.pid == pid and w.running), None), SOON)
        worker.kill()
        worker.wait()

        def beats() -> int:
            return next((w.beats for w in shop.journal.workers.alive() if w.id == row.id), 0)

        seen = beats()
        eventually(lambda: beats() > seen + 1, SOON, "the orphan to beat for itself")
        abandoned(shop)
        shop.work(jobs=1)  # RQ sends it to another worker while the first still runs
        assert steps.charges(order) == 1
        assert ledger.count(order, "charge") == 1
        assert shop.rq_status(jobs[0]) is JobStatus.SCHEDULED
        ledger.open("gate", order)
        eventually(lambda: shop.rq_status(jobs[0]) is JobStatus.FINISHED, SOON)
        eventually(lambda: not worker.remains(), SOON)
    shop.work()
    assert is_whole(shop, jobs, order)


@pytest.mark.parametrize("safety", SAFETIES)
@pytest.mark.parametrize("worker_class", [Worker, SweepsBehindADeath])
def test_m_a_worker_is_told_twice_to_stop(
    shop: Shop, ledger: Ledger, order: str, safety: str, worker_class: type[Worker]
) -> None:
    """What a container's runtime does to a job that takes longer than its patience."""
    jobs = chain(shop, order, safety, "gate", retry=Retry(max=3))
    with shop.worker(f"{worker_class.__module__}.{worker_class.__name__}") as worker:
        eventually(lambda: ledger.count(order, "at gate"), SOON)
        rows = shop.journal.workers.alive
        eventually(lambda: any(row.running for row in rows() if row.pid == worker.pid), SOON, "a beat that names the step")

        worker.kill(signal.SIGTERM)
        worker.wait_for_line("warm shut down requested")
        asked = time.monotonic()
        eventually(lambda: time.monotonic() > asked + 1.1, SOON)  # RQ takes an earlier second one for the first
        worker.kill(signal.SIGTERM)
        worker.wait()
    shop.sweep_and_work(0, 5, 70)
    if safety == "undeclared":
        assert is_held(shop, jobs, order)
    else:
        assert is_whole(shop, jobs, order)


def test_a_worker_whose_temporary_file_was_tidied_away_goes_on(
    shop: Shop, ledger: Ledger, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with shop.worker():
        for path in tmp_path.glob("durable-adapter-rq-*"):
            path.unlink()
        job = shop.queue.enqueue(steps.charge, order, "kill", retry=Retry(max=3))
        shop.step_is(job, StepStatus.HELD)
    assert ledger.names(order) == ["charge"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"worker_class": "durable_adapter.rq.SpawnWorker"}, marks=SPAWNING),
        {"command": "worker-pool", "options": ("-n", "2"), "ready": None},
    ],
    ids=["spawned", "pool"],
)
def test_horses_of_every_sort_that_are_killed(shop: Shop, ledger: Ledger, order: str, how: dict[str, Any]) -> None:
    """Each horse of a worker that spawns them imports everything anew, so that this takes its time."""
    undeclared = shop.queue.enqueue(steps.charge, f"{order}-u", "kill", retry=Retry(max=3))
    idempotent = shop.queue.enqueue(steps.charge_idempotent, f"{order}-i", "kill", retry=Retry(max=3))
    with shop.worker(**how):
        shop.settled(idempotent, WorkflowStatus.SUCCEEDED, timeout=3 * SOON)
        shop.step_is(undeclared, StepStatus.HELD, timeout=3 * SOON)
    assert [steps.charges(f"{order}-{which}") for which in "ui"] == [1, 1]
    assert ledger.count(f"{order}-u", "charge") == 1


@SPAWNING
def test_a_spawned_horse_whose_workers_hash_is_gone_leaves_nothing_behind(busy_shop: Shop, order: str) -> None:
    """After a flush, RQ would find its job among those that were taken and never begun, and call it failed."""
    shop = busy_shop
    with shop.worker("durable_adapter.rq.SpawnWorker"):
        worker = eventually(lambda: next(iter(RQWorker.all(queue=shop.queue)), None), SOON)
        shop.redis.delete(worker.key)
        job = shop.queue.enqueue(steps.charge, order)
        eventually(lambda: shop.rq_status(job) is JobStatus.FINISHED, SOON)
        assert shop.redis.llen(shop.queue.intermediate_queue_key) == 0
