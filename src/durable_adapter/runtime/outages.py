"""Outages of the journal, told once per process: a line when it goes away, and a line when it is back.

Beats, sweeps and waiting operations all notice the same outage. Whoever notices first tells it, with what is in flight.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import JournalError, JournalUnmigrated, JournalUnreachable
from ..model import attempt_place

if TYPE_CHECKING:
    from ..journal import Journal

logger = logging.getLogger("durable_adapter")

#: Attempts that one line names.
NAMED = 3

#: Since when a journal is away, on the monotonic clock, by the process that told it and the journal's URL. No lock:
#: a process may be forked while a thread of its parent holds one.
_since: dict[tuple[int, str], float] = {}


def away(journal: Journal, error: JournalError, running: Sequence[str] | None = None) -> None:
    """Tells that the journal is away, unless this process has told it already.

    Args:
        journal: the journal.
        error: what an operation on it raised. One that is no outage is told each time.
        running: the attempts that this process runs; None where others run them, as in a worker's parent.
    """
    if not isinstance(error, (JournalUnreachable, JournalUnmigrated)):
        logger.warning("journal_refused journal=%s msg=%r", journal.db.safe_url, str(error))
        return
    now = time.monotonic()
    if _since.setdefault((os.getpid(), journal.db.safe_url), now) is not now:
        return
    in_flight = "unknown" if running is None else str(len(running))
    told = f"{error} {_meanwhile(running)} Waiting for it."
    logger.warning("journal_away journal=%s in_flight=%s msg=%r", journal.db.safe_url, in_flight, told)


def back(journal: Journal) -> None:
    """Tells that the journal is there again, if this process has told that it was away."""
    if not _since:
        return
    since = _since.pop((os.getpid(), journal.db.safe_url), None)
    if since is not None:
        logger.warning("journal_back journal=%s away_seconds=%.1f", journal.db.safe_url, time.monotonic() - since)


def _meanwhile(running: Sequence[str] | None) -> str:
    """What goes on while the journal is away."""
    if running is None:
        return "What this worker's processes run goes on, and is recorded when the journal is back; nothing else is begun."
    if not running:
        return "Nothing is in flight in this process, and nothing is begun."
    names = ", ".join(f"step {key} of run {ref}" for ref, key in map(attempt_place, running[:NAMED]))
    more = f" and {len(running) - NAMED} more" if len(running) > NAMED else ""
    return f"In flight, to be recorded when the journal is back: {names}{more}. Nothing else is begun."
