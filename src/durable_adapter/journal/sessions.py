"""The transaction and the session of a transactional step.

SQLAlchemy's ORM takes 6 MB and a large part of a second. It is loaded with the first transactional step, or before a fork by a
worker that has one.
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
    """Raised when a database refused a statement or the commit of a step's transaction, which is rolled back."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _reason(error: SQLAlchemyError) -> object:
    return getattr(error, "orig", None) or error


def _misuse_of(error: SQLAlchemyError) -> TransactionMisuse | None:
    """Returns the error for a body that went on after a database error, after which PostgreSQL refuses all statements."""
    if getattr(getattr(error, "orig", None), "sqlstate", None) != "25P02":
        return None
    misuse = TransactionMisuse(
        "the body of a transactional step caught a database error and went on, and PostgreSQL takes nothing more in a "
        "transaction after one. The step was rolled back. Put the statement that may fail into "
        "`with durable.session().begin_nested():`."
    )
    misuse.__cause__ = error
    return misuse


def load_sessions() -> None:
    """Imports what `step_transaction` needs, so that forked processes share it."""
    from . import step_session  # noqa: F401 - the import is the purpose


@contextlib.contextmanager
def step_transaction(db: Database) -> Iterator[tuple[Connection, StepSession]]:
    """Opens a transaction with a session, which is flushed before the commit.

    Raises:
        Refused: the database refused a statement or the commit; everything was rolled back.
        JournalUnreachable: the database became unreachable, or its answer to the commit was lost: whether it was committed
            is unknown until the step's row is read again.
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
        raise Refused(_misuse_of(error) or error) from error
    finally:
        # Closing rolls back: before the commit above, it would undo the step.
        with contextlib.suppress(Exception):
            session.close()
