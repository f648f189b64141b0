"""What is known of the publication that is under way in this context, beside what is published.

One object travels through publishing, and code that knows more of it puts another in its place for a block: the id under which
work is started, the attributes that it carries, what has been committed of it. No binding has a variable of its own for that.
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
    """What a start carries.

    Attributes:
        values: the attributes, as the journal keeps them.
        amount: the one that says how much money is at stake.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    amount: str | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication.

    Attributes:
        workflow_id: the id under which somebody starts what is published.
        attributes: what is carried by whatever is started.
        is_repeated: a job of a run that stands in the journal is sent again, past the binding's own hooks.
        take_back: what takes back what was committed for it, if it fails; None where each message is sent by itself.
        refused: members that are sent although their run takes no more, to be withdrawn once they are; None likewise.
        canvas: the canvas whose members an engine publishes one by one.
        runs_here: what is published is run at once, in this process.
        prefix: what the key of the queue begins with to which it is sent; None where that is the engine's own.
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
    """A block in which more is known of the publication that is under way.

    Args:
        **known: attributes of `Publication`; the others stay as they are.
    """
    token = _CURRENT.set(replace(_CURRENT.get(), **known))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def nothing_under_way() -> None:
    """Forgets the publication in this context: what is run in it is no part of that."""
    _CURRENT.set(_NONE)
