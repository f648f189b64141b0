"""Order fulfilment: charge the card, take the items from the shelf, confirm by mail, tell the warehouse.

Once as one job that does it all, the way a Sidekiq worker does, and once as a chain of jobs.
"""

from __future__ import annotations

from celery import chain

import durable_adapter as durable
from legacy_sidekiq_style import shop
from legacy_sidekiq_style.after.app import app
from legacy_sidekiq_style.client import BankClient

bank = BankClient()


def place_order(order: shop.Order) -> None:
    """The web handler behind the "buy" button: keep the order and leave the rest to a job."""
    shop.add_order(order)
    fulfil_order.delay(order.id)


def place_order_as_chain(order: shop.Order) -> None:
    """The same button after the big job was cut into pieces."""
    shop.add_order(order)
    steps = [charge_card.si(order.id)]
    steps += [take_stock.si(order.id, item, quantity) for item, quantity in order.items.items()]
    steps += [mail_confirmation.si(order.id), notify_warehouse.si(order.id), close_order.si(order.id)]
    durable.start(order.reference, chain(*steps))


@durable.workflow(id="order-{order_id}")
@app.task
def fulfil_order(order_id: int) -> None:
    """Everything that has to happen once an order is placed."""
    order = shop.get_order(order_id)
    charge_card(order_id)
    for item, quantity in order.items.items():
        take_stock(order_id, item, quantity)
    mail_confirmation(order_id)
    notify_warehouse(order_id)
    close_order(order_id)


def find_charge(order_id: int) -> durable.Verdict:
    """Asks the bank whether the order was charged."""
    charges = bank.find("charges", reference=shop.get_order(order_id).reference)
    return durable.happened(charges[0].id) if charges else durable.did_not_happen()


@durable.step(probe=find_charge)
@app.task
def charge_card(order_id: int) -> str:
    """Charges the order's total, and returns the id of the charge."""
    order = shop.get_order(order_id)
    return bank.charge(order.reference, order.card, order.total).id


@durable.step(idempotent=True, key="stock-{item}")
@app.task
def take_stock(order_id: int, item: str, quantity: int) -> str:
    """Takes one item of the order from the shelf."""
    order = shop.get_order(order_id)
    return bank.take_stock(order.reference, item, quantity, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
@app.task
def mail_confirmation(order_id: int) -> str:
    """Tells the customer that the order is on its way."""
    order = shop.get_order(order_id)
    return bank.mail(order.reference, order.email, f"Your order {order_id}", key=durable.idempotency_key()).id


@durable.step(idempotent=True)
@app.task
def notify_warehouse(order_id: int) -> str:
    """Has the items sent."""
    order = shop.get_order(order_id)
    return bank.ship(order.reference, order.items, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
@app.task
def close_order(order_id: int) -> None:
    """Marks the order as done."""
    shop.set_order_status(order_id, "fulfilled")
