"""Servers, workers and looking glasses of these tests."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from durable_adapter.celery.binding import Binding
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.schema import event, step, worker, workflow
from durable_adapter.model import StepRow, StepStatus, WorkflowRow, WorkflowStatus
from tests.celery import ledger
from tests.celery.shop import FAST, SETTINGS
from tests.celery.shop.sql import bookings
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

ROOT = Path(__file__).parents[2]
#: Seconds within which anything here must have happened; most of it takes a tenth of a second.
SOON = 20.0

__all__ = ["FAST", "SOON", "Runs", "World", "prepare"]


def prepare(url: str) -> None:
    """Fills an empty database with the journal's tables, and one of the shop's own."""
    journal = Journal(url)
    migrate(journal)
    bookings.create(journal.db.engine)
    journal.close()


@dataclass
class World:
    """Where a set of workers and the test meet: a broker, a journal, a queue and a ledger."""

    redis: str
    journal: str
    directory: Path
    celery: dict[str, Any] = field(default_factory=dict)
    durable: dict[str, Any] = field(default_factory=dict)
    queue: str = field(default_factory=lambda: f"durable-test-{secrets.token_hex(4)}")
    _started: int = 0

    @property
    def ledger(self) -> ledger.Ledger:
        """What happened."""
        return ledger.Ledger(self.directory)

    def settings(self) -> dict[str, Any]:
        """What `shop.connect` wants."""
        return {
            "redis": self.redis,
            "journal": self.journal,
            "queue": self.queue,
            "celery": self.celery,
            "durable": self.durable,
        }

    def worker(
        self,
        *,
        app: str = "tests.celery.shop",
        pool: str = "prefork",
        concurrency: int = 2,
        env: dict[str, str | None] | None = None,
        settings: dict[str, Any] | None = None,
        ready: bool = True,
    ) -> RunningProcess:
        """A real `celery worker`; returns when it is ready."""
        self._started += 1
        name = f"{pool}-{self._started}"
        given = self.settings()
        for section, values in (settings or {}).items():
            given[section] = {**given[section], **values}
        command = [
            sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{self.queue}-{name}@%h", "-P", pool,
            "-c", str(concurrency), "-Q", self.queue, "-l", "INFO",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip
        process = RunningProcess(
            command,
            log=self.directory / f"{name}.log",
            cwd=ROOT,
            name=name,
            env={
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                SETTINGS: json.dumps(given),
                ledger.DIRECTORY: str(self.directory),
                **(env or {}),
            },
        )
        if ready:
            process.wait_for_line(r"@\S+ ready\.")
        return process


class Runs:
    """The journal, as a test asks it."""

    def __init__(self, binding: Binding) -> None:
        self.journal = binding.journal
        self.binding = binding

    def of(self, result: Any) -> WorkflowRow:
        """The run to which a task belongs, by its result or its id."""
        found = self.find(result)
        assert found is not None, f"the journal knows nothing of task {result}"
        return found

    def find(self, result: Any) -> WorkflowRow | None:
        """The run to which a task belongs, if there is one."""
        task_id = getattr(result, "id", result)
        rows = self.journal.db.select(sa.select(step.c.ref).where(step.c.task_id == task_id))
        return self.journal.reads.run(rows[0].ref) if rows else None

    def named(self, workflow_id: str) -> WorkflowRow:
        """The run of a declared workflow id."""
        found = self.journal.reads.latest(self.journal.namespace, workflow_id)
        assert found is not None, f"the journal has no workflow {workflow_id}"
        return found

    def steps(self, run: WorkflowRow) -> list[StepRow]:
        """A run's steps, by position."""
        return self.journal.reads.steps(run.ref)

    def story(self, run: WorkflowRow) -> list[tuple[str, str, str]]:
        """A run's steps as (name without its module, kind, status)."""
        return [(s.name.rpartition(".")[2], s.kind.name, s.status.value) for s in self.steps(run)]

    def settled(self, run: WorkflowRow | str, *statuses: WorkflowStatus, timeout: float = SOON) -> WorkflowRow:
        """Waits until a run has one of the statuses; without any, until it has ended."""
        ref = run if isinstance(run, str) else run.ref

        def reached() -> WorkflowRow | None:
            now = self.journal.reads.run(ref)
            assert now is not None
            return now if (now.status in statuses if statuses else now.ended_at is not None) else None

        return eventually(reached, timeout, lambda: f"run {ref} to be {statuses or 'over'}: {self.journal.reads.run(ref)}")

    def step_is(self, run: WorkflowRow, name: str, status: StepStatus, timeout: float = SOON) -> StepRow:
        """Waits until the step of that name has a status."""

        def reached() -> StepRow | None:
            return next((s for s in self.steps(run) if s.name.endswith(name) and s.status is status), None)

        return eventually(reached, timeout, lambda: f"step {name} to be {status}: {self.story(run)}")

    def events(self, run: WorkflowRow | str) -> list[str]:
        """What the append-only log says about a run."""
        return [row.kind for row in self._events(run)]

    def why(self, run: WorkflowRow | str) -> str:
        """The reasons in the append-only log."""
        return "\n".join(str(row.why) for row in self._events(run))

    def _events(self, run: WorkflowRow | str) -> Any:
        ref = run if isinstance(run, str) else run.ref
        return self.journal.db.select(sa.select(event).where(event.c.ref == ref).order_by(event.c.id))

    def workers(self) -> list[Any]:
        """Every process that the journal has heard of."""
        return list(self.journal.db.select(sa.select(worker)))

    def traces(self, order: str) -> list[str]:
        """The runs in whose plan an order stands."""
        rows = self.journal.db.select(sa.select(workflow.c.ref, workflow.c.plan))
        return [row.ref for row in rows if order.encode() in (row.plan or b"")]
