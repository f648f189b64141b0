"""Results of durable tasks: `AsyncResult` as it was, which says why a held step has no result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeoutError as CeleryTimeout

from ..current import FUNCTION, STEP
from ..runtime.functions import FunctionRun
from .states import HELD

if TYPE_CHECKING:
    from .binding import Binding


class HeldTimeout(CeleryTimeout):
    """Raised by `get(timeout=...)` when the step is held: a person must decide before there can be a result."""


def durable_result_class(binding: Binding, base: type[Any]) -> type[Any]:
    """The app's own result class, with what a durable step adds to `get()`."""

    class DurableAsyncResult(base):
        """An `AsyncResult` that knows of held steps and of workflow functions."""

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
                reason = held_reason(self)
                if reason is None:
                    raise
                raise HeldTimeout(reason) from error

        wait = get

    DurableAsyncResult.__name__ = DurableAsyncResult.__qualname__ = base.__name__
    DurableAsyncResult.__module__ = base.__module__
    return DurableAsyncResult


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
                f"See `durable-adapter explain {current.id}` and settle it with `durable-adapter resolve`."
            )
        current = getattr(current, "parent", None)
    return None
