"""Converts table rows to objects of the model and back: the only place that maps fields to columns.

A row that this release cannot read (a value of a newer revision, damaged JSON) raises `UnreadableRow`, and nothing else. Reads of
several rows use `readable`, which skips and reports such rows: one row never stops a sweep or a report (P11).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import sqlalchemy as sa

from ..errors import UnreadableRow
from ..model import (
    Effect,
    Kind,
    Mode,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    Stored,
    WorkerRow,
    WorkflowRow,
    WorkflowStatus,
    check_transition,
    kind_named,
)
from .schema import step, worker, workflow

#: A row by column name: a SQLAlchemy row, or a dictionary with the driver's values.
Found = sa.Row[Any] | dict[str, Any]


def _json(value: Any) -> str | None:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if value else None


def _mapping(text: str | None) -> dict[str, Any]:
    """Reads a JSON object; an empty one if the column is NULL."""
    found = json.loads(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _names(text: str | None) -> list[str]:
    """Reads a JSON list of texts; an empty one if the column is NULL."""
    found = json.loads(text) if text else []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("it is not a JSON list of texts")
    return found


def _optional_names(text: str | None) -> list[str] | None:
    return None if text is None else _names(text)


def _optional_effect(text: str | None) -> Effect | None:
    return Effect(text) if text else None


def _stored(codec: str | None, data: bytes | None) -> Stored | None:
    return None if codec is None else Stored(codec, bytes(data or b""))


def _bytes(data: Any) -> bytes | None:
    return None if data is None else bytes(data)


def _attempts(text: str | None) -> list[str]:
    """Reads a JSON list of attempts' names: run, token and key."""
    found = _names(text)
    if not all(name.count(" ") >= 2 for name in found):
        raise ValueError("it is not a JSON list of attempts")
    return found


#: The errors that reading a damaged value raises.
_DAMAGED = (ValueError, TypeError, RecursionError)
#: The readers of columns that may hold values unknown to this release.
_STEP_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "kind": kind_named, "status": StepStatus, "effect": _optional_effect, "safety": Safety, "options": _mapping,
    "after": _optional_names, "message": _bytes, "error": _bytes, "arguments": _bytes, "outcome": _bytes,
}  # fmt: skip
_WORKFLOW_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "shape": Shape, "mode": Mode, "status": WorkflowStatus, "attributes": _mapping, "plan": _bytes, "error": _bytes,
    "arguments": _bytes, "outcome": _bytes,
}  # fmt: skip
_WORKER_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "queues": _names, "running": _attempts, "previously_running": _attempts,
}  # fmt: skip


def _numbers(table: sa.Table) -> tuple[str, ...]:
    return tuple(c.name for c in table.c if isinstance(c.type, sa.Integer))


#: The integer columns. SQLite stores any type in them.
_STEP_NUMBERS, _WORKFLOW_NUMBERS, _WORKER_NUMBERS = _numbers(step), _numbers(workflow), _numbers(worker)


def _check_numbers(r: Any, columns: tuple[str, ...]) -> None:
    for name in columns:
        value = r.get(name)
        if value is not None and value.__class__ is not int:
            raise ValueError(f"{name} is {str(value)[:40]!r}, which is no whole number")


def _wrong(r: Any, columns: dict[str, Callable[[Any], Any]], error: Exception) -> str:
    """Returns which column of a row cannot be read, and why."""
    for name, read in columns.items():
        try:
            read(r[name])
        except RecursionError:
            return f"its column {name} is nested too deeply"
        except (ValueError, TypeError) as wrong:
            return f"its column {name} holds {_word(r[name])[:60]!r}: {wrong}"
    return str(error)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


Noun = TypeVar("Noun")


def readable(
    make: Callable[[Any], Noun], rows: Iterable[Any], unreadable: list[UnreadableRow] | None = None
) -> list[tuple[Any, Noun]]:
    """Converts the rows that this release can read.

    Args:
        make: the conversion: `step_row`, `workflow_row` or `worker_row`.
        rows: the rows.
        unreadable: receives an error for each of the other rows, for the caller to report.

    Returns:
        Each row with its object.
    """
    found: list[tuple[Any, Noun]] = []
    for row in rows:
        try:
            found.append((row, make(row)))
        except UnreadableRow as error:
            if unreadable is not None:
                unreadable.append(error)
    return found


