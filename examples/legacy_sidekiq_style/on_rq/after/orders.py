"""Order fulfilment: charge the card, take the items from the shelf, confirm by mail, tell the warehouse.

Once as one job that does it all, the way a Sidekiq worker does, and once as jobs that depend on each other.
"""

from __future__ import annotations

import durable_adapter as durable
import durable_adapter.rq
from legacy_sidekiq_style import shop
from legacy_sidekiq_style.client import BankClient
from legacy_sidekiq_style.on_rq.after.app import queue
from legacy_sidekiq_style.on_rq.app import RETRY

bank = BankClient()


def place_order(order: shop.Order) -> None:
    """The web handler behind the "buy" button: keep the order and leave the rest to a job."""
    shop.add_order(order)
    queue.enqueue(fulfil_order, order.id, retry=RETRY)


def place_order_as_chain(order: shop.Order) -> None:
    """The same button after the big job was cut into pieces."""
    shop.add_order(order)
    steps = [(take_stock, item, quantity) for item, quantity in order.items.items()]
    steps += [(mail_confirmation,), (notify_warehouse,), (close_order,)]
    last = durable_adapter.rq.start(order.reference, queue, charge_card, order.id, retry=RETRY)
    for number, (function, *arguments) in enumerate(steps):
        job_id = f"{order.reference}-{number}"
        last = queue.enqueue(function, order.id, *arguments, retry=RETRY, depends_on=last, job_id=job_id)


@durable.workflow(id="order-{order_id}")
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
def charge_card(order_id: int) -> str:
    """Charges the order's total, and returns the id of the charge."""
    order = shop.get_order(order_id)
    return bank.charge(order.reference, order.card, order.total).id


@durable.step(idempotent=True, key="stock-{item}")
def take_stock(order_id: int, item: str, quantity: int) -> str:
    """Takes one item of the order from the shelf."""
    order = shop.get_order(order_id)
    return bank.take_stock(order.reference, item, quantity, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
def mail_confirmation(order_id: int) -> str:
    """Tells the customer that the order is on its way."""
    order = shop.get_order(order_id)
    return bank.mail(order.reference, order.email, f"Your order {order_id}", key=durable.idempotency_key()).id


@durable.step(idempotent=True)
def notify_warehouse(order_id: int) -> str:
    """Has the items sent."""
    order = shop.get_order(order_id)
    return bank.ship(order.reference, order.items, key=durable.idempotency_key()).id


@durable.step(idempotent=True)
def close_order(order_id: int) -> None:
    """Marks the order as done."""
    shop.set_order_status(order_id, "fulfilled")
