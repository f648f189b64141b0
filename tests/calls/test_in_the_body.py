"""What a body asks of its step, and what is asked of a call before its body runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import JournalUnreachable, UnserialisableValue
from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus, WorkflowRow
from durable_adapter.runtime import host as hosts
from tests.calls.conftest import CallingEngine, Workplace
from tests.journal.making import a_function, a_run, statuses, the

charged: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_charged() -> None:
    charged.clear()


@dataclass
class Order:
    id: str


@durable.step(compensate="refund")
def charge(order: Any) -> str:
    charged.append(order)
    return "ch_1"


@durable.step(compensate="refund", transactional=True)
def book(order: Any) -> str:
    charged.append(order)
    return "bk_1"


@durable.step
def ship(order: Any) -> str:
    charged.append(order)
    return "sh_1"


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("step", [charge, book])
def test_a_step_that_could_never_be_undone_is_refused_before_its_body(
    journal: Journal, at_work: Workplace, step: Callable[[Any], str]
) -> None:
    ref = a_function(journal)
    with pytest.raises(UnserialisableValue, match="was not begun: refund, which undoes it"):
        at_work.function(ref, lambda: step(Order("42")))
    assert charged == []
    assert statuses(journal, ref) == {"run": "failed", "function": "failed"}


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_compensation_with_arguments_of_its_own_needs_none_of_the_steps(
    journal: Journal, at_work: Workplace, engine: CallingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {"undo_call": {"args": [], "kwargs": {}, "immutable": True, "options": {}}}
    monkeypatch.setattr(engine, "compensation", lambda _policy: call, raising=False)
    ref = a_function(journal)
    assert at_work.function(ref, lambda: charge(Order("42"))) == "ch_1"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_step_that_nothing_undoes_may_have_any_arguments(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)
    assert at_work.function(ref, lambda: ship(Order("42"))) == "sh_1"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_body_that_asks_for_its_key_waits_for_a_journal_that_is_away(
    journal: Journal, at_work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", (0.001, 0.001))
    ref = a_run(journal, "charge", "ship")
    reached, away = journal.reads.run, [1, 2]

    def run(wanted: str) -> WorkflowRow | None:
        if away:
            away.pop()
            raise JournalUnreachable("the journal is away")
        return reached(wanted)

    monkeypatch.setattr(journal.reads, "run", run)
    key = at_work.step(ref, "charge", durable.idempotency_key, StepPolicy())
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED
    assert len(key) == 36
