"""The members of a canvas: they join, leave, end without a mark, or are lost before they begin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import (
    ALSO_AFTER,
    FORWARD_WORKFLOWS,
    Event,
    StepRow,
    StepStatus,
    Stored,
    WorkflowStatus,
    having,
    member_key,
)
from .database import Database
from .events import Events
from .rows import step_row, step_values
from .schema import step, workflow
from .transitions import Transitions, moving, this
from .turns import Turns, count_down
from .undo import UNSENT, Undo

#: Runs in one statement that searches the steps of all unfinished runs.
BATCH = 500
#: Times that the message of a process that died counts as not begun; after that, it counts as vanished.
MAX_UNBEGUN = 5


class Members:
    """Writes changes to the plan of a run, and what engines report of its members."""

    def __init__(
        self, db: Database, events: Events, transitions: Transitions, undo: Undo, turns: Turns, resend_after: int
    ) -> None:
        self._db = db
        self._events = events
        self._transitions = transitions
        self._undo = undo
        self._turns = turns
        self._resend_after = resend_after

    def join(
        self,
        row: StepRow,
        parents: Sequence[str],
        connection: Connection | None = None,
        *,
        beside: Sequence[StepRow] = (),
    ) -> StepStatus | None:
        """Adds a member to the plan of a canvas that has started, before its message is sent. One commit.

        Engines whose canvases grow job by job (RQ's `depends_on`) know a member only when it is published. A run that had
        succeeded is reopened by it; one that ended otherwise, or is being undone, accepts no more members.

        Args:
            row: the member, planned. This sets its position, and its key if it has none.
            parents: the keys of the members that it comes after.
            connection: the caller's transaction, if this is to be a part of it.
            beside: rows of other steps that it comes after, which do not complete the run. Missing ones are added.

        Returns:
            The member's status: planned; as found, if an earlier try committed it under its task id; cancelled if the run
            accepts no more. None if the run does not exist.

        Raises:
            UnserialisableValue: its arguments are too large for this database.
        """
        self._db.check_size(row.message)
        given_key = row.key  # a try that was rolled back has set a key in the row

        def write(conn: Connection) -> StepStatus | None:
            row.key = given_key
            # The parents' rows first: an end locks its step's row before its run's. Parents that end later find this member.
            open_parents = self._open_of(conn, row.ref, parents)
            run = conn.execute(
                sa.select(workflow.c.status, workflow.c.next_check_at).where(workflow.c.ref == row.ref).with_for_update()
            ).one_or_none()
            if run is None:
                return None
            joined = self._joined_before(conn, row)
            if joined is not None:
                return joined
            status = WorkflowStatus(run.status)
            over = status not in FORWARD_WORKFLOWS | {WorkflowStatus.SUCCEEDED}
            # The run is locked, so that no other member gets this position.
            last = sa.select(sa.func.coalesce(sa.func.max(step.c.position), -1)).where(step.c.ref == row.ref)
            row.position = int(conn.execute(last).scalar_one()) + 1
            row.key = row.key or member_key(row.position, row.name)
            row.completes_run, row.after = True, list(parents)
            row.pending = open_parents + len(beside) + len(row.options.get(ALSO_AFTER, ()))
            row.status = StepStatus.CANCELLED if over else StepStatus.PLANNED
            times = {"ended_at": self._db.now, "next_check_at": self._db.now + UNSENT} if over else {}
            conn.execute(sa.insert(step).values(**{**step_values(row), **times}, created_at=self._db.now))
            if not over and beside:
                there = set(conn.execute(sa.select(step.c.key).where(step.c.ref == row.ref)).scalars())
                for other in (other for other in beside if other.key not in there):
                    given = {**step_values(other), "position": row.position + 1}
                    conn.execute(sa.insert(step).values(**given, created_at=self._db.now))
            if not over:
                opened = self._opened_again(status)
                if status is WorkflowStatus.SUCCEEDED:
                    self._transitions.move_run(conn, row.ref, WorkflowStatus.RUNNING, opened)
                else:
                    conn.execute(sa.update(workflow).where(workflow.c.ref == row.ref).values(**opened))
            return row.status

        return write(connection) if connection is not None else self._db.transaction(write)

    @staticmethod
    def _open_of(conn: Connection, ref: str, keys: Sequence[str]) -> int:
        """Locks these members, and returns how many have not succeeded."""
        here = sa.and_(step.c.ref == ref, step.c.key.in_(list(keys)))
        found = conn.execute(sa.select(step.c.status).where(here).order_by(step.c.position).with_for_update()).scalars()
        return sum(status != StepStatus.SUCCEEDED.value for status in found)

    @staticmethod
    def _joined_before(conn: Connection, row: StepRow) -> StepStatus | None:
        """Returns the status of a member that an earlier try committed, and copies its key and position; else None."""
        same = step.c.key == row.key if row.task_id is None else step.c.task_id == row.task_id
        here = sa.and_(step.c.ref == row.ref, same)
        found = conn.execute(sa.select(step.c.key, step.c.position, step.c.status).where(here)).first()
        if found is None:
            return None
        row.key, row.position = found.key, found.position
        return StepStatus(found.status)

    def _opened_again(self, status: WorkflowStatus) -> dict[str, Any]:
        """Returns the columns of the run that a joining member changes."""
        values: dict[str, Any] = {"open_steps": workflow.c.open_steps + 1}
        if status is WorkflowStatus.SUCCEEDED:
            next_check_at = self._db.now + self._resend_after
            values |= {"ended_at": None, "next_check_at": next_check_at}
        return values

    def leave(self, ref: str, key: str) -> None:
        """Deletes a member whose message could not be sent, if it has not begun. One commit.

        A broker that raises may still have delivered the message. A worker then refuses and reports it, because the
        journal has no such member.

        Args:
            ref: the run.
            key: the member.
        """

        def write(conn: Connection) -> None:
            self._undo.lock(conn, ref)
            here = sa.and_(step.c.ref == ref, step.c.key == key, step.c.status == StepStatus.PLANNED.value)
            counts = conn.execute(sa.select(step.c.completes_run).where(here)).scalar_one_or_none()
            if conn.execute(sa.delete(step).where(here)).rowcount and counts:
                conn.execute(count_down(self._db, ref))

        self._db.transaction(write)

    def not_begun(self, task_id: str, why: str, *, ref: str | None = None, in_hand: bool = False) -> int:
        """Makes a planned step due whose message a worker lost before its body began. One commit.

        Args:
            task_id: the task. Only unfinished runs are searched for it.
            why: the reason, as people read it.
            ref: its run, if known: a task id may have been used again.
            in_hand: the caller has the message, so that it has not vanished.
        """

        def write(conn: Connection) -> int:
            planned = sa.and_(step.c.task_id == task_id, step.c.status == StepStatus.PLANNED.value)
            found = sa.select(step.c.ref, step.c.key).where(planned)
            searched = unfinished(conn) if ref is None else [[ref]]
            rows = [row for refs in searched for row in conn.execute(found.where(step.c.ref.in_(refs)))]
            now, changed = self._db.now, 0
            for row in rows:
                values: dict[str, Any] = {"next_check_at": now, "sent_at": None, "sends": 0}
                changed += self._transitions.move(
                    conn, row, StepStatus.WAITING, values, of=(StepStatus.PLANNED,), event=Event.SENT_AGAIN, why=why
                )
            if in_hand and ref is not None:  # the message of a waiting step has not vanished either
                waits = sa.and_(step.c.task_id == task_id, step.c.status == StepStatus.WAITING.value)
                conn.execute(sa.update(step).where(step.c.ref == ref, waits).values(sends=0))
            return changed

        return self._db.transaction(write)

    def died_unbegun(self, row: StepRow, why: str, *, who: str | None = None) -> bool:
        """Makes a step due whose process was seen to die before the body began. One commit.

        For a step that waits or is in doubt, the message counts as not sent. This applies `MAX_UNBEGUN` times: the messages
        of a step that kills its process each time then count as vanished.

        Args:
            row: the step as last read; not unmarked, because an unmarked body begins without a claim.
            why: the reason, as people read it.
            who: the process that saw it.

        Returns:
            True if anything was changed.
        """
        believed = sa.and_(step.c.attempt == row.attempt, step.c.kind.in_(having("marked")), step.c.losses < MAX_UNBEGUN)
        lost: dict[str, Any] = {"losses": step.c.losses + 1, "sent_at": None}
        waits = sa.and_(step.c.status == StepStatus.WAITING.value, step.c.next_check_at <= self._db.now)
        doubted = sa.and_(step.c.status == StepStatus.IN_DOUBT.value, step.c.sends > 0)
        unsent = sa.case((step.c.sends == 0, 0), else_=step.c.sends - 1)

        def write(conn: Connection) -> bool:
            log: dict[str, Any] = {"event": Event.SENT_AGAIN, "who": who, "why": why}
            due = lost | {"sends": 0, "next_check_at": self._db.now}
            if self._transitions.move(conn, row, StepStatus.WAITING, due, believed, of=(StepStatus.PLANNED,), **log):
                return True
            for stands, again in ((waits, {}), (doubted, {"next_check_at": self._db.now})):  # a waiting step is due already
                change = sa.update(step).where(this(row), believed, stands).values(**lost, sends=unsent, **again)
                if conn.execute(change).rowcount:
                    self._events.write(conn, ref=row.ref, key=row.key, kind=Event.SENT_AGAIN, who=who, why=why)
                    return True
            return False

        return self._db.transaction(write)

    @staticmethod
    def _counted_by_its_options(conn: Connection, ref: str, key: str) -> bool:
        """Returns whether a row says that the run ends with it; rows of revision 0001 say so in their options."""
        found = conn.execute(sa.select(step).where(step.c.ref == ref, step.c.key == key)).one()
        return step_row(found).completes_run

    def stop_after(self, ref: str, key: str) -> None:
        """Lets a step end its chain early: later planned steps are cancelled, and its own end ends the run. One commit."""

        def write(conn: Connection) -> None:
            conn.execute(sa.select(step.c.key).where(step.c.ref == ref).order_by(step.c.key).with_for_update()).all()
            conn.execute(sa.update(step).where(step.c.ref == ref, step.c.key == key).values(completes_run=True))
            left_out, over = (step.c.ref == ref, step.c.key != key), {"ended_at": self._db.now, "next_check_at": None}
            conn.execute(moving(StepStatus.CANCELLED, over, *left_out, of=(StepStatus.PLANNED,)))

        self._db.transaction(write)

    def record_unmarked(
        self,
        ref: str,
        key: str,
        outcome: Stored | None,
        *,
        failed: bytes | None,
        who: str | None = None,
        why: str | None = None,
    ) -> bool:
        """Records the end of an unmarked member. One commit; a second call changes nothing.

        Args:
            ref: the run.
            key: the member.
            outcome: the value that it returned, if it can be encoded.
            failed: the error that it raised instead.
            who: the person who reports it; None if the worker that ran it does.
            why: the person's reason.

        Returns:
            False if its end was recorded before.
        """

        def write(conn: Connection) -> bool:
            to = StepStatus.FAILED if failed is not None else StepStatus.SUCCEEDED
            values: dict[str, Any] = {"error": failed, "ended_at": self._db.now}
            values |= {"outcome": outcome.data, "outcome_codec": outcome.codec} if outcome else {}
            unmarked = (step.c.ref == ref, step.c.key == key, step.c.kind.in_(having("marked", False)))
            if not conn.execute(moving(to, values, *unmarked, of=(StepStatus.PLANNED,))).rowcount:
                return False
            if who is not None:
                said = "failed" if failed is not None else "happened"
                self._events.write(conn, Event.VERDICT, ref=ref, key=key, who=who, why=why, verdict=said)
            if failed is not None:
                self._undo.decide(conn, ref)
            else:
                self._turns.after_end(conn, ref, key, completes_run=self._counted_by_its_options(conn, ref, key))
            if who is not None:
                conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(attention=None))
            return True

        return self._db.transaction(write)


def unfinished(conn: Connection) -> Iterator[list[str]]:
    """Yields the references of all unfinished runs, in order, in batches.

    Batches are small enough for the index over steps. With a subquery, PostgreSQL may read the whole history's steps.
    """
    refs = sorted(row.ref for row in conn.execute(sa.select(workflow.c.ref).where(workflow.c.next_check_at.is_not(None))))
    for start in range(0, len(refs), BATCH):
        yield refs[start : start + BATCH]
