"""The journal's tables come from migrations, and are what the code thinks they are."""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import durable_adapter.journal.migrations as migrations
from durable_adapter.errors import JournalAhead, JournalError, JournalUnmigrated, JournalUnreachable
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import check, folder, migrate
from durable_adapter.journal.schema import REVISION, REVISIONS, VERSION_TABLE, metadata
from tests.journal.interleaving import together
from tests.journal.making import a_run, change, the
from tests.servers.addresses import free_port
from tests.servers.fixtures import FreshDatabase


@pytest.fixture
def dialect(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "sqlite"))


every_dialect = pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"], indirect=True)


@pytest.fixture
def journal(dialect: Any, fresh_database: FreshDatabase) -> Any:
    """A journal on a database without tables."""
    found = Journal(fresh_database(dialect))
    yield found
    found.close()


def catalogue(journal: Journal) -> list[Any]:
    """What the database itself says about every column and index of the journal."""
    match journal.db.dialect_name:
        case "sqlite":
            # Where a migration was cut short, or written by hand, only the white space may differ.
            rows = _ask(journal, "SELECT name, sql FROM sqlite_master WHERE name LIKE '%durable_%'")
            return sorted((name, re.sub(r"[\s\"]+", "", sql or "")) for name, sql in rows if VERSION_TABLE not in name)
        case "postgresql":
            columns = _ask(
                journal,
                "SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, collation_name,"
                " is_nullable, column_default FROM information_schema.columns WHERE table_schema = current_schema()",
            )
            indexes = _ask(journal, "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()")
            found = [tuple(row) for row in [*columns, *indexes] if row[0] != VERSION_TABLE]
            return sorted(found, key=str)
        case _:
            # The lines sorted: indexes are listed in the order in which they were made.
            made = [_ask(journal, f"SHOW CREATE TABLE {table}")[0] for table in sorted(metadata.tables)]
            return [(name, sorted(line.rstrip(",") for line in sql.splitlines())) for name, sql in made]


def _ask(journal: Journal, query: str) -> list[Any]:
    with journal.db.engine.connect() as connection:
        return list(connection.exec_driver_sql(query.replace("%", "%%")).all())


def create_from_metadata(journal: Journal) -> None:
    metadata.create_all(journal.db.engine)


def run_by_hand(journal: Journal, script: str) -> None:
    """Runs a script as the database's own command line would: every statement, no parameters."""
    raw = journal.db.engine.raw_connection()
    try:
        if journal.db.is_sqlite:
            connection: sqlite3.Connection = raw.driver_connection  # type: ignore[assignment]
            connection.executescript(script)
            return
        cursor = raw.cursor()
        for statement in script.split(";\n"):
            lines = [line for line in statement.splitlines() if line.strip() and not line.startswith("--")]
            if lines:
                cursor.execute("\n".join(lines))
    finally:
        raw.close()


@every_dialect
def test_a_migrated_journal_is_what_the_code_thinks_it_is(journal: Journal) -> None:
    migrate(journal)
    with journal.db.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []


@every_dialect
def test_the_migrations_make_the_same_columns_collations_and_indexes_as_the_tables_of_the_code(
    journal: Journal, dialect: Any, fresh_database: FreshDatabase
) -> None:
    migrate(journal)
    made_by_the_code = Journal(fresh_database(dialect))
    create_from_metadata(made_by_the_code)
    assert catalogue(journal) == catalogue(made_by_the_code)
    made_by_the_code.close()


@every_dialect
def test_a_migrated_journal_needs_nothing_more(journal: Journal) -> None:
    assert check(journal) == list(REVISIONS)
    with pytest.raises(JournalUnmigrated, match=rf"has no tables.*needs {REVISION}.*durable-adapter migrate"):
        journal.check()
    assert migrate(journal) == list(REVISIONS)
    assert check(journal) == []
    assert migrate(journal) == []
    journal.check()
    assert journal.revision() == REVISION
    assert a_run(journal, "charge")


