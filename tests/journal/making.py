"""Makes runs, steps and workers in a journal, and shows what became of them, in as few words as a test needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.journal import Journal
from durable_adapter.journal.doubts import NOT_OVER
from durable_adapter.journal.rows import step_row
from durable_adapter.journal.schema import metadata, step, worker, workflow
from durable_adapter.model import (
    SECOND,
    Cause,
    Effect,
    Event,
    Kind,
    Mode,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkerRow,
    WorkflowRow,
    WorkflowStatus,
    new_ref,
    new_token,
)

MINUTE = 60 * SECOND
ONE = Stored("json/1", b"1")
TWO = Stored("json/1", b"2")
NOTHING = Stored("json/1", b"null")
DECLINED = b'{"type": "CardDeclined"}'
TIMED_OUT = b'{"type": "TimeoutError"}'


def a_worker(journal: Journal, id: str = "w1", **given: Any) -> str:
    """Registers a worker and returns its id."""
    row: dict[str, Any] = {
        "role": "worker",
        "parent": None,
        "host": "here",
        "pid": 1,
        "engine": "celery",
        "queues": ["celery"],
        "code_version": None,
        "beats": 0,
        "beat_at": 0,
        "previous_beat_at": 0,
        "running": [],
        "previously_running": [],
        "started_at": 0,
    }
    journal.workers.register(WorkerRow(id=id, **(row | given)))
    return id


def change_worker(journal: Journal, id: str, **values: Any) -> None:
    """Changes a process's row behind the journal's back: its beat, mostly."""
    journal.db.transaction(lambda conn: conn.execute(sa.update(worker).where(worker.c.id == id).values(**values)))


def a_step(key: str, **given: Any) -> StepRow:
    """A planned step; its run and position are filled in by `a_run`."""
    row: dict[str, Any] = {"ref": "", "position": 0, "name": key, "kind": Kind.STEP, "status": StepStatus.PLANNED}
    return StepRow(key=key, **(row | given))


def a_call(ref: str, key: str, position: int = 1, **given: Any) -> StepRow:
    """A step of a function, as the claim that inserts it gets it."""
    row: dict[str, Any] = {"status": StepStatus.BEGUN, "token": new_token(), "worker": "w1"}
    return a_step(key, ref=ref, position=position, **(row | given))


def a_dispatch(ref: str, key: str, position: int = 1, **given: Any) -> StepRow:
    """A step that a function sends to a worker of its own."""
    return a_step(key, ref=ref, position=position, **({"kind": Kind.DISPATCH, "completes_run": True} | given))


def a_run(journal: Journal, *steps: StepRow | str, **given: Any) -> str:
    """Starts a run with these steps, in this order, and returns its reference. Its last step ends it."""
    ref = given.pop("ref", None) or new_ref()
    rows = [a_step(s) if isinstance(s, str) else s for s in steps]
    for position, row in enumerate(rows):
        row.ref, row.position = ref, position
    if given.get("shape", Shape.CANVAS) is Shape.CANVAS and all(row.after is None for row in rows):
        for before, row in zip([None, *rows], rows, strict=False):  # a chain
            row.after, row.pending = ([], 0) if before is None else ([before.key], 1)
    if rows and "open_steps" not in given and not any(row.completes_run for row in rows):
        rows[-1].completes_run = True
    assert journal.starts.start(a_workflow(ref, **given), rows)
    return ref


def a_workflow(ref: str, **given: Any) -> WorkflowRow:
    """A running workflow with one step left that counts."""
    row: dict[str, Any] = {
        "namespace": "default",
        "id": f"order-{ref}",
        "run": 1,
        "name": "order",
        "shape": Shape.CANVAS,
        "engine": "celery",
        "mode": Mode.ENFORCE,
        "status": WorkflowStatus.RUNNING,
        "open_steps": 1,
    }
    return WorkflowRow(ref=ref, **(row | given))


def a_function(journal: Journal, **given: Any) -> str:
    """Starts a workflow function, which is a step of its own run, and returns the run's reference."""
    return a_run(journal, a_step("function", name="order", kind=Kind.FUNCTION), shape=Shape.FUNCTION, **given)


