"""Tells errors of an unavailable database from errors of a statement (P10).

A database that is down, full, read-only, out of connections or shutting down is treated alike: a start raises and sends nothing,
and a worker waits in its slot. Each database has its own error codes.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

#: SQLSTATEs (PostgreSQL) and error numbers (MySQL, MariaDB) of transactions that the database aborted itself.
_ABORTED: Final = frozenset({"40001", "40P01", "55P03", 1205, 1213, 1020, "locked"})
#: Those of them for a lock that was not released in time.
_LOCK_TIMED_OUT: Final = frozenset({"55P03", 1205, "locked"})

#: PostgreSQL, the first two characters: connection, out of resources (disk, memory, connections), operator intervention
#: (shutting down), system error.
_CLASSES: Final = ("08", "53", "57", "58")
#: PostgreSQL: a read-only transaction (a standby), a role that may not write, damaged data or index.
_STATES: Final = frozenset({"25006", "42501", "XX001", "XX002"})
#: Those of a database that answers but cannot be written.
_UNWRITABLE_STATES: Final = frozenset({"25006", "42501", "53100"})

#: MySQL and MariaDB: writing a file failed, out of memory, disk full, too many connections, shutting down, table full, write
#: or storage error, connection killed, more than the user's connections, no thread, a role that may not write, read only.
_NUMBERS: Final = frozenset(
    {3, 5, 20, 1021, 1026, 1030, 1037, 1038, 1040, 1041, 1053, 1114, 1135, 1142, 1143, 1203, 1226, 1290, 1792, 1836, 1927, 3100}
)
_UNWRITABLE_NUMBERS: Final = frozenset({3, 20, 1021, 1026, 1030, 1114, 1142, 1143, 1290, 1792, 1836})

#: SQLite: not permitted, busy, locked, read only, I/O error, full, cannot open, locking protocol, not a database, damaged.
_SQLITE: Final = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_AUTH,
    }
)  # fmt: skip
_UNWRITABLE_SQLITE: Final = frozenset({sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL})

#: The words of SQLite's messages for these codes.
_WORDS: Final = (
    ("locked", sqlite3.SQLITE_BUSY),
    ("busy", sqlite3.SQLITE_BUSY),
    ("readonly", sqlite3.SQLITE_READONLY),
    ("disk I/O", sqlite3.SQLITE_IOERR),
    ("is full", sqlite3.SQLITE_FULL),
    ("unable to open", sqlite3.SQLITE_CANTOPEN),
)


def aborted(error: DBAPIError) -> bool:
    """Returns whether the database aborted the transaction, so that it should be tried again."""
    return _code(error) in _ABORTED


def waited_in_vain(error: DBAPIError) -> bool:
    """Returns whether a transaction was aborted because a lock was not released in time."""
    return _code(error) in _LOCK_TIMED_OUT


def unreachable(error: DBAPIError) -> bool:
    """Returns whether the database failed, rather than the statement."""
    if error.connection_invalidated:
        return True
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return _sqlite(original) in _SQLITE
    code = _code(error)
    if isinstance(code, str):
        return code[:2] in _CLASSES or code in _STATES
    if code in _NUMBERS:
        return True
    return isinstance(error, (OperationalError, InterfaceError))


def unwritable(error: BaseException) -> bool:
    """Returns whether the database answers but cannot be written: full, read only, or not permitted."""
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.Error):
        return _sqlite(original) in _UNWRITABLE_SQLITE
    code = _code(error) if isinstance(error, DBAPIError) else None
    return code in _UNWRITABLE_STATES or code in _UNWRITABLE_NUMBERS


def table_missing(error: BaseException) -> bool:
    """Returns whether a statement failed because the journal's tables or columns do not exist."""
    original = getattr(error, "orig", None)
    if getattr(original, "sqlstate", None) in ("42P01", "42703", "3F000"):
        return True
    if isinstance(original, sqlite3.OperationalError) and ("no such table" in str(original) or "no such column" in str(original)):
        return True
    code = original.args[0] if original is not None and original.args else None
    return code in (1146, 1054)


def _code(error: DBAPIError) -> Any:
    """Returns the error number (MySQL, MariaDB) or the SQLSTATE; `locked` for SQLite's lock.

    The number comes first: newer versions of PyMySQL have a SQLSTATE too, which is mostly `HY000`.
    """
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return "locked" if _sqlite(original) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else None
    number = original.args[0] if original is not None and original.args else None
    return number if isinstance(number, int) else getattr(original, "sqlstate", None)


def _sqlite(error: sqlite3.Error) -> int | None:
    """Returns SQLite's primary error code; from the message, if the driver passes no code."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return int(code) & 0xFF
    return next((its for words, its in _WORDS if words in str(error)), None)
