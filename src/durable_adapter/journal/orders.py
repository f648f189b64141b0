"""A person's order on one run: rehearsed for a preview, and carried out under the run's lock, in one transaction.

A preview cannot differ from what happens, because the same methods make both; whoever gives the order judges what it
leads to before it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

from ..model import StepRow, WorkflowRow
from .database import Database
from .undo import Undo

T = TypeVar("T")


@dataclass(frozen=True)
class Change(Generic[T]):
    """A run before an act and after it.

    Attributes:
        before: the run before it; None where it is not in the journal.
        steps_before: its steps before it.
        result: what the act returned.
        run: the run after it; None where it is not in the journal.
        steps: its steps after it.
    """

    before: WorkflowRow | None
    steps_before: list[StepRow]
    result: T
    run: WorkflowRow | None
    steps: list[StepRow]


class _TakenBack(Exception):
    """Ends the transaction of a rehearsal. Its argument is the change."""


class Orders:
    """Rehearses and carries out acts on single runs."""

    def __init__(self, db: Database, undo: Undo) -> None:
        self._db = db
        self._undo = undo

    def rehearse(self, ref: str, act: Callable[[], T]) -> Change[T]:
        """Carries an act out, reads what it leads to, and takes all of it back: nothing is committed, and nobody is told.

        Waits for no other transaction longer than a moment: a transactional step keeps its row for as long as its body runs.

        Args:
            ref: the run.
            act: calls writing methods of this journal about this run; they become parts of this transaction.

        Raises:
            JournalBusy: another transaction keeps a row of the run.
        """

        def take_back(change: Change[T]) -> None:
            raise _TakenBack(change)

        try:
            return self.carry_out(ref, act, take_back)
        except _TakenBack as taken:
            rehearsed: Change[T] = taken.args[0]
            return rehearsed

    def carry_out(self, ref: str, act: Callable[[], T], judge: Callable[[Change[T]], None]) -> Change[T]:
        """Locks a run, changes it, and lets the change be judged before it is committed. One commit.

        Waits for no other transaction longer than a moment.

        Args:
            ref: the run.
            act: as `rehearse` has it.
            judge: gets the run as it was under the lock and as the act left it; raises where that is not to be.

        Raises:
            JournalBusy: another transaction keeps a row of the run.
        """
        tried: list[tuple[Any, Any]] = []  # the run and its steps as each try left them

        def work(conn: Connection) -> Change[T]:
            before, steps_before = self._undo.lock_run(conn, ref), self._undo.steps(conn, ref)
            result = act()
            change = Change(before, steps_before, result, self._undo.lock_run(conn, ref), self._undo.steps(conn, ref))
            if (before, steps_before) not in tried:  # else a try was committed, and only its answer was lost
                judge(change)
            tried.append((change.run, change.steps))
            return change

        with self._db.in_a_hurry():
            return self._db.joined(work)
