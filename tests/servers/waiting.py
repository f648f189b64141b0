"""Waiting for a condition with a bound, the only way in which a test may wait."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Short enough that a test loses nothing, long enough not to steal a core from the processes it waits for.
POLL_SECONDS = 0.02


def eventually(
    predicate: Callable[[], T | None],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "",
    interval: float = POLL_SECONDS,
) -> T:
    """Wait until `predicate()` is truthy and return what it returned.

    Args:
        predicate: asked again and again; an exception out of it ends the wait at once.
        timeout: seconds after which the wait fails.
        message: what was awaited, for the failure; a callable is asked only then, so that it can show the last state.
        interval: seconds between two questions.

    Raises:
        AssertionError: when `timeout` has passed.
    """
    deadline = time.monotonic() + timeout
    while True:
        # The clock is read first: a predicate that was slow still gets one question after the deadline.
        expired = time.monotonic() >= deadline
        if value := predicate():
            return value
        if expired:
            text = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {text or predicate}")
        time.sleep(interval)
