"""This process as the journal sees it: its worker row, its beat, the attempts it runs, and how it waits for an absent journal.

Keeps the liveness half of P3 and P10: a process that is dead in the journal registers anew and begins nothing under the
old row; one that has missed two of its own beats begins nothing new; while the journal is away nothing begins and
nothing that was done is forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import Deferred, JournalUnmigrated, JournalUnreachable
from ..model import SECOND, WorkerRow, attempt_name
from . import alerts, outages
from .waiting import waiting

if TYPE_CHECKING:
    from ..journal import Journal
    from .engine import Engine

logger = logging.getLogger("durable_adapter")
T = TypeVar("T")

#: Seconds without a beat after which a sweeper may declare a worker dead.
STALE = 60.0
#: Seconds between two beats: six fit into `STALE`, so that a slow database does not look like a death.
BEAT = 10.0
#: How many of its own beats a process may miss before it begins nothing new without beating first.
MISSED = 2
#: Seconds up to which a worker waits for the next attempt itself; for longer it gives its slot back.
NEAR = 1.0
#: Seconds between two tries while the journal is away: first and longest.
PATIENCE = (0.2, 5.0)


class Host:
    """One process that runs attempts. Forked children get a row of their own when they first need it.

    Args:
        journal: the journal.
        engine: the binding, as the runtime sees it.
        queues: the queues that this process serves; empty where that is not known.
        parent: the id that a parent process shares with its children, so that it can say which of them died.
        stale: seconds of silence after which a worker counts as dead.
        beat: seconds between beats.
        code_version: the user's own version of the code, for `explain`.
    """

    def __init__(
        self,
        journal: Journal,
        engine: Engine,
        *,
        queues: Callable[[], Sequence[str]] = lambda: (),
        parent: str | None = None,
        stale: float = STALE,
        beat: float = BEAT,
        code_version: str | None = None,
    ) -> None:
        self.journal = journal
        alerts.listen(journal)
        #: The same journal; its methods wait while it is away. For recording what was done.
        self.patient = waiting(journal, self.patiently)
        #: Likewise, for beginning something: its methods raise `Deferred` where the journal is away and the process is
        #: shutting down or switched off. The sweeper sends what is left.
        self.beginning = waiting(journal, functools.partial(self.patiently, begins=True))
        self.engine = engine
        self.parent = parent
        self.stale = stale
        self.beat_every = min(beat, stale / 4)
        self.code_version = code_version
        self._queues = queues
        self._lock = threading.RLock()
        self._running: dict[str, int] = {}
        self._worker: str | None = None
        self._pid = 0
        self._beaten = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        #: Tells a parent that beats for this process what runs here.
        self._say: Callable[[list[str]], None] | None = None
        #: Set by the binding: keeps the engine's own interruptions out of the journal's writes, and lets them into bodies.
        self.shielded: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.exposed: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        #: Set by the binding: whether this process is shutting down warmly.
        self.is_stopping: Callable[[], bool] = lambda: False
        #: Set by the binding: whether the plugin is switched off here, so that nothing waits for the journal to begin.
        self.is_off: Callable[[], bool] = lambda: False
        #: Seconds up to which a worker itself waits for the next attempt, and how. The test journal moves its clock instead.
        self.near = NEAR
        self.pause: Callable[[float], None] = time.sleep

    @property
    def worker(self) -> str:
        """The id of this process's row, registered when first asked for, and again after a fork."""
        if self._worker is None or self._pid != os.getpid():
            self._register(instead_of=self._worker)
        assert self._worker is not None
        return self._worker

    @property
    def row(self) -> str | None:
        """The id of this process's row, if it has one: nothing is asked of the journal."""
        return self._worker if self._pid == os.getpid() else None

    def introduce(self) -> bool:
        """Registers this process unless the journal is away; for a worker that must not wait for the journal."""
        if self.row is None:
            try:
                self._register(instead_of=None, patient=False)
            except (JournalUnreachable, JournalUnmigrated) as error:
                logger.debug("worker_not_registered pid=%d msg=%r", os.getpid(), str(error))
                return False
        return True

    def _register(self, *, instead_of: str | None, patient: bool = True) -> None:
        """Gives this process a row. Of several threads, the first one does."""
        if self._pid not in (0, os.getpid()):
            self._lock = threading.RLock()  # a thread of the parent may have held the old one when this process was forked
        with self._lock:
            if self._pid == os.getpid() and self._worker is not None and self._worker != instead_of:
                return
            if self._pid != os.getpid():
                self._running.clear()
                self._thread = None
            new = uuid.uuid4().hex
            row = WorkerRow(
                id=new,
                role="worker",
                parent=self.parent,
                host=socket.gethostname(),
                pid=os.getpid(),
                engine=self.engine.name,
                queues=list(self._queues()),
                code_version=self.code_version,
                beats=0,
                beat_at=0,
                previous_beat_at=0,
                running=[],
                previously_running=[],
                started_at=0,
                namespace=self.journal.namespace,
                beat_every=int(self.beat_every * SECOND),
            )
            if patient:
                self.beginning.workers.register(row)
            else:
                self.journal.workers.register(row)
            self._worker = new
            self._pid = os.getpid()
            self._beaten = time.monotonic()
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._beat_on, args=(self._stop,), name="durable-beat", daemon=True)
                self._thread.start()

    def _beat_on(self, stop: threading.Event) -> None:
        while not stop.wait(self.beat_every):
            try:
                self.beat()
            except JournalUnreachable as error:
                outages.away(self.journal, error, self.running())
            except Exception as error:
                logger.exception("beat_failed worker=%s msg=%r", self.row, str(error))

    def beat(self) -> bool:
        """Records one beat, with the attempts that run here; False where this process is dead in the journal."""
        at = time.monotonic()
        worker = self._worker
        if worker is None:
            return False
        alive = self.journal.workers.beat(worker, self.running)
        outages.back(self.journal)
        if alive:
            self._beaten = at
        return alive

    def share(self, worker: str | None, say: Callable[[list[str]], None]) -> None:
        """Makes this process work under the row of its parent, which beats for it.

        Args:
            worker: the parent's row; None where it has none, because the journal was away: then this process gets one of
                its own, if it begins anything.
            say: tells the parent which attempts run here, before each begins and after each ended.
        """
        self._lock = threading.RLock()  # a thread of the parent may have held the old one when this process was forked
        self._running.clear()
        self._worker, self._pid, self._thread = worker, os.getpid() if worker is not None else 0, None
        self._beaten = max(self._beaten, time.monotonic() - self.stale)
        self._say = say

    def stop(self) -> None:
        """Ends the beat, and records that this process ended by itself, unless a body still runs in another thread."""
        self._stop.set()
        self._thread = None
        if self._worker is not None and self._pid == os.getpid() and not self.running():
            with contextlib.suppress(JournalUnreachable):
                self.journal.workers.stop(self._worker)
        self._worker = None

    def fit_to_begin(self) -> None:
        """Makes sure that this process may begin something: it has missed fewer than two of its beats, or beats now."""
        _ = self.worker
        if time.monotonic() - self._beaten > MISSED * self.beat_every:
            self.prove_alive()

    def prove_alive(self) -> None:
        """Beats now. A process that was declared dead registers anew."""
        seen = self.worker
        if not self.patiently(self.beat, begins=True) and self._worker == seen:
            logger.warning(
                "worker_declared_dead worker=%s msg=%r",
                seen,
                "This process was declared dead in the journal; it registers anew.",
            )
            self._register(instead_of=seen)

    @contextlib.contextmanager
    def runs(self, ref: str, key: str, token: str | None) -> Iterator[None]:
        """Names an attempt in every beat, until its end is recorded."""
        name = attempt_name(ref, key, token)
        with self._lock:
            self._running[name] = self._running.get(name, 0) + 1
            if self._say is not None:
                self._say(list(self._running))
        try:
            yield
        finally:
            with self._lock:
                left = self._running.get(name, 1) - 1
                if left:
                    self._running[name] = left
                else:
                    self._running.pop(name, None)
                if self._say is not None:
                    self._say(list(self._running))

    def running(self) -> list[str]:
        """The attempts that this process runs now."""
        with self._lock:
            return sorted(self._running)

    def patiently(self, operation: Callable[[], T], *, begins: bool = False) -> T:
        """Runs a journal operation, waiting for as long as the journal is away.

        Meanwhile the process keeps its slot, takes no other message and begins nothing (P10). An operation that only begins
        something gives up when the process is told to stop.

        Raises:
            Deferred: *begins* is set, and the process is shutting down or switched off.
        """
        wait, longest = PATIENCE
        waited = False
        while True:
            try:
                done = operation()
                if waited:
                    outages.back(self.journal)
                return done
            except (JournalUnreachable, JournalUnmigrated) as error:
                if begins and self.is_stopping():
                    raise Deferred("the journal is away and this worker is shutting down") from error
                if begins and self.is_off():
                    raise Deferred("the journal is away and durable-adapter is switched off here") from error
                if not waited:
                    outages.away(self.journal, error, self.running())
                    waited = True
                time.sleep(wait)
                wait = min(wait * 2, longest)
