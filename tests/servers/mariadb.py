"""MariaDB or MySQL: the server of this machine or a named one. No wheel brings one, so without it the tests skip."""

import os
from typing import Any

from tests.servers.addresses import LOOPBACK, NO_LOCAL_SERVICES, local_services_allowed
from tests.servers.unavailable import Unavailable

URL_VARIABLE = "DURABLE_TEST_MARIADB"
LOCAL_SERVER = f"mysql+pymysql://root@{LOOPBACK}:3306/"
CONNECT_TIMEOUT = 3


class MariaDBServer:
    """A MariaDB or MySQL server on which databases may be made and dropped.

    Args:
        admin_url: SQLAlchemy URL of a user that may do so.
        description: what the summary of the test run says about it.
    """

    def __init__(self, admin_url: str, description: str) -> None:
        self.admin_url = admin_url
        self.description = description

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        from sqlalchemy import make_url

        return make_url(self.admin_url).set(database=database).render_as_string(hide_password=False)

    def create(self, database: str, template: str | None = None) -> None:
        """Make an empty database."""
        if template is not None:
            raise NotImplementedError("MariaDB cannot copy a database")
        with _connect(self.admin_url) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")

    def drop(self, database: str) -> None:
        with _connect(self.admin_url) as connection, connection.cursor() as cursor:
            # A connection that a test forgot may hold a lock, and dropping would wait for it.
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", [database])
            for (connection_id,) in cursor.fetchall():
                cursor.execute("KILL CONNECTION %s", [connection_id])
            cursor.execute(f"DROP DATABASE IF EXISTS `{database}`")

    def close(self) -> None:
        """Nothing: the server was here before us and stays."""


def find_mariadb() -> MariaDBServer:
    """The server that `DURABLE_TEST_MARIADB` names, else this machine's."""
    if named := os.environ.get(URL_VARIABLE):
        return _checked(named, f"named by {URL_VARIABLE}")
    if not local_services_allowed():
        raise Unavailable(f"no MariaDB: {NO_LOCAL_SERVICES} is set, and there is no wheel that brings one")
    return _checked(LOCAL_SERVER, "this machine's")


def _checked(url: str, origin: str) -> MariaDBServer:
    try:
        import pymysql
    except ImportError:
        raise Unavailable("PyMySQL is not installed") from None

    try:
        with _connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version()")
            version = cursor.fetchone()[0]
    except (pymysql.Error, OSError) as error:
        raise Unavailable(f"no MariaDB ({origin}): {error}") from None
    return MariaDBServer(url, f"{'MariaDB' if 'MariaDB' in version else 'MySQL'} {version}, {origin}")


def _connect(url: str) -> Any:
    import pymysql
    from sqlalchemy import make_url

    parts = make_url(url)
    return pymysql.connect(
        host=parts.host or LOOPBACK,
        port=parts.port or 3306,
        user=parts.username,
        password=parts.password or "",
        connect_timeout=CONNECT_TIMEOUT,
        autocommit=True,
    )
