"""A start or a member that could not be sent is forgotten, and its message, should it arrive after all, runs nothing (P5)."""

from __future__ import annotations

import pytest

from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Event, StepRow, StepStatus, WorkflowRow, WorkflowStatus, new_ref
from durable_adapter.reconcile.finding import Trouble
from durable_adapter.reconcile.survey import look_for_trouble
from durable_adapter.runtime.starting import start_run, started_before
from tests.calls.conftest import CallingEngine, Workplace
from tests.journal.making import a_run, a_step, a_workflow, events, fail, statuses, succeed, the, the_run

IDEMPOTENT = StepPolicy(idempotent=True)
OPTIONS = {"counts": True, "window": IDEMPOTENT.window}
#: What may be declared of the step whose message is lost.
POLICIES = [StepPolicy(), IDEMPOTENT, StepPolicy(transactional=True)]

each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.safety))


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


def is_refused(journal: Journal, at_work: Workplace, ref: str, key: str, policy: StepPolicy) -> None:
    """Delivers a message that names what the journal does not have: nothing runs, and a person hears of it."""
    with pytest.raises(Deferred, match="its start was rolled back"):
        at_work.step(ref, key, lambda: 1, policy)
    assert at_work.ran == {}
    assert events(journal, ref) == [Event.REFUSED]
    assert Trouble.REFUSED in [finding.kind for finding in look_for_trouble(journal, namespace="default").findings]


@each_policy
def test_a_start_that_could_not_be_sent_is_forgotten_and_its_id_is_free(
    journal: Journal, at_work: Workplace, policy: StepPolicy
) -> None:
    ref = sent_and_lost(at_work, policy)
    assert journal.reads.run(ref) is None
    assert journal.reads.steps(ref) == []
    is_refused(journal, at_work, ref, "charge", policy)
    run, steps = a_start(new_ref(), policy)
    assert start_run(at_work.host, run, steps, send=lambda: "sent", inside=False) == (True, "sent")
    assert statuses(journal, run.ref) == {"run": "running", "charge": "planned", "ship": "planned"}


def test_a_start_whose_first_attempt_runs_already_stands(journal: Journal, at_work: Workplace) -> None:
    """The broker delivered it before it raised: what has begun is not taken back, and the same start hands it out."""
    ref = new_ref()
    run, steps = a_start(ref)

    def charge() -> str:
        journal.starts.forget(ref)  # what the caller's own process does, which heard of an error
        return "ch_1"

    assert journal.starts.start(run, steps)
    assert at_work.step(ref, "charge", charge, IDEMPOTENT) == "ch_1"
    row = the(journal, ref, "charge")
    assert (row.status, row.marks) == (StepStatus.SUCCEEDED, [])
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "planned"}
    assert started_before(at_work.host, a_start(new_ref())[0]).ref == ref


def test_what_a_person_cancelled_is_not_started_again(journal: Journal, at_work: Workplace, engine: CallingEngine) -> None:
    ref = new_ref()
    run, steps = a_start(ref)
    assert journal.starts.start(run, steps)
    journal.runs.cancel(ref, who="ann", why="a mistake")
    assert started_before(at_work.host, a_start(new_ref())[0]).ref == ref
    assert (statuses(journal, ref)["run"], engine.sent) == ("cancelled", [])


class TestAMember:
    """A member whose message could not be sent, and may have been delivered all the same."""

    def joined(self, journal: Journal, policy: StepPolicy = IDEMPOTENT) -> str:
        ref = a_run(journal, a_step("charge", completes_run=True))
        succeed(journal, ref, "charge", completes_run=True)
        assert journal.members.join(self.member(ref, policy), ["charge"]) is StepStatus.PLANNED
        return ref

    def member(self, ref: str, policy: StepPolicy = IDEMPOTENT) -> StepRow:
        return a_step("ship", ref=ref, safety=policy.safety, options={"window": policy.window})

    @each_policy
    def test_it_is_forgotten_and_its_message_is_refused(self, journal: Journal, at_work: Workplace, policy: StepPolicy) -> None:
        ref = self.joined(journal, policy)
        journal.members.leave(ref, "ship")
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded"}
        is_refused(journal, at_work, ref, "ship", policy)
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded"}

    def test_one_that_runs_already_is_not_taken_back(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.joined(journal)

        def ship() -> str:
            journal.members.leave(ref, "ship")  # what the publisher does, which heard of an error
            assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "begun"}
            return "sent"

        assert at_work.step(ref, "ship", ship, IDEMPOTENT, completes_run=True) == "sent"
        assert the(journal, ref, "ship").marks == []
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "succeeded"}
        assert journal.members.join(self.member(ref), ["charge"]) is StepStatus.SUCCEEDED, "made again, it is that one"

    def test_it_joins_again_under_its_own_key(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.joined(journal)
        journal.members.leave(ref, "ship")
        assert journal.members.join(self.member(ref), ["charge"]) is StepStatus.PLANNED
        assert (the_run(journal, ref).status, the_run(journal, ref).open_steps) == (WorkflowStatus.RUNNING, 1)
        assert at_work.step(ref, "ship", lambda: "sent", IDEMPOTENT, completes_run=True) == "sent"
        assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded", "ship": "succeeded"}

    def test_it_does_not_join_a_run_again_that_failed_meanwhile(self, journal: Journal) -> None:
        ref = self.joined(journal)
        journal.members.join(a_step("mail", ref=ref), ["charge"])
        journal.members.leave(ref, "ship")
        fail(journal, ref, "mail")
        assert journal.members.join(self.member(ref), ["charge"]) is StepStatus.CANCELLED
        assert the(journal, ref, "ship").status is StepStatus.CANCELLED
