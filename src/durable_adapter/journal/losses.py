"""What a loss of commits makes doubtful: after a restore, or a fail-over to a database that had not heard of the last ones.

What looks planned may have run, and its record be lost. A loss takes the end of the history: what is recorded is true, and
what went on after it is not known. So everything unfinished is doubtful, except what certainly stood still all the while.
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

#: Runs whose steps are found at a time, by their key.
BATCH = 1_000

#: Runs a reading statement, inside a transaction or outside of one.
Ask = Callable[[sa.Select[Any]], Sequence[sa.Row[Any]]]

_OF_ITS_OWN = step.c.kind.in_(having("claimable"))
_MAY_HAVE_RUN = step.c.status.in_([StepStatus.BEGUN.value, StepStatus.PLANNED.value, StepStatus.WAITING.value])
#: Workflow functions, of whose calls even the rows may be lost.
FUNCTIONS = sa.and_(_MAY_HAVE_RUN, step.c.kind.in_(having("makes_calls")))
#: Steps whose effect may have happened. Transactional ones are as true as the rest of their database.
STEPS = sa.and_(_MAY_HAVE_RUN, _OF_ITS_OWN, step.c.safety != Safety.TRANSACTIONAL.value)


@dataclass
class Doubtful:
    """What a loss makes doubtful.

    Attributes:
        runs: how many runs.
        tasks: how many steps and functions, by name, kind and safety.
        asleep: how many unfinished runs certainly stood still, and are left alone.
    """

    runs: int = 0
    tasks: Counter[tuple[str, Kind, Safety]] = field(default_factory=Counter)
    asleep: int = 0

    @property
    def functions(self) -> int:
        """How many workflow functions."""
        return sum(count for (_, kind, _), count in self.tasks.items() if kind.makes_calls)

    @property
    def steps(self) -> int:
        """How many other steps."""
        return self.tasks.total() - self.functions


def doubtful(
    ask: Ask, now: sa.ColumnElement[int], namespace: str, since: int, until: int | None, found: Doubtful
) -> Iterator[list[str]]:
    """The references of runs with something doubtful, some at a time and in order; counts into *found* what it is.

    Args:
        ask: how a statement is run.
        now: the database's clock.
        namespace: whose runs.
        since: from when on commits may be lost.
        until: when the database was there again: what was started later is whole. None where nothing was.
        found: what is counted.
    """
    sleeps = sa.and_(workflow.c.status == WorkflowStatus.SUSPENDED.value, workflow.c.wake_at > now, workflow.c.created_at < since)
    unfinished = sa.select(workflow.c.ref, sa.case((sleeps, 1), else_=0).label("sleeps")).where(
        workflow.c.look_at.is_not(None), workflow.c.namespace == namespace
    )
    if until is not None:
        unfinished = unfinished.where(workflow.c.created_at < until)
    rows = sorted(ask(unfinished), key=lambda row: row.ref)
    for start in range(0, len(rows), BATCH):
        batch = {row.ref: bool(row.sleeps) for row in rows[start : start + BATCH]}
        asleep = {ref for ref, sleeps in batch.items() if sleeps}
        asleep -= _stirred(ask, now, sorted(asleep), since)
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


def _stirred(ask: Ask, now: sa.ColumnElement[int], refs: list[str], since: int) -> set[str]:
    """Those of some sleeping runs of which something was recorded since a time, or could have begun without their waking."""
    if not refs:
        return set()
    times = (step.c.created_at, step.c.sent_at, step.c.begun_at, step.c.ended_at, step.c.doubt_at)
    due = sa.and_(step.c.status.in_(literals([StepStatus.WAITING])), sa.func.coalesce(step.c.look_at, 0) <= now)
    open_ = step.c.status.in_(literals([StepStatus.PLANNED, StepStatus.BEGUN, StepStatus.IN_DOUBT]))
    stirred = sa.or_(*[at >= since for at in times], sa.and_(_OF_ITS_OWN, sa.or_(due, open_)))
    return {row.ref for row in ask(sa.select(step.c.ref).where(step.c.ref.in_(refs), stirred).distinct())}


def put_in_doubt(conn: Connection, refs: list[str], why: str, now: sa.ColumnElement[int], not_over: int) -> None:
    """Puts what is doubtful of some runs in doubt; functions are held until a person lets them go on."""
    text = f"the journal may have lost commits: {why}"
    here = step.c.ref.in_(refs)
    cause = Cause.LOST_COMMITS.value
    held = {"doubt": text, "cause": cause, "doubt_at": now, "evidence": text, "attention": Attention.DRIFT.value, "look_at": None}
    conn.execute(moving(StepStatus.HELD, held, here, FUNCTIONS))
    # What is begun may be running now, on a worker whose beats say so.
    over_at = sa.case((step.c.status == StepStatus.BEGUN.value, not_over), else_=now)
    doubted = {"over_at": over_at, "doubt": text, "cause": cause, "doubt_at": now, "look_at": now, "deadline_at": None}
    conn.execute(moving(StepStatus.IN_DOUBT, doubted, here, STEPS))
