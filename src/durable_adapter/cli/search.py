"""From what a person has at hand (a workflow's id, a run's reference, a task's id) to the run and the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import NotResolvable, UnknownWorkflow

if TYPE_CHECKING:
    from ..journal import Journal
    from ..model import StepRow, WorkflowRow

#: Runs among the newest that are searched for a task's id, after everything that is unfinished.
SEARCHED = 20_000
#: Runs that are searched with one query.
BATCH = 1000


@dataclass
class Searched:
    """Which run an id names.

    Attributes:
        run: the run; the newest where there are several.
        task_id: the id named a step by its task's id: that id.
        others: references of other runs with the same task id, newest first.
    """

    run: WorkflowRow
    task_id: str | None = None
    others: list[str] = field(default_factory=list)


def find_run(journal: Journal, namespace: str, id: str, *, single: bool = False) -> Searched:
    """Finds a run by a workflow's id, its own reference, or the id of any of its tasks.

    The first three ways are reads of an index: the declared id, the reference, and the id of a chain's last task, with
    which the id of an undeclared run begins. The id of any other task has no index of its own (it would cost a write for
    every step): it is looked for among everything that is unfinished or marked, and then among the newest runs, by the
    primary key of their steps.

    Args:
        journal: the journal.
        namespace: whose workflows.
        id: what was given.
        single: the id must name one run, because something is about to be changed.

    Raises:
        UnknownWorkflow: nothing has that id, or only another namespace has; says where it was looked for.
        NotResolvable: *single* is asked for, and the id names several runs.
    """
    named, runs = journal.surveys.named(namespace, id)
    if named:
        found = named[0]
        if found.namespace != namespace:
            raise UnknownWorkflow(
                f"the run {id} is of namespace {found.namespace!r}, and this is {namespace!r}: give --namespace {found.namespace}"
            )
        return Searched(found)
    if not runs:
        refs = _with_task(journal, namespace, id)
        own = [run for run in journal.reads.runs(refs).values() if run.namespace == namespace]
        runs = sorted(own, key=lambda run: run.created_at, reverse=True)
    if not runs:
        raise UnknownWorkflow(
            f"the journal {journal.db.safe_url} has no workflow, run or task {id!r} in namespace {namespace!r} (task ids are "
            f"looked for among unfinished runs and the newest {SEARCHED:,}). The command `list` shows what there is."
        )
    if single and len(runs) > 1:
        refs_text = ", ".join(f"{run.ref} ({run.status.value})" for run in runs)
        raise NotResolvable(f"the task id {id!r} was published {len(runs)} times and names as many runs: {refs_text}. Name one.")
    return Searched(runs[0], task_id=id, others=[run.ref for run in runs[1:]])


def _with_task(journal: Journal, namespace: str, task_id: str) -> list[str]:
    """The runs with a step of a task id, as far as they are searched."""
    reads = journal.reads
    refs = list(reads.troubled_refs())
    found = _among(journal, refs, task_id)
    after = (0, "")
    while not found and (page := reads.unfinished_refs(namespace, 0, after=after, asleep=True)):
        found = reads.with_task([ref for _, ref in page], task_id)
        after = page[-1]
    before: int | None = None
    searched = 0
    while not found and searched < SEARCHED and (newest := reads.newest_refs(namespace, before=before, limit=BATCH)):
        found = reads.with_task([ref for _, ref in newest], task_id)
        before, searched = newest[-1][0], searched + len(newest)
    return found


def _among(journal: Journal, refs: Sequence[str], task_id: str) -> list[str]:
    for start in range(0, len(refs), BATCH):
        found = journal.reads.with_task(refs[start : start + BATCH], task_id)
        if found:
            return found
    return []


def find_step(run: WorkflowRow, steps: Sequence[StepRow], word: str) -> StepRow:
    """Finds a step of a run by its key, its name, the last part of its name, or its task's id.

    Raises:
        NotResolvable: no step, or more than one, is called so; says which there are.
    """
    for found in (
        [step for step in steps if step.key == word],
        [step for step in steps if step.task_id == word],
        [step for step in steps if step.name == word],
        [step for step in steps if step.name.rpartition(".")[2] == word],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            keys = ", ".join(f"{s.key!r} ({s.status.value})" for s in found)
            raise NotResolvable(f"{run.id} has {len(found)} steps named {word!r}; name one by its key: {keys}")
    names = ", ".join(s.name for s in steps) or "none"
    raise NotResolvable(f"{run.id} has no step {word!r}; its steps are: {names}")