@every_dialect
def test_two_deploys_that_migrate_at_the_same_time_both_find_the_journal_migrated(
    journal: Journal, dialect: Any, fresh_database: FreshDatabase
) -> None:
    for _ in range(3):
        url = journal.db.url
        others = [Journal(url) for _ in range(4)]
        applied = together(*[lambda other=other: migrate(other) for other in others])  # type: ignore[misc]
        assert sorted(applied) == [[], [], [], list(REVISIONS)]
        for other in others:
            other.check()
            other.close()
        journal.close()
        journal = Journal(fresh_database(dialect))
    journal.close()


@every_dialect
def test_the_statements_that_are_written_out_make_the_same_journal_when_run_by_hand(
    journal: Journal, dialect: Any, fresh_database: FreshDatabase
) -> None:
    script = io.StringIO()
    assert migrate(journal, sql=True, out=script) == list(REVISIONS)
    assert check(journal) == list(REVISIONS), "writing them out must not run them"
    by_hand = Journal(fresh_database(dialect))
    run_by_hand(by_hand, script.getvalue())
    migrate(journal)
    assert catalogue(by_hand) == catalogue(journal)
    by_hand.check()
    by_hand.close()


@every_dialect
def test_the_statements_are_written_out_for_a_database_that_cannot_be_reached(dialect: str) -> None:
    port = free_port()
    url = {
        "sqlite": "sqlite:////nowhere/at/all/journal.db",
        "postgresql": f"postgresql+psycopg://somebody@127.0.0.1:{port}/journal",
        "mariadb": f"mysql+pymysql://somebody@127.0.0.1:{port}/journal",
    }[dialect]
    journal = Journal(url)
    script = io.StringIO()
    assert migrate(journal, sql=True, out=script) == list(REVISIONS)
    assert "CREATE TABLE durable_step" in script.getvalue()
    with pytest.raises(JournalUnreachable):
        migrate(journal)


