"""A PostgreSQL server of our own starts from the wheel, whoever we are, and leaves nothing behind."""

import os
import shutil
import signal
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.servers import Unavailable, eventually, postgres
from tests.servers.addresses import NO_LOCAL_SERVICES
from tests.servers.fixtures import StartProcess
from tests.servers.postgres import OwnPostgresServer, find_or_start_postgres, postgres_binaries

ROOT = Path(__file__).parents[2]

START_AND_STAY = """
import time
from tests.servers.postgres import OwnPostgresServer
server = OwnPostgresServer()
print(f"server {server.pid} in {server._directory}")
time.sleep(600)
"""


def query(url: str, statement: str) -> object:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]


def start_or_skip() -> OwnPostgresServer:
    try:
        return OwnPostgresServer()
    except Unavailable as reason:
        pytest.skip(str(reason))


def test_starts_serves_and_vanishes():
    server = start_or_skip()
    process, directory = psutil.Process(server.pid), server._directory
    server.create("orders")
    assert query(server.url("orders"), "SELECT current_database()") == "orders"
    server.close()
    assert not process.is_running()
    assert not directory.exists()


def is_root_over_others() -> bool:
    """Root of a namespace like that of `unshare -r` is alone in it and cannot become anybody else."""
    users = Path("/proc/self/uid_map")
    return os.geteuid() == 0 and (not users.exists() or int(users.read_text().split()[2]) > 1)


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to be somebody else")
AS_ROOT_OVER_OTHERS = pytest.mark.skipif(not is_root_over_others(), reason="only the real root can become nobody")


@AS_ROOT
def test_root_starts_it_in_a_namespace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres, "_ways_of_not_being_root", lambda: ["namespace"])
    server = start_or_skip()
    try:
        assert query(server.admin_url, "SELECT 1") == 1
    finally:
        server.close()


@AS_ROOT_OVER_OTHERS
def test_root_starts_it_as_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres, "_ways_of_not_being_root", lambda: ["nobody"])
    server = OwnPostgresServer()
    try:
        assert query(server.admin_url, "SELECT 1") == 1
        assert psutil.Process(server.pid).username() != "root"
    finally:
        server.close()


@AS_ROOT_OVER_OTHERS
def test_nobody_gets_a_copy_of_binaries_that_it_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    binaries = postgres_binaries()
    if postgres.WHEEL not in binaries.parts:
        pytest.skip("the binaries are not those of the wheel")
    environment = binaries.parents[2]
    tmp_path.chmod(0o700)
    (tmp_path / "locked").symlink_to(environment)
    monkeypatch.setattr(postgres, "_ways_of_not_being_root", lambda: ["nobody"])
    locked = tmp_path / "locked" / binaries.relative_to(environment)
    monkeypatch.setattr(postgres, "postgres_binaries", lambda: locked)
    server = OwnPostgresServer()
    try:
        assert query(server.admin_url, "SELECT 1") == 1
        assert server._binaries.is_relative_to(server._directory)
    finally:
        server.close()


def test_asks_for_a_password():
    server = start_or_skip()
    try:
        with pytest.raises(psycopg.OperationalError, match="password"):
            query(server.admin_url.replace(server._password, "guess"), "SELECT 1")
    finally:
        server.close()


def test_is_used_when_local_services_are_not_wanted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NO_LOCAL_SERVICES, "1")
    monkeypatch.delenv(postgres.URL_VARIABLE, raising=False)
    try:
        server = find_or_start_postgres()
    except Unavailable as reason:
        pytest.skip(str(reason))
    server.close()
    assert isinstance(server, OwnPostgresServer)
    assert "the wheel" in server.description


def test_a_named_server_that_does_not_answer_is_a_reason_not_to_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(postgres.URL_VARIABLE, "postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match=postgres.URL_VARIABLE):
        find_or_start_postgres()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_ends_when_the_tests_are_killed(start_process: StartProcess):
    start_or_skip().close()
    tests = start_process([sys.executable, "-c", START_AND_STAY], cwd=ROOT)
    pid, directory = tests.wait_for_line(r"^server (\d+) in (.+)$").groups()
    server = psutil.Process(int(pid))
    tests.kill(signal.SIGKILL)
    eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, message="the server's end")
    shutil.rmtree(directory)  # whoever would have tidied up was killed
