"""The append-only log of exceptional events: failed attempts, deaths, verdicts, refusals, operator actions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..model import Event
from .database import Database
from .schema import event


class Events:
    """Writes and reads the log. An event is written in the transaction of the change that it records."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def write(
        self,
        connection: Connection,
        kind: Event,
        *,
        ref: str | None = None,
        key: str | None = None,
        token: str | None = None,
        who: str | None = None,
        why: str | None = None,
        **detail: Any,
    ) -> None:
        """Adds one event in the caller's transaction. *detail* holds names and numbers, never a user's values."""
        connection.execute(
            sa.insert(event).values(
                at=self._db.now,
                kind=kind.value,
                ref=ref,
                key=key,
                token=token,
                who=who,
                why=why,
                detail=json.dumps(detail, default=str) if detail else None,
            )
        )

    def write_all(self, connection: Connection, kind: Event, steps: Sequence[tuple[str, str]], *, why: str) -> None:
        """Adds the same event for several steps, given by run and key, in the caller's transaction and in one statement."""
        rows = [{"at": self._db.now, "kind": kind.value, "ref": ref, "key": key, "why": why} for ref, key in steps]
        connection.execute(sa.insert(event).values(rows))

    def note(self, kind: Event, **values: Any) -> None:
        """Adds one event in a transaction of its own."""
        self._db.transaction(lambda connection: self.write(connection, kind, **values))

    def of(self, ref: str, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Returns the events of one run, oldest first."""
        rows = self._db.select(sa.select(event).where(event.c.ref == ref).order_by(event.c.id).limit(limit))
        return [_event(row) for row in rows]

    def since(self, kind: Event, at: int, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Returns the events of one kind since a time, oldest first."""
        rows = self._db.select(
            sa.select(event).where(event.c.kind == kind.value, event.c.at >= at).order_by(event.c.at).limit(limit)
        )
        return [_event(row) for row in rows]


def _event(row: sa.Row[Any]) -> dict[str, Any]:
    found = dict(row._mapping)
    try:
        detail = json.loads(found["detail"]) if found["detail"] else {}
    except (ValueError, RecursionError):
        detail = {}  # the rest of a damaged row is still shown
    found["detail"] = detail if isinstance(detail, dict) else {}
    return found
