"""Groups and chords with durable members: refused before anything of them is sent.

What stands in a list is looked at where the group or chord is published. What a generator gives is looked at when Celery draws
it and publishes it: nothing here draws from a generator that Celery would not have drawn from at the same moment.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery.utils.functional import _regen

from ..errors import UnsupportedCanvas
from ..runtime.publication import publication, publishing
from .binding import Binding

GROUPS = (
    "{what} has durable members, and groups and chords are not durable yet. {sent} Until they are, publish the members as "
    "tasks of their own or from a workflow function, or take the mark off these tasks."
)
_NOTHING = "Nothing was sent."


@dataclass(slots=True)
class Members:
    """The members of a group or chord that Celery is publishing, which are still to be looked at one by one.

    Attributes:
        sent: how many of its members were handed to Celery so far.
        bodies: the chord bodies that were looked at already, by identity; each member carries the same one.
    """

    sent: int = 0
    bodies: dict[int, Any] = field(default_factory=dict)


def refusal(what: str, *, sent: str = _NOTHING) -> UnsupportedCanvas:
    """The error for a group or chord with durable members."""
    return UnsupportedCanvas(GROUPS.format(what=what, sent=sent))


def guard_group(original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook on `group.apply_async`."""

    @functools.wraps(original)
    def apply_async(canvas: Any, *args: Any, **kwargs: Any) -> Any:
        with _publishing(kwargs, "this group", canvas):
            return original(canvas, *args, **kwargs)

    return apply_async


def guard_chord(original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook on `chord.run`, which every published chord passes, with the header and the body that it is published with."""

    @functools.wraps(original)
    def run(canvas: Any, *args: Any, **kwargs: Any) -> Any:
        given = [*args[:2], kwargs.get("header"), kwargs.get("body")]
        with _publishing(kwargs, "this chord", *given):
            return original(canvas, *args, **kwargs)

    return run


@contextlib.contextmanager
def _publishing(options: Mapping[str, Any], what: str, *parts: Any) -> Iterator[None]:
    """While a group or chord is published.

    Raises:
        UnsupportedCanvas: something that is known of it already is durable.
    """
    bindings = [binding for binding in Binding.installed if _guards(binding)]
    # Celery itself names parent and root where it publishes what follows a task: a link, an errback, the rest of a chain. Each
    # member is then a run of its own. To refuse it there would be too late.
    follows = options.get("parent_id") is not None and options.get("root_id") is not None
    if not bindings or follows:
        canvas = None
    else:
        for binding in bindings:
            if any(holds_marked(binding, part) for part in parts):
                raise refusal(what)
        # A group inside of one, and a chord's header, are published as parts of it.
        canvas = publication().canvas or Members()
    with publishing(canvas=canvas):
        yield


def _guards(binding: Binding) -> bool:
    if binding.is_off:
        return False
    binding.ensure_hooked()
    # Eager members are run, not sent; they run plain, as their `.apply()` does.
    return binding.registry.marks_anything and not binding.app.conf.task_always_eager


def refuse_member(binding: Binding, name: str, options: Mapping[str, Any], *, marked: bool) -> None:
    """Looks at one member of a group or chord that is being published, which may have come from a generator just now.

    Raises:
        UnsupportedCanvas: it is durable, or the body of its chord is.
    """
    current = publication().canvas
    if not isinstance(current, Members) or options.get("group_id") is None:
        return
    body = options.get("chord")
    if not marked and body is not None and id(body) not in current.bodies:
        current.bodies[id(body)] = body
        marked = holds_marked(binding, body, draw=True)
    if marked:
        sent = _NOTHING
        if current.sent:
            sent = (
                f"It was found when its generator gave task {name}, which was not sent; {current.sent} members before it were. "
                "Give Celery a list of members, and it is refused before anything is sent."
            )
        raise refusal("this group or chord", sent=sent)
    current.sent += 1


def is_branch(signature: Any) -> bool:
    """Whether a signature is a group or a chord."""
    return isinstance(signature, Mapping) and signature.get("subtask_type") in ("group", "chord")


def holds_marked(binding: Binding, signature: Any, *, draw: bool = False) -> bool:
    """Whether a signature, or anything inside it, is a durable task.

    Args:
        binding: the app's binding.
        signature: a signature, or a list of them; anything else holds nothing.
        draw: what is still in a generator is drawn. Only where Celery draws it next in any case, to write it into a message.
    """
    if not isinstance(signature, Mapping):
        return any(holds_marked(binding, part, draw=draw) for part in _members(signature, draw=draw))
    if binding.registry.is_marked(str(signature.get("task"))):
        return True
    kwargs: Any = signature.get("kwargs")
    inner: list[Any] = []
    if signature.get("subtask_type") and isinstance(kwargs, Mapping):
        for name in ("tasks", "header", "body"):
            inner += _members(kwargs.get(name), draw=draw)
    options = signature.get("options")
    if isinstance(options, Mapping):
        inner += _members(options.get("chain"), draw=draw)
    return any(holds_marked(binding, part, draw=draw) for part in inner)


def _members(found: Any, *, draw: bool) -> list[Any]:
    """The signatures in a part of a canvas; of those that a generator is still to give, only with *draw*."""
    if isinstance(found, Mapping):
        return [found]
    if isinstance(found, _regen):
        return list(found) if draw else list(vars(found).get("_regen__consumed") or ())
    return list(found) if isinstance(found, (list, tuple)) else []
