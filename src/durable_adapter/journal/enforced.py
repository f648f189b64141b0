"""The time since which each task is enforced: one event for each task of a namespace.

A message that was delivered before that time began plain, and does not say so itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Event
from .database import Database
from .events import Events
from .schema import event


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
        #: A cache by task. A recorded time never changes.
        self._since: dict[str, int] = {}

    def note(self, conn: Connection, tasks: Iterable[str]) -> None:
        """Records, in the transaction of a start, that the journal has runs of these tasks. Reads once for each new task."""
        new = sorted(set(tasks) - self._since.keys())
        if not new:
            return
        self._read(conn)
        for task in new:
            if task not in self._since:
                self._events.write(conn, Event.ENFORCED, name=task, namespace=self._namespace)

    def since(self, task: str) -> int:
        """Returns when the journal first recorded a task as enforced; records it now if it did not. At most one commit."""

        def write(conn: Connection) -> None:
            self.note(conn, [task])
            self._read(conn)

        if task not in self._since:
            self._db.transaction(write)
        return self._since[task]

    def _read(self, conn: Connection) -> None:
        enforced = sa.select(event.c.at, event.c.detail).where(event.c.kind == Event.ENFORCED.value).order_by(event.c.at)
        for row in conn.execute(enforced):
            detail = json.loads(row.detail)
            if detail.get("namespace") == self._namespace:
                self._since.setdefault(detail["name"], int(row.at))
