"""The jobs of the RQ benchmark: no-op steps that say when they ran, plain and marked."""

from __future__ import annotations

import time

import durable_adapter as durable


def plain() -> float:
    """Does nothing but say when."""
    return time.time()


@durable.step
def protected() -> float:
    """The same, as a durable step with nothing declared."""
    return time.time()
