"""What must be true of every schedule once nothing changes any more: the bank, the journal and the findings compared."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from durable_adapter.model import OPEN_STEPS, OPEN_WORKFLOWS, Effect, Kind, Safety, Shape, StepRow, StepStatus, WorkflowStatus
from durable_adapter.reconcile import Finding, Trouble, look_for_trouble

from .scenario import Step, Workflow

if TYPE_CHECKING:
    from .schedule import Schedule

DONE = frozenset({StepStatus.SUCCEEDED, StepStatus.UNDONE})


def judge(schedule: Schedule) -> list[str]:
    """What is wrong; empty where nothing is. Counts what became of the runs among the schedule's figures."""
    judgement = Judgement(schedule)
    for figure in judgement.figures():
        schedule.count(figure)
    return list(judgement.problems())


class Judgement:
    """One schedule's outcome, as the journal, the bank and reconciliation have it."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._bank = schedule.bank
        reads = schedule.stage.journal.reads
        refs = schedule.refs()
        self._runs = {run.id: run for run in reads.runs(refs).values()}
        self._rows: dict[str, StepRow] = {}
        for rows in reads.steps_of(refs).values():
            self._rows |= {row.name: row for row in rows}
        #: Steps of which a person said what was not so, or might not stay so.
        self._lied = {name for name, said, was in schedule.verdicts if said is not was}
        self._judged = {name for name, _, _ in schedule.verdicts}

    @cached_property
    def _found(self) -> list[Finding]:
        """What reconciliation reports; asked only where something is to be shown, which most schedules need not."""
        return look_for_trouble(self._schedule.stage.journal, namespace="default").findings

    def _is_shown(self, row: StepRow) -> bool:
        """Whether a step is in front of a person: by itself, or as a part of a rollback that failed."""
        if row.target is not None and any(f.ref == row.ref and f.kind is Trouble.ROLLBACK_FAILED for f in self._found):
            return True
        return any((finding.ref, finding.key) == (row.ref, row.key) for finding in self._found)

    def _is_twice(self, ref: str, key: str) -> bool:
        """Whether a step is shown as having happened twice, perhaps."""
        return any((f.ref, f.key) == (ref, key) and f.kind is Trouble.TWICE for f in self._found)

    def figures(self) -> Iterator[str]:
        """What became of the runs, and of steps that did not simply succeed."""
        for run in self._runs.values():
            yield f"run {run.status.value}"
        for row in self._rows.values():
            if row.status is StepStatus.HELD:
                yield f"held {row.safety.value}"
        for _ in self._schedule.twice:
            yield "twice"

    def problems(self) -> Iterator[str]:
        """Everything that is wrong."""
        for workflow in self._schedule.workflows:
            for step in workflow.every_step:
                yield from self._effects(step)
            yield from self._run(workflow)
        for ref, key in sorted(self._schedule.twice):
            if self._is_twice(ref, key):
                continue
            yield f"{key} of {ref} was marked as twice, and is no longer, although nobody acknowledged it"

    def _count(self, step: Step) -> int:
        return self._schedule.committed(step.name) if step.safety is Safety.TRANSACTIONAL else self._bank.count(step.name)

    def _effects(self, step: Step) -> Iterator[str]:
        """What happened of one step against what is recorded of it."""
        name, count, row = step.name, self._count(step), self._rows.get(step.name)
        if row is None:
            if count:
                yield f"{name} happened {count} times, and the journal has no row of it"
            return
        told = f"{name} ({step.safety.value}, {row.status.value}, effect {row.effect.value if row.effect else None})"
        if count > 1:
            yield from self._repeated(step, row, count, told)
        if row.status in DONE and not count and name not in self._lied:
            yield f"{told} is recorded, and never happened"
        if step.safety is Safety.TRANSACTIONAL and count and row.status not in DONE and name not in self._judged:
            yield f"{told} was committed, and is not recorded"
        if count and row.status not in DONE and not self._is_shown(row) and name not in self._judged:
            yield f"{told} happened {count} times, and that is neither recorded nor shown"
        if step.undo is not None:
            yield from self._undone(step, row, count)

    def _repeated(self, step: Step, row: StepRow, count: int, told: str) -> Iterator[str]:
        """An effect that happened more than once."""
        counted = [attempt for attempt in self._bank.of(step.name) if attempt.counted]
        dead = {process.name for process in self._schedule.processes if process.false_death}
        declared_dead = any(attempt.process in dead for attempt in counted)
        person = step.name in self._judged or step.name in self._schedule.retried
        excused = person or (declared_dead and step.safety is Safety.PROBE)
        if step.safety is Safety.TRANSACTIONAL or not excused:
            yield f"{told} happened {count} times"
        elif sum(attempt.reported and attempt.succeeded for attempt in counted) > 1 and not self._is_twice(row.ref, row.key):
            yield f"{told} happened {count} times, each attempt said so, and that is not shown as twice"

    def _undone(self, step: Step, row: StepRow, count: int) -> Iterator[str]:
        """Its compensation."""
        assert step.undo is not None
        undone, undo = self._count(step.undo), self._rows.get(step.undo.name)
        lied = {step.name, step.undo.name} & self._lied
        if undone and not count and not lied:
            yield f"{step.name} was undone, and never happened"
        if row.status is StepStatus.UNDONE and count and not undone and not lied:
            yield f"{step.name} is called undone, and was not"
        run = self._runs.get(self._workflow_of(step).name)
        if run is None or run.status is not WorkflowStatus.COMPENSATED or not count or undone:
            return
        if not self._is_shown(row) and not (undo is not None and self._is_shown(undo)) and not lied:
            yield f"its run is compensated, and {step.name} ({row.status.value}) happened, is not undone and not shown"

    def _workflow_of(self, step: Step) -> Workflow:
        return next(workflow for workflow in self._schedule.workflows if step in workflow.every_step)

    def _run(self, workflow: Workflow) -> Iterator[str]:
        """The run's status against its steps."""
        run = self._runs.get(workflow.name)
        if run is None:
            if any(self._count(step) for step in workflow.every_step):
                yield f"{workflow.name} has no run, and something of it happened"
            return
        rows = [row for row in self._rows.values() if row.ref == run.ref]
        told = f"{workflow.name} is {run.status.value}"
        if run.status in OPEN_WORKFLOWS:
            if not any(finding.ref == run.ref for finding in self._found):
                states = ", ".join(f"{row.name} {row.status.value}" for row in rows)
                yield f"{told}, nothing goes on, and nothing of it is shown ({states})"
            return
        for row in rows:
            # What was in doubt and has nothing that undoes it may be left for a person, where it is shown.
            left = run.status is not WorkflowStatus.SUCCEEDED and not (
                run.status is WorkflowStatus.COMPENSATED and row.compensation
            )
            if row.status in OPEN_STEPS and not (left and self._is_shown(row)):
                yield f"{told} with the open step {row.name}, which is {row.status.value}"
        if run.status is not WorkflowStatus.SUCCEEDED:
            return
        for row in rows:
            if row.kind is Kind.COMPENSATION:
                continue
            missing = row.status not in DONE if run.shape is Shape.CANVAS or row.kind is Kind.FUNCTION else False
            if missing or row.status in (StepStatus.CANCELLED, StepStatus.UNDONE):
                yield f"{told}, and its step {row.name} is {row.status.value}"
            if row.status is StepStatus.FAILED and row.effect is Effect.UNKNOWN and not self._is_shown(row):
                yield f"{told}, its step {row.name} failed with effect unknown, and that is not shown"
