"""RQ as the command line reaches it: the connection that RQ's own options name, what Redis holds of a job, who serves queues.

The command line imports this room only when a command needs RQ, so that those that only read the journal load no queue
library. Nothing here sends anything.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.cli.helpers import get_redis_from_config
from rq.job import Job, JobStatus
from rq.registry import DeferredJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import resolve_serializer
from rq.utils import import_attribute

from ..declare.decorators import STEP_MARK, WORKFLOW_MARK
from ..errors import SettingError
from ..runtime.engine import EngineOutcome
from ..runtime.marked import loaded
from . import hooks
from .binding import Binding
from .facts import aware, job_id_of, status_of, text_of
from .identity import belongs
from .installing import made
from .jobs import fetched, fetched_many
from .registry import NAMED
from .stamps import stamp_of
from .versions import OLDEST, RETURNED_RETRY, VERSION, named, numbers_of

if TYPE_CHECKING:
    from ..model import StepRow
    from ..settings import Settings

logger = logging.getLogger("durable_adapter")
T = TypeVar("T")

#: Jobs of one queue that are looked through for such as were published without the plugin.
JOBS = 200
#: Seconds in which Redis has to accept a connection.
PATIENCE = 5
#: Seconds that RQ adds to a worker's ttl before its key in Redis expires.
GRACE = 60


def connect(url: str | None, settings: Mapping[str, Any]) -> Redis:
    """Returns the connection to the jobs' Redis as RQ's own commands find it: by URL, or by a settings module.

    Raises:
        SettingError: the URL or the settings are not accepted.
    """
    try:
        if url:
            return Redis.from_url(url, socket_connect_timeout=PATIENCE)
        found: Redis = get_redis_from_config(settings)  # type: ignore[no-untyped-call]
        return found
    except (ValueError, TypeError, AttributeError) as error:
        named = f"the Redis URL {without_password(url)!r}" if url else "the settings module"
        raise SettingError(
            f"{named} is not accepted: {error}. Give redis://host:6379/0, rediss://user:password@host:6379/0 or "
            "unix:///path/to/redis.sock?db=0, with -u, in RQ_REDIS_URL, or as REDIS_URL in the module that -c names."
        ) from error


def without_password(url: str) -> str:
    """A URL that may be shown."""
    before, at, after = url.rpartition("@")
    scheme, slashes, user = before.partition("://")
    return f"{scheme}{slashes}{user.partition(':')[0]}:***@{after}" if at else url


def serializer_of(name: str | None) -> Any:
    """The serializer that RQ's workers were given with `-S`; None for RQ's own.

    Raises:
        SettingError: there is none of that name.
    """
    if not name:
        return None
    try:
        return resolve_serializer(name)
    except (ImportError, AttributeError, ValueError, NotImplementedError) as error:
        raise SettingError(
            f"the serializer {name!r} is not accepted: {error}. Give what `rq worker -S` takes, such as "
            "rq.serializers.JSONSerializer."
        ) from error


def where(connection: Redis) -> str:
    """A connection as people know it, without its password."""
    given = connection.connection_pool.connection_kwargs
    if "path" in given:
        return f"unix://{given['path']}?db={given.get('db') or 0}"
    return f"redis://{given.get('host', 'localhost')}:{given.get('port', 6379)}/{given.get('db') or 0}"


def opened(settings: Settings, connection: Redis, serializer: Any) -> Binding:
    """A binding that can send and look, with these settings. It patches nothing in this process."""
    binding = made(settings)
    binding.seen(connection, serializer)
    return binding


def patches(binding: Binding) -> list[Any]:
    """Returns what `install()` patches in a process's RQ: as the user's code installed it, or as it would be."""
    if Binding.installed:
        return list(Binding.installed[-1].patches)
    hooks.install(binding)
    try:
        return list(binding.patches)
    finally:
        binding.uninstall()


def is_installed() -> bool:
    """Whether the user's code called `durable_adapter.rq.install()` in this process."""
    return bool(Binding.installed)


class Level(enum.Enum):
    """How much of what is promised holds on an RQ."""

    REFUSED = "refused"
    #: Memo, rollback and reconciliation; no workflow function can wait.
    STEPS = "steps"
    FULL = "full"


#: The RQ of this process.
FOUND = VERSION
#: From which RQ on each level holds.
FROM = {Level.STEPS: named(OLDEST), Level.FULL: named(RETURNED_RETRY)}


