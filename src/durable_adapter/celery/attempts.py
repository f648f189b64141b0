"""One attempt at a task while its body runs, and what the body may ask of Celery: to be run again, replaced, added to.

`retry` is noted and decided on when the attempt has ended; so is a publication of the attempt's own id. `replace` and
`add_to_chord` are refused before anything is sent. What Celery itself limits (`max_retries`, `dont_autoretry_for`) is read here.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, Retry

from ..declare.effects import is_refusal
from ..errors import UnsupportedCanvas
from ..runtime.calls import RetryRequest
from ..runtime.shield import Shield

if TYPE_CHECKING:
    from celery.app.task import Task

    from ..runtime.binding import BaseBinding

#: Celery's prefork pool raises a soft time limit in a child by this signal; its handler is set once in each child.
SOFT_LIMIT = Shield(getattr(signal, "SIGUSR1", None))

#: Where `Task.retry` takes `exc` and `max_retries` by position.
_EXC, _MAX_RETRIES = 2, 6
#: Names of the errors that pydantic raises for input that does not fit a model.
_INVALID = frozenset({"pydantic_core._pydantic_core.ValidationError", "pydantic.error_wrappers.ValidationError"})
#: Modules whose frames stand between our call of a task and the task's own function.
_BETWEEN = ("celery.", "vine.", "pydantic.", "pydantic_core.", "durable_adapter.")

_REPLACES = (
    "task {name} replaces itself with {what}: a durable task cannot be replaced yet. Nothing of the replacement was sent. Call "
    "{first} from a workflow function, or make it the next member of the chain."
)
_ADDS = (
    "task {name} adds {what} to the chord that it is a member of: chords with durable members are not durable yet. Nothing was "
    "sent. Publish {first} by itself, or take the mark off {name}."
)


@dataclass(slots=True)
class ActiveTask:
    """One delivery that is being run."""

    task_id: str
    name: str
    nesting: int
    #: The caught publication of the same task: what the error was, how long it would wait, and how it is sent.
    error: BaseException | None = None
    delay: int = 0
    send: Callable[[], Any] | None = None
    #: The arguments that it would have.
    arguments: tuple[list[Any], dict[str, Any]] | None = None
    #: The error that `retry(exc=...)` was given, where the attempt called it.
    given: BaseException | None = None
    #: Called before the caught publication is sent: stores what the body returned after `retry(throw=False)`.
    before_sending: Callable[[], None] | None = None
    #: Whether the body ran at all; not so on a memo hit.
    ran: bool = False

    def begin(self) -> None:
        """An attempt begins: nothing was caught of it yet."""
        self.ran = True
        self.error, self.delay, self.send, self.given, self.before_sending = None, 0, None, None, None
        self.arguments = None

    def retry_request(self, raised: BaseException | None) -> RetryRequest | None:
        """The engine's request to run this task again, if the attempt made one."""
        if isinstance(raised, Reject) and raised.requeue:
            return RetryRequest(error=raised.__cause__ or raised, delay=0, send=lambda: None)
        if self.send is None:
            return None
        error = self.error
        if error is None:
            error = self.given
        return RetryRequest(error=error, delay=self.delay, send=self._send, arguments=self.arguments)

    def _send(self) -> None:
        assert self.send is not None
        if self.before_sending is not None:
            self.before_sending()
        self.send()


class Limits:
    """The limits that Celery sets to the retries of one call of a task.

    Args:
        task: the task.
    """

    __slots__ = ("declined", "most", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        #: Whether `retry()` was called in this call's body and refused to try again.
        self.declined = False
        #: The number that `retry(max_retries=...)` was given in this call's body.
        self.most: int | None = None

    def declines(self, attempt: int, error: BaseException) -> bool:
        """Whether Celery does not try the task again after attempt number *attempt*, which ended in *error*."""
        task = self.task
        if self.declined or isinstance(error, tuple(getattr(task, "dont_autoretry_for", ()) or ())):
            return True
        if _never_began(error):
            return True
        most = self.most
        if most is None and isinstance(error, tuple(getattr(task, "autoretry_for", ()) or ())):
            most = (getattr(task, "retry_kwargs", None) or {}).get("max_retries")
        if most is None:
            most = getattr(task, "max_retries", None)
        return isinstance(most, int) and attempt > most


def _never_began(error: BaseException) -> bool:
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


#: The delivery that this context runs; None outside of one.
ACTIVE: ContextVar[ActiveTask | None] = ContextVar("durable_celery_task", default=None)
#: The id of the delivery that this context runs plain, as it began; None outside of one.
PLAIN: ContextVar[str | None] = ContextVar("durable_celery_plain", default=None)
#: The limits of the call whose body runs in this context; None outside of one. A step in place has limits and no delivery.
LIMITS: ContextVar[Limits | None] = ContextVar("durable_celery_limits", default=None)


@contextlib.contextmanager
def current(limits: Limits, delivery: ActiveTask | None = None) -> Iterator[None]:
    """A block in which the body of a call runs: of a delivery, or of a step in place."""
    of_limits = LIMITS.set(limits)
    of_delivery = ACTIVE.set(delivery) if delivery is not None else None
    try:
        yield
    finally:
        if of_delivery is not None:
            ACTIVE.reset(of_delivery)
        LIMITS.reset(of_limits)


@contextlib.contextmanager
def plainly(task_id: str) -> Iterator[None]:
    """A block in which a delivery runs plain: when it is tried again, its message is sent as Celery made it."""
    before = PLAIN.set(task_id)
    try:
        yield
    finally:
        PLAIN.reset(before)


def retry(binding: BaseBinding, task: Task, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`Task.retry`: notes the error that it is given, and that Celery declines to try again."""
    delivery, limits = ACTIVE.get(), LIMITS.get()
    if limits is not None and limits.task.name != task.name:
        limits = None
    if not binding.is_installed or (delivery is None and limits is None):
        return original(*args, **kwargs)
    error = kwargs.get("exc", args[_EXC] if len(args) > _EXC else None)
    reason = error if isinstance(error, BaseException) else sys.exc_info()[1]
    if reason is not None and is_refusal(reason):
        raise reason  # the same attempt would be refused again
    if delivery is not None:
        delivery.given = error
    most = kwargs.get("max_retries", args[_MAX_RETRIES] if len(args) > _MAX_RETRIES else None)
    if limits is not None and most is not None:
        limits.most = most
    try:
        return original(*args, **kwargs)
    except (Retry, Reject):
        raise
    except Exception:
        if limits is not None and not task.request.called_directly:
            limits.declined = True
        raise


def replace(binding: BaseBinding, task: Task, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`Task.replace`: refused in the body of a durable attempt."""
    if binding.is_installed and ACTIVE.get() is not None:
        raise _refusal(_REPLACES, task, args, kwargs)
    return original(*args, **kwargs)


def add_to_chord(binding: BaseBinding, task: Task, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`Task.add_to_chord`: refused in the body of a durable attempt that is a member of a chord."""
    if binding.is_installed and ACTIVE.get() is not None and task.request.chord:
        raise _refusal(_ADDS, task, args, kwargs)
    return original(*args, **kwargs)


def _refusal(text: str, task: Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> UnsupportedCanvas:
    given = args[0] if args else kwargs.get("sig")
    kind = getattr(given, "subtask_type", None) or (given.get("subtask_type") if isinstance(given, dict) else None)
    name = given.get("task") if isinstance(given, dict) else given
    what, first = (f"a {kind}", "its members") if kind else (str(name), str(name))
    return UnsupportedCanvas(text.format(name=task.name, what=what, first=first))
