"""Everything that needs a person is told once: one ERROR line with its facts, and one call of `durable.on_attention`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

import durable_adapter as durable
from durable_adapter.journal import Journal
from durable_adapter.model import Alert, Attention, Cause, Effect, Safety, StepStatus, WorkflowStatus
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.alerts import NeedsAttention
from tests.calls.conftest import Workplace
from tests.journal.conftest import OpenJournal
from tests.journal.interleaving import together
from tests.journal.making import (
    NOTHING,
    ONE,
    TIMED_OUT,
    TWO,
    a_function,
    a_run,
    a_step,
    change,
    claim,
    fail,
    held,
    in_doubt,
    statuses,
    succeed,
    the,
    the_run,
)

MONEY = {"id": "order-42", "declared": True, "attributes": {"total": "19.90"}, "amount": "total"}


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers that a module of another test connects when it is imported are not told."""
    for signal in (durable.on_held, durable.on_attention):
        monkeypatch.setattr(signal, "_receivers", [])


@pytest.fixture
def troubles(at_work: Workplace) -> Iterator[list[NeedsAttention]]:
    """Every call of `on_attention` meanwhile."""
    found: list[NeedsAttention] = []
    durable.on_attention(found.append)
    yield found
    durable.on_attention.disconnect(found.append)


