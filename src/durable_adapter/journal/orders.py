"""A person's order on one run: under the run's lock it is read afresh, looked at, and changed, in one transaction.

Keeps a preview honest: whoever gives the order sees the rows that it is about to change, and may still refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from ..model import StepRow, WorkflowRow
from .database import Database
from .undo import Undo

T = TypeVar("T")


@dataclass(frozen=True)
class Carried(Generic[T]):
    """What an order did.

    Attributes:
        result: what the act returned.
        run: the run after it; None where it is not in the journal.
        steps: its steps after it.
    """

    result: T
    run: WorkflowRow | None
    steps: list[StepRow]


class Orders:
    """Carries out acts on single runs."""

    def __init__(self, db: Database, undo: Undo) -> None:
        self._db = db
        self._undo = undo

    def carry_out(
        self, ref: str, look: Callable[[WorkflowRow | None, Sequence[StepRow]], None], act: Callable[[], T]
    ) -> Carried[T]:
        """Locks a run, lets it be looked at, and changes it. One commit.

        Waits for no other transaction longer than a moment: a transactional step keeps its row for as long as its body runs.

        Args:
            ref: the run.
            look: gets the run and its steps as they are under the lock; raises where they are not to be changed.
            act: calls writing methods of this journal about this run; they become parts of this transaction.

        Raises:
            JournalBusy: another transaction keeps a row of the run.
        """
        tried: list[tuple[Any, Any]] = []  # the run and its steps as each try left them

        def work(conn: Connection) -> Carried[T]:
            run, steps = self._undo.lock_run(conn, ref), self._undo.steps(conn, ref)
            if (run, steps) not in tried:  # else a try was committed, and only its answer was lost
                look(run, steps)
            result = act()
            carried = Carried(result, self._undo.lock_run(conn, ref), self._undo.steps(conn, ref))
            tried.append((carried.run, carried.steps))
            return carried

        with self._db.in_a_hurry():
            return self._db.joined(work)
