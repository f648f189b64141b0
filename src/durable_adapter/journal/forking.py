"""Prevents forks while SQLite is in use.

SQLite keeps its file locks in the memory of the process, and the operating system does not pass them on to a child. A child that
is forked while another thread writes sees these locks as held for ever, and can write nothing. A child that is forked while a
connection is open believes that it holds that connection's locks: another process may then delete the log into which the child
commits. So a fork waits until no other thread uses SQLite, blocks new uses, and closes all connections.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Final

logger = logging.getLogger("durable_adapter")

#: Longest time in seconds that a fork waits, so that a slow journal does not block jobs.
LONGEST: Final = 5.0
#: The entry in a binding's list of patches.
WHERE: Final = "os.register_at_fork"
WHY: Final = "lets a fork wait until no thread is in the middle of a statement to SQLite, and closes the connections to it"
GUARD: Final = "with a journal in SQLite alone; Python cannot take it back, and without a journal in use it waits for nothing"


class Gate:
    """Lets the threads of this process use SQLite, except during a fork."""

    def __init__(self) -> None:
        self._installed = False
        self._closers: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, int] = {}
        self._closed = False

    def install(self, close: Callable[[], None]) -> None:
        """Makes every fork of this process close the gate, and then the idle connections of a database.

        Args:
            close: the method of the database that closes them. It is referenced weakly.
        """
        self._closers = [known for known in self._closers if known() not in (None, close)] + [weakref.WeakMethod(close)]
        if not self._installed:
            self._installed = True
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """Encloses a use of SQLite. A nested use never waits."""
        me = threading.get_ident()
        condition = self._condition
        with condition:
            if me not in self._inside:
                condition.wait_for(lambda: not self._closed, LONGEST)
            self._inside[me] = self._inside.get(me, 0) + 1
        try:
            yield
        finally:
            with self._condition:
                left = self._inside.pop(me, 1) - 1
                if left:
                    self._inside[me] = left
                self._condition.notify_all()

    def _close(self) -> None:
        me = threading.get_ident()
        self._condition.acquire()
        self._closed = True
        self._condition.wait_for(lambda: not self._inside.keys() - {me}, LONGEST)
        for known in self._closers:
            close = known()
            try:
                if close is not None:
                    close()
            except Exception:  # a fork cannot be refused here
                logger.exception("sqlite_open_over_fork msg=%r", "A connection to SQLite could not be closed before a fork.")

    def _open(self) -> None:
        self._closed = False
        self._condition.notify_all()
        self._condition.release()


#: The gate of this process.
GATE: Final = Gate()
