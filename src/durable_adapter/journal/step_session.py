"""The session of a transactional step's body. No other file imports SQLAlchemy's ORM."""

from __future__ import annotations

from typing import NoReturn

from sqlalchemy.orm import Session

from ..errors import TransactionMisuse


class StepSession(Session):
    """A session inside a step's own transaction. The body may use savepoints (`begin_nested()`)."""

    def commit(self) -> NoReturn:
        """Raises `TransactionMisuse`: the step commits its row and its effect together when the body returns."""
        raise TransactionMisuse(
            "durable.session() cannot be committed: the step commits it together with its own record when the body "
            "returns. Remove the commit, or use session.begin_nested() for a part that may fail by itself."
        )

    def rollback(self) -> NoReturn:
        """Raises `TransactionMisuse`: the body raises an error to roll back the step and its effect."""
        raise TransactionMisuse(
            "durable.session() cannot be rolled back: raise an error to undo the whole step, or use "
            "session.begin_nested() for a part that may fail by itself."
        )
