"""What Celery says about trying a task again: `max_retries`, `dont_autoretry_for`, and that it was asked and declined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery.app.task import Task

#: Names of the errors that pydantic raises for input that does not fit a model.
_INVALID = frozenset({"pydantic_core._pydantic_core.ValidationError", "pydantic.error_wrappers.ValidationError"})
#: Modules whose frames stand between our call of a task and the task's own function.
_BETWEEN = ("celery.", "vine.", "pydantic.", "pydantic_core.", "durable_adapter.")


class Limits:
    """The limits of one call of a task.

    Args:
        task: the task.
    """

    __slots__ = ("declined", "most", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        #: Whether `retry()` was called in this call's body and refused to try again.
        self.declined = False
        #: What `retry(max_retries=...)` was given in this call's body.
        self.most: int | None = None

    def declines(self, attempt: int, error: BaseException) -> bool:
        """Whether Celery does not try the task again after attempt number *attempt*, which ended in *error*."""
        task = self.task
        if self.declined or isinstance(error, tuple(getattr(task, "dont_autoretry_for", ()) or ())):
            return True
        if never_began(error):
            return True
        most = self.most
        if most is None and isinstance(error, tuple(getattr(task, "autoretry_for", ()) or ())):
            most = (getattr(task, "retry_kwargs", None) or {}).get("max_retries")
        if most is None:
            most = getattr(task, "max_retries", None)
        return isinstance(most, int) and attempt > most


def never_began(error: BaseException) -> bool:
    """Whether a call ended before the task's own function began: its arguments do not fit, and will not fit next time.

    Seen by the error's kind, and by its traceback, in which no frame but Celery's and pydantic's follows our own.
    """
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if not isinstance(error, TypeError) and names.isdisjoint(_INVALID):
        return False
    frame = error.__traceback__
    if frame is None:
        return False  # recorded by an attempt that is over
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__", ""))
        if not f"{module}.".startswith(_BETWEEN):
            return False
        frame = frame.tb_next
    return True


#: The limits of the call whose body runs in this context; None outside of one.
LIMITS: ContextVar[Limits | None] = ContextVar("durable_celery_limits", default=None)


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Makes a call's limits the current ones, so that `retry()` notes what it decides."""
    previous = LIMITS.set(limits)
    try:
        yield
    finally:
        LIMITS.reset(previous)


def limits_here(task: Any) -> Limits | None:
    """The limits of the call of *task* whose body runs here."""
    found = LIMITS.get()
    return found if found is not None and found.task.name == task.name else None
