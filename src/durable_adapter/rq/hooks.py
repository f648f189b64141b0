"""Every place in RQ that is hooked.

`METHODS` and the two other patches of `install()` are all of it: each says what it is for and how it is undone, and
`doctor --patches` shows that. Nothing else in this room changes anything of RQ's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rq import Queue
from rq.job import Job

from ..journal import forking
from ..runtime import shield
from ..runtime.binding import Patch, replace
from . import ended, publishing, running
from .binding import Binding
from .versions import groups

#: The methods that are patched, in this order: the class, the method's name, what its hook is for, the hook.
METHODS: tuple[tuple[type[Any], str, str, Callable[..., Any]], ...] = (
    # Every new job passes `create`; `to_dict` stands before anything of a job is written.
    (Job, "create", "stamps a marked job with its run", publishing.create),
    (Job, "to_dict", "commits a start before its job is written to Redis", publishing.to_dict),
    # Below RQ's callbacks, retries, time-outs and results, which stay RQ's own.
    (Job, "_execute", "hands each delivery of a marked job to the runtime", running.execute),
    (Job, "restore", "reads a job's stamp from its hash", running.restore),
    (Job, "prepare_for_execution", "sees that a job was started before, and says who starts it", running.prepare),
    (Job, "return_value", "suspends a workflow function instead of answering None", running.return_value),
    (Job, "delete", "says in the journal that a job was deleted before it began", ended.delete),
    (Queue, "empty", "says in the journal that jobs were deleted before they began", ended.empty),
    (Queue, "enqueue", "warns of a chain that falls apart in a queue that puts jobs off", publishing.enqueue),
    # What `enqueue`, `enqueue_call` and `@job`, and then what `enqueue_in` and `enqueue_at` come to.
    (Queue, "enqueue_job", "takes a start back whose job could not be sent", publishing.enqueue_job),
    (Queue, "schedule_job", "takes a start back whose job could not be scheduled", publishing.schedule_job),
    (Queue, "enqueue_many", "takes starts back whose jobs could not be sent", publishing.enqueue_many),
    *((group, "enqueue_many", "takes starts back whose jobs could not be sent", publishing.enqueue_group) for group in groups()),
)


def install(binding: Binding) -> None:
    """Hooks RQ's own classes."""
    binding.register()
    binding.wrapping.wrap()
    for owner, name, why, hook in METHODS:
        concerns = running.concerns if hook is running.execute else None
        binding.patches.append(_method(binding, owner, name, why, hook, concerns=concerns))
    # The handler of the time limit's signal is set when a marked job is run.
    binding.patches.append(Patch("signal.SIGALRM", shield.WHY, shield.GUARD, binding.shield.take_down))
    if binding.journal.db.is_sqlite:  # registered when a journal on SQLite is first used
        binding.patches.append(Patch(forking.WHERE, forking.WHY, forking.GUARD))


def hook_class(binding: Binding, job_class: type[Job]) -> None:
    """Hooks a job class of the user's own that runs its jobs by itself."""
    why = "hands each delivery of a marked job to the runtime: this class does not call Job._execute"
    binding.patches.append(_method(binding, job_class, "_execute", why, running.execute_whole, concerns=running.concerns))


class ConditionalMethod:
    """A method that is ours for some objects, and for all others the original itself: it leaves no trace in their errors."""

    def __init__(self, original: Any, ours: Any, concerns: Callable[[Any], bool]) -> None:
        functools.update_wrapper(self, original)
        self._original = original
        self._ours = ours
        self._concerns = concerns

    def __call__(self, it: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__get__(it, type(it))(*args, **kwargs)

    def __get__(self, it: Any, owner: type[Any] | None = None) -> Any:
        return (self._ours if it is None or self._concerns(it) else self._original).__get__(it, owner)


def _method(
    binding: Binding,
    owner: type[Any],
    name: str,
    why: str,
    hook: Callable[..., Any],
    *,
    concerns: Callable[[Binding, Any], bool] | None = None,
) -> Patch:
    """Puts a hook in front of a method of one of RQ's classes, for some objects or for all."""
    original = owner.__dict__[name]
    is_classmethod = isinstance(original, classmethod)
    function = original.__func__ if is_classmethod else original

    @functools.wraps(function)
    def hooked(self_or_class: Any, *args: Any, **kwargs: Any) -> Any:
        if not binding.is_installed:
            return function(self_or_class, *args, **kwargs)
        return hook(binding, functools.partial(function, self_or_class), self_or_class, args, kwargs)

    replacement: Any = classmethod(hooked) if is_classmethod else hooked
    if concerns is not None:
        replacement = ConditionalMethod(function, hooked, lambda it: binding.is_installed and concerns(binding, it))
    where = f"{owner.__module__}.{owner.__name__}.{name}"
    return Patch(where, why, "hands its arguments on as they come", replace(owner, name, replacement))
