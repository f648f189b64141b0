"""The binding of this process's RQ: its state. `hooks` says where it is hooked in.

It holds no rule of durability. It knows the databases of Redis that have the jobs, and the job classes that were hooked.
"""

from __future__ import annotations

import inspect
import signal
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rq.job import Job

from ..errors import NotInstalled
from ..runtime.binding import LOOK_AFTER, BaseBinding
from ..runtime.engine import INSTALLED, Engine
from ..runtime.shield import Shield
from ..settings import Settings
from .jobs import db_of, place_kept, prefix_of
from .place import Place
from .registry import Registry, Wrapping

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

    from ..model import StepRow


class Binding(BaseBinding):
    """The state of this process's RQ.

    Args:
        settings: as `install()` was given them.
        make_engine: makes the binding as the runtime sees it.
        hook_class: hooks a job class that runs its jobs by itself.
    """

    installed: ClassVar[list[Binding]] = []
    registry: Registry
    #: RQ ends a job that takes too long by an exception out of this signal's handler, which it sets for each job.
    shield: Shield

    def __init__(
        self,
        settings: Settings,
        make_engine: Callable[[Any], Engine],
        hook_class: Callable[[Binding, type[Job]], None],
    ) -> None:
        shield = Shield(signal.SIGALRM, renewed=True)
        super().__init__(settings, Registry(), make_engine, parent=uuid.uuid4().hex, look_after=LOOK_AFTER, shield=shield)
        #: The Redis that has the jobs, and the prefix of the queues' keys; learned from the first queue, worker or job seen.
        self.connection: Redis | None = None
        self.serializer: Any = None
        self.prefix: str | None = None
        #: Every database of Redis that was seen, by its number.
        self.connections: dict[int, Redis] = {}
        self._hook_class = hook_class
        #: The job classes of the user's own that were seen.
        self._seen: set[type[Any]] = set()
        #: The functions that are marked by name.
        self.wrapping = Wrapping()
        self._open()

    @property
    def here(self) -> Place:
        """The place of the jobs.

        Raises:
            NotInstalled: no queue, worker or job was seen yet.
        """
        if self.connection is None:
            raise NotInstalled("it is not known where RQ's jobs are: no queue or worker was used in this process yet")
        return Place(self.connection, self.prefix, self.serializer)

    def place_of(self, step: StepRow) -> Place | None:
        """Returns the place of a step's job; None where this process knows no connection to it.

        Raises:
            RedisError: it is not known, and the Redis that is does not answer.
        """
        here, (db, prefix) = self.here, place_kept(step.options)
        if db is None:
            return here
        connection = here.connection if db == db_of(here.connection) else self.connections.get(db)
        if connection is None:
            here.connection.ping()  # who reaches no Redis at all says that, and not that the job is another's to look after
            return None
        return Place(connection, prefix, self.serializer)

    def seen(self, connection: Redis | None, serializer: Any = None) -> None:
        """Learns where jobs are."""
        if connection is not None:
            self.connections.setdefault(db_of(connection), connection)
        if connection is not None and self.connection is None:
            self.connection, self.serializer = connection, serializer
            if self.is_installed:
                INSTALLED[self.engine.name] = self.engine

    def works_at(self, connection: Redis, serializer: Any, queues: Sequence[Queue]) -> None:
        """Learns where a worker's jobs are: there this process looks after jobs, whatever else it has seen before."""
        self.connections[db_of(connection)] = connection
        if self.connection is None or db_of(self.connection) != db_of(connection):
            self.connection = None
        self.seen(connection, serializer)
        self.prefix = prefix_of(queues[0]) if queues else None

    def register(self) -> None:
        """Makes this the process's binding; the sweeper asks it once it knows where jobs are."""
        self.installed.append(self)
        if self.connection is not None:
            INSTALLED[self.engine.name] = self.engine

    def uninstall(self) -> None:
        """Puts everything back. What somebody else has wrapped meanwhile stays below their wrapper, and does nothing."""
        super().uninstall()
        self.wrapping.undo()
        self._seen.clear()

    def hook(self, job_class: type[Job]) -> None:
        """Hooks a job class of the user's own that runs its jobs by itself, without `Job._execute`."""
        for cls in job_class.__mro__ if job_class is not Job else ():
            if cls is Job:
                return
            own = cls.__dict__.get("_execute")
            if own is None or cls in self._seen or not self.is_installed:
                continue
            self._seen.add(cls)
            if not _calls_overridden(own):
                self._hook_class(self, cls)


def _calls_overridden(method: Any) -> bool:
    """Whether a method calls the one that it overrides, as far as its code tells."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    names = {*code.co_names, *code.co_freevars} if code is not None else set()
    return bool(names & {"super", "__class__", "_execute"})
