"""The publication under way in this context: the id under which work is started, its attributes, what was committed for it.

It is one immutable object in one context variable. `publishing` replaces it for a block of code that knows more about it. No
binding has a variable of its own for this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from ..model import StepRow


@dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a start.

    Attributes:
        values: the attributes, as the journal keeps them.
        amount: the name of the one that is the amount of money at stake.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    amount: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication.

    Attributes:
        workflow_id: the id under which it is started; None for none.
        attributes: the attributes of what is started.
        is_repeated: a job of a recorded run is sent again, without the binding's own hooks.
        take_back: functions that take back what was committed for it, if it fails; None where each message is sent by itself.
        refused: members that are sent although their run takes no more, to be withdrawn afterwards; None likewise.
        canvas: the canvas whose members an engine publishes one by one.
        runs_here: it is run at once, in this process.
        prefix: the prefix of the queue's key in the store; None for the engine's own.
    """

    workflow_id: str | None = None
    attributes: Attributes | None = None
    is_repeated: bool = False
    take_back: list[Callable[[], None]] | None = None
    refused: list[StepRow] | None = None
    canvas: Any = None
    runs_here: bool = False
    prefix: str | None = None


_NONE = Publication()
_CURRENT: ContextVar[Publication] = ContextVar("durable_publication", default=_NONE)


def publication() -> Publication:
    """The publication that is under way in this context."""
    return _CURRENT.get()


@contextlib.contextmanager
def publishing(**known: Any) -> Iterator[None]:
    """Adds to what is known of the publication under way, for a block.

    Args:
        **known: attributes of `Publication`; the others stay as they are.
    """
    token = _CURRENT.set(replace(_CURRENT.get(), **known))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def nothing_under_way() -> None:
    """Clears the publication in this context, for code that is not a part of it."""
    _CURRENT.set(_NONE)
