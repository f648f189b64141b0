"""The sweeper's queries: steps and runs whose next check is due, steps of dead workers, and when each is checked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import UnreadableRow
from ..model import (
    CLAIMABLE,
    SECOND,
    Cause,
    Death,
    Event,
    StepRow,
    StepStatus,
    WorkflowRow,
    having,
)
from .database import Database
from .doubts import AGAIN, NOT_OVER, SILENT, Doubts
from .events import Events
from .rows import readable, step_row, workflow_row
from .schema import event, literals, step, worker, workflow
from .transitions import same_token, this
from .undo import Undo

#: Longest wait between two checks of a step.
LONGEST = 3600 * SECOND
#: Most times that the wait for a run's next check is doubled: its other steps may need a check meanwhile.
RARELY = 3
#: Steps whose attempt may be running, as far as the journal knows.
_RUNNING = sa.or_(
    step.c.status.in_(literals((StepStatus.BEGUN,))),
    sa.and_(step.c.status.in_(literals((StepStatus.IN_DOUBT,))), step.c.over_at == NOT_OVER),
)


class Due:
    """Takes due steps and runs, so that no other sweeper takes them at the same time, and gives them back."""

    def __init__(self, db: Database, events: Events, undo: Undo, doubts: Doubts, resend_after: int) -> None:
        self._db = db
        self._events = events
        self._undo = undo
        self._doubts = doubts
        #: Microseconds after which a run in which nothing began is checked.
        self._resend_after = resend_after

    def take_steps(
        self,
        now: int,
        limit: int,
        engines: Collection[str] | None = None,
        *,
        namespace: str | None = None,
        leave: Collection[str] = (),
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[StepRow]:
        """Returns the steps whose next check is due, and sets their following check. One commit.

        These are waiting steps, steps in doubt, and finished steps whose message a verdict requested again; that request
        stays until `nothing_to_send`. A waiting step stays due, so that the message that is now sent for it may begin it. A
        begun step whose time-out has passed becomes in doubt: timed out, not over.

        Args:
            now: database time.
            limit: the most steps returned.
            engines: only steps of these engines, whose messages the caller can send; None for all.
            namespace: only steps of this namespace; None for all.
            leave: references of runs to skip.
            unreadable: receives the rows that cannot be read here; they are not changed.
        """
        due_by_look = step.c.next_check_at <= now
        due_by_look = sa.and_(due_by_look, *_in_no_run_of(leave))

        # A scalar subquery for each due step: a semi-join could read the whole history instead.
        def of_its_run(column: Any) -> Any:
            return sa.select(column).where(workflow.c.ref == step.c.ref).correlate(step).scalar_subquery()

        if namespace is not None:
            due_by_look = sa.and_(due_by_look, of_its_run(workflow.c.namespace) == namespace)
        if engines is not None:
            engine = sa.func.coalesce(step.c.engine, of_its_run(workflow.c.engine))
            due_by_look = sa.and_(due_by_look, engine.in_(sorted(engines)))
        # A step that stays due is skipped for a while after its message was sent; each further wait is twice as long.
        doubled = sa.and_(step.c.sent_at <= now - AGAIN, 2 * step.c.sent_at - step.c.next_check_at <= now)
        untaken = sa.or_(
            step.c.status.not_in(literals(CLAIMABLE)), step.c.sent_at.is_(None), doubled, step.c.sent_at <= now - LONGEST
        )
        due = sa.select(step).where(due_by_look, untaken).order_by(step.c.next_check_at).limit(limit)
        if not self._db.select(sa.select(step.c.ref).where(due_by_look, untaken).limit(1)):
            return []

        def write(conn: Connection) -> list[StepRow]:
            found = conn.execute(due.with_for_update(skip_locked=True)).all()
            rows = [row for _, row in readable(step_row, found, unreadable)]
            taken = []
            for row in sorted(rows, key=lambda r: (r.ref, r.key)):
                if row.status is StepStatus.UNDONE:  # never due; an earlier release left it so
                    conn.execute(sa.update(step).where(this(row)).values(next_check_at=None))
                    continue
                if row.status is StepStatus.BEGUN:
                    self._doubts.raise_in(conn, row, row.token, _overdue(row), cause=Cause.TIMED_OUT, over=None)
                    continue
                if row.status in CLAIMABLE:
                    since = sa.case((step.c.next_check_at > self._db.now, self._db.now), else_=step.c.next_check_at)
                    conn.execute(sa.update(step).where(this(row)).values(next_check_at=since, sent_at=now))
                else:
                    known = row.doubt_at if row.status is StepStatus.IN_DOUBT else row.ended_at
                    wait = min(max(AGAIN, now - (known or now)), LONGEST)
                    row.next_check_at = None if row.status is StepStatus.CANCELLED else now + wait
                    conn.execute(sa.update(step).where(this(row)).values(next_check_at=row.next_check_at))
                taken.append(row)
            return taken

        return self._db.transaction(write)

    def give_back(self, rows: Collection[StepRow], now: int) -> None:
        """Makes steps due again that `take_steps` returned and that were not handled. One commit.

        Args:
            rows: the steps as `take_steps` returned them; one that has changed since then is left as it is.
            now: the time that was passed to `take_steps`.
        """

        def write(conn: Connection) -> None:
            for row in sorted(rows, key=lambda r: (r.ref, r.key)):
                if row.status in CLAIMABLE:
                    conn.execute(sa.update(step).where(_as_read(row), step.c.sent_at == now).values(sent_at=row.sent_at))
                else:
                    as_taken = step.c.next_check_at.is_not_distinct_from(row.next_check_at)
                    conn.execute(sa.update(step).where(_as_read(row), as_taken).values(next_check_at=now))

        self._db.transaction(write)

    def count_send(self, row: StepRow, by: int = 1) -> None:
        """Counts that a step's message is about to be sent; -1 reverts that if it could not be sent. One commit."""
        counted = sa.update(step).where(_as_read(row)).values(sends=step.c.sends + by)
        self._db.transaction(lambda conn: conn.execute(counted))

    def nothing_to_send(self, row: StepRow) -> None:
        """Clears a verdict's request to send a finished step's message: it was sent, or never can be. One commit.

        Args:
            row: the step as `take_steps` returned it; the request of a later verdict stays.
        """
        if row.status not in (StepStatus.SUCCEEDED, StepStatus.FAILED):
            return
        stands = sa.and_(this(row), step.c.status == row.status.value, step.c.next_check_at == row.next_check_at)
        over = sa.update(step).where(stands).values(next_check_at=None)
        self._db.transaction(lambda conn: conn.execute(over))

    def of_dead_workers(self, limit: int, *, leave: Collection[str] = ()) -> list[tuple[StepRow, str | None]]:
        """Returns begun and timed-out steps whose worker is dead or has stopped, each with the kind of death.

        The kind is None if the worker's row was deleted. A step that is in doubt because its worker was silent is returned
        again once the worker's parent has seen it end.
        """
        ended_since = sa.and_(
            step.c.status.in_(literals((StepStatus.IN_DOUBT,))),
            step.c.over_at == SILENT,
            worker.c.death == Death.PARENT_SAW.value,
        )
        dead = (
            sa.select(step)
            .join(worker, worker.c.id == step.c.worker, isouter=True)
            .where(
                sa.or_(_RUNNING, ended_since),
                sa.or_(worker.c.dead_at.is_not(None), worker.c.stopped_at.is_not(None), worker.c.id.is_(None)),
                *_in_no_run_of(leave),
            )
            .limit(limit)
        )
        stopped = sa.case((worker.c.stopped_at.is_not(None), Death.STOPPED.value), else_=worker.c.death).label("its_death")
        rows = self._db.select(dead.with_only_columns(*step.c, stopped))
        return [(found, row._mapping["its_death"]) for row, found in readable(step_row, rows)]

    def missing_from_heartbeats(self, limit: int, *, leave: Collection[str] = ()) -> list[tuple[StepRow, int]]:
        """Returns begun and timed-out steps that the last two beats of their living worker do not name.

        After the database's clock went back, an attempt may seem older than beats that came before it. The caller must
        therefore wait for two more beats before it acts.

        Returns:
            Each step with its worker's beat counter.
        """
        name = step.c.ref + " " + sa.func.coalesce(step.c.token, "")
        rows = self._db.select(
            sa.select(*step.c, worker.c.beats)
            .join(worker, worker.c.id == step.c.worker)
            .where(
                _RUNNING,
                worker.c.dead_at.is_(None),
                worker.c.stopped_at.is_(None),
                step.c.begun_at < worker.c.previous_beat_at,
                ~worker.c.running.contains(name),
                ~worker.c.previously_running.contains(name),
                *_in_no_run_of(leave),
            )
            .limit(limit)
        )
        return [(found, row._mapping["beats"]) for row, found in readable(step_row, rows)]

    def take_runs(
        self,
        now: int,
        limit: int,
        engines: Collection[str] | None = None,
        *,
        namespace: str | None = None,
        leave: Collection[str] = (),
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[tuple[WorkflowRow, list[StepRow]]]:
        """Returns the runs whose next check is due, with their steps, and sets their following check. One commit.

        The wait doubles with each resend that did not help, up to a limit. It is reset once a step of the run has begun or
        ended since.

        Args:
            now: database time.
            limit: the most runs returned.
            engines: only runs of these engines, whose messages the caller can send; None for all.
            namespace: only runs of this namespace; None for all.
            leave: references of runs to skip.
            unreadable: receives the rows that cannot be read here; their runs are not changed.
        """
        due = workflow.c.next_check_at <= now
        if leave:
            due = sa.and_(due, workflow.c.ref.not_in(sorted(leave)))
        if namespace is not None:
            due = sa.and_(due, workflow.c.namespace == namespace)
        if engines is not None:
            due = sa.and_(due, workflow.c.engine.in_(sorted(engines)))

        def write(conn: Connection) -> list[tuple[WorkflowRow, list[StepRow]]]:
            rows = conn.execute(
                sa.select(workflow).where(due).order_by(workflow.c.next_check_at).limit(limit).with_for_update(skip_locked=True)
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
                next_check_at = now + self._resend_after * 2 ** min(resends, RARELY)
                here = workflow.c.ref.in_(sorted(ref for ref, (run, _) in found.items() if run.resends == resends))
                conn.execute(sa.update(workflow).where(here).values(next_check_at=next_check_at, resends=resends))
            return list(found.values())

        any_due = self._db.select(sa.select(workflow.c.ref).where(due).limit(1))
        return self._db.transaction(write) if any_due else []

    @staticmethod
    def _sent_again(conn: Connection, refs: Sequence[str]) -> dict[str, int]:
        """Returns, by run, when a message was last sent again."""
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
            why: the reason, as people read it.
            lost: the step whose message was lost: the one that is sent, or one that follows it. None if none was lost and a
                person ordered it.
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

    def check_runs_at(self, looks: Mapping[str, int]) -> None:
        """Sets the next checks of several unfinished runs, by reference. One commit, one statement."""
        at = sa.case(dict(looks), value=workflow.c.ref)
        here = sa.and_(workflow.c.ref.in_(sorted(looks)), workflow.c.next_check_at.is_not(None))
        self._db.transaction(lambda conn: conn.execute(sa.update(workflow).where(here).values(next_check_at=at)))

    def check_again(self, ref: str, at: int) -> None:
        """Sets the next check of an unfinished run. One commit."""
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(workflow).where(workflow.c.ref == ref, workflow.c.next_check_at.is_not(None)).values(next_check_at=at)
            )
        )

    def check_now(self, ref: str, *, who: str, why: str) -> bool:
        """Makes an unfinished run and its due steps due for the next sweep, by a person's order. One commit.

        The sweeper decides whether anything is sent again.

        Returns:
            False if the run has ended.
        """

        def write(conn: Connection) -> bool:
            run = self._undo.lock_run(conn, ref)
            if run is None or run.next_check_at is None:
                return False
            waits = sa.and_(step.c.ref == ref, step.c.status == StepStatus.WAITING.value, step.c.kind.in_(having("timed", False)))
            due = sa.and_(waits, step.c.next_check_at <= self._db.now)
            conn.execute(sa.update(step).where(due).values(sent_at=None, sends=0))
            conn.execute(sa.update(workflow).where(workflow.c.ref == ref).values(next_check_at=self._db.now))
            self._events.write(conn, Event.OPERATOR, ref=ref, who=who, why=why, action="look now")
            return True

        return self._db.transaction(write)


def _in_no_run_of(refs: Collection[str]) -> list[sa.ColumnElement[bool]]:
    """Returns the condition that a step belongs to none of *refs*."""
    return [step.c.ref.not_in(sorted(refs))] if refs else []


def _overdue(row: StepRow) -> str:
    """Returns why an attempt whose deadline has passed is in doubt."""
    timeout, heartbeat = row.options.get("timeout"), row.options.get("heartbeat")
    # A statement reads the clock for each column, so that equal times may differ by microseconds.
    if heartbeat is not None and (timeout is None or (row.deadline_at or 0) < (row.begun_at or 0) + timeout - SECOND // 1000):
        return f"its body has said nothing for {heartbeat / SECOND:g} s"
    return "its time-out has passed"


def _as_read(row: StepRow) -> Any:
    """Returns the condition that a step has the same status and claim as when it was read."""
    return sa.and_(this(row), step.c.status == row.status.value, same_token(row))
