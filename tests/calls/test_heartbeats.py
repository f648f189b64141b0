"""A body that says that it lives: in doubt when it falls silent, long before its time-out, and where it stands is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import DeclarationError, Deferred, JournalUnreachable, NotInWorkflow, UnserialisableValue
from durable_adapter.journal import Journal
from durable_adapter.journal.doubts import NOT_OVER
from durable_adapter.model import SECOND, Cause, Safety, StepRow, StepStatus
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.story import read_story
from durable_adapter.reconcile.telling import Telling
from durable_adapter.reconcile.values import Values
from durable_adapter.recovery import Sweeper
from tests.calls.conftest import Workplace
from tests.journal.counting import cost
from tests.journal.making import ONE, a_function, a_run, a_step, about, age, change, in_doubt, the, the_run

__all__ = ["cost"]

BEATING = StepPolicy(heartbeat=30)
BOTH = StepPolicy(heartbeat=30, timeout=100)


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`passing(10)` lets ten seconds pass on this process's own clock."""
    at = [1000.0]
    monkeypatch.setattr("durable_adapter.runtime.current_step.monotonic", lambda: at[0])

    def wait(seconds: float) -> None:
        at[0] += seconds

    return wait


def a_member(journal: Journal, policy: StepPolicy = BEATING) -> str:
    return a_run(journal, a_step("charge", safety=policy.safety, options=policy.stored()), "ship")


def during(at_work: Workplace, ref: str, look: Callable[[], Any], policy: StepPolicy = BEATING) -> Any:
    """Runs the step, with a look at the journal in its body."""
    return at_work.step(ref, "charge", look, policy)


def test_a_claim_is_due_when_the_body_has_been_silent_for_as_long_as_it_may(journal: Journal, at_work: Workplace) -> None:
    for policy, seconds in ((BEATING, 30), (BOTH, 30), (StepPolicy(heartbeat=100, timeout=30), 30), (StepPolicy(timeout=50), 50)):
        ref = a_member(journal, policy)
        seen: list[StepRow] = []
        during(at_work, ref, lambda ref=ref, seen=seen: seen.append(the(journal, ref, "charge")), policy)  # type: ignore[misc]
        (row,) = seen
        assert row.deadline_at == about((row.begun_at or 0) + seconds * SECOND)
        assert row.next_check_at == about(row.deadline_at)


def test_each_heartbeat_moves_the_deadline_but_not_beyond_the_time_out(
    journal: Journal, at_work: Workplace, passing: Callable[[float], None]
) -> None:
    ref = a_member(journal, BOTH)

    def body() -> None:
        age(journal, ref, "charge", "begun_at", "deadline_at", "next_check_at", by=25 * SECOND)
        passing(25)
        assert durable.heartbeat()
        row = the(journal, ref, "charge")
        assert row.deadline_at == about(journal.time() + 30 * SECOND)
        assert row.next_check_at == about(row.deadline_at)
        assert row.heartbeat_at == about(journal.time())
        age(journal, ref, "charge", "begun_at", "deadline_at", "next_check_at", by=60 * SECOND)
        passing(60)
        durable.heartbeat()
        row = the(journal, ref, "charge")
        assert row.deadline_at == row.next_check_at == about((row.begun_at or 0) + 100 * SECOND)

    during(at_work, ref, body, BOTH)
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED


def test_a_silent_body_is_in_doubt_and_not_over(journal: Journal, at_work: Workplace, sweeper: Sweeper) -> None:
    ref = a_member(journal, StepPolicy(heartbeat=30, timeout=100, probe=durable.cannot_tell))

    def body() -> int:
        durable.heartbeat({"done": 7})
        sweeper.sweep(journal.time() + 29 * SECOND)
        assert the(journal, ref, "charge").status is StepStatus.BEGUN
        sweeper.sweep(journal.time() + 31 * SECOND)
        row = the(journal, ref, "charge")
        assert (row.status, row.doubt, row.over_at) == (StepStatus.IN_DOUBT, "its body has said nothing for 30 s", NOT_OVER)
        return 1

    assert during(at_work, ref, body, BOTH) == 1, "its own end is the truth all the same"
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED


