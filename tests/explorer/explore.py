"""`python -m tests.explorer [--schedules N] [--seed S] [--dialect D] [--trace]`: plays random schedules and judges each.

Without `--dialect`, N schedules on SQLite and a tenth of that on PostgreSQL and on MariaDB, where they are to be had. Each
schedule has its own seed, counted upwards from S; one that fails is printed with its seed and its trace, and is replayed with
`--seed` and `--schedules 1`. The exit code is the verdict: 0 where every schedule ended as promised, 1 where one did not, 2
where nothing could be played.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.servers.unavailable import Unavailable

from .schedule import Outcome, Schedule
from .stage import Dialect, Stage

#: Schedules that one process plays on one stage before it says how they ended.
BATCH = 50
#: Seconds between two lines of progress.
PROGRESS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays what was asked for; returns the exit code."""
    given = _parser().parse_args(arguments)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**9)
    dialects: list[tuple[Dialect, int]] = [(given.dialect, given.schedules)] if given.dialect else _all(given.schedules)
    total, failed, missing = 0, [], []
    for dialect, schedules in dialects:
        try:
            failed += _play(dialect, seed, schedules, jobs=given.jobs, trace=given.trace)
        except Unavailable as reason:
            print(f"{dialect}: skipped: {reason}", flush=True)
            missing.append(dialect)
            continue
        total += schedules
    if not total:
        print(f"explored nothing: no database of {', '.join(missing)} is to be had here")
        return 2
    where = ", ".join(dialect for dialect, _ in dialects if dialect not in missing)
    print(
        f"explored {total} schedules on {where}, {len(failed)} failed, seed {seed}"
        + (f"; failed: {', '.join(failed[:20])}" if failed else "")
    )
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.explorer", description=__doc__.partition(":")[2])
    parser.add_argument("--schedules", type=int, default=5_000, help="how many schedules (default 5000)")
    parser.add_argument("--seed", type=int, help="the seed of the first schedule (default: drawn, and printed)")
    parser.add_argument("--dialect", choices=["sqlite", "postgresql", "mariadb"], help="one database only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes play (default: one a core)")
    parser.add_argument("--trace", action="store_true", help="print each schedule's trace, whether it failed or not")
    return parser


def _all(schedules: int) -> list[tuple[Dialect, int]]:
    tenth = max(1, schedules // 10)
    return [("sqlite", schedules), ("postgresql", tenth), ("mariadb", tenth)]


def _play(dialect: Dialect, seed: int, schedules: int, *, jobs: int, trace: bool) -> list[str]:
    """Plays schedules on one database; returns those that failed, as one replays them."""
    began = said = time.monotonic()
    played, points, failed = 0, 0, []
    figures: Counter[str] = Counter()
    for outcome in _outcomes(dialect, seed, schedules, jobs, trace=trace):
        played += 1
        points += outcome.points
        figures.update(outcome.figures)
        if outcome.problems or trace:
            print(told(outcome, dialect), flush=True)
        if outcome.problems:
            failed.append(f"--dialect {dialect} --seed {outcome.seed} --schedules 1")
        if time.monotonic() - said > PROGRESS:
            said = time.monotonic()
            print(f"{dialect}: {played} of {schedules} schedules, {len(failed)} failed", flush=True)
    seconds = time.monotonic() - began
    happened = ", ".join(f"{what} {count}" for what, count in sorted(figures.items()))
    print(
        f"{dialect}: {played} schedules, {len(failed)} failed; {points} switch points, {played / seconds:.0f} schedules/s; "
        + happened,
        flush=True,
    )
    return failed


def _outcomes(dialect: Dialect, seed: int, schedules: int, jobs: int, *, trace: bool) -> Iterator[Outcome]:
    seeds = range(seed, seed + schedules)
    if jobs == 1 or schedules <= BATCH // 5:
        with Stage(dialect) as stage:
            for number in seeds:
                yield play(stage, number, trace=trace)
        return
    with Stage(dialect):
        pass  # whether there is such a database is told here, once
    size = max(1, min(BATCH, schedules // jobs))
    batches = [(dialect, list(seeds[start : start + size]), trace) for start in range(0, schedules, size)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed(pool.submit(_batch, *batch) for batch in batches):
            yield from done.result()


def _batch(dialect: Dialect, seeds: list[int], trace: bool) -> list[Outcome]:
    with Stage(dialect) as stage:
        return [play(stage, seed, trace=trace) for seed in seeds]


def play(stage: Stage, seed: int, *, trace: bool = False) -> Outcome:
    """Plays one schedule. One that fails is played again, so that its trace can be told."""
    outcome = Schedule(stage, seed, trace=trace).play()
    if outcome.problems and not trace:
        again = Schedule(stage, seed, trace=True).play()
        if not again.problems:
            outcome.problems.append("played again, it did not fail: something is not decided by the seed")
        outcome.trace = again.trace
    return outcome


def told(outcome: Outcome, dialect: str) -> str:
    """A schedule's trace and what is wrong, in words."""
    verdict = "\n".join(f"  - {problem}" for problem in outcome.problems) or "  nothing"
    replay = f'make explore ARGS="--dialect {dialect} --seed {outcome.seed} --schedules 1 --trace"'
    return f"schedule {outcome.seed} on {dialect}\n" + "\n".join(outcome.trace) + f"\nwrong:\n{verdict}\nreplay: {replay}\n"
