"""A TCP proxy that keeps what clients send, and cuts it into lines: Redis commands, or frames of AMQP."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit, urlunsplit

from tests.servers.addresses import LOOPBACK
from tests.servers.proxy import DEFAULT_PORTS


class Recorder:
    """Forwards connections to one server, and keeps the bytes that clients send, connection by connection.

    Args:
        url: the server's URL.
    """

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._target = (self._url.hostname or LOOPBACK, self._url.port or DEFAULT_PORTS[self._url.scheme])
        self._streams: list[bytearray] = []
        self._open = 0
        self._changed = threading.Condition()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=100)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The same URL, leading through here."""
        credentials, at, _ = self._url.netloc.rpartition("@")
        return urlunsplit(self._url._replace(netloc=f"{credentials}{at}{LOOPBACK}:{self._listener.getsockname()[1]}"))

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def take(self, *, timeout: float = 10.0) -> list[str]:
        """The lines that were sent since the last call, by connection, once every connection is closed."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, timeout):
                raise TimeoutError("a connection to the broker or the result backend was left open")
            streams, self._streams = self._streams, []
        return [f"{number} {line}" for number, stream in enumerate(streams) for line in lines(bytes(stream), self._url.scheme)]

    def peek(self) -> list[str]:
        """The lines that were sent so far, of whatever connection."""
        with self._changed:
            return [line for stream in self._streams for line in lines(bytes(stream), self._url.scheme)]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = bytearray()
            with self._changed:
                self._streams.append(stream)
                self._open += 1
            threading.Thread(target=self._forward, args=(client, server, stream), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, stream: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if stream is not None:
                    with self._changed:
                        stream += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        if stream is not None:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()


def lines(stream: bytes, scheme: str) -> list[str]:
    """A stream of bytes in lines, each as it was sent."""
    return [repr(part) for part in (_commands(stream) if scheme == "redis" else _frames(stream))]


def _commands(stream: bytes) -> list[bytes]:
    """The commands in a stream to Redis."""
    found, at = [], 0
    while at < len(stream):
        begin, at = at, stream.index(b"\r\n", at)
        count = int(stream[begin + 1 : at])
        at += 2
        for _ in range(count):
            end = stream.find(b"\r\n", at)
            if end < 0:
                return [*found, stream[begin:]]
            at = end + 2 + int(stream[at + 1 : end]) + 2
        found.append(stream[begin:at])
    return found


def _frames(stream: bytes) -> list[bytes]:
    """The frames in a stream to an AMQP server, behind its protocol header."""
    found, at = [stream[:8]], 8
    while at < len(stream):
        end = at + 7 + int.from_bytes(stream[at + 3 : at + 7]) + 1
        found.append(stream[at:end])
        at = end
    return found
