"""The transaction of a transactional step, with a session on it.

SQLAlchemy's ORM takes 6 MB and a good part of a second: it is loaded with the first transactional step, or by a worker that
knows of one before it forks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from ..errors import JournalUnreachable, TransactionMisuse
from .database import Database
from .outages import aborted, unreachable

if TYPE_CHECKING:
    from .step_session import StepSession


class Refused(Exception):
    """Carries what a database refused of a step's transaction, which is rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _reason(error: SQLAlchemyError) -> object:
    return getattr(error, "orig", None) or error


def _swallowed(error: SQLAlchemyError) -> TransactionMisuse | None:
    """PostgreSQL takes nothing more after an error, so that a body which goes on behind one cannot be committed."""
    if getattr(getattr(error, "orig", None), "sqlstate", None) != "25P02":
        return None
    misuse = TransactionMisuse(
        "the body of a transactional step caught a database error and went on, and PostgreSQL takes nothing more in a "
        "transaction after one. Put the statement that may fail into `with durable.session().begin_nested():`."
    )
    misuse.__cause__ = error
    return misuse


def load_sessions() -> None:
    """Loads what `step_transaction` needs, so that processes forked from this one share it."""
    from . import step_session  # noqa: F401 - loading it is the purpose


@contextlib.contextmanager
def step_transaction(db: Database) -> Iterator[tuple[Connection, StepSession]]:
    """One transaction with a session on it; what the session still holds is flushed before the commit.

    Raises:
        Refused: the database refused something of the block, or its commit, so that nothing of it is left.
        JournalUnreachable: the database went away, or its answer to the commit was lost: what was committed is unknown
            until the step's row is read again.
    """
    from .step_session import StepSession

    session = StepSession()
    try:
        with db.open_transaction(users=True) as connection:
            session.bind = connection
            yield connection, session
            session.flush()
    except SQLAlchemyError as error:
        lost = isinstance(error, DBAPIError) and not isinstance(error, IntegrityError) and (unreachable(error) or aborted(error))
        if lost:
            raise JournalUnreachable(f"the transaction of a step on {db.safe_url} was lost: {_reason(error)}") from error
        raise Refused(_swallowed(error) or error) from error
    finally:
        # Only now: closing rolls back, which after the commit above means nothing, and before it would undo the step.
        with contextlib.suppress(Exception):
            session.close()
