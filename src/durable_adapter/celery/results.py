"""Results of durable tasks: `AsyncResult` as it was, which says why a held step has no result."""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeout

from ..current import FUNCTION, STEP
from ..runtime.alerts import explain
from ..runtime.functions import FunctionRun
from .binding import Binding

logger = logging.getLogger("durable_adapter")

#: The Celery state of a step that waits for a person. Never ready: `get()` keeps waiting.
HELD = "HELD"


class HeldTimeout(CeleryTimeout):
    """Raised by `get(timeout=...)` when the step is held: a person must decide before there can be a result."""


def durable_result_class(binding: Binding, base: type[Any]) -> type[Any]:
    """The app's own result class, with what a durable step adds to `get()`."""

    class DurableAsyncResult(base):
        """An `AsyncResult` that knows of held steps and of workflow functions."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            #: The task's name, where whoever made this result knew it.
            self.durable_name: str | None = kwargs.get("task_name", args[2] if len(args) > 2 else None)

        def get(self, timeout: float | None = None, *args: Any, **kwargs: Any) -> Any:
            """As `AsyncResult.get`; inside a workflow function it suspends instead of blocking a worker.

            Raises:
                HeldTimeout: no result within *timeout*, because the step is held; a subclass of Celery's TimeoutError.
            """
            function = FUNCTION.get()
            if isinstance(function, FunctionRun) and STEP.get() is None and function.dispatched(self.id):
                return function.wait_for(self.id)
            if binding.in_process is not None:
                binding.in_process.run_until_ready(self)
            try:
                return super().get(timeout, *args, **kwargs)
            except CeleryTimeout as error:
                reason = _held_reason_if_durable(binding, self)
                if reason is None:
                    raise
                raise HeldTimeout(reason) from error

        wait = get

    DurableAsyncResult.__name__ = DurableAsyncResult.__qualname__ = base.__name__
    DurableAsyncResult.__module__ = base.__module__
    return DurableAsyncResult


def _held_reason_if_durable(binding: Binding, result: Any) -> str | None:
    """Why a durable task's result will not come by itself; None for any other task, and where nobody can say.

    The result backend is not asked where this result and those before it in its chain are known to be of unmarked tasks.
    """
    registry = binding.registry
    names, current = [], result
    while current is not None:
        names.append(getattr(current, "durable_name", None))
        current = getattr(current, "parent", None)
    if not registry.marks_anything or not any(name is None or registry.is_marked(name) for name in names):
        return None
    try:
        return held_reason(result)
    except Exception:
        logger.debug("result_unknown task=%s", result.id, exc_info=True)
        return None


def held_reason(result: Any) -> str | None:
    """Why a result will not come by itself: this task, or one before it in its chain, is held."""
    current = result
    while current is not None:
        meta = current.backend.get_task_meta(current.id)
        if meta.get("status") == HELD:
            found = meta.get("result")
            why = found.get("why", "") if isinstance(found, dict) else ""
            return (
                f"no result: task {current.id} is held and a person must decide. {why} "
                f"See `{explain(None, current.id)}` and settle it with `durable-adapter resolve`."
            )
        current = getattr(current, "parent", None)
    return None
