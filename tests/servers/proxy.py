"""A TCP proxy to put before a database or a broker, and the faults of a network: cut, stalled, an answer lost."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tests.servers.addresses import LOOPBACK

CHUNK = 65536
# An answer may come in several packets. It is over when the server has been silent for this long, in seconds.
SILENCE = 0.05
CONNECT_TIMEOUT = 5.0
# How often the accepting thread looks whether it is still wanted, in seconds.
ACCEPT_POLL = 0.1

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "redis": 6379, "amqp": 5672}
# The proxy reads what passes, so encryption that a driver would try by itself is turned off.
WITHOUT_TLS = {"postgresql": {"sslmode": "disable", "gssencmode": "disable"}, "mysql": {"ssl_disabled": "true"}}


class TcpProxy:
    """Forwards connections from a loopback port to a server, until told to misbehave.

    Args:
        host: where the server is.
        port: where the server is.

    Example:
        with TcpProxy.before(postgres_url) as proxy:
            engine = create_engine(proxy.url(postgres_url))
            lost = proxy.swallow_next_answer(b"COMMIT")
            ...                     # this commit happens, and the client sees its connection break
            lost.wait()
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.connections = 0
        """Connections accepted so far."""
        self.bytes_sent = 0
        """Bytes forwarded from clients to the server."""
        self.bytes_received = 0
        """Bytes delivered from the server to clients."""
        self.swallowed = 0
        """Answers that were not delivered."""
        self._changed = threading.Condition()
        self._flowing = True
        self._refusing = False
        self._armed: LostAnswer | None = None
        self._links: set[_Link] = set()
        self._listener = _bound_socket(0)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = self._listen()

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy to the server of an SQLAlchemy, Redis or AMQP URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or LOOPBACK, parts.port or DEFAULT_PORTS[parts.scheme.partition("+")[0]])

    def url(self, url: str) -> str:
        """The same URL, leading through this proxy, with encryption turned off."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        query = dict(parse_qsl(parts.query)) | WITHOUT_TLS.get(parts.scheme.partition("+")[0], {})
        netloc = f"{credentials}{at}{LOOPBACK}:{self.port}"
        return urlunsplit((parts.scheme, netloc, parts.path, urlencode(query), parts.fragment))

    def cut(self) -> None:
        """Break every connection and refuse new ones, as a server does that went down."""
        with self._changed:
            self._refusing = True
            links = list(self._links)
        for link in links:
            link.end()
        self._stop_listening()
        # Bound, but not listening: connections are refused, and nobody else gets the port.
        self._listener = _bound_socket(self.port)

    def stall(self) -> None:
        """Deliver nothing in either direction, and break nothing: a firewall that drops packets."""
        with self._changed:
            self._flowing = False

    def restore(self) -> None:
        """End a cut or a stall. What was stalled is delivered; what was cut stays cut; new connections are served."""
        with self._changed:
            was_refusing, self._refusing, self._flowing = self._refusing, False, True
            self._changed.notify_all()
        if was_refusing:
            self._accepting = self._listen()

    def swallow_next_answer(self, match: bytes) -> "LostAnswer":
        """Lose one answer: the next request that contains `match` reaches the server, its answer never arrives.

        The proxy waits for the whole answer and then closes the client's connection. `match` is looked for in the bytes
        as they are sent; psycopg sends the text of a statement only with its first few executions on a connection.
        """
        lost = LostAnswer(match)
        with self._changed:
            self._armed = lost
        return lost

    def close(self) -> None:
        """Break every connection and give the port back."""
        with self._changed:
            self._refusing = True
            self._flowing = True
            links = list(self._links)
            self._changed.notify_all()
        for link in links:
            link.end()
        self._stop_listening()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _listen(self) -> threading.Thread:
        listener = self._listener
        listener.settimeout(ACCEPT_POLL)
        listener.listen(128)
        thread = threading.Thread(target=self._accept, args=(listener,), name=f"proxy-{self.port}", daemon=True)
        thread.start()
        return thread

    def _stop_listening(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux this refuses new connections at once
        self._accepting.join()
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._refusing:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            link = _Link(self, client)
            if self._adopt(link):
                link.start()
            else:
                client.close()

    def _adopt(self, link: "_Link") -> bool:
        """Count a connection among ours, unless a cut came in between."""
        with self._changed:
            if self._refusing:
                return False
            self._links.add(link)
            self.connections += 1
            return True

    def _wait_until_flowing(self, link: "_Link") -> bool:
        """Whether to go on; False if the connection was ended in the meantime."""
        with self._changed:
            self._changed.wait_for(lambda: self._flowing or link.ended)
            return not link.ended

    def _take_if_armed(self, request: bytes) -> "LostAnswer | None":
        with self._changed:
            if self._armed is None or self._armed.match not in request:
                return None
            lost, self._armed = self._armed, None
            return lost

    def _longest_match(self) -> int:
        with self._changed:
            return len(self._armed.match) if self._armed else 0


class LostAnswer:
    """An answer that will be lost, or was."""

    def __init__(self, match: bytes) -> None:
        self.match = match
        self._answer: bytes | None = None
        self._happened = threading.Event()

    @property
    def happened(self) -> bool:
        return self._happened.is_set()

    def wait(self, timeout: float = 10.0) -> bytes:
        """Wait until the answer was lost, and return what it said."""
        if not self._happened.wait(timeout):
            raise AssertionError(f"no request with {self.match!r} was answered within {timeout:g} s")
        assert self._answer is not None
        return self._answer

    def _is_lost(self, answer: bytes) -> None:
        self._answer = answer
        self._happened.set()


class _Link:
    """One client's connection and its counterpart to the server, with a thread for each direction."""

    def __init__(self, proxy: TcpProxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server: socket.socket | None = None
        self.ended = False
        self.lost: LostAnswer | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"proxy-{self.proxy.port}-up", daemon=True).start()

    def end(self) -> None:
        """Wake both threads; the sockets are closed by the thread that owns them, never under another's feet."""
        with self.proxy._changed:
            self.ended = True
            self.proxy._changed.notify_all()
        for end in (self.client, self.server):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        down: threading.Thread | None = None
        try:
            if not self.proxy._wait_until_flowing(self):
                return
            self.server = socket.create_connection(self.proxy.target, timeout=CONNECT_TIMEOUT)
            self.server.settimeout(None)
            for end in (self.client, self.server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            down = threading.Thread(
                target=self._deliver_answers, args=(self.server,), name=f"proxy-{self.proxy.port}-down", daemon=True
            )
            down.start()
            self._forward_requests(self.server)
        except OSError:
            pass  # either end went away, which is an everyday thing for a proxy
        finally:
            self.end()
            if down is not None:
                down.join()
            for open_end in (self.client, self.server):
                if open_end is not None:
                    open_end.close()
            with self.proxy._changed:
                self.proxy._links.discard(self)

    def _forward_requests(self, server: socket.socket) -> None:
        seen = b""
        while True:
            data = self.client.recv(CHUNK)
            if not self.proxy._wait_until_flowing(self) or not data:
                return
            seen += data
            # Decided before the request is on its way, or its answer could slip through.
            self.lost = self.lost or self.proxy._take_if_armed(seen)
            longest = self.proxy._longest_match()
            seen = seen[-(longest - 1) :] if longest > 1 else b""
            with self.proxy._changed:
                self.proxy.bytes_sent += len(data)
            server.sendall(data)

    def _deliver_answers(self, server: socket.socket) -> None:
        try:
            while data := server.recv(CHUNK):
                if self.lost is not None:
                    self._lose(self.lost, data, server)
                    return
                if not self.proxy._wait_until_flowing(self):
                    return
                with self.proxy._changed:
                    self.proxy.bytes_received += len(data)
                self.client.sendall(data)
            self.proxy._wait_until_flowing(self)  # the server's goodbye does not get through a stall either
        except OSError:
            pass
        finally:
            self.end()

    def _lose(self, lost: LostAnswer, answer: bytes, server: socket.socket) -> None:
        server.settimeout(SILENCE)
        with contextlib.suppress(TimeoutError):
            while more := server.recv(CHUNK):
                answer += more
        self.end()
        with self.proxy._changed:
            self.proxy.swallowed += 1
        lost._is_lost(answer)


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, port))
    return bound
