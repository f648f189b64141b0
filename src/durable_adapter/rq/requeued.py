"""A job that failed for good and that RQ runs once more: `rq requeue --all`, or somebody's "Requeue" in a dashboard.

It is how RQ's users recover, and here it runs nothing: a step that has failed is tried again by a person's order. So whoever
looks into the worker's log is told what to type.
"""

from __future__ import annotations

import logging
import shlex
from typing import TYPE_CHECKING

from ..errors import JournalError
from ..model import DEFAULT_NAMESPACE, StepStatus
from .binding import Binding

if TYPE_CHECKING:
    from rq.job import Job

    from ..model import StepRow, WorkflowRow
    from ..runtime.calls import Call

logger = logging.getLogger("durable_adapter")


def warn_if_requeued(binding: Binding, job: Job, call: Call) -> None:
    """Says that nothing was run, and how it would be, where a delivery only met the recorded failure of its step."""
    if call.attempts:
        return
    try:
        row = call.row or binding.journal.claims.get(call.ref, call.key)
        if row is None or row.status is not StepStatus.FAILED:
            return
        run = binding.journal.reads.run(row.ref)
    except JournalError:
        return  # what was raised says what is the matter
    logger.warning(
        "step_not_run_again workflow=%s step=%s job=%s reason=%s msg=%s",
        _word(run, row),
        row.key,
        job.id,
        "failed_for_good",
        '"It failed for good before, so that a requeue runs nothing: the recorded error was raised again. To see what a new '
        f'attempt would do: {_command(run, row)}"',
    )


def _word(run: WorkflowRow | None, row: StepRow) -> str:
    return shlex.quote(run.id if run is not None and run.declared and run.run == 1 else row.ref)


def _command(run: WorkflowRow | None, row: StepRow) -> str:
    words = ["durable-adapter -u REDIS_URL retry"]
    if run is not None and run.namespace != DEFAULT_NAMESPACE:
        words += ["--namespace", shlex.quote(run.namespace)]
    return " ".join([*words, "--", _word(run, row)])
