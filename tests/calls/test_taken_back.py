"""A start that could not be sent is taken back, also where the broker has delivered it all the same (P5)."""

from __future__ import annotations

import pytest

import durable_adapter as durable
from durable_adapter.errors import Left
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, StepRow, StepStatus, WorkflowRow, WorkflowStatus, new_ref
from durable_adapter.policy import StepPolicy
from durable_adapter.runtime.starting import AlreadyStarted, start_run, started_before, starting
from tests.calls.conftest import CallingEngine, Workplace
from tests.journal.making import a_run, a_step, a_workflow, fail, statuses, succeed, the, the_run

IDEMPOTENT = StepPolicy(idempotent=True)
OPTIONS = {"counts": True, "window": IDEMPOTENT.window}


class Lost(Exception):
    """The broker's answer was lost."""


def a_start(ref: str, policy: StepPolicy = IDEMPOTENT) -> tuple[WorkflowRow, list[StepRow]]:
    """What a caller sends under the id that the business knows."""
    first = a_step("charge", ref=ref, safety=policy.safety, compensation="refund")
    steps = [first, a_step("ship", ref=ref, position=1, options=OPTIONS)]
    return a_workflow(ref, id="order-42", declared=True, fingerprint="f"), steps


def sent_and_lost(at_work: Workplace, policy: StepPolicy) -> str:
    """A start whose publication raises."""
    ref = new_ref()
    run, steps = a_start(ref, policy)

    def send() -> None:
        raise Lost

    with pytest.raises(Lost):
        start_run(at_work.host, run, steps, send=send, inside=False)
    return ref


def test_a_first_attempt_that_runs_meanwhile_is_recorded(journal: Journal, at_work: Workplace, engine: CallingEngine) -> None:
    ref = new_ref()
    run, steps = a_start(ref)
    keys: list[str] = []

    def charge() -> str:
        keys.append(durable.idempotency_key())
        journal.runs.forget(ref)  # what the caller's own process does, which heard of an error
        return "ch_1"

    assert journal.runs.start(run, steps)
    assert at_work.step(ref, "charge", charge, IDEMPOTENT) == "ch_1"
    row = the(journal, ref, "charge")
    assert (row.status, row.attention) == (StepStatus.SUCCEEDED, Attention.TWICE), "somebody may have made the start anew"
    assert statuses(journal, ref) == {"run": "cancelled", "charge": "succeeded", "ship": "cancelled"}

    with starting("order-42") as declared, pytest.raises(AlreadyStarted):
        started_before(at_work.host, a_start(new_ref())[0])
    assert declared.existing is not None
    assert declared.existing.ref == ref
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "planned"}
    assert the(journal, ref, "charge").attention is None
    assert the(journal, ref, "charge").look_at is not None, "its memo sends what follows"
    assert at_work.step(ref, "charge", charge, IDEMPOTENT) == "ch_1"
    assert len(keys) == 1


def test_the_same_start_made_again_has_the_same_keys(journal: Journal, at_work: Workplace, engine: CallingEngine) -> None:
    ref = sent_and_lost(at_work, IDEMPOTENT)
    assert statuses(journal, ref) == {"run": "cancelled", "charge": "cancelled", "ship": "cancelled"}
    with pytest.raises(Left, match="cancelled"):
        at_work.step(ref, "charge", durable.idempotency_key, IDEMPOTENT)
    assert started_before(at_work.host, a_start(new_ref())[0]).ref == ref
    assert engine.sent == ["charge"]
    assert the_run(journal, ref).waiting_for is None
    assert at_work.step(ref, "charge", durable.idempotency_key, IDEMPOTENT)
    assert started_before(at_work.host, a_start(new_ref())[0]).ref == ref
    assert engine.sent == ["charge"], "once"


def test_one_that_cannot_be_sent_again_either_is_taken_back_again(
    journal: Journal, at_work: Workplace, engine: CallingEngine
) -> None:
    ref = sent_and_lost(at_work, IDEMPOTENT)
    engine.fails = True
    with pytest.raises(Exception, match="away"):
        started_before(at_work.host, a_start(new_ref())[0])
    assert statuses(journal, ref)["run"] == "cancelled"
    engine.fails = False
    started_before(at_work.host, a_start(new_ref())[0])
    assert statuses(journal, ref)["run"] == "running"


