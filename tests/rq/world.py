"""The shop as a test sees it: Redis, a journal, a queue, a ledger, workers, and the sweeper with the time passed in."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus

import durable_adapter.rq as durable_rq
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.schema import event, step, workflow
from durable_adapter.model import SECOND, StepRow, StepStatus, WorkflowRow, WorkflowStatus
from durable_adapter.recovery import Report, Sweeper
from durable_adapter.rq.binding import Binding
from durable_adapter.rq.facts import status_of
from tests.celery.ledger import DIRECTORY, Ledger
from tests.rq import shop
from tests.rq.shop import chains
from tests.rq.shop.sql import bookings
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[2]
#: Seconds within which anything here must have happened; most of it takes a tenth of a second.
SOON = 20.0
#: Patience as short as a test with real workers wants it.
FAST = {"stale": 3, "beat": 0.5, "sweep_every": 0.3}
#: RQ's own patience, likewise.
IMPATIENT = ("--worker-ttl", "20", "--maintenance-interval", "5", "--job-monitoring-interval", "1")


def prepare(url: str) -> None:
    """Fills an empty database with the journal's tables, and one of the shop's own."""
    journal = Journal(url)
    migrate(journal)
    bookings.create(journal.db.engine)
    journal.close()


class InProcess(durable_rq.SimpleWorker):
    """A worker in the test's own process: it leaves the process's signals alone, and takes no commands."""

    pubsub_thread = None

    def subscribe(self) -> None:
        """No commands: the thread that listens for them takes a second to end."""

    def _install_signal_handlers(self) -> None:
        """None: Ctrl-C is pytest's."""


class InProcessPlainly(SimpleWorker):
    """RQ's own worker in the test's own process."""

    pubsub_thread = None

    def subscribe(self) -> None:
        """No commands."""

    def _install_signal_handlers(self) -> None:
        """None."""


