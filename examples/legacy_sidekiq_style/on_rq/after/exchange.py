"""Currency exchange: a web handler that checks the balance and enqueues one durable job."""

from __future__ import annotations

from decimal import Decimal

import durable_adapter as durable
from legacy_sidekiq_style import shop
from legacy_sidekiq_style.client import BankClient
from legacy_sidekiq_style.on_rq.after.app import queue
from legacy_sidekiq_style.on_rq.app import RETRY

bank = BankClient()


def request_exchange(transaction: shop.Transaction) -> None:
    """The web handler behind the "exchange" button."""
    if bank.balance(transaction.source) < transaction.amount:
        raise ValueError(f"account {transaction.source} holds less than {transaction.amount}")
    shop.add_transaction(transaction)
    queue.enqueue(exchange, transaction.id, retry=RETRY)


@durable.workflow(id="exchange-{transaction_id}")
def exchange(transaction_id: str) -> None:
    """Moves the money: checks, debits the one account, credits the other at today's rate."""
    check(transaction_id)
    debit(transaction_id)
    rate = record_rate(transaction_id)
    credit(rate, transaction_id)
    book(rate, transaction_id)
    complete(transaction_id)


@durable.step(idempotent=True)
def record_rate(transaction_id: str) -> str:
    """Records the rate at which the money is exchanged."""
    tx = shop.get_transaction(transaction_id)
    rate = str(bank.quote(tx.id, tx.pair, key=durable.idempotency_key()))
    shop.set_rate(transaction_id, rate)
    return rate


@durable.step(idempotent=True)
def book(rate: str, transaction_id: str) -> str:
    """Writes what was credited into the accounts."""
    tx = shop.get_transaction(transaction_id)
    return bank.book(tx.id, converted(tx.amount, rate), rate, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
def check(transaction_id: str) -> str:
    """Orders the compliance check that the law asks for."""
    tx = shop.get_transaction(transaction_id)
    return bank.check(tx.id, subject=tx.source, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
def debit(transaction_id: str) -> str:
    """Takes the money from the source account."""
    tx = shop.get_transaction(transaction_id)
    return bank.debit(tx.id, tx.source, tx.amount, key=durable.idempotency_key()).id


def find_credit(rate: str, transaction_id: str) -> durable.Verdict:
    """Asks the bank whether the money arrived."""
    arrived = bank.find("credits", reference=transaction_id)
    return durable.happened(arrived[0].id) if arrived else durable.did_not_happen()


@durable.step(probe=find_credit)
def credit(rate: str, transaction_id: str) -> str:
    """Gives the converted money to the target account."""
    tx = shop.get_transaction(transaction_id)
    return bank.credit(tx.id, tx.target, converted(tx.amount, rate)).id


@durable.step(idempotent=True)
def complete(transaction_id: str) -> None:
    """Marks the transaction as done."""
    shop.set_transaction_status(transaction_id, "completed")


def converted(amount: int, rate: str) -> int:
    """*amount* minor units at *rate*, rounded to minor units."""
    return round(Decimal(amount) * Decimal(rate))
