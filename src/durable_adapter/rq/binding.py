"""The binding of this process's RQ: what is installed, where it is hooked in, and how it is taken out again.

It holds no rule of durability. It answers which call a job is, how it is made and sent again, how RQ lets go of a worker,
and what a parent knows about its horse.
"""

from __future__ import annotations

import functools
import inspect
import signal
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rq import Queue
from rq.job import Job

from ..journal import Journal, forking
from ..model import Mode
from ..runtime import shield
from ..runtime.engine import INSTALLED
from ..runtime.host import Host
from ..runtime.shield import Shield
from ..settings import Settings
from . import ended, publishing, running
from .engine import RQEngine
from .places import db_of, prefix_of
from .registry import Registry, Wrapping
from .versions import GROUPS, since

if TYPE_CHECKING:
    from redis import Redis

#: The binding of this process: none, or one.
BINDINGS: list[Binding] = []
#: The environment variable by which a parent hands its settings to a horse that it spawns.
SPAWNED = "DURABLE_RQ_SPAWNED"
#: How soon an unfinished run is looked at, in seconds, unless it is set: RQ can say at once whether a job is anywhere.
LOOK_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class Patch:
    """One place that is patched, for `doctor --patches` and for the reviewer."""

    where: str
    why: str
    guard: str
    undo: Callable[[], None]


