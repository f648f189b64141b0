"""The step and the workflow function of the current context, and the functions that user code may call on them.

Importing it loads neither a database library nor a queue. The runtime sets the variables; outside of a step or a workflow every
public function here raises `NotInWorkflow`.
"""

from __future__ import annotations

import logging
import threading
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from .errors import NotInWorkflow

logger = logging.getLogger("durable_adapter")

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from .declare.policy import StepPolicy


class CurrentStep(Protocol):
    """A step that is running in this context."""

    ref: str
    key: str

    def idempotency_key(self) -> str: ...

    def session(self) -> Session: ...

    def set_reference(self, reference: str) -> None: ...

    def heartbeat(self, details: Any = None) -> bool: ...

    def last_heartbeat(self) -> Any: ...


class CurrentFunction(Protocol):
    """A workflow function that is running in this context."""

    ref: str

    def call_step(
        self,
        policy: StepPolicy,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        declines: Callable[[int, BaseException], bool] = ...,
    ) -> Any: ...

    def call(self, call: Any) -> Any: ...

    def sleep(self, seconds: float, key: str | None) -> None: ...


class RunningFunction(Protocol):
    """A workflow function whose body runs in some thread of this process."""

    @property
    def workflow(self) -> str: ...

    @property
    def is_inside_step(self) -> bool: ...


class Outside(Protocol):
    """Runs steps that are called outside of any workflow. The test journal is one."""

    def call_step(
        self, policy: StepPolicy, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...


#: The active ones, of which the last is used. In production there is none, and such calls run plain.
OUTSIDE: list[Outside] = []
STEP: ContextVar[CurrentStep | None] = ContextVar("durable_step", default=None)
FUNCTION: ContextVar[CurrentFunction | None] = ContextVar("durable_function", default=None)


#: The workflow functions whose bodies run in this process, by thread.
RUNNING: dict[int, RunningFunction] = {}
#: The steps whose plain call beside a function was logged, which is done once a process.
_TOLD: set[str] = set()


def beside(name: str) -> str | None:
    """Returns the warning for a step that is called in an unknown thread while a workflow function runs in another; else None.

    Python does not record which thread started another. So a thread that the function started, whose call is repeated on each
    replay, cannot be told from an unrelated one.
    """
    here = threading.get_ident()
    others = [function for thread, function in list(RUNNING.items()) if thread != here and not function.is_inside_step]
    if here in RUNNING or not others:
        return None
    return (
        f"step {name} is called in thread {threading.current_thread().name!r}, which belongs to no workflow, while workflow "
        f"{others[0].workflow} runs: such a call runs plainly and is not recorded. If that workflow's function started the "
        "thread, each replay would make the call again: call steps in the function's own thread, or send them with .delay()"
    )


def called_plainly(name: str) -> None:
    """Warns once that a step runs plainly, if the call may belong to a workflow function."""
    if RUNNING and name not in _TOLD and (why := beside(name)) is not None:
        _TOLD.add(name)
        logger.warning("step_not_recorded step=%s msg=%r", name, why)


def _step(what: str) -> CurrentStep:
    step = STEP.get()
    if step is None:
        raise NotInWorkflow(
            f"{what} only means something inside a durable step. Call it from the body of a function marked "
            "@durable.step that runs in a worker (or under the durable_journal test fixture)."
        )
    return step


def idempotency_key() -> str:
    """Returns the current step's key for its provider: the same in every attempt, another in each run.

    Send it as `Idempotency-Key`. It is derived from the namespace, the workflow, the run and the step's key.

    Raises:
        NotInWorkflow: called outside of a step.
    """
    return _step("durable.idempotency_key()").idempotency_key()


def session() -> Session:
    """Returns the SQLAlchemy session of the current transactional step, in the transaction of the step's own row.

    It is committed with the step, and cannot be committed or rolled back separately (`TransactionMisuse`).

    Raises:
        NotInWorkflow: called outside of a step marked `transactional=True`.
    """
    return _step("durable.session()").session()


def external_reference(reference: str) -> None:
    """Records the provider's reference for what this step does (a charge id), which `explain` shows.

    Raises:
        NotInWorkflow: called outside of a step.
    """
    _step("durable.external_reference()").set_reference(reference)


def heartbeat(details: Any = None) -> bool:
    """Records that the body of the current step is alive, and its progress.

    A step declared with `heartbeat=30` that sends no heartbeat for 30 seconds is in doubt, as after a time-out: not over,
    because the body may still be running. Call it as often as you like: it is written at most once in a third of that time.

    Args:
        details: the progress, as small plain JSON; None keeps the last details. `explain` shows them, and
            `durable.last_heartbeat()` returns them in the next attempt.

    Returns:
        Whether this attempt still held the step at the last write. False if it was decided otherwise, or another attempt
        has begun: nothing is raised, and the body may stop. Its end is handled like that of any late attempt.

    Raises:
        NotInWorkflow: called outside of a step, or in one that does not declare `heartbeat=`.
        UnserialisableValue: the details are not plain JSON, or too long.

    Example:
        >>> def export(order_ids):
        ...     done = (last_heartbeat() or {}).get("done", 0)
        ...     for number, order_id in enumerate(order_ids[done:], done + 1):
        ...         bank.book(order_id, key=order_id)
        ...         heartbeat({"done": number})
    """
    return _step("durable.heartbeat()").heartbeat(details)


def last_heartbeat() -> Any:
    """Returns the details of the current step's last heartbeat, in this attempt or an earlier one; None if there are none.

    Details that an attempt sent in the last third of its heartbeat before its process died may be missing.

    Raises:
        NotInWorkflow: called outside of a step.
    """
    return _step("durable.last_heartbeat()").last_heartbeat()


def sleep(duration: float | timedelta, *, key: str | None = None) -> None:
    """Lets a workflow function wait, for seconds or for months, without holding a worker.

    Args:
        duration: seconds, or a timedelta.
        key: the key of this sleep, for when its order among the calls may change.

    Raises:
        NotInWorkflow: called outside of a workflow function.
    """
    function = FUNCTION.get()
    if function is None:
        raise NotInWorkflow(
            "durable.sleep() suspends a workflow function; call it in the body of a task marked @durable.workflow. "
            "Inside a step, or outside of a worker, use time.sleep()."
        )
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= 36_525 * 86_400:
        raise ValueError(
            f"durable.sleep({duration!r}): the duration must be a number of seconds, not negative, of 100 years at the most"
        )
    function.sleep(seconds, key)
