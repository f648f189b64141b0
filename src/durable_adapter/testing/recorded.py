"""The test journal as a test sees it: workflows and steps as plain, comparable values, and a clock that can be advanced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import UnknownWorkflow
from ..model import Kind, StepRow, StepStatus, WorkflowRow, WorkflowStatus
from ..runtime.handles import Found
from ..runtime.plans import recorded
from ..runtime.values import read_failure

if TYPE_CHECKING:
    from ..runtime.marked import Marked
    from .harness import Driver, Harness


@contextlib.contextmanager
def redirected(url: str, *, app: Any = None, redis: Any = None) -> Iterator[Harness]:
    """Has durable calls of this process run in it, until the block ends.

    Args:
        url: SQLAlchemy URL of an empty journal on SQLite.
        app: the Celery app whose messages are kept, if any.
        redis: the Redis in which RQ's jobs are kept, if any.
    """
    from ..journal import Journal
    from .harness import Harness
    from .inline import hooked as hooked_inline

    with contextlib.ExitStack() as hooks:
        drivers: list[Driver] = []
        if app is not None:
            from .celery import hooked as hooked_celery

            drivers.append(hooks.enter_context(hooked_celery(app, url)))
        if redis is not None:
            from .rq import hooked as hooked_rq

            drivers.append(hooks.enter_context(hooked_rq(redis, url)))
        drivers.append(hooks.enter_context(hooked_inline(url)))
        namespace = drivers[0].binding.settings.namespace
        with Harness(Journal(url, namespace=namespace), drivers) as here:
            yield here


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One step as the journal has it. Equal to another one that says the same, and to a text such as `"charge: failed"`.

    Attributes:
        name: the step's name without its module, as `charge`.
        full_name: its name in the journal.
        kind: `step`, `dispatch`, `sleep`, `compensation`, `unmarked` or `function`.
        status: `succeeded`, `failed`, `held`, `waiting`, `undone` and so on.
        attempts: how many attempts there were.
        value: what it returned, where it succeeded.
        error: what it raised, where it failed or is tried again.
        why: why it is in doubt or held.
        reference: what `durable.external_reference()` was given.
        key: its key in the journal.
    """

    name: str
    full_name: str
    kind: Kind
    status: StepStatus
    attempts: int
    key: str
    value: Any = field(default=None, repr=False)
    error: Exception | None = field(default=None, repr=False)
    why: str = field(default="", repr=False)
    reference: str | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """The step in one line: `charge: succeeded`."""
        return f"{self.name}: {self.status.value}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return other in (self.text, f"{self.full_name}: {self.status.value}")
        return isinstance(other, RecordedStep) and (self.key, self.text) == (other.key, other.text)

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return repr(self.text)


@dataclass(frozen=True)
class RecordedWorkflow:
    """One run of a workflow as the journal has it.

    Attributes:
        id: its id: the declared one, or one that the journal made.
        name: its name.
        status: `running`, `suspended`, `succeeded`, `failed`, `compensated` and so on.
        steps: its steps in their order; those that undo others at the end.
        attributes: the searchable attributes that were declared.
    """

    id: str
    name: str
    status: WorkflowStatus
    steps: list[RecordedStep]
    attributes: dict[str, Any]

    def step(self, name: str) -> RecordedStep:
        """The step of that name; the first one, where there are several.

        Raises:
            LookupError: there is none; the message names those that there are.
        """
        for step in self.steps:
            if name in (step.name, step.full_name, step.key):
                return step
        raise LookupError(f"workflow {self.id} has no step {name!r}; it has {', '.join(map(repr, self.steps)) or 'none'}")

    @property
    def value(self) -> Any:
        """Returns what the function returned, or the last member of a chain."""
        own = self._own
        return own.value if own is not None else None

    @property
    def error(self) -> Exception | None:
        """Returns the error that it failed with."""
        return next((step.error for step in self.steps if step.status is StepStatus.FAILED), None)

    @property
    def _own(self) -> RecordedStep | None:
        functions = [step for step in self.steps if step.kind.makes_calls]
        members = [step for step in self.steps if not step.kind.undoes]
        return functions[0] if functions else members[-1] if members else None