def claim(journal: Journal, ref: str, key: str, worker: str = "w1", timeout: int | None = None) -> str:
    """Claims a step, which must work, and returns the token."""
    token = new_token()
    safety = the(journal, ref, key).safety
    assert journal.claims.begin(ref, key, token, worker, timeout, safety=safety), the(journal, ref, key)
    return token


def succeed(journal: Journal, ref: str, *keys: str, outcome: Stored = ONE, completes_run: bool = False) -> None:
    """Claims steps and records their success, one after the other."""
    for key in keys:
        assert journal.ends.succeed(ref, key, claim(journal, ref, key), outcome, completes_run=completes_run)


def fail(journal: Journal, ref: str, key: str, effect: Effect = Effect.DID_NOT_HAPPEN, **given: Any) -> Any:
    """Claims a step and records that it failed for good; returns what that released."""
    token = claim(journal, ref, key)
    return journal.ends.fail(the(journal, ref, key), token, DECLINED, effect, **({"fails_run": True} | given))


def in_doubt(journal: Journal, ref: str, key: str, why: str = "its worker died", **given: Any) -> StepRow:
    """Claims a step, puts it in doubt, and returns its row."""
    token = claim(journal, ref, key)
    assert journal.doubts.raise_doubt(the(journal, ref, key), token, why, cause=Cause.WORKER_DIED, **({"over": True} | given))
    return the(journal, ref, key)


def held(journal: Journal, ref: str, key: str) -> StepRow:
    """Claims a step, puts it in doubt, holds it, and returns its row."""
    assert journal.doubts.hold(in_doubt(journal, ref, key), "nobody can tell")
    return the(journal, ref, key)


def the(journal: Journal, ref: str, key: str) -> StepRow:
    """A step that must be there."""
    found = journal.claims.get(ref, key)
    assert found is not None, f"no step {key}"
    return found


def the_run(journal: Journal, ref: str) -> WorkflowRow:
    """A run that must be there."""
    found = journal.reads.run(ref)
    assert found is not None
    return found


def statuses(journal: Journal, ref: str) -> dict[str, str]:
    """Every step's status by key, and the run's own under `run`."""
    return {"run": the_run(journal, ref).status.value} | {s.key: s.status.value for s in journal.reads.steps(ref)}


def events(journal: Journal, ref: str) -> list[Event]:
    """What the log tells of a run."""
    return [Event(found["kind"]) for found in journal.events.of(ref)]


def change(journal: Journal, ref: str, key: str | None = None, **values: Any) -> None:
    """Changes a row behind the journal's back: the clock, mostly."""
    statement: Any = sa.update(workflow).where(workflow.c.ref == ref)
    if key is not None:
        statement = sa.update(step).where(step.c.ref == ref, step.c.key == key)
    journal.db.transaction(lambda conn: conn.execute(statement.values(**values)))


def marked(journal: Journal) -> list[StepRow]:
    """Steps that a person should look at although nothing about them is under way."""
    shown = sa.or_(step.c.attention.is_not(None), step.c.twice_at.is_not(None))
    return [step_row(row) for row in journal.db.select(sa.select(step).where(shown))]


def age(journal: Journal, ref: str, key: str | None = None, *columns: str, by: int = 60 * MINUTE) -> None:
    """Moves times of a row into the past; every time that it has, if none is named."""
    table = workflow if key is None else step
    there = table.c if not columns else [table.c[name] for name in columns]
    change(journal, ref, key, **{c.name: _earlier(c, by) for c in there if c.name.endswith("_at")})


def _earlier(column: sa.Column[Any], by: int) -> sa.Case[Any]:
    """A time that much earlier; what stands for no time stays what it is."""
    return sa.case((column >= NOT_OVER, column), else_=column - by)


def rows(journal: Journal, *statements: Any) -> list[Any]:
    """Runs reading statements and returns all their rows."""
    return [row for statement in statements for row in journal.db.select(statement)]


def empty(journal: Journal) -> None:
    """Deletes everything."""
    for table in reversed(metadata.sorted_tables):
        journal.db.transaction(lambda conn, table=table: conn.execute(sa.delete(table)))  # type: ignore[misc]


def about(at: int | None) -> Any:
    """Equal to a time within a second: the database's clock goes on between two columns of one statement."""
    return pytest.approx(at, abs=SECOND)


def keys(found: Iterable[StepRow]) -> Sequence[str]:
    """The keys of steps, sorted."""
    return sorted(row.key for row in found)
