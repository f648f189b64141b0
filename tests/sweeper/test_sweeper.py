"""What a sweep makes good, rule by rule of section 10 of the design. No test sleeps: the time is passed in."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.errors import CannotSendAgain, JournalUnreachable, MessageExpired
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import (
    SECOND,
    Attention,
    Cause,
    Effect,
    Kind,
    Safety,
    StepStatus,
    WorkflowStatus,
    attempt_name,
    new_token,
)
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.alerts import Held, on_held
from durable_adapter.runtime.engine import EngineOutcome
from tests.journal.making import (
    DECLINED,
    ONE,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    age,
    change,
    claim,
    fail,
    held,
    in_doubt,
    marked,
    succeed,
    the,
    the_run,
)
from tests.sweeper.conftest import Clock, NotingEngine

HOUR = 3600 * SECOND


def later(journal: Journal, by: int = HOUR) -> int:
    return journal.time() + by


def listening(journal: Journal, queue: str = "celery") -> None:
    """A worker with the plugin that has been listening on a queue since just now."""
    a_worker(journal, "listener", queues=[queue])
    journal.workers.beat("listener", [])


def watch(sweeper: Sweeper, clock: Clock, seconds: float) -> int:
    """Sweeps every ten seconds for a while, and returns how many deaths that declared."""
    deaths = 0
    for _ in range(int(seconds // 10)):
        clock.at += 10
        deaths += sweeper.safely().deaths
    return deaths


class TestDeath:
    def test_it_is_declared_only_after_the_sweeper_itself_watched_a_beat_stand_still(
        self, journal: Journal, sweeper: Sweeper, clock: Clock
    ) -> None:
        assert sweeper.sweep().deaths == 0
        assert watch(sweeper, clock, 50) == 0
        assert watch(sweeper, clock, 10) == 1
        found = journal.workers.get("w1")
        assert found is not None
        assert found.dead_at is not None

    def test_a_beat_meanwhile_starts_the_watch_anew(self, journal: Journal, sweeper: Sweeper, clock: Clock) -> None:
        sweeper.sweep()
        watch(sweeper, clock, 50)
        journal.workers.beat("w1", [])
        assert watch(sweeper, clock, 50) == 0

    def test_a_failed_read_in_between_starts_the_watch_anew(
        self, journal: Journal, sweeper: Sweeper, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweeper.sweep()
        watch(sweeper, clock, 50)

        def away(**_: Any) -> Any:
            raise JournalUnreachable("away")

        with monkeypatch.context() as patch:
            patch.setattr(journal.workers, "alive", away)
            clock.at += 10
            assert sweeper.safely().errors
        assert watch(sweeper, clock, 60) == 0
        assert watch(sweeper, clock, 10) == 1

    def test_a_sweeper_that_stood_still_itself_declares_nobody_dead_for_it(
        self, journal: Journal, sweeper: Sweeper, clock: Clock
    ) -> None:
        sweeper.sweep()
        clock.at += 3600
        assert sweeper.sweep().deaths == 0
        assert watch(sweeper, clock, 40) == 0

    def test_what_a_dead_worker_had_begun_is_in_doubt_and_what_nothing_makes_safe_is_held(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        a_worker(journal, "child", parent="p", pid=7)
        ref = a_run(journal, "charge")
        claim(journal, ref, "charge", worker="child")
        journal.workers.child_died("p", 7, "killed")

        report = sweeper.sweep(later(journal, 20 * SECOND))

        assert (report.doubts, report.held) == (1, 1)
        assert the(journal, ref, "charge").status is StepStatus.HELD
        assert engine.told == ["charge"]
        assert engine.sent == []

    @pytest.mark.parametrize("safety", [Safety.IDEMPOTENT, Safety.PROBE])
    @pytest.mark.parametrize("given_up", ["cancelled", "rolled back"])
    def test_a_call_in_place_that_is_in_doubt_when_its_run_is_given_up_is_held_and_not_sent_for_ever(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety, given_up: str
    ) -> None:
        a_worker(journal, "child", parent="p", pid=7)
        ref = a_function(journal)
        charged = a_call(ref, "charge", worker="child", compensation="refund")
        assert journal.claims.begin_new(charged)
        assert journal.ends.succeed(ref, "charge", charged.token or "", ONE, completes_run=False)
        assert journal.claims.begin_new(a_call(ref, "ship", 2, worker="child", safety=safety))
        if given_up == "cancelled":
            journal.runs.cancel(ref, who="ann", why="the customer called")
        else:
            assert journal.undo.begin(ref, who="ann", why="the customer called")
        journal.workers.child_died("p", 7, "killed")

        sweeper.sweep(later(journal, 20 * SECOND))

        assert the(journal, ref, "ship").status is StepStatus.HELD
        assert "ship" in engine.told
        engine.sent.clear()
        for hours in range(1, 4):
            sweeper.sweep(later(journal, hours * HOUR))
        assert "function" not in engine.sent
        assert "ship" not in engine.sent

    def test_an_attempt_that_two_beats_of_its_living_worker_do_not_name_is_in_doubt(
        self, journal: Journal, sweeper: Sweeper
    ) -> None:
        ref = a_run(journal, "charge")
        name = attempt_name(ref, "charge", claim(journal, ref, "charge"))
        age(journal, ref, "charge", "begun_at", by=SECOND)  # SQLite's clock knows milliseconds only
        journal.workers.beat("w1", [name])
        for _ in range(3):
            journal.workers.beat("w1", [])
            assert sweeper.sweep().doubts == 0, "it is found missing from two beats; two more must pass"
        journal.workers.beat("w1", [])
        assert sweeper.sweep().doubts == 1

    def test_an_attempt_is_not_missing_because_the_databases_clock_went_back(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, "charge")
        for _ in range(3):
            journal.workers.beat("w1", [])
        ahead = {"beat_at": worker.c.beat_at + 15 * SECOND, "previous_beat_at": worker.c.previous_beat_at + 14 * SECOND}
        journal.db.transaction(lambda conn: conn.execute(sa.update(worker).values(**ahead)))
        name = attempt_name(ref, "charge", claim(journal, ref, "charge"))
        assert sweeper.sweep().doubts == 0, "its worker has not beaten since it began"
        journal.workers.beat("w1", [])
        assert sweeper.sweep().doubts == 0, "that beat may have been under way"
        journal.workers.beat("w1", [name])
        assert sweeper.sweep().doubts == 0
        assert the(journal, ref, "charge").status is StepStatus.BEGUN

    def test_what_the_names_of_one_attempt_were_missing_from_says_nothing_about_the_next(
        self, journal: Journal, sweeper: Sweeper
    ) -> None:
        ref = a_run(journal, "charge")
        first = claim(journal, ref, "charge")
        age(journal, ref, "charge", "begun_at")
        for _ in range(2):
            journal.workers.beat("w1", [])
        sweeper.sweep()
        journal.ends.try_again(the(journal, ref, "charge"), first, 0, None, "declined")
        claim(journal, ref, "charge")
        age(journal, ref, "charge", "begun_at")
        for _ in range(2):
            journal.workers.beat("w1", [])
        assert sweeper.sweep().doubts == 0

    def test_an_attempt_that_its_worker_goes_on_naming_is_left_alone_for_ever(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, "charge")
        name = attempt_name(ref, "charge", claim(journal, ref, "charge"))
        for _ in range(5):
            journal.workers.beat("w1", [name])
            assert not sweeper.sweep(later(journal)).doubts
        assert the(journal, ref, "charge").status is StepStatus.BEGUN


class TestDoubt:
    @pytest.mark.parametrize("safety", [Safety.IDEMPOTENT, Safety.PROBE, Safety.TRANSACTIONAL])
    def test_a_step_that_something_makes_safe_is_sent_to_a_worker_and_not_decided_here(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety
    ) -> None:
        ref = a_run(journal, a_step("charge", safety=safety))
        in_doubt(journal, ref, "charge")

        sweeper.sweep(later(journal, 20 * SECOND))

        assert engine.sent == ["charge"]
        assert the(journal, ref, "charge").status is StepStatus.IN_DOUBT

    def test_a_held_step_alerts_once(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, "charge")
        in_doubt(journal, ref, "charge")
        told: list[Held] = []
        on_held.connect(told.append)
        try:
            sweeper.sweep(later(journal, 20 * SECOND))
            sweeper.sweep(later(journal, HOUR))
        finally:
            on_held.disconnect(told.append)
        assert [(t.step, t.key) for t in told] == [("charge", "charge")]
        assert "explain" in told[0].command

    def test_a_time_out_makes_an_attempt_in_doubt(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, "charge")
        claim(journal, ref, "charge", timeout=5 * SECOND)
        sweeper.sweep(journal.time() + 4 * SECOND)
        assert the(journal, ref, "charge").status is StepStatus.BEGUN
        sweeper.sweep(journal.time() + 6 * SECOND)
        assert the(journal, ref, "charge").status in (StepStatus.IN_DOUBT, StepStatus.HELD)


class TestOrder:
    """What comes later in a canvas waits for what comes before it, whoever sends it."""

    def test_after_a_restore_nothing_is_sent_behind_a_step_that_is_not_settled(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge", a_step("ship", safety=Safety.IDEMPOTENT), "mail")
        claim(journal, ref, "charge")
        journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
        journal.workers.stop("w1")
        sweeper.sweep(later(journal, 20 * SECOND))
        assert the(journal, ref, "charge").status is StepStatus.HELD
        assert the(journal, ref, "ship").status is StepStatus.IN_DOUBT
        sweeper.sweep(later(journal, 2 * HOUR))
        assert engine.sent == []

        journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="the bank has it")
        sweeper.sweep(later(journal, 4 * HOUR))
        assert engine.sent == ["charge", "ship"]

    def test_a_person_s_did_not_happen_about_a_later_step_waits_for_the_earlier_one(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge", "ship")
        claim(journal, ref, "charge")
        journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
        journal.workers.stop("w1")
        sweeper.sweep(later(journal, 20 * SECOND))
        journal.verdicts.did_not_happen(the(journal, ref, "ship"), who="ann", why="it is in the store room")
        sweeper.sweep(later(journal, HOUR))
        assert engine.sent == []
        journal.verdicts.did_not_happen(the(journal, ref, "charge"), who="ann", why="the bank does not have it")
        sweeper.sweep(later(journal, 2 * HOUR))
        assert engine.sent == ["charge"]
        a_worker(journal, "w2")
        journal.ends.succeed(ref, "charge", claim(journal, ref, "charge", worker="w2"), ONE, completes_run=False)
        sweeper.sweep(later(journal, 4 * HOUR))
        assert engine.sent == ["charge", "ship"]

    def test_a_person_s_happened_about_a_later_step_sends_nothing_behind_it_before_the_earlier_one_is_settled(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge", "ship", "mail")
        claim(journal, ref, "charge")
        journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
        journal.workers.stop("w1")
        sweeper.sweep(later(journal, 20 * SECOND))
        journal.verdicts.happened(the(journal, ref, "ship"), ONE, who="ann", why="it was on the van")
        change(journal, ref, "mail", status=StepStatus.PLANNED.value, next_check_at=None)
        sweeper.sweep(later(journal, HOUR))
        assert engine.sent == []
        journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="the bank has it")
        sweeper.sweep(later(journal, 2 * HOUR))
        assert set(engine.sent) == {"charge", "ship"}, "memo hits: they send what follows"

    def test_it_is_so_where_members_name_those_that_they_come_after(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        after: list[tuple[str, list[str]]] = [("charge", []), ("ship", ["charge"]), ("mail", ["ship"]), ("log", [])]
        ref = a_run(journal, *(a_step(key, after=keys, pending=len(keys), safety=Safety.IDEMPOTENT) for key, keys in after))
        claim(journal, ref, "charge")
        journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
        journal.workers.beat("w1", [])
        sweeper.sweep(later(journal, 20 * SECOND))
        assert sorted(engine.sent) == ["charge", "log"]

    def test_a_retry_is_sent_behind_an_unmarked_member_whose_end_nobody_recorded(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge", a_step("mail", kind=Kind.UNMARKED), "ship")
        succeed(journal, ref, "charge")
        token = claim(journal, ref, "ship")
        journal.ends.try_again(the(journal, ref, "ship"), token, 0, None, "the van was full")
        sweeper.sweep(later(journal, 20 * SECOND))
        assert engine.sent == ["ship"]

    @pytest.mark.parametrize("safety", [Safety.IDEMPOTENT, Safety.PROBE])
    def test_in_a_run_that_is_over_a_later_step_in_doubt_is_settled_all_the_same(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety
    ) -> None:
        ref = a_run(journal, "charge", a_step("ship", safety=safety))
        journal.doubts.doubt_unfinished("default", 0, who="ann", why="restored")
        journal.ends.fail(the(journal, ref, "charge"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True, who="ann", why="no")
        sweeper.sweep(later(journal, 20 * SECOND))
        assert "ship" in engine.sent

    def test_a_run_whose_last_member_had_succeeded_before_another_was_tried_again_is_ended(
        self, journal: Journal, sweeper: Sweeper
    ) -> None:
        ref = a_run(journal, "charge", "ship")
        last = claim(journal, ref, "ship")
        fail(journal, ref, "charge")
        journal.ends.succeed(ref, "ship", last, ONE, completes_run=True)
        journal.runs.reopen(ref, ["charge"], who="me", why="again", now=journal.time())
        succeed(journal, ref, "charge")
        sweeper.sweep(later(journal))
        assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED


class TestWishes:
    """A verdict on a finished step wants its message sent once more, so that the engine has what the journal has."""

    def test_one_that_the_broker_refused_is_sent_later(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, "charge")
        journal.ends.fail(held(journal, ref, "charge"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True, who="a", why="x")
        engine.fails = True
        assert sweeper.sweep(later(journal, 20 * SECOND)).errors
        engine.fails = False
        sweeper.sweep(later(journal, HOUR))
        assert engine.sent == ["charge"]
        sweeper.sweep(later(journal, 2 * HOUR))
        assert engine.sent == ["charge"], "once it was sent there is nothing left to send"
        assert the(journal, ref, "charge").next_check_at is None

    def test_one_whose_message_cannot_be_made_is_reported_once(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ref = a_run(journal, "charge")
        journal.verdicts.happened(held(journal, ref, "charge"), ONE, who="ann", why="the bank has it")

        def forgotten(run: Any, step: Any, steps: Any) -> None:
            raise CannotSendAgain("its arguments are not in the journal")

        monkeypatch.setattr(engine, "send_step", forgotten)
        assert sweeper.sweep(later(journal, 20 * SECOND)).reported == 1
        assert sweeper.sweep(later(journal, HOUR)).reported == 0
        assert the_run(journal, ref).attention == Attention.UNMARKED

    def test_a_second_one_is_not_taken_for_the_first(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, "charge")
        journal.verdicts.happened(held(journal, ref, "charge"), ONE, who="ann", why="the bank has it")
        (row,) = journal.due.take_steps(later(journal, 20 * SECOND), 10)
        change(journal, ref, "charge", next_check_at=journal.time())
        journal.due.nothing_to_send(row)
        sweeper.sweep(later(journal, 20 * SECOND))
        assert engine.sent == ["charge"]


class TestTimers:
    def test_a_retry_is_sent_when_it_is_due_and_not_before(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge")
        token = claim(journal, ref, "charge")
        journal.ends.try_again(the(journal, ref, "charge"), token, 60 * SECOND, None, "declined")
        sweeper.sweep(journal.time() + 30 * SECOND)
        assert engine.sent == []
        sweeper.sweep(journal.time() + 61 * SECOND)
        assert engine.sent == ["charge"]

    def test_a_due_message_that_the_broker_refused_is_sent_later(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "charge")
        token = claim(journal, ref, "charge")
        journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "declined")
        engine.fails = True
        assert sweeper.sweep(later(journal, 20 * SECOND)).errors
        engine.fails = False
        sweeper.sweep(later(journal, HOUR))
        assert engine.sent == ["charge"]


class TestLostMessages:
    def test_a_message_that_nobody_began_is_sent_again_when_its_queue_is_empty(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="celery"), a_step("two", position=1, queue="celery"))
        listening(journal)
        report = sweeper.sweep(later(journal))
        assert engine.sent == ["one"]
        assert report.sent_again == 1
        assert the_run(journal, ref).resends == 1

    def test_it_is_not_sent_again_while_its_queue_holds_messages(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        a_run(journal, a_step("one", queue="celery"))
        listening(journal)
        engine.empty = False
        sweeper.sweep(later(journal))
        assert engine.sent == []

    def test_it_is_sent_again_when_one_that_was_sent_later_has_begun(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="celery"))
        age(journal, ref, "one", "created_at", by=SECOND)  # SQLite's clock knows milliseconds only
        overtaker = a_run(journal, a_step("later", queue="celery"))
        name = attempt_name(overtaker, "later", claim(journal, overtaker, "later"))
        journal.workers.beat("w1", [name])
        engine.empty = False
        sweeper.sweep(later(journal))
        assert engine.sent == ["one"]

    def test_it_is_not_sent_again_for_one_that_was_sent_before_what_it_follows_had_ended(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="celery", task_id="t-1"), a_step("two", queue="celery"))
        age(journal, ref, "two", "created_at", by=3 * HOUR)
        other = a_run(journal, a_step("other", queue="celery"))
        held(journal, other, "other")
        age(journal, other, "other", by=2 * HOUR)
        succeed(journal, ref, "one")
        engine.outcomes["t-1"] = EngineOutcome(succeeded=True, value=1)
        engine.empty = False
        sweeper.sweep(later(journal))
        assert engine.sent == []

    def test_another_engines_worker_on_a_queue_of_that_name_is_no_proof_that_no_plain_worker_had_it(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="default"))
        journal.workers.stop("w1")
        a_worker(journal, "horse", engine="rq", queues=["default"])
        sweeper.sweep(later(journal))
        assert engine.sent == []
        assert the(journal, ref, "one").status is StepStatus.IN_DOUBT

    def test_it_is_not_sent_again_while_a_beat_lists_it(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, a_step("one", queue="celery", safety=Safety.IDEMPOTENT))
        journal.workers.beat("w1", [attempt_name(ref, "one", "t")])
        sweeper.sweep(later(journal))
        assert engine.sent == []

    def test_each_resend_doubles_the_wait(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, a_step("one", queue="celery", safety=Safety.IDEMPOTENT))
        listening(journal)
        patience = journal.resend_after
        sent_at = [later(journal)]
        for wait in (0, 1, 2, 4):
            if wait:
                change(journal, ref, next_check_at=1)
                sweeper.sweep(sent_at[-1] + wait * patience - 20 * SECOND)
                assert len(engine.sent) == len(sent_at) - 1, "not before its wait is over"
            now = sent_at[-1] + wait * patience
            change(journal, ref, next_check_at=1)
            sweeper.sweep(now)
            assert len(engine.sent) == len(sent_at)
            sent_at.append(now)
            change(journal, ref, "one", sent_at=now)
        assert the_run(journal, ref).resends == 4

    def test_a_step_that_ended_without_a_stored_result_is_sent_again_itself(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(
            journal, a_step("one", queue="celery", task_id="t-1"), a_step("two", position=1, queue="celery", task_id="t-2")
        )
        succeed(journal, ref, "one")
        listening(journal)
        sweeper.sweep(later(journal))
        assert engine.sent == ["one"]

    def test_where_the_result_was_stored_only_what_follows_was_lost(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(
            journal, a_step("one", queue="celery", task_id="t-1"), a_step("two", position=1, queue="celery", task_id="t-2")
        )
        succeed(journal, ref, "one")
        engine.outcomes["t-1"] = EngineOutcome(succeeded=True, value=1)
        listening(journal)
        sweeper.sweep(later(journal))
        assert engine.sent == ["two"]

    def test_a_step_that_a_plain_worker_ran_is_not_sent_again_its_stored_result_is_taken(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="celery", task_id="t-1", completes_run=True))
        engine.outcomes["t-1"] = EngineOutcome(succeeded=True, value="ch_1")
        listening(journal)
        report = sweeper.sweep(later(journal))
        assert report.adopted == 1
        row = the(journal, ref, "one")
        assert row.status is StepStatus.SUCCEEDED
        assert row.outcome is not None
        assert row.outcome.data == b'"ch_1"'
        assert the_run(journal, ref).status is WorkflowStatus.SUCCEEDED

    def test_a_protected_step_whose_message_vanished_where_only_plain_workers_listen_is_in_doubt(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, a_step("one", queue="elsewhere"))
        sweeper.sweep(later(journal))
        assert engine.sent == []
        assert the(journal, ref, "one").status in (StepStatus.IN_DOUBT, StepStatus.HELD)

    def test_a_chain_that_stops_at_an_unmarked_task_is_reported_and_nothing_is_sent(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(journal, "one", a_step("mail", position=1, kind=Kind.UNMARKED))
        succeed(journal, ref, "one")
        assert sweeper.sweep(later(journal)).reported == 1
        assert engine.sent == []
        assert the_run(journal, ref).attention == Attention.UNMARKED

    @pytest.mark.parametrize(("older_by", "status"), [(HOUR, StepStatus.PLANNED), (20 * SECOND, StepStatus.IN_DOUBT)])
    @pytest.mark.parametrize("succeeded", [True, False])
    def test_a_result_that_was_stored_before_the_start_is_another_tasks_of_the_same_id(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine, older_by: int, status: StepStatus, succeeded: bool
    ) -> None:
        ref = a_run(journal, a_step("one", queue="celery", task_id="nightly"))
        engine.outcomes["nightly"] = EngineOutcome(succeeded, "monday's", at=the(journal, ref, "one").created_at - older_by)
        engine.empty = False
        sweeper.sweep(later(journal))
        assert the(journal, ref, "one").status is status, "clocks differ by less than a minute"

    def test_one_that_was_stored_after_it_is_taken(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, a_step("one", queue="celery", task_id="nightly"))
        engine.outcomes["nightly"] = EngineOutcome(True, "tuesday's", at=journal.time())
        sweeper.sweep(later(journal))
        assert the(journal, ref, "one").status is StepStatus.SUCCEEDED


class TestExpiry:
    """A step that never began is ended where its message was to be discarded by now."""

    @pytest.fixture(autouse=True)
    def expired(self, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        send = engine.send_step

        def send_step(run: Any, step: Any, steps: Any) -> None:
            if step.key == "ship" or step.key == "ship#1":
                raise MessageExpired("ship never began: its message expired")
            send(run, step, steps)

        monkeypatch.setattr(engine, "send_step", send_step)

    def test_one_whose_message_is_gone_is_shown_and_what_happened_before_it_stays_until_a_person_decides(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(
            journal, a_step("charge", task_id="t-1", queue="celery", compensation="refund"), a_step("ship", queue="celery")
        )
        succeed(journal, ref, "charge")
        engine.outcomes["t-1"] = EngineOutcome(succeeded=True)
        listening(journal)
        assert sweeper.sweep(later(journal)).ended == 1
        row = the(journal, ref, "ship")
        assert (row.status, row.cause, row.attention) == (StepStatus.CANCELLED, Cause.ENDED_BY_ENGINE, None)
        run = the_run(journal, ref)
        assert (run.status, run.attention) == (WorkflowStatus.CANCELLED, Attention.ENDED_BY_ENGINE)
        assert engine.sent == []

    def test_one_that_a_worker_gave_back_is_ended_as_well(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, a_step("ship", task_id="t-1"))
        journal.members.not_begun("t-1", "its worker was lost")
        assert sweeper.sweep(later(journal, 20 * SECOND)).ended == 1
        assert the_run(journal, ref).status is WorkflowStatus.CANCELLED

    def test_an_idempotent_one_that_nobody_claimed_did_not_begin_either(self, journal: Journal, sweeper: Sweeper) -> None:
        ref = a_run(journal, a_step("ship", queue="celery", safety=Safety.IDEMPOTENT))
        listening(journal)
        assert sweeper.sweep(later(journal)).ended == 1
        row = the(journal, ref, "ship")
        assert (row.status, row.cause, row.marks) == (StepStatus.CANCELLED, Cause.ENDED_BY_ENGINE, [])
        assert the_run(journal, ref).attention == Attention.ENDED_BY_ENGINE

    def test_a_function_hears_of_it_where_it_dispatched_the_step(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_function(journal)
        journal.claims.plan_new(a_dispatch(ref, "ship#1", queue="celery"))
        journal.runs.suspend(ref, waiting_for="step:ship#1", wake_at=None, unless_ended="ship#1")
        listening(journal)
        sweeper.sweep(later(journal))
        assert the(journal, ref, "ship#1").status is StepStatus.FAILED
        assert the_run(journal, ref).status is WorkflowStatus.SUSPENDED
        sweeper.sweep(later(journal, 2 * HOUR))
        assert "function" in engine.sent


class TestRollback:
    def test_an_undo_that_was_never_sent_is_sent(self, journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
        ref = a_run(journal, a_step("charge", compensation="refund"), a_step("ship", position=1))
        succeed(journal, ref, "charge")
        fail(journal, ref, "ship")
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK
        sweeper.sweep(later(journal))
        assert engine.sent == ["undo:charge"]

    def test_a_pivot_in_doubt_stops_the_decision_until_it_is_settled(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(
            journal,
            a_step("reserve", compensation="release"),
            a_step("capture", position=1, pivot=True),
            a_step("ship", position=2),
        )
        succeed(journal, ref, "reserve")
        in_doubt(journal, ref, "capture")
        fail(journal, ref, "ship")
        assert the_run(journal, ref).status is WorkflowStatus.FAILING
        journal.verdicts.did_not_happen(the(journal, ref, "capture"), who="ops", why="asked the bank")
        sweeper.sweep(later(journal))
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK
        assert "undo:reserve" in engine.sent


class TestFunctions:
    def test_a_function_whose_wake_up_time_has_come_is_sent(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_function(journal)
        journal.runs.suspend(ref, waiting_for="steps", wake_at=journal.time() + 60 * SECOND)
        sweeper.sweep(journal.time() + 30 * SECOND)
        assert engine.sent == []
        sweeper.sweep(journal.time() + 61 * SECOND)
        assert len(engine.sent) == 1

    def test_a_functions_own_retry_is_not_sent_before_it_is_due(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_function(journal)
        engine.gone = True  # as RQ says of what was put aside, also of what its own scheduler keeps
        assert journal.ends.try_again(the(journal, ref, "function"), None, HOUR, b"{}", "the bank is away", sent=True)
        for minutes in (2, 11, 30, 59):
            sweeper.sweep(journal.time() + minutes * 60 * SECOND)
        assert engine.sent == []
        sweeper.sweep(journal.time() + HOUR + 11 * 60 * SECOND)
        assert engine.sent == ["function"], "it did not come by itself"

    def test_a_function_that_waits_for_a_dispatched_step_is_left_to_that_step(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_function(journal)
        journal.claims.plan_new(a_dispatch(ref, "child#1", queue="celery", task_id="t-9"))
        journal.runs.suspend(ref, waiting_for="step:child#1", wake_at=None, unless_ended="child#1")
        claim(journal, ref, "child#1")
        sweeper.sweep(later(journal))
        assert "child#1" not in engine.sent


def test_two_sweepers_at_once_send_each_due_message_once(journal: Journal, engine: NotingEngine, another_sweeper: Any) -> None:
    for number in range(20):
        ref = a_run(journal, a_step(f"charge-{number}"))
        token = claim(journal, ref, f"charge-{number}")
        journal.ends.try_again(the(journal, ref, f"charge-{number}"), token, 0, None, "again")
    at = later(journal, 20 * SECOND)
    barrier = threading.Barrier(3)

    def sweep() -> None:
        found = another_sweeper()
        barrier.wait(20)
        found.sweep(at)

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(engine.sent) == sorted(f"charge-{number}" for number in range(20))


def test_one_run_s_trouble_does_not_keep_the_others_from_being_helped(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("broken", "whole"):
        ref = a_run(journal, a_step(key))
        token = claim(journal, ref, key)
        journal.ends.try_again(the(journal, ref, key), token, 0, None, "again")
    send = engine.send_step

    def sometimes(run: Any, step: Any, steps: Any) -> None:
        if step.key == "broken":
            raise ValueError("this one cannot be sent")
        send(run, step, steps)

    monkeypatch.setattr(engine, "send_step", sometimes)
    report = sweeper.sweep(later(journal, 20 * SECOND))
    assert engine.sent == ["whole"]
    assert len(report.errors) == 1


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb"])
@pytest.mark.parametrize("where", ["its step", "a new step"])
def test_a_body_that_is_frozen_in_its_transaction_keeps_no_sweeper_from_the_other_runs(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, elsewhere: Any, where: str
) -> None:
    frozen, other, theirs = a_function(journal), a_run(journal, "charge"), elsewhere()
    journal.claims.plan_new(a_dispatch(frozen, "book#1", safety=Safety.TRANSACTIONAL))
    token = claim(journal, other, "charge")
    journal.ends.try_again(the(journal, other, "charge"), token, 0, None, "declined")
    if where == "its step":
        change(journal, frozen, status=WorkflowStatus.ROLLING_BACK.value)
    else:
        journal.runs.suspend(frozen, waiting_for="steps", wake_at=journal.time())
        timer = a_step("sleep#1", ref=frozen, kind=Kind.SLEEP, status=StepStatus.WAITING, next_check_at=journal.time())
        journal.claims.plan_new(timer)

    with theirs.db.open_transaction() as conn:
        if where == "its step":
            assert theirs.claims.lock(conn, frozen, "book#1", new_token(), "w1")
        else:
            assert theirs.claims.lock_new(conn, a_call(frozen, "book#2", 3, safety=Safety.TRANSACTIONAL))
        report = sweeper.sweep(later(journal))

    assert "charge" in engine.sent
    assert report.errors == []
    # A body without a row of its own locks no run: that is left to its end, so that the timer's wake waits for nobody.
    assert report.busy == (where == "its step")
    assert where == "its step" or "sleep#1" in engine.sent
    assert sweeper.sweep(later(journal, 2 * HOUR)).busy == 0


def test_a_failure_with_an_unknown_effect_stays_in_front_of_people(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert [s.key for s in marked(journal)] == ["charge"]


class TestAfterResending:
    def test_a_message_that_is_lost_after_others_of_its_run_arrived_waits_no_longer_than_the_first(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        ref = a_run(
            journal, a_step("one", queue="celery", task_id="t-1", safety=Safety.IDEMPOTENT), a_step("two", queue="celery")
        )
        listening(journal)
        patience = journal.resend_after
        for _ in range(4):  # the queue is broken for long
            change(journal, ref, next_check_at=1)
            sweeper.sweep(journal.time() + 20 * patience)
        assert engine.sent == ["one"] * 4
        engine.outcomes["t-1"] = EngineOutcome(succeeded=True)
        succeed(journal, ref, "one")  # then one of them arrives, and what follows is lost
        change(journal, ref, next_check_at=1)
        sweeper.sweep(journal.time() + patience - SECOND)
        assert the_run(journal, ref).resends == 0
        assert engine.sent == ["one"] * 4
        journal.workers.beat("listener", [])
        sweeper.sweep(journal.time() + 2 * patience)
        assert engine.sent == ["one"] * 4 + ["two"]

    def test_the_others_of_its_run_do_not_wait_for_one_that_is_sent_again_and_again(
        self, journal: Journal, sweeper: Sweeper, engine: NotingEngine
    ) -> None:
        """Two steps that a function sent: one never arrives, the other is lost later."""
        ref = a_function(journal)
        assert journal.claims.plan_new(a_dispatch(ref, "mail#1", 1, safety=Safety.IDEMPOTENT))
        patience = journal.resend_after
        for _ in range(3):
            change(journal, ref, next_check_at=1)
            sweeper.sweep(journal.time() + 20 * patience)
        assert journal.claims.plan_new(a_dispatch(ref, "ship#1", 2, safety=Safety.IDEMPOTENT))
        engine.sent.clear()
        change(journal, ref, next_check_at=1)
        sweeper.sweep(journal.time() + patience + SECOND)
        assert engine.sent == ["ship#1"]


def test_what_belongs_to_another_namespace_is_left_to_its_own_sweepers(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    for namespace in ("default", "another"):
        ref = a_run(journal, a_step(f"lost-{namespace}", queue="celery"), namespace=namespace)
        waits = a_run(journal, a_step(f"tried-{namespace}"), namespace=namespace)
        token = claim(journal, waits, f"tried-{namespace}")
        journal.ends.try_again(the(journal, waits, f"tried-{namespace}"), token, 0, None, "again")
        assert the_run(journal, ref).namespace == namespace
    listening(journal)
    sweeper.sweep(later(journal))
    assert sorted(engine.sent) == ["lost-default", "tried-default"]


def test_which_engines_there_are_is_asked_at_each_sweep(journal: Journal, clock: Clock) -> None:
    installed: list[NotingEngine] = []
    sweeper = Sweeper(journal, lambda: installed, monotonic=clock)
    ref = a_run(journal, a_step("charge", engine="rq"))
    token = claim(journal, ref, "charge")
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "again")
    installed.append(NotingEngine("celery"))
    sweeper.sweep(later(journal, 20 * SECOND))
    installed.append(NotingEngine("rq"))
    sweeper.sweep(later(journal, 20 * SECOND))
    assert [engine.sent for engine in installed] == [[], ["charge"]]
