"""RQ's part in the test journal: jobs are kept in a Redis of the test's own memory and run in its process.

RQ's queues, jobs, registries and its `SimpleWorker` are the real ones; whatever connection the code under test has, they talk
to the test's Redis. RQ's own scheduler is replaced by the test's clock.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from rq import Queue, SimpleWorker
from rq.job import Job
from rq.registry import BaseRegistry, ScheduledJobRegistry
from rq.timeouts import BaseDeathPenalty

from ..errors import Killed
from ..model import SECOND
from ..rq import install, uninstall
from ..rq.binding import Binding
from ..rq.engine import RQEngine
from ..rq.facts import times_tried
from ..rq.fields import PUT_ASIDE, count
from ..rq.jobs import fetched
from ..rq.stamps import stamp_of
from ..rq.versions import groups

if TYPE_CHECKING:
    from redis import Redis

    from .harness import Harness, Patches

#: Classes whose objects have a connection of their own.
CONNECTED: tuple[type[Any], ...] = (Queue, Job, BaseRegistry, *groups())
#: The failure that RQ records of a horse that was killed.
KILLED = "Work-horse terminated unexpectedly: it was killed by the test"
#: Methods by which jobs are sent.
SENDING: tuple[tuple[type[Any], str], ...] = (
    (Queue, "enqueue_job"),
    (Queue, "schedule_job"),
    (Queue, "enqueue_many"),
    *((group, "enqueue_many") for group in groups()),
)


@contextlib.contextmanager
def hooked(connection: Redis, url: str) -> Iterator[InProcess]:
    """The driver of this process's RQ, which is hooked for the time being where it is not.

    Args:
        connection: the test's Redis.
        url: SQLAlchemy URL of the test's journal.
    """
    found = Binding.installed[-1] if Binding.installed else None
    binding = found if found is not None else install(url)
    try:
        yield InProcess(binding, connection)
    finally:
        if found is None:
            uninstall()


class Unlimited(BaseDeathPenalty):
    """No time limit: the clock of a test stands still, and the process's signals are the test's own."""

    def setup_death_penalty(self) -> None:
        """Nothing."""

    def cancel_death_penalty(self) -> None:
        """Nothing."""


class Worker(SimpleWorker):
    """A worker for one job. One that is killed does nothing more about it: what its parent would do is done afterwards."""

    death_penalty_class = Unlimited

    #: Does what RQ does about a job whose horse was killed.
    record_death: Callable[[], Any] | None = None

    def procline(self, message: str) -> None:
        """Nothing: the process has a name already."""

    def _finalize_failure(self, job: Any, queue: Any, execution: Any, exc_info: Any) -> Any:
        if isinstance(exc_info[1], Killed):
            registry = queue.started_job_registry
            given = {"started_job_registry": registry, "exc_string": KILLED, "execution": execution}
            self.record_death = lambda: SimpleWorker.handle_job_failure(self, job, queue, **given)
            raise exc_info[1]
        return super()._finalize_failure(job, queue, execution, exc_info)

    def handle_job_failure(self, *args: Any, **kwargs: Any) -> Any:
        """RQ's, before 3.0 the first thing that it does about a failure."""
        error = sys.exc_info()[1]
        if isinstance(error, Killed) and self.record_death is None:
            self.record_death = lambda: SimpleWorker.handle_job_failure(self, *args, **{**kwargs, "exc_string": KILLED})
            raise error
        return super().handle_job_failure(*args, **kwargs)


class InProcess:
    """Keeps and runs this process's jobs while a test has it."""

    variables: Sequence[ContextVar[Any]] = ()
    here: Harness

    def __init__(self, binding: Binding, connection: Redis) -> None:
        self.binding = binding
        self.connection = connection
        self.engine = RQEngine(binding)
        #: Due times, by the clock of the test, of jobs that RQ's scheduler would send: by queue, id and RQ's own time.
        self._due: dict[tuple[str, str, float], int] = {}
        self._worker: Worker | None = None

    def enter(self, here: Harness, put: Patches) -> None:
        """Takes the place of Redis, of the workers and of RQ's scheduler."""
        self.here = here
        put.attribute(self.binding, "connection", self.connection)
        put.attribute(self.binding, "prefix", None)
        put.attribute(self.binding, "place_of", lambda _step: self.binding.here)  # whatever its job's place would be
        connected = property(lambda _: self.connection, lambda it, given: it.__dict__.update(connection=given))
        for owner in CONNECTED:
            owner.connection = connected
            put.undo.callback(delattr, owner, "connection")
        for owner, name in SENDING:
            put.attribute(owner, name, self._sending(getattr(owner, name)))

    def _sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """Runs what the test itself sends at once, before its call returns."""

        @functools.wraps(send)
        def sent(*args: Any, **kwargs: Any) -> Any:
            if not self.here.is_idle:
                return send(*args, **kwargs)
            with self.here.busy():
                result = send(*args, **kwargs)
            self.here.settle()
            return result

        return sent

    def _queues(self) -> list[Queue]:
        return Queue.all(connection=self.connection, serializer=self.binding.serializer)

    def pull(self) -> Callable[[], None] | None:
        """The next job of the first queue that has one; what RQ's scheduler would send now is sent before that."""
        for at, (origin, job_id, _) in sorted((at, key) for key, at in self._scheduled().items()):
            job = fetched(job_id, self.connection, self.binding.serializer)
            if at <= self.here.clock.microseconds() and job is not None:
                self.binding.here.put_back(job)
                del self._due[origin, job_id, _]
        for queue in self._queues():
            if not queue.is_empty():
                return lambda queue=queue: self._work(queue)  # type: ignore[misc]
        return None

    def _scheduled(self) -> dict[tuple[str, str, float], int]:
        """The jobs that RQ's scheduler would send. What was put aside because it must wait is sent by our sweeper."""
        found: dict[tuple[str, str, float], int] = {}
        now = self.here.clock.microseconds()
        for queue in self._queues():
            scheduled = ScheduledJobRegistry(queue.name, connection=self.connection)  # type: ignore[no-untyped-call]
            members: Any = self.connection.zrange(scheduled.key, 0, -1, withscores=True)
            for member, score in members:
                job = fetched(member.decode(), self.connection, self.binding.serializer)
                if job is None or (stamp_of(job) is not None and (times_tried(job) or count(job, PUT_ASIDE))):
                    continue
                key = (queue.name, job.id, float(score))
                found[key] = self._due.get(key, now + int(max(0.0, score - time.time()) * SECOND))
        self._due = found
        return dict(found)

    def moments(self) -> list[int]:
        """When jobs are due that RQ's scheduler would send."""
        return list(self._scheduled().values())

    def _work(self, queue: Queue) -> None:
        """Runs the next job of a queue as a worker does."""
        worker = Worker([queue], connection=self.connection, serializer=self.binding.serializer)
        taken = Queue.dequeue_any([queue], None, connection=self.connection, serializer=self.binding.serializer)
        if taken is not None:
            self._worker = worker
            worker.execute_job(*taken)

    def record_death(self) -> None:
        """RQ decides what becomes of the job whose horse was killed."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.record_death is not None:
            worker.record_death()
