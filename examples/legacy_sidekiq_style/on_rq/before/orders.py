"""Order fulfilment: charge the card, take the items from the shelf, confirm by mail, tell the warehouse.

Once as one job that does it all, the way a Sidekiq worker does, and once as jobs that depend on each other.
"""

from __future__ import annotations

from legacy_sidekiq_style import shop
from legacy_sidekiq_style.client import BankClient
from legacy_sidekiq_style.on_rq.app import RETRY
from legacy_sidekiq_style.on_rq.before.app import queue

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
    last = queue.enqueue(charge_card, order.id, retry=RETRY)
    for function, *arguments in steps:
        last = queue.enqueue(function, order.id, *arguments, retry=RETRY, depends_on=last)


def fulfil_order(order_id: int) -> None:
    """Everything that has to happen once an order is placed."""
    order = shop.get_order(order_id)
    charge_card(order_id)
    for item, quantity in order.items.items():
        take_stock(order_id, item, quantity)
    mail_confirmation(order_id)
    notify_warehouse(order_id)
    close_order(order_id)


def charge_card(order_id: int) -> str:
    """Charges the order's total, and returns the id of the charge."""
    order = shop.get_order(order_id)
    return bank.charge(order.reference, order.card, order.total).id


def take_stock(order_id: int, item: str, quantity: int) -> str:
    """Takes one item of the order from the shelf."""
    order = shop.get_order(order_id)
    return bank.take_stock(order.reference, item, quantity).id


def mail_confirmation(order_id: int) -> str:
    """Tells the customer that the order is on its way."""
    order = shop.get_order(order_id)
    return bank.mail(order.reference, order.email, f"Your order {order_id}").id


def notify_warehouse(order_id: int) -> str:
    """Has the items sent."""
    order = shop.get_order(order_id)
    return bank.ship(order.reference, order.items).id


def close_order(order_id: int) -> None:
    """Marks the order as done."""
    shop.set_order_status(order_id, "fulfilled")
