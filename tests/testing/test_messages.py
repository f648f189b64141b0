"""What a message says of itself is heeded: when it is to run, until when, and whether it is one that came before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, chain

import durable_adapter as durable
from durable_adapter.declare.registry import DECLARED
from durable_adapter.errors import Killed
from durable_adapter.testing import TestJournal

HOUR = 3600


class Shop:
    """An app whose steps tell what they did."""

    def __init__(self) -> None:
        self.app = app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
        self.did: list[str] = []
        self.breaks: list[BaseException] = []

        def do(what: str) -> str:
            self.did.append(what)
            if self.breaks:
                raise self.breaks.pop()
            return what

        @durable.step(probe=durable.happened)
        @app.task(name="shop.reserve", shared=False)
        def reserve(order: str) -> str:
            return do(f"reserve {order}")

        @durable.step(idempotent=True)
        @app.task(name="shop.capture", shared=False)
        def capture(order: str) -> str:
            return do(f"capture {order}")

        @durable.step
        @app.task(name="shop.settle", shared=False)
        def settle(day: str) -> str:
            return do(f"settle {day}")

        @durable.step(did_not_happen=ValueError)
        @app.task(name="shop.bill", shared=False, bind=True)
        def bill(task: Task, day: str) -> str:
            if not self.did:
                do(f"bill {day}")
                raise task.retry(args=("tuesday",), exc=ValueError(), countdown=HOUR)
            return do(f"bill {day}")

        self.reserve, self.capture, self.settle, self.bill = reserve, capture, settle, bill


@pytest.fixture
def shop() -> Iterator[Shop]:
    before = dict(DECLARED._entries)
    yield Shop()
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


@pytest.fixture
def durable_app(shop: Shop) -> Any:
    return shop.app


def plainly(durable_journal: TestJournal, name: str, *args: Any, **options: Any) -> None:
    """A producer without the plugin publishes."""
    binding = durable_journal._here.drivers[0].binding
    binding.ensure_hooked()
    binding.send_task(name, args, {}, **options)


def test_a_later_member_waits_as_long_as_it_was_to_wait_also_when_the_one_before_it_was_recovered(
    durable_journal: TestJournal, shop: Shop
) -> None:
    shop.breaks = [Killed("power cut")]
    chain(shop.reserve.si("42"), shop.capture.si("42").set(countdown=HOUR)).delay()
    durable_journal.advance(minutes=50)
    assert shop.did == ["reserve 42"]
    durable_journal.advance(minutes=30)
    assert shop.did == ["reserve 42", "capture 42"]


def test_a_step_whose_message_expired_before_it_began_is_ended(durable_journal: TestJournal, shop: Shop) -> None:
    shop.reserve.delay("42")
    shop.settle.apply_async(("monday",), expires=-1)
    durable_journal.advance(hours=1)
    assert shop.did == ["reserve 42"]
    (ended,) = [workflow for workflow in durable_journal.workflows() if workflow.name == "shop.settle"]
    assert ended.status == "cancelled"


def test_a_task_id_that_a_plain_producer_uses_again_is_another_message_where_the_arguments_differ(
    durable_journal: TestJournal, shop: Shop
) -> None:
    for day in ("mon", "tue", "wed"):
        plainly(durable_journal, "shop.settle", day, task_id="nightly")
    durable_journal.sweep()
    assert shop.did == ["settle mon", "settle tue", "settle wed"]
    plainly(durable_journal, "shop.settle", "wed", task_id="nightly")
    durable_journal.sweep()
    assert shop.did == ["settle mon", "settle tue", "settle wed"], "the message says nothing that its redelivery would not"


def test_a_retry_with_other_arguments_belongs_to_the_run_of_its_message(durable_journal: TestJournal, shop: Shop) -> None:
    plainly(durable_journal, "shop.bill", "monday", task_id="t-1")
    durable_journal.advance(hours=2)
    assert shop.did == ["bill monday", "bill tuesday"]
    (workflow,) = durable_journal.workflows()
    assert workflow.status == "succeeded"
