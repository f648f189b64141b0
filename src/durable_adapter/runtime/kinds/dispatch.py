"""A dispatched step: a worker of its own runs it. The function goes on, and waits for it when it asks for its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import Deferred
from ...model import OPEN_STEPS, Kind, StepRow, StepStatus, derive, new_token
from ..scope import Place
from ..values import read_failure
from ..wake import Wake
from .declared import DeclaredCall

if TYPE_CHECKING:
    from ..engine import Engine


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A step that runs in a worker of its own: recorded, then sent; does not wait.

    Attributes:
        call: the step and its arguments.
        engine: what sends it, and what would send its compensation.
        queue: the queue that it is sent to, where that is known.
        message: makes what sends it again, from its task id and key.
        send: publishes it, from its task id and key; returns what the caller of `.delay()` gets.
        options: what else its row keeps.
    """

    kind: ClassVar[Kind] = Kind.DISPATCH
    call: DeclaredCall
    engine: Engine
    queue: str | None
    message: Callable[[str, str], bytes]
    send: Callable[[str, str], Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.call.name

    def given_key(self) -> str | None:
        """The key that its template makes of the arguments."""
        return self.call.given_key()

    def begin(self, wake: Wake, place: Place) -> Any:
        """Records it, then sends it."""
        wake.must_be_able_to_wait(
            f"sends {self.name} to a worker of its own, and has to wait for it at the latest when it returns"
        )
        host, key, task_id = wake.host, place.key, derive("dispatch", wake.ref, place.key)
        row = self.call.row(wake, place, self.kind, self.call.fingerprint(), self.engine)
        row.task_id, row.queue, row.message, row.token = task_id, self.queue, self.message(task_id, key), new_token()
        if self.engine.name != host.engine.name:
            row.engine = self.engine.name
        row.completes_run = True
        row.options |= self.options
        if not host.beginning.claims.plan_new(row):
            row_now = host.patient.claims.get(wake.ref, key)
            if row_now is None:
                raise wake.suspend(Deferred(f"{self.name} may not begin: its workflow no longer goes forward"))
            row = row_now
        wake.record(row)
        wake.policies[task_id] = self.call.policy
        return self._send(wake, key, task_id)

    def replay(self, wake: Wake, place: Place, row: StepRow) -> Any:
        """Sends it only where no earlier wake could confirm that it was sent. What began unmarked is not sent again."""
        if row.kind is Kind.UNMARKED:
            return row.task_id
        self.call.check_drift(wake, row, self.call.fingerprint())
        assert row.task_id is not None
        wake.policies[row.task_id] = self.call.policy
        if row.status is StepStatus.PLANNED and row.sent_at is None and place.key not in wake.sent:
            return self._send(wake, place.key, row.task_id)
        return row.task_id

    def _send(self, wake: Wake, key: str, task_id: str) -> Any:
        sent = self.send(task_id, key)
        wake.sent.append(key)
        return sent


def wait_for(wake: Wake, task_id: str) -> Any:
    """The result of a dispatched step; suspends the function until it is there.

    Raises:
        Suspended: it is not there yet.
        Exception: what the step failed with.
    """
    if wake.closed is not None:
        raise wake.closed
    row = wake.sent_as(task_id)
    assert row is not None
    if row.status in OPEN_STEPS:
        if wake.waits(f"step:{row.key}", unless_ended=row.key):
            raise wake.suspend(Deferred(f"workflow {wake.function.name} waits for {row.name}"))
        row = wake.host.patient.claims.get(wake.ref, row.key)
        assert row is not None
        wake.record(row)
    if row.status is StepStatus.SUCCEEDED:
        return wake.value_of(row, wake.policies.get(task_id))
    if row.status is StepStatus.FAILED:
        raise read_failure(row.error)
    raise wake.suspend(Deferred(f"{row.name} is {row.status}"))


def join(wake: Wake) -> None:
    """Waits for every dispatched step that is open: a function is complete only when what it dispatched is.

    Raises:
        Suspended: one is open.
    """
    still_open = [s for s in wake.recorded.values() if s.kind.awaited and s.status in OPEN_STEPS]
    if still_open and wake.waits("steps", unless_ended="*"):
        raise wake.suspend(Deferred(f"workflow {wake.function.name} waits for {len(still_open)} dispatched steps"))
