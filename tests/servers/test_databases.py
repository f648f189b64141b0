"""Fresh databases are empty, apart from each other, and gone at the end."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tests.servers import Databases, Unavailable
from tests.servers.databases import DIALECTS, Dialect
from tests.servers.fixtures import FreshDatabase


def execute(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def tables(url: str) -> list[str]:
    return inspect(create_engine(url, poolclass=NullPool)).get_table_names()


def fill(url: str) -> None:
    execute(url, "CREATE TABLE prepared (n INTEGER)", "INSERT INTO prepared VALUES (1)")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_call_gives_a_new_and_empty_database(fresh_database: FreshDatabase, dialect: Dialect):
    first, second = fresh_database(dialect), fresh_database(dialect)
    execute(first, "CREATE TABLE t (n INTEGER)")
    assert tables(first) == ["t"]
    assert tables(second) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_prepared_databases_are_equal_and_apart(fresh_database: FreshDatabase, dialect: Dialect):
    first, second = fresh_database(dialect, prepare=fill), fresh_database(dialect, prepare=fill)
    execute(first, "DROP TABLE prepared")
    assert tables(second) == ["prepared"]


def test_a_template_is_prepared_once(fresh_database: FreshDatabase):
    calls: list[str] = []
    for _ in range(3):
        fresh_database("sqlite", prepare=calls.append)
    assert len(calls) == 1


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_databases_are_dropped_even_under_an_open_transaction(
    databases: Databases, fresh_database: FreshDatabase, dialect: Dialect
):
    url = fresh_database(dialect)
    execute(url, "CREATE TABLE t (n INTEGER)")
    forgotten = create_engine(url).connect()
    forgotten.execute(text("INSERT INTO t VALUES (1)"))
    databases.drop(url)
    with pytest.raises(DBAPIError):
        execute(url, "SELECT 1")
    forgotten.invalidate()


def test_a_missing_server_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    looked: list[int] = []

    def find() -> None:
        looked.append(1)
        raise Unavailable("none here")

    monkeypatch.setitem(__import__("tests.servers.databases").servers.databases.FINDERS, "mariadb", find)
    with Databases(tmp_path) as databases:
        for _ in range(2):
            with pytest.raises(Unavailable, match="none here"):
                databases.fresh("mariadb")
    assert len(looked) == 1


def test_journal_url_runs_once_per_dialect(journal_url: str, request: pytest.FixtureRequest):
    assert tables(journal_url) == []
    assert create_engine(journal_url).dialect.name in {"sqlite", "postgresql", "mysql", "mariadb"}


def test_postgres_url_is_one_database_for_the_session(postgres_url: str):
    assert create_engine(postgres_url).dialect.name == "postgresql"
    execute(postgres_url, "SELECT 1")


def test_mariadb_url_is_one_database_for_the_session(mariadb_url: str):
    assert create_engine(mariadb_url).dialect.name in {"mysql", "mariadb"}
    execute(mariadb_url, "SELECT 1")