@pytest.mark.parametrize("policy", [StepPolicy(), StepPolicy(transactional=True)], ids=lambda policy: str(policy.safety))
def test_a_start_that_cannot_have_begun_is_forgotten_and_its_id_is_free(
    journal: Journal, at_work: Workplace, policy: StepPolicy
) -> None:
    ref = sent_and_lost(at_work, policy)
    assert journal.reads.run(ref) is None
    with pytest.raises(Left, match="its start was rolled back"):
        at_work.step(ref, "charge", lambda: 1, policy)
    again = new_ref()
    run, steps = a_start(again, policy)
    assert start_run(at_work.host, run, steps, send=lambda: "sent", inside=False) == (True, "sent")


def test_what_a_person_cancelled_is_not_started_again(journal: Journal, at_work: Workplace, engine: CallingEngine) -> None:
    ref = new_ref()
    run, steps = a_start(ref)
    assert journal.runs.start(run, steps)
    journal.runs.cancel(ref, who="ann", why="a mistake")
    assert started_before(at_work.host, a_start(new_ref())[0]).ref == ref
    assert (statuses(journal, ref)["run"], engine.sent) == ("cancelled", [])


class TestAMember:
    """A member whose message could not be sent, and was delivered all the same."""

    def joined(self, journal: Journal, policy: StepPolicy = IDEMPOTENT) -> str:
        ref = a_run(journal, a_step("charge", options={"counts": True}))
        succeed(journal, ref, "charge", last=True)
        row = self.member(ref, policy)
        assert journal.runs.join(row, ["charge"]) is StepStatus.PLANNED
        return ref

    def member(self, ref: str, policy: StepPolicy = IDEMPOTENT) -> StepRow:
        return a_step("ship", ref=ref, safety=policy.safety, options={"window": policy.window})

    def test_a_first_attempt_that_runs_meanwhile_is_recorded_and_shown(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.joined(journal)

        def ship() -> str:
            journal.runs.leave(ref, "ship")  # what the publisher does, which heard of an error
            assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "cancelled"}
            return "sent"

        assert at_work.step(ref, "ship", ship, IDEMPOTENT) == "sent"
        row = the(journal, ref, "ship")
        assert (row.status, row.attention) == (StepStatus.SUCCEEDED, Attention.TWICE), "it may have been sent anew by another id"
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "succeeded"}

    def test_one_that_a_claim_precedes_is_forgotten(self, journal: Journal) -> None:
        ref = self.joined(journal, StepPolicy())
        journal.runs.leave(ref, "ship")
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded"}

    def test_it_joins_again_under_its_own_key(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.joined(journal)
        journal.runs.leave(ref, "ship")
        assert journal.runs.join(self.member(ref), ["charge"]) is StepStatus.PLANNED
        assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.RUNNING, 1)
        assert at_work.step(ref, "ship", lambda: "sent", IDEMPOTENT, counts=True) == "sent"
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "succeeded"}
        assert the(journal, ref, "ship").attention is None

    def test_what_ran_meanwhile_is_the_outcome_of_the_one_that_joins_again(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.joined(journal)
        at_work.step(ref, "ship", lambda: journal.runs.leave(ref, "ship"), IDEMPOTENT)
        assert journal.runs.join(self.member(ref), ["charge"]) is StepStatus.SUCCEEDED
        row = the(journal, ref, "ship")
        assert (row.attention, row.evidence) == (None, None), "it was to be sent once, and was"
        assert at_work.step(ref, "ship", lambda: "again", IDEMPOTENT) is None
        assert at_work.ran == {"ship": 1}
        assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED

    def test_it_does_not_join_a_run_again_that_failed_meanwhile(self, journal: Journal) -> None:
        ref = self.joined(journal)
        journal.runs.join(a_step("mail", ref=ref), ["charge"])
        journal.runs.leave(ref, "ship")
        fail(journal, ref, "mail")
        assert journal.runs.join(self.member(ref), ["charge"]) is StepStatus.CANCELLED
        assert the(journal, ref, "ship").status is StepStatus.CANCELLED
