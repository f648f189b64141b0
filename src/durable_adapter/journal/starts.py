"""Starts of runs. A declared id starts once (P5). The plan and its rows are committed before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from ..model import (
    Start,
    StepRow,
    StepStatus,
    WorkflowRow,
)
from .database import Database
from .enforced import Enforced
from .rows import WORKFLOW_COLUMNS, inserting_step, step_values, workflow_values
from .schema import step, workflow
from .undo import Undo

_P = sa.bindparam


class Starts:
    """Writes new runs with their plans, and deletes those that could not be sent."""

    def __init__(self, db: Database, undo: Undo, enforced: Enforced, resend_after: int) -> None:
        self._db = db
        self._undo = undo
        self._enforced = enforced
        self._resend_after = resend_after
        self._insert_workflow = sa.insert(workflow).values(
            {
                **{name: _P(name) for name in WORKFLOW_COLUMNS},
                "created_at": db.now,
                "next_check_at": db.now + _P("resend_after", type_=sa.BigInteger),
            }
        )
        self._insert_step = inserting_step(db.now)
        self._insert_begun = self._insert_step.values({"begun_at": db.now, "first_begun_at": db.now})

    def start(self, run: WorkflowRow, steps: Sequence[StepRow], connection: Connection | None = None, *, delay: int = 0) -> Start:
        """Commits a new run with its planned rows. One commit; none inside the transaction of *connection*.

        Returns:
            `NEW` if it was committed now; `THERE` if the reference existed (also if an earlier try's answer was lost);
            `OTHER` if another run has the same id. In the last two cases nothing was written.

        Raises:
            UnserialisableValue: its arguments are too large for this database.
        """
        for data in (run.plan, *(s.message for s in steps)):
            self._db.check_size(data)

        def write(conn: Connection) -> None:
            db = self._db
            db.hot(self._insert_workflow).run(conn, {**workflow_values(run), "resend_after": self._resend_after + delay})
            for begun, statement in ((False, self._insert_step), (True, self._insert_begun)):
                rows = [step_values(s) for s in steps if (s.status is StepStatus.BEGUN) is begun]
                if rows:
                    db.hot(statement).run_many(conn, rows)
            self._enforced.note(conn, {s.name for s in steps if s.kind.marked})
            if any(s.status is StepStatus.IN_DOUBT for s in steps):
                # Adopted from a message that may have run before: its attempt is over, and it is due to be settled.
                here = sa.and_(step.c.ref == run.ref, step.c.status == StepStatus.IN_DOUBT.value)
                conn.execute(sa.update(step).where(here).values(doubt_at=db.now, over_at=db.now, next_check_at=db.now))

        if connection is not None:
            write(connection)
            return Start.NEW
        try:
            self._db.transaction(write)
        except IntegrityError:
            found = self._db.select(sa.select(workflow.c.ref).where(workflow.c.ref == run.ref))
            return Start.THERE if found else Start.OTHER
        return Start.NEW

    def forget(self, ref: str) -> None:
        """Deletes a run whose message could not be sent, if no step has begun. One commit.

        A broker that raises may still have delivered the message. A worker then refuses and reports it, because the
        journal has no such run.
        """

        def write(conn: Connection) -> None:
            found = sa.select(step.c.status).where(step.c.ref == ref).order_by(step.c.key).with_for_update()
            if any(status != StepStatus.PLANNED for status in conn.execute(found).scalars()):
                return
            conn.execute(sa.delete(step).where(step.c.ref == ref))
            conn.execute(sa.delete(workflow).where(workflow.c.ref == ref))

        self._db.transaction(write)
