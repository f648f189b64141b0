"""`@durable.step` and `@durable.workflow`: what they return, what they refuse, and that they touch nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.current import FUNCTION, STEP
from durable_adapter.declare.decorators import STEP_MARK, WORKFLOW_MARK
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.declare.registry import DECLARED
from durable_adapter.errors import DeclarationError, NotInWorkflow


@pytest.fixture(autouse=True)
def declarations() -> Iterator[None]:
    """Forgets afterwards what a test declared."""
    before = dict(DECLARED._entries)
    yield
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


class Task:
    """Something with a name that is no function, as a task of Celery's is."""

    name = "shop.charge"

    def __call__(self) -> None: ...


class Function:
    """A workflow function that is running, as the decorated functions see it."""

    ref = "ref"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def call_step(self, policy: StepPolicy, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        self.calls.append((name, args, kwargs))
        return "recorded"

    def sleep(self, seconds: float, key: str | None) -> None:
        self.calls.append(("sleep", seconds, key))


@pytest.fixture
def function() -> Iterator[Function]:
    """Such a function, current in this context."""
    running = Function()
    token = FUNCTION.set(running)
    yield running
    FUNCTION.reset(token)


def test_a_decorated_function_is_itself_outside_of_a_workflow() -> None:
    @durable.step(idempotent=True)
    def charge(order: str, *, amount: int = 1) -> str:
        """Charges."""
        return f"{order}:{amount}"

    assert charge("42", amount=3) == "42:3"
    assert (charge.__name__, charge.__doc__, charge.__module__) == ("charge", "Charges.", __name__)
    assert str(inspect.signature(charge)) == "(order: 'str', *, amount: 'int' = 1) -> 'str'"
    assert inspect.getfullargspec(charge).args == ["order"]  # which does not follow `__wrapped__`
    assert getattr(charge, STEP_MARK).idempotent is True


def test_a_decorated_function_is_a_step_where_a_workflow_function_calls_it(function: Function) -> None:
    @durable.step
    def charge(order: str) -> str:
        return "ran"

    @durable.step(name="the charge")
    def named(order: str) -> str:
        return "ran"

    assert charge("42") == "recorded"
    assert named(order="42") == "recorded"
    first, second = function.calls
    assert first == (f"{__name__}.{charge.__qualname__}", ("42",), {})
    assert second == ("the charge", (), {"order": "42"})


def test_a_decorated_function_is_itself_inside_another_step(function: Function) -> None:
    @durable.step
    def charge(order: str) -> str:
        return "ran"

    token = STEP.set(object())  # type: ignore[arg-type]
    try:
        assert charge("42") == "ran"
    finally:
        STEP.reset(token)
    assert function.calls == []


def test_an_async_function_stays_one_where_it_is_marked(function: Function) -> None:
    @durable.step
    async def charge(order: str) -> str:
        return f"ran {order}"

    assert inspect.iscoroutinefunction(charge)
    assert asyncio.iscoroutinefunction(charge)
    assert asyncio.run(charge("42")) == "recorded"
    assert function.calls == [(f"{__name__}.{charge.__qualname__}", ("42",), {})]


def test_and_is_itself_outside_of_a_workflow_and_inside_another_step(function: Function) -> None:
    @durable.step
    async def charge(order: str) -> str:
        await asyncio.sleep(0)
        return f"ran {order}"

    token = STEP.set(object())  # type: ignore[arg-type]
    assert asyncio.run(charge("42")) == "ran 42"
    STEP.reset(token)
    outside = FUNCTION.set(None)
    assert asyncio.run(charge("43")) == "ran 43"
    FUNCTION.reset(outside)
    assert function.calls == []


class TestALoopThatAStepHasToItself:
    """A step is recorded in place: its loop stands still, and whatever else were in that loop would, too."""

    def awaited(self, *others: Any) -> list[bool]:
        """Whether a loop ran where the step was called, for each call."""
        seen: list[bool] = []

        class Notes(Function):
            def call_step(self, *_: Any) -> Any:
                try:
                    asyncio.get_running_loop()
                except RuntimeError:
                    seen.append(False)
                    return asyncio.run(asyncio.sleep(0, "recorded"))
                seen.append(True)
                return "recorded"

        @durable.step
        async def charge() -> str:
            return "ran"

        async def together() -> list[Any]:
            return await asyncio.gather(charge(), *(other() for other in others))

        async def inside() -> list[Any]:
            value = [await charge()]
            await asyncio.sleep(0)
            return value

        token = FUNCTION.set(Notes())  # type: ignore[arg-type]
        try:
            found = asyncio.run(together() if len(others) > 1 else inside() if others else charge())
        finally:
            FUNCTION.reset(token)
        assert found in ("recorded", ["recorded"], ["recorded", None, None])
        return seen

    def test_stands_still(self) -> None:
        assert self.awaited() == [False]

    def test_one_that_runs_something_else_runs_on(self) -> None:
        async def other() -> None:
            await asyncio.sleep(0)

        assert self.awaited(other) == [True]
        assert self.awaited(other, other) == [True]


class Account:
    """A class, in which nothing can be marked."""

    def charge(self, order: str) -> None: ...

    @staticmethod
    def book(order: str) -> None: ...

    @classmethod
    def mail(cls, order: str) -> None: ...


@pytest.mark.parametrize("mark", [durable.step, durable.step(idempotent=True), durable.workflow, durable.workflow(id="a")])
@pytest.mark.parametrize("method", [Account.charge, Account().charge, Account.book, Account.mail])
def test_a_method_is_refused_where_the_decorator_stands(mark: Any, method: Any) -> None:
    with pytest.raises(DeclarationError, match=rf"Account\.{method.__name__} is a method.*Accepted are functions of a module"):
        mark(method)
    before = len(list(DECLARED))
    with pytest.raises(DeclarationError, match="is a method"):

        class Local:
            @mark
            def charge(self) -> None: ...

    assert len(list(DECLARED)) == before


def test_a_function_of_a_function_is_no_method() -> None:
    class Factory:
        def made(self) -> Any:
            @durable.step
            def charge() -> str:
                return "ran"

            return charge

    assert Factory().made()() == "ran"


def test_a_task_is_returned_as_it_came_and_the_declaration_is_kept_beside_it() -> None:
    task = Task()
    assert durable.step(idempotent=True)(task) is task
    assert durable.workflow(id="order-{order}")(task) is task
    assert vars(task) == {}
    entry = next(entry for entry in DECLARED if entry.target is task)
    assert entry.step is not None
    assert entry.step.idempotent is True
    assert entry.workflow is not None
    assert entry.workflow.id == "order-{order}"


def test_a_workflow_function_carries_its_declaration_and_stays_the_function() -> None:
    def fulfil(order: str) -> str:
        return order

    assert durable.workflow(id="order-{order}")(fulfil) is fulfil
    assert getattr(fulfil, WORKFLOW_MARK).id == "order-{order}"


def test_an_unknown_option_is_refused_with_the_ones_that_there_are() -> None:
    with pytest.raises(DeclarationError, match=r"durable\.step has no option idempotant; it has codec, compensate, "):
        durable.step(idempotant=True)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match=r"durable\.workflow has no option retry; it has amount, attributes, id, name"):
        durable.workflow(retry=3)  # type: ignore[call-overload]


