"""The bank's counter: HTTP in front of the ledger, with the faults in between. One thread per connection.

    POST /<kind>                     do it; `Idempotency-Key` honoured; 201 new, 200 replayed, 402/409/422 refused
    GET  /<kind>?reference=&key=     did this happen?  {"count": n, "rows": [...]}
    GET  /<kind>/<id>                one row
    GET  /ledger?reference=&prefix=&kind=    {"counts": {...}, "sums": {...}, "rows": [...]}
    GET|PUT /accounts/<name>, GET|PUT /stock/<item>, GET /health
    POST|GET|DELETE /admin/rules[/<id>], POST /admin/rules/<id>/release, GET /admin/requests

Every answer is JSON; an error is `{"code": ..., "message": ...}`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .faults import BadRule, Faults, HangUp, Misbehave, visit_now
from .kinds import KINDS, Kind, complaint
from .ledger import Ledger, Refusal

if TYPE_CHECKING:
    from types import TracebackType

#: The longest that one poll of a rule may wait, in seconds.
LONGEST_POLL = 30.0

Answer = tuple[int, dict[str, Any]]


class FakeBank:
    """A bank that serves from a thread of this process.

    Args:
        db: the SQLite file of its ledger; made if missing.
        port: on the loopback interface; 0 takes a free one.

    Example:
        >>> import tempfile
        >>> with FakeBank(Path(tempfile.mkdtemp()) / "bank.sqlite3") as bank:
        ...     bank.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, db: Path | str, *, port: int = 0) -> None:
        self.ledger = Ledger(Path(db))
        self.faults = Faults()
        self._server = _Server(("127.0.0.1", port), _Counter)
        self._server.bank = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-bank", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What belongs into `FAKE_BANK_URL`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeBank:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.faults.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.ledger.close()


class _Server(ThreadingHTTPServer):
    bank: FakeBank
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def server_bind(self) -> None:
        # http.server asks for the host's name here, which can take seconds on a machine without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])


class _Counter(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, *args: Any) -> None:
        """The ledger is the record; the console stays quiet."""

    def _serve(self, method: str) -> None:
        address = urlsplit(self.path)
        path = [unquote(part) for part in address.path.split("/") if part]
        query = dict(parse_qsl(address.query))
        try:
            status, answer = self._answer(method, path, query, self._body())
        except HangUp:
            self._hang_up()
            return
        except (Refusal, Misbehave) as error:
            status, answer = error.status, {"code": error.code, "message": str(error)}
        except (BadRule, ValueError, KeyError) as error:
            status, answer = 400, {"code": "bad_request", "message": str(error)}
        self._send(status, answer)

    def _answer(self, method: str, path: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        match method, path:
            case "POST", [kind] if kind in KINDS:
                return self._post(KINDS[kind], body)
            case "GET", [kind] if kind in KINDS:
                return self._find(KINDS[kind], query)
            case "GET", [kind, name] if kind in KINDS:
                return self._row(KINDS[kind], name)
            case "GET", ["ledger"]:
                return self._read(query)
            case "GET", ["accounts", name]:
                return 200, self._bank.ledger.account(name)
            case "PUT", ["accounts", name]:
                return 200, self._bank.ledger.open_account(name, str(body["currency"]), int(body["balance"]))
            case "GET", ["stock", item]:
                return 200, self._bank.ledger.stock(item)
            case "PUT", ["stock", item]:
                return 200, self._bank.ledger.set_stock(item, int(body["quantity"]))
            case "GET", ["health"]:
                return 200, {"open": True}
            case _, ["admin", *rest]:
                return self._admin(method, rest, query, body)
        return _nothing_here(method, path)

    def _post(self, kind: Kind, request: dict[str, Any]) -> Answer:
        if wrong := complaint(kind, request):
            raise Refusal(400, "bad_request", wrong)
        key = self.headers.get("Idempotency-Key")
        visit = visit_now(kind.name, request["reference"], key, self.headers.get("X-Client-Pid"))
        faults = self._bank.faults
        faults.arrive(visit)
        faults.meet(visit, "before")
        posted = self._bank.ledger.post(kind, request, key)
        faults.meet(visit, "after")
        return 200 if posted.replayed else 201, posted.row | {"replayed": posted.replayed}

    def _find(self, kind: Kind, query: dict[str, str]) -> Answer:
        reference, key = query.get("reference"), query.get("key")
        visit = visit_now(f"find {kind.name}", reference, key, self.headers.get("X-Client-Pid"))
        faults = self._bank.faults
        faults.arrive(visit)
        faults.meet(visit, "before")
        rows = self._bank.ledger.rows(kind.name, reference, key)
        faults.meet(visit, "after")
        return 200, {"count": len(rows), "rows": rows}

    def _row(self, kind: Kind, name: str) -> Answer:
        number = name.removeprefix(f"{kind.name}-")
        rows = self._bank.ledger.rows(kind.name, seq=int(number)) if number.isdigit() else []
        if not rows:
            raise Refusal(404, "no_such_row", f"there is no {name!r} among the {kind.name}")
        return 200, rows[0]

    def _read(self, query: dict[str, str]) -> Answer:
        rows = self._bank.ledger.rows(query.get("kind"), query.get("reference"), prefix=query.get("prefix"))
        counts = dict.fromkeys(KINDS, 0)
        sums = dict.fromkeys(KINDS, 0)
        for row in rows:
            counts[row["kind"]] += 1
            sums[row["kind"]] += row["details"].get("amount", 0)
        return 200, {"counts": counts, "sums": sums, "rows": rows}

    def _admin(self, method: str, path: list[str], query: dict[str, str], body: dict[str, Any]) -> Answer:
        faults = self._bank.faults
        match method, path:
            case "POST", ["rules"]:
                return 201, faults.add(body, KINDS)
            case "GET", ["rules"]:
                return 200, {"rules": faults.rules()}
            case "DELETE", ["rules"]:
                faults.remove()
                return 200, {}
            case "GET", ["rules", number]:
                patience = min(float(query.get("wait", 0)), LONGEST_POLL)
                rule = faults.rule(int(number), int(query.get("arrived", 0)), patience)
                return (200, rule) if rule else _nothing_here(method, path)
            case "DELETE", ["rules", number]:
                faults.remove(int(number))
                return 200, {}
            case "POST", ["rules", number, "release"]:
                rule = faults.release(int(number), body.get("then", "continue"))
                return (200, rule) if rule else _nothing_here(method, path)
            case "GET", ["requests"]:
                return 200, {"requests": faults.visits(query.get("reference"))}
        return _nothing_here(method, path)

    @property
    def _bank(self) -> FakeBank:
        return self.server.bank

    def _body(self) -> dict[str, Any]:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else {}
        return body if isinstance(body, dict) else {}

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            self.close_connection = True  # the one who asked is gone: killed, or out of patience

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the other side may have hung up already
            self.connection.shutdown(socket.SHUT_RDWR)


def _nothing_here(method: str, path: list[str]) -> Answer:
    return 404, {"code": "no_such_path", "message": f"{method} /{'/'.join(path)} is nothing this bank knows"}
