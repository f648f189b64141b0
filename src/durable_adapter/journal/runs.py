"""Starting a run, and what concerns a run as a whole: suspending, waking, watching, cancelling, reopening.

Keeps P5: a declared id starts once. The plan and its rows are committed before anything is sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from ..errors import UnreadableRow
from ..model import (
    ALSO_AFTER,
    FORWARD_WORKFLOWS,
    LEGAL_RUNS,
    OPEN_STEPS,
    SLEEPS,
    Alert,
    Attention,
    Cause,
    Effect,
    Event,
    Shape,
    Start,
    StepRow,
    StepStatus,
    Stored,
    WorkflowRow,
    WorkflowStatus,
    forward,
    having,
    member_key,
)
from . import troubles
from .database import Database
from .ends import new_key
from .enforced import Enforced
from .engine_ends import is_ended_by_engine, is_left_behind
from .events import Events
from .rows import STEP_COLUMNS, WORKFLOW_COLUMNS, readable, step_row, step_values, workflow_row, workflow_values
from .schema import event, step, workflow
from .transitions import Transitions, moving, this
from .turns import Turns, count_down
from .undo import UNSENT, Undo, happened_after_all, undecided

_P = sa.bindparam
#: How many runs one statement is about, where it is about the steps of all that are unfinished.
BATCH = 500
#: How often a process that died with a step's message is believed not to have begun it, before such messages count as vanished.
MAX_UNBEGUN = 5

#: How often the wait for the next look at a run is doubled at the most: its other steps may need one meanwhile.
RARELY = 3

#: From which statuses a run is reopened by a person: to go forward, or (True) to go on undoing.
_REOPENED_FROM = {
    False: FORWARD_WORKFLOWS | {WorkflowStatus.FAILING, WorkflowStatus.FAILED, WorkflowStatus.CANCELLED},
    True: frozenset({WorkflowStatus.ROLLING_BACK, WorkflowStatus.COMPENSATION_FAILED}),
}


class Runs:
    """The workflow table's writes."""

    def __init__(
        self,
        db: Database,
        events: Events,
        transitions: Transitions,
        undo: Undo,
        resend_after: int,
        turns: Turns,
        enforced: Enforced,
    ) -> None:
        self._db = db
        self._transitions = transitions
        self._turns = turns
        self._events = events
        self._undo = undo
        self._enforced = enforced
        #: Microseconds after which a run in which nothing was seen to begin is looked at.
        self.resend_after = resend_after
        self._insert_workflow = sa.insert(workflow).values(
            {
                **{name: _P(name) for name in WORKFLOW_COLUMNS},
                "created_at": db.now,
                "look_at": db.now + _P("resend_after", type_=sa.BigInteger),
            }
        )
        self._insert_step = sa.insert(step).values({**{name: _P(name) for name in STEP_COLUMNS}, "created_at": db.now})
        self._insert_begun = sa.insert(step).values(
            {
                **{name: _P(name) for name in STEP_COLUMNS},
                "created_at": db.now,
                "begun_at": db.now,
                "first_begun_at": db.now,
            }
        )

    def start(self, run: WorkflowRow, steps: Sequence[StepRow], connection: Connection | None = None, *, delay: int = 0) -> Start:
        """Commits a new run with its planned rows. One commit; inside *connection*'s transaction none.

        Returns:
            Whether it was committed now, was there before under the same reference (also if an earlier try committed it
            and its answer was lost), or another run has the same id; in the last two cases nothing was written.

        Raises:
            UnserialisableValue: its arguments are too large for this database.
        """

        for data in (run.plan, *(s.message for s in steps)):
            self._db.check_size(data)

        def write(conn: Connection) -> None:
            db = self._db
            db.hot(self._insert_workflow).run(conn, {**workflow_values(run), "resend_after": self.resend_after + delay})
            for begun, statement in ((False, self._insert_step), (True, self._insert_begun)):
                rows = [step_values(s) for s in steps if (s.status is StepStatus.BEGUN) is begun]
                if rows:
                    db.hot(statement).run_many(conn, rows)
            self._enforced.note(conn, {s.name for s in steps if s.kind.marked})
            if any(s.status is StepStatus.IN_DOUBT for s in steps):
                # Adopted from a message that may have been run before: over, and due to be settled.
                here = sa.and_(step.c.ref == run.ref, step.c.status == StepStatus.IN_DOUBT.value)
                conn.execute(sa.update(step).where(here).values(doubt_at=db.now, over_at=db.now, look_at=db.now))

        if connection is not None:
            write(connection)
            return Start.NEW
        try:
            self._db.transaction(write)
        except IntegrityError:
            found = self._db.select(sa.select(workflow.c.ref).where(workflow.c.ref == run.ref))
            return Start.THERE if found else Start.OTHER
        return Start.NEW

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
            look_at = self._db.now + self.resend_after
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

    def forget(self, ref: str) -> None:
        """Takes back a start whose message could not be sent, if nothing of it has begun. One commit.

        A broker that raises may have delivered the message all the same: it is refused where it arrives, because the journal
        has no such run, and reported.
        """

        def write(conn: Connection) -> None:
            found = sa.select(step.c.status).where(step.c.ref == ref).order_by(step.c.key).with_for_update()
            if any(status != StepStatus.PLANNED for status in conn.execute(found).scalars()):
                return
            conn.execute(sa.delete(step).where(step.c.ref == ref))
            conn.execute(sa.delete(workflow).where(workflow.c.ref == ref))

        self._db.transaction(write)

    def suspend(
        self,
        ref: str,
        *,
        waiting_for: str,
        wake_at: int | None,
        unless_ended: str | None = None,
        sent: Sequence[str] = (),
    ) -> bool:
        """Commits that a function waits. One commit; locks the run, then looks afresh.

        Args:
            ref: the run.
            waiting_for: what it waits for, as `explain` shows it; `step:<key>` or `steps` are woken by those ends,
                `sleep:<key>` by that timer.
            wake_at: database time at which it is woken at the latest; None for no such time.
            unless_ended: a step's key, or `*` for every dispatched step: do not suspend if that has ended meanwhile.
            sent: the keys of steps whose messages this wake sent.

        Returns:
            False when what is waited for is there already, so that the function should go on.
        """

        def write(conn: Connection) -> bool:
            self._note_sent(conn, ref, sent)
            run = conn.execute(
                sa.select(workflow.c.status, workflow.c.open_steps).where(workflow.c.ref == ref).with_for_update()
            ).one_or_none()
            if run is None or WorkflowStatus(run.status) not in (WorkflowStatus.RUNNING, WorkflowStatus.SUSPENDED):
                return True
            if unless_ended == "*" and run.open_steps <= 1:
                return False
            if unless_ended not in (None, "*"):
                status = conn.execute(
                    sa.select(step.c.status).where(step.c.ref == ref, step.c.key == unless_ended)
                ).scalar_one_or_none()
                if status is not None and StepStatus(status) not in OPEN_STEPS:
                    return False
            self._suspend(conn, ref, waiting_for, wake_at, alone=run.open_steps <= 1)
            return True

        return self._db.transaction(write)

    def _note_sent(self, conn: Connection, ref: str, keys: Sequence[str]) -> None:
        """Records that messages of planned steps were sent, in the transaction of what the function waits for."""
        if not keys:
            return
        unsent = sa.and_(step.c.status == StepStatus.PLANNED.value, step.c.sent_at.is_(None))
        here = sa.and_(step.c.ref == ref, step.c.key.in_(list(keys)), unsent)
        conn.execute(sa.select(step.c.key).where(here).order_by(step.c.key).with_for_update()).all()
        conn.execute(sa.update(step).where(here).values(sent_at=self._db.now))

    def sleep(self, timer: StepRow, *, sent: Sequence[str] = ()) -> bool:
        """Commits a function's timer, and with it that the function waits for nothing else. One commit.

        It is the timer's own look that wakes the function. The run is looked at once that must have happened, or as
        usual where a step that it sent may be lost meanwhile.

        Args:
            timer: the sleep's row, waiting until its `look_at`.
            sent: the keys of steps whose messages this wake sent.

        Returns:
            False, with nothing changed, where the sleep has a row already or the run no longer goes forward.
        """

        def write(conn: Connection) -> bool:
            self._note_sent(conn, timer.ref, sent)
            forward = workflow.c.status.in_([status.value for status in FORWARD_WORKFLOWS])
            open_steps = conn.execute(
                sa.select(workflow.c.open_steps).where(workflow.c.ref == timer.ref, forward).with_for_update()
            ).scalar_one_or_none()
            if open_steps is None:
                return False
            self._db.hot(self._insert_step).run(conn, step_values(timer))
            self._suspend(conn, timer.ref, f"{SLEEPS}{timer.key}", timer.look_at, alone=open_steps <= 1)
            return True

        try:
            return self._db.transaction(write)
        except IntegrityError:
            return False

    def _suspend(self, conn: Connection, ref: str, waiting_for: str, wake_at: int | None, *, alone: bool) -> None:
        """Suspends a run; one with a timer of its own is looked at after that, if there is nothing else to look after."""
        look_at: Any = self._db.now + self.resend_after
        if wake_at is not None and waiting_for.startswith(SLEEPS):
            look_at = wake_at + self.resend_after if alone else look_at
        elif wake_at is not None:
            look_at = wake_at
        values = {"waiting_for": waiting_for, "wake_at": wake_at, "look_at": look_at}
        self._transitions.move_run(conn, ref, WorkflowStatus.SUSPENDED, values)

    def woken(self, ref: str, key: str) -> None:
        """Commits that a function's own retry has begun, so that nothing sends it a second time. One commit.

        What a suspended run waits for, and that it is due, stays as it is: a wake that dies before it came any further would
        take that with it. The next suspension replaces it, and the run's end clears it.

        Args:
            ref: the run.
            key: the function's own step.
        """
        here = sa.and_(step.c.ref == ref, step.c.key == key, step.c.status == StepStatus.WAITING.value)
        self._db.transaction(lambda conn: conn.execute(sa.update(step).where(here).values(look_at=None)))

    def take_due(
        self,
        now: int,
        limit: int,
        engines: Collection[str] | None = None,
        *,
        namespace: str | None = None,
        leave: Collection[str] = (),
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[tuple[WorkflowRow, list[StepRow]]]:
        """Runs whose next look is due, each pushed on to its following look before it is returned. One commit.

        The wait for the following look doubles with each resend that did not help, up to a bound. It is as short as ever
        again once anything of the run has begun or ended since.

        Args:
            now: the time.
            limit: how many at the most.
            engines: of these engines only, because whoever asks can send no other's messages; None takes any.
            namespace: of this one only: another's messages go elsewhere. None takes any.
            leave: references of runs that are left alone.
            unreadable: is given the rows that cannot be read here; their runs are left as they are.
        """
        due = workflow.c.look_at <= now
        if leave:
            due = sa.and_(due, workflow.c.ref.not_in(sorted(leave)))
        if namespace is not None:
            due = sa.and_(due, workflow.c.namespace == namespace)
        if engines is not None:
            due = sa.and_(due, workflow.c.engine.in_(sorted(engines)))

        def write(conn: Connection) -> list[tuple[WorkflowRow, list[StepRow]]]:
            rows = conn.execute(
                sa.select(workflow).where(due).order_by(workflow.c.look_at).limit(limit).with_for_update(skip_locked=True)
            ).all()
            left = unreadable if unreadable is not None else []
            found: dict[str, tuple[WorkflowRow, list[StepRow]]] = {
                row.ref: (run, []) for row, run in readable(workflow_row, rows, left)
            }
            if found:
                steps = conn.execute(sa.select(step).where(step.c.ref.in_(list(found))).order_by(step.c.position))
                for row, its_step in readable(step_row, steps, left):
                    found[row.ref][1].append(its_step)
            for error in left:
                found.pop(error.ref, None)
            sent_again = self._sent_again(conn, [ref for ref, (run, _) in found.items() if run.resends])
            for run, its_steps in found.values():
                at = sent_again.get(run.ref)
                if at is None or any(max(s.begun_at or 0, s.ended_at or 0) > at for s in its_steps):
                    run.resends = 0
            for resends in sorted({run.resends for run, _ in found.values()}):
                look_at = now + self.resend_after * 2 ** min(resends, RARELY)
                here = workflow.c.ref.in_(sorted(ref for ref, (run, _) in found.items() if run.resends == resends))
                conn.execute(sa.update(workflow).where(here).values(look_at=look_at, resends=resends))
            return list(found.values())

        any_due = self._db.select(sa.select(workflow.c.ref).where(due).limit(1))
        return self._db.transaction(write) if any_due else []

    @staticmethod
    def _sent_again(conn: Connection, refs: Sequence[str]) -> dict[str, int]:
        """When a message of each of these runs was sent again for the last time."""
        if not refs:
            return {}
        sent = sa.and_(event.c.ref.in_(list(refs)), event.c.kind == Event.SENT_AGAIN.value)
        rows = conn.execute(sa.select(event.c.ref, sa.func.max(event.c.at).label("at")).where(sent).group_by(event.c.ref))
        return {row.ref: int(row.at) for row in rows}

    def count_resend(self, ref: str, key: str, why: str, *, lost: str | None = None) -> None:
        """Commits that a message is about to be sent again. One commit, before the publication.

        Args:
            ref: the run.
            key: the step whose message is sent.
            why: in words, for people.
            lost: the step whose message was lost: the one that is sent, or one that follows it. None where no message was,
                and a person sends it.
        """
        self.count_resends([(ref, key, lost)], why)

    def count_resends(self, resends: Sequence[tuple[str, str, str | None]], why: str) -> None:
        """Commits that several messages are about to be sent again: see `count_resend`. One commit, and few statements."""

        def write(conn: Connection) -> None:
            lost = sorted({(ref, key) for ref, _, key in resends if key is not None})
            if lost:
                here = sa.tuple_(step.c.ref, step.c.key).in_(lost)
                conn.execute(sa.update(step).where(here).values(sends=step.c.sends + 1, sent_at=self._db.now))
            refs = sorted(Counter(ref for ref, _, _ in resends).items())
            for times in sorted({times for _, times in refs}):
                of = workflow.c.ref.in_([ref for ref, its in refs if its == times])
                conn.execute(sa.update(workflow).where(of).values(resends=workflow.c.resends + times))
            self._events.write_all(conn, Event.SENT_AGAIN, [(ref, key) for ref, key, _ in resends], why=why)

        self._db.transaction(write)

    def look_again_at(self, looks: Mapping[str, int]) -> None:
        """Sets the next looks of several unfinished runs, by their references. One commit, in one statement."""
        at = sa.case(dict(looks), value=workflow.c.ref)
        here = sa.and_(workflow.c.ref.in_(sorted(looks)), workflow.c.look_at.is_not(None))
        self._db.transaction(lambda conn: conn.execute(sa.update(workflow).where(here).values(look_at=at)))

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

    def look_again(self, ref: str, at: int) -> None:
        """Sets the next look of an unfinished run. One commit."""
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(workflow).where(workflow.c.ref == ref, workflow.c.look_at.is_not(None)).values(look_at=at)
            )
        )

    def look_now(self, ref: str, *, who: str, why: str) -> bool:
        """Makes an unfinished run due for the next sweep, by a person's order, and with it what of it waits to be tried.

        One commit. Whether anything is then sent again is the sweeper's to decide.

        Returns:
            False where the run has ended.
        """

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            if run is None or run.look_at is None:
                return False
            waits = sa.and_(step.c.ref == ref, step.c.status == StepStatus.WAITING.value, step.c.kind.in_(having("timed", False)))
            due = sa.and_(waits, step.c.look_at <= self._db.now)
            conn.execute(sa.update(step).where(due).values(sent_at=None, sends=0))
            conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(look_at=self._db.now))
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="look now")
            return True

        return self._db.transaction(write)

    def mark(self, ref: str, attention: str | None) -> None:
        """Puts a run in front of people, or takes it away again. One commit."""
        self.mark_all([ref], attention)

    def mark_all(self, refs: Collection[str], attention: str | None) -> None:
        """Puts several runs in front of people, or takes them away again. One commit; those that are there already stay."""
        other = workflow.c.attention.is_not(None) if attention is None else workflow.c.attention.is_distinct_from(attention)

        def write(conn: Connection) -> None:
            changing = sa.select(workflow.c.ref).where(workflow.c.ref.in_(sorted(refs)), other).order_by(workflow.c.ref)
            found = [row.ref for row in conn.execute(changing.with_for_update()).all()]
            if not found:
                return
            conn.execute(sa.update(workflow).where(workflow.c.ref.in_(found)).values(attention=attention))
            for ref in found if attention == Attention.UNMARKED else ():
                troubles.add(conn, Alert.STOPPED_AT_UNMARKED, ref, None, "it stands at a task that is not marked durable")

        self._db.transaction(write)

    def cancel(self, ref: str, *, who: str, why: str) -> list[str]:
        """Cancels what has not begun, and with it the run. One commit. A rollback that was decided goes on.

        Returns:
            The keys of steps that had begun, or whose effect may have happened: a person must still settle those.
        """

        def write(conn: Connection) -> list[str]:
            if self._undo.lock_run(conn, ref) is None:
                return []
            self._undo.cancel_planned(conn, ref)
            self._transitions.move_run(conn, ref, WorkflowStatus.CANCELLED, {}, of=LEGAL_RUNS[WorkflowStatus.CANCELLED])
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="cancel")
            return [s.key for s in self._undo.steps(conn, ref) if undecided(s)]

        return self._db.transaction(write)

    def reopen(self, ref: str, keys: Sequence[str], *, who: str, why: str, now: int) -> bool:
        """Makes failed steps due again and what was cancelled behind them planned, by a person's order. One commit.

        Failed compensations are reopened by themselves: their run goes on rolling back, and nothing of it goes forward.

        Returns:
            False, with nothing changed, where the run succeeded or is being undone, or where compensations and other
            steps are named together.
        """

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            if run is None:
                return False
            named = [s for s in self._undo.steps(conn, ref) if s.key in keys]
            undoing = [s for s in named if s.kind.undoes]
            if len(undoing) not in (0, len(named)) or run.status not in _REOPENED_FROM[bool(undoing)]:
                return False
            failed = [s for s in named if s.status is StepStatus.FAILED and not happened_after_all(s)]
            # Of an unmarked one, the member before it sends the message: planned again, like what was cancelled behind it.
            failed += [s for s in named if _is_to_begin(s)]
            due: dict[str, Any] = {"look_at": now, "sent_at": None, "sends": 0, "losses": 0, "attention": None, "ended_at": None}
            conn.execute(moving(StepStatus.WAITING, due, step.c.ref == ref, step.c.key.in_([s.key for s in failed])))
            anew = [s.key for s in failed if s.effect is Effect.DID_NOT_HAPPEN and s.attempt]
            conn.execute(sa.update(step).where(step.c.ref == ref, step.c.key.in_(anew)).values(**new_key()))
            if run.status not in FORWARD_WORKFLOWS:  # else its function was told that it failed, and goes on from that
                done = step.c.key.in_([s.key for s in named if happened_after_all(s)])
                conn.execute(moving(StepStatus.SUCCEEDED, {}, step.c.ref == ref, done, of=(StepStatus.FAILED,)))
            self._forget_engine_ends(conn, ref)
            if not undoing:
                self._take_back_cancellation(conn, ref)
            going_on: dict[str, Any] = {}
            if not undoing:  # else nothing goes forward, and what was cancelled stays counted
                going_on = {"error": None, "open_steps": sum(_counts_still(s) for s in self._undo.steps(conn, ref))}
            going_on |= {"ended_at": None, "look_at": now, "attention": None}
            if run.status in FORWARD_WORKFLOWS:
                conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(**going_on))
            else:
                status = WorkflowStatus.ROLLING_BACK if undoing else WorkflowStatus.RUNNING
                self._transitions.move_run(conn, ref, status, going_on)
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="retry", keys=list(keys))
            if not undoing:
                self._go_on(conn, ref)
                self._sleep_on(conn, ref, named=bool(failed))
            return True

        return self._db.transaction(write)

    def complete(self, ref: str) -> bool:
        """Ends a canvas of which nothing is open any more: its last member ended before one that was tried again. One commit."""

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            steps = forward(self._undo.steps(conn, ref))
            if run is None or run.status is not WorkflowStatus.RUNNING or run.shape is not Shape.CANVAS or not steps:
                return False
            if not all(is_left_behind(s) for s in steps):
                return False
            self._complete(conn, ref, as_ended=any(is_ended_by_engine(s) for s in steps))
            return True

        return self._db.transaction(write)

    def _complete(self, conn: Connection, ref: str, *, as_ended: bool = False) -> None:
        """Ends a run; what a step left out, by ending its chain early, stays left out.

        Args:
            conn: the caller's transaction.
            ref: the run.
            as_ended: its engine ended one of its members, so that it is cancelled, and has not succeeded.
        """
        status = WorkflowStatus.CANCELLED if as_ended else WorkflowStatus.SUCCEEDED
        self._transitions.move_run(conn, ref, status, {"open_steps": 0})
        self._undo.cancel_planned(conn, ref)

    @staticmethod
    def _forget_engine_ends(conn: Connection, ref: str) -> None:
        """What the engine ended is to run after all: its word is no longer true of the step."""
        ended = sa.and_(step.c.ref == ref, step.c.cause == Cause.ENDED_BY_ENGINE.value)
        conn.execute(sa.update(step).where(ended).values(cause=None, evidence=None))

    def _take_back_cancellation(self, conn: Connection, ref: str) -> None:
        """What was cancelled is planned again; a timer runs until the time that it was set to."""
        cancelled = sa.and_(step.c.ref == ref, step.c.status == StepStatus.CANCELLED.value)
        timer = step.c.kind.in_(having("timed"))
        until = sa.func.coalesce(step.c.deadline_at, self._db.now)
        running = {"ended_at": None, "look_at": until, "deadline_at": None}
        conn.execute(moving(StepStatus.WAITING, running, cancelled, timer))
        conn.execute(moving(StepStatus.PLANNED, {"ended_at": None, "look_at": None}, cancelled, ~timer))

    def _sleep_on(self, conn: Connection, ref: str, *, named: bool) -> None:
        """A function that slept when it was cancelled sleeps on, unless one of its steps is tried again."""
        steps = self._undo.steps(conn, ref)
        timer = next((s for s in steps if s.kind.timed and s.status is StepStatus.WAITING), None)
        if timer is not None and not named:
            alone = sum(_counts_still(s) for s in steps) <= 1
            self._suspend(conn, ref, f"{SLEEPS}{timer.key}", timer.look_at, alone=alone)

    def _go_on(self, conn: Connection, ref: str) -> None:
        """A run that goes forward again: its last memo hands on to what follows; one with nothing left to do is complete."""
        steps = forward(self._undo.steps(conn, ref))
        counting = [s for s in steps if s.completes_run]
        if counting and all(s.status is StepStatus.SUCCEEDED for s in counting):
            if any(s.status is StepStatus.WAITING for s in steps):
                # One of these is to be tried again although what counts is done: once it is, a sweeper ends the run.
                conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(open_steps=1))
                return
            self._complete(conn, ref)
            return
        begun = [s for s in steps if s.status is not StepStatus.PLANNED]
        if any(s.status is not StepStatus.SUCCEEDED for s in begun):
            return
        marked = [s for s in begun if s.kind.member and s.kind.marked]
        if marked and marked[-1] is begun[-1]:
            # Its own message, sent once more, is a memo hit: it sends what follows.
            here = sa.and_(step.c.ref == ref, step.c.key == marked[-1].key)
            conn.execute(sa.update(step).where(here).values(look_at=self._db.now))

    def acknowledge(self, ref: str, *, who: str, why: str) -> None:
        """A person has seen what there is about a run, also one that is not in the journal. One commit."""

        def write(conn: Connection) -> None:
            conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(attention=None))
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="acknowledge")

        self._db.transaction(write)

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


def _is_to_begin(row: StepRow) -> bool:
    """Whether a step's engine ended it before it began, and a person's order makes it due."""
    return row.status is StepStatus.CANCELLED and is_ended_by_engine(row) and row.kind.marked


def _counts_still(row: StepRow) -> bool:
    """Whether the run's counter counts a step that has not been counted down.

    The failure of a dispatched step is: its function is told, and decides. Any other's ends the run by itself.
    """
    if not row.completes_run:
        return False
    return row.status in OPEN_STEPS or (row.status is StepStatus.FAILED and not row.kind.awaited)


def unfinished(conn: Connection) -> Iterator[list[str]]:
    """The references of all unfinished runs, in order, so few at a time that their steps are found by their key.

    As a subquery, they are so many that PostgreSQL would rather read the steps of the whole history.
    """
    refs = sorted(row.ref for row in conn.execute(sa.select(workflow.c.ref).where(workflow.c.look_at.is_not(None))))
    for start in range(0, len(refs), BATCH):
        yield refs[start : start + BATCH]
