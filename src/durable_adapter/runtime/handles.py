"""Finding a workflow by its id: the common part of every binding's `handle()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UnknownWorkflow
from ..model import StepRow, WorkflowRow, WorkflowStatus

if TYPE_CHECKING:
    from ..journal import Journal


@dataclass(frozen=True)
class Found:
    """A run, as it was when it was found, and its journal."""

    journal: Journal
    run: WorkflowRow

    @property
    def id(self) -> str:
        """The workflow's id."""
        return self.run.id

    @property
    def status(self) -> WorkflowStatus:
        """The run's status now; read from the journal each time."""
        found = self.journal.reads.run(self.run.ref)
        return found.status if found is not None else self.run.status

    def steps(self) -> list[StepRow]:
        """Returns its steps, by position; read from the journal each time."""
        return self.journal.reads.steps(self.run.ref)


def find(journal: Journal, workflow_id: str) -> WorkflowRow:
    """Returns the latest run of a workflow.

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
