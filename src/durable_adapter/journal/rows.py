"""Rows to nouns and back: the only place that knows in which column each field of the model lives."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

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
)

#: A row by the names of its columns, as SQLAlchemy has it or as it came straight from the driver.
Found = sa.Row[Any] | dict[str, Any]


def _json(value: Any) -> str | None:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if value else None


def _unjson(text: str | None, empty: Any) -> Any:
    return json.loads(text) if text else empty


def _stored(codec: str | None, data: bytes | None) -> Stored | None:
    return None if codec is None else Stored(codec, bytes(data or b""))


def _bytes(data: Any) -> bytes | None:
    return None if data is None else bytes(data)


def step_values(row: StepRow) -> dict[str, Any]:
    """The columns of a new step row; times are the caller's, and nobody has heard of its attempts yet."""
    return {
        "ref": row.ref,
        "key": row.key,
        "position": row.position,
        "name": row.name,
        "engine": row.engine,
        "kind": row.kind.value,
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
        "look_at": row.look_at,
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
    """The columns of a new workflow row; times are the caller's."""
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
        "wait_kind": row.wait_kind,
        "wait_key": row.wait_key,
    }


def step_row(row: Found) -> StepRow:
    """A step as read with every column of its table."""
    r = row if isinstance(row, dict) else row._mapping
    return StepRow(
        ref=r["ref"],
        key=r["key"],
        position=r["position"],
        name=r["name"],
        engine=r["engine"],
        kind=Kind(r["kind"]),
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
        effect=Effect(r["effect"]) if r["effect"] else None,
        safety=Safety(r["safety"]),
        options=_unjson(r["options"], {}),
        compensation=r["compensation"],
        pivot=bool(r["pivot"]),
        target=r["target"],
        message=_bytes(r["message"]),
        reference=r["reference"],
        look_at=r["look_at"],
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
        after=_unjson(r["after"], None),
        pending=r["pending"],
        completes_run=None if r["completes_run"] is None else bool(r["completes_run"]),
        cause=r["cause"],
        twice_at=r["twice_at"],
        generation=r["generation"],
        sends=r["sends"],
        probes=r["probes"],
        losses=r["losses"],
    )


def workflow_row(row: Found) -> WorkflowRow:
    """A run of a workflow as read with every column of its table."""
    r = row if isinstance(row, dict) else row._mapping
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
        attributes=_unjson(r["attributes"], {}),
        amount=r["amount"],
        waiting_for=r["waiting_for"],
        wake_at=r["wake_at"],
        look_at=r["look_at"],
        attention=r["attention"],
        resends=r["resends"],
        open_steps=r["open_steps"],
        created_at=r["created_at"],
        ended_at=r["ended_at"],
        pruned_at=r["pruned_at"],
        wait_kind=r["wait_kind"],
        wait_key=r["wait_key"],
        taken_back_at=r["taken_back_at"],
        wakes=r["wakes"],
    )


def worker_row(row: Found) -> WorkerRow:
    """A worker as read with every column of its table."""
    r = row if isinstance(row, dict) else row._mapping
    return WorkerRow(
        id=r["id"],
        role=r["role"],
        parent=r["parent"],
        host=r["host"],
        pid=r["pid"],
        engine=r["engine"],
        queues=_unjson(r["queues"], []),
        code_version=r["code_version"],
        beats=r["beats"],
        beat_at=r["beat_at"],
        previous_beat_at=r["previous_beat_at"],
        running=_unjson(r["running"], []),
        previously_running=_unjson(r["previously_running"], []),
        started_at=r["started_at"],
        stopped_at=r["stopped_at"],
        dead_at=r["dead_at"],
        death=r["death"],
        namespace=r["namespace"],
        beat_every=r["beat_every"],
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
