"""The crash matrix: `python -m tests.crash.matrix [--engine rq] [--cells GLOB] [--json] [--out docs/crash-matrix.md]`.

Redis and PostgreSQL, real workers, real signals. Exits with 1 if a cell does not end as promised.
"""

from __future__ import annotations

import argparse
import json
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.crash.cells import Cell, chosen
from tests.crash.engines import CELERY, ENGINES, Engine
from tests.crash.outcome import Result, play
from tests.crash.report import Facts, write_report
from tests.crash.stage import Stage, prepare_database
from tests.servers import RedisServer
from tests.servers.postgres import OwnPostgresServer, PostgresServer, find_or_start_postgres
from tests.servers.unavailable import Unavailable

#: How many stages stand side by side. The cells wait for most of their time.
STAGES = 5
#: Seconds for which the database is away.
AWAY = 60.0


class Matrix:
    """Plays cells on several stages at once.

    Args:
        engine: whose cells they are.
        directory: for everything that is written meanwhile.
        stages: how many.
        away: seconds for which the database is away.
        say: told a line about each cell.
    """

    def __init__(self, engine: Engine, directory: Path, stages: int, away: float, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._directory = directory
        self._stages = stages
        self._away = away
        self._say = say
        self._results: list[Result] = []
        self._lock = threading.Lock()
        self._broken: list[BaseException] = []
        self._open: list[Stage] = []

    def play(self, cells: Sequence[Cell]) -> list[Result]:
        """Plays the cells and returns their results, in the cells' order."""
        server = _postgres()
        try:
            self.servers = [server.description, redis_description()]
            prefix = f"durable_crash_{int(time.time())}"
            server.create(prefix)
            prepare_database(server.url(prefix))
            # What shows its SQL has stages of its own: workers are started with it or without.
            for show_sql in (False, True):
                self._play_alike([c for c in cells if c.show_sql is show_sql], server, prefix, show_sql)
            server.drop(prefix)
        finally:
            server.close()
        order = {cell.id: number for number, cell in enumerate(cells)}
        return sorted(self._results, key=lambda result: order[result.cell.id])

    def _play_alike(self, cells: Sequence[Cell], server: PostgresServer, template: str, show_sql: bool) -> None:
        waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        for cell in _in_order(cells):
            waiting.put(cell)
        total = len(cells)
        threads = []
        for number in range(min(self._stages, total)):
            name = f"{template}_{'sql_' if show_sql else ''}{number}"
            server.create(name, template)
            given = (waiting, server, name, show_sql)
            threads.append(threading.Thread(target=self._stage, args=given, name=f"stage-{number}", daemon=True))
            threads[-1].start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1)
        except BaseException:
            for stage in list(self._open):
                stage.__exit__(None, None, None)
            raise
        if self._broken:
            raise self._broken[0]

    def _stage(self, waiting: queue.SimpleQueue[Cell], server: PostgresServer, name: str, show_sql: bool) -> None:
        try:
            with self._engine.stage(self._directory / name, server.url(name), show_sql=show_sql) as stage:
                self._open.append(stage)
                played: list[Result] = []
                while True:
                    try:
                        cell = waiting.get_nowait()
                    except queue.Empty:
                        break
                    result = play(self._engine, stage, cell, f"o{len(played)}-{cell.id.replace('/', '-')}", self._away)
                    played.append(result)
                    self._note(result)
                    if not result.passed:
                        stage.renew()
                self._look_back(stage, played)
                self._open.remove(stage)
        except BaseException as error:
            self._broken.append(error)
        finally:
            server.drop(name)

    def _look_back(self, stage: Stage, played: list[Result]) -> None:
        """Nothing happened to any of them after it was counted."""
        for result in played:
            counts = stage.counts(result.order)
            if result.passed and counts != result.counts:
                result.passed, result.why, result.counts = False, f"later the counts were {counts}", counts
                self._say(f"FAIL {result.cell.id}: {result.why}")

    def _note(self, result: Result) -> None:
        with self._lock:
            self._results.append(result)
            number = len(self._results)
            if result.evidence:
                path = self._directory / f"{result.cell.id.replace('/', '-')}.txt"
                path.write_text(result.evidence)
                result.notes.append(str(path))
        word = "ok  " if result.passed else "FAIL"
        held = " (held)" if result.was_held else ""
        why = f"  {result.why.splitlines()[0]}" if result.why else ""
        counts = "/".join(map(str, result.counts))
        self._say(f"{number:4} {word} {result.cell.id:60} {counts}{held} {result.seconds:5.1f} s{why}")


def _in_order(cells: Sequence[Cell]) -> list[Cell]:
    """What takes longest comes first, so that the end is not one stage's alone; then one class of workers after the other."""
    return sorted(cells, key=lambda c: (c.deed != "away" or c.moment == "start", c.worker))


def _postgres() -> PostgresServer:
    """A server of our own, which has enough connections for all stages; else the one that is there."""
    try:
        return OwnPostgresServer()
    except Unavailable:
        return find_or_start_postgres()


def redis_description() -> str:
    """The broker that the stages have."""
    with RedisServer() as server:
        return server.description


def _command(given: argparse.Namespace) -> str:
    """The command that plays the same cells in the same way."""
    words = ["python -m tests.crash.matrix"]
    words += [f"--engine {given.engine}"] if given.engine != CELERY.name else []
    words += [f"--cells '{given.cells}'"] if given.cells != "*" else []
    words += [f"--away {given.away:g}"] if given.away != AWAY else []
    words += [f"--stages {given.stages}"] if given.stages != STAGES else []
    return " ".join([*words, "--out docs/crash-matrix.md"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line, plays, reports."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), default=CELERY.name, help="whose workers are killed")
    parser.add_argument("--cells", default="*", metavar="GLOB", help="which cells, e.g. 'chain/*/kill-*'; several with commas")
    parser.add_argument("--list", action="store_true", help="name the cells and play none")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table to this file")
    parser.add_argument("--stages", type=int, default=STAGES, help="how many cells are played at once")
    parser.add_argument("--away", type=float, default=AWAY, help="seconds for which the database is away")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and evidence here")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is ended
    engine = ENGINES[given.engine]
    cells = chosen(engine.cells(), given.cells)
    if given.list:
        for cell in cells:
            print(cell.id, f"-- makes no sense: {cell.nonsense}" if cell.nonsense else f"-- {cell.promise}")
        return 0
    began = time.time()
    to_play = [cell for cell in cells if cell.nonsense is None]
    directory = given.keep or Path(tempfile.mkdtemp(prefix="crash-matrix-"))
    matrix = Matrix(engine, directory, given.stages, given.away, lambda line: print(line, file=sys.stderr, flush=True))
    results = matrix.play(to_play)
    failed = [result for result in results if not result.passed]
    seconds = time.time() - began
    if given.out:
        facts = Facts(matrix.servers, _command(given), began, seconds, given.away)
        write_report(given.out, engine, cells, results, facts)
    if given.json:
        print(json.dumps({"seconds": round(seconds), "cells": [result.as_json() for result in results]}, indent=1))
    print(
        f"{len(results)} cells, {len(results) - len(failed)} as promised, {sum(r.was_held for r in results)} of them held first, "
        f"{len(failed)} not; {seconds / 60:.1f} minutes; logs in {directory}",
        file=sys.stderr,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
