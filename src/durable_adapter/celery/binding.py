"""The binding of one Celery app: its state. `hooks` says where it is hooked in.

It holds no rule of durability. It keeps what is hooked, whether the worker shuts down, and the messages that Celery discarded.
"""

from __future__ import annotations

import mmap
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..errors import SettingError
from ..journal import Journal
from ..runtime.binding import BaseBinding
from ..runtime.engine import Engine
from ..runtime.host import Host
from ..settings import Settings
from .attempts import SOFT_LIMIT
from .discards import Discards
from .registry import Registry

if TYPE_CHECKING:
    from celery import Celery
    from celery.app.task import Task

#: The mark on our hook of a task's `run`: whose it is.
HOOK = "__durable_hook__"


class InProcess(Protocol):
    """Runs an app's messages in this process instead of sending them, for a test."""

    @property
    def is_idle(self) -> bool:
        """Whether it is the test that runs now, and no task."""

    def call_task(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a durable task that the test calls as a function."""

    def refuse_beside(self, name: str) -> None:
        """Raises where a step is called in another thread than the one that runs a workflow function."""

    def run_until_ready(self, result: Any) -> None:
        """Runs messages until a result is ready, or raises where there is none before time passes or a person decides."""


class Binding(BaseBinding):
    """The state of one installed app.

    Args:
        app: the app.
        read_settings: reads the settings; again when Celery has read the app's configuration.
        make_engine: makes the binding as the runtime sees it.
        hook_task: hooks one marked task.
    """

    installed: ClassVar[list[Binding]] = []
    registry: Registry
    parent: str

    def __init__(
        self,
        app: Celery,
        read_settings: Callable[[], Settings],
        make_engine: Callable[[Any], Engine],
        hook_task: Callable[[Binding, Task], None],
    ) -> None:
        super().__init__(read_settings(), Registry(app), make_engine, parent=uuid.uuid4().hex, shield=SOFT_LIMIT)
        self.app = app
        self._read_settings = read_settings
        self._hook_task = hook_task
        #: Why the settings that the app's own configuration brought cannot be used.
        self._unusable: Exception | None = None
        #: One shared byte: a parent tells its forked children that it is shutting down warmly.
        self._stopping = mmap.mmap(-1, 1)
        #: Ids of tasks that Celery called failed because their process is gone.
        self.given_up: deque[str] = deque()
        #: Tasks that this worker ended on purpose, until that is written down.
        self.discards = Discards(self)
        #: The app's own `send_task`, where it had one of its own before ours.
        self.own_send_task: Any = None
        #: Publishes in place of the broker's own producers, and runs messages here: set by the test journal.
        self.producer: Any = None
        self.in_process: InProcess | None = None
        #: Celery's signals that are listened to, with the ids of our receivers.
        self.receivers: list[tuple[Any, str]] = []

    def _made(self) -> tuple[Journal, Host]:
        if self.settings.journal is None and not self.app.configured:
            self.app.conf.get("durable_adapter_journal")  # Celery reads its configuration now, and `configured` is called
        if self._unusable is not None:
            raise self._unusable
        journal, host = super()._made()
        host.is_stopping = lambda: self._stopping[0] != 0
        return journal, host

    def configured(self, **_: Any) -> None:
        """Celery has read the app's configuration, which may have settings of ours."""
        try:
            settings = self._read_settings()
        except SettingError as error:
            self._unusable = error  # a signal's receiver cannot raise it: whoever needs the journal hears of it
            self.close()
            return
        if settings != self.settings:
            self.close()
        self.settings = settings

    def register(self) -> None:
        """Makes this the app's binding."""
        super().register()
        self.app.durable_binding = self

    def uninstall(self) -> None:
        """Puts everything back. What somebody else has wrapped meanwhile stays below their wrapper, and does nothing."""
        super().uninstall()
        self.app.__dict__.pop("durable_binding", None)
        for signal, uid in self.receivers:
            signal.disconnect(dispatch_uid=uid)
        self.receivers.clear()

    def listen(self, signal: Any, receiver: Callable[..., Any]) -> None:
        """Connects a receiver to one of Celery's signals, until the binding is taken out."""
        # Older versions of Celery know a method by its function alone: of two apps, one would not be heard.
        uid = uuid.uuid4().hex
        signal.connect(receiver, weak=False, dispatch_uid=uid)
        self.receivers.append((signal, uid))

    def send_task(self, *args: Any, **options: Any) -> Any:
        """`app.send_task` as it is without us; looked up late, so that whoever patches the class after us is heard."""
        if self.producer is not None:
            options = {**options, "producer": self.producer}
        if self.own_send_task is not None:
            return self.own_send_task(*args, **options)
        return type(self.app).send_task(self.app, *args, **options)

    def hook_tasks(self) -> None:
        """Hooks every marked task that has not been hooked yet."""
        for task in self.registry.refresh():
            if self.hook_of(task) is None:
                self._hook_task(self, task)

    def ensure_hooked(self) -> None:
        """Looks for new declarations, cheaply when there are none."""
        if self.registry.is_stale:
            self.hook_tasks()

    def hook_of(self, task: Task) -> Any:
        """Our own hook of a task, also where somebody (sentry-sdk) has wrapped it since; None where there is none."""
        run = task.run
        while run is not None:
            # Looked up in its own dictionary: a wrapper made with functools.wraps carries a copy of the mark.
            if getattr(run, "__dict__", {}).get(HOOK) == (id(self), id(run)):
                return run
            run = getattr(run, "__wrapped__", None)
        return None

    def unhooked(self) -> list[str]:
        """Marked tasks whose tracer would run them without us: a task that somebody re-made after it was hooked."""
        return [task.name for task in self.registry.refresh() if self.hook_of(task) is None]

    def stop_children(self) -> None:
        """Tells this process and its forked children that a warm shutdown has begun."""
        self._stopping[0] = 1
