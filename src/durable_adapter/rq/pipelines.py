"""Starts whose jobs wait in a pipeline of the caller's: what was never executed was never sent, and is taken back.

`queue.enqueue(..., pipeline=...)` writes nothing to Redis before the caller executes the pipeline. The start is committed
before that, as ever; where the pipeline is reset instead, or Redis refuses its transaction, the start goes with it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ExecAbortError, WatchError

from ..errors import JournalError

logger = logging.getLogger("durable_adapter")

#: The attribute of a pipeline object that holds what waits for it.
_WAITING = "_durable_waiting"


def follow(pipeline: Any, take_back: Sequence[Callable[[], None]]) -> None:
    """Takes something back, unless a pipeline is executed."""
    if not take_back:
        return
    waiting = pipeline.__dict__.get(_WAITING)
    if waiting is None:
        waiting = pipeline.__dict__[_WAITING] = Waiting(pipeline)
    waiting.take_back += take_back


class Waiting:
    """The starts that wait for one pipeline; its `execute` and `reset` go through here. The pipeline itself is not kept alive."""

    def __init__(self, pipeline: Any) -> None:
        self.take_back: list[Callable[[], None]] = []
        self._pipeline = weakref.ref(pipeline)
        self._execute, self._reset = type(pipeline).execute, type(pipeline).reset
        self._executing = False
        pipeline.execute, pipeline.reset = self.execute, self.reset

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline's own; whether a transaction whose answer was lost took place, the sweeper finds out."""
        self._executing = True
        try:
            return self._execute(self._pipeline(), *args, **kwargs)
        except (WatchError, ExecAbortError):
            self._take_back()
            raise
        finally:
            self._executing = False
            self.take_back.clear()

    def reset(self) -> None:
        """The pipeline's own: without `execute` before it, nothing was sent."""
        if not self._executing:
            self._take_back()
        pipeline = self._pipeline()
        if pipeline is not None:
            self._reset(pipeline)

    def _take_back(self) -> None:
        while self.take_back:
            undo = self.take_back.pop()
            try:
                undo()
            except JournalError as error:
                logger.error("start_not_taken_back msg=%r", f"Its pipeline was not executed: {error}")
