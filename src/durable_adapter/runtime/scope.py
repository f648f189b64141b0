"""A scope: calls of a workflow function that are counted together, in the order in which one thread makes them.

It gives each call its key (its name and occurrence, or a key that was given) and its position, by which a change of the code is
noticed. It reads what is recorded and writes nothing. A function has one scope, the root.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import NotInWorkflow, SameKeyTwice, WorkflowChanged
from ..model import Kind, StepRow, bounded_key, call_key


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call stands among the calls of its scope.

    Attributes:
        key: its key in the journal.
        position: its number, counted from 1.
        row: what is recorded of it; None for nothing.
    """

    key: str
    position: int
    row: StepRow | None


class Scope:
    """Counts calls.

    Args:
        workflow: what errors call the workflow.
        recorded: the rows of the calls that are recorded, by key; looked at on each call.
    """

    def __init__(self, workflow: str, recorded: Mapping[str, StepRow]) -> None:
        self.workflow = workflow
        #: The thread that makes the calls, once it is known.
        self.thread: int | None = None
        #: Whether a step in place runs now, of which everything that is called is a part.
        self.is_inside_step = False
        self._recorded = recorded
        self._at = {row.position: row for row in recorded.values()}
        self._occurrences: Counter[str] = Counter()
        #: The position of each call that was made, by its key.
        self._made: dict[str, int] = {}
        self._position = 0
        self._launched = 0

    def next(self, kind: Kind, name: str, given: str | None) -> Place:
        """Returns the place of the next call.

        Args:
            kind: its kind.
            name: its name.
            given: the key that the user gave it; None for none.

        Raises:
            SameKeyTwice: an earlier call has the key.
            WorkflowChanged: another call was recorded under this key; or, where none was, at this position.
        """
        self._occurrences[name] += 1
        key = bounded_key(call_key(name, self._occurrences[name], given))
        self._position += 1
        before = self._made.setdefault(key, self._position)
        if before != self._position:
            raise SameKeyTwice(
                f"workflow {self.workflow} makes its calls number {before} and {self._position}, both to {name}, under "
                f"one key: {key}. The second would be given the first one's outcome and never run, so nothing of it was begun. "
                "Give each a key of its own: name a parameter in key= in which they differ."
            )
        row = self._recorded.get(key)
        there = row if row is not None else self._at.get(self._position)
        goes_on = row is not None and _goes_on_as(row, kind)
        if there is not None and (there.name, there.kind) != (name, kind) and not goes_on:
            raise WorkflowChanged(
                f"workflow {self.workflow} was changed while it runs: call number {self._position} was "
                f"{there.kind} {there.name!r} ({there.key}) when it was recorded and is now {kind} {name!r} ({key}). "
                f"Deploy code in which it is {there.kind} {there.name!r} again, or finish the run with `durable-adapter cancel`."
            )
        return Place(key, self._position, row)

    def launch(self) -> int:
        """Returns the ordinal of a run that the function's body starts beside itself: part of its derived ids."""
        self._launched += 1
        return self._launched

    def check_thread(self, what: str) -> None:
        """Refuses a call that another thread makes with the function's context: its place would differ on each replay.

        Raises:
            NotInWorkflow: it is another thread.
        """
        if self.thread not in (None, threading.get_ident()):
            raise NotInWorkflow(
                f"{what} was called in thread {threading.current_thread().name!r}, which is not the one that runs workflow "
                f"{self.workflow}: the order of such calls would differ on each replay, so it was not begun. Call it in the "
                "function's own thread, or send steps with .delay(), which runs them at the same time."
            )


def _goes_on_as(row: StepRow, kind: Kind) -> bool:
    """Whether a recorded call may go on although it is another kind of call now.

    A step that was dispatched and is called in place now has the same outcome. An unmarked task that is marked now ends plain.
    """
    return (row.kind.awaited and kind is Kind.STEP) or (row.kind is Kind.UNMARKED and kind.awaited)
