"""The members of a canvas, as engines see them: joining, leaving, ending without a mark, lost before they began."""

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

#: How many runs one statement is about, where it is about the steps of all that are unfinished.
BATCH = 500
#: How often a process that died with a step's message is believed not to have begun it, before such messages count as vanished.
MAX_UNBEGUN = 5


class Members:
    """Changes to the plan of a run, and what engines say of its members."""

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

        Engines whose canvases grow job by job (RQ's `depends_on`) learn of a member only when it is published. A run
        that had succeeded goes on with it; one that is over in another way, or is being undone, takes no more.

        Args:
            row: the member, planned; its position is given here, and where it has no key, that follows from its position.
            parents: the keys of the members that it comes after.
            connection: the caller's transaction, if it is to be a part of that.
            beside: rows of what else it comes after, which do not count: those that are not there yet are added.

        Returns:
            How it stands now: planned, or as it was found, if an earlier try committed it under its task id; cancelled where the
            run takes no more; None where the run is not there.

        Raises:
            UnserialisableValue: its arguments are too large for this database.
        """
        self._db.check_size(row.message)
        given_key = row.key  # a try that is rolled back leaves its own in the row

        def write(conn: Connection) -> StepStatus | None:
            row.key = given_key
            # The parents' rows first: an end locks its step's row before its run's. Those that end later find this member.
            open_parents = self._open_of(conn, row.ref, parents)
            run = conn.execute(
                sa.select(workflow.c.status, workflow.c.look_at).where(workflow.c.ref == row.ref).with_for_update()
            ).one_or_none()
            if run is None:
                return None
            joined = self._joined_before(conn, row)
            if joined is not None:
                return joined
            status = WorkflowStatus(run.status)
            over = status not in FORWARD_WORKFLOWS | {WorkflowStatus.SUCCEEDED}
            # The run's lock is held, so that nobody else gives this position away.
            last = sa.select(sa.func.coalesce(sa.func.max(step.c.position), -1)).where(step.c.ref == row.ref)
            row.position = int(conn.execute(last).scalar_one()) + 1
            row.key = row.key or member_key(row.position, row.name)
            row.completes_run, row.after = True, list(parents)
            row.pending = open_parents + len(beside) + len(row.options.get(ALSO_AFTER, ()))
            row.status = StepStatus.CANCELLED if over else StepStatus.PLANNED
            times = {"ended_at": self._db.now, "look_at": self._db.now + UNSENT} if over else {}
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
        """How many of these members have not succeeded. Locks their rows."""
        here = sa.and_(step.c.ref == ref, step.c.key.in_(list(keys)))
        found = conn.execute(sa.select(step.c.status).where(here).order_by(step.c.position).with_for_update()).scalars()
        return sum(status != StepStatus.SUCCEEDED.value for status in found)

    @staticmethod
    def _joined_before(conn: Connection, row: StepRow) -> StepStatus | None:
        """How a member stands that an earlier try committed; takes over its key and position."""
        same = step.c.key == row.key if row.task_id is None else step.c.task_id == row.task_id
        here = sa.and_(step.c.ref == row.ref, same)
        found = conn.execute(sa.select(step.c.key, step.c.position, step.c.status).where(here)).first()
        if found is None:
            return None
        row.key, row.position = found.key, found.position
        return StepStatus(found.status)

    def _opened_again(self, status: WorkflowStatus) -> dict[str, Any]:
        """What a member that joins changes of its run."""
        values: dict[str, Any] = {"open_steps": workflow.c.open_steps + 1}
        if status is WorkflowStatus.SUCCEEDED:
            look_at = self._db.now + self._resend_after
            values |= {"ended_at": None, "look_at": look_at}
        return values

    def leave(self, ref: str, key: str) -> None:
        """Takes back a member whose message could not be sent, if it has not begun. One commit.

        A broker that raises may have delivered the message all the same: it is refused where it arrives, because the journal
        has no such member, and reported.

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
        """A worker with the plugin lost a message before its body began: what is still planned becomes due. One commit.

        Only unfinished runs are searched for the task.

        Args:
            task_id: its task, for which only unfinished runs are searched.
            why: what is known, in words.
            ref: its run, where that is known: an id may have been used again.
            in_hand: whoever says so has the message, so that it has not vanished.
        """

        def write(conn: Connection) -> int:
            planned = sa.and_(step.c.task_id == task_id, step.c.status == StepStatus.PLANNED.value)
            found = sa.select(step.c.ref, step.c.key).where(planned)
            searched = unfinished(conn) if ref is None else [[ref]]
            rows = [row for refs in searched for row in conn.execute(found.where(step.c.ref.in_(refs)))]
            now, changed = self._db.now, 0
            for row in rows:
                values: dict[str, Any] = {"look_at": now, "sent_at": None, "sends": 0}
                changed += self._transitions.move(
                    conn, row, StepStatus.WAITING, values, of=(StepStatus.PLANNED,), event=Event.SENT_AGAIN, why=why
                )
            if in_hand and ref is not None:  # the message of one that waits for such a worker has not vanished either
                waits = sa.and_(step.c.task_id == task_id, step.c.status == StepStatus.WAITING.value)
                conn.execute(sa.update(step).where(step.c.ref == ref, waits).values(sends=0))
            return changed

        return self._db.transaction(write)

    def died_unbegun(self, row: StepRow, why: str, *, who: str | None = None) -> bool:
        """The process that had a step's message was seen to die before its body began. One commit.

        The step becomes due. Of one that waits or is in doubt, that message counts as not sent: nobody ran it unrecorded.
        That is believed `MAX_UNBEGUN` times; a step that kills its process each time then counts as one whose messages vanish.

        Args:
            row: the step as last read, of any kind but unmarked: the body of that begins without a claim.
            why: what is known, in words.
            who: the process that saw it.

        Returns:
            Whether anything was changed.
        """
        believed = sa.and_(step.c.attempt == row.attempt, step.c.kind.in_(having("marked")), step.c.losses < MAX_UNBEGUN)
        lost: dict[str, Any] = {"losses": step.c.losses + 1, "sent_at": None}
        waits = sa.and_(step.c.status == StepStatus.WAITING.value, step.c.look_at <= self._db.now)
        doubted = sa.and_(step.c.status == StepStatus.IN_DOUBT.value, step.c.sends > 0)
        unsent = sa.case((step.c.sends == 0, 0), else_=step.c.sends - 1)

        def write(conn: Connection) -> bool:
            told: dict[str, Any] = {"event": Event.SENT_AGAIN, "who": who, "why": why}
            due = lost | {"sends": 0, "look_at": self._db.now}
            if self._transitions.move(conn, row, StepStatus.WAITING, due, believed, of=(StepStatus.PLANNED,), **told):
                return True
            for stands, again in ((waits, {}), (doubted, {"look_at": self._db.now})):  # one that waits is due already
                change = sa.update(step).where(this(row), believed, stands).values(**lost, sends=unsent, **again)
                if conn.execute(change).rowcount:
                    self._events.write(conn, ref=row.ref, key=row.key, kind=Event.SENT_AGAIN, who=who, why=why)
                    return True
            return False

        return self._db.transaction(write)

    @staticmethod
    def _counted_by_its_options(conn: Connection, ref: str, key: str) -> bool:
        """Whether a row of revision 0001 says that the run ends with it."""
        found = conn.execute(sa.select(step).where(step.c.ref == ref, step.c.key == key)).one()
        return step_row(found).completes_run

    def stop_after(self, ref: str, key: str) -> None:
        """A step ends its chain early: what was planned behind it is cancelled, and its own end ends the run. One commit."""

        def write(conn: Connection) -> None:
            conn.execute(sa.select(step.c.key).where(step.c.ref == ref).order_by(step.c.key).with_for_update()).all()
            conn.execute(sa.update(step).where(step.c.ref == ref, step.c.key == key).values(completes_run=True))
            left_out, over = (step.c.ref == ref, step.c.key != key), {"ended_at": self._db.now, "look_at": None}
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
        """Commits how an unmarked member ended. One commit; a second call changes nothing.

        Args:
            ref: the run.
            key: the member.
            outcome: what it returned, as far as that can be written down.
            failed: what it raised instead.
            who: the person who says so, where it is not the worker that ran it.
            why: and how they know.

        Returns:
            False where its end was recorded before.
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
    """The references of all unfinished runs, in order, so few at a time that their steps are found by their key.

    As a subquery, they are so many that PostgreSQL would rather read the steps of the whole history.
    """
    refs = sorted(row.ref for row in conn.execute(sa.select(workflow.c.ref).where(workflow.c.look_at.is_not(None))))
    for start in range(0, len(refs), BATCH):
        yield refs[start : start + BATCH]
