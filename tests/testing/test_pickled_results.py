"""A step that asks for pickle by name works wherever its result is needed; a row that claims pickle of another step does not."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery, chain

import durable_adapter as durable
from durable_adapter.declare.registry import DECLARED
from durable_adapter.errors import UnknownCodec, ValueUnreadable
from durable_adapter.journal.schema import step
from durable_adapter.runtime.plans import arguments_of, recorded, undo_call
from durable_adapter.testing import TestJournal


class Receipt:
    """What JSON cannot keep."""

    def __init__(self, number: str) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Receipt) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)


class Till:
    """An app that hands receipts around."""

    def __init__(self) -> None:
        self.app = app = Celery("till", set_as_current=False)
        app.conf.update(
            task_serializer="pickle", result_serializer="pickle", accept_content=["pickle", "json"], task_always_eager=True
        )
        self.effects: list[Any] = []
        effects = self.effects

        @app.task(name="till.refund", shared=False)
        def refund(receipt: Receipt, order: str) -> None:
            effects.append(("refund", receipt.number, order))

        @durable.step(codec="pickle", compensate=refund)
        @app.task(name="till.charge", shared=False)
        def charge(order: str) -> Receipt:
            effects.append("charge")
            return Receipt(order)

        @durable.step
        @app.task(name="till.mail", shared=False)
        def mail(receipt: Receipt) -> str:
            effects.append(("mail", receipt.number))
            if self.breaks:
                raise ValueError("no paper")
            return receipt.number

        @durable.step(codec="pickle", compensate=refund, name="till in place")
        def in_place(order: str) -> Receipt:
            return Receipt(order)

        @durable.workflow
        @app.task(name="till.order", shared=False)
        def order(number: str) -> list[str]:
            here = in_place(number)
            sent = charge.delay(number).get()
            durable.sleep(60)
            if self.breaks:
                raise ValueError("no paper")
            return [here.number, sent.number]

        self.breaks = False
        self.charge, self.mail, self.order = charge, mail, order


@pytest.fixture
def till() -> Iterator[Till]:
    before = dict(DECLARED._entries)
    yield Till()
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


@pytest.fixture
def durable_app(till: Till) -> Any:
    return till.app


def test_in_front_of_a_chains_next_member(durable_journal: TestJournal, till: Till) -> None:
    assert chain(till.charge.s("42"), till.mail.s()).apply_async().get() == "42"
    assert durable_journal.workflows()[0].step("charge").value == Receipt("42")


def test_with_a_compensation(durable_journal: TestJournal, till: Till) -> None:
    till.breaks = True
    result = chain(till.charge.s("42"), till.mail.s()).apply_async()
    assert durable_journal.workflow(result).status == "compensated"
    assert till.effects == ["charge", ("mail", "42"), ("refund", "42", "42")]


def test_dispatched_and_awaited_and_in_place_in_a_function(durable_journal: TestJournal, till: Till) -> None:
    result = till.order.delay("42")
    durable_journal.advance(60)
    assert result.get() == ["42", "42"]
    assert durable_journal.workflow(result).step("till in place").value == Receipt("42")


def test_with_compensations_in_a_function(durable_journal: TestJournal, till: Till) -> None:
    till.breaks = True
    result = till.order.delay("42")
    durable_journal.advance(60)
    assert durable_journal.workflow(result).status == "compensated"
    assert till.effects == ["charge", ("refund", "42", "42"), ("refund", "42", "42")]


def test_when_it_is_sent_again(durable_journal: TestJournal, till: Till) -> None:
    chain(till.charge.s("42"), till.mail.s()).apply_async()
    here = durable_journal._here
    (run,) = here.journal.reads.listed()
    run, steps = here.journal.reads.run(run.ref), here.journal.reads.steps(run.ref)  # type: ignore[assignment]
    assert arguments_of(here.drivers[0].binding.registry, run, steps[1], steps) == ([Receipt("42")], {})


def test_a_row_that_claims_pickle_of_a_step_that_did_not_ask_for_it_is_refused(durable_journal: TestJournal, till: Till) -> None:
    chain(till.charge.s("42"), till.mail.s()).apply_async()
    here = durable_journal._here
    evil = {"outcome": pickle.dumps("evil"), "outcome_codec": "pickle/1", "compensation": "till.refund"}
    here.journal.db.transaction(lambda conn: conn.execute(sa.update(step).where(step.c.name == "till.mail").values(**evil)))
    (run,) = here.journal.reads.listed()
    steps = here.journal.reads.steps(run.ref)
    for read in (
        lambda: recorded(here.drivers[0].binding.registry, steps[1]),
        lambda: undo_call(here.drivers[0].binding.registry, here.journal.reads.run(run.ref), steps[1], steps),  # type: ignore[arg-type]
        durable_journal.workflows,
    ):
        with pytest.raises((UnknownCodec, ValueUnreadable), match="allow it by name"):
            read()
