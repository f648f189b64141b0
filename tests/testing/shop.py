"""A user's small shop: tasks, functions and a fake bank that can be told to misbehave."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

import durable_adapter as durable
from durable_adapter.testing import Killed


class Declined(Exception):
    """The bank did not do it."""


class Shop:
    """An app of its own for each test, with a broker and a result store that are not there."""

    def __init__(self) -> None:
        self.app = app = Celery("unit-tested", set_as_current=False)
        nowhere = "redis://127.0.0.1:1/0"
        app.conf.update(broker_url=nowhere, result_backend=nowhere, task_always_eager=True)
        #: What happened outside.
        self.effects: list[Any] = []
        #: How the next calls of the bank end: an error each, or None.
        self.trouble: list[BaseException | None] = []
        effects = self.effects

        def bank(*what: Any) -> None:
            """The effect happens; then there may be trouble."""
            effects.append(what if len(what) > 1 else what[0])
            trouble = self.trouble.pop(0) if self.trouble else None
            if trouble is not None:
                raise trouble

        @app.task(name="shop.refund", shared=False)
        @durable.step
        def refund(charged: str, order: str) -> str:
            bank("refund", order)
            return "refunded"

        @durable.step(compensate=refund, did_not_happen=Declined)
        @app.task(name="shop.charge", shared=False)
        def charge(order: str) -> str:
            bank("charge")
            return f"ch-{order}"

        @app.task(name="shop.keyed", shared=False)
        @durable.step(idempotent=True, retry=durable.RetryPolicy(initial_interval=60, maximum_attempts=4))
        def keyed(order: str) -> str:
            bank("keyed", durable.idempotency_key())
            return f"keyed-{order}"

        @app.task(name="shop.ship", shared=False)
        @durable.step
        def ship(charged: str) -> str:
            bank("ship")
            return f"sent for {charged}"

        @app.task(name="shop.mail", shared=False)
        def mail(text: str) -> str:
            effects.append(("mail", text))
            return text

        @app.task(name="shop.slow", shared=False, bind=True, max_retries=5)
        @durable.step(did_not_happen=ConnectionError)
        def slow(self: Task, order: str) -> str:
            effects.append("slow")
            if effects.count("slow") < 3:
                raise self.retry(exc=ConnectionError("later"), countdown=3600)
            return "at last"

        @durable.step(transactional=True)
        @app.task(name="shop.book", shared=False)
        def book(order: str) -> int:
            import sqlalchemy as sa

            effects.append("book")
            return int(durable.session().execute(sa.text("SELECT 41 + 1")).scalar_one())

        @durable.step(idempotent=True, name="pack it")
        def pack(order: str, box: str = "small") -> str:
            bank("pack")
            return f"{box} box for {order}"

        @durable.workflow(id="order-{order}", attributes=("order",))
        @app.task(name="shop.fulfil", shared=False)
        def fulfil(order: str) -> list[str]:
            effects.append("body")
            charged = charge(order)
            durable.sleep(3600)
            packed = pack(order)
            durable.sleep(3600)
            return [charged, packed, ship.delay(charged).get()]

        @durable.workflow
        @app.task(name="shop.undone", shared=False)
        def undone(order: str) -> str:
            charge(order)
            return keyed(order)

        self.refund, self.charge, self.keyed, self.ship, self.mail = refund, charge, keyed, ship, mail
        self.slow, self.book, self.pack, self.fulfil, self.undone = slow, book, pack, fulfil, undone

    def killed(self) -> Killed:
        """`kill -9`, for `trouble`."""
        return Killed("after the effect")
