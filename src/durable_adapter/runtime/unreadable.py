"""Rows that this process cannot read: a worker leaves their calls alone (P11)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..errors import Deferred, UnreadableRow

logger = logging.getLogger("durable_adapter")


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Defers a call whose row cannot be read: nothing is begun, and the task neither fails nor ends.

    Raises:
        Deferred: instead of `UnreadableRow`.
    """
    try:
        yield
    except UnreadableRow as error:
        logger.error("row_unreadable run=%s step=%s msg=%r", error.ref, error.key or "-", str(error))
        raise Deferred(str(error)) from error
