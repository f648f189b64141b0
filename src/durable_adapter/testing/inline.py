"""The inline binding's part in the test journal: what it would run after this runs when the test's clock says so."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .. import inline

if TYPE_CHECKING:
    from .harness import Harness, Patches


@contextlib.contextmanager
def hooked(url: str) -> Iterator[InProcess]:
    """The driver of this process's inline binding, which is installed for the time being where it is not.

    Args:
        url: SQLAlchemy URL of the test's journal.
    """
    found = inline.Binding.installed[-1] if inline.Binding.installed else None
    binding = found if found is not None else inline.install(url)
    try:
        yield InProcess(binding)
    finally:
        if found is None:
            inline.uninstall()


class _Engine(inline.InlineEngine):
    """The engine of a process whose memory is the test's."""

    def __init__(self, binding: inline.Binding, driver: InProcess) -> None:
        super().__init__(binding)
        self._driver = driver

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether nothing waits to be run here."""
        return self._driver.here.is_empty


class InProcess:
    """Runs what is started inline while a test has it."""

    variables: Sequence[ContextVar[Any]] = ()
    here: Harness

    def __init__(self, binding: inline.Binding) -> None:
        self.binding = binding
        self.engine = _Engine(binding, self)

    def enter(self, here: Harness, put: Patches) -> None:
        """Takes the place of the process that would go on by itself."""
        self.here = here
        put.attribute(self.binding, "elsewhere", lambda run: here.push(run, again=False))
        put.attribute(self.binding, "drain", self._drain)

    def _drain(self) -> int:
        if self.here.is_idle:
            self.here.settle()
        return 0

    def pull(self) -> Callable[[], None] | None:
        """Returns None: everything was handed over when it was sent."""
        return None

    def moments(self) -> list[int]:
        """Returns none, likewise."""
        return []

    def record_death(self) -> None:
        """Does nothing: what is left is in the journal."""
