"""Steps belong to the thread that runs their workflow function. What another thread calls is refused where that can be told.

A thread does not know who started it, and Python does not hand it the context of whoever did. In a worker, a thread of the
function's own looks like any other: such a call runs plainly, as it does without us, and a warning says so.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

import durable_adapter as durable
from durable_adapter import current
from durable_adapter.errors import NotInWorkflow
from durable_adapter.testing import TestJournal

charged: list[int] = []


@pytest.fixture
def app() -> Celery:
    charged.clear()
    return Celery("threads", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture
def durable_app(app: Celery) -> Celery:
    return app


@pytest.fixture
def _as_in_a_worker(durable_journal: TestJournal) -> Iterator[None]:
    """Nobody runs what is called outside of workflows."""
    outside = list(current.OUTSIDE)
    current.OUTSIDE.clear()
    current._TOLD.clear()
    yield
    current.OUTSIDE.extend(outside)


@durable.step(name="charge")
def charge(number: int) -> int:
    charged.append(number)
    return number


def in_a_thread(number: int) -> int:
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        return pool.submit(charge, number).result()


@durable.step(name="outer")
def outer(number: int) -> int:
    return in_a_thread(number)


def in_a_copy(number: int) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, charge, number).result()


def in_asyncios(number: int) -> int:
    async def everything() -> int:
        return await asyncio.to_thread(charge, number)

    return asyncio.run(everything())


@pytest.mark.parametrize("call", [in_a_copy, in_asyncios, in_a_thread])
def test_a_call_in_a_thread_of_the_functions_own_is_refused(durable_journal: TestJournal, call: Any) -> None:
    """With the function's context everywhere; without it under the test journal alone."""
    with pytest.raises(NotInWorkflow, match=r"the function's own thread, or send"):
        durable_journal.call(lambda: call(1))
    assert charged == []


def test_a_thread_that_a_step_starts_is_a_part_of_that_step(durable_journal: TestJournal) -> None:
    assert durable_journal.call(lambda: outer(1)) == 1
    (workflow,) = durable_journal.workflows()
    assert workflow.steps[1:] == ["outer: succeeded"]


@pytest.mark.usefixtures("_as_in_a_worker")
def test_in_a_worker_it_runs_plainly_and_a_warning_says_so_once(
    durable_journal: TestJournal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    def order() -> list[int]:
        done = [in_a_thread(1), in_a_thread(2)]
        durable.sleep(60)
        return done

    with pytest.raises(Exception, match="not finished"):
        durable_journal.call(order)
    durable_journal.advance(minutes=2)
    assert charged == [1, 2, 1, 2], "nothing of it is recorded: the replay calls them again"
    said = [record.getMessage() for record in caplog.records if "belongs to no workflow" in record.getMessage()]
    assert len(said) == 1
    assert "step charge is called in thread 'pool_0'" in said[0]


@pytest.mark.usefixtures("_as_in_a_worker")
def test_nothing_is_said_of_a_thread_while_no_function_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert in_a_thread(1) == 1
    assert caplog.records == []
    assert current.RUNNING == {}
