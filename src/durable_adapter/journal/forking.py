"""A fork and the use of SQLite, kept apart.

SQLite keeps the locks of a file in the memory of its process. A child that is forked while another thread writes inherits
them as held, and nobody in it will ever give them back: all that it wants to write finds the file locked. So a fork waits
until no other thread is in the middle of something, and nothing begins meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

#: Seconds for which a fork waits at the most: a journal that is slow keeps no job waiting.
LONGEST: Final = 5.0
#: What a binding's list of patches says of it.
WHERE: Final = "os.register_at_fork"
WHY: Final = "lets a fork wait until no thread is in the middle of a statement to SQLite"
GUARD: Final = "with a journal in SQLite alone; Python cannot take it back, and without a journal in use it waits for nothing"


class Gate:
    """Threads of this process that use SQLite pass it; a fork closes it."""

    def __init__(self) -> None:
        self._installed = False
        self._reset()

    def _reset(self) -> None:
        self._condition = threading.Condition()
        self._inside: dict[int, int] = {}
        self._closed = False

    def install(self) -> None:
        """Has every fork of this process close the gate. Repeated, it does nothing."""
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

    def _open(self) -> None:
        self._closed = False
        self._condition.notify_all()
        self._condition.release()


#: This process's.
GATE: Final = Gate()