def test_one_that_speaks_until_its_time_out_has_timed_out(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal, BOTH)

    def body() -> None:
        age(journal, ref, "charge", "begun_at", by=90 * SECOND)
        durable.heartbeat()
        journal.due.take_steps(journal.time() + 11 * SECOND, 10)
        assert the(journal, ref, "charge").doubt == "its time-out has passed"

    during(at_work, ref, body, BOTH)


def test_an_attempt_in_doubt_goes_on_saying_what_it_does_and_stays_in_doubt(
    journal: Journal, at_work: Workplace, passing: Callable[[float], None]
) -> None:
    ref = a_member(journal)

    def body() -> None:
        durable.heartbeat({"done": 1})
        journal.due.take_steps(journal.time() + 31 * SECOND, 10)
        next_check_at = the(journal, ref, "charge").next_check_at
        passing(40)
        assert durable.heartbeat({"done": 2}), "the claim still holds"
        row = the(journal, ref, "charge")
        assert (row.status, row.details, row.next_check_at) == (StepStatus.IN_DOUBT, '{"done": 2}', next_check_at)

    during(at_work, ref, body)


def test_a_heartbeat_after_a_verdict_changes_nothing_and_tells_the_body(
    journal: Journal, at_work: Workplace, passing: Callable[[float], None]
) -> None:
    ref = a_member(journal)

    def body() -> None:
        row = the(journal, ref, "charge")
        assert journal.doubts.raise_doubt(row, row.token, "silent", cause=Cause.WORKER_DIED, over=False)
        assert journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="so it is").recorded
        assert durable.heartbeat({"done": 1}) is False
        assert durable.heartbeat({"done": 2}) is False, "not only when it is written"
        assert the(journal, ref, "charge").details is None

    assert during(at_work, ref, body) == 1


def test_it_is_written_at_most_once_in_a_third_of_its_time(
    journal: Journal, at_work: Workplace, cost: Any, passing: Callable[[float], None]
) -> None:
    ref = a_member(journal)

    def body() -> None:
        def a_minute() -> None:
            for second in range(60):
                passing(1)
                durable.heartbeat({"second": second})

        found = cost(a_minute)
        assert (found.commits, found.reads, len(found.statements)) == (6, 0, 6)
        assert the(journal, ref, "charge").details == '{"second": 50}'
        assert durable.last_heartbeat() == {"second": 59}

    during(at_work, ref, body)


def test_what_was_said_last_is_read_by_the_next_attempt_also_after_an_error(
    journal: Journal, at_work: Workplace, passing: Callable[[float], None]
) -> None:
    policy = StepPolicy(heartbeat=30, idempotent=True)
    ref = a_member(journal, policy)
    at_work.host.near = 10.0
    at_work.host.pause = lambda _seconds: change(journal, ref, "charge", next_check_at=0)
    read: list[Any] = []

    def body() -> int:
        read.append(durable.last_heartbeat())
        durable.heartbeat({"done": 1})
        durable.heartbeat({"done": 2})
        if len(read) == 1:
            raise TimeoutError("no answer")
        return 1

    assert during(at_work, ref, body, policy) == 1
    assert read == [None, {"done": 2}]
    assert the(journal, ref, "charge").attempt == 2