def step_values(row: StepRow) -> dict[str, Any]:
    """Returns the columns of a new step row; the caller adds the times.

    Raises:
        IllegalTransition: no step begins in its status.
    """
    check_transition(None, row.status)
    return {
        "ref": row.ref,
        "key": row.key,
        "position": row.position,
        "name": row.name,
        "engine": row.engine,
        "kind": row.kind.name,
        "status": row.status.value,
        "attempt": row.attempt,
        "takeovers": row.takeovers,
        "token": row.token,
        "worker": row.worker,
        "queue": row.queue,
        "task_id": row.task_id,
        "arguments": row.arguments.data if row.arguments else None,
        "arguments_codec": row.arguments.codec if row.arguments else None,
        "fingerprint": row.fingerprint,
        "outcome": row.outcome.data if row.outcome else None,
        "outcome_codec": row.outcome.codec if row.outcome else None,
        "error": row.error,
        "effect": row.effect.value if row.effect else None,
        "safety": row.safety.value,
        "options": _json(row.options),
        "compensation": row.compensation,
        "pivot": row.pivot,
        "target": row.target,
        "message": row.message,
        "reference": row.reference,
        "next_check_at": row.next_check_at,
        "over_at": row.over_at,
        "deadline_at": row.deadline_at,
        "doubt": row.doubt,
        "doubt_at": row.doubt_at,
        "evidence": row.evidence,
        "verdict": row.verdict,
        "attention": row.attention,
        "sent_at": row.sent_at,
        "after": None if row.after is None else json.dumps(row.after, separators=(",", ":"), ensure_ascii=False),
        "pending": row.pending,
        "completes_run": row.completes_run,
        "cause": row.cause,
        "twice_at": row.twice_at,
        "generation": row.generation,
    }


def workflow_values(row: WorkflowRow) -> dict[str, Any]:
    """Returns the columns of a new workflow row; the caller adds the times."""
    return {
        "ref": row.ref,
        "namespace": row.namespace,
        "id": row.id,
        "run": row.run,
        "name": row.name,
        "shape": row.shape.value,
        "engine": row.engine,
        "mode": row.mode.value,
        "status": row.status.value,
        "declared": row.declared,
        "fingerprint": row.fingerprint,
        "arguments": row.arguments.data if row.arguments else None,
        "arguments_codec": row.arguments.codec if row.arguments else None,
        "plan": row.plan,
        "parent": row.parent,
        "code_version": row.code_version,
        "attributes": _json(row.attributes),
        "amount": row.amount,
        "waiting_for": row.waiting_for,
        "wake_at": row.wake_at,
        "resends": row.resends,
        "open_steps": row.open_steps,
    }


def step_row(row: Found) -> StepRow:
    """Converts a row with every column of the step table.

    Raises:
        UnreadableRow: this release cannot read it.
    """
    r = row if isinstance(row, dict) else row._mapping
    try:
        _check_numbers(r, _STEP_NUMBERS)
        return _step(r)
    except _DAMAGED as error:
        raise UnreadableRow(_word(r["ref"]), _word(r["key"]), _wrong(r, _STEP_COLUMNS, error)) from error


def _step(r: Any) -> StepRow:
    options = _mapping(r["options"])  # rows of revision 0001 keep values here that have their own columns now
    return StepRow(
        ref=r["ref"],
        key=r["key"],
        position=r["position"],
        name=r["name"],
        engine=r["engine"],
        kind=kind_named(r["kind"]),
        status=StepStatus(r["status"]),
        attempt=r["attempt"],
        takeovers=r["takeovers"],
        token=r["token"],
        worker=r["worker"],
        queue=r["queue"],
        task_id=r["task_id"],
        arguments=_stored(r["arguments_codec"], r["arguments"]),
        fingerprint=r["fingerprint"],
        outcome=_stored(r["outcome_codec"], r["outcome"]),
        error=_bytes(r["error"]),
        effect=_optional_effect(r["effect"]),
        safety=Safety(r["safety"]),
        options=options,
        compensation=r["compensation"],
        pivot=bool(r["pivot"]),
        target=r["target"],
        message=_bytes(r["message"]),
        reference=r["reference"],
        next_check_at=r["next_check_at"],
        over_at=r["over_at"],
        deadline_at=r["deadline_at"],
        heartbeat_at=r["heartbeat_at"],
        details=r["details"],
        doubt=r["doubt"],
        doubt_at=r["doubt_at"],
        evidence=r["evidence"],
        verdict=r["verdict"],
        attention=r["attention"],
        created_at=r["created_at"],
        sent_at=r["sent_at"],
        begun_at=r["begun_at"],
        ended_at=r["ended_at"],
        after=options.pop("after", None) if r["after"] is None else _optional_names(r["after"]),
        pending=r["pending"],
        completes_run=bool(options.pop("counts", False) if r["completes_run"] is None else r["completes_run"]),
        cause=r["cause"],
        twice_at=r["twice_at"],
        first_begun_at=r["first_begun_at"],
        generation=r["generation"],
        sends=r["sends"],
        losses=r["losses"],
    )


