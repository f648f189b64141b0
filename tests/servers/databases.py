"""Empty databases, one per call, on every SQL dialect that this machine can offer; all dropped at the end."""

import os
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.servers.addresses import NO_SERVERS, servers_allowed
from tests.servers.mariadb import find_mariadb
from tests.servers.postgres import DatabaseServer, find_or_start_postgres
from tests.servers.unavailable import Unavailable

Dialect = Literal["sqlite", "postgresql", "mariadb"]
DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql", "mariadb")

FINDERS: dict[str, Callable[[], DatabaseServer]] = {"postgresql": find_or_start_postgres, "mariadb": find_mariadb}


class Databases:
    """Makes databases; servers are looked for, or started, when the first database of their dialect is wanted.

    Args:
        directory: where SQLite's files go.
        note: told, once per server, which one is used.

    Example:
        with Databases(tmp_path) as databases:
            engine = create_engine(databases.fresh("postgresql"))
    """

    def __init__(self, directory: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self._directory = directory
        self._note = note
        self._servers: dict[str, DatabaseServer | Unavailable] = {}
        self._made: dict[str, tuple[DatabaseServer, str]] = {}
        self._templates: dict[tuple[str, Callable[[str], object]], str] = {}
        self._count = 0
        # Several sessions, each with several worker processes, may share one server.
        self._prefix = f"durable_test_{os.getpid()}_{secrets.token_hex(3)}"

    def fresh(self, dialect: Dialect, prepare: Callable[[str], object] | None = None) -> str:
        """Make a database and return its SQLAlchemy URL.

        Args:
            dialect: `sqlite`, `postgresql` or `mariadb`.
            prepare: called with a database's URL to fill it, with the tables for example. It is called once per
                dialect, and what it made is copied from then on, where the dialect can copy (MariaDB cannot). It
                leaves no connection open.

        Raises:
            Unavailable: when there is no such server here.
        """
        if prepare is None:
            return self._create(dialect)
        if dialect == "mariadb":
            url = self._create(dialect)
            prepare(url)
            return url
        key = (dialect, prepare)
        if key not in self._templates:
            template = self._create(dialect)
            prepare(template)
            self._templates[key] = template
        return self._create(dialect, copy_of=self._templates[key])

    def drop(self, url: str) -> None:
        """Drop a database that `fresh` made, with whatever is still connected to it."""
        server, name = self._made.pop(url, (None, ""))
        if server is not None:
            server.drop(name)

    def server(self, dialect: Dialect) -> DatabaseServer:
        """The server of a dialect, found or started once."""
        if dialect not in self._servers:
            self._servers[dialect] = self._find(dialect)
        found = self._servers[dialect]
        if isinstance(found, Unavailable):
            raise found
        return found

    def _find(self, dialect: Dialect) -> DatabaseServer | Unavailable:
        if not servers_allowed():
            return Unavailable(f"no {dialect}: {NO_SERVERS} is set")
        try:
            server = FINDERS[dialect]()
        except Unavailable as reason:
            return reason
        self._note(server.description)
        return server

    def close(self) -> None:
        """Drop every database that is left and end the servers that were started."""
        for url in list(self._made):
            self.drop(url)
        for server in self._servers.values():
            if not isinstance(server, Unavailable):
                server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _create(self, dialect: Dialect, copy_of: str | None = None) -> str:
        self._count += 1
        name = f"{self._prefix}_{self._count}"
        if dialect == "sqlite":
            return self._create_sqlite_file(name, copy_of)
        server = self.server(dialect)
        server.create(name, self._made[copy_of][1] if copy_of else None)
        url = server.url(name)
        self._made[url] = (server, name)
        return url

    def _create_sqlite_file(self, name: str, copy_of: str | None) -> str:
        path = self._directory / f"{name}.sqlite3"
        if copy_of is not None:
            source = sqlite3.connect(copy_of.removeprefix("sqlite:///"))
            target = sqlite3.connect(path)
            source.backup(target)
            source.close()
            target.close()
        path.touch()  # as a server has it: there, and empty
        return f"sqlite:///{path}"
