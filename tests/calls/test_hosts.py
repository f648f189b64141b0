"""A worker's process as the journal sees it: it begins nothing that it could not beat for, and nothing under a dead row."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.errors import Deferred, JournalUnreachable
from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus
from durable_adapter.runtime.host import MISSED, Host
from tests.calls.conftest import CallingEngine, Workplace
from tests.journal.counting import cost
from tests.journal.making import a_function, a_run, a_step, the

__all__ = ["cost"]

STALE = 60.0
ONCE = RetryPolicy(maximum_attempts=1)


@pytest.fixture
def beating(journal: Journal, engine: CallingEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A process that may be declared dead after a minute; its own thread never beats."""
    monkeypatch.setattr(Host, "_beat_on", lambda _self, _stop: None)
    host = Host(journal, engine, stale=STALE, parent="p", code_version="v7")  # type: ignore[arg-type]
    _ = host.worker
    yield Workplace(journal, host, engine)
    host.stop()


def silent_for(at_work: Workplace, seconds: float) -> None:
    """The last beat of this process was that long ago."""
    at_work.host._beaten -= seconds


@pytest.mark.parametrize("where", ["a canvas", "a function"])
def test_one_that_could_not_beat_for_half_of_stale_begins_nothing_new(
    journal: Journal, beating: Workplace, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    ref = a_run(journal, "charge", "ship") if where == "a canvas" else a_function(journal)
    silent_for(beating, STALE / 2 + 1)
    beating.host.is_stopping = lambda: True  # else it would wait for the journal

    def away(*_: Any) -> bool:
        raise JournalUnreachable("away")

    monkeypatch.setattr(journal.workers, "beat", away)
    with pytest.raises(Deferred, match="the journal is away"):
        if where == "a canvas":
            beating.step(ref, "charge", lambda: 1)
        else:
            beating.function(ref, beating.counted("charge", lambda: 1))
    assert beating.ran == {}
    assert journal.reads.steps(ref)[0].status is StepStatus.PLANNED


def test_one_that_was_silent_for_long_beats_before_it_begins(journal: Journal, beating: Workplace, cost: Any) -> None:
    ref = a_run(journal, "charge", "ship")
    silent_for(beating, MISSED * beating.host.beat_every - 1)
    assert cost(lambda: beating.step(ref, "charge", lambda: 1)).commits == 2, "not yet"
    silent_for(beating, 2)
    found = cost(lambda: beating.step(ref, "ship", lambda: 1))
    assert found.commits == 3
    assert "durable_worker" in found.statements[0]


@pytest.mark.parametrize("policy", [StepPolicy(), StepPolicy(transactional=True)], ids=["protected", "transactional"])
@pytest.mark.parametrize("silent", [0.0, STALE])
def test_one_that_finds_itself_dead_registers_anew_and_begins_nothing_under_the_old_row(
    journal: Journal, beating: Workplace, policy: StepPolicy, silent: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether it notices by its beat, or only because its claim takes nothing."""
    caplog.set_level(logging.WARNING)
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
    old = beating.host.worker
    row = journal.workers.get(old)
    assert row is not None
    assert journal.workers.stood_still(old, row.beats, "it was frozen")
    silent_for(beating, silent)
    assert beating.step(ref, "charge", lambda: 1, policy) == 1
    new = beating.host.worker
    assert new != old
    assert (the(journal, ref, "charge").worker, beating.ran) == (new, {"charge": 1})
    assert "declared dead in the journal; it registers anew" in caplog.text


def test_its_row_says_which_version_of_the_code_it_runs(journal: Journal, beating: Workplace) -> None:
    row = journal.workers.get(beating.host.worker)
    assert row is not None
    assert row.code_version == "v7"


@pytest.mark.parametrize("policy", [StepPolicy(), StepPolicy(idempotent=True), StepPolicy(transactional=True)], ids=str)
def test_the_providers_name_for_what_a_step_did_is_kept(journal: Journal, at_work: Workplace, policy: StepPolicy) -> None:
    def body() -> int:
        durable.external_reference("ch_1")
        return 1

    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
    assert at_work.step(ref, "charge", body, policy) == 1
    assert the(journal, ref, "charge").reference == "ch_1"


def test_the_providers_name_is_kept_although_the_step_fails_and_not_of_a_transaction_that_was_rolled_back(
    journal: Journal, at_work: Workplace
) -> None:
    def body() -> int:
        durable.external_reference("ch_1")
        raise ValueError("no")

    for policy, kept in ((StepPolicy(), "ch_1"), (StepPolicy(transactional=True, retry=ONCE), None)):
        ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
        with pytest.raises(ValueError, match="no"):
            at_work.step(ref, "charge", body, policy)
        assert the(journal, ref, "charge").reference == kept


def test_the_providers_name_is_kept_of_a_functions_calls(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    @durable.step(name="protected")
    def protected() -> None:
        durable.external_reference("ch_1")

    @durable.step(name="booked", transactional=True)
    def booked() -> None:
        durable.external_reference("bk_1")

    @durable.step(name="harmless", idempotent=True)
    def harmless() -> None:
        durable.external_reference("hl_1")

    @durable.step(name="declined", idempotent=True, retry=ONCE)
    def declined() -> None:
        durable.external_reference("dc_1")
        raise ValueError("no")

    def order() -> None:
        protected()
        booked()
        harmless()
        with contextlib.suppress(ValueError):
            declined()

    at_work.function(ref, order)
    assert [s.reference for s in journal.reads.steps(ref)] == [None, "ch_1", "bk_1", "hl_1", "dc_1"]
