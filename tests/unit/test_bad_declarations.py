"""Every option of every declaration, with values that it cannot keep: refused where they are written, never stored."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

import durable_adapter as durable
from durable_adapter.celery.registry import Registry
from durable_adapter.declare.policy import StepPolicy, WorkflowPolicy
from durable_adapter.declare.registry import DECLARED
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.errors import DeclarationError
from durable_adapter.runtime.marked import Named
from durable_adapter.runtime.plans import compensation_options

NAN, INFINITE = float("nan"), float("inf")
#: What is never a number of seconds, whatever the option.
NO_SPANS = (NAN, INFINITE, -INFINITE, -1, -0.5, True, False, "5", [5], timedelta(seconds=-1), timedelta.max, 1e300)
NO_NAMES = ("card", b"card", 5, None, ("card", 5), ("",), {"card": 1})


@pytest.fixture(autouse=True)
def declarations() -> Iterator[None]:
    """Forgets afterwards what a test declared."""
    before = dict(DECLARED._entries)
    DECLARED._entries.clear()
    yield
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


def charge(order: str, card: str = "") -> None: ...


STEP: dict[str, tuple[Any, ...]] = {
    "idempotent": ("yes", 5, None, timedelta(0), timedelta(seconds=-1)),
    "transactional": ("no", 1, 0, None),
    "pivot": ("no", 1, None),
    "probe": ("find_charge", 5),
    "did_not_happen": ("Declined", 5, int, (5,), None),
    "maybe_happened": ("Declined", ("Declined",)),
    "retry": (3, True, "often"),
    "timeout": NO_SPANS,
    "settle": NO_SPANS,
    "compensate": (5, "", ()),
    "name": (5, "", True, b"charge"),
    "key": (5, "", "item-{sku", "{}", "{0}", "{:>5}"),
    "drift": ("ignore", None, True),
    "ignore_arguments": (*NO_NAMES, True),
    "redact": NO_NAMES,
    "codec": ("nonsense", "", 5, True, object()),
}
WORKFLOW: dict[str, tuple[Any, ...]] = {
    "id": (5, "", "order-{", "{}"),
    "name": (5, "", True),
    "attributes": ("customer", 5, None, (5,)),
    "amount": (5, "", True, ("total",), "t" * 65),
}
RETRY: dict[str, tuple[Any, ...]] = {
    "initial_interval": (*NO_SPANS, None),
    "maximum_interval": (*NO_SPANS, None),
    "coefficient": (NAN, INFINITE, 0.5, -1, True, "2", None),
    "maximum_attempts": (-1, 1.5, True, False, "3", None, INFINITE),
    "non_retryable": ("ValueError", (5,), int, None),
    "jitter": (NAN, INFINITE, -0.1, 1.1, True, "x", None),
}


def cases(options: dict[str, tuple[Any, ...]]) -> list[Any]:
    """Each option with each of its values."""
    given = [(option, value) for option, values in options.items() for value in values]
    return [
        pytest.param(option, value, id=f"{option}={type(value).__name__ if type(value) is object else value!r:.20}")
        for option, value in given
    ]


@pytest.mark.parametrize(("option", "value"), cases(STEP))
def test_a_steps_option(option: str, value: Any) -> None:
    idempotent = {"idempotent": True} if option == "retry" else {}
    with pytest.raises(DeclarationError) as caught:
        durable.step(**{option: value, **idempotent})(charge)
    assert option in str(caught.value)
    with pytest.raises(DeclarationError, match=rf"^step shop\.charge: .*{option}"):
        StepPolicy(**{option: value, **idempotent}, subject="step shop.charge")


@pytest.mark.parametrize(("option", "value"), cases(WORKFLOW))
def test_a_workflows_option(option: str, value: Any) -> None:
    with pytest.raises(DeclarationError) as caught:
        durable.workflow(**{option: value})(charge)
    assert option in str(caught.value)
    with pytest.raises(DeclarationError, match=rf"^workflow shop\.order: .*{option}"):
        WorkflowPolicy(**{option: value}, subject="workflow shop.order")


@pytest.mark.parametrize(("option", "value"), cases(RETRY))
def test_a_retry_policys_option(option: str, value: Any) -> None:
    with pytest.raises(DeclarationError, match=f"RetryPolicy: {option}"):
        RetryPolicy(**{option: value})


def test_a_single_name_is_told_how_it_is_given() -> None:
    with pytest.raises(DeclarationError, match=r"redact='card' must be a tuple of names of parameters, such as \('card',\)"):
        durable.step(redact="card")  # type: ignore[call-overload]


@pytest.mark.parametrize("target", [5, 5.0, object(), "charge", [], b""], ids=lambda v: type(v).__name__)
def test_what_is_neither_a_task_nor_a_function(target: Any) -> None:
    for decorator in (durable.step(pivot=True), durable.workflow(name="order")):
        with pytest.raises(DeclarationError, match="it decorates a task or a function"):
            decorator(target)


def test_an_unknown_option_beside_the_function() -> None:
    with pytest.raises(DeclarationError, match=r"durable\.step has no option bad; it has codec"):
        durable.step(charge, bad=1)  # type: ignore[call-overload]
    with pytest.raises(DeclarationError, match=r"durable\.workflow has no option bad; it has amount"):
        durable.workflow(charge, bad=1)  # type: ignore[call-overload]


#: A declaration with a name that `charge` has no parameter of.
STRANGE: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (durable.step, {"redact": ("crad",)}, "redact names 'crad'"),
    (durable.step, {"ignore_arguments": ("order", "trace")}, "ignore_arguments names 'trace'"),
    (durable.step, {"key": "item-{sku}"}, "key names 'sku'"),
    (durable.step, {"key": "item-{order:{width}}"}, "key names 'width'"),
    (durable.workflow, {"id": "order-{order.id}-{number}"}, "id names 'number'"),
    (durable.workflow, {"attributes": ("customer",)}, "attributes names 'customer'"),
    (durable.workflow, {"amount": "total"}, "attributes names 'total'"),
]
strange = pytest.mark.parametrize(("decorator", "options", "says"), STRANGE, ids=[says for _, _, says in STRANGE])


@strange
def test_names_of_a_plain_function_are_checked_at_its_decorator(
    decorator: Callable[..., Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DeclarationError, match=f"{says}, which is no parameter of charge; it has order, card") as caught:
        decorator(**options)(charge)
    assert f"{__name__}.charge" in str(caught.value)


@strange
@pytest.mark.parametrize("bind", [False, True])
def test_names_of_a_task_are_checked_when_it_is_installed(
    decorator: Callable[..., Any], options: dict[str, Any], says: str, bind: bool
) -> None:
    app = Celery("named", broker="memory://", set_as_current=False)

    def bound(self: Any, order: str, card: str = "") -> None: ...

    decorator(**options)(app.task(bind=bind, name="shop.charge", shared=False)(bound if bind else charge))
    with pytest.raises(DeclarationError, match=rf"shop\.charge: {says}, which is no parameter"):
        Registry(app).refresh()
    app.close()


def test_names_of_a_function_that_is_marked_by_its_name_are_checked_when_it_is_seen() -> None:
    class Marks(Named):
        named = {f"{__name__}.charge": StepPolicy(redact=("crad",))}  # noqa: RUF012

    with pytest.raises(DeclarationError, match=r"mark\('.*charge'\): redact names 'crad'"):
        Marks().learn(f"{__name__}.charge")


def test_names_that_there_are_and_names_that_may_come_in_kwargs_are_kept() -> None:
    def open_ended(order: str, **rest: Any) -> None: ...

    durable.step(redact=("order", "card"), ignore_arguments=["trace"], key="{sku}-{order[id]:>5}")(open_ended)
    durable.step(redact={"card", "order"}, key="{order}-{card!r}")(charge)
    durable.workflow(id="{order.id}", attributes=["card"], amount="order")(charge)
    assert StepPolicy(redact=True).redact is True
    assert StepPolicy(codec="pickle", timeout=0, settle=timedelta(seconds=1), name="charge").timeout == 0.0
    assert RetryPolicy(coefficient=1, maximum_attempts=0, jitter=1, maximum_interval=0).maximum_attempts == 0


def test_a_compensation_that_nobody_can_send_is_not_dropped() -> None:
    policy = StepPolicy(compensate=functools.partial(charge, "42"), subject="step charge")
    with pytest.raises(DeclarationError, match=r"step charge: compensate=functools\.partial.* nothing that can be sent"):
        compensation_options(Named(), policy)