class TestJournal:
    """The journal of one test. Made by the fixture `durable_journal`."""

    __test__ = False

    def __init__(self, here: Harness) -> None:
        self._here = here

    @property
    def url(self) -> str:
        """The journal's URL: for a tool, or for a look at it with SQL."""
        return self._here.journal.db.safe_url

    def workflow(self, which: Any) -> RecordedWorkflow:
        """One workflow, by its id or its handle, or by the result, the job or the task id of any of its tasks; its latest run.

        Raises:
            UnknownWorkflow: the journal has none; the message names those that there are.
        """
        return self._recorded(self._run(which))

    def workflows(self) -> list[RecordedWorkflow]:
        """Every workflow, oldest first."""
        return [self._recorded(run) for run in self._runs()]

    def steps(self, which: Any) -> list[RecordedStep]:
        """The steps of one workflow, without the function itself: `["charge: succeeded", "ship: failed"]`."""
        return [step for step in self.workflow(which).steps if not step.kind.makes_calls]

    def step(self, which: Any, name: str) -> RecordedStep:
        """One step of one workflow."""
        return self.workflow(which).step(name)

    def held(self) -> list[RecordedStep]:
        """Every step that only a person may decide about."""
        return [step for workflow in self.workflows() for step in workflow.steps if step.status is StepStatus.HELD]

    def events(self, which: Any) -> list[tuple[str, str]]:
        """Returns a workflow's entries in the append-only log: (kind, reason), oldest first. The happy path writes none."""
        found = self._here.journal.events.of(self._run(which).ref)
        return [(str(event["kind"]), str(event["why"] or "")) for event in found]

    @property
    def elsewhere(self) -> list[tuple[str, list[Any], dict[str, Any]]]:
        """Returns what was sent to tasks that this process does not have: (name, args, kwargs). They are not run."""
        return list(self._here.elsewhere)

    def advance(self, duration: float | timedelta = 0, **units: float) -> None:
        """Lets time pass, without waiting: timers, retries and countdowns fire in their order.

        Args:
            duration: seconds, or a timedelta.
            **units: or `days=1`, `hours=2`, `minutes=5`, as `timedelta` takes them.
        """
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        self._here.advance(seconds + timedelta(**units).total_seconds())

    def sweep(self) -> None:
        """Runs everything that is due now. It happens by itself after each call; this is for after a direct change."""
        self._here.settle()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs a plain function as a workflow function: what it calls is recorded, and it may `durable.sleep()`.

        Raises:
            NotFinished: it waits for something.
        """
        name = getattr(function, "__name__", type(function).__name__)
        return self._here.call(name, lambda: function(*args, **kwargs))

    def _runs(self) -> Iterator[WorkflowRow]:
        return reversed(self._here.journal.reads.listed(limit=100_000))

    def _run(self, which: Any) -> WorkflowRow:
        journal = self._here.journal
        if isinstance(which, Found):
            which = which.run.ref
        if isinstance(which, str):
            found = journal.reads.latest(journal.namespace, which) or journal.reads.run(which)
            if found is not None:
                return found
        task_id = str(getattr(which, "id", which))
        for run in reversed(list(self._runs())):
            if any(step.task_id == task_id for step in journal.reads.steps(run.ref)):
                return run
        known = ", ".join(run.id for run in self._runs()) or "none"
        raise UnknownWorkflow(f"the journal of this test has no workflow {which!r}; it has: {known}")

    def _recorded(self, run: WorkflowRow) -> RecordedWorkflow:
        steps = self._here.journal.reads.steps(run.ref)
        steps.sort(key=lambda row: (row.kind.undoes, row.created_at if row.kind.undoes else 0))
        return RecordedWorkflow(
            run.id,
            run.name,
            run.status,
            [_step(row, self._here.marked(row.engine or run.engine)) for row in steps],
            run.attributes,
        )


def _step(row: StepRow, marked: Marked) -> RecordedStep:
    return RecordedStep(
        name=row.name.rpartition(".")[2],
        full_name=row.name,
        kind=row.kind,
        status=row.status,
        attempts=row.attempt,
        key=row.key,
        value=recorded(marked, row) if row.status in (StepStatus.SUCCEEDED, StepStatus.UNDONE) else None,
        error=read_failure(row.error) if row.error is not None else None,
        why=row.evidence or row.doubt or "",
        reference=row.reference,
    )
