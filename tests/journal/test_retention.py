"""Retention forgets what ended long ago, keeps a tombstone for declared ids, and never what a person has to look at."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import Attention, Effect, WorkflowStatus
from tests.journal.interleaving import Interleaving
from tests.journal.making import (
    DECLINED,
    MINUTE,
    TWO,
    a_function,
    a_run,
    change,
    fail,
    held,
    succeed,
    the,
    the_run,
)

DAY = 86_400_000_000


def ended(journal: Journal, **given: object) -> str:
    ref = a_run(journal, "one", **given)
    succeed(journal, ref, "one", completes_run=True)
    return ref


def test_a_run_without_an_id_of_its_own_is_forgotten_whole(journal: Journal) -> None:
    ref = ended(journal)

    forgotten = journal.retention.forget(journal.time() + DAY)

    assert (forgotten.runs, forgotten.tombstones) == (1, 0)
    assert journal.reads.run(ref) is None
    assert journal.reads.steps(ref) == []


def test_a_declared_id_leaves_a_tombstone_without_values(journal: Journal) -> None:
    ref = ended(journal, id="order-42", declared=True, fingerprint="abc")

    assert journal.retention.forget(journal.time() + DAY).tombstones == 1

    left = the_run(journal, ref)
    assert (left.id, left.status, left.fingerprint) == ("order-42", WorkflowStatus.SUCCEEDED, "abc")
    assert (left.plan, left.outcome, left.arguments, left.attributes) == (None, None, None, {})
    assert left.pruned_at is not None
    assert journal.reads.steps(ref) == []
    assert journal.retention.forget(journal.time() + DAY).total == 0, "a tombstone is not forgotten again"


def test_what_ended_later_or_has_not_ended_is_kept(journal: Journal) -> None:
    recent, unfinished = ended(journal), a_run(journal, "one")

    assert journal.retention.forget(journal.time() - DAY).total == 0
    assert journal.retention.forget(journal.time() + DAY).runs == 1

    assert journal.reads.run(recent) is None
    assert journal.reads.run(unfinished) is not None


def test_what_a_person_has_not_looked_at_is_never_forgotten(journal: Journal) -> None:
    unknown = a_run(journal, "one")
    fail(journal, unknown, "one", Effect.UNKNOWN, fails_run=True)
    waiting = a_run(journal, "one")
    held(journal, waiting, "one")

    assert journal.retention.forget(journal.time() + DAY).total == 0

    assert journal.reads.run(unknown) is not None
    assert journal.reads.run(waiting) is not None


def test_a_batch_is_bounded_and_the_oldest_end_goes_first(journal: Journal) -> None:
    refs = [ended(journal) for _ in range(3)]

    assert journal.retention.forget(journal.time() + DAY, limit=2).runs == 2

    assert [journal.reads.run(ref) is None for ref in refs] == [True, True, False]


@pytest.mark.parametrize("declared", [True, False])
def test_what_another_run_may_start_again_outlasts_that(journal: Journal, declared: bool) -> None:
    """A start from inside a function is the same start on each of its wakes, because what it started is there."""
    parent = a_function(journal)
    child = a_run(journal, "charge", parent=parent, declared=declared)
    succeed(journal, child, "charge", completes_run=True)
    at = journal.time() + MINUTE
    assert journal.retention.forget(at).total == 0, "its parent runs"
    journal.ends.fail(the(journal, parent, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    change(journal, parent, ended_at=at + MINUTE)
    assert journal.retention.forget(at).total == 0, "a person may take its parent up again"
    change(journal, parent, status=WorkflowStatus.SUCCEEDED.value)
    assert journal.retention.forget(at).total == 1
    assert journal.reads.run(parent) is not None


def test_what_a_failed_run_started_is_forgotten_after_that(journal: Journal) -> None:
    parent = a_function(journal)
    child = a_run(journal, "charge", parent=parent)
    succeed(journal, child, "charge", completes_run=True)
    journal.ends.fail(the(journal, parent, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    at = journal.time() + MINUTE
    assert [journal.retention.forget(at).total for _ in range(3)] == [1, 1, 0]
    assert journal.reads.run(child) is None


def test_a_finding_that_comes_while_its_run_is_about_to_be_forgotten_keeps_it(journal: Journal, meanwhile: Interleaving) -> None:
    ref, other = a_run(journal, "charge"), a_run(journal, "charge")
    for found in (ref, other):
        succeed(journal, found, "charge", completes_run=True)
    at = journal.time() + MINUTE
    forgetting = meanwhile.stopped_after("LIMIT", lambda journal: journal.retention.forget(at))
    journal.ends.late(ref, "charge", "stale", TWO, "w9")
    assert forgetting.result().total == 1
    assert the(journal, ref, "charge").marks == [Attention.TWICE]
    assert journal.reads.run(other) is None
