"""For users' own unit tests: a journal of the test's own, in which durable calls run in this process.

The fixture `durable_journal` is there as soon as durable-adapter is installed; under another name it is had by
`from durable_adapter.testing import journal` in a conftest.py. Nothing here is meant for production.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import Killed, NotFinished
from .plugin import durable_app, durable_journal, durable_redis, durable_template
from .plugin import durable_journal as journal

if TYPE_CHECKING:
    from .recorded import RecordedStep, RecordedWorkflow, TestJournal

#: Names that are loaded when first asked for: every pytest run of a project that uses durable-adapter imports this package.
_LATER = frozenset(["RecordedStep", "RecordedWorkflow", "TestJournal"])

__all__ = [
    "Killed",
    "NotFinished",
    "RecordedStep",
    "RecordedWorkflow",
    "TestJournal",
    "durable_app",
    "durable_journal",
    "durable_redis",
    "durable_template",
    "journal",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.recorded"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
