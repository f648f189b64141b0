"""The loop that makes good what was missed: due timers, deaths, doubt, lost messages, unfinished rollbacks.

Safe in any number of places at once: what is due is taken with its next look already committed, and every repair is the
same compare-and-set that a worker would make. It knows bindings only by the `Engine` protocol, and runs no user code.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import JournalBusy, JournalError, UnreadableRow
from ..model import SECOND, WorkerRow, attempt_place
from ..runtime import alerts, outages
from ..runtime.engine import Engine
from .absence import Absence
from .deaths import Deaths
from .due import Due
from .sweep import Report, Sweep

if TYPE_CHECKING:
    from ..journal import Journal

logger = logging.getLogger("durable_adapter")

#: How many rows of one sort a sweep takes at the most, so that one sweep stays short.
BATCH = 200
#: How many steps are read at a time; together they are no more than `BATCH`.
AT_ONCE = 50
#: Seconds for which a sweep looks after what is due: deaths that only watching can find must not wait for long.
LASTS = 5.0
#: Seconds for which it looks after steps at the most; runs have as many at the least, so that neither keeps the other out.
FOR_STEPS = LASTS / 2
#: Seconds for which a sweep forgets what ended long ago, and how many runs of that one transaction takes.
FORGETS = 1.0
FORGOTTEN = 500
#: Seconds between two looks for runs to forget, once there are none left.
FORGET_EVERY = 600.0
#: Seconds for which a run is left alone of which a row could not be read: then somebody may have mended it.
LEFT_FOR = 600.0


class Sweeper:
    """One process's sweeper. What it watches (beats that stand still) it remembers between sweeps.

    Args:
        journal: the journal.
        engines: the bindings that can send messages, or what tells them: it is asked at each sweep.
        stale: seconds for which a beat counter must stand still under this sweeper's own eyes.
        beat: seconds between two beats of the sweeper itself.
        retention: days after its end for which a run is kept; None keeps everything.
        queues: the queues that the worker around this sweeper listens on with the plugin.
        monotonic: the clock by which it watches; tests pass their own.
    """

    def __init__(
        self,
        journal: Journal,
        engines: Iterable[Engine] | Callable[[], Iterable[Engine]],
        *,
        stale: float = 60.0,
        beat: float = 10.0,
        retention: float | None = None,
        queues: Callable[[], Sequence[str]] = lambda: (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        alerts.listen(journal)
        given = () if callable(engines) else tuple(engines)
        self._told: Callable[[], Iterable[Engine]] = engines if callable(engines) else lambda: given
        self._engines: dict[str, Engine] = {}
        self._stale = stale
        self._beat = beat
        self._retention = retention
        self._queues = queues
        self._forgot = float("-inf")
        self._monotonic = monotonic
        #: Runs that are left alone, because a row of them cannot be read here, and since when that is remembered.
        self._left: dict[str, str] = {}
        self._left_since = monotonic()
        #: Runs that are left to processes which can look where their messages are, and until when.
        self._elsewhere: dict[str, float] = {}
        #: When each place that this process cannot look at was last told of.
        self._told_of: dict[str, float] = {}
        self._deaths = Deaths(stale, beat, monotonic)
        self._id = uuid.uuid4().hex
        self._registered = False
        self._beaten = float("-inf")

    def absence(self) -> Absence:
        """What tells that nobody sweeps in this one's place."""
        return Absence(self._journal, self._names, stale=self._stale, monotonic=self._monotonic)

    def _names(self) -> set[str]:
        """The names of the engines that this process can send for now."""
        return {engine.name for engine in self._told()}

    def safely(self, *, attend: Callable[[], bool] = lambda: False) -> Report:
        """One sweep that never raises: for threads and loops. What went wrong is logged and in the report."""
        try:
            report = self.sweep(attend=attend)
            outages.back(self._journal)
            return report
        except JournalError as error:
            self._deaths.forget()
            outages.away(self._journal, error)
            return Report(errors=[str(error)])
        except Exception as error:
            self._deaths.forget()
            logger.exception("sweep_failed msg=%r", f"The next sweep tries again: {error}")
            return Report(errors=[repr(error)])

    def sweep(self, now: int | None = None, *, attend: Callable[[], bool] = lambda: False) -> Report:
        """One sweep. Deaths come first; what is due is then looked after for about `LASTS` seconds.

        Of these, steps have a half at the most, and runs at the least. What the time does not reach is due again at once.

        Args:
            now: the time in microseconds; the database's own if not given.
            attend: looks after deaths that only this process knows, and returns whether it wrote one. It is called before
                each step and each run that is looked after, so that no death waits for them.

        Returns:
            What it did.
        """
        journal = self._journal
        self._engines = {engine.name: engine for engine in self._told()}
        #: Whose due work is taken: another engine's is left to those who can send its messages, and so is another namespace's.
        mine = tuple(self._engines) or None
        living = journal.workers.alive()
        self._say_alive()
        if self._monotonic() - self._left_since >= LEFT_FOR:
            self._left, self._left_since = {}, self._monotonic()
        began = self._monotonic()
        self._elsewhere = {ref: until for ref, until in self._elsewhere.items() if until > began}
        sweep = Sweep(journal, self._engines, self._id, left=self._left, elsewhere=self._elsewhere, monotonic=self._monotonic)
        self._deaths.declare(living, sweep)
        self._deaths.doubt_the_dead(sweep)
        self._deaths.doubt_the_forgotten(sweep)
        # Read only now: what has just been put in doubt is due in this sweep already, not in the next one.
        at = journal.time() if now is None else now
        running = {attempt_place(name) for worker in living for name in worker.running}
        due = Due(sweep, at, running)

        def attended() -> None:
            if attend():
                self._deaths.doubt_the_dead(sweep)

        sweep.attend = attended
        unreadable: list[UnreadableRow] = []
        here = journal.namespace
        taken = 0
        sweep.until = began + FOR_STEPS
        while taken < BATCH and not sweep.is_over():
            limit = min(AT_ONCE, BATCH - taken)
            rows = journal.due.take_steps(at, limit, mine, namespace=here, leave=sweep.left_alone, unreadable=unreadable)
            taken += len(rows)
            due.steps(rows)
            if len(rows) < limit:
                break
        sweep.until = began + LASTS
        sweep.lasts_at_least(LASTS - FOR_STEPS)
        due.runs(journal.due.take_runs(at, BATCH, mine, namespace=here, leave=sweep.left_alone, unreadable=unreadable))
        sweep.leave(unreadable)
        self._say_unreached(sweep.unreached)
        self._forget(at, sweep)
        return sweep.report

    def _forget(self, now: int, sweep: Sweep) -> None:
        """Retention, in batches for `FORGETS` seconds; looks again soon while there is more, and rarely when there is not."""
        until = self._monotonic() + FORGETS
        if self._retention is None or self._monotonic() - self._forgot < FORGET_EVERY:
            return
        before = now - int(self._retention * 86_400 * SECOND)
        report = sweep.report
        while True:
            sweep.attend()
            try:
                with self._journal.db.with_short_lock_waits():
                    forgotten = self._journal.retention.forget(before, limit=FORGOTTEN)
            except JournalBusy as error:
                logger.info("retention_put_off msg=%r", str(error))
                report.busy += 1
                return
            report.pruned += forgotten.total
            if forgotten.total < FORGOTTEN:
                self._forgot = self._monotonic()
                self._journal.workers.forget_ended(min(before, now - 86_400 * SECOND))
                return
            if self._monotonic() >= until:
                report.more = True
                return

    def _say_unreached(self, unreached: Mapping[str, Sequence[str]]) -> None:
        """Tells of runs that are overdue where this process cannot look, once in `resend_after` for each place."""
        patience = self._journal.resend_after / SECOND
        for place, refs in unreached.items():
            if self._monotonic() - self._told_of.get(place, float("-inf")) < patience:
                continue
            self._told_of[place] = self._monotonic()
            logger.warning(
                "out_of_reach place=%r runs=%d run=%s msg=%r",
                place,
                len(refs),
                refs[0],
                f"Messages of unfinished workflows are in {place}, which is not reachable from this process, and nobody else "
                f"has looked after them. Run a worker with the plugin there. The next look is in {patience:.0f} s.",
            )

    def _say_alive(self) -> None:
        """Beats the sweeper's own row, so that workers and `doctor` can tell when nobody sweeps."""
        if self._monotonic() - self._beaten < self._beat:
            return
        workers = self._journal.workers
        if not self._registered or not workers.beat(self._id, []):
            if self._registered:
                self._id = uuid.uuid4().hex
            workers.register(
                WorkerRow(
                    id=self._id, role="sweeper", parent=None, host=socket.gethostname(), pid=os.getpid(),
                    engine=",".join(sorted(self._engines)) or "none", queues=list(self._queues()), code_version=None,
                    beats=0, beat_at=0,
                    previous_beat_at=0, running=[], previously_running=[], started_at=0,
                    namespace=self._journal.namespace, beat_every=int(self._beat * SECOND),
                )
            )  # fmt: skip
            self._registered = True
        self._beaten = self._monotonic()

    def stop(self) -> None:
        """Says that this sweeper ended by itself."""
        if self._registered:
            self._journal.workers.stop(self._id)
            self._registered = False
