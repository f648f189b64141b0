"""A workflow found again by the id that the business knows: what every binding's own `handle()` is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UnknownWorkflow
from ..model import StepRow, WorkflowRow, WorkflowStatus

if TYPE_CHECKING:
    from ..journal import Journal


@dataclass(frozen=True)
class Found:
    """One run, as it was found, and the journal that has it."""

    journal: Journal
    run: WorkflowRow

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self.run.id

    @property
    def status(self) -> WorkflowStatus:
        """Where the run stands now: read afresh."""
        found = self.journal.reads.run(self.run.ref)
        return found.status if found is not None else self.run.status

    def steps(self) -> list[StepRow]:
        """Its steps, by position: read afresh."""
        return self.journal.reads.steps(self.run.ref)


def find(journal: Journal, workflow_id: str) -> WorkflowRow:
    """The latest run of a workflow.

    Raises:
        UnknownWorkflow: the journal has none under that id.
    """
    found = journal.reads.latest(journal.namespace, workflow_id)
    if found is None:
        raise UnknownWorkflow(
            f"the journal {journal.db.safe_url} has no workflow {workflow_id!r} in namespace {journal.namespace!r}. "
            "See `durable-adapter list`."
        )
    return found
