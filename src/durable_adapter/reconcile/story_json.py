"""The story of one run as JSON, for programs: the same facts as the English, with stable names."""

from __future__ import annotations

from typing import Any

from ..model import StepRow
from .blockers import unswept_shown
from .story import Story
from .telling import Telling
from .values import Values
from .words import error_of, iso, process


def shown(story: Story, values: Values) -> dict[str, Any]:
    """Returns the story as plain JSON data.

    Args:
        story: the facts.
        values: how values are shown.
    """
    run = story.run
    return {
        "workflow": {
            "id": run.id,
            "ref": run.ref,
            "run": run.run,
            "declared": run.declared,
            "namespace": run.namespace,
            "name": run.name,
            "shape": run.shape.value,
            "engine": run.engine,
            "status": run.status.value,
            "state": Telling(story, values).state,
            "attributes": run.attributes if values.show else sorted(run.attributes),
            "parent": run.parent,
            "code_version": run.code_version,
            "waiting_for": run.waiting_for,
            "wake_at": iso(run.wake_at),
            "created_at": iso(run.created_at),
            "ended_at": iso(run.ended_at),
            "attention": run.attention,
            "pruned_at": iso(run.pruned_at),
            "error": error_of(run.error),
        },
        "steps": [_step_shown(story, values, step) for step in story.steps],
        "events": [
            {
                "at": iso(e["at"]),
                "kind": e["kind"],
                "key": e["key"],
                "who": e["who"],
                "why": e["why"],
                "detail": values.detail(e["detail"]),
            }
            for e in story.events
        ],
        "next_check_at": iso(story.next_check_at),
        "unswept": unswept_shown(story.unswept),
        "findings": [f.shown() for f in story.all_findings],
        "next": [{"when": r.when, "command": r.command} for r in story.remedies],
    }


def _step_shown(story: Story, values: Values, step: StepRow) -> dict[str, Any]:
    return {
        "key": step.key,
        "position": step.position,
        "name": step.name,
        "kind": step.kind.name,
        "status": step.status.value,
        "safety": step.safety.value,
        "attempt": step.attempt,
        "takeovers": step.takeovers,
        "task_id": step.task_id,
        "queue": step.queue,
        "worker": process(story.workers.get(step.worker), step.worker) if step.worker is not None else None,
        "begun_at": iso(step.begun_at),
        "ended_at": iso(step.ended_at),
        "next_check_at": iso(step.next_check_at),
        "cause": step.cause,
        "doubt": step.doubt,
        "doubt_at": iso(step.doubt_at),
        "evidence": step.evidence,
        "verdict": step.verdict,
        "effect": step.effect.value if step.effect is not None else None,
        "attention": step.attention,
        "twice_at": iso(step.twice_at),
        "reference": step.reference,
        "heartbeat_at": iso(step.heartbeat_at),
        "details": values.details(step),
        "undoes": step.target,
        "arguments": values.arguments(story.run, step),
        "outcome": values.outcome(step),
        "error": error_of(step.error),
        "engine_says": story.said.get(step.key),
    }
