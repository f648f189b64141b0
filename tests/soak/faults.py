"""What befalls a run: a kill each second, two flushes, cuts of all connections, answers that are lost.

One thread does it all, by a schedule that is drawn from the seed. What is hit depends on the moment, too: a seed repeats the
schedule, not the run.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from legacy_sidekiq_style.control import Rule

from tests.servers.proxy import LostAnswer
from tests.soak.site import Site

#: Seconds between two kills, two cuts, and two answers that are lost.
KILL_EVERY, CUT_EVERY, LOSE_EVERY = 1.0, 20.0, 4.0
#: Seconds that a cut lasts, at the least and at the most.
CUT = (0.3, 2.0)
#: The share of the kills that hits children; the rest is shared by whole workers and parents alone.
CHILDREN = 0.9
#: The shares of all sagas that are over when the broker is flushed.
FLUSHES = (0.3, 0.65)
#: Transactions whose commit's answer is lost: a start or a new member, a claim, an end, a transactional step's effect.
COMMITS = ((b"INSERT INTO durable_workflow",), (b"over_at=NULL",), (b"outcome=$",), (b"INSERT INTO crash_effect",))
#: Seconds to wait for a process to kill, where none is there at once.
WAIT_FOR_ONE = 0.5


class Faults:
    """Breaks a site until told to stop.

    Args:
        site: what is broken.
        seed: of the schedule.
        share: how much of the run is over, from 0 to 1; decides when the broker is flushed.
    """

    def __init__(self, site: Site, seed: int, share: Callable[[], float]) -> None:
        self._site, self._share = site, share
        self._rng = random.Random(seed)
        self._flushes = list(FLUSHES)
        self._lost: list[LostAnswer] = []
        self._dropped: list[Rule] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self.error: BaseException | None = None
        """What went wrong in the thread itself."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the faults, and what is cut is whole again."""
        self._enough.set()
        self._thread.join(60)
        self._site.sql_proxy.restore()
        self._site.broker_proxy.restore()
        dropped = sum(int(rule.state()["hits"]) for rule in self._dropped)
        self._site.bank.behave()
        self._site.counts["answers lost"] = sum(lost.happened for lost in self._lost) + dropped

    def _run(self) -> None:
        try:
            self._break()
        except BaseException as error:
            self.error = error

    def _break(self) -> None:
        now = time.monotonic()
        kill, cut, lose = now + KILL_EVERY, now + CUT_EVERY / 2, now + LOSE_EVERY
        whole: float | None = None
        while not self._enough.wait(max(0.0, min(kill, lose, cut if whole is None else whole) - time.monotonic())):
            now = time.monotonic()
            if now >= kill:
                kill = max(kill + KILL_EVERY, now)
                self._kill()
                self._site.look_after_workers()
                if self._flushes and self._share() >= self._flushes[0]:
                    del self._flushes[0]
                    self._site.flush()
            if now >= lose:
                lose = now + LOSE_EVERY
                self._lose_an_answer()
            if whole is not None and now >= whole:
                whole = None
                self._site.sql_proxy.restore()
                self._site.broker_proxy.restore()
            elif whole is None and now >= cut:
                cut = now + CUT_EVERY
                whole = now + self._rng.uniform(*CUT)
                self._cut()

    def _kill(self) -> None:
        """Kills a child or a worker, as soon as there is one that takes messages."""
        which = self._rng.random()
        kill = self._site.kill_child
        if which >= CHILDREN:
            kill = self._rng.choice((self._site.kill_worker, self._site.kill_parent))
        until = time.monotonic() + WAIT_FOR_ONE
        while not kill(self._rng) and time.monotonic() < until:
            time.sleep(0.02)

    def _cut(self) -> None:
        """Cuts all connections to the journal, to the broker, or to both."""
        which = self._rng.choice(("journal", "broker", "both"))
        if which != "broker":
            self._site.sql_proxy.cut()
        if which != "journal":
            self._site.broker_proxy.cut()
        self._site.counts["cuts"] += 1

    def _lose_an_answer(self) -> None:
        """Loses the next answer of one sort: to a commit, to a publication, or the bank's."""
        which = self._rng.choice(("commit", "commit", "publication", "bank"))
        if which == "commit":
            self._lost.append(self._site.sql_proxy.lose_commit_of(*self._rng.choice(COMMITS)))
        elif which == "publication":
            self._lost.append(self._site.broker_proxy.swallow_next_answer(b"LPUSH" if self._rng.random() < 0.5 else b"RPUSH"))
        else:
            self._dropped.append(self._site.bank.rule("*", "drop", "after", times=1))