@dataclass
class Shop:
    """This process, which publishes and may work, and what it shares with real workers."""

    url: str
    journal_url: str
    directory: Path
    binding: Binding
    redis: Redis
    name: str
    _processes: list[RunningProcess] = field(default_factory=list)

    @property
    def journal(self) -> Journal:
        """The journal, as this process's binding has it."""
        return self.binding.journal

    @property
    def queue(self) -> Queue:
        """The test's own queue."""
        return Queue(self.name, connection=self.redis)

    @property
    def ledger(self) -> Ledger:
        """What happened."""
        return Ledger(self.directory)

    def work(
        self, worker: type[Any] | None = None, queues: list[str] | None = None, *, jobs: int | None = None, **options: Any
    ) -> bool:
        """Runs what is queued now, in this process."""
        made = (worker or InProcess)(queues or [self.name], connection=self.redis, **options)
        return bool(made.work(burst=True, max_jobs=jobs, logging_level="CRITICAL"))

    def work_plainly(self, *, jobs: int | None = None) -> None:
        """Runs what is queued now as a worker without the plugin does; the plugin must not be installed."""
        InProcessPlainly([self.name], connection=self.redis).work(burst=True, max_jobs=jobs, logging_level="CRITICAL")

    def sweep(self, after: float = 0.0, *, queues: list[str] | None = None) -> Report:
        """One sweep, so many seconds from now, in a worker that listens on the test's queue."""
        listens = [self.name] if queues is None else queues
        sweeper = Sweeper(self.journal, [self.binding.engine], queues=lambda: listens)
        try:
            return sweeper.sweep(now=self.journal.time() + int(after * SECOND))
        finally:
            sweeper.stop()

    def sweep_and_work(self, *after: float, worker: type[Any] | None = None) -> None:
        """Sweeps at these moments, and runs what that sent."""
        for moment in after:
            report = self.sweep(moment)
            assert report.errors == []
            self.work(worker)

    def of(self, job: Job | str) -> WorkflowRow:
        """The run to which a job belongs; the latest, where its id was used again."""
        found = self.runs_of(job)
        assert found, f"the journal knows nothing of job {job}"
        return found[-1]

    def runs_of(self, job: Job | str) -> list[WorkflowRow]:
        """Every run to which a job's id belongs, from the first to the last."""
        task_id = job if isinstance(job, str) else job.id
        rows = self.journal.db.select(sa.select(step.c.ref).where(step.c.task_id == task_id).distinct())
        runs = [run for row in rows if (run := self.journal.reads.run(row.ref)) is not None]
        return sorted(runs, key=lambda run: run.created_at)

    def steps(self, of: WorkflowRow | Job) -> list[StepRow]:
        """A run's steps, by position."""
        return self.journal.reads.steps(of.ref if isinstance(of, WorkflowRow) else self.of(of).ref)

    def story(self, of: WorkflowRow | Job) -> list[tuple[str, str]]:
        """A run's steps as (name without its module, status)."""
        return [(s.name.rpartition(".")[2], s.status.value) for s in self.steps(of)]

    def status(self, of: WorkflowRow | Job) -> WorkflowStatus:
        """Where a run stands now."""
        found = self.journal.reads.run(of.ref if isinstance(of, WorkflowRow) else self.of(of).ref)
        assert found is not None
        return found.status

    def events(self, of: WorkflowRow | Job | str) -> list[str]:
        """What the append-only log says about a run."""
        ref = of if isinstance(of, str) else of.ref if isinstance(of, WorkflowRow) else self.of(of).ref
        return [row.kind for row in self.journal.db.select(sa.select(event).where(event.c.ref == ref).order_by(event.c.id))]

    def count_runs(self) -> int:
        """How many runs the journal has."""
        return int(self.journal.db.select(sa.select(sa.func.count()).select_from(workflow))[0][0])

    def rq_status(self, job: Job) -> JobStatus | None:
        """What RQ says of a job."""
        return status_of(job, refresh=True)

    def value(self, job: Job) -> Any:
        """What RQ hands out as a job's result."""
        return job.return_value(refresh=True)

    def sent(self) -> list[bytes]:
        """Every key of Redis that belongs to a job."""
        found: Any = self.redis.keys("rq:job:*")
        return sorted(found)

    def flush(self) -> None:
        """Redis loses everything that RQ had in it."""
        found: Any = self.redis.keys("rq:*")
        if found:
            self.redis.delete(*found)

    def settled(self, job: Job, *statuses: WorkflowStatus, timeout: float = SOON) -> WorkflowRow:
        """Waits until a job's run has one of the statuses; without any, until it has ended."""

        def reached() -> WorkflowRow | None:
            now = self.runs_of(job)
            if not now:
                return None
            return now[-1] if (now[-1].status in statuses if statuses else now[-1].ended_at is not None) else None

        return eventually(reached, timeout, lambda: f"the run of {job.id} to be {statuses or 'over'}: {self.told(job)}")

    def step_is(self, job: Job, status: StepStatus, timeout: float = SOON) -> StepRow:
        """Waits until a job's own step has a status."""

        def reached() -> StepRow | None:
            return next((s for s in self.steps(job) if s.task_id == job.id and s.status is status), None)

        return eventually(reached, timeout, lambda: f"step of {job.id} to be {status}: {self.told(job)}")

    def told(self, job: Job) -> str:
        """Everything about a job, for a failure."""
        logs = "\n".join(f"--- {process.name}\n{process.tail()}" for process in self._processes)
        return f"{self.story(job)} {self.events(job)} {[s.doubt for s in self.steps(job)]}\n{logs}"

    @contextlib.contextmanager
    def worker(self, worker_class: str = "durable_adapter.rq.Worker", **options: Any) -> Iterator[RunningProcess]:
        """A real `rq worker` on the test's own queue; returns when it is ready."""
        with started_worker(self.url, self.journal_url, self.directory, self.name, worker_class, **options) as process:
            self._processes.append(process)
            yield process


def started_worker(
    url: str,
    journal: str,
    directory: Path,
    queue: str,
    worker_class: str = "durable_adapter.rq.Worker",
    *,
    command: str = "worker",
    options: tuple[str, ...] = IMPATIENT,
    ready: str | None = r"listening on",
) -> RunningProcess:
    """A real `rq worker`; returns when it is ready."""
    words = [sys.executable, "-m", "rq.cli", command, "-u", url, "-w", worker_class, *options, queue]
    environment: dict[str, str | None] = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        DIRECTORY: str(directory),
        chains.URL: url,
        **{f"DURABLE_ADAPTER_{name.upper()}": str(value) for name, value in {"journal": journal, **FAST}.items()},
    }
    log = directory / f"{queue}-{secrets.token_hex(2)}.log"
    process = RunningProcess(words, log=log, cwd=ROOT, name=f"{command} {worker_class}", env=environment)
    if ready is not None:
        process.wait_for_line(f"(?i){ready}")
    return process


def forget(module: str) -> None:
    """Makes a module of the shop one that this process has never imported."""
    sys.modules.pop(f"{shop.__name__}.{module}", None)
    vars(shop).pop(module, None)


def installed(journal: str, **options: Any) -> Binding:
    """The plugin in this process, with a sweeper only where the test calls for one."""
    return durable_rq.install(journal=journal, **{"sweeper": False, **FAST, **options})


def spec(job: Job) -> dict[str, Any]:
    """What a job is made of, to compare one that was made again with the first."""
    names = ("id", "func_name", "args", "kwargs", "timeout", "result_ttl", "retries_left", "retry_intervals", "description")
    found = {name: getattr(job, name) for name in names}
    return json.loads(json.dumps(found | {"args": list(job.args)}))
