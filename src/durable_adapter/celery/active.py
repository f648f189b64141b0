"""The task that runs in this context, so that a publication of its own id is caught before it leaves (retry)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Reject

from ..runtime.calls import Wish
from ..runtime.shield import Shield

#: Celery's prefork pool raises a soft time limit in a child by this signal; its handler is set once in each child.
SOFT_LIMIT = Shield(getattr(signal, "SIGUSR1", None))


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
    #: What `retry(exc=...)` was given, where the attempt called it.
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

    def wish(self, raised: BaseException | None) -> Wish | None:
        """The engine's wish to run this task again, if the attempt made one."""
        if isinstance(raised, Reject) and raised.requeue:
            return Wish(error=raised.__cause__ or raised, delay=0, send=lambda: None)
        if self.send is None:
            return None
        error = self.error
        if error is None:
            error = self.given
        return Wish(error=error, delay=self.delay, send=self._send, arguments=self.arguments)

    def _send(self) -> None:
        assert self.send is not None
        if self.before_sending is not None:
            self.before_sending()
        self.send()


#: The delivery that this context runs; None outside of one.
ACTIVE: ContextVar[ActiveTask | None] = ContextVar("durable_celery_task", default=None)


@contextlib.contextmanager
def active(task: ActiveTask) -> Iterator[None]:
    """Makes a delivery the current one."""
    previous = ACTIVE.set(task)
    try:
        yield
    finally:
        ACTIVE.reset(previous)
