"""A journal whose methods wait while the database is away.

A worker then keeps its slot, and what it did is recorded later (P10). Code that records what was done uses `Host.patient`. Code
that only begins something uses `Host.beginning`, which gives up when the worker shuts down. `Host.journal` does not wait, for
callers that must get the error at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..journal import Journal

#: The parts of a journal whose methods read or write the database.
PARTS = frozenset(
    {
        "claims",
        "db",
        "doubts",
        "due",
        "ends",
        "enforced",
        "engine_ends",
        "events",
        "members",
        "orders",
        "reads",
        "retention",
        "runs",
        "starts",
        "surveys",
        "undo",
        "verdicts",
        "workers",
    }
)


class _Waiting:
    """A proxy whose methods are run by *wait*. Any other attribute is passed through."""

    def __init__(self, inner: Any, wait: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner = inner
        self._wait = wait

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in PARTS:
            part = _Waiting(found, self._wait)
            self.__dict__[name] = part
            return part
        if not callable(found):
            return found
        wait = self._wait

        def waits(*args: Any, **kwargs: Any) -> Any:
            return wait(lambda: found(*args, **kwargs))

        return waits


def waiting(journal: Journal, wait: Callable[[Callable[[], Any]], Any]) -> Journal:
    """Returns *journal* with every method run by *wait*, which repeats an operation for as long as the journal is away."""
    return cast("Journal", _Waiting(journal, wait))
