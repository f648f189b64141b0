"""RQ's workers, with the sweeper beside them and exact knowledge of their horses' deaths. `SpawnWorker` is next door.

`rq worker -w durable_adapter.rq.Worker`, or `RQ_WORKER_CLASS`, is all that a deployment changes. A horse begins its attempts
under its parent's row: the parent beats for it, and where the parent is gone the orphaned horse goes on beating. Nothing here
waits for the journal but a marked job: while it is away, what is not marked runs as ever (P9, P10).
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from redis import RedisError
from rq import SimpleWorker as RQSimpleWorker
from rq import Worker as RQWorker

from ..errors import Deferred, JournalError, PutAside
from ..recovery import SweeperThread
from ..runtime import outages
from ..runtime.doubt import attempt_lost
from ..runtime.transactions import prepare_transactions
from .binding import Binding
from .fields import note_gone
from .identity import place_of
from .installing import install
from .orphans import OrphanRecovery
from .stamps import stamp_of
from .versions import AWARE_TIMES, since

logger = logging.getLogger("durable_adapter")

#: The environment variables by which a horse knows its parent's row, and the file in which it says what it runs.
ROW, RUNNING = "DURABLE_RQ_ROW", "DURABLE_RQ_RUNNING"
#: Prefix of the names of those files.
RUNNING_FILE = "durable-adapter-rq-"
#: Stands for the claim of a horse that died before it had said that it makes one.
UNCLAIMED = "-"
#: Seconds for which a worker that starts waits for its own row: a journal that does not answer keeps no job waiting.
INTRODUCED_WITHIN = 2.0
#: Seconds that a worker which ends waits for a journal that is away, if it has deaths of its horses to record.
RECORDED_WITHIN = 10.0


class Running:
    """The attempts that a horse runs, by name, in a file that its parent reads; replaced in one write."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, names: list[str]) -> None:
        """Says what is run now; to nobody, where an orphan's parent and its file are gone."""
        with contextlib.suppress(FileNotFoundError), open(self.path, "r+b") as file:
            file.write(json.dumps(names).encode().ljust(1) + b"\n")
            file.truncate()

    def read(self) -> list[str]:
        """Returns what was written last. A write cut off by a death is read as nothing: then no claim was made either."""
        try:
            with open(self.path, "rb") as file:
                found: list[str] = json.loads(file.read() or b"[]")
        except (OSError, ValueError):
            return []
        return found


