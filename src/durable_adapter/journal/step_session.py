"""The session that the body of a transactional step gets. The only file that loads SQLAlchemy's ORM."""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy.orm import Session

from ..errors import TransactionMisuse


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
