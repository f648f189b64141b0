"""A TCP proxy before PostgreSQL that can lose the answer to one particular commit."""

from __future__ import annotations

import threading

from tests.servers.proxy import LostAnswer, TcpProxy

BEGIN, COMMIT, ROLLBACK = b"BEGIN\0", b"COMMIT\0", b"ROLLBACK\0"


class SqlProxy(TcpProxy):
    """A `TcpProxy` that also knows which transaction a COMMIT belongs to.

    Statements are looked for in the bytes as they are sent, one statement a packet, so the client must not use prepared
    statements.
    """

    def __init__(self, host: str, port: int) -> None:
        self._wanted: tuple[bytes, ...] = ()
        # Connections (each has a thread of its own) with an open transaction, and whether it holds what is wanted.
        self._open: dict[int, bool] = {}
        super().__init__(host, port)

    def lose_commit_of(self, *statements: bytes) -> LostAnswer:
        """Lose the answer to the commit of the next transaction that holds one of *statements*; the commit happens.

        A statement that commits by itself loses its own answer.
        """
        lost = LostAnswer(COMMIT)
        with self._changed:
            self._wanted = statements
            self._open = dict.fromkeys(self._open, False)
            self._armed = lost
        return lost

    def _longest_match(self) -> int:
        return 1

    def _take_if_armed(self, request: bytes) -> LostAnswer | None:
        link = threading.get_ident()
        with self._changed:
            holds = any(statement in request for statement in self._wanted)
            ends = False
            if BEGIN in request:
                self._open[link] = False
            elif COMMIT in request or ROLLBACK in request:
                ends = self._open.pop(link, False) and COMMIT in request
            elif link in self._open:
                self._open[link] |= holds
            else:
                ends = holds
            if self._armed is None or not ends:
                return None
            lost, self._armed = self._armed, None
            self._wanted = ()
            return lost
