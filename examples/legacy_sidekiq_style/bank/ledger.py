"""The bank's books: one append-only table of rows, the balances and the shelves, in a SQLite file of its own (WAL).

A repeated charge is a second row, unless it carries the idempotency key of the first. One public method is one
transaction. Refusals are raised and leave no row.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from .kinds import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The first rate of every currency pair, and by how much it moves at each quote.
FIRST_RATE = Decimal("0.9200")
RATE_STEP = Decimal("0.0037")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    key TEXT,
    request TEXT NOT NULL,
    details TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS entry_key ON entry (kind, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS entry_reference ON entry (reference);
CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, currency TEXT NOT NULL, balance INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, quantity INTEGER NOT NULL);
"""


class Refusal(Exception):
    """The bank understood the request and will not do it; nothing was changed."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Posted:
    """A row, and whether an earlier request with the same key had already written it."""

    row: dict[str, Any]
    replayed: bool


class Ledger:
    """The books in *path*. Threads of one process share it."""

    def __init__(self, path: Path) -> None:
        # One connection behind one lock: SQLite has one writer anyway, and nobody polls for its lock.
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._lock = threading.Lock()
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def open_account(self, name: str, currency: str, balance: int) -> dict[str, Any]:
        """Opens an account, or sets its balance anew."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?)", (name, currency, balance))
            return {"account": name, "currency": currency, "balance": balance}

    def account(self, name: str) -> dict[str, Any]:
        """The account's currency and balance in minor units."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM account WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Refusal(404, "no_such_account", f"there is no account {name!r}")
        return {"account": row["name"], "currency": row["currency"], "balance": row["balance"]}

    def set_stock(self, item: str, quantity: int) -> dict[str, Any]:
        """Fills the shelf of *item*."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO stock VALUES (?, ?)", (item, quantity))
            return {"item": item, "quantity": quantity}

    def stock(self, item: str) -> dict[str, Any]:
        """How many of *item* are on the shelf."""
        with self._transaction() as db:
            row = db.execute("SELECT * FROM stock WHERE item = ?", (item,)).fetchone()
        if row is None:
            raise Refusal(404, "no_such_item", f"there is no item {item!r}")
        return {"item": row["item"], "quantity": row["quantity"]}

    def post(self, kind: Kind, request: dict[str, Any], key: str | None) -> Posted:
        """Does what *request* asks and writes its row; a known *key* gives the row that it wrote before."""
        asked = json.dumps(request, sort_keys=True)
        with self._transaction() as db:
            known = db.execute("SELECT * FROM entry WHERE kind = ? AND key = ?", (kind.name, key)).fetchone()
            if known is not None:
                if known["request"] != asked:
                    raise Refusal(422, "key_reused", f"key {key!r} came before with {known['request']}")
                return Posted(_row(known), replayed=True)
            details = {name: value for name, value in request.items() if name != "reference"}
            details |= self._apply(db, kind, request)
            seq = db.execute(
                "INSERT INTO entry (kind, reference, key, request, details, at) VALUES (?, ?, ?, ?, ?, ?)",
                (kind.name, str(request["reference"]), key, asked, json.dumps(details), time.time()),
            ).lastrowid
            return Posted(_row(db.execute("SELECT * FROM entry WHERE seq = ?", (seq,)).fetchone()), replayed=False)

    def rows(
        self,
        kind: str | None = None,
        reference: str | None = None,
        key: str | None = None,
        prefix: str | None = None,
        seq: int | None = None,
    ) -> list[dict[str, Any]]:
        """The rows, oldest first, that fit every given filter; *prefix* is the beginning of a reference."""
        filters = {"kind = ?": kind, "reference = ?": reference, "key = ?": key, "seq = ?": seq}
        wanted = [(text, value) for text, value in filters.items() if value is not None]
        if prefix is not None:
            wanted.append((f"substr(reference, 1, {len(prefix)}) = ?", prefix))  # not LIKE: references may hold % and _
        where = " AND ".join(text for text, _ in wanted) or "1"
        with self._transaction() as db:
            found = db.execute(f"SELECT * FROM entry WHERE {where} ORDER BY seq", [value for _, value in wanted])
            return [_row(row) for row in found]

    def _apply(self, db: sqlite3.Connection, kind: Kind, request: dict[str, Any]) -> dict[str, Any]:
        """Moves money or goods, and returns what the bank itself adds to the row."""
        if kind.moves and request.get("account"):
            self._move_money(db, str(request["account"]), kind.moves * int(request["amount"]))
        if kind is KINDS["stock_moves"]:
            self._move_stock(db, str(request["item"]), int(request["quantity"]))
        if kind is KINDS["quotes"]:
            pair = str(request["pair"])
            before = db.execute(
                "SELECT count(*) FROM entry WHERE kind = 'quotes' AND json_extract(details, '$.pair') = ?", (pair,)
            ).fetchone()[0]
            return {"rate": str(FIRST_RATE + RATE_STEP * int(before))}
        if kind is KINDS["checks"]:
            return {"verdict": "clear"}
        return {}

    def _move_money(self, db: sqlite3.Connection, account: str, amount: int) -> None:
        row = db.execute("SELECT balance FROM account WHERE name = ?", (account,)).fetchone()
        if row is None:
            raise Refusal(404, "no_such_account", f"there is no account {account!r}")
        if row["balance"] + amount < 0:
            raise Refusal(402, "insufficient_funds", f"account {account!r} holds {row['balance']}, asked for {-amount}")
        db.execute("UPDATE account SET balance = balance + ? WHERE name = ?", (amount, account))

    def _move_stock(self, db: sqlite3.Connection, item: str, quantity: int) -> None:
        row = db.execute("SELECT quantity FROM stock WHERE item = ?", (item,)).fetchone()
        have = 0 if row is None else row["quantity"]
        if have + quantity < 0:
            raise Refusal(409, "out_of_stock", f"{have} of {item!r} on the shelf, asked for {-quantity}")
        db.execute("INSERT OR REPLACE INTO stock VALUES (?, ?)", (item, have + quantity))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _row(entry: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": f"{entry['kind']}-{entry['seq']}",
        "kind": entry["kind"],
        "reference": entry["reference"],
        "key": entry["key"],
        "at": entry["at"],
        "details": json.loads(entry["details"]),
    }
