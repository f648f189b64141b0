"""The order of a canvas's members: the end of one releases those that come after it, and may complete the run.

A member's `pending` counts the open members that it comes after, so that its claim reads no other row. If the count is too high
(a member joined while its parent ended), the claim takes nothing, and `runtime.order` decides whether it may begin anyway. It is
never too low: only the update that ended a step counts down.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import LEGAL_RUNS, OPEN_STEPS, StepRow, StepStatus, WorkflowStatus
from .database import Database
from .schema import literals, step, workflow

_P = sa.bindparam


def needle(key: str) -> str:
    """Returns a key as it is written in the column `after`."""
    return json.dumps(key, ensure_ascii=False)


class Turns:
    """Releases the members that come after one that has ended."""

    def __init__(self, db: Database) -> None:
        self._db = db
        find = sa.func.strpos if db.is_postgresql else sa.func.instr
        self._behind = sa.and_(
            step.c.ref == _P("b_ref"),
            step.c.pending > 0,
            find(step.c.after, _P("b_needle", type_=sa.Text)) > 0,
        )
        self._release = sa.update(step).where(self._behind).values(pending=step.c.pending - 1)
        completes = sa.exists(
            sa.select(1).where(step.c.ref == _P("b_ref"), step.c.key == _P("b_key"), _completes(step.c.completes_run))
        )
        self._complete = count_down(db, _P("b_ref")).where(completes)

    def in_one(self, ending: sa.Update) -> sa.Select[Any]:
        """Returns one statement for an end and all that it releases; it selects how many rows ended. PostgreSQL only."""
        ended = ending.returning(step.c.ref, step.c.completes_run).cte("ended")
        hit = sa.exists(sa.select(ended.c.ref))
        released = self._release.where(hit).returning(step.c.key).cte("released")
        complete = sa.exists(sa.select(ended.c.ref).where(_completes(ended.c.completes_run)))
        counted = count_down(self._db, _P("b_ref")).where(complete).returning(workflow.c.ref).cte("counted")
        return sa.select(sa.func.count()).select_from(ended).add_cte(released, counted)

    def after_end(self, conn: Connection, ref: str, key: str, *, completes_run: bool) -> None:
        """Releases what comes after a member that this transaction has just ended, and counts down the run.

        Args:
            conn: the transaction.
            ref: the run.
            key: the member.
            completes_run: the run ends with it; used where its row does not say so.
        """
        values = {"b_ref": ref, "b_key": key, "b_needle": needle(key), "b_last": completes_run}
        self._db.hot(self._release).run(conn, values)
        self._db.hot(self._complete).run(conn, values)

    def release(self, conn: Connection, ref: str, key: str) -> None:
        """Releases what comes after a member that this transaction has just ended."""
        self._db.hot(self._release).run(conn, {"b_ref": ref, "b_needle": needle(key)})


def count_end(db: Database, conn: Connection, ref: str, key: str) -> bool:
    """Counts down the run after the end of a step, and makes a function that waited for the step due.

    Returns:
        True if a function waited for it.
    """
    conn.execute(count_down(db, ref))
    waits = sa.or_(
        workflow.c.waiting_for == f"step:{key}",
        sa.and_(workflow.c.waiting_for == "steps", workflow.c.open_steps <= 1),
    )
    return bool(
        conn.execute(
            sa.update(workflow)
            .where(workflow.c.ref == ref, workflow.c.status == WorkflowStatus.SUSPENDED.value, waits)
            .values(wake_at=db.now, next_check_at=db.now)
        ).rowcount
    )


def count_down(db: Database, ref: Any) -> sa.Update:
    """Returns the statement that counts down a run's open steps, and ends the run at zero.

    MySQL assigns from left to right, so the columns that the conditions read are assigned last.
    """
    finishes = sa.and_(
        workflow.c.open_steps == 1,
        workflow.c.status.in_(literals(LEGAL_RUNS[WorkflowStatus.SUCCEEDED])),
    )
    return (
        sa.update(workflow)
        .where(workflow.c.ref == ref)
        .ordered_values(
            (workflow.c.ended_at, sa.case((finishes, db.now), else_=workflow.c.ended_at)),
            (workflow.c.next_check_at, sa.case((finishes, sa.null()), else_=workflow.c.next_check_at)),
            (workflow.c.wake_at, sa.case((finishes, sa.null()), else_=workflow.c.wake_at)),
            (workflow.c.waiting_for, sa.case((finishes, sa.null()), else_=workflow.c.waiting_for)),
            (workflow.c.status, sa.case((finishes, WorkflowStatus.SUCCEEDED.value), else_=workflow.c.status)),
            (workflow.c.open_steps, workflow.c.open_steps - 1),
        )
    )


def _completes(column: Any) -> Any:
    """Returns the condition that the run's counter counts a step. For a row of revision 0001 the message says so."""
    return sa.or_(column, _P("b_last", type_=sa.Boolean))


def is_counted(row: StepRow) -> bool:
    """Returns whether the run's counter still counts a step.

    The failure of a dispatched step is counted down, because its function handles it. Any other failure ends the run.
    """
    if not row.completes_run:
        return False
    return row.status in OPEN_STEPS or (row.status is StepStatus.FAILED and not row.kind.awaited)