def test_an_idempotent_step_claims_its_first_attempt(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(heartbeat=30, idempotent=True)
    ref = a_member(journal, policy)
    during(at_work, ref, lambda: _is_claimed(the(journal, ref, "charge")), policy)
    function = a_function(journal)

    @durable.step(heartbeat=30, idempotent=True)
    def harmless() -> None:
        _is_claimed(next(s for s in journal.reads.steps(function) if s.position == 1))
        assert durable.heartbeat(5)

    at_work.function(function, harmless)
    assert next(s for s in journal.reads.steps(function) if s.position == 1).details == "5"


def _is_claimed(row: StepRow) -> None:
    assert (row.status, row.attempt) == (StepStatus.BEGUN, 1)
    assert row.deadline_at is not None


def test_an_idempotent_step_that_comes_after_its_window_is_in_doubt_all_the_same(journal: Journal, at_work: Workplace) -> None:
    policy = StepPolicy(heartbeat=30, idempotent=True)
    ref = a_member(journal, policy)
    in_doubt(journal, ref, "charge")
    age(journal, ref, "charge", "first_begun_at", by=25 * 3600 * SECOND)
    with pytest.raises(Deferred, match="window of 24 h has passed"):
        during(at_work, ref, lambda: 1, policy)
    assert at_work.ran == {}


def test_explain_shows_where_a_body_stands_and_masks_it(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal)

    def body() -> None:
        durable.heartbeat({"card": "4242424242424242"})
        for show, expected in ((False, "and said {card: str(16)}"), (True, "and said {'card': '4242424242424242'}")):
            told = Telling(read_story(journal, the_run(journal, ref), caller=Caller(), stale=60), Values(show=show))
            lines = told.step_lines(the(journal, ref, "charge"))
            assert any("its body was heard" in line and expected in line for line in lines), lines
        change(journal, ref, "charge", options='{"redact": true}')
        told = Telling(read_story(journal, the_run(journal, ref), caller=Caller(), stale=60), Values(show=True))
        assert "4242" not in str(told.step_lines(the(journal, ref, "charge")))

    during(at_work, ref, body)


def test_a_journal_that_is_away_keeps_no_body_waiting(
    journal: Journal, at_work: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = a_member(journal)

    def away(*_: Any, **__: Any) -> bool:
        raise JournalUnreachable("away")

    def body() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(journal.claims, "heartbeat", away)
            assert durable.heartbeat({"done": 1})
        assert durable.heartbeat()
        assert the(journal, ref, "charge").details == '{"done": 1}'

    during(at_work, ref, body)


@pytest.mark.parametrize("details", [object(), {1, 2}, float("nan"), "x" * 4000], ids=["object", "set", "nan", "long"])
def test_details_that_are_not_small_plain_json_are_refused(journal: Journal, at_work: Workplace, details: Any) -> None:
    ref = a_member(journal)

    def body() -> None:
        with pytest.raises(UnserialisableValue, match="the details of a heartbeat of step charge"):
            durable.heartbeat(details)

    during(at_work, ref, body)


def test_a_step_that_declares_none_says_so_and_one_outside_too(journal: Journal, at_work: Workplace) -> None:
    ref = a_member(journal, StepPolicy())

    def body() -> None:
        with pytest.raises(NotInWorkflow, match=r"heartbeat\(\) needs a step that says how long .*charge does not"):
            durable.heartbeat()
        assert durable.last_heartbeat() is None

    during(at_work, ref, body, StepPolicy())
    for outside in (durable.heartbeat, durable.last_heartbeat):
        with pytest.raises(NotInWorkflow, match="only means something inside a durable step"):
            outside()


def test_a_transactional_step_cannot_have_one() -> None:
    with pytest.raises(DeclarationError, match=r"transactional=True cannot be joined with heartbeat: .*nobody could see"):
        StepPolicy(transactional=True, heartbeat=30)


def test_a_step_that_does_not_use_it_pays_nothing(journal: Journal, at_work: Workplace, cost: Any) -> None:
    ref = a_member(journal, StepPolicy())
    found = cost(lambda: during(at_work, ref, lambda: 1, StepPolicy()))
    assert (found.commits, found.reads, len(found.statements)) == (2, 0, 2 if journal.db.is_postgresql else 6)
    row = the(journal, ref, "charge")
    assert (row.heartbeat_at, row.details, row.deadline_at, row.options) == (None, None, None, {})


def test_a_heartbeat_under_another_token_is_refused(journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", safety=Safety.PROBE))
    row = in_doubt(journal, ref, "charge")
    assert not journal.claims.heartbeat(ref, "charge", "another", heartbeat=SECOND, details="1")
    assert the(journal, ref, "charge") == row
