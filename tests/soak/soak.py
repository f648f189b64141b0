"""The soak: `python -m tests.soak [--sagas N] [--engine celery|rq|both] [--seed S] [--minutes M] [--keep DIR]`.

Starts sagas on real workers while everything around them is broken, waits until all are over, and judges. Progress goes to
standard error; the last line, on standard output, has the figures and the seed. Exits with 0 if everything is as promised, 1 if
not, 2 if it could not be played.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from durable_adapter.model import StepStatus, WorkflowStatus
from tests.servers.postgres import OwnPostgresServer, PostgresServer, find_or_start_postgres
from tests.servers.unavailable import Unavailable
from tests.soak.engines import ENGINES, Engine
from tests.soak.faults import Faults
from tests.soak.sagas import STEPS, Saga, draw
from tests.soak.site import Site
from tests.soak.verdict import judge

#: Sagas that are under way at once, so that starts go on for as long as faults do.
UNDER_WAY = 60
#: Seconds in which something must end, or else the rest is stuck.
PATIENCE = 120.0
#: Seconds for the broker to deliver again what dead workers had taken, and for that to be let go of.
QUIET = 90.0
#: How often in a row the broker has to be found empty, and seconds between two looks.
LOOKS, LOOK_EVERY = 5, 0.5
#: Seconds between two lines of progress.
TELL_EVERY = 10.0
#: Minutes for all engines together.
MINUTES = 30.0
#: How many sagas the evidence is about, at the most.
EVIDENCE = 5

UNDER_WAY_STATUSES = {
    WorkflowStatus.RUNNING,
    WorkflowStatus.SUSPENDED,
    WorkflowStatus.FAILING,
    WorkflowStatus.ROLLING_BACK,
}


@dataclass(frozen=True)
class Stand:
    """How far the sagas of a run are.

    Attributes:
        over: whose workflow has ended, however.
        held: which wait for a person.
        steps: steps that have ended, however.
    """

    over: int
    held: int
    steps: int


def stand_of(site: Site) -> Stand:
    """Reads the journal."""
    runs = site.rows("SELECT status, count(*) AS n FROM durable_workflow GROUP BY status")
    steps = site.rows("SELECT status, count(*) AS n FROM durable_step GROUP BY status")
    open_steps = {StepStatus.PLANNED, StepStatus.WAITING, StepStatus.BEGUN, StepStatus.IN_DOUBT}
    return Stand(
        over=sum(row.n for row in runs if row.status not in UNDER_WAY_STATUSES),
        held=sum(row.n for row in steps if row.status == StepStatus.HELD),
        steps=sum(row.n for row in steps if row.status not in open_steps),
    )


class Run:
    """One engine's part of a soak.

    Args:
        site: where it takes place.
        sagas: what is started.
        seed: of the faults.
        deadline: when it must be over, on the monotonic clock.
        say: told a line of progress now and then.
    """

    def __init__(self, site: Site, sagas: Sequence[Saga], seed: int, deadline: float, say: Callable[[str], None]) -> None:
        self._site, self._sagas, self._seed, self._deadline, self._say = site, list(sagas), seed, deadline, say
        self._stand = Stand(0, 0, 0)
        self._began = time.monotonic()
        self._told = self._began

    def play(self) -> list[str]:
        """Starts the sagas, waits for their ends, and returns what is not as promised."""
        waiting, started = deque(self._sagas), 0
        total = len(self._sagas)
        # The last ones end in peace: a kill each second would hit the same few again and again.
        in_peace = min(20, max(1, total // 10))
        faults: Faults | None = Faults(self._site, self._seed, lambda: self._stand.over / total)
        wrong: list[str] = []
        moved = time.monotonic()
        try:
            while True:
                before, self._stand = self._stand, stand_of(self._site)
                now = time.monotonic()
                left = total - self._stand.over - self._stand.held
                if self._stand != before:
                    moved = now
                self._tell(started)
                if faults is not None and (left <= in_peace or faults.error is not None):
                    faults.stop()
                    if faults.error is not None:
                        raise faults.error
                    faults, moved = None, now
                if left <= 0 and not waiting:
                    break
                if now - moved > PATIENCE or now > self._deadline:
                    why = f"nothing ended for {PATIENCE:g} s" if now <= self._deadline else "the time is over"
                    wrong.append(f"{left} of {total} sagas are not over, and {why}")
                    break
                if waiting and started - self._stand.over - self._stand.held < UNDER_WAY:
                    if (error := self._site.start(waiting[0])) is None:
                        waiting.popleft()
                        started += 1
                        continue
                    self._site.counts["starts tried again"] += 1
                    self._say(f"{waiting[0].name} will be started again: {error.splitlines()[0][:150]}")
                time.sleep(0.2)
        finally:
            if faults is not None:
                faults.stop()
        return wrong + self._settle()

    def _settle(self) -> list[str]:
        """Waits until no message is left that could make something run again, then judges."""
        looks, until = 0, min(self._deadline, time.monotonic() + QUIET)
        wrong = []
        while looks < LOOKS:
            self._site.look_after_workers()
            looks = 0 if (messages := self._site.messages()) else looks + 1
            if time.monotonic() > until:
                wrong.append(f"the broker still holds {messages} messages")
                break
            time.sleep(LOOK_EVERY)
        return wrong + judge(self._site, self._sagas)

    def _tell(self, started: int) -> None:
        now = time.monotonic()
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._say(
                f"{now - self._began:5.0f} s: {self._stand.over} of {len(self._sagas)} sagas over, {started} started, "
                f"{self._stand.held} held; {figures(self._site)}"
            )


def figures(site: Site) -> str:
    """What was done to a site, as facts that can be read by a program."""
    counts = site.counts
    kills = counts["children killed"] + counts["workers killed"] + counts["parents killed"]
    return (
        f"kills={kills} children={counts['children killed']} workers={counts['workers killed']} "
        f"parents={counts['parents killed']} flushes={counts['flushes']} cuts={counts['cuts']} "
        f"answers_lost={counts['answers lost']} starts_tried_again={counts['starts tried again']} "
        f"workers_ended_by_themselves={counts['workers that ended by themselves']}"
    )


def play(
    engine: Engine, count: int, seed: int, deadline: float, directory: Path, postgres: PostgresServer, say: Callable[[str], None]
) -> tuple[bool, str]:
    """Plays one engine's part. Returns whether it is as promised, and its figures."""
    began = time.monotonic()
    sagas = draw(count, seed)
    with Site(engine, directory, postgres) as site:
        say(f"{engine.name}: {count} sagas of {len(STEPS)} steps, seed {seed}; {site.redis.description}; logs in {directory}")
        wrong = Run(site, sagas, seed, deadline, lambda text: say(f"{engine.name} {text}")).play()
        for line in wrong:
            say(f"{engine.name} NOT AS PROMISED {line}")
        if wrong:
            names = list(dict.fromkeys(re.findall(r"saga-\d+", "\n".join(wrong))))[:EVIDENCE]
            (directory / "evidence.txt").write_text("\n".join(wrong) + "\n" + site.evidence(names))
        told = f"sagas={count} effects={len(site.effects())} {figures(site)}"
    return not wrong, f"{engine.name}=[{told} wrong={len(wrong)} seconds={time.monotonic() - began:.0f}]"


