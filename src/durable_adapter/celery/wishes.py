"""What the body of a marked task may ask of Celery: to be run again, to be replaced, to add a member to its chord.

`retry` is heard, and decided on when the attempt has ended. `replace` and `add_to_chord` are refused before anything is sent.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, Retry

from ..declare.effects import is_refusal
from ..errors import UnsupportedCanvas
from .active import ACTIVE
from .limits import limits_here

if TYPE_CHECKING:
    from celery.app.task import Task

    from .binding import Binding

#: Where `Task.retry` takes `exc` and `max_retries` by position.
_EXC, _MAX_RETRIES = 2, 6

_REPLACES = (
    "task {name} replaces itself with {what}: a durable task cannot be replaced yet. Nothing of the replacement was sent. Call "
    "{first} from a workflow function, or make it the next member of the chain."
)
_ADDS = (
    "task {name} adds {what} to the chord that it is a member of: chords with durable members are not durable yet. Nothing was "
    "sent. Publish {first} by itself, or take the mark off {name}."
)


def hear_wishes(binding: Binding, task: Task) -> None:
    """Hooks one task's `retry`, `replace` and `add_to_chord`."""
    _override(
        binding,
        task,
        "retry",
        functools.partial(_retry, binding, task),
        "notes the error with which an attempt asks to be run again, and that Celery declines",
        "hands its arguments on as they come, and decides nothing by itself",
    )
    for name, text in (("replace", _REPLACES), ("add_to_chord", _ADDS)):
        _override(
            binding,
            task,
            name,
            functools.partial(_refused, binding, task, text),
            f"refuses `{name}` in the body of a durable attempt, before anything is sent",
            "anywhere else the arguments are handed on as they come",
        )


def _retry(binding: Binding, task: Task, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    running, limits = ACTIVE.get(), limits_here(task)
    if not binding.is_installed or (running is None and limits is None):
        return original(*args, **kwargs)
    error = kwargs.get("exc", args[_EXC] if len(args) > _EXC else None)
    reason = error if isinstance(error, BaseException) else sys.exc_info()[1]
    if reason is not None and is_refusal(reason):
        raise reason  # the same attempt would be refused again
    if running is not None:
        running.given = error
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


def _refused(binding: Binding, task: Task, text: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not binding.is_installed or ACTIVE.get() is None or (text is _ADDS and not task.request.chord):
        return original(*args, **kwargs)
    given = args[0] if args else kwargs.get("sig")
    kind = getattr(given, "subtask_type", None) or (given.get("subtask_type") if isinstance(given, dict) else None)
    name = given.get("task") if isinstance(given, dict) else given
    what, first = (f"a {kind}", "its members") if kind else (str(name), str(name))
    raise UnsupportedCanvas(text.format(name=task.name, what=what, first=first))


def _override(binding: Binding, task: Task, name: str, hook: Callable[..., Any], why: str, guard: str) -> None:
    """Puts a hook in front of one method of one task."""
    original = getattr(task, name)
    before = task.__dict__.get(name)

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return hook(original, *args, **kwargs)

    def undo() -> None:
        if task.__dict__.get(name) is not method:
            return
        if before is not None:
            setattr(task, name, before)
        else:
            delattr(task, name)

    setattr(task, name, method)
    binding.patched(f"{task.name}.{name}", why, undo, guard=guard)