def workflow_row(row: Found) -> WorkflowRow:
    """Converts a row with every column of the workflow table.

    Raises:
        UnreadableRow: this release cannot read it.
    """
    r = row if isinstance(row, dict) else row._mapping
    try:
        _check_numbers(r, _WORKFLOW_NUMBERS)
        return _workflow(r)
    except _DAMAGED as error:
        why = _wrong(r, _WORKFLOW_COLUMNS, error)
        raise UnreadableRow(_word(r["ref"]), None, why, namespace=_word(r["namespace"]), id=_word(r["id"])) from error


def _workflow(r: Any) -> WorkflowRow:
    return WorkflowRow(
        ref=r["ref"],
        namespace=r["namespace"],
        id=r["id"],
        run=r["run"],
        name=r["name"],
        shape=Shape(r["shape"]),
        engine=r["engine"],
        mode=Mode(r["mode"]),
        status=WorkflowStatus(r["status"]),
        declared=bool(r["declared"]),
        fingerprint=r["fingerprint"],
        arguments=_stored(r["arguments_codec"], r["arguments"]),
        plan=_bytes(r["plan"]),
        outcome=_stored(r["outcome_codec"], r["outcome"]),
        error=_bytes(r["error"]),
        parent=r["parent"],
        code_version=r["code_version"],
        attributes=_mapping(r["attributes"]),
        amount=r["amount"],
        waiting_for=r["waiting_for"],
        wake_at=r["wake_at"],
        next_check_at=r["next_check_at"],
        attention=r["attention"],
        resends=r["resends"],
        open_steps=r["open_steps"],
        created_at=r["created_at"],
        ended_at=r["ended_at"],
        pruned_at=r["pruned_at"],
    )


def worker_row(row: Found) -> WorkerRow:
    """Converts a row with every column of the worker table.

    Raises:
        UnreadableRow: this release cannot read it.
    """
    r = row if isinstance(row, dict) else row._mapping
    try:
        _check_numbers(r, _WORKER_NUMBERS)
        return _worker(r)
    except _DAMAGED as error:
        raise UnreadableRow(_word(r["id"]), None, f"as a worker's row, {_wrong(r, _WORKER_COLUMNS, error)}") from error


def _worker(r: Any) -> WorkerRow:
    return WorkerRow(
        id=r["id"],
        role=r["role"],
        parent=r["parent"],
        host=r["host"],
        pid=r["pid"],
        engine=r["engine"],
        queues=_names(r["queues"]),
        code_version=r["code_version"],
        beats=r["beats"],
        beat_at=r["beat_at"],
        previous_beat_at=r["previous_beat_at"],
        running=_attempts(r["running"]),
        previously_running=_attempts(r["previously_running"]),
        started_at=r["started_at"],
        stopped_at=r["stopped_at"],
        dead_at=r["dead_at"],
        death=r["death"],
        namespace=r["namespace"],
        beat_every=r["beat_every"],
        clock_at=r["clock_at"],
    )


#: The columns that `step_values` and `workflow_values` fill.
STEP_COLUMNS = tuple(step_values(StepRow(ref="", key="", position=0, name="", kind=Kind.STEP, status=StepStatus.PLANNED)))
WORKFLOW_COLUMNS = tuple(
    workflow_values(
        WorkflowRow(
            ref="", namespace="", id="", run=1, name="", shape=Shape.CANVAS, engine="", mode=Mode.ENFORCE,
            status=WorkflowStatus.RUNNING,
        )
    )
)  # fmt: skip


def inserting_step(now: sa.ColumnElement[int]) -> sa.Insert:
    """Returns the statement that inserts a step with the values of `step_values`."""
    return sa.insert(step).values({name: sa.bindparam(name) for name in STEP_COLUMNS} | {"created_at": now})