def level(version: str) -> Level:
    """Returns how much holds on an RQ: this process's, or a worker's."""
    numbers = numbers_of(version)
    return Level.FULL if numbers >= RETURNED_RETRY else Level.STEPS if numbers >= OLDEST else Level.REFUSED


def knows(binding: Binding, name: str) -> bool:
    """Whether this code has a function of a dotted name; also where none of its code is at hand, so that nobody can say."""
    try:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            return True
        return loaded(name) is not None or import_attribute(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
    except Exception as error:
        logger.debug("function_not_imported name=%s msg=%r", name, str(error))
        return True


def parameters(binding: Binding, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """A call's arguments by parameter; None where the function is not there, or the call does not fit it."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return None
    function = binding.registry.function(name)
    if function is None:
        return None
    try:
        return dict(inspect.signature(function).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return None


class Witness:
    """Answers about jobs from Redis, for findings and stories. Where Redis does not answer, `silent` says why."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        #: Why nothing was told; None while Redis answers.
        self.silent: str | None = None

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether nobody will run a step's job; None where that is not known."""
        return self._asked(lambda: self._binding.engine.is_gone(step))

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether a queue's list holds no job now."""
        return self._asked(lambda: self._binding.engine.queue_is_empty(queue))

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """Returns what RQ's own results hold for a step's job."""
        return self._asked(lambda: self._binding.engine.outcome(step))

    def says(self, step: StepRow) -> str | None:
        """Returns what Redis holds of a step's job, as a sentence without its full stop."""
        return self._asked(lambda: self._says(step)) if step.task_id is not None else None

    def _asked(self, question: Callable[[], T]) -> T | None:
        if self.silent is not None:
            return None
        try:
            return question()
        except RedisError as error:
            self.silent = f"{where(self._binding.here.connection)} does not answer ({error})"
            return None

    def _says(self, step: StepRow) -> str:
        name = f"job {step.task_id}"
        place = self._binding.place_of(step)
        if place is None:
            return f"{name} is in {self._binding.engine.out_of_reach(step)}, which was not asked"
        job = place.job_of(step)
        if job is None:
            return f"Redis has no {name}"
        if not belongs(job, step):
            return f"{name} was enqueued again under the same id since, and Redis has the later one"
        status = status_of(job)
        match status:
            case None:
                return f"Redis has {name}, and not what became of it"
            case JobStatus.QUEUED if self._binding.engine.is_gone(step):
                return f"RQ says that {name} is queued, and the list of {job.origin!r} does not hold it: no worker will take it"
            case JobStatus.QUEUED:
                return f"{name} waits in the queue {job.origin!r}"
            case JobStatus.DEFERRED:
                return self._deferred(job, name)
            case JobStatus.STARTED if self._binding.engine.is_gone(step):
                return f"RQ says that {name} is running, and nobody runs it"
            case JobStatus.STARTED:
                return f"RQ says that {name} is running"
            case JobStatus.SCHEDULED:
                return f"{name} is among the scheduled ones of {job.origin!r}"
        return f"RQ says that {name} {_became(status)}"

    def _deferred(self, job: Job, name: str) -> str:
        """Returns what a deferred job waits for."""
        if job.dependencies_are_met():
            return f"RQ keeps {name} deferred, although what it depends on is done"
        parents = []
        for parent_id in job._dependency_ids:
            parent = fetched(parent_id, self._binding.here.connection, self._binding.serializer)
            if parent is None:
                parents.append(f"job {parent_id}, which Redis does not have")
                continue
            status = status_of(parent)
            if status not in (None, JobStatus.FINISHED):
                parents.append(f"job {parent_id}, which {_became(status)}")
        return f"RQ keeps {name} deferred behind {' and '.join(parents) or 'what it depends on'}"


_ENDED: dict[Any, str] = {
    JobStatus.FINISHED: "finished",
    JobStatus.FAILED: "failed",
    JobStatus.STOPPED: "was stopped",
    JobStatus.CANCELED: "was cancelled",
}


def _became(status: Any) -> str:
    """A job's status as the end of a sentence."""
    return _ENDED.get(status) or f"is {getattr(status, 'value', status)}"


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """One of RQ's workers, as Redis has it.

    Attributes:
        name: its name.
        host: where it runs; None where it did not say.
        pid: its process.
        version: its RQ.
        queues: what it listens on.
        state: busy, idle, suspended.
        age: seconds since it was born.
        ttl: seconds for which RQ takes it for alive without hearing from it.
    """

    name: str
    host: str | None
    pid: int | None
    version: str
    queues: list[str]
    state: str
    age: float
    ttl: float | None


@dataclass(slots=True)
class SeenQueue:
    """One queue, as Redis has it.

    Attributes:
        name: its name.
        waiting: how many jobs its list holds.
        looked_at: how many of its jobs were looked at.
        durable: those that carry a run.
        unstamped: names of marked functions of jobs that carry none, and how many of each.
        no_result: names of durable functions whose result RQ throws away at once.
    """

    name: str
    waiting: int
    looked_at: int = 0
    durable: int = 0
    unstamped: dict[str, int] = field(default_factory=dict)
    no_result: set[str] = field(default_factory=set)


def server(connection: Redis) -> dict[str, Any]:
    """Returns the server's version, what it keeps on disk, and what it discards when it is full.

    Raises:
        RedisError: it does not answer.
    """
    info: dict[str, Any] = connection.info()
    save: str | None = None
    with contextlib.suppress(RedisError):  # many hosted servers do not answer this
        save = str(connection.config_get("save").get("save", ""))
    return {
        "version": str(info.get("redis_version", "unknown")),
        "aof": bool(info.get("aof_enabled")),
        "save": save,
        "eviction": str(info.get("maxmemory_policy", "noeviction")),
        "maxmemory": int(info.get("maxmemory", 0)),
    }


def workers(connection: Redis) -> list[SeenWorker]:
    """Every worker that RQ takes for alive."""
    from rq.utils import now

    found = []
    for worker in Worker.all(connection=connection):
        left = connection.pttl(worker.key)
        beat = worker.last_heartbeat
        silent = (now() - aware(beat)).total_seconds() if beat is not None else 0.0
        ttl = round(left / 1000 + silent - GRACE) if isinstance(left, int) and left > 0 else None
        found.append(
            SeenWorker(
                name=worker.name,
                host=worker.hostname,
                pid=worker.pid,
                version=str(worker.version),
                queues=worker.queue_names(),
                state=str(getattr(worker.get_state(), "value", worker.get_state())),
                age=(now() - aware(worker.birth_date)).total_seconds() if worker.birth_date is not None else 0.0,
                ttl=ttl,
            )
        )
    return found


def marked_names(binding: Binding, modules: list[Any]) -> list[str]:
    """The marked functions of the modules that were imported, and those that are marked by name, as RQ calls them."""
    names = set(NAMED)
    for module in modules:
        for found in vars(module).values():
            if callable(found) and (hasattr(found, STEP_MARK) or hasattr(found, WORKFLOW_MARK)):
                names.add(f"{found.__module__}.{found.__qualname__}")
    return sorted(name for name in names if binding.registry.learn(name, loaded(name)))


def queues(binding: Binding, named: list[str]) -> list[SeenQueue]:
    """Every queue that RQ knows of or that somebody names, with a look at the jobs in it."""
    connection = binding.here.connection
    there = {queue.name for queue in Queue.all(connection=connection)}
    return [_looked_at(binding, Queue(name, connection=connection)) for name in sorted({*there, *named})]


def _looked_at(binding: Binding, queue: Queue) -> SeenQueue:
    seen = SeenQueue(queue.name, queue.count)
    for job in _jobs(binding, queue):
        seen.looked_at += 1
        name = job.func_name or ""
        if stamp_of(job) is not None:
            seen.durable += 1
            if job.result_ttl == 0:
                seen.no_result.add(name)
        elif binding.registry.learn(name, _imported(name)):
            seen.unstamped[name] = seen.unstamped.get(name, 0) + 1
    return seen


def _jobs(binding: Binding, queue: Queue) -> Iterator[Job]:
    """Some of a queue's jobs: those that wait, that are scheduled or deferred, and that run."""
    connection = binding.here.connection
    ids = list(queue.get_job_ids(0, JOBS))
    for registry in (ScheduledJobRegistry, DeferredJobRegistry, StartedJobRegistry):
        found: Any = connection.zrange(registry(queue.name, connection=connection).key, 0, JOBS)
        ids += [job_id_of(text_of(member)) for member in found]
    for start in range(0, len(ids), JOBS):
        yield from fetched_many(ids[start : start + JOBS], connection, binding.serializer).values()


def _imported(name: str) -> Any:
    """A job's function; None where its code is not at hand."""
    try:
        return import_attribute(name)
    except Exception as error:
        logger.debug("function_not_imported name=%s msg=%r", name, str(error))
        return None