def a_held_step(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    held(journal, ref, "charge")
    return ref


def a_failure_with_its_effect_unknown(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    fail(journal, ref, "charge", Effect.UNKNOWN)
    return ref


def an_undo_that_failed(journal: Journal) -> str:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship", **MONEY)
    succeed(journal, ref, "charge")
    journal.undo.begin(ref, who="ann", why="the customer withdrew")
    fail(journal, ref, "undo:charge", fails_run=False)
    return ref


def an_undo_whose_effect_is_unknown(journal: Journal) -> str:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship", **MONEY)
    succeed(journal, ref, "charge")
    journal.undo.begin(ref, who="ann", why="the customer withdrew")
    fail(journal, ref, "undo:charge", Effect.UNKNOWN, fails_run=False)
    return ref


def a_drift(journal: Journal) -> str:
    ref = a_function(journal, **MONEY)
    journal.doubts.hold_drift(the(journal, ref, "function"), "the code calls something else")
    return ref


def a_value_that_is_missing(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    token = claim(journal, ref, "charge")
    journal.ends.happened_without_value(the(journal, ref, "charge"), token, "it cannot be written down", "w1")
    return ref


def a_second_success(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    first = in_doubt(journal, ref, "charge")
    journal.verdicts.did_not_happen(first, who="ann", why="asked")
    succeed(journal, ref, "charge", outcome=ONE)
    journal.ends.late(ref, "charge", first.token or "", TWO, "w1")
    return ref


def a_chain_at_an_unmarked_task(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    journal.runs.mark(ref, Attention.UNMARKED.value)
    return ref


def a_callback_that_fails(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    succeed(journal, ref, "charge")
    journal.doubts.raise_attention(ref, "charge", Attention.CALLBACK, "it fails behind it")
    return ref


def a_task_that_was_revoked(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship", **MONEY)
    journal.engine_ends.end(the(journal, ref, "charge"), "it was revoked")
    return ref


def an_attempt_that_is_given_up(journal: Journal) -> str:
    """It waited to be tried again when its run was cancelled, and may have had its effect."""
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, options={"window": 10**12}), "ship", **MONEY)
    token = claim(journal, ref, "charge")
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, TIMED_OUT, "timed out", effect=Effect.UNKNOWN)
    journal.runs.cancel(ref, who="ann", why="a test order")
    return ref


SITUATIONS: dict[Alert, Callable[[Journal], str]] = {
    Alert.STEP_HELD: a_held_step,
    Alert.EFFECT_UNKNOWN: a_failure_with_its_effect_unknown,
    Alert.UNDO_FAILED: an_undo_that_failed,
    Alert.WORKFLOW_DRIFTED: a_drift,
    Alert.VALUE_MISSING: a_value_that_is_missing,
    Alert.MAY_HAVE_HAPPENED_TWICE: a_second_success,
    Alert.STOPPED_AT_UNMARKED: a_chain_at_an_unmarked_task,
    Alert.CALLBACK_FAILED: a_callback_that_fails,
    Alert.ENDED_BY_ENGINE: a_task_that_was_revoked,
}

#: The stable words of those of them that have a reason of their own.
REASONS = {
    Alert.STEP_HELD: Cause.WORKER_DIED,
    Alert.WORKFLOW_DRIFTED: Cause.DRIFT,
    Alert.VALUE_MISSING: Cause.VALUE_MISSING,
    Alert.ENDED_BY_ENGINE: Cause.ENDED_BY_ENGINE,
}


def test_every_trouble_has_a_situation() -> None:
    assert set(SITUATIONS) == set(Alert)


@pytest.mark.parametrize(
    ("alert", "situation"),
    [
        *SITUATIONS.items(),
        (Alert.UNDO_FAILED, an_undo_whose_effect_is_unknown),
        (Alert.EFFECT_UNKNOWN, an_attempt_that_is_given_up),
    ],
)
def test_what_needs_a_person_is_told_once_with_its_facts(
    journal: Journal,
    troubles: list[NeedsAttention],
    caplog: pytest.LogCaptureFixture,
    alert: Alert,
    situation: Callable[[Journal], str],
) -> None:  # fmt: skip
    ref = situation(journal)
    (told,) = troubles
    assert (told.alert, told.workflow, told.run, told.amount) == (alert.value, "order-42", ref, "19.90")
    assert told.command == "durable-adapter explain -- order-42"
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR and r.name == "durable_adapter"]
    assert line.startswith(f"{alert.value} workflow=order-42 run={ref} name=order namespace=default ")
    assert told.reason == REASONS.get(alert)
    assert (f" amount=19.90 reason={told.reason} why=" if told.reason else " amount=19.90 why=") in line
    if told.key is not None:
        assert f" step={told.step} key={told.key} " in line


def test_a_trouble_is_told_after_its_commit(journal: Journal, at_work: Workplace) -> None:
    seen: list[str] = []

    def look(told: NeedsAttention) -> None:
        seen.append(statuses(journal, told.run)["charge"])

    durable.on_attention.connect(look)
    try:
        a_held_step(journal)
    finally:
        durable.on_attention.disconnect(look)
    assert seen == ["held"]


def test_what_is_rolled_back_is_not_told(journal: Journal, troubles: list[NeedsAttention]) -> None:
    ref = a_run(journal, "charge", "ship")
    row = in_doubt(journal, ref, "charge")

    class Stopped(Exception):
        pass

    def act() -> None:
        assert journal.doubts.hold(row, "nobody can tell")
        raise Stopped

    with pytest.raises(Stopped):
        journal.orders.carry_out(ref, act, lambda _: None)
    assert (statuses(journal, ref)["charge"], troubles) == ("in_doubt", [])
    held_after = journal.doubts.hold(row, "nobody can tell")
    assert (held_after, [t.alert for t in troubles]) == (True, ["step_held"])


def test_two_processes_that_find_the_same_tell_it_once(
    journal: Journal, elsewhere: OpenJournal, troubles: list[NeedsAttention]
) -> None:
    from durable_adapter.runtime import alerts

    ref = a_run(journal, "charge", "ship")
    row = in_doubt(journal, ref, "charge")
    other = elsewhere()
    alerts.listen(other)
    together(*[lambda journal=each: journal.doubts.hold(row, "nobody can tell") for each in (journal, other)])  # type: ignore[misc]
    assert [t.alert for t in troubles] == ["step_held"]


def test_a_sweep_that_finds_a_trouble_again_does_not_tell_it_again(
    journal: Journal, sweeper: Sweeper, troubles: list[NeedsAttention]
) -> None:
    for situation in SITUATIONS.values():
        change(journal, situation(journal), id=situation.__name__)
    count = len(troubles)
    for _ in range(3):
        sweeper.sweep(journal.time() + 3600 * 1_000_000)
    told = [(t.alert, t.run, t.key) for t in troubles]
    assert len(told) == len(set(told)) >= count


def test_a_receiver_that_raises_disturbs_nothing(
    journal: Journal, troubles: list[NeedsAttention], caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(_told: NeedsAttention) -> None:
        raise RuntimeError("the pager is away")

    durable.on_attention.connect(breaks)
    durable.on_attention.connect(troubles.append)
    try:
        ref = a_held_step(journal)
    finally:
        durable.on_attention.disconnect(breaks)
    assert the(journal, ref, "charge").status is StepStatus.HELD
    assert [t.alert for t in troubles] == ["step_held"]
    assert "receiver_failed signal=on_attention" in caplog.text


def test_a_hostile_reason_is_one_line_and_forges_no_fact(
    journal: Journal, troubles: list[NeedsAttention], caplog: pytest.LogCaptureFixture
) -> None:
    ref = a_run(journal, "charge", "ship", **MONEY)
    row = in_doubt(journal, ref, "charge")
    assert journal.doubts.hold(row, 'no answer\n\x1b]52;c;x\x07 step_held workflow=order-1 command="rm -r"')
    (line,) = [r.getMessage() for r in caplog.records if r.name == "durable_adapter" and r.levelno == logging.ERROR]
    assert line.isprintable()
    assert line.count('command="') == 1
    assert len(troubles) == 1


def test_an_undo_that_succeeds_after_all_is_no_trouble(journal: Journal, troubles: list[NeedsAttention]) -> None:
    ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
    succeed(journal, ref, "charge")
    journal.undo.begin(ref, who="ann", why="the customer withdrew")
    assert journal.ends.succeed_undo(ref, "undo:charge", claim(journal, ref, "undo:charge"), "charge", NOTHING).recorded
    assert (the_run(journal, ref).status, troubles) == (WorkflowStatus.COMPENSATED, [])
