"""The queries of reports, in one round trip for each kind of row, because round trips are slow over a network.

The cost of each query depends on unfinished and marked work, not on the size of the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..model import UNSETTLED_STEPS, WorkerRow, WorkflowRow, WorkflowStatus
from .database import Database
from .rows import readable, worker_row, workflow_row
from .schema import VERSION_TABLE, literals, step, worker, workflow

#: Former sweepers that are read, to report since when no sweeper runs.
FORMER_SWEEPERS = 50
#: Most marked steps, and most marked runs, that are read.
MARKED = 100_000


@dataclass(frozen=True)
class Around:
    """The facts of a report that do not depend on a run.

    Attributes:
        revision: the revision of the journal's tables.
        now: the database's time.
        living: every process that has neither stopped nor been declared dead, longest silent first.
        former: ended sweepers, and ended processes that open or marked steps name, newest first.
    """

    revision: str
    now: int
    living: list[WorkerRow]
    former: list[WorkerRow]


class Surveys:
    """The queries of reports."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def around(self) -> Around:
        """Returns the facts that do not depend on a run. One read."""
        version = sa.table(VERSION_TABLE, sa.column("version_num"))
        sweepers = sa.select(worker.c.id).where(worker.c.role == "sweeper").order_by(worker.c.beat_at.desc())
        last = sweepers.limit(FORMER_SWEEPERS).subquery()
        open_ones = sa.select(step.c.worker).where(step.c.status.in_(literals(UNSETTLED_STEPS)), step.c.worker.is_not(None))
        marked = sa.select(step.c.worker).where(step.c.attention.is_not(None), step.c.worker.is_not(None))
        named = [worker.c.id.in_(query) for query in (sa.select(last.c.id), open_ones, marked)]
        wanted = sa.or_(worker.c.alive == 1, *named)
        query = (
            sa.select(version.c.version_num, self._db.now.label("now_at"), *worker.c)
            .select_from(version.join(worker, wanted, isouter=True))
            .order_by(worker.c.beat_at)
        )
        rows = self._db.select(query)
        found = [each for _, each in readable(worker_row, [row for row in rows if row.id is not None])]
        living = [each for each in found if not each.has_ended]
        former = [each for each in reversed(found) if each.has_ended]
        return Around(str(rows[0].version_num) if rows else "", int(rows[0].now_at) if rows else 0, living, former)

    def named(self, namespace: str, id: str, *, limit: int = 10) -> tuple[list[WorkflowRow], list[WorkflowRow]]:
        """Returns the runs that an id names, and those whose id begins with it and a full stop. One read.

        The first are the latest run of that id, and the run with that reference in any namespace.
        """
        latest = (
            sa.select(workflow)
            .where(workflow.c.namespace == namespace, workflow.c.id == id)
            .order_by(workflow.c.run.desc())
            .limit(1)
            .subquery()
        )
        prefix, beyond = f"{id}.", f"{id}/"  # the character after the full stop
        begins = (
            sa.select(workflow)
            .where(workflow.c.namespace == namespace, workflow.c.id >= prefix, workflow.c.id < beyond)
            .order_by(workflow.c.id, workflow.c.run.desc())
            .limit(limit)
            .subquery()
        )
        query = sa.union_all(
            sa.select(sa.literal(0).label("rank"), *latest.c),
            sa.select(sa.literal(1).label("rank"), *workflow.c).where(workflow.c.ref == id),
            sa.select(sa.literal(2).label("rank"), *begins.c),
        )
        rows = sorted(self._db.select(query), key=lambda row: int(row.rank))
        own = [workflow_row(row) for row in rows if row.rank < 2]
        others = sorted((workflow_row(row) for row in rows if row.rank == 2), key=lambda run: run.created_at, reverse=True)
        return own, others

    def of_interest(self, namespace: str, now: int, *, asleep: bool, after: str = "", limit: int) -> list[str]:
        """Returns the references of the runs that a report reads, in order. One read.

        These are the unfinished runs of a namespace, and the runs of any namespace that have a step that began and has not
        ended, or anything marked for attention.

        Args:
            namespace: the namespace of the unfinished runs.
            now: database time.
            asleep: include runs that wait for a time in the future.
            after: the last reference of the page before.
            limit: the most references returned.
        """
        refs = self._refs_of_interest(namespace, now, asleep=asleep)
        page = sa.select(refs.c.ref).where(refs.c.ref > after).order_by(refs.c.ref).limit(limit)
        return [row.ref for row in self._db.select(page)]

    def _refs_of_interest(self, namespace: str, now: int, *, asleep: bool) -> Any:
        """Returns the query of these references, each once. It uses only the indexes over unfinished work."""
        unfinished = sa.select(workflow.c.ref).where(workflow.c.next_check_at >= 0, workflow.c.namespace == namespace)
        if not asleep:
            awake = workflow.c.status != WorkflowStatus.SUSPENDED.value
            # A sleeping run with another open step is always included: that step's message may be lost.
            sent = workflow.c.open_steps > 1
            unfinished = unfinished.where(sa.or_(awake, workflow.c.wake_at.is_(None), workflow.c.wake_at <= now, sent))
        unsettled = sa.select(step.c.ref).where(step.c.status.in_(literals(UNSETTLED_STEPS)))
        # In index order, so that MySQL reads the index, not the table.
        marked = [
            sa.select(mark.table.c.ref).where(mark.is_not(None)).order_by(mark).limit(MARKED).subquery()
            for mark in (step.c.attention, step.c.twice_at, workflow.c.attention)
        ]
        return sa.union(unfinished, unsettled, *(sa.select(each.c.ref) for each in marked)).subquery("interest")
