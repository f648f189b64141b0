"""A sweeper in a thread of its own, in the process of a worker that has something else to do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from ..errors import JournalError
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
        self._thread = threading.Thread(target=self._loop, name="durable-sweeper", daemon=True)

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
            try:
                wanted = self._watch()
            except Exception:
                # This thread is the worker's only sweeper: whatever it was, the next round must come.
                logger.exception("the deaths of this worker's children could not be looked at")
                wanted = False
            if self._absence is not None:
                self._absence.look()
            if self._every is not None and (wanted or time.monotonic() >= next_sweep):
                self._sweeper.safely()
                next_sweep = time.monotonic() + self._every
        with contextlib.suppress(JournalError):
            self._sweeper.stop()
