"""Deletes old ended runs, in small batches, so that the journal does not grow without limit.

A run under an id that the user declared leaves a tombstone (id, status, fingerprint): the same id still starts once (P5).
A run that needs a person's attention is never deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import NEVER_DUE, UNSETTLED_STEPS, WorkflowStatus
from .database import Database
from .schema import event, literals, step, workflow


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The result of one batch."""

    runs: int = 0
    tombstones: int = 0

    @property
    def total(self) -> int:
        """The number of runs in the batch."""
        return self.runs + self.tombstones


class Retention:
    """The only deletes of runs, apart from starts that could not be sent."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def due(self, before: int, *, limit: int = 500) -> list[str]:
        """Returns the references of runs that ended before a time and need no attention, oldest end first."""
        rows = self._db.select(
            sa.select(workflow.c.ref)
            .where(*_over(before), ~sa.exists(sa.select(1).where(step.c.ref == workflow.c.ref, _shown())))
            # The first column is always NULL here, but lets PostgreSQL read the index in order instead of sorting.
            .order_by(workflow.c.pruned_at, workflow.c.ended_at)
            .limit(limit)
        )
        return [row.ref for row in rows]

    def forget(self, before: int, *, limit: int = 500) -> Forgotten:
        """Deletes one batch of runs that ended before a time. One commit; safe to run concurrently."""
        refs = self.due(before, limit=limit)
        if not refs:
            return Forgotten()

        def write(conn: Connection) -> Forgotten:
            # Lock, then read again: a late success may have marked a step for attention meanwhile.
            steps = sa.select(step.c.ref, _shown().label("shown")).where(step.c.ref.in_(refs))
            locked = conn.execute(steps.order_by(step.c.ref, step.c.key).with_for_update()).all()
            shown = {row.ref for row in locked if row.shown}
            rows = conn.execute(
                sa.select(workflow.c.ref, workflow.c.declared)
                .where(workflow.c.ref.in_(sorted(set(refs) - shown)), *_over(before))
                .order_by(workflow.c.ref)
                .with_for_update(skip_locked=True)
            ).all()
            declared = [row.ref for row in rows if row.declared]
            others = [row.ref for row in rows if not row.declared]
            taken = declared + others
            if not taken:
                return Forgotten()
            conn.execute(sa.delete(step).where(step.c.ref.in_(taken)))
            conn.execute(sa.delete(event).where(event.c.ref.in_(taken)))
            if others:
                conn.execute(sa.delete(workflow).where(workflow.c.ref.in_(others)))
            if declared:
                conn.execute(
                    sa.update(workflow)
                    .where(workflow.c.ref.in_(declared))
                    .values(
                        pruned_at=self._db.now,
                        plan=None,
                        arguments=None,
                        arguments_codec=None,
                        outcome=None,
                        outcome_codec=None,
                        error=None,
                        attributes=None,
                    )
                )
            return Forgotten(len(others), len(declared))

        return self._db.transaction(write)


def _over(before: int) -> list[Any]:
    """Returns the conditions that a run ended before a time, is not due, and is not started again by its parent.

    A start inside a durable call is repeated each time that the call runs, and finds the run that it started. That run is
    therefore kept until its parent has succeeded or is deleted.
    """
    parent = workflow.alias("parent")
    may_start_it_again = sa.exists(
        sa.select(1).where(
            parent.c.ref == workflow.c.parent,
            parent.c.pruned_at.is_(None),
            parent.c.status != WorkflowStatus.SUCCEEDED.value,
        )
    )
    return [
        workflow.c.pruned_at.is_(None),
        workflow.c.ended_at < before,
        workflow.c.attention.is_(None),
        workflow.c.next_check_at.is_(None),
        ~may_start_it_again,
    ]


def _shown() -> Any:
    """Returns the condition that a step is unsettled, due, or marked for attention. Cancelled and undone steps are never due."""
    marked = sa.or_(step.c.attention.is_not(None), step.c.twice_at.is_not(None))
    due = sa.and_(step.c.next_check_at.is_not(None), step.c.status.not_in(literals(NEVER_DUE)))
    return sa.or_(marked, step.c.status.in_(literals(UNSETTLED_STEPS)), due)
