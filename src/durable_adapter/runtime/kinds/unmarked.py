"""An unmarked call: a task that is not durable, which a function sends. Its sending is recorded, so that no replay repeats it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...model import Kind, StepRow, StepStatus, derive, new_token
from ..scope import Place
from ..wake import Wake


@dataclass(frozen=True, slots=True)
class Unmarked:
    """A task that is sent once, whatever becomes of it.

    Attributes:
        name: the task's name.
        send: publishes it under the task id that it is given, and returns what the caller gets.
    """

    kind: ClassVar[Kind] = Kind.UNMARKED
    name: str
    send: Callable[[str], Any]

    def given_key(self) -> str | None:
        """None: nothing declares a key for it."""
        return None

    def begin(self, wake: Wake, place: Place) -> Any:
        """Records it, then sends it. Where sending fails, that is taken back: the function gets the error, and a later wake
        sends it.
        """
        host, task_id = wake.host, _task_id(wake, place)
        row = StepRow(
            ref=wake.ref, key=place.key, position=place.position, name=self.name, kind=self.kind, status=StepStatus.PLANNED,
            task_id=task_id, token=new_token(),
        )  # fmt: skip
        if not host.beginning.claims.plan_new(row):
            return task_id
        try:
            sent = self.send(task_id)
        except Exception:
            host.patient.members.leave(wake.ref, place.key)
            raise
        wake.record(row)
        return sent

    def replay(self, wake: Wake, place: Place, row: StepRow) -> Any:
        """Sends nothing."""
        return _task_id(wake, place)


def _task_id(wake: Wake, place: Place) -> str:
    return derive("unmarked", wake.ref, place.key)