class RunningFile:
    """The file of a worker's horses, locked while the worker or a forked horse of it lives, so that the next clears it away."""

    def __init__(self) -> None:
        directory = tempfile.gettempdir()
        self._clear(directory)
        self._handle, made = self._locked(directory)
        self.path = os.path.join(directory, os.path.basename(made)[1:])
        os.rename(made, self.path)  # only now can another worker see it: a file that nobody holds is left over

    def keep(self) -> None:
        """Makes the file again where a cleaner of temporary files has removed it."""
        if not os.path.exists(self.path):
            os.close(self._handle)
            self._handle, made = self._locked(os.path.dirname(self.path))
            os.rename(made, self.path)

    @staticmethod
    def _locked(directory: str) -> tuple[int, str]:
        handle, made = tempfile.mkstemp(prefix=f".{RUNNING_FILE}", dir=directory)
        fcntl.flock(handle, fcntl.LOCK_EX)
        return handle, made

    @staticmethod
    def _clear(directory: str) -> None:
        for path in glob.glob(os.path.join(directory, f"{RUNNING_FILE}*")):
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDWR)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(handle)

    def close(self) -> None:
        """The worker ends."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            os.close(self._handle)


class Durable:
    """The part of our workers that is mixed in before one of RQ's own classes."""

    _durable_thread: SweeperThread | None = None
    _durable_running: Running | None = None
    _durable_lost: list[tuple[str, str]]
    _durable_writing: threading.Lock
    _durable_orphans: OrphanRecovery | None = None
    _durable_looks_at = 0.0

    def _durable_binding(self) -> Binding:
        return install()

    def work(self, *args: Any, **kwargs: Any) -> Any:
        """RQ's loop, with the sweeper beside it."""
        binding = self._durable_binding()
        binding.works_at(self.connection, self.serializer, self.queues)  # type: ignore[attr-defined]
        binding.queues = [queue.name for queue in self.queues]  # type: ignore[attr-defined]
        binding.hook(self.job_class)  # type: ignore[attr-defined]
        binding.host.is_stopping = lambda: False
        prepare_transactions(binding.registry)  # before a horse is forked
        binding.journal.compile_hot()
        _ = binding.journal.db.engine  # made before there is a thread, so that no horse is forked while one makes it
        self._durable_lost, self._durable_writing = [], threading.Lock()
        self._durable_begin(binding)
        self._durable_thread = SweeperThread.beside(binding, lambda: self._durable_watch(binding))
        self._durable_thread.start()
        try:
            return super().work(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._durable_thread.stop(wait=5)
            self._durable_record_rest(binding)
            binding.host.stop()

    def _durable_begin(self, binding: Binding) -> None:
        """Gets this worker's row before it takes a job, so that others can tell what it had started if it dies."""
        introducing = threading.Thread(target=binding.host.introduce, name="durable-introduce", daemon=True)
        introducing.start()
        introducing.join(INTRODUCED_WITHIN)

    def register_birth(self, *args: Any, **kwargs: Any) -> Any:
        """RQ has written its hash of this worker, in which others find the worker's row."""
        result = super().register_birth(*args, **kwargs)  # type: ignore[misc]
        orphans = OrphanRecovery(self._durable_binding())
        orphans.note_row(self.key)  # type: ignore[attr-defined]
        self._durable_orphans = orphans
        return result

    def _durable_watch(self, binding: Binding) -> bool:
        """Called by the sweeper's thread several times a second; returns whether a sweep is wanted at once."""
        wanted = self._durable_record_lost(binding)
        self._durable_recover_orphans(binding)
        return wanted

    def _durable_recover_orphans(self, binding: Binding) -> None:
        """Takes up what RQ keeps of jobs that nobody runs any more, as often as this worker sweeps."""
        orphans = self._durable_orphans
        if orphans is None or time.monotonic() < self._durable_looks_at or not binding.host.introduce():
            return
        self._durable_looks_at = time.monotonic() + binding.settings.sweep_every
        try:
            binding.host.fit_to_begin()  # a worker that was frozen and declared dead gets another row
            orphans.note_row(self.key)  # type: ignore[attr-defined]
            if binding.settings.sweeper:
                orphans.recover()
        except JournalError as error:
            outages.away(binding.journal, error)
        except (RedisError, Deferred) as error:
            logger.warning("orphans_not_checked msg=%r", str(error))

    def _durable_record_rest(self, binding: Binding) -> None:
        """Records, before this worker ends, the deaths that it could not record so far: nobody else knows of them.

        RQ ends a worker when Redis is away, and the journal may be away at that moment as well.
        """
        until = time.monotonic() + RECORDED_WITHIN
        while self._durable_lost:
            try:
                self._durable_record_lost(binding)
            except JournalError as error:
                if time.monotonic() >= until:
                    steps = ", ".join(name for name, _ in self._durable_lost)
                    logger.error("deaths_not_recorded steps=%r msg=%r", steps, f"The sweeper decides without them: {error}")
                    return
                time.sleep(min(0.5, RECORDED_WITHIN))

    def _durable_record_lost(self, binding: Binding) -> bool:
        """Puts in doubt what a dead horse had begun; again and again until the journal has it, and once."""
        wanted = False
        with self._durable_writing:  # the sweeper's thread and RQ's loop may be here at once
            while self._durable_lost:
                name, why = self._durable_lost[0]
                ref, token, key = name.split(" ", 2)
                row = binding.journal.claims.get(ref, key)
                if row is not None:
                    wanted |= attempt_lost(binding.journal, row, token, why, who=binding.host.parent)
                del self._durable_lost[0]
        return wanted

    def handle_exception(self, job: Any, *exc_info: Any) -> Any:
        """RQ's word on a job that raised: on an RQ before 2.1 not on one that is put aside, which no handler need hear of."""
        if exc_info and exc_info[0] is PutAside:
            logger.debug("job_deferred msg=%r", str(exc_info[1]))
            return None
        return super().handle_exception(job, *exc_info)  # type: ignore[misc]

    def request_stop(self, *args: Any, **kwargs: Any) -> Any:
        """A warm shutdown: a workflow function that runs in this process suspends at its next step."""
        self._durable_binding().host.is_stopping = lambda: True
        return super().request_stop(*args, **kwargs)  # type: ignore[misc]


class Horses(Durable):
    """The part of our workers that is mixed in where each job runs in a process of its own."""

    _durable_running_file: RunningFile | None = None
    _durable_row: str | None = None
    _durable_died_idle = False

    def _durable_begin(self, binding: Binding) -> None:
        self._durable_running_file = RunningFile()
        path = self._durable_running_file.path
        self._durable_running = Running(path)
        own = binding.host.running
        binding.host.running = lambda: sorted({*own(), *Running(path).read()})  # type: ignore[method-assign]
        super()._durable_begin(binding)

    def _durable_watch(self, binding: Binding) -> bool:
        return binding.host.introduce() and super()._durable_watch(binding)

    def work(self, *args: Any, **kwargs: Any) -> Any:
        """RQ's loop; the file in which horses say what they run goes with it, and so do the variables that name it."""
        with restored(os.environ, ROW, RUNNING):
            try:
                return super().work(*args, **kwargs)
            finally:
                self._durable_binding().host.__dict__.pop("running", None)
                if self._durable_running_file is not None:
                    self._durable_running_file.close()

    def main_work_horse(self, job: Any, queue: Any, *args: Any, **kwargs: Any) -> Any:
        """The horse's own beginning: it works under its parent's row, and says what it runs."""
        binding = self._durable_binding()
        worker: Any = self
        if not worker.queues:
            # A spawned horse reads its worker's queues in Redis. After a flush there are none, and RQ would leave the job among
            # those that a worker has taken and not begun, and call it failed a minute after its success.
            worker.queues = [queue]
        row = self._durable_row = os.environ.pop(ROW, None)
        running = Running(os.environ.pop(RUNNING))
        binding.hook(self.job_class)  # type: ignore[attr-defined]
        orphan = OrphanHeartbeat(binding, os.getppid())

        def say(names: list[str]) -> None:
            running.write(names)
            if row is not None:
                orphan.watch()

        binding.host.share(row, say)
        return super().main_work_horse(job, queue, *args, **kwargs)  # type: ignore[misc]

    def perform_job(self, *args: Any, **kwargs: Any) -> Any:
        """RQ's; a horse that had to get a row of its own takes it back, for RQ ends the process without a word."""
        try:
            return super().perform_job(*args, **kwargs)  # type: ignore[misc]
        finally:
            host = self._durable_binding().host
            if self.is_horse and host.row not in (None, self._durable_row):  # type: ignore[attr-defined]
                host.stop()

    def fork_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        """A horse begins with nothing said, under the row that its parent has now."""
        binding = self._durable_binding()
        row, running = binding.host.row, self._durable_running
        if self._durable_running_file is not None and running is not None:
            self._durable_running_file.keep()
            running.write([])
            os.environ[RUNNING] = running.path
        if row is not None:
            os.environ[ROW] = row
        else:
            os.environ.pop(ROW, None)
        return super().fork_work_horse(*args, **kwargs)  # type: ignore[misc]

    def handle_work_horse_killed(self, *args: Any, **kwargs: Any) -> Any:
        """The parent saw its horse die: what that had begun is in doubt now, before RQ sends the job again."""
        if not self._durable_record_death("its horse died, as its parent saw, while the step was running"):
            self._durable_died_idle = True
        return super().handle_work_horse_killed(*args, **kwargs)  # type: ignore[misc]

    def monitor_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        """Records that what a horse said that it runs is over, however it ended."""
        job = args[0] if args else kwargs["job"]
        if not since(AWARE_TIMES) and stamp_of(job) is not None:
            job.ended_at = None  # that of an earlier attempt, with which RQ cannot reckon
        try:
            return super().monitor_work_horse(*args, **kwargs)  # type: ignore[misc]
        finally:
            if not self._durable_record_death("its horse ended while the step was running", gone=job) and self._durable_died_idle:
                # Only now: what RQ says of this death must not overtake the job's next message.
                self._durable_not_begun(job)
            self._durable_died_idle = False

    def _durable_not_begun(self, job: Any) -> None:
        """A horse died before it said that it begins the job's step. No worker of ours runs a marked step without saying so."""
        if stamp_of(job) is None:
            return
        try:
            ref, key = place_of(job)
        except RedisError as error:
            logger.warning("unbegun_not_recorded job=%s msg=%r", job.id, f"It is left to the sweeper: {error}")
            return
        self._durable_write_deaths([(f"{ref} {UNCLAIMED} {key}", "its horse died before the step began")])

    def _durable_record_death(self, why: str, *, gone: Any = None) -> bool:
        """Puts in doubt what a dead horse was running; returns whether it was running anything.

        Args:
            why: what is known, in words.
            gone: its job, where RQ does nothing about the death: whoever reads of the doubt must find that nobody runs it.
        """
        running = self._durable_running
        names = running.read() if running is not None else []
        if running is None or not names:
            return False
        running.write([])
        if gone is not None:
            with contextlib.suppress(RedisError):  # without it the next look waits until no beat names the step
                note_gone(gone)
        self._durable_write_deaths([(name, why) for name in names])
        return True

    def _durable_write_deaths(self, lost: list[tuple[str, str]]) -> None:
        self._durable_lost += lost
        try:
            self._durable_record_lost(self._durable_binding())
        except JournalError as error:
            outages.away(self._durable_binding().journal, error)
            logger.debug("death_not_recorded_yet msg=%r", str(error))


class OrphanHeartbeat:
    """Beats for a horse whose parent is gone, from the first attempt on: while the parent lives it beats for its horse."""

    def __init__(self, binding: Binding, parent: int) -> None:
        self._host = binding.host
        self._parent = parent
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Begins to look after the parent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="durable-orphan", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        stop = threading.Event()
        while not stop.wait(min(1.0, self._host.beat_every)):
            if os.getppid() == self._parent:
                continue
            try:
                self._host.beat()
            except JournalError as error:
                outages.away(self._host.journal, error, self._host.running())
            except Exception:
                logger.warning("beat_failed worker=%s", self._host.row, exc_info=True)
            stop.wait(self._host.beat_every)


@contextlib.contextmanager
def restored(environment: Any, *names: str) -> Iterator[None]:
    """A block after which these variables are as they were."""
    before = {name: environment.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value


class Worker(Horses, RQWorker):
    """`rq.Worker`: forks a horse for each job."""


class SimpleWorker(Durable, RQSimpleWorker):
    """`rq.SimpleWorker`: runs jobs in its own process."""


with contextlib.suppress(Exception):
    # Where the journal is named in the environment, importing this is enough: a horse that is spawned does nothing else.
    install()
