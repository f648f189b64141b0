"""Troubles that need a person: collected in a transaction, and reported once it is committed.

A writer adds a trouble together with the change that causes it, and only if it changed something: a replay, or a second process
that finds the same, adds none. After a rollback nothing is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from ..model import Alert

logger = logging.getLogger("durable_adapter")

_KEY = "durable_troubles"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A trouble that needs a person's attention.

    Attributes:
        alert: its kind.
        ref: the run.
        key: the step; None if it concerns the whole run.
        why: the reason, as people read it.
    """

    alert: Alert
    ref: str
    key: str | None
    why: str


#: Called with the troubles of one committed transaction.
Observer = Callable[[Sequence[Trouble]], None]


def add(conn: Connection, alert: Alert, ref: str, key: str | None, why: str | None) -> None:
    """Adds a trouble to the caller's transaction. It is reported after the commit."""
    conn.info.setdefault(_KEY, []).append(Trouble(alert, ref, key, why or ""))


def taken(conn: Connection) -> list[Trouble]:
    """Removes and returns the troubles of the transaction on a connection, each once."""
    return list(dict.fromkeys(conn.info.pop(_KEY, ())))


def tell(observers: list[Observer], troubles: list[Trouble]) -> None:
    """Calls every observer with some troubles. An observer that raises is logged, and has no other effect."""
    for observer in list(observers) if troubles else ():
        try:
            observer(troubles)
        except Exception:
            first = troubles[0]
            logger.exception(
                "alert_failed alert=%s run=%s troubles=%d msg='An observer raised.'", first.alert, first.ref, len(troubles)
            )
