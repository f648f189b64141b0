"""A sweeper in a thread of its own, in the process of a worker that has something else to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from ..errors import JournalError
from ..runtime.binding import BaseBinding
from ..runtime.engine import installed_beside
from .sweeper import Sweeper

logger = logging.getLogger("durable_adapter")

#: Seconds between two looks at what only this process knows.
WATCH = 0.2


class SweeperThread:
    """A sweeper in a thread of its own, in the process of a worker that has something else to do.

    Args:
        sweeper: the sweeper; it belongs to this thread alone.
        every: seconds between two sweeps; None where this worker is not to sweep: then it says when nobody does.
        watch: looks after what only this process knows (its children), some times a second; returns whether a sweep is
            wanted at once.
    """

    def __init__(self, sweeper: Sweeper, *, every: float | None, watch: Callable[[], bool] = lambda: False) -> None:
        self._sweeper = sweeper
        self._every = every
        self._watch = watch
        self._absence = sweeper.absence() if every is None else None
        self._stopping = threading.Event()
        #: A death was written while a sweep was under way.
        self._wanted = False
        self._thread = threading.Thread(target=self._loop, name="durable-sweeper", daemon=True)

    @classmethod
    def beside(cls, binding: BaseBinding, watch: Callable[[], bool]) -> SweeperThread:
        """The thread of a binding's worker, by its settings."""
        settings = binding.settings
        sweeper = Sweeper(
            binding.journal,
            lambda: installed_beside(binding.engine),
            stale=settings.stale,
            beat=settings.beat,
            retention=settings.retention,
            queues=lambda: binding.queues,
        )
        return cls(sweeper, every=settings.sweep_every if settings.sweeper else None, watch=watch)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, *, wait: float = 0.0) -> None:
        """Ends the thread, and waits that many seconds for the sweep that is under way."""
        self._stopping.set()
        if wait and self._thread.is_alive():
            self._thread.join(wait)

    def _loop(self) -> None:
        next_sweep = 0.0
        while not self._stopping.wait(WATCH):
            wanted = self._attend()
            if self._absence is not None:
                self._absence.check()
            if self._every is not None and (wanted or self._wanted or time.monotonic() >= next_sweep):
                self._wanted = False
                report = self._sweeper.safely(attend=self._attend)
                next_sweep = time.monotonic() + (0.0 if report.more else self._every)
        with contextlib.suppress(JournalError):
            self._sweeper.stop()

    def _attend(self) -> bool:
        """Looks after this worker's children; a death that is written meanwhile has a sweep of its own at once."""
        try:
            wanted = self._watch()
        except Exception as error:
            # This thread is the worker's only sweeper: whatever it was, the next round must come.
            logger.exception("watch_failed msg=%r", f"The deaths of this worker's children could not be looked at: {error}")
            return False
        self._wanted = self._wanted or wanted
        return wanted
