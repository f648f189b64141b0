"""Currency exchange: a web handler that checks the balance and enqueues three jobs with nothing between them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from legacy_sidekiq_style import shop
from legacy_sidekiq_style.before.app import app
from legacy_sidekiq_style.client import BankClient

bank = BankClient()

#: The bank is at times slow or away: try again.
RETRY: dict[str, Any] = {
    "autoretry_for": (TimeoutError, ConnectionError),
    "default_retry_delay": 1,
    "max_retries": 5,
}


def request_exchange(transaction: shop.Transaction) -> None:
    """The web handler behind the "exchange" button."""
    if bank.balance(transaction.source) < transaction.amount:
        raise ValueError(f"account {transaction.source} holds less than {transaction.amount}")
    shop.add_transaction(transaction)
    exchange.delay(transaction.id)
    record_rate.delay(transaction.id)
    book.delay(transaction.id)


@app.task(**RETRY)
def exchange(transaction_id: str) -> None:
    """Moves the money: checks, debits the one account, credits the other at today's rate."""
    tx = shop.get_transaction(transaction_id)
    check(transaction_id)
    debit(transaction_id)
    rate = bank.quote(tx.id, tx.pair)
    credit(str(rate), transaction_id)
    shop.set_transaction_status(transaction_id, "completed")


@app.task(**RETRY)
def record_rate(transaction_id: str) -> str:
    """Records the rate at which the money is exchanged."""
    tx = shop.get_transaction(transaction_id)
    rate = str(bank.quote(tx.id, tx.pair))
    shop.set_rate(transaction_id, rate)
    return rate


@app.task(**RETRY)
def book(transaction_id: str) -> str:
    """Writes what was credited into the accounts."""
    tx = shop.get_transaction(transaction_id)
    rate = tx.rate or record_rate(transaction_id)
    return bank.book(tx.id, converted(tx.amount, rate), rate).id


def check(transaction_id: str) -> str:
    """Orders the compliance check that the law asks for."""
    tx = shop.get_transaction(transaction_id)
    return bank.check(tx.id, subject=tx.source).id


def debit(transaction_id: str) -> str:
    """Takes the money from the source account."""
    tx = shop.get_transaction(transaction_id)
    return bank.debit(tx.id, tx.source, tx.amount).id


def credit(rate: str, transaction_id: str) -> str:
    """Gives the converted money to the target account."""
    tx = shop.get_transaction(transaction_id)
    bank.credit(tx.id, tx.target, converted(tx.amount, rate))
    return rate


def converted(amount: int, rate: str) -> int:
    """*amount* minor units at *rate*, rounded to minor units."""
    return round(Decimal(amount) * Decimal(rate))
