"""Where a test runs: a Redis of its own, RQ's classes plain or with the plugin, and what may be asked about them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.version import VERSION

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.schema import step, workflow
from tests.rq_unchanged.jobs import LEDGER
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[2]
#: The version of RQ, to be compared.
RQ = tuple(int(part) for part in VERSION.split(".")[:2])
#: Seconds within which anything here must have happened.
SOON = 20.0


def prepare(url: str) -> None:
    """Fills an empty database with the journal's tables."""
    journal = Journal(url)
    migrate(journal)
    journal.close()


def rows_of(url: str) -> dict[str, int]:
    """How many rows a journal has for what is durable."""
    journal = Journal(url)
    try:
        with journal.db.engine.connect() as connection:
            tables = {"workflow": workflow, "step": step}
            return {
                name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for name, table in tables.items()
            }
    finally:
        journal.close()


@dataclass
class Stage:
    """One test's RQ."""

    url: str
    directory: Path
    #: The journal's URL, where the plugin is in.
    journal: str | None = None
    processes: list[RunningProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = Redis.from_url(self.url)

    @property
    def room(self) -> str:
        """The package that this stage's workers come from."""
        return "durable_adapter.rq" if self.journal is not None else "rq"

    def kind(self, name: str) -> Any:
        """A class of worker: `Worker`, `SimpleWorker`, `SpawnWorker`."""
        return getattr(import_module(self.room), name)

    def queue(self, name: str = "shop", **options: Any) -> Queue:
        return Queue(name, connection=self.connection, **options)

    def worker(self, *queues: Queue, kind: str = "SimpleWorker", **options: Any) -> Any:
        return self.kind(kind)(list(queues) or [self.queue()], connection=self.connection, **options)

    def work(self, *queues: Queue, kind: str = "SimpleWorker", options: Any = None, **how: Any) -> Any:
        """A worker in this process, until the queues are empty."""
        worker = self.worker(*queues, kind=kind, **(options or {}))
        with signals_restored():
            worker.work(**{"burst": True, "logging_level": "CRITICAL", **how})
        return worker

    def process(self, *arguments: str | Path, program: str = "rq") -> RunningProcess:
        """One of RQ's commands."""
        env: dict[str, str | None] = {"PYTHONPATH": str(ROOT), "DURABLE_ADAPTER_JOURNAL": self.journal}
        number = len(self.processes)
        command = [Path(sys.executable).with_name(program), *arguments]
        self.processes.append(RunningProcess(command, log=self.directory / f"{number}.log", env=env, cwd=ROOT))
        return self.processes[-1]

    def worker_process(self, *arguments: str, kind: str = "Worker", queue: str = "shop") -> RunningProcess:
        """`rq worker`, ready."""
        process = self.process("worker", "-u", self.url, "-w", f"{self.room}.{kind}", *arguments, queue)
        process.wait_for_line("Listening on|done, quitting")
        return process

    def ledger(self) -> list[str]:
        """What happened, in its order."""
        return [text.decode() for text in self.connection.lrange(LEDGER, 0, -1)]

    def said(self, what: str, count: int = 1) -> None:
        """Waits until something has happened."""
        eventually(
            lambda: sum(line.startswith(what) for line in self.ledger()) >= count, SOON, lambda: f"{what}: {self.ledger()}"
        )

    def job(self, job_id: str, **options: Any) -> Job:
        return Job.fetch(job_id, connection=self.connection, **options)

    def settled(self, job_id: str, *statuses: str) -> Job:
        """A job, when it has come to one of these states."""

        def status() -> str:
            return JobStatus(self.job(job_id).get_status()).value

        eventually(lambda: status() in (statuses or ("finished", "failed")), SOON, lambda: f"{job_id} is {status()}")
        return self.job(job_id)

    def make_due(self, queue: str = "shop") -> None:
        """Lets the time pass for which what is scheduled has to wait."""
        registry = self.queue(queue).scheduled_job_registry
        past = (datetime.now(UTC) - timedelta(seconds=5)).timestamp()
        for job_id in self.connection.zrange(registry.key, 0, -1):
            self.connection.zadd(registry.key, {job_id: past})

    def end(self) -> None:
        """Ends what is left of its processes, and its connection."""
        for process in reversed(self.processes):
            process.stop()
            print(f"--- {process.name}, ended with {process.returncode}\n{process.tail()}")
        self.connection.close()

    def everything(self) -> dict[str, Any]:
        """All that RQ has put into Redis, but for times, ids that are made anew, and what names this process."""
        found = {}
        for key in self.connection.keys("*"):
            found[masked(key)] = (self._value(key), self.connection.ttl(key) >= 0)
        return dict(sorted(found.items()))

    def _value(self, key: bytes) -> Any:
        match self.connection.type(key).decode():
            case "hash":
                fields = sorted(self.connection.hgetall(key).items())
                ours = OURS if key.startswith(b"rq:worker:") else ()
                return {masked(name): _field(name, value) for name, value in fields if name not in ours}
            case "list":
                return [masked(value) for value in self.connection.lrange(key, 0, -1)]
            case "set":
                return sorted(masked(value) for value in self.connection.smembers(key))
            case "zset":
                return sorted(masked(value) for value in self.connection.zrange(key, 0, -1))  # their order is one of times
            case "stream":
                entries = [fields for _id, fields in self.connection.xrange(key)]
                return [{masked(name): _field(name, value) for name, value in sorted(e.items())} for e in entries]
        return masked(self.connection.get(key) or b"")


#: Fields of a hash that tell times that passed, or the port of a connection.
TIMES = (b"total_working_time", b"execution_started_at", b"execution_ended_at", b"ip_address")
#: The one thing that we add, to what RQ says of a worker of ours; nothing is added to a job.
OURS = (b"durable_row",)
_MASKS = (
    (re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?"), b"<time>"),
    (re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), b"<id>"),
    (re.compile(rb"[0-9a-f]{32}"), b"<id>"),
)


def masked(value: bytes) -> bytes:
    """Bytes, with times and ids out of them."""
    for pattern, instead in _MASKS:
        value = pattern.sub(instead, value)
    return value


def _field(name: bytes, value: bytes) -> bytes:
    if name in TIMES:
        return b"<time>"
    if name == b"exc_string":
        return masked(zlib.decompress(b64decode(value)))
    if name == b"exc_info":
        return masked(zlib.decompress(value))
    return masked(value)


@contextlib.contextmanager
def signals_restored() -> Iterator[None]:
    """A block after which this process hears its signals as before: RQ's workers take them over."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    names = ("RQ_WORKER_ID", "RQ_JOB_ID", "RQ_EXECUTION_ID")
    try:
        yield
    finally:
        for number, of in before.items():
            signal.signal(number, of)
        for name in names:
            os.environ.pop(name, None)
