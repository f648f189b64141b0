"""Eager calls, `.apply()`, `.run()` and direct calls run plain, as before: no journal is opened for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, chain, group

import durable_adapter as durable
from durable_adapter.celery import install, uninstall

pytestmark = pytest.mark.usefixtures("declarations")

#: A journal that cannot be reached: whoever opens it fails.
NOWHERE = "sqlite:////nowhere/at/all/journal.db"


class Tasks:
    """An app whose tasks write down what they do."""

    def __init__(self) -> None:
        self.app = app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
        app.conf.task_always_eager = True
        self.done: list[Any] = []

        @durable.step
        @app.task(name="eager.charge", shared=False)
        def charge(order: str) -> str:
            self.done.append(("charge", order))
            return order

        @app.task(name="eager.ship", shared=False)
        @durable.step(idempotent=True)
        def ship(order: str) -> str:
            self.done.append(("ship", order))
            return f"shipped {order}"

        @durable.step(idempotent=True)
        @app.task(name="eager.flaky", shared=False, bind=True, max_retries=3, default_retry_delay=0)
        def flaky(task: Task, order: str) -> str:
            self.done.append(("flaky", task.request.retries))
            if task.request.retries < 2:
                raise task.retry(exc=ConnectionError("again"))
            return order

        @durable.step
        @app.task(name="eager.auto", shared=False, autoretry_for=(ValueError,), max_retries=2, default_retry_delay=0)
        def auto(order: str) -> str:
            self.done.append(("auto", order))
            if len(self.done) < 2:
                raise ValueError("once")
            return order

        @durable.workflow(id="order-{order}")
        @app.task(name="eager.function", shared=False)
        def function(order: str) -> str:
            return ship(charge(order))  # type: ignore[no-any-return]

        self.charge, self.ship, self.flaky, self.auto, self.function = charge, ship, flaky, auto, function


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    """The app, with the plugin and a journal that is not there."""
    made = Tasks()
    install(made.app, journal=NOWHERE)
    yield made
    uninstall(made.app)
    made.app.close()


def test_an_always_eager_task_runs_plain(tasks: Tasks) -> None:
    assert tasks.charge.delay("42").get() == "42"
    assert tasks.done == [("charge", "42")]


def test_an_always_eager_chain_runs_plain(tasks: Tasks) -> None:
    assert chain(tasks.charge.s("42"), tasks.ship.s()).apply_async().get() == "shipped 42"
    assert tasks.done == [("charge", "42"), ("ship", "42")]


def test_an_always_eager_retry_and_autoretry_run_plain(tasks: Tasks) -> None:
    assert tasks.flaky.delay("42").get() == "42"
    assert tasks.done == [("flaky", 0), ("flaky", 1), ("flaky", 2)]
    tasks.done.clear()
    assert tasks.auto.delay("42").get() == "42"
    assert tasks.done == [("auto", "42")] * 2


def test_apply_runs_plain(tasks: Tasks) -> None:
    assert tasks.charge.apply(("42",)).get() == "42"
    assert tasks.charge.s("42").apply().get() == "42"


def test_a_direct_call_and_run_run_plain(tasks: Tasks) -> None:
    assert tasks.charge("42") == "42"
    assert tasks.charge.run("42") == "42"
    assert tasks.ship.run("42") == "shipped 42"


def test_a_direct_call_of_a_workflow_function_runs_plain(tasks: Tasks) -> None:
    assert tasks.function("42") == "shipped 42"
    assert tasks.function.delay("42").get() == "shipped 42"
    assert tasks.done == [("charge", "42"), ("ship", "42")] * 2


def test_a_plain_function_marked_as_a_step_is_itself(tasks: Tasks) -> None:
    @durable.step(idempotent=True, name="a name")
    def function(number: int = 3) -> int:
        """Its own words."""
        return number

    assert function() == 3
    assert (function.__name__, function.__doc__) == ("function", "Its own words.")


def test_an_eager_group_of_durable_tasks_is_not_published_and_so_not_refused(tasks: Tasks) -> None:
    assert group(tasks.charge.s("1"), tasks.charge.s("2")).apply().get() == ["1", "2"]
