"""The connection: what it sets, what it repeats, what it throws away, and what it says when it cannot (P10)."""

from __future__ import annotations

import gc
import io
import os
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa

from durable_adapter.errors import JournalBusy, JournalUnmigrated, JournalUnreachable, SettingError
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import check, migrate
from durable_adapter.journal.rows import step_values
from durable_adapter.journal.schema import REVISIONS, metadata, step
from durable_adapter.model import Event, Stored, new_ref, new_token
from tests.journal.conftest import OpenJournal
from tests.journal.interleaving import statements, together
from tests.journal.making import ONE, a_run, a_step, a_worker, a_workflow, claim, statuses, succeed, the_run
from tests.servers.addresses import free_port


class SoftTimeLimit(Exception):
    """Raised out of a signal handler, as Celery's soft time limit is."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def raise_it(_signal: int, _frame: FrameType | None) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGALRM, raise_it)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


SLEEP = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) SELECT max(i) FROM n",
    "postgresql": "SELECT pg_sleep(20)",
    "mysql": "SELECT sleep(20)",
}


@pytest.mark.parametrize("where", ["a statement", "a transaction"])
@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_time_limit_that_interrupts_a_statement_is_raised_and_breaks_nothing_that_follows(
    url: str, elsewhere: OpenJournal, alarm: None, where: str
) -> None:
    """psycopg would answer every later statement on that connection with "another command is already in progress"."""
    one = elsewhere(url, pool_size=1)
    one.time()
    sleep = SLEEP[one.db.dialect_name]
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(SoftTimeLimit):
        if where == "a statement":
            one.db.select(sa.text(sleep))  # type: ignore[arg-type]
        else:
            one.db.transaction(lambda conn: conn.exec_driver_sql(sleep))
    for _ in range(3):
        ref = a_run(one, "charge")
        assert statuses(one, ref) == {"run": "running", "charge": "planned"}


def test_an_error_inside_a_transaction_leaves_nothing_of_it_behind(journal: Journal) -> None:
    ref = new_ref()
    with pytest.raises(ZeroDivisionError), journal.db.open_transaction() as conn:
        journal.starts.start(a_workflow(ref), [], conn)
        raise ZeroDivisionError
    assert journal.reads.run(ref) is None
    assert a_run(journal, "charge")


def test_a_forked_child_leaves_its_parents_connections_alone(journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    assert journal.claims.get(ref, "charge") is not None
    (parents,) = journal.db._at_hand  # ready for the parent's next statement
    child = os.fork()
    if child == 0:
        try:
            begun = journal.claims.begin(ref, "charge", "child", "w1")
            (own,) = journal.db._at_hand
            gc.collect()
            journal.close()
            os._exit(0 if begun and own.connection is not parents.connection else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(3):
        assert statuses(journal, ref) == {"run": "running", "charge": "begun", "ship": "planned"}
    assert journal.claims.begin(ref, "ship", "parent", "w1")


@pytest.mark.parametrize("met", [True, False])
def test_a_forked_child_asks_a_server_that_its_parent_has_met_nothing_again(url: str, met: bool) -> None:
    journal = Journal(url)
    if met:
        journal.time()
    else:
        _ = journal.db.engine
    parents = journal.db.engine
    child = os.fork()
    if child == 0:
        try:
            asked: list[str] = []
            initialize = type(parents.dialect).initialize

            def note(self: object, connection: object) -> None:
                asked.append("asked")
                initialize(self, connection)  # type: ignore[arg-type]

            type(parents.dialect).initialize = note  # type: ignore[assignment]
            assert journal.time() > 0
            assert journal.time() > 0
            assert asked == ([] if met else ["asked"])
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert journal.time() > 0
    journal.close()


def test_one_thread_needs_one_connection_whatever_it_does(journal: Journal, url: str) -> None:
    alone = Journal(url)
    ref = a_run(alone, "charge", "ship")
    for name in ("charge", "ship"):
        assert alone.ends.succeed(ref, name, claim(alone, ref, name), ONE, completes_run=False)  # straight through the driver
        assert alone.reads.run(ref) is not None  # by way of SQLAlchemy
        assert alone.events.note(Event.REFUSED, ref=ref, key=name, who="w1", why="a transaction") is None
    pool: Any = alone.db.engine.pool
    assert pool.checkedin() + pool.checkedout() == 1
    alone.close()
    assert not alone.db._at_hand


@pytest.mark.parametrize("size", [1, 2, 4])
def test_no_more_connections_stay_open_than_the_pool_may_have(journal: Journal, elsewhere: OpenJournal, size: int) -> None:
    busy = elsewhere(pool_size=size)
    names = [f"step{i}" for i in range(24)]
    ref = a_run(busy, *names, open_steps=len(names))
    ready = threading.Barrier(8)

    def run(mine: list[str]) -> None:
        ready.wait(30)
        for name in mine:
            claim(busy, ref, name)
            assert busy.reads.run(ref) is not None

    together(*[lambda part=part: run(names[part::8]) for part in range(8)])  # type: ignore[misc]
    pool: Any = busy.db.engine.pool
    assert pool.checkedin() + pool.checkedout() <= size
    assert pool.checkedout() == len(busy.db._at_hand)


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_connections_that_the_server_has_closed_cost_a_statement_one_repetition(
    journal: Journal, elsewhere: OpenJournal, url: str
) -> None:
    idle = elsewhere(pool_size=4)
    ref = a_run(idle, "charge")
    together(*[lambda: idle.claims.get(ref, "charge") for _ in range(4)])
    with journal.db.engine.connect() as conn:
        close_all_but(conn)
    assert idle.claims.begin(ref, "charge", "t", "w1")
    together(*[lambda: idle.claims.get(ref, "charge") for _ in range(4)])


def close_all_but(conn: sa.Connection) -> None:
    """Ends every connection to its database but one, as a server that is started anew does."""
    if conn.dialect.name == "postgresql":
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        conn.exec_driver_sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")
        return
    others = "id <> CONNECTION_ID() AND db = DATABASE()"
    for (number,) in conn.exec_driver_sql(f"SELECT id FROM information_schema.processlist WHERE {others}").all():
        conn.exec_driver_sql(f"KILL {number}")


def test_many_threads_use_one_journal_at_once(journal: Journal) -> None:
    names = [f"step{i}" for i in range(24)]
    ref = a_run(journal, *names, open_steps=len(names))

    def run(mine: list[str]) -> None:
        for name in mine:
            assert journal.ends.succeed(ref, name, claim(journal, ref, name), ONE, completes_run=True)

    together(*[lambda part=part: run(names[part::8]) for part in range(8)])  # type: ignore[misc]
    assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == ("succeeded", 0)


def test_many_processes_may_open_a_new_sqlite_journal_at_once(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"journal{number}.db").touch()
        url = f"sqlite:///{tmp_path}/journal{number}.db"
        others = [Journal(url) for _ in range(8)]
        assert all(at > 0 for at in together(*[other.time for other in others]))
        for other in others:
            other.close()


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_writer_waits_for_another_one_instead_of_failing(journal: Journal, url: str) -> None:
    ref = a_run(journal, "charge")
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done = threading.Event()

    def begin() -> None:
        journal.claims.begin(ref, "charge", "t", "w1")
        done.set()

    thread = threading.Thread(target=begin)
    thread.start()
    assert not done.wait(0.2)
    other.rollback()
    other.close()
    thread.join(10)
    assert statuses(journal, ref)["charge"] == "begun"


def test_connections_read_what_is_committed_and_only_that(journal: Journal, elsewhere: OpenJournal) -> None:
    ref = a_run(journal, "charge")
    other = elsewhere()
    with journal.db.open_transaction() as conn:
        assert journal.claims.lock(conn, ref, "charge", "t", "w1") is not None
        assert statuses(other, ref)["charge"] == "planned"
        with other.db.engine.connect() as reading:
            if not journal.db.is_sqlite:
                reading.exec_driver_sql("BEGIN")
                assert reading.exec_driver_sql("SELECT status FROM durable_step").scalar_one() == "planned"
                conn.exec_driver_sql("COMMIT")
                conn.exec_driver_sql("BEGIN")
                assert reading.exec_driver_sql("SELECT status FROM durable_step").scalar_one() == "begun"
                reading.exec_driver_sql("ROLLBACK")
    assert statuses(other, ref)["charge"] == "begun"


@pytest.mark.parametrize("dialect", ["mariadb"])
def test_times_do_not_depend_on_the_servers_time_zone_or_mode(url: str) -> None:
    odd = Journal(url, connect_args={"init_command": "SET time_zone = '+05:30', sql_mode = ''"})
    assert odd.time() == pytest.approx(time.time() * 1_000_000, abs=5_000_000)
    with pytest.raises(sa.exc.DataError):
        a_run(odd, "charge", name="n" * 300)
    odd.close()


@pytest.mark.parametrize(("one", "other"), [("item-A", "item-A "), ("item-A", "item-a"), ("caf\u00e9", "cafe\u0301"), (" ", "")])
def test_names_are_the_same_only_where_every_byte_is(journal: Journal, one: str, other: str) -> None:
    ref = a_run(journal, a_step(one), a_step(other), id=f"order {one}")
    succeed(journal, ref, one)
    assert statuses(journal, ref) == {"run": "running", one: "succeeded", other: "planned"}
    assert journal.reads.latest("default", f"order {other}") is None
    a_run(journal, "charge", id=f"order {other}")


def test_mysql_and_mariadb_are_each_told_their_own_exact_collation() -> None:
    for table in metadata.sorted_tables:
        for url in ("mysql+pymysql://", "mariadb+pymysql://"):
            written = str(sa.schema.CreateTable(table).compile(dialect=sa.make_url(url).get_dialect()()))
            assert "COLLATE=/*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */" in written.replace("COLLATE ", "COLLATE=")
            assert "utf8mb4_bin" not in written


@pytest.mark.parametrize("dialect", ["postgresql"])
def test_isolation_does_not_depend_on_what_the_database_has_as_its_default(journal: Journal, url: str) -> None:
    name = sa.make_url(url).database
    with journal.db.engine.connect() as conn:
        conn.exec_driver_sql(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")
    try:
        other = Journal(url)
        with other.db.open_transaction() as conn:
            assert conn.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
        other.close()
    finally:
        with journal.db.engine.connect() as conn:
            conn.exec_driver_sql(f'ALTER DATABASE "{name}" RESET default_transaction_isolation')


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_deadlock_is_tried_again_and_does_not_surface(journal: Journal) -> None:
    first, second = a_run(journal, "a"), a_run(journal, "a")
    ready = threading.Barrier(2)
    tried: list[str] = []

    def cross(one: str, other: str) -> Any:
        def work(conn: sa.Connection) -> None:
            tried.append(one)
            conn.exec_driver_sql(f"UPDATE durable_workflow SET resends = resends + 1 WHERE ref = '{one}'")
            if len(tried) <= 2:
                ready.wait(10)
            conn.exec_driver_sql(f"UPDATE durable_workflow SET resends = resends + 1 WHERE ref = '{other}'")

        return lambda: journal.db.transaction(work)

    together(cross(first, second), cross(second, first))
    assert len(tried) == 3, "one of the two was aborted by the database, and tried again"
    assert (the_run(journal, first).resends, the_run(journal, second).resends) == (2, 2)


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
def test_a_transaction_that_is_aborted_every_time_is_an_unreachable_journal_to_whoever_is_patient(journal: Journal) -> None:
    deadlock: BaseException = pymysql.err.OperationalError(1213, "deadlock found")
    if journal.db.is_postgresql:
        deadlock = psycopg.errors.DeadlockDetected("deadlock detected")
    tried = []

    def work(_conn: sa.Connection) -> None:
        tried.append(1)
        raise sa.exc.OperationalError("UPDATE durable_step", None, deadlock)

    with pytest.raises(JournalUnreachable, match=r"aborted the same transaction 8 times.*deadlock"):
        journal.db.transaction(work)
    assert len(tried) == 8
    assert a_run(journal, "charge")


HOW_LONG = {
    "postgresql": "SHOW lock_timeout",
    "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout",
    "sqlite": "PRAGMA busy_timeout",
}


def test_whoever_is_in_a_hurry_waits_a_moment_for_a_lock_and_later_as_long_as_before(
    journal: Journal, elsewhere: OpenJournal
) -> None:
    ref = a_run(journal, "charge")
    hurried = elsewhere(pool_size=1)

    def patience() -> Any:
        with hurried.db.engine.connect() as connection:
            return connection.exec_driver_sql(HOW_LONG[hurried.db.dialect_name]).scalar_one()

    before = patience()
    with journal.db.open_transaction() as conn:
        conn.exec_driver_sql(f"UPDATE durable_workflow SET resends = 1 WHERE ref = '{ref}'")
        conn.exec_driver_sql(f"UPDATE durable_step SET attempt = 1 WHERE ref = '{ref}'")
        for operation in (
            lambda: hurried.runs.mark(ref, "unmarked"),
            lambda: hurried.claims.begin(ref, "charge", "t", "w1"),
        ):
            began = time.monotonic()
            with hurried.db.with_short_lock_waits(), pytest.raises(JournalBusy, match="keeps a row"):
                operation()
            assert time.monotonic() - began < 20
            assert patience() == before
    with hurried.db.with_short_lock_waits():
        assert hurried.claims.begin(ref, "charge", "t", "w1")
    assert patience() == before


def test_the_text_of_an_error_has_no_values_in_it(journal: Journal) -> None:
    card = Stored("json/1", b'[["4242-4242-4242-4242"],{}]')
    odd = a_step("charge", arguments=card, name=None)

    def in_a_transaction() -> None:
        a_run(journal, odd)

    def in_autocommit() -> None:
        with journal.db.engine.connect() as connection:
            connection.execute(sa.insert(step).values(**step_values(odd), created_at=1))

    for failing in (in_a_transaction, in_autocommit):
        with pytest.raises((sa.exc.DBAPIError, AssertionError)) as caught:
            failing()
        assert "4242" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_what_cannot_be_reached_has_no_values_in_it_either(journal: Journal) -> None:
    row = a_step("charge", arguments=Stored("json/1", b'[["4242-4242-4242-4242"],{}]'))
    with journal.db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = 1")
    with pytest.raises(JournalUnreachable) as caught:
        a_run(journal, row)
    assert "4242" not in "".join(traceback.format_exception(caught.value))


def test_a_pool_whose_connections_are_all_in_use_is_an_unreachable_journal(
    url: str, elsewhere: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = sa.create_engine
    monkeypatch.setattr(
        sa, "create_engine", lambda url, **given: create(url, **(given | {"max_overflow": 0, "pool_timeout": 0.05}))
    )
    one = elsewhere(url, pool_size=1)
    with one.db.engine.connect(), pytest.raises(JournalUnreachable, match="cannot be reached"):
        one.time()
    assert one.time() > 0


def test_hot_statements_are_compiled_once(journal: Journal) -> None:
    ref = a_run(journal, *"abcdef")
    compiled = len(journal.db._hot)
    succeed(journal, ref, *"abc")
    grown = len(journal.db._hot)
    succeed(journal, ref, *"def")
    assert grown > compiled
    assert len(journal.db._hot) == grown


def test_a_journal_without_tables_says_how_to_get_them(fresh_database: Any, dialect: Any) -> None:
    bare = Journal(fresh_database(dialect))
    with pytest.raises(JournalUnmigrated, match="durable-adapter migrate"):
        bare.check()
    with pytest.raises(JournalUnmigrated, match="durable-adapter migrate"):
        a_run(bare, "charge")
    with pytest.raises(JournalUnmigrated, match="durable-adapter migrate"):
        bare.claims.begin(new_ref(), "charge", new_token(), "w1")
    assert bare.revision() is None
    bare.close()


def test_a_journal_that_cannot_be_reached_says_so_without_its_password() -> None:
    port = free_port()
    for url in (
        f"postgresql+psycopg://me:secret@127.0.0.1:{port}/journal",
        f"mysql+pymysql://me:secret@127.0.0.1:{port}/journal",
        "sqlite:////nowhere/at/all/journal.db",
    ):
        for operation in (lambda j: j.check(), lambda j: j.time(), lambda j: a_run(j, "charge")):
            journal = Journal(url)
            with pytest.raises(JournalUnreachable, match=r"cannot be reached.*Check the URL") as caught:
                operation(journal)
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["jurnal.db", "a journal %41?.db", "file:{}/jurnal.db?uri=true", "file:{}/j.db?uri=true&cache=private"]
)
def test_a_sqlite_file_that_is_not_there_is_told_and_never_made_but_by_a_migration(tmp_path: Path, name: str) -> None:
    url = f"sqlite:///{name.format(tmp_path)}"
    if not name.startswith("file:"):
        url = sa.URL.create("sqlite", database=str(tmp_path / name)).render_as_string()
        if sa.make_url(url).database != str(tmp_path / name):
            pytest.skip(f"SQLAlchemy {sa.__version__} cannot write such a path into a URL")
    for operation in (lambda j: j.check(), lambda j: j.time(), lambda j: a_run(j, "charge"), lambda j: j.reads.listed()):
        journal = Journal(url)
        with pytest.raises(JournalUnmigrated, match=r"is not there: the file .*\.db does not exist, and nothing was made\."):
            operation(journal)
        journal.close()
    assert check(journal) == list(REVISIONS)
    written = io.StringIO()
    assert migrate(journal, sql=True, out=written) == list(REVISIONS)
    assert "CREATE TABLE durable_workflow" in written.getvalue()
    assert list(tmp_path.iterdir()) == []
    assert migrate(journal) == list(REVISIONS)
    made = {path.name for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm"))}
    assert made == {Path(name.partition("?")[0] if name.startswith("file:") else name).name}
    a_worker(journal)
    succeed(journal, a_run(journal, "charge"), "charge")
    journal.close()


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path}/nowhere/journal.db")
    for operation in (journal.check, journal.time, lambda: migrate(journal)):
        with pytest.raises(JournalUnreachable, match=f"cannot be reached: there is no directory {tmp_path}/nowhere"):
            operation()


def test_a_sqlite_database_in_shared_memory_stays_possible() -> None:
    journal = Journal("sqlite:///file:durable?mode=memory&cache=shared&uri=true")
    migrate(journal)
    assert journal.revision() == REVISIONS[-1]
    journal.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "is not one: expected e.g."),
        ("oracle://db/journal", "names the database 'oracle'; supported are"),
        ("sqlite://", "a journal in memory is lost with its process"),
        ("sqlite:///:memory:", "a journal in memory is lost with its process"),
    ],
)
def test_a_url_that_names_no_journal_is_refused_with_what_would_be(url: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Journal(url)


def test_a_driver_that_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    for url in ("postgresql+asyncpgx://me@here/journal", "mysql+mysqldbx://me@here/journal"):
        with pytest.raises(SettingError, match=r"is not installed.*durable-adapter\[postgres\]"):
            Journal(url).time()


def test_a_schema_is_for_postgresql() -> None:
    with pytest.raises(SettingError, match="is for PostgreSQL"):
        Journal("sqlite:////tmp/journal.db", schema="durable")


def test_a_look_and_a_claim_touch_nothing_but_what_they_need(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    with statements(journal) as sent:
        journal.claims.get(ref, "charge")
        journal.claims.begin(ref, "charge", "t", "w1")
    assert [statement.split()[0] for statement in sent] == ["SELECT", "UPDATE"]


def test_every_table_is_prefixed(journal: Journal) -> None:
    assert all(name.startswith("durable_") for name in metadata.tables)
    assert set(sa.inspect(journal.db.engine).get_table_names()) == {*metadata.tables, "durable_version"}


def test_hot_statements_are_compiled_without_a_database():
    journal = Journal("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    journal.compile_hot()
    compiled = set(journal.db._hot)
    assert {id(journal.claims._begin), id(journal.claims._begin_new), id(journal.ends._succeed)} <= compiled
    journal.close()
