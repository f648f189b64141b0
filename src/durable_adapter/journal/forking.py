"""A fork and the use of SQLite, kept apart.

SQLite keeps the locks of a file in the memory of its process, and the operating system does not hand them on to a child. One
that is forked while another thread writes takes them for held, and nobody in it will ever give them back: all that it wants to
write finds the file locked. And one that is forked while a connection is open takes that one's locks for its own and gets none:
whoever is the last to close the file, as far as the locks tell, then takes the log away into which that child commits. So a
fork waits until no other thread is in the middle of something, nothing begins meanwhile, and no connection is open.
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

#: Seconds for which a fork waits at the most: a journal that is slow keeps no job waiting.
LONGEST: Final = 5.0
#: What a binding's list of patches says of it.
WHERE: Final = "os.register_at_fork"
WHY: Final = "lets a fork wait until no thread is in the middle of a statement to SQLite, and closes the connections to it"
GUARD: Final = "with a journal in SQLite alone; Python cannot take it back, and without a journal in use it waits for nothing"


class Gate:
    """Threads of this process that use SQLite pass it; a fork closes it."""

    def __init__(self) -> None:
        self._installed = False
        self._closers: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, int] = {}
        self._closed = False

    def install(self, close: Callable[[], None]) -> None:
        """Has every fork of this process close the gate, and then the connections of a database that nobody uses.

        Args:
            close: the method of the database that does; its database may go, and it goes with it.
        """
        self._closers = [known for known in self._closers if known() not in (None, close)] + [weakref.WeakMethod(close)]
        if not self._installed:
            self._installed = True
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._reset)

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """A block that uses SQLite; one within another passes at once."""
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
                logger.exception("a connection to SQLite stays open over a fork")

    def _open(self) -> None:
        self._closed = False
        self._condition.notify_all()
        self._condition.release()


#: This process's.
GATE: Final = Gate()
