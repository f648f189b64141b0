"""Simulated time and seeded chance: what a schedule reads of clocks, ids and tokens is the same in each replay."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from durable_adapter.model import SECOND

from .scheduler import HERE

#: When every schedule begins, in milliseconds since 1970.
BEGIN = 1_800_000_000_000


class Clock:
    """A clock that moves only when a schedule moves it; in milliseconds, as SQLite's does."""

    def __init__(self) -> None:
        self.milliseconds = BEGIN
        #: Told when it moved, where the database has to be.
        self.moved: Callable[[], object] | None = None

    def restart(self) -> None:
        """Begins again."""
        self.milliseconds = BEGIN
        if self.moved is not None:
            self.moved()

    @property
    def now(self) -> int:
        """Microseconds since 1970, as the journal counts."""
        return self.milliseconds * 1000

    @property
    def seconds(self) -> float:
        """Seconds since the schedule began."""
        return (self.milliseconds - BEGIN) / 1000

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self.milliseconds += max(1, round(seconds * 1000))
        if self.moved is not None:
            self.moved()

    def move_to(self, moment: int) -> None:
        """Lets time pass until a moment in microseconds."""
        self.move((moment - self.now) / SECOND)

    def julian_day(self, *_: Any) -> float:
        """SQLite's `julianday('now')`, which is what the journal reads the time from."""
        return self.milliseconds / 86_400_000 + 2_440_587.5


@contextlib.contextmanager
def simulated(clock: Clock, chance: random.Random, sleep: Callable[[float], None]) -> Iterator[None]:
    """A block in which actors read this clock, sleep by it, and draw their ids from a schedule's own randomness.

    Threads that are no actors keep the real ones.
    """
    monotonic, time_ns, real_sleep, urandom = time.monotonic, time.time_ns, time.sleep, os.urandom
    time.monotonic = lambda: clock.seconds if HERE.actor is not None else monotonic()
    time.time_ns = lambda: clock.now * 1000 if HERE.actor is not None else time_ns()
    time.sleep = lambda seconds: sleep(seconds) if HERE.actor is not None else real_sleep(seconds)
    os.urandom = lambda size: chance.randbytes(size) if HERE.actor is not None else urandom(size)
    try:
        yield
    finally:
        time.monotonic, time.time_ns, time.sleep, os.urandom = monotonic, time_ns, real_sleep, urandom
