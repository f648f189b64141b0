"""Who died, and what that puts in doubt.

A parent that saw its child die writes the death itself. Here it is written for whoever fell silent, after this sweeper has
watched; and what the dead had begun becomes doubtful.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ..model import MISSED_BEATS, SECOND, Cause, Death, StepRow, WorkerRow
from .sweep import Sweep

#: How many attempts of the dead one sweep puts in doubt at the most.
BATCH = 200

_DEATHS: dict[str, str] = {
    Death.PARENT_SAW: "died, as its parent saw,",
    Death.STOOD_STILL: "stopped beating and was declared dead",
    Death.STOPPED: "had stopped",
}


class Deaths:
    """What one sweeper has seen of the others' beats; it remembers between sweeps.

    Args:
        stale: seconds for which a beat counter must stand still under this sweeper's own eyes, or longer: `MISSED_BEATS` of
            that worker's beats.
        beat: seconds between two beats of a worker of an earlier release, whose row does not say so.
        monotonic: the clock by which it watches; tests pass their own.
    """

    def __init__(self, stale: float, beat: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stale = stale
        self._beat = beat
        self._monotonic = monotonic
        self._watched: dict[str, tuple[int, float]] = {}
        #: Attempts that their living workers do not name, and how often those had beaten when that was first seen.
        self._missing: dict[tuple[str, str, str | None], int] = {}
        self._looked = float("-inf")

    def forget(self) -> None:
        """Begins the watch anew: a look failed, and nobody knows what was missed meanwhile."""
        self._watched.clear()

    def declare(self, living: Sequence[WorkerRow], sweep: Sweep) -> None:
        """Writes the death of workers whose counter stood still under this sweeper's own eyes."""
        at = self._monotonic()
        # A look counts for a quarter of `stale` at the most: a sweeper that stood still itself (a frozen machine, a
        # stopped process) saw nothing meanwhile, and must not call that the others' silence.
        seen = min(at - self._looked, self._stale / 4)
        self._looked = at
        watched: dict[str, tuple[int, float]] = {}
        for worker in living:
            if worker.id == sweep.who or worker.namespace not in (None, sweep.journal.namespace):
                continue
            beats, still = self._watched.get(worker.id, (None, 0.0))
            still = still + seen if beats == worker.beats else 0.0
            if still >= self._patience(worker):
                why = f"its beat stood still for {still:.0f} s"
                sweep.report.deaths += sweep.journal.workers.stood_still(worker.id, worker.beats, why)
            else:
                watched[worker.id] = (worker.beats, still)
        self._watched = watched

    def _patience(self, worker: WorkerRow) -> float:
        """Returns for how many seconds a worker must have been silent: several of its own beats at least."""
        beat = self._beat if worker.beat_every is None else worker.beat_every / SECOND
        return max(self._stale, MISSED_BEATS * beat)

    def doubt_the_dead(self, sweep: Sweep) -> None:
        """Puts in doubt what dead and stopped workers had begun."""
        for row, death in sweep.journal.due.of_dead_workers(BATCH, leave=sweep.left):
            over = death in (Death.PARENT_SAW, Death.STOPPED)
            why = f"its worker {row.worker} {_DEATHS.get(death or '', 'is gone')} while the step was running"
            cause = Cause.WORKER_DIED if over else Cause.WORKER_SILENT
            sweep.guarded(row.ref, partial(_doubt, sweep, row, why, cause, over=over))

    def doubt_the_forgotten(self, sweep: Sweep) -> None:
        """A begun attempt that is missing from two beats of its living worker, both of which this sweeper saw pass.

        The first of them may have been on its way when the attempt was found here; the second was made after that. No
        clock says so: the database's may go back, when another server takes over.
        """
        missing: dict[tuple[str, str, str | None], int] = {}
        for row, beats in sweep.journal.due.missing_from_heartbeats(BATCH, leave=sweep.left):
            since = self._missing.get((row.ref, row.key, row.token), beats)
            missing[row.ref, row.key, row.token] = since
            if beats < since + 2:
                continue
            why = f"its worker {row.worker} lives, but does not run it any more"
            sweep.guarded(row.ref, partial(_doubt, sweep, row, why, Cause.WORKER_FORGOT, over=True))
        self._missing = missing


def _doubt(sweep: Sweep, row: StepRow, why: str, cause: Cause, *, over: bool) -> None:
    if sweep.journal.doubts.raise_doubt(row, row.token, why, cause=cause, over=over, who=sweep.who):
        sweep.report.doubts += 1