def postgres_server() -> PostgresServer:
    """A server of our own, which has enough connections; else the one that is there."""
    try:
        return OwnPostgresServer()
    except Unavailable:
        return find_or_start_postgres()


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, plays, and prints the verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--sagas", type=int, help="how many on each engine; by default 2000 on Celery and 500 on RQ")
    parser.add_argument("--engine", choices=(*ENGINES, "both"), default="both", help="whose workers are killed")
    parser.add_argument("--seed", type=int, help="of the sagas and of the faults; by default one that is drawn now")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="what is not over by then counts as stuck")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs here; else only those of a run that fails are kept")
    given = parser.parse_args(arguments)
    if given.sagas is not None and given.sagas < 1:
        parser.error(f"--sagas {given.sagas}: give a number of at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what was started is ended
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1_000_000)
    began = time.monotonic()
    directory = given.keep or Path(tempfile.mkdtemp(prefix="durable-soak-"))
    engines = [ENGINES[name] for name in ENGINES if given.engine in (name, "both")]

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    results = []
    try:
        with contextlib.closing(postgres_server()) as postgres:
            for engine in engines:
                deadline = began + given.minutes * 60
                count = given.sagas or engine.sagas
                results.append(play(engine, count, seed, deadline, directory / engine.name, postgres, say))
    except Unavailable as reason:
        print(f"soak_not_played seed={seed} reason={str(reason)!r}")
        return 2
    passed = all(good for good, _ in results)
    kept = f" logs={directory}"
    if passed and given.keep is None:
        shutil.rmtree(directory, ignore_errors=True)
        kept = ""
    told = " ".join(told for _, told in results)
    print(f"soak_{'passed' if passed else 'failed'} seed={seed} seconds={time.monotonic() - began:.0f} {told}{kept}", flush=True)
    return 0 if passed else 1
