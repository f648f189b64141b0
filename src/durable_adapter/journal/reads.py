"""Reads of the journal: one run, lists, and unfinished work. They write nothing; every list has a limit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..errors import UnreadableRow
from ..model import (
    OPEN_WORKFLOWS,
    UNSETTLED_STEPS,
    Event,
    StepRow,
    StepStatus,
    WorkerRow,
    WorkflowRow,
    WorkflowStatus,
)
from .database import Database
from .rows import readable, step_row, worker_row, workflow_row
from .schema import event, literals, step, worker, workflow

_P = sa.bindparam


@dataclass(frozen=True, slots=True)
class RefusedMessage:
    """A message that a worker refused.

    Attributes:
        at: when it was refused.
        ref: the run that it named.
        key: the step that it named.
        who: the process that refused it.
        why: the reason.
        task: the name of its task, if known.
        namespace: the namespace of the run; if there is no run, of the process.
        lacks_run: the journal has no such run now.
        lacks_step: the journal has the run, but no such step.
    """

    at: int
    ref: str
    key: str | None
    who: str | None
    why: str
    task: str | None
    namespace: str | None
    lacks_run: bool
    lacks_step: bool


def _refused(row: sa.Row[Any]) -> RefusedMessage:
    detail = json.loads(row.detail) if row.detail else {}
    known = row.run_namespace is not None
    return RefusedMessage(
        at=row.at, ref=row.ref or "", key=row.key, who=row.who, why=row.why or "", task=detail.get("name"),
        namespace=row.run_namespace or detail.get("namespace"), lacks_run=not known,
        lacks_step=known and row.key is not None and row.step_key is None,
    )  # fmt: skip


class Reads:
    """Queries of the command line, reports and the runtime."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._run = sa.select(workflow).where(workflow.c.ref == _P("ref"))
        self._steps = sa.select(step).where(step.c.ref == _P("ref")).order_by(step.c.position, step.c.key)
        named = (workflow.c.namespace, workflow.c.id, workflow.c.declared, workflow.c.run, step.c.generation)
        both = workflow.outerjoin(step, sa.and_(step.c.ref == workflow.c.ref, step.c.key == _P("key")))
        self._identity = sa.select(*named).select_from(both).where(workflow.c.ref == _P("ref"))
        outline = without(step, ("message", *_VALUES)).where(step.c.ref == _P("ref"))
        self._outline = outline.order_by(step.c.position, step.c.key)

    def identity(self, ref: str, key: str) -> tuple[str, str, int, int]:
        """Returns the parts of a step's idempotency key: the run's namespace, declared id and number, the key's generation.

        The id is empty if the run declares none. One read.
        """
        found = self._db.fetch(self._db.hot(self._identity), {"ref": ref, "key": key})
        if not found:
            return "", "", 1, 0
        (row,) = found
        return row["namespace"], row["id"] if row["declared"] else "", row["run"], row["generation"] or 0

    def run(self, ref: str) -> WorkflowRow | None:
        """Returns one run, or None if it has no row."""
        rows = self._db.fetch(self._db.hot(self._run), {"ref": ref})
        return workflow_row(rows[0]) if rows else None

    def steps(self, ref: str) -> list[StepRow]:
        """Returns every step of one run, by position. One read."""
        return [step_row(row) for row in self._db.fetch(self._db.hot(self._steps), {"ref": ref})]

    def outline(self, ref: str) -> list[StepRow]:
        """Returns every step of one run, by position, without messages, arguments, outcomes and errors."""
        return [step_row(row) for row in self._db.fetch(self._db.hot(self._outline), {"ref": ref})]

    def of_task(self, ref: str, task_id: str) -> StepRow | None:
        """Returns the step of a run with this task id, or None."""
        rows = self._db.select(sa.select(step).where(step.c.ref == ref, step.c.task_id == task_id).limit(1))
        return step_row(rows[0]) if rows else None

    def latest(self, namespace: str, id: str) -> WorkflowRow | None:
        """Returns the latest run of a workflow id, or None."""
        rows = self._db.select(
            sa.select(workflow)
            .where(workflow.c.namespace == namespace, workflow.c.id == id)
            .order_by(workflow.c.run.desc())
            .limit(1)
        )
        return workflow_row(rows[0]) if rows else None

    def listed(
        self,
        *,
        namespace: str | None = None,
        statuses: Sequence[WorkflowStatus] = (),
        name: str | None = None,
        since: int | None = None,
        unfinished: bool = False,
        limit: int = 100,
        unreadable: list[UnreadableRow] | None = None,
    ) -> list[WorkflowRow]:
        """Returns runs, newest first, without plans and values. *unreadable* receives the rows that cannot be read here."""
        started: sa.ColumnElement[int] = workflow.c.created_at
        query = without(workflow, SLIM_RUN).limit(limit)
        if namespace is not None:
            query = query.where(workflow.c.namespace == namespace)
        if statuses:
            query = query.where(workflow.c.status.in_([s.value for s in statuses]))
        if unfinished or (statuses and all(s in OPEN_WORKFLOWS for s in statuses)):
            query = query.where(workflow.c.next_check_at.is_not(None))
            started = started + 0  # keeps the database from walking the index over the whole history
        if name is not None:
            query = query.where(workflow.c.name == name)
        if since is not None:
            query = query.where(workflow.c.created_at >= since)
        return [run for _, run in readable(workflow_row, self._db.select(query.order_by(started.desc())), unreadable)]

    def unfinished(
        self, *, after: str = "", limit: int = 500, unreadable: list[UnreadableRow] | None = None
    ) -> list[WorkflowRow]:
        """Returns unfinished runs, by reference, in batches."""
        ref = workflow.c.ref + ""  # keeps the database from walking the primary key over the whole history
        rows = self._db.select(
            sa.select(workflow).where(workflow.c.next_check_at.is_not(None), ref > after).order_by(ref).limit(limit)
        )
        return [run for _, run in readable(workflow_row, rows, unreadable)]

    def runs(self, refs: Sequence[str], *, unreadable: list[UnreadableRow] | None = None) -> dict[str, WorkflowRow]:
        """Returns several runs by reference."""
        if not refs:
            return {}
        rows = self._db.select(sa.select(workflow).where(workflow.c.ref.in_(list(refs))))
        return {row.ref: run for row, run in readable(workflow_row, rows, unreadable)}

    def steps_of(self, refs: Sequence[str], *, unreadable: list[UnreadableRow] | None = None) -> dict[str, list[StepRow]]:
        """Returns the steps of several runs, by run and position. A run with a step that cannot be read here has none."""
        query = sa.select(step).where(step.c.ref.in_(list(refs))).order_by(step.c.position)
        return _by_run(refs, self._db.select(query) if refs else (), unreadable)

    def unsettled(self, *, limit: int = 1000) -> list[StepRow]:
        """Returns steps that began and whose outcome is not known: begun, in doubt, held."""
        wanted = literals((StepStatus.BEGUN, StepStatus.IN_DOUBT, StepStatus.HELD))
        rows = self._db.select(sa.select(step).where(step.c.status.in_(wanted)).limit(limit))
        return [found for _, found in readable(step_row, rows)]

    def queues_moved_to(self, namespace: str) -> dict[tuple[str, str], int]:
        """Returns, by engine and queue, when the newest message that has begun was sent.

        A message that was sent to such a queue before that, and has not begun, is lost. The time is the creation of the
        step's row at the earliest. Only unsettled attempts are read.

        Args:
            namespace: only this one; two namespaces may have different brokers.
        """
        of_its_run = sa.select(workflow.c.namespace).where(workflow.c.ref == step.c.ref).correlate(step).scalar_subquery()
        sender = sa.select(workflow.c.engine).where(workflow.c.ref == step.c.ref).correlate(step).scalar_subquery()
        youngest = sa.case((step.c.created_at < step.c.begun_at, step.c.created_at), else_=step.c.begun_at)
        begun = (
            sa.select(sa.func.coalesce(step.c.engine, sender).label("engine"), step.c.queue, youngest.label("at"))
            .where(
                step.c.status.in_(literals((StepStatus.BEGUN, StepStatus.IN_DOUBT, StepStatus.HELD))),
                step.c.queue.is_not(None),
                step.c.begun_at.is_not(None),
                of_its_run == namespace,
            )
            .subquery()
        )
        query = sa.select(begun.c.engine, begun.c.queue, sa.func.max(begun.c.at).label("at"))
        rows = self._db.select(query.group_by(begun.c.engine, begun.c.queue))
        return {(row.engine, row.queue): int(row.at) for row in rows}

    def ever_listened(self, namespace: str) -> list[tuple[str, str, list[str]]]:
        """Returns each combination of role, engines and queues of a namespace's processes, living or not."""
        here = sa.or_(worker.c.namespace.is_(None), worker.c.namespace == namespace)
        rows = self._db.select(sa.select(worker.c.role, worker.c.engine, worker.c.queues).where(here).distinct())
        found = []
        for row in rows:
            with contextlib.suppress(ValueError, RecursionError):  # skips a damaged row
                found.append((row.role, row.engine, json.loads(row.queues)))
        return found

    def unfinished_refs(
        self, namespace: str, now: int, *, after: tuple[int, str] = (0, ""), limit: int = 1000, asleep: bool = False
    ) -> list[tuple[int, str]]:
        """Returns the next checks and references of unfinished runs, in that order, in batches.

        Args:
            namespace: the namespace of the runs.
            now: database time.
            after: the last pair of the batch before.
            limit: the most pairs returned.
            asleep: include runs that wait for a time in the future.
        """
        next_check_at, ref = workflow.c.next_check_at, workflow.c.ref
        query = (
            sa.select(next_check_at, ref)
            .where(next_check_at >= after[0], sa.or_(next_check_at > after[0], ref > after[1]), workflow.c.namespace == namespace)
            .order_by(next_check_at, ref)
            .limit(limit)
        )
        if not asleep:
            awake = workflow.c.status != WorkflowStatus.SUSPENDED.value
            # A sleeping run with another open step is always included: that step's message may be lost.
            sent = workflow.c.open_steps > 1
            query = query.where(sa.or_(awake, workflow.c.wake_at.is_(None), workflow.c.wake_at <= now, sent))
        return [(row.next_check_at, row.ref) for row in self._db.select(query)]

    def troubled_refs(self, *, limit: int = 100_000) -> set[str]:
        """Returns the references of runs with a step that is begun, in doubt or held, or marked for attention."""
        unsettled = sa.select(step.c.ref).where(step.c.status.in_(literals(UNSETTLED_STEPS))).limit(limit)
        steps = sa.select(step.c.ref).where(step.c.attention.is_not(None)).order_by(step.c.attention).limit(limit)
        twice = sa.select(step.c.ref).where(step.c.twice_at.is_not(None)).order_by(step.c.twice_at).limit(limit)
        runs = sa.select(workflow.c.ref).where(workflow.c.attention.is_not(None)).order_by(workflow.c.attention).limit(limit)
        return {row.ref for query in (unsettled, steps, twice, runs) for row in self._db.select(query)}

    def slim_runs(self, refs: Sequence[str], *, unreadable: list[UnreadableRow] | None = None) -> dict[str, WorkflowRow]:
        """Returns several runs by reference, without plans and values."""
        query = without(workflow, SLIM_RUN).where(workflow.c.ref.in_(list(refs)))
        return {row.ref: run for row, run in readable(workflow_row, self._db.select(query), unreadable)} if refs else {}

    def slim_steps(self, refs: Sequence[str], *, unreadable: list[UnreadableRow] | None = None) -> dict[str, list[StepRow]]:
        """Returns the steps of several runs, by run and position, without values but with their errors.

        An outcome has no bytes, only its codec. A run with a step that cannot be read here has no steps.
        """
        query = without(step, SLIM_STEP)
        query = query.where(step.c.ref.in_(list(refs))).order_by(step.c.position, step.c.key)
        return _by_run(refs, self._db.select(query) if refs else (), unreadable)

    def workers(self, ids: Sequence[str]) -> dict[str, WorkerRow]:
        """Returns the rows of several processes, living or not, by id."""
        rows = self._db.select(sa.select(worker).where(worker.c.id.in_(list(ids)))) if ids else []
        return {row.id: found for row, found in readable(worker_row, rows)}

    def refused(self, *, since: int = 0, ref: str | None = None, limit: int = 10_000) -> list[RefusedMessage]:
        """Returns refused messages that no person has acknowledged since, oldest first.

        Args:
            since: only those refused since this time.
            ref: only those that named this run.
            limit: the most messages read.
        """
        seen = event.alias("seen")
        action = sa.and_(seen.c.kind == Event.OPERATOR.value, seen.c.key.is_(None), seen.c.detail.contains('"acknowledge"'))
        acknowledged = sa.select(sa.func.max(seen.c.at)).where(seen.c.ref == event.c.ref, action).scalar_subquery()
        query = (
            sa.select(
                *event.c,
                workflow.c.namespace.label("run_namespace"),
                step.c.key.label("step_key"),
                acknowledged.label("acknowledged_at"),
            )
            .join(workflow, workflow.c.ref == event.c.ref, isouter=True)
            .join(step, sa.and_(step.c.ref == event.c.ref, step.c.key == event.c.key), isouter=True)
            .where(event.c.kind == Event.REFUSED.value, event.c.at >= since)
        )
        if ref is not None:
            query = query.where(event.c.ref == ref)
        rows = self._db.select(query.order_by(event.c.at).limit(limit))
        return [_refused(row) for row in rows if (row.acknowledged_at or -1) < row.at]

    def newest_refs(
        self, namespace: str | None = None, *, since: int = 0, before: int | None = None, limit: int = 1000
    ) -> list[tuple[int, str]]:
        """Returns the start times and references of runs, newest first, in batches."""
        query = sa.select(workflow.c.created_at, workflow.c.ref).where(workflow.c.created_at >= since)
        if before is not None:
            query = query.where(workflow.c.created_at < before)
        if namespace is not None:
            query = query.where(workflow.c.namespace == namespace)
        rows = self._db.select(query.order_by(workflow.c.created_at.desc()).limit(limit))
        return [(row.created_at, row.ref) for row in rows]

    def with_task(self, refs: Sequence[str], task_id: str) -> list[str]:
        """Returns those of *refs* that have a step with this task id."""
        if not refs:
            return []
        query = sa.select(step.c.ref).where(step.c.ref.in_(list(refs)), step.c.task_id == task_id)
        return [row.ref for row in self._db.select(query)]

    def server(self) -> dict[str, Any]:
        """Returns the database's version and durability settings, for `doctor`."""
        name = self._db.dialect_name
        if name == "sqlite":
            mode = self._scalar("SELECT * FROM pragma_journal_mode()")
            return {"dialect": name, "version": self._scalar("SELECT sqlite_version()"), "journal_mode": mode}
        if name == "postgresql":
            return {
                "dialect": name,
                "version": self._scalar("SHOW server_version"),
                "synchronous_commit": self._scalar("SHOW synchronous_commit"),
                "fsync": self._scalar("SHOW fsync"),
                "read_only": self._scalar("SHOW transaction_read_only") == "on",
                "max_connections": int(self._scalar("SHOW max_connections")),
            }
        flush = self._scalar("SELECT @@innodb_flush_log_at_trx_commit")
        return {
            "dialect": name,
            "version": self._scalar("SELECT version()"),
            "innodb_flush_log_at_trx_commit": int(flush),
            "read_only": bool(self._scalar("SELECT @@read_only")),
            "max_connections": int(self._scalar("SELECT @@max_connections")),
        }

    def _scalar(self, sql: str) -> Any:
        rows = self._db.select(sa.text(sql))  # type: ignore[arg-type]
        return rows[0][0] if rows else None


#: The columns with arguments, outcomes and errors of users' code.
_VALUES = ("arguments", "arguments_codec", "outcome", "outcome_codec", "error")


#: Columns of a run, and of a step, that are not read where neither plans nor values are shown.
SLIM_RUN = ("plan", *_VALUES)
SLIM_STEP = ("message", "details", "arguments", "arguments_codec", "outcome")


def without(table: sa.Table, blank: Sequence[str]) -> sa.Select[Any]:
    """Returns a query of whole rows in which the columns *blank*, which may be large, are NULL."""
    return sa.select(*[sa.null().label(c.name) if c.name in blank else c for c in table.c])


def _by_run(refs: Sequence[str], rows: Iterable[sa.Row[Any]], unreadable: list[UnreadableRow] | None) -> dict[str, list[StepRow]]:
    """Returns steps by run. A run with an unreadable step gets none, because its state is not known."""
    found: dict[str, list[StepRow]] = {ref: [] for ref in refs}
    left: list[UnreadableRow] = []
    for row, its_step in readable(step_row, rows, left):
        found[row.ref].append(its_step)
    for error in left:
        found[error.ref] = []
    if unreadable is not None:
        unreadable += left
    return found
