"""The stage with `rq worker` processes, and Redis for everything that RQ knows."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from tests.crash.cells import Cell
from tests.crash.stage import SOON, Stage
from tests.crash.words import QUEUE
from tests.servers import RunningProcess, eventually

# What RQ's maintenance has to say here is part of a fault.
logging.getLogger("rq").addHandler(logging.NullHandler())

#: Seconds by which every time-out of RQ's own has passed, as its maintenance sees it.
LATER = 3600


class RQStage(Stage):
    """RQ's workers and jobs. The workers are of one class at a time."""

    shop = "tests.crash.rq_app"
    ready = r"Listening on"
    flavour = "retry"

    def __init__(self, directory: Path, database: str, *, show_sql: bool = False) -> None:
        #: The class of the workers that run now.
        self._class = "fork"
        #: Workers that were killed, and whose horses were left alive.
        self._orphaned: list[RunningProcess] = []
        super().__init__(directory, database, show_sql=show_sql)

    def _worker(self, name: str, *, plain: bool, options: dict[str, str]) -> RunningProcess:
        """One worker; `queues` and `redis` may be otherwise than usual."""
        redis_url = options.get("redis", self._environment["CRASH_BROKER"] or "")
        command = ["-m", "rq.cli", "worker", "--url", redis_url]
        if not plain:
            workers = "tests.crash.rq_workers"
            command += ["-w", f"{workers}.{self._class.capitalize()}", "--queue-class", f"{workers}.ToldQueue"]
        command += options.get("queues", QUEUE).split()
        return self._process(f"worker-{name}", command, CRASH_PLAIN="1" if plain else None)

    def suit(self, cell: Cell) -> None:
        """Other workers, where the cell's class is another; and in place of those that ended because of a fault."""
        if cell.worker != self._class:
            self._class = cell.worker
            self.stop_workers()
        for name in [name for name, worker in self._workers.items() if worker.returncode is not None]:
            self.stop_workers(name)
        super().suit(cell)

    def kill_worker(self, pid: int) -> None:
        """`kill -9` of a worker and its horse, if it has one, at once. Another worker is started in its place."""
        name, worker = self.worker_of(pid)
        worker.kill_all(signal.SIGKILL)
        self.replace_worker(name)

    def orphan(self, pid: int) -> None:
        """`kill -9` of a horse's parent alone. Another worker is started in its place."""
        name, worker = self.worker_of(pid)
        self._orphaned.append(worker)
        os.kill(worker.pid, signal.SIGKILL)
        self.replace_worker(name)

    def stop_workers(self, *names: str) -> None:
        """Ends workers; if all, what was orphaned too."""
        super().stop_workers(*names)
        while not names and self._orphaned:
            self._orphaned.pop().stop()

    def end_cold(self, pid: int) -> None:
        """SIGTERM until the worker has ended: RQ hears a second one only a second after the first."""
        name, worker = self.worker_of(pid)

        def has_ended() -> bool:
            if worker.returncode is None:
                worker.kill(signal.SIGTERM)
            return worker.returncode is not None

        eventually(has_ended, SOON, f"the end of worker {name}", interval=0.4)
        self.replace_worker(name)

    def beating(self, pid: int) -> int:
        """A horse works under its parent's row."""
        return self.worker_of(pid)[1].pid

    def told(self, cell: Cell, moment: str) -> tuple[str, str]:
        """As the workers tell it: they know the jobs, and a function's steps are none."""
        jobs = ("taken", "before-body", "after-commit", "after-result", "on-success", "is-it-time")
        return ("fulfil" if cell.shape == "function" and moment in jobs else cell.step), moment

    def job(self, job_id: str) -> Job | None:
        """A job as Redis has it."""
        try:
            return Job.fetch(job_id, connection=self.broker)
        except NoSuchJobError:
            return None

    def result_state(self, task_id: str) -> str | None:
        """What RQ says about a job."""
        job = self.job(task_id)
        try:
            status = job.get_status(refresh=False) if job is not None else None
        except InvalidJobOperation:
            return None
        return JobStatus(status).value if status is not None else None

    def has_succeeded(self, task_id: str) -> bool:
        """Whether RQ calls a job finished."""
        return self.result_state(task_id) == JobStatus.FINISHED.value

    def queued(self) -> int:
        """How many jobs wait for a worker."""
        return int(self.broker.llen(f"rq:queue:{QUEUE}"))

    def messages(self) -> int:
        """How many jobs could still run without anybody's doing: queued, taken, started or put aside."""
        started, scheduled = (registry(QUEUE, connection=self.broker) for registry in (StartedJobRegistry, ScheduledJobRegistry))
        taken = int(self.broker.llen(f"rq:queue:{QUEUE}:intermediate"))
        return self.queued() + taken + int(self.broker.zcard(started.key)) + int(self.broker.zcard(scheduled.key))

    def repeat_message(self, task_id: str) -> None:
        """Puts the id of a job that runs into the queue once more."""
        self.broker.lpush(f"rq:queue:{QUEUE}", task_id)

    def give_up_started(self) -> None:
        """What RQ's maintenance does when a started job's heartbeat has been silent for long enough, now."""
        StartedJobRegistry(QUEUE, connection=self.broker).cleanup(timestamp=time.time() + LATER)

    def requeue(self, task_id: str) -> None:
        """What an operator types when a job has failed: `rq requeue`. A sweeper may have been faster, which RQ says."""
        with contextlib.suppress(InvalidJobOperation):
            FailedJobRegistry(QUEUE, connection=self.broker).requeue(task_id)

    def stop_job(self, task_id: str) -> None:
        """`send_stop_job_command`."""
        send_stop_job_command(self.broker, task_id)
