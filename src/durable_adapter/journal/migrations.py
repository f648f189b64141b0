"""Migrates a journal's tables to the revision that this code needs, once, even if several deploys try at the same time.

Alembic is imported only to migrate. `check` reads one row, so that commands that only check stay fast.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..errors import JournalAhead, JournalError, JournalUnreachable
from . import Journal
from . import schema as tables
from .database import Database, quoted_name
from .outages import unreachable

if TYPE_CHECKING:
    from alembic.config import Config

#: Seconds for which a migration waits for another one on the same journal.
PATIENCE: Final = 300


def check(journal: Journal | Database) -> list[str]:
    """Returns the revisions that are still to be applied, oldest first; none if the journal is up to date.

    Raises:
        JournalUnreachable: the database does not answer.
        JournalAhead: the journal is at a revision that this code does not know.
    """
    db = _database(journal)
    return _missing(db, _found(db))


def migrate(journal: Journal | Database, *, sql: bool = False, out: TextIO | None = None) -> list[str]:
    """Applies the revisions that `check` returns, under a lock, and in one transaction where the database supports it.

    Args:
        journal: the journal, or its database.
        sql: apply nothing; write the statements instead, for a person to read and run. If the database cannot be reached,
            they are for an empty one.
        out: where the statements are written; default standard output.

    Returns:
        The revisions that were applied, or are written out.

    Raises:
        JournalUnreachable: the database does not answer.
        JournalAhead: the journal is at a revision that this code does not know.
        JournalError: another migration of this journal did not end in time.
    """
    db = _database(journal)
    if sql:
        return _write_statements(db, out)
    if not check(db):
        return []
    db.make_file()
    try:
        with _alone(db) as connection:
            # Read again under the lock: another migration may have applied them.
            missing = _missing(db, _revision_on(connection))
            if missing:
                _upgrade(_config(connection=connection), "head")
            return missing
    except DBAPIError as error:
        if unreachable(error):
            raise JournalUnreachable(
                f"the journal {db.safe_url} became unreachable while it was migrated: {error.orig}"
            ) from error
        raise


def folder() -> Path:
    """Returns the directory of the revisions: inside the installed package, or at the root of a source tree.

    Raises:
        JournalError: they are in neither place: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "migrations", package.parent.parent / "migrations"):
        if (place / "env.py").is_file():
            return place
    raise JournalError(f"the migrations of durable-adapter are not installed: {package / 'migrations'} is missing")


def _database(journal: Journal | Database) -> Database:
    return journal.db if isinstance(journal, Journal) else journal


def _missing(db: Database, found: str | None) -> list[str]:
    known = list(tables.REVISIONS)
    if found is None:
        return known
    if found not in known:
        raise JournalAhead(
            f"the journal {db.safe_url} is at revision {found}, which this version of durable-adapter (it knows up to "
            f"{tables.REVISION}) does not have, so it cannot migrate it. Migrate with the newer version that wrote it."
        )
    return known[known.index(found) + 1 :]


def _found(db: Database) -> str | None:
    """Returns the journal's revision; None if it has no tables, or no file."""
    return None if db.missing_file is not None else db.repeat(lambda: _read_revision(db))


def _read_revision(db: Database) -> str | None:
    with db.engine.connect() as connection:
        return _revision_on(connection)


def _revision_on(connection: Connection) -> str | None:
    """Returns the recorded revision. Checks for the table first: an error would abort a PostgreSQL transaction."""
    version = sa.table(tables.VERSION_TABLE, sa.column("version_num"))
    if not sa.inspect(connection).has_table(tables.VERSION_TABLE):
        return None
    found = connection.execute(sa.select(version.c.version_num)).scalar_one_or_none()
    return None if found is None else str(found)


@contextlib.contextmanager
def _alone(db: Database) -> Iterator[Connection]:
    """Yields a connection that holds the journal's migration lock."""
    if db.dialect_name == "mysql":
        with _named_lock(db) as connection:
            yield connection
        return
    with db.open_transaction() as connection:
        if db.is_postgresql:
            _take_advisory_lock(db, connection)
            if db.schema:
                _make_schema(connection, db.schema)
        yield connection


def _take_advisory_lock(db: Database, connection: Connection) -> None:
    """Waits for the lock, which ends with the transaction, so that it works behind a transaction pooler too."""
    digest = hashlib.sha256(f"durable-adapter migrate {db.schema or ''}".encode()).digest()
    number = int.from_bytes(digest[:8], "big", signed=True)
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
    try:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":
            raise _busy(db) from error
        raise


@contextlib.contextmanager
def _named_lock(db: Database) -> Iterator[Connection]:
    """Holds a lock of the session, because MySQL commits each statement that changes tables."""
    name = f"durable_migrate.{hashlib.sha256(str(db.url.database).encode()).hexdigest()[:32]}"
    with db.engine.connect() as connection:
        if connection.execute(sa.select(sa.func.get_lock(name, PATIENCE))).scalar_one() != 1:
            raise _busy(db)
        try:
            yield connection
        finally:
            with contextlib.suppress(SQLAlchemyError):
                connection.execute(sa.select(sa.func.release_lock(name)))


def _busy(db: Database) -> JournalError:
    return JournalError(
        f"another migration of the journal {db.safe_url} has been running for {PATIENCE} s; nothing was changed. "
        "See what it waits for, then run `durable-adapter migrate` again."
    )


def _make_schema(connection: Connection, schema: str) -> None:
    if not sa.inspect(connection).has_schema(schema):
        connection.execute(sa.schema.CreateSchema(schema))


def _write_statements(db: Database, out: TextIO | None) -> list[str]:
    try:
        found = _found(db)
    except JournalUnreachable:
        found = None
    missing = _missing(db, found)
    written = io.StringIO()
    if missing:
        config = _config(dialect_name=db.url.get_backend_name(), first=_first(db), output_buffer=written)
        _upgrade(config, f"{found}:head" if found else "head", sql=True)
    else:
        written.write(f"-- the journal is at revision {found}: there is nothing to do\n")
    print(written.getvalue(), end="", file=out)
    return missing


def _first(db: Database) -> list[str]:
    if not db.schema:
        return []
    schema = quoted_name(db.schema)
    return [f"CREATE SCHEMA IF NOT EXISTS {schema}", f"SET LOCAL search_path TO {schema}"]


def _config(output_buffer: TextIO | None = None, **attributes: Any) -> Config:
    from alembic.config import Config

    config = Config(output_buffer=output_buffer) if output_buffer is not None else Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def _upgrade(config: Config, target: str, *, sql: bool = False) -> None:
    from alembic import command

    command.upgrade(config, target, sql=sql)
