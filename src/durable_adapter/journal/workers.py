"""The processes: one row each, with a heartbeat, and a death that is recorded once.

A parent that saw its child die records it at once. A sweeper must have seen that the beat counter does not change.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import UNSETTLED_STEPS, Death, Event, WorkerRow
from .database import Database
from .events import Events
from .rows import readable, worker_row
from .schema import literals, step, worker


def host_clock() -> int:
    """Returns this host's time in microseconds. It is shown to people only: the journal uses the database's time."""
    return time.time_ns() // 1000


class Workers:
    """Writes to the worker table, and reads of it."""

    def __init__(self, db: Database, events: Events) -> None:
        self._db = db
        self._events = events
        # MySQL assigns from left to right, so the old values must be read before they are overwritten.
        self._beat = (
            sa.update(worker)
            .where(worker.c.id == sa.bindparam("b_id"), worker.c.dead_at.is_(None))
            .ordered_values(
                (worker.c.previous_beat_at, worker.c.beat_at),
                (worker.c.previously_running, worker.c.running),
                (worker.c.beats, worker.c.beats + 1),
                (worker.c.beat_at, db.now),
                (worker.c.running, sa.bindparam("b_running")),
                (worker.c.clock_at, sa.bindparam("b_clock")),
            )
        )

    def register(self, row: WorkerRow) -> None:
        """Inserts a process's row. An earlier row of the same parent and pid belongs to a dead child. One commit."""

        def write(conn: Connection) -> None:
            if conn.execute(sa.select(worker.c.id).where(worker.c.id == row.id)).one_or_none():
                return
            if row.parent is not None:
                self._die(
                    conn,
                    sa.and_(worker.c.parent == row.parent, worker.c.pid == row.pid, worker.c.alive == 1),
                    Death.PARENT_SAW,
                    "its parent gave its pid to another child",
                )
            conn.execute(
                sa.insert(worker).values(
                    id=row.id,
                    role=row.role,
                    parent=row.parent,
                    host=row.host,
                    pid=row.pid,
                    engine=row.engine,
                    queues=json.dumps(row.queues),
                    code_version=row.code_version,
                    beats=0,
                    beat_at=self._db.now,
                    previous_beat_at=self._db.now,
                    running="[]",
                    previously_running="[]",
                    started_at=self._db.now,
                    alive=1,
                    namespace=row.namespace,
                    beat_every=row.beat_every,
                    clock_at=host_clock(),
                )
            )

        self._db.transaction(write)

    def beat(self, worker_id: str, running: Sequence[str] | Callable[[], Sequence[str]]) -> bool:
        """Records a process's heartbeat, and which attempts it runs. One commit, one statement.

        It must not be a transaction: a process that is frozen inside one, or whose host died, would keep its row locked
        against the sweeper that records its death.

        Args:
            worker_id: the process's row.
            running: the names of its attempts, or a function that returns them; called again if the write is repeated.

        Returns:
            False if the row is dead or deleted: the process must register again and begin nothing under the old row.
        """

        def values() -> dict[str, Any]:
            names = running() if callable(running) else running
            return {"b_id": worker_id, "b_running": json.dumps(list(names)), "b_clock": host_clock()}

        return bool(self._db.execute(self._db.hot(self._beat), values))

    def stop(self, worker_id: str) -> None:
        """Records that a process stopped by itself and runs nothing any more. One commit."""
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(worker)
                .where(worker.c.id == worker_id, worker.c.dead_at.is_(None))
                .values(stopped_at=self._db.now, alive=None, running="[]")
            )
        )

    def child_died(self, parent: str, pid: int, why: str) -> int:
        """Records the death of a child that its parent saw end. One commit.

        For a child that had been declared dead for its silence, this records that it has certainly ended; it is not
        counted as another death.
        """
        its = sa.and_(worker.c.parent == parent, worker.c.pid == pid)

        def write(conn: Connection) -> int:
            silent = sa.and_(its, worker.c.death == Death.STOOD_STILL.value)
            conn.execute(sa.update(worker).where(silent).values(death=Death.PARENT_SAW.value))
            return self._die(conn, sa.and_(its, worker.c.alive == 1), Death.PARENT_SAW, why)

        return self._db.transaction(write)

    def stood_still(self, worker_id: str, beats: int, why: str) -> int:
        """Records the death of a process whose beat counter did not change, unless it has changed meanwhile. One commit.

        A locked row is skipped: its process is alive, or will be found silent again.
        """
        condition = sa.and_(worker.c.id == worker_id, worker.c.beats == beats, worker.c.alive == 1)
        return self._db.transaction(lambda conn: self._die(conn, condition, Death.STOOD_STILL, why, patient=False))

    def _die(self, conn: Connection, condition: sa.ColumnElement[bool], death: Death, why: str, *, patient: bool = True) -> int:
        rows = conn.execute(sa.select(worker.c.id).where(condition).with_for_update(skip_locked=not patient)).all()
        for row in rows:
            conn.execute(
                sa.update(worker).where(worker.c.id == row.id).values(dead_at=self._db.now, death=death.value, alive=None)
            )
            self._events.write(conn, Event.DIED, who=row.id, why=why)
        return len(rows)

    def alive(self, *, namespace: str | None = None, limit: int = 10_000) -> list[WorkerRow]:
        """Returns every process that has neither stopped nor been declared dead, longest silent first.

        Args:
            namespace: only its processes, and those of earlier releases, which recorded none; None for all.
            limit: the most rows returned.
        """
        rows = self._db.select(
            sa.select(worker).where(worker.c.alive == 1, *_in_namespace(namespace)).order_by(worker.c.beat_at).limit(limit)
        )
        return [found for _, found in readable(worker_row, rows)]

    def get(self, worker_id: str) -> WorkerRow | None:
        """Returns one process's row, or None."""
        rows = self._db.select(sa.select(worker).where(worker.c.id == worker_id))
        return worker_row(rows[0]) if rows else None

    def forget_ended(self, before: int, *, limit: int = 1000) -> int:
        """Deletes the rows of processes that stopped or died before a time, unless an unsettled step names them."""
        old = (
            sa.select(worker.c.id)
            .where(
                worker.c.alive.is_(None),
                worker.c.beat_at < before,
                ~sa.exists(sa.select(1).where(step.c.worker == worker.c.id, step.c.status.in_(literals(UNSETTLED_STEPS)))),
            )
            .limit(limit)
        )
        ids = [row.id for row in self._db.select(old)]
        if ids:
            self._db.transaction(lambda conn: conn.execute(sa.delete(worker).where(worker.c.id.in_(ids))))
        return len(ids)


def _in_namespace(namespace: str | None) -> list[sa.ColumnElement[bool]]:
    """Returns the condition that a process works in a namespace, or recorded none."""
    return [] if namespace is None else [sa.or_(worker.c.namespace.is_(None), worker.c.namespace == namespace)]
