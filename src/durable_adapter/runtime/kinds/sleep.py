"""A sleep: a timer in the journal. The function is suspended until then, and holds no worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import Deferred
from ...model import SECOND, SLEEPS, Kind, Safety, StepRow, StepStatus, new_token
from ..scope import Place
from ..values import encode
from ..wake import Wake


@dataclass(frozen=True, slots=True)
class Sleep:
    """Waits without a worker.

    Attributes:
        seconds: for how long.
        key: names it, where its order among the calls may change; None for the number of the sleep.
    """

    kind: ClassVar[Kind] = Kind.SLEEP
    name: ClassVar[str] = "sleep"
    seconds: float
    key: str | None

    def given_key(self) -> str | None:
        """The key as given."""
        return self.key

    def begin(self, wake: Wake, place: Place) -> None:
        """Commits the timer and suspends the function."""
        wake.must_be_able_to_wait(f"sleeps for {self.seconds:g} s")
        journal = wake.host.patient
        row = StepRow(
            ref=wake.ref, key=place.key, position=place.position, name=self.name, kind=self.kind, status=StepStatus.WAITING,
            safety=Safety.IDEMPOTENT, next_check_at=journal.time() + int(self.seconds * SECOND),
        )  # fmt: skip
        if journal.runs.sleep(row, sent=wake.sent):
            raise wake.suspend(
                Deferred(f"workflow {wake.function.name} sleeps for {self.seconds:g} s", wake_at=row.next_check_at)
            )
        # Another wake of this function went to sleep here before, or the run was given up.
        found = journal.claims.get(wake.ref, place.key)
        if found is None:
            raise wake.suspend(Deferred(f"{self.name} may not begin: its workflow no longer goes forward"))
        self.replay(wake, place, found)

    def replay(self, wake: Wake, place: Place, row: StepRow) -> None:
        """Goes on where its time has come; else suspends the function for what is left of it."""
        if row.status is StepStatus.SUCCEEDED:
            return
        if row.status is not StepStatus.WAITING:
            raise wake.suspend(Deferred(f"{row.name} is {row.status}"))
        journal = wake.host.patient
        now, wake_at = journal.time(), row.next_check_at or 0
        if wake_at > now:
            if wake.waits(f"{SLEEPS}{place.key}", wake_at=wake_at, unless_ended=place.key):
                raise wake.suspend(Deferred(f"workflow {wake.function.name} still sleeps", wake_at=wake_at))
            return
        worker, nothing = wake.host.worker, encode(None)
        journal.ends.succeed_unclaimed(wake.ref, place.key, new_token(), worker, nothing, completes_run=False)
