"""What a worker does with a call of which the journal has a row that it cannot read: it leaves the call alone (P11)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ..errors import Deferred, UnreadableRow

logger = logging.getLogger("durable_adapter")


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Turns a row that cannot be read into leaving the call: nothing is begun, and the task has neither failed nor ended.

    Raises:
        Deferred: instead of `UnreadableRow`.
    """
    try:
        yield
    except UnreadableRow as error:
        logger.error("row_unreadable run=%s step=%s msg=%r", error.ref, error.key or "-", str(error))
        raise Deferred(str(error)) from error
