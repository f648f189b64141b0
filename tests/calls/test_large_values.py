"""A value that is too large for the database is no database that went away: it is refused, or held as happened (P10)."""

from __future__ import annotations

from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred, UnserialisableValue
from durable_adapter.journal import Journal, database
from durable_adapter.model import Attention, StepStatus, new_ref
from tests.calls.conftest import Workplace
from tests.journal.counting import cost
from tests.journal.making import a_dispatch, a_function, a_run, a_step, a_workflow, statuses, the, the_run

__all__ = ["cost"]

#: Larger than a packet of MariaDB, which is 16 MB unless somebody says otherwise.
LARGE = "x" * 17_000_000
#: Fits into one, and would not if the driver wrote two bytes for each of it.
QUOTED = '"' * 9_000_000


@pytest.fixture(autouse=True)
def _limit(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes more by itself is held to the journal's own limit."""
    if journal.db.dialect_name != "mysql":
        monkeypatch.setattr(database, "LARGEST", 8_000_000)


@pytest.mark.parametrize("value", [LARGE, QUOTED], ids=["large", "quoted"])
@pytest.mark.parametrize("policy", [StepPolicy(), StepPolicy(idempotent=True)], ids=lambda policy: str(policy.safety))
def test_a_step_whose_result_is_too_large_has_happened(
    journal: Journal, at_work: Workplace, value: str, policy: StepPolicy
) -> None:
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
    with pytest.raises(Deferred, match="it happened, but its value cannot be recorded: it has"):
        at_work.step(ref, "charge", lambda: value, policy)
    row = the(journal, ref, "charge")
    assert (row.status, row.attention) == (StepStatus.HELD, Attention.VALUE_MISSING)


def test_a_transactional_step_whose_result_is_too_large_did_not_happen(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(transactional=True, retry=durable.RetryPolicy(maximum_attempts=1))
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")
    with pytest.raises(UnserialisableValue, match="it has 17000002 bytes"):
        at_work.step(ref, "charge", lambda: LARGE, policy)
    assert statuses(journal, ref)["charge"] == "failed"


def test_a_function_may_call_a_step_with_more_than_can_be_kept_and_send_none(journal: Journal, at_work: Workplace) -> None:
    ref = a_function(journal)

    @durable.step(name="count")
    def count(text: str) -> int:
        return len(text)

    assert at_work.function(ref, lambda: count(LARGE)) == len(LARGE)
    assert the(journal, ref, "count#1").arguments is None
    with pytest.raises(UnserialisableValue, match="Store it somewhere else"):
        journal.claims.plan_new(a_dispatch(ref, "mail#1", message=LARGE.encode()))


def test_a_start_that_is_too_large_is_refused_at_the_caller(journal: Journal) -> None:
    ref = new_ref()
    with pytest.raises(UnserialisableValue, match="Store it somewhere else"):
        journal.starts.start(a_workflow(ref, plan=LARGE.encode()), [a_step("charge", ref=ref)])
    assert journal.reads.run(ref) is None
    ref = a_run(journal, "charge")
    with pytest.raises(UnserialisableValue):
        journal.members.join(a_step("ship", ref=ref, message=LARGE.encode()), ["charge"])
    assert the_run(journal, ref).open_steps == 1


def test_what_every_database_takes_is_not_asked_about(journal: Journal, at_work: Workplace, cost: Any) -> None:
    ref = a_run(journal, "charge", "ship")
    found = cost(lambda: at_work.step(ref, "charge", lambda: "x" * 1_000_000))
    assert (found.commits, found.reads) == (2, 0)
