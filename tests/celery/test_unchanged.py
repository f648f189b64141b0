"""A part of `make unchanged`: where nothing is marked, the plugin changes not one byte of what is sent."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from tests.servers.addresses import LOOPBACK
from tests.servers.redis import RedisServer
from tests.unchanged.__main__ import compare, differing, kinds
from tests.unchanged.recorder import Recorder, lines

PART = [
    "published/delay",
    "published/apply_async: stamps",
    "published/send_task: by position",
    "published/chain with options",
    "published/chain to a generator that publishes",
    "published/group: a generator that publishes",
    "published/chord: a generator that publishes",
    "published/chord: called",
    "published/chunks as a group",
    "worked/links",
    "worked/a chord that fails",
    "worked/retry",
    "worked/replaced in a chain",
]


def test_no_line_differs(own_redis: RedisServer) -> None:
    """On a server of its own, which is flushed before each kind."""
    assert set(PART) <= set(kinds())
    found = compare(own_redis.url, own_redis.url, PART, starts=False)
    assert {kind: lines for kind, (_, lines) in found.items() if lines} == {}
    assert all(count > 5 for count, _ in found.values())


def test_a_line_that_differs_is_told() -> None:
    assert differing(["a", "b", "c"], ["a", "x", "c"]) == ["- b", "+ x"]
    assert differing(["a", "b"], ["b", "a"]) != []
    assert differing(["a"], ["a", "b"]) == ["+ b"]


PING, GET = b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n"
GREETING, FRAME = b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00\x00\x00\x00\x02hi\xce"


@pytest.mark.parametrize(("scheme", "parts"), [("redis", [PING, GET]), ("amqp", [GREETING, FRAME])])
def test_what_was_sent_is_kept_whole(scheme: str, parts: list[bytes]) -> None:
    assert lines(b"".join(parts), scheme) == [repr(part) for part in parts]


def test_the_recorder_hands_on_what_it_keeps() -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        recorder = Recorder(f"redis://{LOOPBACK}:{server.getsockname()[1]}/0")
        heard: list[bytes] = []

        def listen() -> None:
            connection, _ = server.accept()
            with connection:
                heard.append(connection.recv(100))

        listening = threading.Thread(target=listen)
        listening.start()
        port = int(recorder.url.rpartition(":")[2].partition("/")[0])
        with contextlib.closing(socket.create_connection((LOOPBACK, port))) as client:
            client.sendall(PING)
            listening.join(10)
        assert recorder.take() == [f"0 {PING!r}"]
        recorder.close()
    assert heard == [PING]
