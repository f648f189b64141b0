"""The most telling cells of the crash matrices. `make crash-matrix` plays all of them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.cells import Cell
from tests.crash.engines import CELERY, ENGINES, RQ, Engine
from tests.crash.outcome import play
from tests.crash.stage import Stage, prepare_database
from tests.rq_versions import SPAWNING, needs_rq
from tests.servers import Databases, Unavailable

#: Seconds for which the database is away.
AWAY = 8.0

CHOSEN = {
    CELERY.name: (
        # A charge of which only the bank knows: held without a declaration, finished by itself with one.
        "chain/undeclared/kill-child@after-effect:charge",
        "chain/undeclared/kill-worker@before-effect:ship",
        "chain/idempotent/kill-worker@after-effect:charge",
        "chain/probe/kill-child@bank-working:charge",
        "chain/transactional/kill-child@bank-working:ship",
        "function/undeclared/kill-child@bank-working:ship",
        "function/probe/kill-worker@after-effect:ship",
        "lone/transactional/kill-worker@after-effect:charge",
        # What Celery alone repeats although everything is known.
        "chain/undeclared/kill-worker@after-publish:charge",
        "chain/undeclared/kill-child@before-body:charge",
        "function/undeclared/kill-child@after-end:charge",
        "lone/undeclared/kill-child@after-end:charge",
        # Nothing crashes.
        "chain/undeclared/slow",
        "chain/undeclared/twice",
        "chain/probe/flush",
        "lone/undeclared/countdown",
        "function/undeclared/early@after-effect:charge",
        "chain/idempotent/hard-limit:ship",
        "chain/undeclared/error@autoretry:charge",
        "function/undeclared/error@retry:ship",
        "chain/undeclared/away@end",
        "chain/undeclared/lost@claim:charge",
        "chain/transactional/frozen@after-effect:charge",
        "chain/undeclared/plain-all",
    ),
    RQ.name: (
        # What only the bank knows: of a horse, of a worker with its horse, and of an orphaned horse that goes on.
        "chain/fork/undeclared/kill-horse@after-effect:charge",
        "chain/fork/idempotent/kill-both@after-effect:ship",
        "chain/fork/undeclared/orphan@after-effect:ship",
        "function/fork/probe/kill-horse@bank-working:ship",
        # What RQ alone repeats or loses although everything is known.
        "chain/fork/undeclared/kill-both@after-commit:ship",
        "lone/fork/undeclared/callback:charge",
        "chain/fork/undeclared/twice",
        "chain/fork/undeclared/error@retry:ship",
        "chain/fork/undeclared/stop:ship",
        "chain/fork/undeclared/away@end:ship",
        "lone/fork/undeclared/lost@claim:charge",
        # The other classes of workers.
        "chain/simple/transactional/kill-both@after-effect:ship",
        "function/simple/undeclared/timeout@retry:ship",
        "lone/spawn/idempotent/kill-horse@after-effect:charge",
    ),
}


@pytest.fixture(scope="session")
def stage_of(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Engine], Stage]]:
    """One stage per engine, session and worker process: cells are played on it one after the other."""
    stages: dict[str, Stage] = {}
    with contextlib.ExitStack() as ends:

        def stage_of(engine: Engine) -> Stage:
            if engine.name not in stages:
                try:
                    database = databases.fresh("postgresql", prepare_database)
                    directory = tmp_path_factory.mktemp(f"crash-{engine.name}")
                    stages[engine.name] = ends.enter_context(engine.stage(directory, database, show_sql=True))
                except Unavailable as reason:
                    pytest.skip(str(reason))
            return stages[engine.name]

        yield stage_of


#: What a cell needs of RQ that an old one does not have.
NEEDS = {"/spawn/": SPAWNING, "@after-commit": needs_rq("3.0", "moment at which dependents are in no list")}


def _cells() -> list[Any]:
    known = {name: {cell.id: cell for cell in engine.cells()} for name, engine in ENGINES.items()}
    return [
        pytest.param(ENGINES[name], known[name][cell], marks=[mark for part, mark in NEEDS.items() if part in cell])
        for name, cells in CHOSEN.items()
        for cell in cells
    ]


@pytest.mark.parametrize(("engine", "cell"), _cells(), ids=lambda it: it.id if isinstance(it, Cell) else it.name)
def test_a_cell_ends_as_promised(engine: Engine, cell: Cell, stage_of: Callable[[Engine], Stage], tmp_path: Path) -> None:
    stage = stage_of(engine)
    result = play(engine, stage, cell, f"{tmp_path.name}-{cell.id.replace('/', '-')}", AWAY)
    if not result.passed:
        print(result.evidence)
        stage.renew()
    assert result.passed, f"{cell.id}: {result.why}"


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.name)
def test_every_cell_that_makes_no_sense_says_why(engine: Engine) -> None:
    cells = list(engine.cells())
    reasons = {cell.id: cell.nonsense for cell in cells if cell.nonsense is not None}
    assert len({cell.id for cell in cells}) == len(cells)
    assert len(set(CHOSEN[engine.name])) == len(CHOSEN[engine.name]) <= 24
    assert not [name for name in CHOSEN[engine.name] if name in reasons]
    assert all(reason.strip() for reason in reasons.values())
