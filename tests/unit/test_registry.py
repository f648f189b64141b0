"""Declarations resolved against an app's own tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, shared_task

import durable_adapter as durable
from durable_adapter.celery.registry import Registry
from durable_adapter.declare.registry import DECLARED
from durable_adapter.errors import DeclarationError
from durable_adapter.runtime.marked import PROTECTED, Named


@pytest.fixture(autouse=True)
def declarations() -> Iterator[None]:
    """Forgets afterwards what a test declared."""
    before = dict(DECLARED._entries)
    DECLARED._entries.clear()
    yield
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app, the current one."""
    made = Celery("registry", broker="memory://")
    made.set_current()
    yield made
    made.close()


def names(registry: Registry) -> list[str]:
    """The marked tasks of these tests. Celery gives an app what other tests of this process have shared, too."""
    return [found.name for found in registry.refresh() if not found.name.startswith("tests.")]


def task(app: Celery, name: str, **options: Any) -> Any:
    @app.task(name=name, shared=False, **options)
    def function(*args: Any) -> None: ...

    return function


def test_lazy_proxies_are_resolved_when_it_looks_and_not_before(app: Celery) -> None:
    app.conf.task_always_eager = False
    proxy = task(app, "shop.charge")
    durable.step(idempotent=True)(proxy)
    assert not app.finalized
    registry = Registry(app)
    assert names(registry) == ["shop.charge"]
    assert registry.policy("shop.charge").idempotent is True


def test_a_step_with_a_name_of_its_own_is_found_by_the_tasks_name(app: Celery) -> None:
    durable.step(name="charge the customer")(task(app, "shop.charge"))
    registry = Registry(app)
    assert names(registry) == ["shop.charge"]
    assert registry.policy("shop.charge").name == "charge the customer"


def test_marks_on_the_function_below_the_task_are_found(app: Celery) -> None:
    @app.task(name="shop.charge", shared=False)
    @durable.step(pivot=True)
    def charge() -> None: ...

    @app.task(name="shop.fulfil", shared=False)
    @durable.workflow(id="order-{order}")
    def fulfil(order: str) -> None: ...

    app.finalize()
    registry = Registry(app)
    assert names(registry) == ["shop.charge", "shop.fulfil"]
    assert registry.policy("shop.charge").pivot
    assert registry.workflows["shop.fulfil"].id == "order-{order}"


def test_tasks_of_another_app_are_not_this_ones(app: Celery) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)
    durable.step(task(other, "other.charge"))
    registry = Registry(app)
    assert names(registry) == []
    assert not registry.is_marked("other.charge")


def test_shared_tasks_are_every_apps(app: Celery) -> None:
    @durable.step
    @shared_task(name="shared.charge")
    def charge() -> None: ...

    registry = Registry(app)
    assert names(registry) == ["shared.charge"]
    assert app.tasks["shared.charge"].app is app


def test_it_is_stale_after_a_new_declaration_and_after_a_new_task(app: Celery) -> None:
    registry = Registry(app)
    registry.refresh()
    assert not registry.is_stale
    late = task(app, "shop.late")
    durable.step(late)
    assert registry.is_stale
    registry.refresh()
    assert registry.is_marked("shop.late")
    assert not registry.is_stale


def test_a_compensation_is_a_protected_step_also_where_it_is_not_marked(app: Celery) -> None:
    refund = task(app, "shop.refund")
    for number, given in enumerate([refund, refund.s("x"), refund.si(), "shop.refund"]):
        durable.step(compensate=given)(task(app, f"shop.charge{number}"))
    registry = Registry(app)
    registry.refresh()
    assert registry.compensations == {"shop.refund"}
    assert registry.is_marked("shop.refund")
    assert registry.policy("shop.refund") is PROTECTED


@pytest.mark.parametrize(
    ("compensate", "what"),
    [
        ("shop.nowhere", r"compensate='shop\.nowhere' is no task of this app"),
        (lambda: None, r"compensate=a plain function is no task of this app"),
        (print, r"compensate=a plain function is no task of this app"),
    ],
    ids=["unknown name", "plain function", "built in"],
)
def test_a_compensation_that_is_no_task_is_refused_with_what_to_do(app: Celery, compensate: Any, what: str) -> None:
    durable.step(compensate=compensate)(task(app, "shop.charge"))
    registry = Registry(app)
    for _ in range(2):  # not only the first time that somebody looks
        with pytest.raises(DeclarationError, match=f"step shop.charge: {what}.*decorate it with @app.task"):
            registry.refresh()
        assert registry.is_stale


@pytest.mark.parametrize("target", [print, type("Thing", (), {"name": "thing", "__call__": print})()], ids=["built in", "named"])
def test_a_declaration_about_something_that_is_no_task_is_refused(app: Celery, target: Any) -> None:
    durable.step(target)
    with pytest.raises(DeclarationError, match=r"which is neither a function nor a Celery task"):
        Registry(app).refresh()


def test_a_step_is_known_by_the_name_that_it_has_in_the_journal(app: Celery, tmp_path: Any, monkeypatch: Any) -> None:
    """A member has its task's name, a call in place its own; RQ's functions are imported for it."""
    charge = durable.step(codec="pickle", name="charge")(task(app, "shop.charge"))

    @durable.step(codec="pickle")
    def pack() -> None: ...

    assert charge is not None
    registry = Registry(app)
    registry.refresh()
    for name in ("shop.charge", "charge", f"{__name__}.{pack.__qualname__}"):
        policy = registry.declared(name)
        assert policy is not None, name
        assert policy.codec == "pickle"
    assert registry.declared("shop.unknown") is None

    (tmp_path / "somewhere_else.py").write_text(
        "import durable_adapter as durable\n@durable.step(codec='pickle')\ndef ship(): ...\ndef plain(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    named = Named()
    policy = named.declared("somewhere_else.ship")
    assert policy is not None
    assert policy.codec == "pickle"
    assert named.declared("somewhere_else.plain") is None
