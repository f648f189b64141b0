"""What an attempt reports after its outcome was decided otherwise changes nothing, and is kept and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.errors import Deferred
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, Cause, Event, StepStatus
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.finding import Trouble
from durable_adapter.reconcile.story import read_story
from durable_adapter.reconcile.survey import look_for_trouble
from durable_adapter.reconcile.telling import Telling
from durable_adapter.reconcile.values import Values
from tests.calls.conftest import Workplace
from tests.journal.making import ONE, TWO, a_function, a_run, a_step, claim, events, succeed, the, the_run


class Declined(Exception):
    """A refusal."""


def decided_meanwhile(journal: Journal, ref: str, how: str = "happened") -> None:
    """The attempt that runs now is put in doubt and held, and a person decides."""
    row = the(journal, ref, "charge")
    assert journal.doubts.raise_doubt(row, row.token, "its worker is silent", cause=Cause.WORKER_DIED, over=False)
    row = the(journal, ref, "charge")
    if how == "happened":
        assert journal.verdicts.happened(row, ONE, who="ann", why="the bank says so").recorded
    else:
        assert journal.verdicts.did_not_happen(row, who="ann", why="the bank says so").recorded


def story(journal: Journal, ref: str) -> list[str]:
    """What `explain` tells."""
    told = Telling(read_story(journal, the_run(journal, ref), caller=Caller(), stale=60), Values())
    return [moment.says for moment in told.moments]


POLICIES = {
    "fails": StepPolicy(did_not_happen=Declined),
    "wants to be tried again": StepPolicy(did_not_happen=Declined, retry=RetryPolicy()),
    "is in doubt": StepPolicy(probe=durable.cannot_tell),
}


@pytest.mark.parametrize("what", POLICIES)
def test_a_failure_after_a_verdict_is_kept_and_the_verdict_stands(journal: Journal, at_work: Workplace, what: str) -> None:
    policy = POLICIES[what]
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")

    def body() -> None:
        decided_meanwhile(journal, ref)
        raise Declined("no money") if what != "is in doubt" else TimeoutError("no answer")

    assert at_work.step(ref, "charge", body, policy) == 1, "everybody gets what was decided"
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED
    (late,) = [e for e in journal.events.of(ref) if e["kind"] == Event.LATE_FAILURE]
    assert late["who"] == at_work.host.worker
    assert "already succeeded" in late["why"]
    assert ("no money" in late["why"]) or ("no answer" in late["why"])
    assert "charge: an attempt reported a failure too late" in story(journal, ref)


def test_a_failure_of_an_idempotent_attempt_that_was_taken_over_is_kept(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(idempotent=True, retry=RetryPolicy(maximum_attempts=1))
    ref = a_run(journal, a_step("charge", safety=policy.safety), "ship")

    def body() -> None:
        row = the(journal, ref, "charge")
        assert journal.doubts.raise_doubt(row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
        assert journal.doubts.take_over(the(journal, ref, "charge"), "it is idempotent")
        succeed(journal, ref, "charge", outcome=TWO)
        raise TimeoutError("no answer")

    assert at_work.step(ref, "charge", body, policy) == 2
    assert events(journal, ref) == [Event.IN_DOUBT, Event.TAKEN_OVER, Event.LATE_FAILURE]
    assert the(journal, ref, "charge").marks == []


@pytest.mark.parametrize("where", ["a canvas", "a function"])
def test_a_success_after_a_verdict_may_have_happened_twice(journal: Journal, at_work: Workplace, where: str) -> None:
    if where == "a canvas":
        ref = a_run(journal, "charge", "ship")
        run: Callable[[Callable[[], Any]], Any] = lambda body: at_work.step(ref, "charge", body)  # noqa: E731
    else:
        ref = a_function(journal)
        run = lambda body: at_work.function(ref, lambda: called(body))  # noqa: E731

    def body() -> int:
        key = next(s.key for s in journal.reads.steps(ref) if s.name.startswith("charge"))
        row = the(journal, ref, key)
        assert journal.doubts.raise_doubt(row, row.token, "its worker is silent", cause=Cause.WORKER_DIED, over=False)
        assert journal.verdicts.did_not_happen(the(journal, ref, key), who="ann", why="so it is").recorded
        token = claim(journal, ref, key)  # another worker's attempt, which succeeds
        assert journal.ends.succeed(ref, key, token, ONE, completes_run=False)
        return 2

    @durable.step(name="charge")
    def called(body: Callable[[], int]) -> int:
        return body()

    assert run(body) == 1, "what was recorded first stands"
    row = next(s for s in journal.reads.steps(ref) if s.name == "charge")
    assert (row.status, row.marks) == (StepStatus.SUCCEEDED, [Attention.TWICE])
    assert Event.LATE_SUCCESS in events(journal, ref)
    assert [f.kind for f in look_for_trouble(journal, namespace="default").findings] == [Trouble.TWICE]


def test_a_success_after_did_not_happen_stops_the_attempt_that_nobody_has_claimed(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, "charge", "ship")

    def body() -> int:
        decided_meanwhile(journal, ref, "did not happen")
        return 2

    assert at_work.step(ref, "charge", body) == 2
    assert (the(journal, ref, "charge").status, the(journal, ref, "charge").marks) == (StepStatus.SUCCEEDED, ["twice"])


def test_a_message_that_comes_while_its_step_runs_is_kept_once(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, "charge", "ship")
    claim(journal, ref, "charge")
    for delivery in (1, 2):
        with pytest.raises(Deferred, match="running under another claim"):
            at_work.step(ref, "charge", lambda: 1, again=delivery == 2)
        assert events(journal, ref) == [Event.SUPPRESSED] * delivery
    assert story(journal, ref).count("charge: another message of it came, and was left alone") == 2
    assert at_work.ran == {}


def test_the_happy_path_and_its_memos_write_no_event(journal: Journal, at_work: Workplace) -> None:
    ref = a_run(journal, "charge", "ship")
    for again in (False, True, False):
        assert at_work.step(ref, "charge", lambda: 1, again=again) == 1
    assert events(journal, ref) == []
