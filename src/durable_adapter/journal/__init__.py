"""The journal: the only source of truth, and the only package that uses SQL.

`Journal` opens one by its URL. Its parts are nouns: `runs`, `claims`, `ends`, `doubts`, `undo`, `orders`, `workers`, `events`,
`reads`, `retention`. One method is one transaction and one legal transition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from ..errors import JournalAhead, JournalUnmigrated
from ..model import SECOND
from . import schema as tables
from .claims import Claims
from .database import Database, missing_text
from .doubts import Doubts
from .due import Due
from .ends import Ended, Ends
from .enforced import Enforced
from .engine_ends import EngineEnds
from .events import Events
from .members import Members
from .orders import Orders
from .reads import Reads
from .retention import Retention
from .runs import Runs
from .starts import Starts
from .surveys import Around, Surveys
from .transitions import Transitions
from .turns import Turns
from .undo import Decision, Undo
from .verdicts import Verdicts
from .workers import Workers

#: Seconds after which a run in which nothing began is checked for a lost message.
RESEND_AFTER = 600.0


class Journal:
    """One journal, opened by its URL.

    Args:
        url: SQLAlchemy URL of the database.
        namespace: separates the users of one journal; it is part of every workflow's identity.
        schema: PostgreSQL schema of the tables.
        resend_after: seconds after which an unfinished run is checked for a lost message.
        pool_size: connections kept open per process.
        connect_args: passed to the database driver.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        namespace: str = "default",
        schema: str | None = None,
        resend_after: float = RESEND_AFTER,
        pool_size: int = 2,
        connect_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.db = Database(url, schema=schema, pool_size=pool_size, connect_args=connect_args)
        self.namespace = namespace
        self.events = Events(self.db)
        transitions = Transitions(self.db, self.events)
        self.undo = Undo(self.db, self.events, transitions)
        self._turns = turns = Turns(self.db)
        self.enforced = Enforced(self.db, self.events, namespace)
        #: Microseconds after which a run in which nothing began is checked.
        self.resend_after = int(resend_after * SECOND)
        self.starts = Starts(self.db, self.undo, self.enforced, self.resend_after)
        self.runs = Runs(self.db, self.events, transitions, self.undo, self.resend_after)
        self.members = Members(self.db, self.events, transitions, self.undo, turns, self.resend_after)
        self.claims = Claims(self.db)
        self.ends = Ends(self.db, self.events, transitions, self.undo, turns)
        self.engine_ends = EngineEnds(self.db, self.events, transitions, self.undo)
        self.doubts = Doubts(self.db, self.events, transitions, self.undo)
        self.verdicts = Verdicts(self.db, self.events, transitions, self.undo, turns)
        self.due = Due(self.db, self.events, self.undo, self.doubts, self.resend_after)
        self.orders = Orders(self.db, self.undo)
        self.workers = Workers(self.db, self.events)
        self.reads = Reads(self.db)
        self.surveys = Surveys(self.db)
        self.retention = Retention(self.db)

    def compile_hot(self) -> None:
        """Compiles the hot statements, so that forked processes share them. Does not connect to the database."""
        for part in (self.claims, self.ends, self.reads, self.starts, self.runs, self.workers, self._turns):
            for statement in vars(part).values():
                if isinstance(statement, sa.sql.ClauseElement) and isinstance(statement, sa.sql.base.Executable):
                    self.db.hot(statement)

    def revision(self) -> str | None:
        """Returns the revision of the journal's tables; None if there are none."""
        version = sa.table(tables.VERSION_TABLE, sa.column("version_num"))
        try:
            rows = self.db.select(sa.select(version.c.version_num))
        except JournalUnmigrated:
            return None
        return str(rows[0][0]) if rows else None

    def check(self) -> None:
        """Checks that the journal exists and has a revision that this code can use.

        Raises:
            JournalUnreachable: the database does not answer.
            JournalUnmigrated: the tables are missing or too old.
            JournalAhead: the tables are more than one revision newer than this code.
        """
        found = self.revision()
        if found == tables.REVISION:
            return
        if found is None and (missing := self.db.missing_file) is not None:
            raise JournalUnmigrated(missing_text(self.db.safe_url, missing))
        if found is None or found in tables.REVISIONS:
            state = "has no tables" if found is None else f"is at revision {found}"
            raise JournalUnmigrated(
                f"the journal {self.db.safe_url} {state}; this version of durable-adapter needs {tables.REVISION}. "
                "Run `durable-adapter migrate` (first `durable-adapter migrate --sql` to see what it would do)."
            )
        if found.isdigit() and int(found) == int(tables.REVISION) + 1:
            return  # code of version N runs on schema N and N+1, so that a rolling deploy never stops
        raise JournalAhead(
            f"the journal {self.db.safe_url} is at revision {found}, which this version of durable-adapter "
            f"(it knows up to {tables.REVISION}) does not understand. Upgrade durable-adapter in this process."
        )

    def around(self) -> Around:
        """Checks the journal like `check`, and returns the facts that do not depend on a run. One read."""
        try:
            found = self.surveys.around()
        except JournalUnmigrated:
            self.check()  # raises with what is missing
            raise
        if found.revision != tables.REVISION:
            self.check()
        return found

    def time(self) -> int:
        """Returns the database's time in microseconds since 1970 (UTC)."""
        return self.db.time()

    def close(self) -> None:
        """Closes this process's connections."""
        self.db.dispose()


__all__ = ["RESEND_AFTER", "Database", "Decision", "Ended", "Journal"]
