"""A workflow function on one engine dispatches steps to the other; one journal, real workers of both."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.model import StepRow, StepStatus, WorkflowStatus
from tests.journal.making import age
from tests.servers.databases import Databases
from tests.servers.process import RunningProcess
from tests.servers.unavailable import Unavailable
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[2]
SOON = 40.0


class Bridge:
    """A celery worker, an rq worker, and what happened."""

    def __init__(self, journal: Journal, ledger: Path, environment: dict[str, str], queue: str) -> None:
        self.journal = journal
        self.ledger = ledger
        self.environment = environment
        self.queue = queue
        self.processes: list[RunningProcess] = []

    def run(self, name: str, *command: str) -> None:
        self.processes.append(
            RunningProcess([sys.executable, "-m", *command], log=self.ledger.parent / f"{name}.log", cwd=ROOT, name=name,
                           env=dict(self.environment))
        )  # fmt: skip

    def run_jobs(self) -> None:
        """Starts the rq worker."""
        redis_url = self.environment["BRIDGE_REDIS"]
        self.run("rq", "rq.cli", "worker", "-w", "durable_adapter.rq.SimpleWorker", "-u", redis_url, self.queue)

    def start(self, code: str) -> None:
        """Runs a line of a publisher's code to its end."""
        process = RunningProcess(
            [sys.executable, "-c", f"import redis; from tests.bridge import shop; {code}"],
            log=self.ledger.parent / "publisher.log", cwd=ROOT, name="publisher", env=dict(self.environment),
        )  # fmt: skip
        self.processes.append(process)

    def ends_as(self, workflow: str, status: WorkflowStatus) -> None:
        def ended() -> bool:
            found = self.journal.reads.latest("default", workflow)
            return found is not None and found.status is status

        eventually(ended, timeout=SOON, message=lambda: f"{workflow} does not end as {status}: {self.told(workflow)}")

    def told(self, workflow: str) -> str:
        """Everything about a run, for a failure."""
        run = self.journal.reads.latest("default", workflow)
        story = [] if run is None else [(s.name, s.engine, s.status.value, s.doubt) for s in self.journal.reads.steps(run.ref)]
        logs = "\n".join(f"--- {process.name}\n{process.tail()}" for process in self.processes)
        return f"{run and run.status} {story}\n{logs}"

    def happened(self) -> list[str]:
        return self.ledger.read_text().splitlines() if self.ledger.exists() else []


@pytest.fixture(scope="module")
def bridge(redis_url: str, databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """Workers of both engines on one queue name and one journal."""
    with built(redis_url, databases, tmp_path_factory.mktemp("bridge")) as made:
        made.run_jobs()
        yield made


@pytest.fixture
def half_bridge(redis_url: str, databases: Databases, tmp_path: Path) -> Iterator[Bridge]:
    """A celery worker, and no rq worker yet."""
    with built(redis_url, databases, tmp_path) as made:
        yield made


@contextlib.contextmanager
def built(redis_url: str, databases: Databases, directory: Path) -> Iterator[Bridge]:
    """A journal, and a celery worker."""

    def prepare(url: str) -> None:
        journal = Journal(url)
        migrate(journal)
        journal.close()

    try:
        url = databases.fresh("postgresql", prepare)
    except Unavailable:
        url = databases.fresh("sqlite", prepare)
    queue = f"bridge-{secrets.token_hex(4)}"
    environment = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DURABLE_ADAPTER_JOURNAL": url,
        "DURABLE_ADAPTER_SWEEP_EVERY": "0.5",
        "BRIDGE_REDIS": redis_url,
        "BRIDGE_QUEUE": queue,
        "BRIDGE_LEDGER": str(directory / "ledger"),
    }
    made = Bridge(Journal(url), directory / "ledger", environment, queue)
    celery = ("celery", "-A", "tests.bridge.shop", "worker", "-P", "solo", "-Q", queue, "-n", f"{queue}@%h", "-l", "INFO")
    made.run("celery", *celery, "--without-gossip", "--without-mingle")
    try:
        yield made
    finally:
        for process in reversed(made.processes):
            process.stop()
        made.journal.close()


def steps(bridge: Bridge, workflow: str) -> list[tuple[str, str | None, StepStatus]]:
    run = bridge.journal.reads.latest("default", workflow)
    assert run is not None
    return [(s.name.rpartition(".")[2], s.engine, s.status) for s in bridge.journal.reads.steps(run.ref)]


def test_a_function_on_celery_charges_on_rq(bridge: Bridge) -> None:
    bridge.start("shop.fulfil.delay('1')")
    bridge.ends_as("celery-1", WorkflowStatus.SUCCEEDED)
    assert bridge.happened().count("charge 1") == bridge.happened().count("ship 1") == 1
    assert ("charge", "rq", StepStatus.SUCCEEDED) in steps(bridge, "celery-1")


def test_a_function_on_rq_ships_on_celery(bridge: Bridge) -> None:
    bridge.start("shop.jobs().enqueue(shop.fulfil_on_rq, '2')")
    bridge.ends_as("rq-2", WorkflowStatus.SUCCEEDED)
    assert bridge.happened().count("charge 2") == bridge.happened().count("ship 2") == 1
    assert ("ship", "celery", StepStatus.SUCCEEDED) in steps(bridge, "rq-2")


def test_what_was_done_on_the_other_engine_is_undone_there(bridge: Bridge) -> None:
    bridge.start("shop.fulfil.delay('broken')")
    bridge.ends_as("celery-broken", WorkflowStatus.COMPENSATED)
    assert [line for line in bridge.happened() if "broken" in line] == ["charge broken", "refund broken"]
    assert ("refund", "rq", StepStatus.SUCCEEDED) in steps(bridge, "celery-broken")


def test_what_one_engine_lost_is_sent_again_by_a_worker_of_the_other(half_bridge: Bridge, redis_url: str) -> None:
    half_bridge.start("shop.fulfil.delay('lost')")
    eventually(lambda: (sent := dispatched(half_bridge)) is not None and sent.task_id, timeout=SOON)
    sent = dispatched(half_bridge)
    assert sent is not None
    jobs = Redis.from_url(redis_url)
    eventually(lambda: jobs.lrange(f"rq:queue:{half_bridge.queue}", 0, -1), timeout=SOON)
    jobs.delete(f"rq:job:{sent.task_id}", f"rq:queue:{half_bridge.queue}")
    jobs.close()
    eventually(lambda: (run := half_bridge.journal.reads.run(sent.ref)) is not None and run.waiting_for, timeout=SOON)
    half_bridge.run_jobs()
    for key in (None, sent.key):
        age(half_bridge.journal, sent.ref, key)  # or it would be given a while, for its job may be on its way
    half_bridge.ends_as("celery-lost", WorkflowStatus.SUCCEEDED)
    assert half_bridge.happened().count("charge lost") == half_bridge.happened().count("ship lost") == 1


def dispatched(bridge: Bridge) -> StepRow | None:
    """The step that the function on Celery sent to RQ."""
    run = bridge.journal.reads.latest("default", "celery-lost")
    steps = [] if run is None else bridge.journal.reads.steps(run.ref)
    return next((s for s in steps if s.name.endswith("charge")), None)
