"""The proxy forwards faithfully and misbehaves exactly as told."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tests.servers import TcpProxy, eventually
from tests.servers.fixtures import FreshDatabase
from tests.servers.proxy import CHUNK

ProxyBefore = Callable[[str], TcpProxy]


class EchoServer:
    """Answers every line with `echo LINE`, after it has written the line down."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                self.received += line
                connection.sendall(b"echo " + line)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo.port) as echo_proxy:
        yield echo_proxy


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connect(proxy) as connection:
        yield connection


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    return connection.recv(CHUNK)


def is_broken(connection: socket.socket) -> bool:
    try:
        return connection.recv(CHUNK) == b""
    except ConnectionError:
        return True


def test_forwards_both_ways_and_counts(proxy: TcpProxy, client: socket.socket):
    assert ask(client, b"hello\n") == b"echo hello\n"
    with connect(proxy) as second:
        assert ask(second, b"you\n") == b"echo you\n"
    assert (proxy.connections, proxy.swallowed) == (2, 0)
    assert (proxy.bytes_sent, proxy.bytes_received) == (len(b"hello\nyou\n"), len(b"echo hello\necho you\n"))


def test_forwards_more_than_one_chunk(client: socket.socket):
    line = b"x" * (5 * CHUNK) + b"\n"
    sender = threading.Thread(target=client.sendall, args=(line,))
    sender.start()
    with client.makefile("rb") as answers:
        assert answers.readline() == b"echo " + line
    sender.join()


def test_a_cut_breaks_connections_and_refuses_new_ones_until_restored(proxy: TcpProxy, client: socket.socket):
    assert ask(client, b"hello\n")
    proxy.cut()
    assert is_broken(client)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.restore()
    with connect(proxy) as again:
        assert ask(again, b"hello\n") == b"echo hello\n"


def test_cut_and_restore_may_be_repeated(proxy: TcpProxy):
    for _ in range(5):
        proxy.cut()
        proxy.cut()
        proxy.restore()
        with connect(proxy) as connection:
            assert ask(connection, b"hello\n") == b"echo hello\n"


def test_a_stall_delivers_nothing_and_breaks_nothing(echo: EchoServer, proxy: TcpProxy, client: socket.socket):
    assert ask(client, b"hello\n")
    proxy.stall()
    client.sendall(b"anybody?\n")
    with connect(proxy) as newcomer:
        newcomer.sendall(b"me too\n")
        for connection in (client, newcomer):
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(CHUNK)
            connection.settimeout(5)
        assert echo.received == b"hello\n"
        proxy.restore()
        assert client.recv(CHUNK) == b"echo anybody?\n"
        assert newcomer.recv(CHUNK) == b"echo me too\n"


def test_a_stalled_proxy_can_be_cut(proxy: TcpProxy, client: socket.socket):
    assert ask(client, b"hello\n")
    proxy.stall()
    client.sendall(b"anybody?\n")
    proxy.cut()
    assert is_broken(client)


def test_a_swallowed_answer_was_given_and_never_arrives(echo: EchoServer, proxy: TcpProxy, client: socket.socket):
    lost = proxy.swallow_next_answer(b"COMMIT")
    assert ask(client, b"INSERT\n") == b"echo INSERT\n"
    assert not lost.happened
    client.sendall(b"COMMIT\n")
    assert is_broken(client)
    assert lost.wait() == b"echo COMMIT\n"
    assert echo.received == b"INSERT\nCOMMIT\n"
    assert proxy.swallowed == 1


def test_only_the_next_answer_is_swallowed(proxy: TcpProxy, client: socket.socket):
    lost = proxy.swallow_next_answer(b"COMMIT")
    client.sendall(b"COMMIT\n")
    lost.wait()
    with connect(proxy) as again:
        assert ask(again, b"COMMIT\n") == b"echo COMMIT\n"


