"""The shop's own tables: orders and money transactions, in the SQLite file `SHOP_DB` (default `shop.sqlite3`).

Nothing here knows of Celery or of the bank. One function is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY, email TEXT, card TEXT, total INTEGER, items TEXT, status TEXT NOT NULL DEFAULT 'placed'
);
CREATE TABLE IF NOT EXISTS transactions (
    id TEXT PRIMARY KEY, source TEXT, target TEXT, pair TEXT, amount INTEGER, rate TEXT,
    status TEXT NOT NULL DEFAULT 'pending'
);
"""


@dataclass(frozen=True)
class Order:
    """What a customer bought; `total` in minor units, `items` by stock-keeping unit."""

    id: int
    email: str
    card: str
    total: int
    items: dict[str, int]
    status: str = "placed"

    @property
    def reference(self) -> str:
        """How the bank, the mail service and the warehouse know the order."""
        return f"order-{self.id}"


@dataclass(frozen=True)
class Transaction:
    """A currency exchange; `amount` in minor units of the source account."""

    id: str
    source: str
    target: str
    pair: str
    amount: int
    rate: str | None = None
    status: str = "pending"


def add_order(order: Order) -> None:
    """Keeps a new order; one that is kept already stays as it is."""
    with _db() as db:
        db.execute(
            "INSERT OR IGNORE INTO orders (id, email, card, total, items, status) VALUES (?, ?, ?, ?, ?, ?)",
            (order.id, order.email, order.card, order.total, json.dumps(order.items), order.status),
        )


def get_order(order_id: int) -> Order:
    """The order with this number."""
    with _db() as db:
        row = db.execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone()
    if row is None:
        raise LookupError(f"there is no order {order_id}")
    return Order(row["id"], row["email"], row["card"], row["total"], json.loads(row["items"]), row["status"])


def set_order_status(order_id: int, status: str) -> None:
    """Says how far the order is."""
    with _db() as db:
        db.execute("UPDATE orders SET status = ? WHERE id = ?", (status, order_id))


def add_transaction(transaction: Transaction) -> None:
    """Keeps a new transaction; one that is kept already stays as it is."""
    kept = transaction
    with _db() as db:
        db.execute(
            "INSERT OR IGNORE INTO transactions (id, source, target, pair, amount, rate, status) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (kept.id, kept.source, kept.target, kept.pair, kept.amount, kept.rate, kept.status),
        )


def get_transaction(transaction_id: str) -> Transaction:
    """The transaction with this id."""
    with _db() as db:
        row = db.execute("SELECT * FROM transactions WHERE id = ?", (transaction_id,)).fetchone()
    if row is None:
        raise LookupError(f"there is no transaction {transaction_id!r}")
    return Transaction(**dict(row))


def set_rate(transaction_id: str, rate: str) -> None:
    """Records the rate of exchange."""
    with _db() as db:
        db.execute("UPDATE transactions SET rate = ? WHERE id = ?", (rate, transaction_id))


def set_transaction_status(transaction_id: str, status: str) -> None:
    """Says how far the transaction is."""
    with _db() as db:
        db.execute("UPDATE transactions SET status = ? WHERE id = ?", (status, transaction_id))


@contextmanager
def _db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(os.environ.get("SHOP_DB", "shop.sqlite3"), timeout=30)) as db, db:
        db.row_factory = sqlite3.Row
        db.executescript(_SCHEMA)
        yield db
