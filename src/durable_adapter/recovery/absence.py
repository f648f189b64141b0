"""Whether somebody sweeps for each engine: one rule for a worker's log, for reports and for `doctor`.

Without a sweeper nothing that was missed is made good. `Absence` says so in the log of a worker that does not sweep itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import JournalError
from ..model import SECOND

if TYPE_CHECKING:
    from ..journal import Journal
    from ..model import WorkerRow

logger = logging.getLogger("durable_adapter")

#: Seconds between two looks, and before the first: one small read each.
LOOK_EVERY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Unswept:
    """An engine for which nobody sweeps.

    Attributes:
        engine: its name.
        last: when a sweeper for it beat last, in microseconds; None where the journal knows of none.
    """

    engine: str
    last: int | None


def unswept(workers: Iterable[WorkerRow], engines: Iterable[str], *, namespace: str, now: int, stale: int) -> list[Unswept]:
    """Returns those of some engines for which no sweeper of a namespace lives and beats.

    Args:
        workers: the processes that are known; those of an earlier release, which do not say their namespace, count for each.
        engines: the names of the engines.
        namespace: whose workflows are to be swept.
        now: database time in microseconds.
        stale: microseconds of silence after which a worker may be declared dead.
    """
    here = [worker for worker in workers if worker.namespace in (None, namespace)]
    found = []
    for engine in sorted(set(engines)):
        sweepers = [worker for worker in here if worker.sweeps(engine)]
        if all(sweeper.has_ended or sweeper.is_silent(now, stale) for sweeper in sweepers):
            found.append(Unswept(engine, max((sweeper.beat_at for sweeper in sweepers), default=None)))
    return found


class Absence:
    """Says once that nobody sweeps for an engine, and once that somebody does again.

    Args:
        journal: the journal.
        engines: tells the names of the engines at each look.
        stale: seconds of silence after which a worker may be declared dead.
        monotonic: the clock by which it looks; tests pass their own.
    """

    def __init__(
        self,
        journal: Journal,
        engines: Callable[[], Collection[str]],
        *,
        stale: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._engines = engines
        self._stale = int(stale * SECOND)
        self._monotonic = monotonic
        self._looks_at = monotonic() + LOOK_EVERY
        self.is_told = False

    def check(self) -> None:
        """Checks it, if it is time for that. An outage of the journal is logged elsewhere."""
        if self._monotonic() < self._looks_at:
            return
        self._looks_at = self._monotonic() + LOOK_EVERY
        try:
            around = self._journal.surveys.around()
        except JournalError as error:
            logger.debug("sweepers_not_known msg=%r", str(error))
            return
        workers, namespace = [*around.living, *around.former], self._journal.namespace
        found = unswept(workers, self._engines(), namespace=namespace, now=around.now, stale=self._stale)
        if found and not self.is_told:
            last = max((each.last for each in found if each.last is not None), default=None)
            since = "no sweeper is known" if last is None else f"the last one beat {(around.now - last) / SECOND:.0f} s ago"
            logger.warning(
                "nobody_sweeps journal=%s engines=%s msg=%r",
                self._journal.db.safe_url,
                ",".join(each.engine for each in found),
                f"Nobody sweeps it: {since}, and this worker does not (sweeper=False). Retries and sleeping "
                "workflows that are due, lost messages and dead workers are not looked after. Run `durable-adapter sweep` with "
                "-A (RQ: -u), or let a worker sweep.",
            )
        elif self.is_told and not found:
            logger.warning("swept_again journal=%s msg=%r", self._journal.db.safe_url, "The journal is swept again.")
        self.is_told = bool(found)
