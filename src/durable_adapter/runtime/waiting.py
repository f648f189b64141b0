"""A journal whose methods wait out an outage by themselves.

While the journal is away a worker keeps the slot it has and forgets nothing of what it did (P10). Code that records what was
done asks `Host.patient`; code that only begins something asks `Host.beginning`, which gives up when the worker is told to
stop. `Host.journal` does not wait: it is for callers who must hear of an outage at once.
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
        "ends",
        "engine_ends",
        "events",
        "reads",
        "orders",
        "retention",
        "runs",
        "surveys",
        "undo",
        "workers",
    }
)


class _Waiting:
    """Something whose methods are run by *wait*; any other attribute is handed through."""

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
