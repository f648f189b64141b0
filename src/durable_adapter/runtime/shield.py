"""Keeps an engine's own interruptions out of the journal's writes, and lets them into the user's code.

Engines end a body that takes too long by an exception out of a signal handler: it can come at any instruction, also in the
middle of a statement to the journal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

#: What the lists of patches say of it.
WHY: Final = "keeps an interruption of the engine's out of the journal's writes"
GUARD: Final = "only in a process that runs marked tasks, and only before a handler that is there already"


class Shield:
    """Holds back the engine's signal while the main thread of this process writes to the journal.

    Blocking the signal is not enough: the kernel delivers it to another thread, and Python still runs the handler in this one.

    Args:
        number: the signal; None where this platform does not have it.
        renewed: the engine sets its handler for each task, rather than once per process.
    """

    def __init__(self, number: Any, *, renewed: bool = False) -> None:
        self.number = number
        self._renewed = renewed
        self._up = False
        self._bodies = 0
        self._came = False
        self._handler: Any = None
        self._watched_by = 0

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        """Keeps the interruption out of the journal's writes.

        One that arrives during the last of them is dropped: the task is over. One that arrives while a workflow
        function's call is recorded is raised in the function when that is done.
        """
        if not self._concerns_this_thread():
            yield
            return
        self._watch()
        before, self._up = self._up, True
        try:
            yield
        finally:
            self._up = before
            if not self._bodies:
                self._came = False
        if not before:
            self._deliver()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Lets the interruption into the user's code."""
        if not self._concerns_this_thread():
            yield
            return
        before, self._up = self._up, False
        self._bodies += 1
        try:
            self._deliver()
            yield
        finally:
            self._bodies -= 1
            self._up = before

    def take_down(self) -> None:
        """Restores the engine's handler. A handler that was set over ours since stays, and goes on calling ours.

        Python sets handlers only in the main thread. Called in another one, ours stays, and passes every signal on.
        """
        if self._concerns_this_thread() and signal.getsignal(self.number) == self._on_signal:
            signal.signal(self.number, self._handler)
        self._watched_by = 0

    def _concerns_this_thread(self) -> bool:
        return self.number is not None and threading.current_thread() is threading.main_thread()

    def _watch(self) -> None:
        """Sets our handler over the engine's."""
        if self._watched_by == os.getpid() and not self._renewed:
            return
        self._watched_by = os.getpid()
        current = signal.getsignal(self.number)
        if current != self._on_signal and callable(current):
            self._handler = current
            signal.signal(self.number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._up:
            self._came = True
        else:
            self._handler(number, frame)

    def _deliver(self) -> None:
        """Runs the engine's handler for a signal that was held back."""
        if self._came:
            self._came = False
            self._handler(self.number, None)
