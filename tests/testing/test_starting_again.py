"""A caller that was told of an error makes its start again, under the same id, and it is one start."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery, chain

import durable_adapter as durable
from durable_adapter.testing import TestJournal

charged: list[str] = []


@pytest.fixture
def app() -> Celery:
    charged.clear()
    return Celery("starting again", broker="memory://", backend="cache+memory://", set_as_current=False)


@pytest.fixture
def durable_app(app: Celery) -> Celery:
    return app


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_start_that_the_broker_answered_with_an_error_is_made_again(
    app: Celery, durable_journal: TestJournal, monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    @durable.step(idempotent=idempotent)
    @app.task(name="charge again", shared=False)
    def charge(order: str) -> str:
        charged.append(durable.idempotency_key())
        return f"ch_{order}"

    @durable.step
    @app.task(name="ship again", shared=False)
    def ship(paid: str) -> str:
        return f"sh_{paid}"

    binding = durable_journal._here.drivers[0].binding
    sends, failures = binding.send_task, [ConnectionError("the broker is away")]

    def original(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return sends(*args, **options)

    monkeypatch.setattr(binding, "send_task", original)
    with pytest.raises(ConnectionError):
        durable.start("order-42", chain(charge.s("42"), ship.s()), app=app)
    result = durable.start("order-42", chain(charge.s("42"), ship.s()), app=app)
    durable_journal.sweep()
    assert result.get() == "sh_ch_42"
    assert durable_journal.workflow("order-42").status == "succeeded"
    assert len(charged) == 1
