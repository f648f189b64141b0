"""Notices that nobody sweeps: what a worker says that does not sweep itself.

Without a sweeper nothing that was missed is made good, and nothing else would tell before somebody misses it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from ..errors import JournalError

if TYPE_CHECKING:
    from ..journal import Journal

logger = logging.getLogger("durable_adapter")

#: Seconds between two looks, and before the first: one small read each.
LOOK_EVERY: Final = 60.0
#: How many times `stale` a sweeper may be silent before it counts as absent: a slow one is none.
PATIENCE: Final = 3


class Absence:
    """Says once that no sweeper of some engines beats, and once that one does again.

    Args:
        journal: the journal.
        engines: tells their names at each look; a sweeper counts that can send for any of them.
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
        self._patience = PATIENCE * stale
        self._monotonic = monotonic
        self._looks_at = monotonic() + LOOK_EVERY
        self.is_told = False

    def look(self) -> None:
        """Looks if it is time for that. A journal that is away is somebody else's to tell of."""
        if self._monotonic() < self._looks_at:
            return
        self._looks_at = self._monotonic() + LOOK_EVERY
        try:
            silent_for = self._journal.workers.sweepers_silent_for(self._engines(), namespace=self._journal.namespace)
        except JournalError as error:
            logger.debug("whether anybody sweeps is not known: %s", error)
            return
        absent = silent_for is None or silent_for > self._patience
        if absent and not self.is_told:
            since = "none has ever beaten" if silent_for is None else f"the last one beat {silent_for:.0f} s ago"
            logger.warning(
                "nobody_sweeps journal=%s msg=%r",
                self._journal.db.safe_url,
                f"Nobody sweeps it: {since}, and this worker does not (sweeper=False). Retries and sleeping "
                "workflows that are due, lost messages and dead workers are not looked after. Run `durable-adapter sweep` with "
                "-A (RQ: -u), or let a worker sweep.",
            )
        elif self.is_told and not absent:
            logger.warning("swept_again journal=%s msg=%r", self._journal.db.safe_url, "The journal is swept again.")
        self.is_told = absent
