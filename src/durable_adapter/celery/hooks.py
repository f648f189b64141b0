"""Every place in Celery that is hooked: what is patched, one short function each, and which signals are listened to.

`APP` and `TASK` are all of it: `install()` goes through them, each patch says what it is for and how it is undone, and
`doctor --patches` shows that. Nothing else in this room changes anything of Celery's.
"""

from __future__ import annotations

import functools
import inspect
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from celery import __version__ as celery_version
from celery import signals
from celery.app import trace
from celery.canvas import _chord, group

from ..errors import InstallConflict
from ..journal import forking
from ..runtime import shield
from ..runtime.binding import Patch, replace
from . import attempts, branches, endings, publishing, worker
from .attempts import SOFT_LIMIT
from .binding import HOOK, Binding
from .results import durable_result_class
from .running import run_wrapper

if TYPE_CHECKING:
    from celery.app.task import Task

#: The key in the configuration of an app's pickled copy that carries the settings, and who its parent is in the journal.
CARRIED = "durable_adapter_spawned"
#: The name by which Celery finds what hooks such a copy, as it finds its own support of Django.
_FIXUP = f"{__package__}.installing:hook_copy"

#: The patches of Celery's own classes, each with what it replaced; all bindings of the process share them.
SHARED: dict[tuple[Any, str], tuple[Any, Any]] = {}


