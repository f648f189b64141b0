"""What needs a person: gathered where it is written, and told once its transaction is committed.

A writer adds a trouble beside the change that makes it, and only where it changed something: a replay, or a second process
that finds the same, adds none. What was rolled back is not told.
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
    """One thing that needs a person.

    Attributes:
        alert: what it is.
        ref: the run.
        key: the step; None where it is the run as a whole.
        why: in words.
    """

    alert: Alert
    ref: str
    key: str | None
    why: str


#: Is told of what one transaction committed.
Observer = Callable[[Sequence[Trouble]], None]


def add(conn: Connection, alert: Alert, ref: str, key: str | None, why: str | None) -> None:
    """Adds a trouble to the caller's transaction: it is told after the commit."""
    conn.info.setdefault(_KEY, []).append(Trouble(alert, ref, key, why or ""))


def taken(conn: Connection) -> list[Trouble]:
    """Takes what the transaction on a connection has gathered, each trouble once."""
    return list(dict.fromkeys(conn.info.pop(_KEY, ())))


def tell(observers: list[Observer], troubles: list[Trouble]) -> None:
    """Tells every observer of some troubles; one that raises is logged, and disturbs nothing."""
    for observer in list(observers) if troubles else ():
        try:
            observer(troubles)
        except Exception:
            first = troubles[0]
            logger.exception("alert_failed alert=%s run=%s troubles=%d", first.alert, first.ref, len(troubles))
