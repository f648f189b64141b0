"""Tasks that an engine ended on purpose (revoked, expired, rejected) before their bodies began.

A step that has begun is not ended by this: if its process dies, it is in doubt. One that has not begun is not sent again
automatically, because somebody ended it on purpose. The steps after it do not run either, and the run is shown together with
the command that lets it go on.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..model import Effect, StepRow, StepStatus, WorkflowRow, attempt_place
from . import alerts
from .engine import Engine, EngineEnd
from .values import write_failure

if TYPE_CHECKING:
    from ..journal import Journal


class Fate(enum.Enum):
    """What becomes of a step whose task the engine ended."""

    #: It ends: cancelled, or failed where a function or a rollback waits for it; held where it was in doubt.
    ENDED = "ended"
    #: It still has to run, and its message is sent again.
    GOES_ON = "goes_on"
    #: It has begun, or is over, or is no step of this journal: nothing changes.
    UNTOUCHED = "untouched"


def fate_of(step: StepRow, steps: Sequence[StepRow], end: EngineEnd, *, runs: bool, ordered_at: int | None) -> Fate:
    """Decides what becomes of a step whose task the engine ended.

    Args:
        step: the step.
        steps: every step of its run.
        end: how its task was ended.
        runs: a living process says that it runs the step now.
        ordered_at: when a person last ordered its run to go on.
    """
    if step.status not in (StepStatus.PLANNED, StepStatus.WAITING, StepStatus.IN_DOUBT):
        return Fate.UNTOUCHED
    if runs and not end.killed and step.status is StepStatus.PLANNED:
        return Fate.UNTOUCHED  # its first message is being run; a second one was ended
    called = step.kind.makes_calls and any(not s.kind.makes_calls for s in steps)
    if end.first_only and (step.attempt > 0 or called):
        return Fate.GOES_ON
    if ordered_at is not None and end.at is not None and end.at < ordered_at:
        return Fate.GOES_ON  # it was ended before a person ordered that it run
    return Fate.ENDED


def ended_by_engine(
    journal: Journal, ref: str, task_id: str, end: EngineEnd, *, engine: Engine | None = None, who: str | None = None
) -> Fate:
    """Records that an engine ended a task before it began. At most one commit.

    A step in doubt is held: its message would have settled the doubt, and only a person can now.

    Args:
        journal: the journal.
        ref: the run that the task belongs to.
        task_id: the engine's id of the task.
        end: how it was ended.
        engine: the engine; it tells those who wait for the step's result that it is held.
        who: the process that reports it.

    Returns:
        What becomes of the step. Where it goes on, the caller takes the task off the engine's list of ended ones, and the
        sweeper sends its message.
    """
    steps = journal.reads.steps(ref)
    step = next((s for s in steps if s.task_id == task_id), None)
    run = journal.reads.run(ref) if step is not None else None
    if step is None or run is None:
        return Fate.UNTOUCHED
    return end_step(journal, run, step, steps, end, engine=engine, who=who)


def end_step(
    journal: Journal,
    run: WorkflowRow,
    step: StepRow,
    steps: Sequence[StepRow],
    end: EngineEnd,
    *,
    engine: Engine | None = None,
    who: str | None = None,
) -> Fate:
    """Like `ended_by_engine`, for a step that was read already."""
    running = {attempt_place(name) for w in journal.workers.alive() for name in w.running}
    fate = fate_of(
        step,
        steps,
        end,
        runs=(run.ref, step.key) in running,
        ordered_at=journal.engine_ends.ordered_again_at(run.ref),
    )
    if fate is not Fate.ENDED:
        return fate
    if step.status is StepStatus.IN_DOUBT:
        why = f"{step.doubt or 'its outcome is unknown'}; {end.word}, so that it is not settled or repeated by itself"
        return Fate.ENDED if alerts.hold(journal, engine, step, why, who=who) else Fate.UNTOUCHED
    return Fate.ENDED if _end(journal, step, end, who) else Fate.UNTOUCHED


def _end(journal: Journal, step: StepRow, end: EngineEnd, who: str | None) -> bool:
    """Records the end. A step that its function or a rollback waits for fails; any other is cancelled."""
    if not step.kind.fails_run:
        failure = write_failure(end.error)
        return journal.ends.fail(step, None, failure, Effect.DID_NOT_HAPPEN, fails_run=False, why=end.word).recorded
    return journal.engine_ends.end(step, end.word, who=who)