def send_task(binding: Binding) -> Patch:
    """`app.send_task`, which every real publication passes."""
    app = binding.app
    by_position = [
        parameter.name
        for parameter in inspect.signature(app.send_task).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    binding.own_send_task = app.__dict__.get("send_task")

    @functools.wraps(app.send_task)
    def send_task(*given: Any, **named: Any) -> Any:
        def as_given() -> Any:
            return binding.send_task(*given, **named)

        options = dict(zip(by_position, given, strict=False)) | named
        if not binding.is_installed or len(options) < len(given) + len(named) or "name" not in options:
            return as_given()  # as ever; a call that does not fit the signature fails there as ever, too
        name, args, kwargs = options.pop("name"), options.pop("args", None), options.pop("kwargs", None)
        return publishing.send(binding, name, args, kwargs, options, as_given)

    return Patch(
        "app.send_task",
        "commits a start before it is sent, and an attempt's end before it is retried",
        "restates none of its defaults, and calls the class's own method as it is at that moment",
        replace(app, "send_task", send_task),
    )


def async_result(binding: Binding) -> Patch:
    """`app.AsyncResult`, the class of the results that publications return."""
    app = binding.app
    is_own = "AsyncResult" in app.__dict__
    made = durable_result_class(binding, app.AsyncResult)
    if not is_own:
        app.__dict__.pop("AsyncResult", None)  # asking for it has kept it there
    return Patch(
        "app.AsyncResult",
        "lets get() say why a held step has no result, and suspend a workflow function",
        "a subclass of the app's own result class, which overrides get() alone",
        replace(app, "AsyncResult", made),
    )


def group_apply_async(_binding: Binding) -> Patch:
    """`group.apply_async`, which publishes a group's members."""
    why = "refuses a group with durable members before anything of it is sent"
    return _shared(group, "apply_async", why, branches.guard_group)


def chord_run(_binding: Binding) -> Patch:
    """`chord.run`, which every published chord passes."""
    return _shared(_chord, "run", "refuses a chord with durable members before anything of it is sent", branches.guard_chord)


def build_tracer(_binding: Binding) -> Patch:
    """`build_tracer`, where it is defined."""
    return _shared(trace, "build_tracer", "hooks marked tasks that were imported after install()", _ensure_hooked_before)


def build_tracer_in_consumer(_binding: Binding) -> Patch | None:
    """`build_tracer`, where the worker's parent has imported it."""
    # Not imported for this: others that patch the tracer (sentry-sdk) rely on it being imported after them.
    consumer = sys.modules.get("celery.worker.consumer.consumer")
    if consumer is None:
        return None
    return _shared(consumer, "build_tracer", "hooks marked tasks that were imported after install()", _ensure_hooked_before)


def _ensure_hooked_before(original: Callable[..., Any]) -> Callable[..., Any]:
    """A net below the hooks: a task that got its tracer before it was hooked is hooked when the tracer is made."""

    @functools.wraps(original)
    def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
        for binding in Binding.installed:
            if binding.app is getattr(task, "app", None):
                binding.ensure_hooked()
        return original(name, task, *args, **kwargs)

    return build_tracer


def worker_step(binding: Binding) -> Patch:
    """The worker's bootsteps."""
    steps = binding.app.steps["worker"]
    steps.add(worker.SweeperStep)
    return Patch(
        "app.steps['worker']",
        "runs the sweeper in the worker's parent, and hears of children's deaths",
        "Celery's documented way to extend a worker; a pool without a list of processes reports no deaths",
        lambda: steps.discard(worker.SweeperStep),
    )


def pickled_copy(binding: Binding) -> Patch:
    """`app.__reduce_keys__`: a spawned child gets its app as a pickled copy.

    That is another object than the one on which the user's module calls `install()`, if that module is imported there at all
    (`worker_pool_start_method='spawn'`, the default on macOS). So the copy carries what it needs to be hooked itself.
    """
    app, settings = binding.app, binding.settings
    pickled = app.__reduce_keys__

    def reduce_keys() -> dict[str, Any]:
        keys: dict[str, Any] = pickled()
        given = {name: value for name, value in asdict(settings).items() if name != "origins"}
        keys["fixups"] = {*keys["fixups"], _FIXUP}
        keys["changes"] = {**keys["changes"], CARRIED: {"settings": given, "parent": binding.parent}}
        return keys

    return Patch(
        "app.__reduce_keys__",
        "lets pool children that are spawned, not forked, be hooked as well",
        "adds to what Celery's own method returns",
        replace(app, "__reduce_keys__", reduce_keys),
    )


def soft_limit(_binding: Binding) -> Patch | None:
    """The handler of the soft time limit's signal, set when a marked task is first run."""
    if SOFT_LIMIT.number is None:
        return None
    where = f"signal.{signal.Signals(SOFT_LIMIT.number).name}"
    return Patch(where, shield.WHY, shield.GUARD, lambda: None if Binding.installed else SOFT_LIMIT.take_down())


def fork(binding: Binding) -> Patch | None:
    """The function that is called after a fork: registered when a journal on SQLite is first used."""
    if not (binding.settings.journal or "").startswith("sqlite"):
        return None
    return Patch(forking.WHERE, forking.WHY, forking.GUARD)


def task_run(binding: Binding, task: Task) -> Patch:
    """A task's `run`: below routing, limits, retries, events and serializers, which all stay Celery's own."""
    wrapper = run_wrapper(binding, task, task.run)
    wrapper.__dict__[HOOK] = (id(binding), id(wrapper))
    put_back = replace(task, "run", wrapper)
    _rebuild_tracer(task)

    def undo() -> None:
        put_back()
        _rebuild_tracer(task)

    return Patch(
        f"{task.name}.run",
        "hands each delivery of this marked task to the runtime",
        "a worker that cannot hook a marked task refuses that task, or with strict=True does not start",
        undo,
    )


def _rebuild_tracer(task: Task) -> None:
    if getattr(task, "__trace__", None) is not None:
        task.__trace__ = trace.build_tracer(task.name, task, task.app.loader, app=task.app)


def task_retry(binding: Binding, task: Task) -> Patch:
    """A task's `retry`."""
    why = "notes the error with which an attempt asks to be run again, and that Celery declines"
    return _method(binding, task, attempts.retry, why, "hands its arguments on as they come, and decides nothing by itself")


def task_replace(binding: Binding, task: Task) -> Patch:
    """A task's `replace`."""
    return _method(binding, task, attempts.replace, _REFUSES.format("replace"), _ELSEWHERE)


def task_add_to_chord(binding: Binding, task: Task) -> Patch:
    """A task's `add_to_chord`."""
    return _method(binding, task, attempts.add_to_chord, _REFUSES.format("add_to_chord"), _ELSEWHERE)


_REFUSES = "refuses `{}` in the body of a durable attempt, before anything is sent"
_ELSEWHERE = "anywhere else the arguments are handed on as they come"

#: The patches that are made once per app, in this order, and once per marked task.
APP: tuple[Callable[[Binding], Patch | None], ...] = (
    send_task,
    async_result,
    group_apply_async,
    chord_run,
    build_tracer,
    build_tracer_in_consumer,
    worker_step,
    pickled_copy,
    soft_limit,
    fork,
)
TASK: tuple[Callable[[Binding, Task], Patch], ...] = (task_run, task_retry, task_replace, task_add_to_chord)

#: The signals that are listened to, once an app, and the receivers, which are called with the binding first.
SIGNALS: tuple[tuple[Any, Callable[..., None]], ...] = (
    (signals.import_modules, worker.modules_imported),
    (signals.worker_init, worker.modules_imported),
    (signals.celeryd_after_setup, worker.set_up),
    (signals.worker_process_init, worker.process_begins),
    (signals.task_prerun, endings.before_run),
    (signals.task_postrun, endings.after_run),
    (signals.task_success, endings.succeeded),
    (signals.task_failure, endings.failed),
    (signals.task_failure, worker.given_up),
    (signals.task_revoked, worker.revoked),
    (signals.task_unknown, worker.unknown),
    (signals.task_rejected, worker.rejected),
    (signals.worker_shutting_down, worker.shutting_down),
    (signals.worker_process_shutdown, worker.process_ends),
    (signals.worker_shutdown, worker.process_ends),
)


def install(binding: Binding) -> None:
    """Hooks an app. Where something is wrong with it or its tasks, nothing is left hooked."""
    app = binding.app
    binding.register()
    try:
        for patch in APP:
            made = patch(binding)
            if made is not None:
                binding.patches.append(made)
        if not app.configured:
            binding.listen(app.on_after_configure, binding.configured)
        for heard, receiver in SIGNALS:
            binding.listen(heard, functools.partial(receiver, binding))
        if app.finalized:
            binding.hook_tasks()
        else:
            binding.listen(app.on_after_finalize, functools.partial(worker.modules_imported, binding))
    except BaseException:
        binding.uninstall()
        raise


def hook_task(binding: Binding, task: Task) -> None:
    """Hooks one marked task."""
    for patch in TASK:
        binding.patches.append(patch(binding, task))


def _shared(owner: Any, name: str, why: str, make: Callable[[Any], Any]) -> Patch:
    """Patches what all apps of this process share: once, with the first binding, until the last one is gone."""
    where = f"{owner.__module__}.{owner.__name__}" if isinstance(owner, type) else owner.__name__
    if (owner, name) not in SHARED:
        original = owner.__dict__.get(name)
        if original is None:
            raise InstallConflict(
                f"Celery {celery_version} has no {where}.{name}, which durable-adapter patches because it {why}. "
                "Upgrade durable-adapter, or use a version of Celery that its support table names."
            )
        patch = make(original)
        SHARED[owner, name] = (patch, original)
        setattr(owner, name, patch)

    def undo() -> None:
        patch, original = SHARED[owner, name]
        if not Binding.installed and owner.__dict__[name] is patch:
            setattr(owner, name, original)
            del SHARED[owner, name]

    guard = "install() refuses a Celery that does not have it; the arguments are handed on as they come"
    return Patch(f"{where}.{name}", why, guard, undo)


def _method(binding: Binding, task: Task, hook: Callable[..., Any], why: str, guard: str) -> Patch:
    """Puts a hook in front of the method of the same name of one task."""
    original = getattr(task, hook.__name__)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return hook(binding, task, original, *args, **kwargs)

    return Patch(f"{task.name}.{hook.__name__}", why, guard, replace(task, hook.__name__, method))
