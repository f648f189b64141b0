"""Times, spans and processes as people read them. Everything is UTC, and says so."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from ..model import SECOND, Death, Effect, StepRow, WorkerRow
from .commands import INLINE

_ID = re.compile(r"\b[0-9a-f]{32}\b")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What an engine's own people call things.

    Attributes:
        task: what is run, and has an id.
        message: what is sent.
        code: where its functions are.
        broker: where messages wait.
        option: what names the engine on the command line.
        worker: how a worker with the plugin is started.
        sweeps_for: stands behind "nobody sweeps", where that is not said of Celery.
        engine: its name.
    """

    task: str = "task"
    message: str = "message"
    code: str = "this app has no task named"
    broker: str = "the broker"
    option: str = "-A"
    worker: str = "a worker"
    sweeps_for: str = ""
    engine: str = "Celery"


_VOCABULARIES = {
    "rq": Vocabulary(
        task="job",
        message="job",
        code="this code has no function named",
        broker="Redis",
        option="-u",
        worker="a worker (`rq worker -w durable_adapter.rq.Worker`)",
        sweeps_for=" for RQ",
        engine="RQ",
    ),
    INLINE: Vocabulary(
        task="call",
        message="call",
        code="this code has no function named",
        broker="its program",
        option="",
        worker="the program that calls `durable_adapter.inline`",
        engine="the program",
    ),
}


def vocabulary(engine: str | None) -> Vocabulary:
    """The words of an engine."""
    return _VOCABULARIES.get(engine or "", Vocabulary())


def iso(at: int | None) -> str | None:
    """A stored time for machines: ISO 8601, UTC, microseconds."""
    return None if at is None else datetime.fromtimestamp(at / SECOND, UTC).isoformat(timespec="microseconds")


def moment(at: int) -> str:
    """A stored time for people.

    Example:
        >>> moment(1_763_881_869_000_000)
        '2025-11-23 07:11:09 UTC'
    """
    return datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short(at: int) -> str:
    """A stored time as `--since` takes it, without a space: whole seconds in UTC.

    Example:
        >>> short(1_763_881_869_999_999)
        '2025-11-23T07:11:09'
    """
    return datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def span(microseconds: int) -> str:
    """How long something took, in at most two units.

    Example:
        >>> span(8_040_000_000), span(400_000)
        ('2 h 14 min', '400 ms')
    """
    seconds = max(microseconds, 0) / SECOND
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "less than 1 ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    for unit, name, smaller, its_name in (
        (_HOUR, "min", 1, "s"),
        (_DAY, "h", _MINUTE, "min"),
        (float("inf"), "d", _HOUR, "h"),
    ):
        if seconds < unit:
            size = {"min": _MINUTE, "h": _HOUR, "d": _DAY}[name]
            large, rest = divmod(int(seconds), size)
            return f"{large} {name} {rest // smaller} {its_name}" if rest // smaller and large < 10 else f"{large} {name}"
    return f"{seconds:.0f} s"


def since(at: int | None, now: int) -> str:
    """A moment, with how long ago it was, or how far ahead it is."""
    if at is None:
        return "an unknown time"
    return f"{moment(at)} ({span(now - at)} ago)" if at <= now else f"{moment(at)} (in {span(at - now)})"


def process(worker: WorkerRow | None, worker_id: str | None) -> str:
    """A process by what an operator can log in to."""
    if worker is None:
        return f"process {worker_id[:8]}" if worker_id else "a process that is not recorded"
    return f"{worker.host} (pid {worker.pid})"


def fate(worker: WorkerRow | None, now: int, stale: int) -> str:
    """What is known of a process now: a clause to follow its name. *stale* is when its silence counts, in microseconds."""
    if worker is None:
        return "its row is gone from the journal"
    if worker.dead_at is not None:
        how = {
            Death.PARENT_SAW.value: "its parent saw it die",
            Death.STOOD_STILL.value: "it stopped beating and was declared dead",
        }.get(worker.death or "", "it is dead")
        return f"{how} at {moment(worker.dead_at)}"
    if worker.stopped_at is not None:
        return f"it stopped at {moment(worker.stopped_at)}"
    if worker.is_silent(now, stale):
        return f"it has not beaten for {span(now - worker.beat_at)}, and nobody has declared it dead"
    return f"it lives: its last beat was {span(now - worker.beat_at)} ago"


def with_places(text: str, workers: Mapping[str, WorkerRow]) -> str:
    """A text in which processes are named by their ids, with what an operator can log in to in their place."""
    return _ID.sub(lambda found: process(workers[found[0]], None) if found[0] in workers else found[0], text)


#: What is known of an effect: a clause to follow "its effect".
EFFECTS: dict[Any, str] = {
    Effect.UNKNOWN: "is not known",
    Effect.DID_NOT_HAPPEN: "did not happen",
    Effect.HAPPENED: "happened",
}


def status_words(status: StrEnum) -> str:
    """A status, or a kind of finding, as a person says it."""
    return status.value.replace("_", " ")


def sentence(text: str) -> str:
    """A text with a capital letter and a full stop; empty where it is empty."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def error_of(data: bytes | None) -> dict[str, str] | None:
    """The type and message of a recorded error; None where there is none, or it cannot be read."""
    try:
        failure = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(failure, dict):
        return None
    return {"type": str(failure.get("type", "")), "message": str(failure.get("message", ""))}


def error_type(error: Mapping[str, str] | None) -> str:
    """The type of an error without its module; empty where there is none."""
    return error["type"].rpartition(".")[2] if error is not None else ""


def error_line(error: Mapping[str, str]) -> str:
    """An error in one line."""
    lines = error["message"].strip().splitlines()
    return f"{error_type(error)}: {lines[0][:300]}" if lines else error_type(error)


def attempts(step: StepRow) -> str:
    """Which attempt this is, or how often it was tried."""
    return f"attempt {step.attempt}" if step.attempt else "no attempt"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "step"), plural(3, "step")
        ('1 step', '3 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
