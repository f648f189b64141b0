"""Judges an error by what it says of the effect: that nothing left the process, that an answer is missing, or nothing.

Wrappers are looked through: an engine's own, and what an error was raised from.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

from ..errors import REFUSALS

#: Errors that are known to mean that nothing left the process: the connection was never made.
NOTHING_LEFT: tuple[type[BaseException], ...] = (ConnectionRefusedError, socket.gaierror)

#: Names of such errors in libraries that need not be installed: matched along the class's own bases.
NOTHING_LEFT_NAMES = frozenset(
    {
        "requests.exceptions.ConnectTimeout",
        "urllib3.exceptions.ConnectTimeoutError",
        "urllib3.exceptions.NewConnectionError",
        "urllib3.exceptions.NameResolutionError",
        "httpx.ConnectTimeout",
        "httpx.ConnectError",
        "httpcore.ConnectTimeout",
        "httpcore.ConnectError",
        "aiohttp.client_exceptions.ClientConnectorError",
    }
)

#: Errors that are known to mean that the answer to something is missing. Time-outs and lost connections are `OSError`s.
NO_ANSWER: tuple[type[BaseException], ...] = (OSError, EOFError)
NO_ANSWER_NAMES = frozenset(
    {
        "urllib3.exceptions.ReadTimeoutError",
        "urllib3.exceptions.ProtocolError",
        "httpx.TransportError",
        "httpcore.NetworkError",
        "httpcore.TimeoutException",
        "httpcore.ProtocolError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "tenacity.RetryError",  # raised from the last try's error, whatever the others ended in
    }
)


class NeverConnected(Exception):
    """Stands in `did_not_happen=` for every error that means that a connection was never made, whoever raises it.

    Connection refused, name not found, connect time-out; of sockets, urllib, requests, urllib3, httpx and aiohttp. Only
    for a step that talks to one provider once: in a body that charges and then publishes a message, a broker that
    refuses the connection says nothing about the charge. Never raised by this library.
    """


def causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it wraps: an engine's `exc` attribute where that is an error, then `__cause__`."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (getattr(current, "exc", None), current.__cause__)
        queue.extend(error for error in inner if isinstance(error, BaseException))


def is_refusal(error: BaseException) -> bool:
    """Whether *error*, or what it wraps, is a refusal of this library's own: the same code would be refused again."""
    return any(isinstance(cause, REFUSALS) for cause in causes(error))


def no_answer(error: BaseException) -> bool:
    """Whether *error* is of a kind that means that something was asked and its answer, or that of one try of several, is
    not known: whatever it was raised from says no more about it.
    """
    return isinstance(error, NO_ANSWER) or _is_named(error, NO_ANSWER_NAMES)


def nothing_left(error: BaseException) -> bool:
    """Whether *error* is of a kind that means that a connection was never made."""
    if isinstance(error, NOTHING_LEFT):
        return True
    if _is_named(error, NOTHING_LEFT_NAMES):
        return True
    reason = getattr(error, "reason", None)  # urllib.error.URLError keeps the socket's error here
    return isinstance(reason, BaseException) and isinstance(reason, NOTHING_LEFT)


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" in names for base in type(error).__mro__)
