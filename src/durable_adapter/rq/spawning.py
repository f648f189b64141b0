"""`SpawnWorker`: a fresh interpreter for each job, also where RQ's own would work in it with another class than its worker's.

A room of its own, because RQ has had one only since 2.2: asking an older one for it is an error that says so.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import sys
import time
from typing import Any

from redis import Redis, SSLConnection
from rq import SpawnWorker as RQSpawnWorker
from rq.executions import Execution

from ..settings import NAMES
from .installing import SPAWNED, install
from .versions import SPAWN_OWN_CLASS, since
from .worker import Horses, restored


class Spawning(RQSpawnWorker):
    """`rq.SpawnWorker` as RQ 3.0 has it: the fresh interpreter works with the worker's own class.

    That of an older RQ works with `rq.Worker`, whatever class its parent has: nothing would be installed in it.
    """

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        settings = install().settings
        given = {name: value for name in NAMES if (value := getattr(settings, name)) is not None}
        with restored(os.environ, SPAWNED):  # the horse takes it out of its own environment, and nobody else is to see it
            os.environ[SPAWNED] = json.dumps(given, default=str)
            self._spawn(job, queue)

    def _spawn(self, job: Any, queue: Any) -> None:
        if since(SPAWN_OWN_CLASS):
            super().fork_work_horse(job, queue)
            return
        os.environ["RQ_WORKER_ID"] = self.name
        os.environ["RQ_JOB_ID"] = job.id
        os.environ["RQ_EXECUTION_ID"] = self.execution.id  # type: ignore[union-attr]
        options = _options_of(self.connection)
        serializer = getattr(self, "_serializer_arg", self.serializer)
        given = pickle.dumps((type(self), options, serializer, self.key, job.id, queue.name))
        source = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import spawned; spawned({given!r})"
        self._horse_pid = os.posix_spawn(sys.executable, [sys.executable, "-c", source], os.environ, setpgroup=0)
        self.procline(f"Spawned {self._horse_pid} at {time.time()}")  # type: ignore[no-untyped-call]


def _options_of(connection: Redis) -> dict[str, Any]:
    """With what another process makes the same connection: without what redis-py has put beside it, of which locks are part."""
    pool = connection.connection_pool
    given = {"unix_socket_path" if name == "path" else name: value for name, value in pool.connection_kwargs.items()}
    if issubclass(pool.connection_class, SSLConnection):
        given["ssl"] = True
    accepted = set(inspect.signature(Redis.__init__).parameters) - {
        "retry",
        "driver_info",
        "event_dispatcher",
        "maint_notifications_config",
    }
    # redis-py knows what was not set by an object of its own, which is another one after pickling.
    return {name: value for name, value in given.items() if name in accepted and type(value) is not object}


def spawned(given: bytes) -> None:
    """What the fresh interpreter of a worker on an RQ before 3.0 does."""
    worker_class, options, serializer, worker_key, job_id, queue_name = pickle.loads(given)  # noqa: S301 - from its parent
    worker = worker_class.find_by_key(worker_key, connection=Redis(**options), serializer=serializer)
    if worker is None:
        sys.exit(1)
    connection, serializer = worker.connection, worker.serializer
    job = worker.job_class.fetch(job_id, connection=connection, serializer=serializer)
    queue = worker.queue_class(queue_name, connection=connection, serializer=serializer)
    worker.execution = Execution.fetch(os.environ["RQ_EXECUTION_ID"], job_id, connection=connection)
    worker.main_work_horse(job, queue)


class SpawnWorker(Horses, Spawning):
    """`rq.SpawnWorker`: starts a fresh interpreter for each job."""
