"""A database that is full, read-only or out of connections is an absent journal: nothing is sent, nothing begins (P10)."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import JournalUnreachable
from durable_adapter.journal import Journal, outages
from durable_adapter.journal.database import KEEPALIVE
from durable_adapter.journal.schema import step, workflow
from durable_adapter.model import Kind, Shape, StepStatus, Stored
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.host import Host
from durable_adapter.runtime.steps import run_step
from tests.journal.making import a_call, a_run, a_step, claim, the
from tests.sweeper.conftest import NotingEngine

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
#: Larger than what a page that is half empty still takes.
LARGE = Stored("json/1", b'"' + b"x" * 300_000 + b'"')


class Disk:
    """A disk that is full for SQLite, until it is freed."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._connections: list[Any] = []

    def fill(self) -> None:
        def limited(connection: Any) -> None:
            self._connections.append(connection)
            connection.execute("PRAGMA max_page_count = 1")  # no more than it has

        with self._journal.db.engine.connect() as connection:
            connection.exec_driver_sql("VACUUM")  # no page is left over from what was deleted
        self._journal.close()
        self._journal.db.on_connect = limited

    def free(self) -> None:
        self._journal.db.on_connect = None
        for connection in self._connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed
                connection.execute("PRAGMA max_page_count = 1073741823")


@pytest.fixture
def disk(journal: Journal) -> Disk:
    found = Disk(journal)
    found.fill()
    return found


def count(journal: Journal) -> tuple[int, int]:
    return tuple(journal.db.select(sa.select(sa.func.count()).select_from(t))[0][0] for t in (workflow, step))  # type: ignore[return-value]


@on_sqlite
def test_a_start_on_a_full_disk_raises_that_the_journal_is_absent_and_leaves_nothing(journal: Journal, disk: Disk) -> None:
    with pytest.raises(JournalUnreachable, match="cannot be written: database or disk is full"):
        a_run(journal, a_step("charge", arguments=LARGE))
    assert count(journal) == (0, 0)
    disk.free()
    a_run(journal, a_step("charge", arguments=LARGE))
    assert count(journal) == (1, 1)


@on_sqlite
def test_a_worker_on_a_full_disk_waits_in_its_slot_and_begins_nothing(
    journal: Journal, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.free()
    ref = a_run(journal, a_step("function", kind=Kind.FUNCTION), shape=Shape.FUNCTION)
    host = Host(journal, NotingEngine())  # type: ignore[arg-type]
    _ = host.worker
    disk.fill()
    ran: list[bool] = []
    absences: list[str] = []
    real = outages.unreachable

    def seen(error: Any) -> bool:
        absences.append(str(error.orig))
        if len(absences) == 3:
            disk.free()  # somebody makes room
        return real(error)

    monkeypatch.setattr("durable_adapter.journal.database.unreachable", seen)

    def body(_: Any) -> str:
        ran.append(len(absences) < 3)
        return "charged"

    call = Call(
        ref=ref, key="charge#1", name="charge", policy=StepPolicy(), kind=Kind.STEP, args=(), kwargs={}, body=body,
        completes_run=False, again=False,
        new_row=lambda: a_call(ref, "charge#1", arguments=LARGE, status=StepStatus.PLANNED),
    )  # fmt: skip
    try:
        assert run_step(host, call) == "charged"
    finally:
        host.stop()
    assert ran == [False], "its body ran once, and not before there was room"
    assert all("full" in text for text in absences)
    assert the(journal, ref, "charge#1").status is StepStatus.SUCCEEDED


@on_sqlite
def test_an_outcome_that_no_disk_takes_is_kept_until_one_does(journal: Journal, disk: Disk) -> None:
    disk.free()
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    disk.fill()
    with pytest.raises(JournalUnreachable):
        journal.ends.succeed(ref, "charge", token, LARGE, completes_run=True)
    assert the(journal, ref, "charge").status is StepStatus.BEGUN
    disk.free()
    assert journal.ends.succeed(ref, "charge", token, LARGE, completes_run=True)


@on_sqlite
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any file")
def test_a_file_that_may_not_be_written_is_an_absent_journal(journal: Journal, url: str) -> None:
    path = Path(journal.db.url.database or "")
    journal.close()
    path.chmod(0o400)
    try:
        with pytest.raises(JournalUnreachable):
            a_run(journal, "charge")
    finally:
        path.chmod(0o600)


@on_sqlite
def test_a_connection_that_may_only_read_is_an_absent_journal(journal: Journal) -> None:
    journal.close()
    journal.db.on_connect = lambda connection: connection.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalUnreachable, match="cannot be written: attempt to write a readonly database"):
        a_run(journal, "charge")
    assert journal.time() > 0, "it can be read"