def test_a_contradiction_is_an_error_on_the_decorators_own_line_before_there_is_a_function() -> None:
    with pytest.raises(DeclarationError, match=r"durable\.step: transactional=True cannot be joined with probe"):
        durable.step(transactional=True, probe=durable.happened)


def test_an_option_given_by_position_is_refused_with_a_hint() -> None:
    with pytest.raises(DeclarationError, match=r"durable\.step\('charge'\): options are given by name, as in @durable\.step"):
        durable.step("charge")  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match=r"durable\.workflow\(5\): options are given by name"):
        durable.workflow(5)  # type: ignore[call-overload]


def test_sleep_takes_seconds_or_a_timedelta(function: Function) -> None:
    from datetime import timedelta

    durable.sleep(5)
    durable.sleep(timedelta(days=1), key="a day")
    assert function.calls == [("sleep", 5.0, None), ("sleep", 86_400.0, "a day")]


@pytest.mark.parametrize("duration", [-1, float("nan"), float("inf")])
def test_a_sleep_that_would_never_end_or_never_begin_is_refused(function: Function, duration: float) -> None:
    with pytest.raises(ValueError, match=r"durable\.sleep\("):
        durable.sleep(duration)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (durable.idempotency_key, r"durable\.idempotency_key\(\) only means something inside a durable step"),
        (durable.session, r"durable\.session\(\) only means something inside a durable step"),
        (lambda: durable.external_reference("x"), r"durable\.external_reference\(\) only means something"),
        (lambda: durable.sleep(1), r"durable\.sleep\(\) suspends a workflow function"),
    ],
)
def test_what_belongs_inside_says_so_outside(call: Any, says: str) -> None:
    with pytest.raises(NotInWorkflow, match=says):
        call()
