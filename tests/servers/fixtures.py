"""The fixtures through which tests get servers, databases, processes and faults.

Nothing starts before a test asks for it. Every worker process of pytest-xdist has its own databases and, where a server
is started, its own server. What was used is told in the summary of the run.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from tests.servers.addresses import servers_allowed
from tests.servers.databases import DIALECTS, Databases, Dialect
from tests.servers.process import RunningProcess
from tests.servers.proxy import TcpProxy
from tests.servers.rabbitmq import shared_rabbitmq
from tests.servers.redis import RedisServer, shared_redis
from tests.servers.unavailable import Unavailable

T = TypeVar("T")

SERVERS_USED = pytest.StashKey[set[str]]()
WORKER_OUTPUT_KEY = "durable_servers_used"

#: The fixtures that give a server, or start a process.
NEEDING_SERVERS = {"postgres_url", "mariadb_url", "redis_url", "own_redis", "rabbitmq_url", "start_process"}


class FreshDatabase(Protocol):
    """The type of the fixture `fresh_database`."""

    def __call__(self, dialect: Dialect, prepare: Callable[[str], object] | None = None) -> str: ...


class StartProcess(Protocol):
    """The type of the fixture `start_process`."""

    def __call__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> RunningProcess: ...


@pytest.fixture(scope="session")
def note_server(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Adds a line to the summary of servers used."""
    return pytestconfig.stash.setdefault(SERVERS_USED, set()).add


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory, note_server: Callable[[str], None]) -> Iterator[Databases]:
    """Databases of this session; a test that wants one for itself takes `fresh_database`."""
    with Databases(tmp_path_factory.mktemp("databases"), note_server) as session_databases:
        yield session_databases


@pytest.fixture
def fresh_database(databases: Databases) -> Iterator[FreshDatabase]:
    """`fresh_database(dialect, prepare=None)`: the URL of a new, empty database that is dropped after the test."""
    made: list[str] = []

    def fresh(dialect: Dialect, prepare: Callable[[str], object] | None = None) -> str:
        made.append(_or_skip(lambda: databases.fresh(dialect, prepare)))
        return made[-1]

    yield fresh
    for url in made:
        databases.drop(url)


@pytest.fixture(params=DIALECTS)
def journal_url(request: pytest.FixtureRequest, fresh_database: FreshDatabase) -> str:
    """The URL of an empty database: the test runs once per SQL dialect, and skips those that are not to be had."""
    return fresh_database(request.param)


@pytest.fixture(scope="session")
def postgres_url(databases: Databases) -> str:
    """A PostgreSQL database, one per session and worker process. Tests that share it tidy up after themselves."""
    return _or_skip(lambda: databases.fresh("postgresql"))


@pytest.fixture(scope="session")
def mariadb_url(databases: Databases) -> str:
    """A MariaDB or MySQL database, one per session and worker process. Tests that share it tidy up after themselves."""
    return _or_skip(lambda: databases.fresh("mariadb"))


@pytest.fixture(scope="session")
def redis_url(note_server: Callable[[str], None]) -> Iterator[str]:
    """A Redis database that is ours alone, on a server that may not be: never flush the whole server."""
    yield from _noted(shared_redis(), note_server)


@pytest.fixture
def own_redis(note_server: Callable[[str], None]) -> Iterator[RedisServer]:
    """A Redis server of this test's own, to flush, kill and start again."""
    with _or_skip(RedisServer) as server:
        note_server(server.description)
        yield server


@pytest.fixture(scope="session")
def rabbitmq_url(note_server: Callable[[str], None]) -> Iterator[str]:
    """A RabbitMQ virtual host; it may be shared, so queues carry `queue_prefix`."""
    yield from _noted(shared_rabbitmq(), note_server)


@pytest.fixture
def queue_prefix() -> str:
    """A prefix for names of queues and keys that no other test uses."""
    return f"durable-test-{secrets.token_hex(4)}-"


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[str], TcpProxy]]:
    """`tcp_proxy(url)`: a proxy before the server of that URL, closed after the test."""
    proxies: list[TcpProxy] = []

    def before(url: str) -> TcpProxy:
        proxies.append(TcpProxy.before(url))
        return proxies[-1]

    yield before
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """`start_process(command, env=, cwd=, name=)`: a running process, ended after the test.

    Its log is shown if the test fails.
    """
    processes: list[RunningProcess] = []

    def start(
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        name: str | None = None,
    ) -> RunningProcess:
        log = tmp_path / f"process-{len(processes)}-{name or Path(command[0]).name}.log"
        processes.append(RunningProcess(command, log=log, env=env, cwd=cwd, name=name))
        return processes[-1]

    yield start
    for process in reversed(processes):
        process.stop()
    for process in processes:
        print(f"--- {process.name}, ended with {process.returncode}\n{process.tail()}")


def _or_skip(get: Callable[[], T]) -> T:
    try:
        return get()
    except Unavailable as reason:
        pytest.skip(str(reason))


def _noted(server: Any, note_server: Callable[[str], None]) -> Iterator[str]:
    """Enter a context that gives URL and description; skip where there is no such server."""
    url, description = _or_skip(server.__enter__)
    try:
        note_server(description)
        yield url
    finally:
        server.__exit__(None, None, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs a server, where none may be used."""
    if servers_allowed():
        return
    needing = {item for item in items if _needs_a_server(item)}
    config.hook.pytest_deselected(items=list(needing))
    items[:] = [item for item in items if item not in needing]


def _needs_a_server(item: pytest.Item) -> bool:
    """Whether a test runs on another dialect than SQLite, or takes a fixture that gives a server."""
    given = getattr(getattr(item, "callspec", None), "params", {}).values()
    on_a_server = any(type(value) is str and value in DIALECTS and value != "sqlite" for value in given)
    return on_a_server or not NEEDING_SERVERS.isdisjoint(getattr(item, "fixturenames", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process hands what it used to the process that prints."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[WORKER_OUTPUT_KEY] = sorted(session.config.stash.get(SERVERS_USED, None) or ())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The process that prints takes what a worker process used."""
    used = getattr(node, "workeroutput", {}).get(WORKER_OUTPUT_KEY, [])
    node.config.stash.setdefault(SERVERS_USED, set()).update(used)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Tell which servers the tests ran on."""
    if used := config.stash.get(SERVERS_USED, None):
        terminalreporter.section("servers used")
        for line in sorted(used):
            terminalreporter.line(line)
