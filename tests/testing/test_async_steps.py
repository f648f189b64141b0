"""Steps that are `async def`: they run to their end where they are called, and what they came to is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from celery import Celery

import durable_adapter as durable
from durable_adapter.errors import DeclarationError, InsideEventLoop
from durable_adapter.testing import TestJournal

charged: list[str] = []


@pytest.fixture
def app() -> Celery:
    app = Celery("async", broker="memory://", backend="cache+memory://", set_as_current=False)
    charged.clear()
    return app


@pytest.fixture
def durable_app(app: Celery) -> Celery:
    return app


@durable.step(name="charge")
async def charge(order: str) -> str:
    await asyncio.sleep(0)
    charged.append(order)
    if order == "declined":
        raise ValueError("declined")
    return f"ch_{order}"


def test_a_step_is_awaited_as_it_is_without_us(app: Celery, durable_journal: TestJournal) -> None:
    @durable.workflow(id="order-{order}")
    @app.task(name="pay", shared=False)
    def pay(order: str) -> str:
        paid: str = asyncio.run(charge(order))
        durable.sleep(60)
        return paid

    pay.delay("42")
    durable_journal.advance(minutes=2)
    assert durable_journal.workflow("order-42").value == "ch_42"
    assert durable_journal.steps("order-42") == ["charge: succeeded", "sleep: succeeded"]
    assert charged == ["42"]
    assert asyncio.run(charge("43")) == "ch_43", "a call by the test itself is one too"


def test_its_error_is_recorded(app: Celery, durable_journal: TestJournal) -> None:
    @durable.workflow(id="order-{order}")
    @app.task(name="pay", shared=False)
    def pay(order: str) -> Any:
        return asyncio.run(charge(order))

    pay.delay("declined")
    assert durable_journal.steps("order-declined") == ["charge: failed"]


def test_inside_a_running_loop_nothing_is_begun(app: Celery, durable_journal: TestJournal) -> None:
    @durable.workflow(id="order-{order}")
    @app.task(name="pay", shared=False)
    def pay(order: str) -> Any:
        async def everything() -> str:
            return await charge(order)

        return asyncio.run(everything())

    result = pay.delay("42")
    with pytest.raises(InsideEventLoop, match="was not begun"):
        result.get()
    assert charged == []
    assert durable_journal.steps("order-42") == []


def test_an_async_task_is_awaited_by_its_worker(app: Celery, durable_journal: TestJournal) -> None:
    @durable.step
    @app.task(name="bill", shared=False)
    async def bill(order: str) -> str:
        return await charge(order)

    assert bill.delay("42").get() == "ch_42"
    (workflow,) = durable_journal.workflows()
    assert workflow.steps == ["bill: succeeded"]
    assert charged == ["42"]


def generated() -> Iterator[int]:
    yield 1


async def generated_too() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [generated, generated_too])
@pytest.mark.parametrize("mark", [durable.step, durable.workflow])
def test_a_generator_is_refused_where_it_is_declared(function: Any, mark: Any) -> None:
    with pytest.raises(DeclarationError, match="is a generator"):
        mark(function)


def test_a_task_that_is_a_generator_is_refused_when_it_is_hooked(app: Celery, durable_journal: TestJournal) -> None:
    @durable.step
    @app.task(name="generate", shared=False)
    def generate() -> Iterator[int]:
        yield 1

    with pytest.raises(DeclarationError, match="is a generator"):
        generate.delay()


def test_a_step_above_a_static_method_is_refused() -> None:
    with pytest.raises(DeclarationError, match="next to the def"):
        durable.step(staticmethod(generated))
