"""What reports read, in as few round trips as there are kinds of rows: over a slow line each costs more than its rows.

Every query here costs what is unfinished or marked for people, whatever the history holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..errors import UnreadableRow
from ..model import UNSETTLED_STEPS, StepRow, WorkerRow, WorkflowRow, WorkflowStatus
from .database import Database
from .reads import SLIM_RUN, SLIM_STEP, without
from .rows import readable, step_row, worker_row, workflow_row
from .schema import VERSION_TABLE, literals, step, worker, workflow

#: Sweepers that are no longer alive, of which the last beats are read: since when nobody sweeps.
FORMER_SWEEPERS = 50
#: Steps, and runs, marked for people that are read at the most.
MARKED = 100_000


@dataclass(frozen=True)
class Around:
    """What holds for every run.

    Attributes:
        revision: the revision of the journal's tables.
        now: the database's clock.
        living: every process that has neither stopped nor been declared dead, longest silent first.
        former: sweepers that have, the last ones first.
    """

    revision: str
    now: int
    living: list[WorkerRow]
    former: list[WorkerRow]


class Surveys:
    """Queries of reports."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def around(self) -> Around:
        """Returns what holds for every run. One read."""
        version = sa.table(VERSION_TABLE, sa.column("version_num"))
        sweepers = sa.select(worker.c.id).where(worker.c.role == "sweeper").order_by(worker.c.beat_at.desc())
        last = sweepers.limit(FORMER_SWEEPERS).subquery()
        wanted = sa.or_(worker.c.alive == 1, worker.c.id.in_(sa.select(last.c.id)))
        query = (
            sa.select(version.c.version_num, self._db.now.label("now_at"), *worker.c)
            .select_from(version.join(worker, wanted, isouter=True))
            .order_by(worker.c.beat_at)
        )
        rows = self._db.select(query)
        found = [each for _, each in readable(worker_row, [row for row in rows if row.id is not None])]
        living = [each for each in found if each.dead_at is None and each.stopped_at is None]
        former = [each for each in reversed(found) if each.dead_at is not None or each.stopped_at is not None]
        return Around(str(rows[0].version_num) if rows else "", int(rows[0].now_at) if rows else 0, living, former)

    def named(self, namespace: str, id: str, *, limit: int = 10) -> tuple[list[WorkflowRow], list[WorkflowRow]]:
        """Returns the runs that an id names by itself, and those whose id begins with it and a full stop. One read.

        The first are the latest run of that id, and the run of that reference, of whichever namespace.
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

    def of_interest(
        self,
        namespace: str,
        now: int,
        *,
        asleep: bool,
        after: str = "",
        limit: int,
        unreadable: list[UnreadableRow] | None = None,
    ) -> tuple[list[WorkflowRow], dict[str, list[StepRow]], str | None]:
        """Returns the runs of a namespace that a report looks at, by reference, with their steps. Two reads.

        Those are: unfinished ones; those with a step that began and has not ended; and those with anything that is marked
        for people.

        Args:
            namespace: whose runs.
            now: database time.
            asleep: those too that wait on purpose, for a time that has not come.
            after: the last reference of the page before.
            limit: how many runs at the most.
            unreadable: gets the rows that cannot be read here; of a run with such a step there are no steps.

        Returns:
            The runs, their steps by run, and after which reference the next page begins; None where there is none.
        """
        refs = self._refs_of_interest(namespace, now, asleep=asleep)
        page = (
            sa.select(workflow.c.ref)
            .join(refs, refs.c.ref == workflow.c.ref)
            .where(workflow.c.namespace == namespace, workflow.c.ref > after)
            .order_by(workflow.c.ref)
            .limit(limit)
        )
        here = page.subquery("page")
        runs_query = without(workflow, SLIM_RUN).join(here, here.c.ref == workflow.c.ref)
        rows = self._db.select(runs_query.order_by(workflow.c.ref))
        runs = [run for _, run in readable(workflow_row, rows, unreadable)]
        again = page.subquery("page")
        steps_query = without(step, SLIM_STEP).join(again, again.c.ref == step.c.ref)
        steps: dict[str, list[StepRow]] = {run.ref: [] for run in runs}
        if not rows:
            return [], {}, None
        missing: list[UnreadableRow] = []
        found = self._db.select(steps_query.order_by(step.c.ref, step.c.position, step.c.key))
        for row, each in readable(step_row, found, missing):
            steps.setdefault(row.ref, []).append(each)
        broken = {error.ref for error in missing}
        if unreadable is not None:
            unreadable += missing
        runs = [run for run in runs if run.ref not in broken]
        return runs, steps, rows[-1].ref if len(rows) >= limit else None

    def _refs_of_interest(self, namespace: str, now: int, *, asleep: bool) -> Any:
        """The references, each once, from the indexes over unfinished work alone."""
        unfinished = sa.select(workflow.c.ref).where(workflow.c.look_at >= 0, workflow.c.namespace == namespace)
        if not asleep:
            awake = workflow.c.status != WorkflowStatus.SUSPENDED.value
            # One that sleeps while a step that it sent is open is none of those: that one's message may be lost.
            sent = workflow.c.open_steps > 1
            unfinished = unfinished.where(sa.or_(awake, workflow.c.wake_at.is_(None), workflow.c.wake_at <= now, sent))
        unsettled = sa.select(step.c.ref).where(step.c.status.in_(literals(UNSETTLED_STEPS)))
        # In the order of their index, so that MySQL reads it rather than the table.
        marked = [
            sa.select(mark.table.c.ref).where(mark.is_not(None)).order_by(mark).limit(MARKED).subquery()
            for mark in (step.c.attention, step.c.twice_at, workflow.c.attention)
        ]
        return sa.union(unfinished, unsettled, *(sa.select(each.c.ref) for each in marked)).subquery("interest")
