"""One wake of a workflow function: what its calls share, of whichever kind they are.

It knows what is recorded of the run, and is suspended once. A suspended wake is closed: every later journaled call raises the
same suspension before it touches the journal or user code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..current import STEP
from ..declare import checking
from ..declare.effects import causes
from ..declare.policy import StepPolicy
from ..errors import CannotSuspend, Deferred, NotInWorkflow, NotReadable, Suspended, WorkflowChanged
from ..model import Kind, StepRow
from . import alerts
from .calls import Call
from .scope import Place, Scope
from .steps import run_step
from .values import decode

if TYPE_CHECKING:
    from .host import Host


class Wake:
    """One wake of a workflow function.

    Args:
        host: this process.
        function: the call that is the function itself.
        steps: the rows of its run.
    """

    def __init__(self, host: Host, function: Call, steps: list[StepRow]) -> None:
        self.ref = function.ref
        self.host = host
        self.function = function
        self.recorded = {s.key: s for s in steps if not (s.kind.makes_calls or s.kind.undoes)}
        #: The keys of what was sent to a worker of its own, by task id.
        self._keys = {s.task_id: s.key for s in self.recorded.values() if s.task_id}
        self.scope = Scope(self.workflow, self.recorded)
        #: What the code says of the steps that it dispatched in this wake, by task id.
        self.policies: dict[str, StepPolicy] = {}
        #: What suspended it.
        self.closed: Suspended | None = None
        self._failures: list[tuple[Exception, str]] = []
        #: The keys of the steps that this wake sent: whatever makes the function wait records that with its own commit.
        self.sent: list[str] = []

    @property
    def workflow(self) -> str:
        """What errors call it."""
        return f"{self.function.name} ({self.ref})"

    def next(self, kind: Kind, name: str, given: str | None) -> Place:
        """The place of the next call.

        Raises:
            Suspended: the wake is closed, this worker is shutting down, or another call was recorded at this position.
            SameKeyTwice: an earlier call of this wake has the key.
            NotInWorkflow: it is called in another thread, or inside a step.
        """
        self._must_be_open(name)
        checking.step_name(f"workflow {self.function.name}", "the name of a call", name)
        if STEP.get() is not None:
            raise NotInWorkflow(f"{name} was called inside a running step, of which it is a part")
        try:
            place = self.scope.next(kind, name, given)
        except WorkflowChanged as error:
            raise self.hold(str(error)) from error
        if place.row is None and self.host.is_stopping():
            raise self._leave_for_shutdown()
        return place

    def launch(self) -> int:
        """The ordinal of a run that the function's body starts beside itself: part of its derived ids."""
        self._must_be_open("a start")
        return self.scope.launch()

    def _must_be_open(self, what: str) -> None:
        """Raises where no call can be made: in another thread, or where the wake is closed."""
        self.scope.check_thread(what)
        if self.closed is not None:
            raise self.closed

    def record(self, row: StepRow) -> None:
        """Keeps what is recorded of a call now."""
        self.recorded[row.key] = row
        if row.task_id is not None:
            self._keys[row.task_id] = row.key

    def sent_as(self, task_id: str) -> StepRow | None:
        """The row of a task that the function sent; None where it did not."""
        key = self._keys.get(task_id)
        return self.recorded[key] if key is not None else None

    def run(self, call: Call) -> Any:
        """Runs a step here. What defers the step suspends the function; an error is the step's own.

        Raises:
            Suspended: the step was deferred.
            Exception: what the step failed with.
        """
        self.scope.is_inside_step = True
        try:
            return run_step(self.host, call)
        except Suspended as suspension:
            raise self.suspend(suspension) from None
        except Exception as error:
            self._failures.append((error, call.key))
            raise
        finally:
            self.scope.is_inside_step = False

    def failed_with(self, error: BaseException) -> str | None:
        """The key of the step in place that raised an error, or what the error was made of; None where none did."""
        chain = list(causes(error))
        return next((key for raised, key in self._failures if any(raised is cause for cause in chain)), None)

    def value_of(self, row: StepRow, policy: StepPolicy | None) -> Any:
        """The value of a finished call.

        Raises:
            Suspended: this process cannot read it. The code has changed while the workflow runs, which is held.
        """
        try:
            return decode(row.outcome, policy)
        except NotReadable as error:
            evidence = (
                f"the recorded value of step {row.name} ({row.key}) cannot be read here: {error} Deploy code that reads it, then "
                "let the workflow go on with `durable-adapter retry`"
            )
            raise self.hold(evidence) from error

    def suspend(self, suspension: Suspended) -> Suspended:
        """Closes the wake; returns what is to be raised."""
        self.closed = suspension
        return suspension

    def hold(self, evidence: str) -> Suspended:
        """Holds the whole workflow, whose function no longer fits what is recorded; returns what is to be raised."""
        own = self.function.row
        assert own is not None
        alerts.hold_for_drift(self.host.patient, self.host.engine, own, evidence)
        return self.suspend(Deferred(evidence, held=True))

    def waits(self, waiting_for: str, *, wake_at: int | None = None, unless_ended: str | None = None) -> bool:
        """Commits that the function waits, and what it sent; False where it need not, since what it waits for is there.

        The arguments are those of `journal.runs.suspend`. It is closed by `suspend`.
        """
        suspend = self.host.patient.runs.suspend
        return suspend(self.ref, waiting_for=waiting_for, wake_at=wake_at, unless_ended=unless_ended, sent=self.sent)

    def _leave_for_shutdown(self) -> Suspended:
        self.waits("another worker", wake_at=self.host.patient.time())
        return self.suspend(Deferred("this worker is shutting down; the workflow goes on elsewhere"))

    def must_be_able_to_wait(self, what: str) -> None:
        """Refuses a call that makes the function wait, where no worker can be given back: before anything of it happened.

        Raises:
            CannotSuspend: the engine cannot suspend it.
        """
        cannot = self.host.engine.cannot_suspend
        if cannot is not None:
            raise CannotSuspend(f"workflow {self.function.name} {what}; but {cannot}. Nothing of this call was sent or recorded")
