"""Finds what a loss of commits makes doubtful: after a restore, or a fail-over to a database that lacked the last ones.

A planned step may have run, with its record lost. A loss removes the end of the history: what is recorded is true, but later
changes are unknown. So everything unfinished is doubtful, except runs that certainly slept during that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Attention, Cause, Kind, Safety, StepStatus, WorkflowStatus, having, kind_named
from .schema import literals, step, workflow
from .transitions import moving

#: Runs in one statement.
BATCH = 1_000

#: Runs a SELECT, inside a transaction or outside of one.
Ask = Callable[[sa.Select[Any]], Sequence[sa.Row[Any]]]

_OF_ITS_OWN = step.c.kind.in_(having("claimable"))
_MAY_HAVE_RUN = step.c.status.in_([StepStatus.BEGUN.value, StepStatus.PLANNED.value, StepStatus.WAITING.value])
#: Workflow functions: even the rows of their calls may be lost.
FUNCTIONS = sa.and_(_MAY_HAVE_RUN, step.c.kind.in_(having("makes_calls")))
#: Steps whose effect may have happened. Transactional steps are consistent with the rest of their database.
STEPS = sa.and_(_MAY_HAVE_RUN, _OF_ITS_OWN, step.c.safety != Safety.TRANSACTIONAL.value)


@dataclass
class Doubtful:
    """The number of things that a loss makes doubtful.

    Attributes:
        runs: the number of runs.
        tasks: the numbers of steps and functions, by name, kind and safety.
        asleep: the number of unfinished runs that certainly slept, and are not doubtful.
    """

    runs: int = 0
    tasks: Counter[tuple[str, Kind, Safety]] = field(default_factory=Counter)
    asleep: int = 0

    @property
    def functions(self) -> int:
        """The number of workflow functions."""
        return sum(count for (_, kind, _), count in self.tasks.items() if kind.makes_calls)

    @property
    def steps(self) -> int:
        """The number of other steps."""
        return self.tasks.total() - self.functions


def doubtful(
    ask: Ask, now: sa.ColumnElement[int], namespace: str, since: int, until: int | None, found: Doubtful
) -> Iterator[list[str]]:
    """Yields the references of doubtful runs, in order, in batches; adds their numbers to *found*.

    Args:
        ask: runs a statement.
        now: the database's time.
        namespace: the namespace of the runs.
        since: the time after which commits may be lost.
        until: when the database was available again: runs started later are complete. None if none was.
        found: receives the numbers.
    """
    sleeps = sa.and_(workflow.c.status == WorkflowStatus.SUSPENDED.value, workflow.c.wake_at > now, workflow.c.created_at < since)
    unfinished = sa.select(workflow.c.ref, sa.case((sleeps, 1), else_=0).label("sleeps")).where(
        workflow.c.next_check_at.is_not(None), workflow.c.namespace == namespace
    )
    if until is not None:
        unfinished = unfinished.where(workflow.c.created_at < until)
    rows = sorted(ask(unfinished), key=lambda row: row.ref)
    for start in range(0, len(rows), BATCH):
        batch = {row.ref: bool(row.sleeps) for row in rows[start : start + BATCH]}
        asleep = {ref for ref, sleeps in batch.items() if sleeps}
        asleep -= _recorded_since(ask, now, sorted(asleep), since)
        here = step.c.ref.in_([ref for ref in batch if ref not in asleep])
        counted = ask(
            sa.select(step.c.ref, step.c.name, step.c.kind, step.c.safety, sa.func.count().label("number"))
            .where(here, sa.or_(FUNCTIONS, STEPS))
            .group_by(step.c.ref, step.c.name, step.c.kind, step.c.safety)
        )
        for row in counted:
            found.tasks[(row.name, kind_named(row.kind), Safety(row.safety))] += row.number
        refs = sorted({row.ref for row in counted})
        found.runs += len(refs)
        found.asleep += len(asleep)
        yield refs


def _recorded_since(ask: Ask, now: sa.ColumnElement[int], refs: list[str], since: int) -> set[str]:
    """Returns those of some sleeping runs in which a step changed since a time, or could begin without a wake."""
    if not refs:
        return set()
    times = (step.c.created_at, step.c.sent_at, step.c.begun_at, step.c.ended_at, step.c.doubt_at)
    due = sa.and_(step.c.status.in_(literals([StepStatus.WAITING])), sa.func.coalesce(step.c.next_check_at, 0) <= now)
    open_ = step.c.status.in_(literals([StepStatus.PLANNED, StepStatus.BEGUN, StepStatus.IN_DOUBT]))
    stirred = sa.or_(*[at >= since for at in times], sa.and_(_OF_ITS_OWN, sa.or_(due, open_)))
    return {row.ref for row in ask(sa.select(step.c.ref).where(step.c.ref.in_(refs), stirred).distinct())}


def put_in_doubt(conn: Connection, refs: list[str], why: str, now: sa.ColumnElement[int], not_over: int) -> None:
    """Puts the doubtful steps of some runs in doubt. Functions are held until a person lets them go on."""
    text = f"the journal may have lost commits: {why}"
    here = step.c.ref.in_(refs)
    cause = Cause.LOST_COMMITS.value
    held = {
        "doubt": text,
        "cause": cause,
        "doubt_at": now,
        "evidence": text,
        "attention": Attention.DRIFT.value,
        "next_check_at": None,
    }
    conn.execute(moving(StepStatus.HELD, held, here, FUNCTIONS))
    # A begun step may still be running.
    over_at = sa.case((step.c.status == StepStatus.BEGUN.value, not_over), else_=now)
    doubted = {"over_at": over_at, "doubt": text, "cause": cause, "doubt_at": now, "next_check_at": now, "deadline_at": None}
    conn.execute(moving(StepStatus.IN_DOUBT, doubted, here, STEPS))