@on_sqlite
def test_a_file_that_somebody_keeps_locked_is_an_absent_journal(journal: Journal, elsewhere: Any) -> None:
    other = elsewhere(connect_args={"timeout": 0.01})
    with journal.db.open_transaction(), pytest.raises(JournalUnreachable, match="locked"):
        a_run(other, "charge")
    assert count(journal) == (0, 0)


@pytest.fixture
def read_only(journal: Journal, elsewhere: Any) -> Iterator[Journal]:
    """The same journal by a role that may only read, or where there are no roles to be made, none."""
    db = journal.db
    if db.is_sqlite:
        pytest.skip("SQLite has no roles")
    if db.is_postgresql:
        schema = db.select(sa.text("SELECT current_schema()"))[0][0]  # type: ignore[arg-type]
        make = [
            "DROP ROLE IF EXISTS durable_reader", "CREATE ROLE durable_reader LOGIN PASSWORD 'reader'",
            f'GRANT USAGE ON SCHEMA "{schema}" TO durable_reader',
            f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO durable_reader',
        ]  # fmt: skip
        leave = ["DROP OWNED BY durable_reader", "DROP ROLE durable_reader"]
        become = "SET SESSION AUTHORIZATION durable_reader"
    else:
        pytest.skip("MariaDB's read-only roles are told by their numbers alone, below")
    try:
        for statement in make:
            db.transaction(lambda conn, text=statement: conn.exec_driver_sql(text))  # type: ignore[misc]
    except Exception as error:
        pytest.skip(f"no role can be made here: {error}")
    reader = elsewhere()

    def reading(connection: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(become)
        connection.commit()

    reader.db.on_connect = reading
    yield reader
    reader.close()
    for statement in leave:
        db.transaction(lambda conn, text=statement: conn.exec_driver_sql(text))  # type: ignore[misc]


def test_a_role_that_may_only_read_finds_an_absent_journal(read_only: Journal) -> None:
    assert read_only.time() > 0
    with pytest.raises(JournalUnreachable, match="cannot be written: permission denied"):
        a_run(read_only, "charge")


def test_a_read_only_session_is_an_absent_journal(journal: Journal, elsewhere: Any) -> None:
    if journal.db.is_sqlite:
        pytest.skip("see above")
    reader = elsewhere()
    characteristics = "CHARACTERISTICS AS " if journal.db.is_postgresql else ""
    text = f"SET SESSION {characteristics}TRANSACTION READ ONLY"

    def reading(connection: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute(text)

    reader.db.on_connect = reading
    with pytest.raises(JournalUnreachable, match="cannot be written"):
        a_run(reader, "charge")
    assert count(journal) == (0, 0)


class Raised(Exception):
    """An error of a driver, with the code by which its server says what is wrong."""

    def __init__(self, code: int | str) -> None:
        super().__init__(code, "told")
        self.sqlstate = code if isinstance(code, str) else "HY000"
        if isinstance(code, str):
            self.args = ("told",)


@pytest.mark.parametrize("code", ["53100", "53200", "53300", "57P01", "57P02", "57P03", "58030", "25006", "42501", "XX001",
                                  3, 1021, 1026, 1030, 1040, 1053, 1114, 1142, 1203, 1226, 1290, 1792, 1836, 1927])  # fmt: skip
def test_codes_that_say_that_the_database_is_absent(code: int | str) -> None:
    assert outages.unreachable(sa.exc.DBAPIError("SELECT 1", None, Raised(code)))


@pytest.mark.parametrize("code", ["42601", "22001", "23505", "42P01", 1064, 1406, 1062])
def test_codes_that_say_that_a_statement_is_wrong(code: int | str) -> None:
    assert not outages.unreachable(sa.exc.DBAPIError("SELECT 1", None, Raised(code)))


def test_connections_ask_whether_their_other_end_is_there(journal: Journal) -> None:
    if journal.db.is_sqlite:
        pytest.skip("a file has no other end")
    with journal.db.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        if journal.db.is_postgresql:
            parameters = driver.info.get_parameters()
            assert (parameters["keepalives_idle"], parameters["keepalives_count"]) == ("30", "3")
            if driver.info.host and not driver.info.host.startswith("/"):
                found = connection.exec_driver_sql("SELECT current_setting('tcp_keepalives_idle')").scalar_one()
                assert found == "30", "the server asks too"
            return
        its = driver._sock
        if its.family in (socket.AF_INET, socket.AF_INET6):
            assert its.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert its.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE[0]