class Chosen:
    """A method that is ours for some objects, and for all others the original itself: it leaves no trace in their errors."""

    def __init__(self, original: Any, ours: Any, concerns: Callable[[Any], bool]) -> None:
        functools.update_wrapper(self, original)
        self._original = original
        self._ours = ours
        self._concerns = concerns

    def __call__(self, it: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__get__(it, type(it))(*args, **kwargs)

    def __get__(self, it: Any, owner: type[Any] | None = None) -> Any:
        return (self._ours if it is None or self._concerns(it) else self._original).__get__(it, owner)


class Binding:
    """What `install()` made of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        given = settings.origins.get("resend_after", "default") != "default"
        self.journal = Journal(
            settings.url(),
            namespace=settings.namespace,
            schema=settings.schema,
            resend_after=settings.resend_after if given else LOOK_AFTER,
            pool_size=settings.pool_size,
        )
        self.registry = Registry()
        #: Where jobs are; learned from the first queue, worker or job that is seen.
        self.connection: Redis | None = None
        self.serializer: Any = None
        #: Every database of Redis that was seen, by its number.
        self.connections: dict[int, Redis] = {}
        self.queues: list[str] = []
        self.engine = RQEngine(self)
        self.host = Host(
            self.journal,
            self.engine,
            queues=lambda: self.queues,
            parent=uuid.uuid4().hex,
            stale=settings.stale,
            beat=settings.beat,
            code_version=settings.code_version,
        )
        #: RQ ends a job that takes too long by an exception out of this signal's handler, which it sets for each job.
        self.shield = Shield(signal.SIGALRM, renewed=True)
        self.host.is_off = lambda: self.is_off
        self.host.shielded = self.shield.up
        self.host.exposed = self.shield.down
        self.patches: list[Patch] = []
        #: The job classes of the user's own that were seen.
        self._hooked: set[type[Any]] = set()
        #: The functions that are marked by name.
        self.wrapping = Wrapping()

    @property
    def is_off(self) -> bool:
        """Whether new starts are left alone. What began durable ends durable all the same."""
        return self.settings.mode is Mode.OFF

    @property
    def is_installed(self) -> bool:
        """Whether the hooks do anything."""
        return self in BINDINGS

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
        self.engine.prefix = prefix_of(queues[0]) if queues else None

    def install(self) -> None:
        """Hooks RQ's own classes."""
        BINDINGS.append(self)
        if self.connection is not None:
            INSTALLED[self.engine.name] = self.engine
        self.wrapping.wrap()
        self._patch(Job, "create", "stamps a marked job with its run", publishing.create)
        self._patch(Job, "to_dict", "commits a start before its job is written to Redis", publishing.to_dict)
        self._patch(
            Job, "_execute", "hands each delivery of a marked job to the runtime", running.execute, concerns=running.concerns
        )
        self._patch(Job, "restore", "reads a job's stamp from its hash", running.restore)
        self._patch(Job, "prepare_for_execution", "sees that a job was started before, and says who starts it", running.prepare)
        self._patch(Job, "return_value", "suspends a workflow function instead of answering None", running.return_value)
        self._patch(Job, "delete", "says in the journal that a job was deleted before it began", ended.delete)
        self._patch(Queue, "empty", "says in the journal that jobs were deleted before they began", ended.empty)
        self._patch(Queue, "enqueue", "warns of a chain that falls apart in a queue that puts jobs off", publishing.enqueue)
        self._patch(Queue, "enqueue_job", "takes a start back whose job could not be sent", publishing.enqueue_job)
        self._patch(Queue, "schedule_job", "takes a start back whose job could not be scheduled", publishing.schedule_job)
        self._patch(Queue, "enqueue_many", "takes starts back whose jobs could not be sent", publishing.enqueue_many)
        if since(GROUPS):
            from rq.group import Group

            self._patch(Group, "enqueue_many", "takes starts back whose jobs could not be sent", publishing.enqueue_group)
        self.patches.append(Patch("signal.SIGALRM", shield.WHY, shield.GUARD, self.shield.take_down))
        if self.journal.db.is_sqlite:
            self.patches.append(Patch(forking.WHERE, forking.WHY, forking.GUARD, lambda: None))

    def uninstall(self) -> None:
        """Puts everything back. What somebody else has wrapped meanwhile stays below their wrapper, and does nothing."""
        BINDINGS.remove(self)
        if INSTALLED.get(self.engine.name) is self.engine:
            del INSTALLED[self.engine.name]
        for patch in reversed(self.patches):
            patch.undo()
        self.patches.clear()
        self._hooked.clear()
        self.wrapping.undo()
        self.host.stop()
        self.journal.close()

    def hook(self, job_class: type[Job]) -> None:
        """Hooks a job class of the user's own that runs its jobs by itself, without `Job._execute`."""
        for cls in job_class.__mro__ if job_class is not Job else ():
            if cls is Job:
                return
            own = cls.__dict__.get("_execute")
            if own is None or cls in self._hooked or not self.is_installed:
                continue
            self._hooked.add(cls)
            if not _hands_on(own):
                why = "hands each delivery of a marked job to the runtime: this class does not call Job._execute"
                self._patch(cls, "_execute", why, running.execute_whole, concerns=running.concerns)

    def _patch(
        self,
        owner: type[Any],
        name: str,
        why: str,
        hook: Callable[..., Any],
        *,
        concerns: Callable[[Binding, Any], bool] | None = None,
    ) -> None:
        original = owner.__dict__[name]
        is_classmethod = isinstance(original, classmethod)
        function = original.__func__ if is_classmethod else original

        @functools.wraps(function)
        def hooked(self_or_class: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_installed:
                return function(self_or_class, *args, **kwargs)
            return hook(self, functools.partial(function, self_or_class), self_or_class, args, kwargs)

        replacement: Any = classmethod(hooked) if is_classmethod else hooked
        if concerns is not None:
            replacement = Chosen(function, hooked, lambda it: self.is_installed and concerns(self, it))
        setattr(owner, name, replacement)

        def undo() -> None:
            if owner.__dict__.get(name) is replacement:
                setattr(owner, name, original)

        where = f"{owner.__module__}.{owner.__name__}.{name}"
        self.patches.append(Patch(where, why, "hands its arguments on as they come", undo))


def _hands_on(method: Any) -> bool:
    """Whether a method calls the one that it overrides, as far as its code tells."""
    code = getattr(inspect.unwrap(method), "__code__", None)
    names = {*code.co_names, *code.co_freevars} if code is not None else set()
    return bool(names & {"super", "__class__", "_execute"})
