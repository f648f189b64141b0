"""The engines that the matrix is played for, each with its cells, its stage, its faults and its part of the document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.crash import celery_cells, celery_faults, rq_cells, rq_faults
from tests.crash.celery_stage import CeleryStage
from tests.crash.cells import Cell
from tests.crash.faults import Play
from tests.crash.rq_stage import RQStage
from tests.crash.stage import Stage


@dataclass(frozen=True)
class Engine:
    """One engine's matrix.

    Attributes:
        name: as the command line has it.
        title: as the document has it.
        how: what the document says of how it is played.
        cells: every cell, also those that make no sense.
        fault_title: how the document calls a cell's fault.
        acts: does to a workflow what a cell's deed says.
        stage: where its cells are played.
        packages: whose versions the document names.
    """

    name: str
    title: str
    how: str
    cells: Callable[[], Iterator[Cell]]
    fault_title: Callable[[Cell], str]
    acts: Mapping[str, Callable[[Play], None]]
    stage: type[Stage]
    packages: tuple[str, ...]


CELERY = Engine(
    name="celery",
    title="Celery",
    how=celery_cells.HOW,
    cells=celery_cells.all_cells,
    fault_title=celery_cells.title,
    acts=celery_faults.ACTS,
    stage=CeleryStage,
    packages=("celery", "kombu", "billiard", "redis", "sqlalchemy", "psycopg"),
)
RQ = Engine(
    name="rq",
    title="RQ",
    how=rq_cells.HOW,
    cells=rq_cells.all_cells,
    fault_title=rq_cells.title,
    acts=rq_faults.ACTS,
    stage=RQStage,
    packages=("rq", "redis", "sqlalchemy", "psycopg"),
)
ENGINES = {engine.name: engine for engine in (CELERY, RQ)}
