"""Orders wait for other people's locks for a moment only, and then say who holds what.

A transactional step holds the rows of its step for as long as its body runs, and a process that is frozen in one, or whose host
is gone, until the database gives its connection up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import JournalBusy
from ..model import SECOND, attempt_place

if TYPE_CHECKING:
    from ..journal import Journal


@contextlib.contextmanager
def not_waiting(journal: Journal, ref: str | None = None) -> Iterator[None]:
    """Within the block, nothing waits for a lock for longer than a moment.

    Args:
        journal: the journal.
        ref: the run that is changed; None where it is many.

    Raises:
        JournalBusy: somebody else holds a row; says who may be that.
    """
    try:
        with journal.db.with_short_lock_waits():
            yield
    except JournalBusy as error:
        raise JournalBusy(f"{error}. Nothing was changed. {holders(journal, ref)}") from error


def holders(journal: Journal, ref: str | None) -> str:
    """Who runs a step now of a run, or of any: whose transaction may hold its rows."""
    now = journal.time()
    found = []
    for worker in journal.workers.alive(namespace=journal.namespace):
        for name in worker.running:
            its_ref, key = attempt_place(name)
            if ref in (None, its_ref):
                beat = (now - worker.beat_at) / SECOND
                found.append(f"{key} of run {its_ref} in pid {worker.pid} on {worker.host}, which beat {beat:.0f} s ago")
    if found:
        more = f", and {len(found) - 5} more" if len(found) > 5 else ""
        return (
            f"Running now, and perhaps in a transaction that holds the row until the body ends: {'; '.join(found[:5])}{more}. "
            "Give the order again when it has ended, or stop that process."
        )
    return (
        "No living worker says that it runs a step of it. A process that is gone holds its locks until the database gives its "
        "connection up: within a minute where the journal's keepalives are in force. Give the order again then."
    )
