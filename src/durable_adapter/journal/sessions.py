"""The transaction of a transactional step, and the session that its body gets: neither commits nor rolls back by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..errors import JournalUnreachable, TransactionMisuse
from .database import Database
from .outages import aborted, unreachable


class StepSession(Session):
    """A session inside a step's own transaction. Savepoints (`begin_nested()`) are the body's own."""

    def commit(self) -> NoReturn:
        """Refused: the step's row and its effect are one commit, made when the body returns."""
        raise TransactionMisuse(
            "durable.session() cannot be committed: the step commits it together with its own record when the body "
            "returns. Remove the commit, or use session.begin_nested() for a part that may fail by itself."
        )

    def rollback(self) -> NoReturn:
        """Refused: raising an error rolls back the step and its effect."""
        raise TransactionMisuse(
            "durable.session() cannot be rolled back: raise an error to undo the whole step, or use "
            "session.begin_nested() for a part that may fail by itself."
        )


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


@contextlib.contextmanager
def step_transaction(db: Database) -> Iterator[tuple[Connection, StepSession]]:
    """One transaction with a session on it; what the session still holds is flushed before the commit.

    Raises:
        Refused: the database refused something of the block, or its commit, so that nothing of it is left.
        JournalUnreachable: the database went away, or its answer to the commit was lost: what was committed is unknown
            until the step's row is read again.
    """
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
            Session.close(session)
