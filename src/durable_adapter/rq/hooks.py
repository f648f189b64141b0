"""Every place in RQ that is hooked, each by one short function.

`PATCHES` is all of it: `install()` goes through the list, each patch says what it is for and how it is undone, and
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
from .versions import GROUPS, since


def create(binding: Binding) -> Patch:
    """`Job.create`, which every new job passes."""
    return _method(binding, Job, "create", "stamps a marked job with its run", publishing.create)


def to_dict(binding: Binding) -> Patch:
    """`Job.to_dict`, which stands before anything of a job is written."""
    return _method(binding, Job, "to_dict", "commits a start before its job is written to Redis", publishing.to_dict)


def execute(binding: Binding) -> Patch:
    """`Job._execute`: below RQ's callbacks, retries, time-outs and results, which stay RQ's own."""
    why = "hands each delivery of a marked job to the runtime"
    return _method(binding, Job, "_execute", why, running.execute, concerns=running.concerns)


def restore(binding: Binding) -> Patch:
    """`Job.restore`, which reads a job from its hash."""
    return _method(binding, Job, "restore", "reads a job's stamp from its hash", running.restore)


def prepare(binding: Binding) -> Patch:
    """`Job.prepare_for_execution`, which says that a job is started."""
    why = "sees that a job was started before, and says who starts it"
    return _method(binding, Job, "prepare_for_execution", why, running.prepare)


def return_value(binding: Binding) -> Patch:
    """`Job.return_value`."""
    why = "suspends a workflow function instead of answering None"
    return _method(binding, Job, "return_value", why, running.return_value)


def delete(binding: Binding) -> Patch:
    """`Job.delete`."""
    return _method(binding, Job, "delete", "says in the journal that a job was deleted before it began", ended.delete)


def empty(binding: Binding) -> Patch:
    """`Queue.empty`, which deletes the jobs in a queue."""
    return _method(binding, Queue, "empty", "says in the journal that jobs were deleted before they began", ended.empty)


def enqueue(binding: Binding) -> Patch:
    """`Queue.enqueue`."""
    why = "warns of a chain that falls apart in a queue that puts jobs off"
    return _method(binding, Queue, "enqueue", why, publishing.enqueue)


def enqueue_job(binding: Binding) -> Patch:
    """`Queue.enqueue_job`: what `enqueue`, `enqueue_call` and `@job` come to."""
    return _method(binding, Queue, "enqueue_job", "takes a start back whose job could not be sent", publishing.enqueue_job)


def schedule_job(binding: Binding) -> Patch:
    """`Queue.schedule_job`: what `enqueue_in` and `enqueue_at` come to."""
    why = "takes a start back whose job could not be scheduled"
    return _method(binding, Queue, "schedule_job", why, publishing.schedule_job)


def enqueue_many(binding: Binding) -> Patch:
    """`Queue.enqueue_many`."""
    return _method(binding, Queue, "enqueue_many", _SEVERAL, publishing.enqueue_many)


def enqueue_group(binding: Binding) -> Patch | None:
    """`Group.enqueue_many`, where this RQ has groups."""
    if not since(GROUPS):
        return None
    from rq.group import Group

    return _method(binding, Group, "enqueue_many", _SEVERAL, publishing.enqueue_group)


def time_limit(binding: Binding) -> Patch:
    """The handler of the time limit's signal, set when a marked job is run."""
    return Patch("signal.SIGALRM", shield.WHY, shield.GUARD, binding.shield.take_down)


def fork(binding: Binding) -> Patch | None:
    """What is registered to be called after a fork, when a journal on SQLite is first used."""
    return Patch(forking.WHERE, forking.WHY, forking.GUARD) if binding.journal.db.is_sqlite else None


_SEVERAL = "takes starts back whose jobs could not be sent"

#: What is patched, in this order.
PATCHES: tuple[Callable[[Binding], Patch | None], ...] = (
    create,
    to_dict,
    execute,
    restore,
    prepare,
    return_value,
    delete,
    empty,
    enqueue,
    enqueue_job,
    schedule_job,
    enqueue_many,
    enqueue_group,
    time_limit,
    fork,
)


def install(binding: Binding) -> None:
    """Hooks RQ's own classes."""
    binding.register()
    binding.wrapping.wrap()
    for patch in PATCHES:
        made = patch(binding)
        if made is not None:
            binding.patches.append(made)


def hook_class(binding: Binding, job_class: type[Job]) -> None:
    """Hooks a job class of the user's own that runs its jobs by itself."""
    why = "hands each delivery of a marked job to the runtime: this class does not call Job._execute"
    binding.patches.append(_method(binding, job_class, "_execute", why, running.execute_whole, concerns=running.concerns))


class Chosen:
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
        replacement = Chosen(function, hooked, lambda it: binding.is_installed and concerns(binding, it))
    where = f"{owner.__module__}.{owner.__name__}.{name}"
    return Patch(where, why, "hands its arguments on as they come", replace(owner, name, replacement))
