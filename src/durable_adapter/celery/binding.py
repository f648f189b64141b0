"""The binding of one Celery app: what is installed, where it is hooked in, and how it is taken out again.

It holds no rule of durability. It answers which call a message is, how it is sent again, how Celery lets go of a worker
slot, and what a parent process knows about its children.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import signal
import sys
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from celery import __version__ as celery_version
from celery import signals
from celery.app import trace
from celery.canvas import _chord, group

from ..errors import InstallConflict, JournalUnreachable, SettingError
from ..journal import Journal, forking
from ..model import Mode
from ..runtime import shield
from ..runtime.engine import INSTALLED
from ..runtime.host import Host
from ..settings import Settings
from . import active, endings, spawned, worker
from .branches import BINDINGS, guard_chord, guard_group
from .engine import CeleryEngine
from .publishing import Publishing
from .registry import Registry
from .results import durable_result_class
from .running import run_wrapper
from .tasks import task_named
from .wishes import hear_wishes

if TYPE_CHECKING:
    from celery import Celery
    from celery.app.task import Task

    from .ended import Heard, NotTaken

logger = logging.getLogger("durable_adapter")


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


@dataclass(frozen=True, slots=True)
class Patch:
    """One place that is patched, for `doctor --patches` and for the reviewer."""

    where: str
    why: str
    guard: str
    undo: Callable[[], None]


class Binding:
    """What `install()` made of one app."""

    def __init__(self, app: Celery, read_settings: Callable[[], Settings]) -> None:
        self.app = app
        self._read_settings = read_settings
        #: Why the settings that the app's own configuration brought cannot be used.
        self._unusable: Exception | None = None
        self._opened: tuple[Journal, Host] | None = None
        self.settings = read_settings()
        self.registry = Registry(app)
        self.engine = CeleryEngine(self)
        #: Names this parent to its children, which inherit it at the fork.
        self.parent = uuid.uuid4().hex
        #: One shared byte: a parent tells its forked children that it is shutting down warmly.
        self._stopping = mmap.mmap(-1, 1)
        self.queues: list[str] = []
        #: Ids of tasks that Celery called failed because their process is gone.
        self.given_up: deque[str] = deque()
        #: Tasks that this worker ended on purpose, until that is written down.
        self.ended: deque[Heard | NotTaken] = deque()
        #: Runs this app's messages in this process instead of sending them; set by the test journal.
        self.in_process: InProcess | None = None
        self.patches: list[Patch] = []
        self.publishing = Publishing(self)
        #: Celery's signals that are listened to, with the ids of our receivers.
        self.receivers: list[tuple[Any, str]] = []

    @property
    def journal(self) -> Journal:
        """The journal; made when it is first asked for, which opens no connection.

        Raises:
            NotInstalled: nobody named one.
            SettingError: the app's configuration has a setting that is not accepted.
        """
        return self._open()[0]

    @journal.setter
    def journal(self, journal: Journal) -> None:
        self._opened = journal, self.host

    @property
    def host(self) -> Host:
        """This process as the journal sees it; raises as `journal` does."""
        return self._open()[1]

    @host.setter
    def host(self, host: Host) -> None:
        self._opened = self.journal, host

    def _open(self) -> tuple[Journal, Host]:
        if self._opened is not None:
            return self._opened
        if self.settings.journal is None and not self.app.configured:
            self.app.conf.get("durable_adapter_journal")  # Celery reads its configuration now, and we hear of it
        if self._unusable is not None:
            raise self._unusable
        settings = self.settings
        journal = Journal(
            settings.url(),
            namespace=settings.namespace,
            schema=settings.schema,
            resend_after=settings.resend_after,
            pool_size=settings.pool_size,
        )
        host = Host(
            journal,
            self.engine,
            queues=lambda: self.queues,
            parent=self.parent,
            stale=settings.stale,
            beat=settings.beat,
            code_version=settings.code_version,
        )
        host.is_stopping = lambda: self._stopping[0] != 0
        host.is_off = lambda: self.is_off
        host.shielded = active.SOFT_LIMIT.up
        host.exposed = active.SOFT_LIMIT.down
        self._opened = journal, host
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            journal, host = self._opened
            host.stop()
            journal.close()
            self._opened = None

    def _configured(self, **_: Any) -> None:
        """Celery has read the app's configuration, which may have settings of ours."""
        try:
            settings = self._read_settings()
        except SettingError as error:
            self._unusable = error  # a signal's receiver cannot raise it: whoever needs the journal hears of it
            self._close()
            return
        if settings != self.settings:
            self._close()
        self.settings = settings

    @property
    def is_off(self) -> bool:
        """Whether new starts are left alone. What began durable ends durable all the same."""
        return self.settings.mode is Mode.OFF

    def publish(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """Sends a message as it is, past our own hook."""
        task = task_named(self.app, name)
        extra = {"task_type": task} if task is not None else {}
        if task is not None:
            # As the task's own apply_async does.
            options = {**{k: v for k, v in task._get_exec_options().items() if v is not None}, **options}
            options.setdefault("ignore_result", task.ignore_result)
        return self.publishing.original(name, tuple(args or ()), kwargs, add_to_parent=False, **extra, **options)

    def stop_children(self) -> None:
        """Tells this process and its forked children that a warm shutdown has begun."""
        self._stopping[0] = 1

    def install(self) -> None:
        """Hooks the app. Where something is wrong with it or its tasks, nothing is left hooked."""
        try:
            self._install()
        except BaseException:
            self.uninstall()
            raise

    def _install(self) -> None:
        BINDINGS.append(self)
        INSTALLED[self.engine.name] = self.engine
        self.publishing.install()
        self._replace_result()
        refuses = "refuses a {} with durable members before anything of it is sent"
        self._patch_shared(group, "apply_async", refuses.format("group"), guard_group)
        self._patch_shared(_chord, "run", refuses.format("chord"), guard_chord)
        self._patch_tracer()
        worker.install(self)
        spawned.carry(self)
        self._list_what_is_the_processs()
        if not self.app.configured:
            self.listen(self.app.on_after_configure, self._configured)
        self.listen(signals.import_modules, self._on_modules)
        self.listen(signals.worker_init, self._on_modules)
        self.listen(signals.task_success, self._unmarked_succeeded)
        self.listen(signals.task_failure, self._unmarked_failed)
        self.listen(signals.task_prerun, self._begins)
        self.listen(signals.task_postrun, self._ran)
        if self.app.finalized:
            self.hook_tasks()
        else:
            self.listen(self.app.on_after_finalize, self._on_modules)

    def uninstall(self) -> None:
        """Puts everything back. What somebody else has wrapped meanwhile stays below their wrapper, and does nothing."""
        BINDINGS.remove(self)
        if INSTALLED.get(self.engine.name) is self.engine:
            del INSTALLED[self.engine.name]
        for patch in reversed(self.patches):
            patch.undo()
        for heard, uid in self.receivers:
            heard.disconnect(dispatch_uid=uid)
        self.receivers.clear()
        self.patches.clear()
        self._close()

    @property
    def is_installed(self) -> bool:
        """Whether the hooks do anything."""
        return self in BINDINGS

    def hook_tasks(self) -> None:
        """Hooks every marked task that has not been hooked yet."""
        for task in self.registry.refresh():
            wrap(self, task)

    def ensure_hooked(self) -> None:
        """Looks for new declarations, cheaply when there are none."""
        if self.registry.is_stale:
            self.hook_tasks()

    def unhooked(self) -> list[str]:
        """Marked tasks whose tracer would run them without us: a task that somebody re-made after it was hooked."""
        return [task.name for task in self.registry.refresh() if hook_of(self, task) is None]

    def check_worker(self) -> None:
        """Makes sure, when a worker starts, that the journal is there and that every marked task is hooked.

        Raises:
            JournalError: the journal is not migrated, or newer than this code; not where nothing is marked.
            NotInstalled: something is marked, and no journal is named anywhere.
            InstallConflict: a task cannot be hooked, and `strict` is set; else that task alone is refused.
        """
        self.hook_tasks()
        if not self.registry.marks_anything:
            return  # a worker that needs no journal does not wait for one
        with contextlib.suppress(JournalUnreachable):
            self.journal.check()
        missing = self.unhooked()
        if not missing:
            return
        text = f"these durable tasks cannot be hooked in this worker and would run unprotected: {', '.join(missing)}"
        if self.settings.strict:
            raise InstallConflict(text)
        logger.error("%s. This worker refuses them: it takes them for unregistered tasks", text)
        for name in missing:
            self.app._tasks.unregister(name)

    def _on_modules(self, **_: Any) -> None:
        if self.app.finalized:
            self.hook_tasks()

    def listen(self, heard: Any, receiver: Any) -> None:
        """Connects a receiver to one of Celery's signals, until the binding is taken out."""
        # Older versions of Celery know a method by its function alone: of two apps, one would not be heard.
        uid = uuid.uuid4().hex
        heard.connect(receiver, weak=False, dispatch_uid=uid)
        self.receivers.append((heard, uid))

    def patched(self, where: str, why: str, undo: Callable[[], None], *, guard: str) -> None:
        """Notes one patched place.

        Args:
            where: what is patched.
            why: what for, as the end of a sentence that begins with "durable-adapter".
            undo: puts back what was there.
            guard: what holds where another version of Celery, or somebody else, has changed the place.
        """
        self.patches.append(Patch(where, why, guard, undo))

    def _replace_result(self) -> None:
        app = self.app
        had = "AsyncResult" in app.__dict__
        previous = app.AsyncResult
        app.AsyncResult = durable_result_class(self, previous)

        def undo() -> None:
            if had:
                app.AsyncResult = previous
            else:
                app.__dict__.pop("AsyncResult", None)

        self.patched(
            "app.AsyncResult",
            "lets get() say why a held step has no result, and suspend a workflow function",
            undo,
            guard="a subclass of the app's own result class, which overrides get() alone",
        )

    def _patch_shared(self, owner: Any, name: str, why: str, make: Callable[[Any], Any]) -> None:
        """Patches what all apps of this process share: once, with the first binding, until the last one is gone."""
        where = f"{owner.__module__}.{owner.__name__}" if isinstance(owner, type) else owner.__name__
        if (owner, name) not in _SHARED:
            original = owner.__dict__.get(name)
            if original is None:
                raise InstallConflict(
                    f"Celery {celery_version} has no {where}.{name}, which durable-adapter patches because it {why}. "
                    "Upgrade durable-adapter, or use a version of Celery that its support table names."
                )
            patch = make(original)
            _SHARED[owner, name] = (patch, original)
            setattr(owner, name, patch)

        def undo() -> None:
            patch, original = _SHARED[owner, name]
            if not BINDINGS and owner.__dict__[name] is patch:
                setattr(owner, name, original)
                del _SHARED[owner, name]

        guard = "install() refuses a Celery that does not have it; the arguments are handed on as they come"
        self.patched(f"{where}.{name}", why, undo, guard=guard)

    def _patch_tracer(self) -> None:
        """A net below the hooks: a task that got its tracer before it was hooked is hooked when the tracer is made."""

        def make(original: Any) -> Any:
            @functools.wraps(original)
            def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
                for binding in BINDINGS:
                    if binding.app is getattr(task, "app", None):
                        binding.ensure_hooked()
                return original(name, task, *args, **kwargs)

            return build_tracer

        why = "hooks marked tasks that were imported after install()"
        self._patch_shared(trace, "build_tracer", why, make)
        # Not imported for this: others that patch the tracer (sentry-sdk) rely on it being imported after them.
        consumer = sys.modules.get("celery.worker.consumer.consumer")
        if consumer is not None:
            self._patch_shared(consumer, "build_tracer", why, make)

    def _list_what_is_the_processs(self) -> None:
        """What is changed of the process itself, when a task is run or the journal is first used."""
        if active.SOFT_LIMIT.number is not None:
            where = f"signal.{signal.Signals(active.SOFT_LIMIT.number).name}"
            self.patched(where, shield.WHY, lambda: None if BINDINGS else active.SOFT_LIMIT.take_down(), guard=shield.GUARD)
        if (self.settings.journal or "").startswith("sqlite"):
            self.patched(forking.WHERE, forking.WHY, lambda: None, guard=forking.GUARD)

    def _unmarked_succeeded(self, sender: Any = None, result: Any = None, **_: Any) -> None:
        self.publishing.unmarked_ended(sender, result=result)

    def _begins(self, sender: Any = None, **_: Any) -> None:
        endings.before_run(self, sender)

    def _ran(self, sender: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
        endings.after_run(self, sender, state, retval)

    def _unmarked_failed(self, sender: Any = None, exception: Any = None, **_: Any) -> None:
        self.publishing.unmarked_ended(sender, error=exception)


#: What of Celery's own is patched, with our patch and what it replaced; all bindings of the process share it.
_SHARED: dict[tuple[Any, str], tuple[Any, Any]] = {}


def hook_of(binding: Binding, task: Task) -> Any:
    """Our own hook of a task, also where somebody (sentry-sdk) has wrapped it since; None where there is none."""
    run = task.run
    while run is not None:
        # Looked up in its own dictionary: a wrapper made with functools.wraps carries a copy of the mark.
        if getattr(run, "__dict__", {}).get(_HOOK) == (id(binding), id(run)):
            return run
        run = getattr(run, "__wrapped__", None)
    return None


def wrap(binding: Binding, task: Task) -> None:
    """Hooks one task: its `run`, below routing, limits, retries, events and serializers, which all stay Celery's own."""
    if hook_of(binding, task) is not None:
        return
    had = "run" in task.__dict__
    wrapper = run_wrapper(binding, task, task.run)
    wrapper.__dict__[_HOOK] = (id(binding), id(wrapper))
    wrapper.__dict__[_HAD] = had
    task.run = wrapper
    binding.patched(
        f"{task.name}.run",
        "hands each delivery of this marked task to the runtime",
        lambda: unwrap(binding, task),
        guard="a worker that cannot hook a marked task refuses that task, or with strict=True does not start",
    )
    hear_wishes(binding, task)
    if getattr(task, "__trace__", None) is not None:
        task.__trace__ = trace.build_tracer(task.name, task, binding.app.loader, app=binding.app)


def unwrap(binding: Binding, task: Task) -> None:
    """Gives a task its own `run` back; a hook that somebody has wrapped stays there and does nothing."""
    hook = hook_of(binding, task)
    if hook is None or task.__dict__.get("run") is not hook:
        return
    if hook.__dict__[_HAD]:
        task.run = hook.__wrapped__
    else:
        del task.run
    if getattr(task, "__trace__", None) is not None:
        task.__trace__ = trace.build_tracer(task.name, task, task.app.loader, app=task.app)


#: The marks on a hook: whose it is, and whether the task had a `run` of its own.
_HOOK, _HAD = "__durable_hook__", "__durable_had__"


def check_same(existing: Binding, settings: Settings) -> None:
    """A repeated install with the same arguments is nothing; with others it is an error.

    Raises:
        InstallConflict: names what differs.
    """
    old, new = existing.settings, settings
    differing = [name for name in old.__dataclass_fields__ if name != "origins" and getattr(old, name) != getattr(new, name)]
    if differing:
        raise InstallConflict(
            "durable_adapter.celery.install() was called before on this app with another "
            + ", ".join(differing)
            + ". Call uninstall(app) first, or install once."
        )
