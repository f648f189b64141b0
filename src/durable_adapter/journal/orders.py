"""Carries out a person's order on one run in one transaction, or rehearses it for a preview.

The same methods do both, so that a preview shows what will happen. The caller checks the result before it is committed.
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
    """A run before and after an act.

    Attributes:
        before: the run before; None if it is not in the journal.
        steps_before: its steps before.
        result: the act's result.
        run: the run after; None if it is not in the journal.
        steps: its steps after.
    """

    before: WorkflowRow | None
    steps_before: list[StepRow]
    result: T
    run: WorkflowRow | None
    steps: list[StepRow]


class _Rehearsed(Exception):
    """Rolls back the transaction of a rehearsal. Its argument is the change."""


class Orders:
    """Rehearses and carries out acts on single runs."""

    def __init__(self, db: Database, undo: Undo) -> None:
        self._db = db
        self._undo = undo

    def rehearse(self, ref: str, act: Callable[[], T]) -> Change[T]:
        """Carries an act out, reads the result, and rolls back. Nothing is committed, and no alert is sent.

        Waits only a short time for locks: a transactional step locks its row for as long as its body runs.

        Args:
            ref: the run.
            act: calls writing methods of this journal about this run; they become parts of this transaction.

        Raises:
            JournalBusy: another transaction keeps a row of the run.
        """

        def take_back(change: Change[T]) -> None:
            raise _Rehearsed(change)

        try:
            return self.carry_out(ref, act, take_back)
        except _Rehearsed as taken:
            rehearsed: Change[T] = taken.args[0]
            return rehearsed

    def carry_out(self, ref: str, act: Callable[[], T], judge: Callable[[Change[T]], None]) -> Change[T]:
        """Locks a run, changes it, and has the change checked before it is committed. One commit.

        Waits only a short time for locks.

        Args:
            ref: the run.
            act: see `rehearse`.
            judge: receives the change; raises if it must not be committed.

        Raises:
            JournalBusy: another transaction keeps a row of the run.
        """
        tried: list[tuple[Any, Any]] = []  # the run and its steps after each try

        def work(conn: Connection) -> Change[T]:
            before, steps_before = self._undo.lock_run(conn, ref), self._undo.steps(conn, ref)
            result = act()
            change = Change(before, steps_before, result, self._undo.lock_run(conn, ref), self._undo.steps(conn, ref))
            if (before, steps_before) not in tried:  # else a try was committed and its answer lost
                judge(change)
            tried.append((change.run, change.steps))
            return change

        with self._db.with_short_lock_waits():
            return self._db.joined(work)
