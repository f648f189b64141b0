"""The time since which each task is enforced: one event for each task of a namespace.

A message that was delivered before that time began plain, and does not say so itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Event
from .database import Database
from .events import Events
from .schema import event

_ENFORCED = sa.select(event.c.at, event.c.detail).where(event.c.kind == Event.ENFORCED.value).order_by(event.c.at)


class Enforced:
    """Records and reads since when tasks are enforced.

    Args:
        db: the database.
        events: the log.
        namespace: the namespace of the tasks.
    """

    def __init__(self, db: Database, events: Events, namespace: str) -> None:
        self._db = db
        self._events = events
        self._namespace = namespace
        #: A cache by task of what is committed. A recorded time never changes.
        self._since: dict[str, int] = {}
        #: The tasks that each open transaction of this process has recorded. It may still be rolled back.
        self._recorded: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()

    def note(self, conn: Connection, tasks: Iterable[str]) -> None:
        """Records, in the transaction of a start, that the journal has runs of these tasks. Reads once for each new task."""
        new = sorted(set(tasks) - self._since.keys())
        if not new:
            return
        recorded = self._recorded.setdefault(conn.get_transaction(), set())
        found = self._found(conn.execute(_ENFORCED))
        self._since |= {task: at for task, at in found.items() if task not in recorded}
        for task in new:
            if task not in found:
                self._events.write(conn, Event.ENFORCED, name=task, namespace=self._namespace)
                recorded.add(task)

    def since(self, task: str) -> int:
        """Returns when the journal first recorded a task as enforced; records it now if it did not. At most one commit."""
        if task not in self._since:
            self._db.transaction(lambda conn: self.note(conn, [task]))
        if task not in self._since:
            self._since |= self._found(self._db.select(_ENFORCED))
        return self._since[task]

    def _found(self, rows: Iterable[Any]) -> dict[str, int]:
        """Returns when each task was first recorded, from the events in their order."""
        found: dict[str, int] = {}
        for row in rows:
            detail = json.loads(row.detail)
            if detail.get("namespace") == self._namespace:
                found.setdefault(detail["name"], int(row.at))
        return found
