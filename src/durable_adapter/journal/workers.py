"""Who lives: one row a process, one beat a row, and death as a fact that is written once.

A parent that saw its child die writes it at once. Anybody else has to have watched the beat counter stand still.
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
    """Returns the time by this host's own clock, in microseconds. Only people are told of it: the journal uses the database's."""
    return time.time_ns() // 1000


class Workers:
    """The worker table's writes."""

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
        """Writes a process's row. An earlier row of the same parent and pid is a child that died. One commit."""

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
        """Says that a process lives, and which attempts it runs. One commit, in one statement.

        It must not be a transaction: a process that is stopped inside of one, or whose machine is gone, would hold the
        lock on its row against every sweeper that wants to write its death.

        Args:
            worker_id: the process's row.
            running: the names of its attempts, or what tells them; asked anew where the write has to be repeated.

        Returns:
            False when the row is dead or gone: the process must register anew and begin nothing under the old row.
        """

        def values() -> dict[str, Any]:
            names = running() if callable(running) else running
            return {"b_id": worker_id, "b_running": json.dumps(list(names)), "b_clock": host_clock()}

        return bool(self._db.execute(self._db.hot(self._beat), values))

    def stop(self, worker_id: str) -> None:
        """Says that a process ended by itself and runs nothing any more. One commit."""
        self._db.transaction(
            lambda conn: conn.execute(
                sa.update(worker)
                .where(worker.c.id == worker_id, worker.c.dead_at.is_(None))
                .values(stopped_at=self._db.now, alive=None, running="[]")
            )
        )

    def child_died(self, parent: str, pid: int, why: str) -> int:
        """A parent saw its own child end: writes its death. One commit.

        A child that had been declared dead for its silence is known to have ended only now. That is written as well, and
        is no second death: it is not counted.
        """
        its = sa.and_(worker.c.parent == parent, worker.c.pid == pid)

        def write(conn: Connection) -> int:
            silent = sa.and_(its, worker.c.death == Death.STOOD_STILL.value)
            conn.execute(sa.update(worker).where(silent).values(death=Death.PARENT_SAW.value))
            return self._die(conn, sa.and_(its, worker.c.alive == 1), Death.PARENT_SAW, why)

        return self._db.transaction(write)

    def stood_still(self, worker_id: str, beats: int, why: str) -> int:
        """A sweeper watched a beat counter stand still: writes the death, unless it moved meanwhile. One commit.

        Not now where the row is locked: whoever holds it is alive, or will be found so silent again.
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
            namespace: only processes of this one, and those of earlier releases, which did not say theirs; None for all.
            limit: how many at the most.
        """
        rows = self._db.select(
            sa.select(worker).where(worker.c.alive == 1, *_of(namespace)).order_by(worker.c.beat_at).limit(limit)
        )
        return [found for _, found in readable(worker_row, rows)]

    def get(self, worker_id: str) -> WorkerRow | None:
        """One process's row."""
        rows = self._db.select(sa.select(worker).where(worker.c.id == worker_id))
        return worker_row(rows[0]) if rows else None

    def forget_ended(self, before: int, *, limit: int = 1000) -> int:
        """Deletes the rows of processes that stopped or died before a time, if no unsettled step names them."""
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


def _of(namespace: str | None) -> list[sa.ColumnElement[bool]]:
    """The condition that a process works in a namespace, as far as it said so."""
    return [] if namespace is None else [sa.or_(worker.c.namespace.is_(None), worker.c.namespace == namespace)]
