"""Currency exchange: a web handler that checks the balance and starts one durable chain."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from celery import chain

import durable_adapter as durable
from legacy_sidekiq_style import shop
from legacy_sidekiq_style.after.app import app
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
    tx = transaction.id
    steps = chain(check.si(tx), debit.si(tx), record_rate.si(tx), credit.s(tx), book.s(tx), complete.si(tx))
    durable.start(f"exchange-{tx}", steps)


@durable.step(idempotent=True)
@app.task(**RETRY)
def record_rate(transaction_id: str) -> str:
    """Records the rate at which the money is exchanged."""
    tx = shop.get_transaction(transaction_id)
    rate = str(bank.quote(tx.id, tx.pair, key=durable.idempotency_key()))
    shop.set_rate(transaction_id, rate)
    return rate


@durable.step(idempotent=True)
@app.task(**RETRY)
def book(rate: str, transaction_id: str) -> str:
    """Writes what was credited into the accounts."""
    tx = shop.get_transaction(transaction_id)
    return bank.book(tx.id, converted(tx.amount, rate), rate, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
@app.task(**RETRY)
def check(transaction_id: str) -> str:
    """Orders the compliance check that the law asks for."""
    tx = shop.get_transaction(transaction_id)
    return bank.check(tx.id, subject=tx.source, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
@app.task(**RETRY)
def debit(transaction_id: str) -> str:
    """Takes the money from the source account."""
    tx = shop.get_transaction(transaction_id)
    return bank.debit(tx.id, tx.source, tx.amount, key=durable.idempotency_key()).id


def find_credit(rate: str, transaction_id: str) -> durable.Verdict:
    """Asks the bank whether the money arrived."""
    arrived = bank.find("credits", reference=transaction_id)
    return durable.happened(rate) if arrived else durable.did_not_happen()


@durable.step(probe=find_credit)
@app.task(**RETRY)
def credit(rate: str, transaction_id: str) -> str:
    """Gives the converted money to the target account."""
    tx = shop.get_transaction(transaction_id)
    bank.credit(tx.id, tx.target, converted(tx.amount, rate))
    return rate


@durable.step(idempotent=True)
@app.task(**RETRY)
def complete(transaction_id: str) -> None:
    """Marks the transaction as done."""
    shop.set_transaction_status(transaction_id, "completed")


def converted(amount: int, rate: str) -> int:
    """*amount* minor units at *rate*, rounded to minor units."""
    return round(Decimal(amount) * Decimal(rate))