@every_dialect
def test_a_journal_that_is_up_to_date_has_no_statements_to_write_out(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    migrate(journal)
    assert migrate(journal, sql=True) == []
    assert capsys.readouterr().out == f"-- the journal is at revision {REVISION}: there is nothing to do\n"


@every_dialect
def test_a_journal_that_is_ahead_is_not_migrated_by_older_code(journal: Journal) -> None:
    migrate(journal)
    for ahead in (f"{int(REVISION) + 1:04d}", "abcd"):
        _write_revision(journal, ahead)
        for attempt in (lambda: migrate(journal), lambda: check(journal), lambda: migrate(journal, sql=True)):
            with pytest.raises(JournalAhead, match=rf"at revision {ahead}.*knows up to {REVISION}.*newer version"):
                attempt()


@every_dialect
def test_code_runs_on_the_revision_after_its_own_and_refuses_the_one_after_that(journal: Journal) -> None:
    migrate(journal)
    _write_revision(journal, f"{int(REVISION) + 1:04d}")
    journal.check()
    _write_revision(journal, f"{int(REVISION) + 2:04d}")
    with pytest.raises(JournalAhead, match="Upgrade durable-adapter"):
        journal.check()


def _write_revision(journal: Journal, revision: str) -> None:
    version = sa.table(VERSION_TABLE, sa.column("version_num"))
    journal.db.transaction(lambda conn: conn.execute(sa.update(version).values(version_num=revision)))


@every_dialect
def test_what_may_have_happened_twice_moves_to_a_column_of_its_own(journal: Journal) -> None:
    migrate(journal)
    ref = a_run(journal, "charge", "pack", "ship")
    change(journal, ref, "charge", attention="twice", ended_at=1_000)
    change(journal, ref, "pack", attention="twice")
    change(journal, ref, "ship", attention="undo_failed")
    _write_revision(journal, "0001")
    assert migrate(journal) == [revision for revision in REVISIONS if revision > "0001"]
    charge, pack, ship = (the(journal, ref, key) for key in ("charge", "pack", "ship"))
    assert (charge.twice_at, charge.marks) == (1_000, ["twice"])
    assert (pack.twice_at, pack.marks) == (pack.created_at, ["twice"])
    assert (ship.twice_at, ship.marks) == (None, ["undo_failed"])


@pytest.mark.parametrize("dialect", ["mariadb"], indirect=True)
def test_a_migration_that_was_cut_short_between_two_statements_goes_on_where_it_stopped(
    journal: Journal, fresh_database: FreshDatabase
) -> None:
    migrate(journal)
    whole = catalogue(journal)
    for lost in ("DROP TABLE durable_event", "DROP INDEX ix_durable_step_next_check ON durable_step", "SELECT 1"):
        _ask_nothing(journal, f"DELETE FROM {VERSION_TABLE}")
        _ask_nothing(journal, lost)
        assert migrate(journal) == list(REVISIONS)
        assert catalogue(journal) == whole


def _ask_nothing(journal: Journal, statement: str) -> None:
    with journal.db.engine.connect() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"], indirect=True)
def test_a_migration_that_fails_leaves_nothing_behind(journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(folder(), tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    script = next((tmp_path / "migrations" / "versions").glob("0001_*.py"))
    last = 'create_index("ix_durable_event_kind", "durable_event", "kind", "at")'
    assert last in script.read_text()
    script.write_text(script.read_text().replace(last, 'op.execute("SELECT * FROM no_such_table")'))
    monkeypatch.setattr(migrations, "folder", lambda: tmp_path / "migrations")
    with pytest.raises(sa.exc.DBAPIError):
        migrate(journal)
    assert sa.inspect(journal.db.engine).get_table_names() == []
    monkeypatch.undo()
    assert migrate(journal) == list(REVISIONS)


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_a_journal_may_live_in_a_schema_of_its_own_which_is_made_for_it(journal: Journal) -> None:
    apart = Journal(journal.db.url, schema="Durable")
    assert migrate(apart) == list(REVISIONS)
    assert check(apart) == []
    assert check(journal) == list(REVISIONS), "the default schema has no journal"
    assert sa.inspect(journal.db.engine).get_table_names(schema="Durable") != []
    assert sa.inspect(journal.db.engine).get_table_names() == []
    ref = a_run(apart, "charge")
    assert apart.reads.run(ref) is not None
    apart.close()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
def test_the_statements_for_a_journal_in_a_schema_of_its_own_make_it_there(journal: Journal) -> None:
    apart = Journal(journal.db.url, schema="durable")
    script = io.StringIO()
    migrate(apart, sql=True, out=script)
    run_by_hand(journal, script.getvalue())
    apart.check()
    assert sa.inspect(journal.db.engine).get_table_names() == []
    apart.close()


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"], indirect=True)
def test_a_migration_that_waits_too_long_for_another_one_says_so_and_changes_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "PATIENCE", 1)
    other = Journal(journal.db.url)
    with migrations._alone(other.db), pytest.raises(JournalError, match=r"another migration .* has been running"):
        migrate(journal)
    other.close()
    assert check(journal) == list(REVISIONS)
    migrate(journal)


def test_the_revisions_of_the_code_are_those_in_the_folder_in_one_line() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(folder()))
    found = list(script.walk_revisions())
    assert [revision.revision for revision in reversed(found)] == list(REVISIONS)
    assert script.get_heads() == [REVISION]


def test_the_migrations_are_found_in_an_installed_package_and_missed_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "durable_adapter"
    shutil.copytree(folder(), installed / "migrations")
    (installed / "journal").mkdir()
    monkeypatch.setattr(migrations, "__file__", str(installed / "journal" / "migrations.py"))
    assert folder() == installed / "migrations"
    shutil.rmtree(installed / "migrations")
    with pytest.raises(JournalError, match=r"migrations of durable-adapter are not installed"):
        folder()


def test_asking_what_is_missing_does_not_import_alembic(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "from durable_adapter.journal import Journal\n"
        "from durable_adapter.journal.migrations import check\n"
        f"print(check(Journal('sqlite:///{tmp_path}/journal.db')), 'alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{list(REVISIONS)} False\n", done.stderr