def test_a_match_is_found_across_packets(proxy: TcpProxy, client: socket.socket):
    lost = proxy.swallow_next_answer(b"COMMIT")
    client.sendall(b"COM")
    eventually(lambda: proxy.bytes_sent == 3, message="the first packet")
    client.sendall(b"MIT\n")
    assert lost.wait() == b"echo COMMIT\n"
    assert is_broken(client)


def test_waiting_for_an_answer_that_is_never_asked_for_fails(proxy: TcpProxy):
    with pytest.raises(AssertionError, match="no request with b'COMMIT' was answered"):
        proxy.swallow_next_answer(b"COMMIT").wait(timeout=0.05)


def test_a_server_that_is_away_breaks_the_connection(echo: EchoServer, proxy: TcpProxy):
    echo.close()
    with connect(proxy) as connection:
        assert is_broken(connection)


@pytest.mark.parametrize(
    ("url", "through"),
    [
        (
            "postgresql+psycopg://me:s%40c@db.example/orders",
            "postgresql+psycopg://me:s%40c@127.0.0.1:{}/orders?sslmode=disable&gssencmode=disable",
        ),
        (
            "mysql+pymysql://root@127.0.0.1:3307/x?charset=utf8mb4",
            "mysql+pymysql://root@127.0.0.1:{}/x?charset=utf8mb4&ssl_disabled=true",
        ),
        ("redis://:pw@127.0.0.1/3", "redis://:pw@127.0.0.1:{}/3"),
    ],
)
def test_url_leads_through_the_proxy_without_encryption(url: str, through: str):
    with TcpProxy.before(url) as proxy:
        assert proxy.url(url) == through.format(proxy.port)


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
class TestDatabases:
    """What the faults look like through SQLAlchemy, before real servers."""

    @pytest.fixture
    def url(self, dialect: str, fresh_database: FreshDatabase) -> str:
        return fresh_database(dialect)

    @pytest.fixture
    def db_proxy(self, url: str, tcp_proxy: ProxyBefore) -> TcpProxy:
        return tcp_proxy(url)

    @pytest.fixture
    def direct(self, url: str) -> Engine:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE t (n INTEGER)"))
        return engine

    @pytest.fixture
    def proxied(self, url: str, db_proxy: TcpProxy, direct: Engine) -> Iterator[Engine]:
        engine = create_engine(db_proxy.url(url))
        yield engine
        engine.dispose()

    def rows(self, engine: Engine) -> int:
        with engine.connect() as connection:
            return connection.execute(text("SELECT count(*) FROM t")).scalar_one()

    def test_a_commit_whose_answer_is_lost_has_happened(self, db_proxy: TcpProxy, direct: Engine, proxied: Engine):
        connection = proxied.connect()
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert self.rows(direct) == 0
        lost = db_proxy.swallow_next_answer(b"COMMIT")
        with pytest.raises(DBAPIError) as error:
            connection.commit()
        assert error.value.connection_invalidated
        assert lost.wait()
        assert self.rows(direct) == 1
        connection.close()
        assert self.rows(proxied) == 1

    def test_an_autocommitted_statement_whose_answer_is_lost_has_happened(
        self, db_proxy: TcpProxy, direct: Engine, proxied: Engine
    ):
        autocommit = proxied.execution_options(isolation_level="AUTOCOMMIT")
        db_proxy.swallow_next_answer(b"INSERT INTO t")
        with autocommit.connect() as connection, pytest.raises(DBAPIError):
            connection.execute(text("INSERT INTO t VALUES (1)"))
        assert self.rows(direct) == 1

    def test_a_transaction_that_is_cut_has_not_happened(self, db_proxy: TcpProxy, direct: Engine, proxied: Engine):
        connection = proxied.connect()
        connection.execute(text("INSERT INTO t VALUES (1)"))
        db_proxy.cut()
        with pytest.raises(DBAPIError):
            connection.commit()
        connection.close()
        with pytest.raises(DBAPIError):
            proxied.connect()
        db_proxy.restore()
        assert self.rows(proxied) == 0
