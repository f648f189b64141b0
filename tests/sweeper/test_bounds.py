"""A sweep stays short: what it sends and forgets at a time has a bound, and what is left comes with the next ones."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.errors import CannotSendAgain, JournalBusy
from durable_adapter.journal import Journal, database
from durable_adapter.journal.schema import worker
from durable_adapter.model import SECOND, Attention, Kind, Safety, StepRow, StepStatus, WorkflowStatus
from durable_adapter.recovery import Sweeper, lost
from durable_adapter.recovery import sweeper as module
from durable_adapter.recovery.lost import RESENDS
from durable_adapter.recovery.sweeper import FORGET_EVERY, FORGETS, LASTS
from durable_adapter.runtime.engine import EngineOutcome
from tests.journal.interleaving import statements
from tests.journal.making import a_run, a_step, a_worker, age, change, claim, in_doubt, succeed, the, the_run
from tests.sweeper.conftest import Clock, NotingEngine

DAY = 86_400 * SECOND


def test_of_many_lost_messages_a_sweep_sends_so_many_again_and_the_next_ones_the_rest(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RESENDS < module.BATCH, "else it would be no bound"
    monkeypatch.setattr(lost, "RESENDS", 3)
    refs = [a_run(journal, a_step("one", queue="celery"), a_step("two", queue="celery")) for _ in range(7)]
    a_worker(journal, "listener", queues=["celery"])
    journal.workers.beat("listener", [])
    at, counts = journal.time(), []
    for _ in range(3):
        at += journal.resend_after + SECOND
        counts.append(sweeper.sweep(at).sent_again)
        for ref in refs:  # what was sent has arrived: it is not sent a second time
            if the_run(journal, ref).resends:
                change(journal, ref, next_check_at=at + DAY)
    assert counts == [3, 3, 1]
    assert sorted(the_run(journal, ref).resends for ref in refs) == [1] * 7
    assert engine.sent == ["one"] * 7


def finished(journal: Journal, days: float, **given: Any) -> str:
    """A run that ended so many days ago."""
    ref = a_run(journal, "charge", **given)
    succeed(journal, ref, "charge", completes_run=True)
    age(journal, ref, None, "ended_at", by=int(days * DAY))
    return ref


def forgetful(journal: Journal, engine: NotingEngine, clock: Clock, retention: float | None) -> Sweeper:
    return Sweeper(journal, [engine], retention=retention, monotonic=clock)


def test_it_forgets_what_ended_before_its_retention_and_leaves_a_tombstone_of_a_declared_id(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    old, fresh = finished(journal, 8), finished(journal, 6)
    declared = finished(journal, 8, id="order-42", declared=True)
    running = a_run(journal, "charge")
    assert forgetful(journal, engine, clock, 7).sweep().pruned == 2
    assert journal.reads.run(old) is None
    assert journal.reads.steps(declared) == []
    tombstone = the_run(journal, declared)
    assert (tombstone.id, tombstone.status, tombstone.pruned_at is None) == ("order-42", WorkflowStatus.SUCCEEDED, False)
    for ref in (fresh, running):
        assert journal.reads.steps(ref) != []


def test_it_forgets_batch_after_batch_for_a_while_and_looks_rarely_once_there_is_no_more(
    journal: Journal, engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORGOTTEN", 3)
    for _ in range(8):
        finished(journal, 8)
    sweeper = forgetful(journal, engine, clock, 7)
    forget = journal.retention.forget

    def slowly(*given: Any, **options: Any) -> Any:
        clock.at += FORGETS / 2
        return forget(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(journal.retention, "forget", slowly)
        report = sweeper.sweep()
        assert (report.pruned, report.more) == (6, True), "two batches fit into its time, and there is more"
        report = sweeper.sweep()
        assert (report.pruned, report.more) == (2, False)
    finished(journal, 8)
    clock.at += FORGET_EVERY - 1
    assert sweeper.sweep().pruned == 0, "there was no more a moment ago"
    clock.at += 1
    assert sweeper.sweep().pruned == 1


def overdue(journal: Journal, number: int, **given: Any) -> list[str]:
    """Runs whose message is lost."""
    refs = [a_run(journal, a_step(f"ship-{n}", queue="celery", **given)) for n in range(number)]
    for n, ref in enumerate(refs):
        change(journal, ref, next_check_at=n + 1)
    return refs


@pytest.mark.parametrize("safety", [Safety.IDEMPOTENT, Safety.PROTECTED])
@pytest.mark.parametrize("again", [False, True])
def test_a_sweep_over_many_overdue_runs_is_few_statements(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, safety: Safety, again: bool
) -> None:
    refs = overdue(journal, 200, safety=safety)
    a_worker(journal, "listener", queues=["celery"])
    journal.workers.beat("listener", [])
    if again:
        for ref in refs:
            journal.due.count_resend(ref, "ship", "its message was lost")
    at = journal.time() + journal.resend_after * 5
    with statements(journal) as sent:
        report = sweeper.sweep(at)
    assert (report.sent_again, len(engine.sent)) == (RESENDS, RESENDS)
    assert len(sent) <= 40, sent


def test_so_is_one_over_runs_that_stand_at_a_task_that_is_not_marked(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    refs = overdue(journal, 200, kind=Kind.UNMARKED)
    with statements(journal) as sent:
        report = sweeper.sweep(journal.time() + DAY)
    assert report.reported == 200
    assert len(sent) <= 40, sent
    assert {the_run(journal, ref).attention for ref in refs[::50]} == {Attention.UNMARKED.value}


def test_and_one_over_many_steps_that_are_due(journal: Journal, sweeper: Sweeper, engine: NotingEngine) -> None:
    for n in range(200):
        ref = a_run(journal, a_step(f"ship-{n}", safety=Safety.IDEMPOTENT))
        token = claim(journal, ref, f"ship-{n}")
        assert journal.ends.try_again(the(journal, ref, f"ship-{n}"), token, 0, None, "again")
    with statements(journal) as sent:
        sweeper.sweep(journal.time() + SECOND)
    assert len(engine.sent) == 200
    assert len([s for s in sent if s.startswith("SELECT")]) <= 40


def test_a_sweep_ends_after_its_time_and_what_it_did_not_reach_is_due_at_once(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    overdue(journal, 10, safety=Safety.IDEMPOTENT)
    looked: list[str] = []

    def slow(step: StepRow) -> None:
        looked.append(step.key)
        clock.at += LASTS / 4

    monkeypatch.setattr(engine, "is_gone", slow)
    sweeper.sweep(journal.time() + DAY)
    assert len(looked) == len(engine.sent) == 4
    for _ in range(2):
        sweeper.sweep(journal.time() + DAY)
    assert sorted(looked) == sorted(f"ship-{n}" for n in range(10))
    assert sorted(engine.sent) == sorted(looked)


def test_a_death_that_a_parent_saw_is_written_before_the_next_overdue_run_is_looked_at(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_worker(journal, "child", parent="p", pid=7)
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge", worker="child")
    overdue(journal, 5, safety=Safety.IDEMPOTENT)
    died: list[int] = []
    seen: list[StepStatus] = []

    def look(step: StepRow) -> None:
        seen.append(the(journal, ref, "charge").status)
        if len(seen) == 2:
            died.append(7)  # meanwhile

    def attend() -> bool:
        return any(journal.workers.child_died("p", pid, "signal 9") for pid in iter(lambda: died.pop() if died else None, None))

    monkeypatch.setattr(engine, "is_gone", look)
    sweeper.sweep(journal.time() + DAY, attend=attend)
    assert seen == [StepStatus.BEGUN] * 2 + [StepStatus.IN_DOUBT] * 3


def test_a_run_whose_rows_somebody_keeps_does_not_keep_the_others_from_being_sent_again(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = overdue(journal, 3, safety=Safety.IDEMPOTENT)
    count = journal.due.count_resends

    def busy(resends: Any, why: str) -> None:
        if any(ref == refs[1] for ref, _, _ in resends):
            raise JournalBusy("its row is kept")
        count(resends, why)

    monkeypatch.setattr(journal.due, "count_resends", busy)
    report = sweeper.sweep(journal.time() + DAY)
    assert sorted(engine.sent) == ["ship-0", "ship-2"]
    assert (report.sent_again, report.busy, report.errors) == (2, 1, [])


def test_without_retention_it_forgets_nothing(journal: Journal, engine: NotingEngine, clock: Clock) -> None:
    ref = finished(journal, 10_000)
    assert forgetful(journal, engine, clock, None).sweep().pruned == 0
    assert journal.reads.steps(ref) != []


def test_it_forgets_processes_that_ended_and_that_nothing_unsettled_names(
    journal: Journal, engine: NotingEngine, clock: Clock
) -> None:
    for name in ("ended", "ended today", "alive"):
        a_worker(journal, name)
    journal.workers.stop("ended")
    journal.workers.stop("ended today")
    at = journal.time() - 8 * DAY
    journal.db.transaction(lambda conn: conn.execute(worker.update().where(worker.c.id == "ended").values(beat_at=at)))
    forgetful(journal, engine, clock, 7).sweep()
    assert [name for name in ("ended", "ended today", "alive") if journal.workers.get(name) is None] == ["ended"]


#: Larger than a packet of MariaDB, which is 16 MB unless somebody says otherwise.
LARGE = "x" * 17_000_000


@pytest.fixture
def largest(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes more by itself is held to the journal's own limit."""
    if journal.db.dialect_name != "mysql":
        monkeypatch.setattr(database, "LARGEST", 8_000_000)


@pytest.mark.usefixtures("largest")
def test_a_stored_result_that_is_too_large_for_the_journal_is_its_own_steps_trouble(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    """A worker without the plugin ran the step: what it returned cannot be kept, and the next run is looked at all the same."""
    ref = a_run(journal, a_step("one", queue="celery", task_id="t-1", safety=Safety.IDEMPOTENT))
    (other,) = overdue(journal, 1, safety=Safety.IDEMPOTENT)
    change(journal, ref, next_check_at=0)
    engine.outcomes["t-1"] = EngineOutcome(succeeded=True, value=LARGE)
    report = sweeper.sweep(journal.time() + DAY)
    assert (the(journal, ref, "one").status, report.adopted, report.errors) == (StepStatus.IN_DOUBT, 0, [])
    assert (the_run(journal, other).resends, engine.sent) == (1, ["ship-0"])


@pytest.mark.usefixtures("largest")
def test_so_is_one_of_a_task_that_is_not_marked_whose_end_is_known_without_it(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine
) -> None:
    ref = a_run(journal, a_step("mail", task_id="t-1", kind=Kind.UNMARKED), a_step("ship", position=1))
    engine.outcomes["t-1"] = EngineOutcome(succeeded=True, value=LARGE)
    report = sweeper.sweep(journal.time() + DAY)
    row = the(journal, ref, "mail")
    assert (row.status, row.outcome, report.adopted, report.errors) == (StepStatus.SUCCEEDED, None, 1, [])


def test_where_a_message_cannot_be_made_its_mark_waits_for_no_row_that_somebody_keeps(
    journal: Journal, sweeper: Sweeper, engine: NotingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [a_run(journal, a_step(f"ship-{n}", safety=Safety.IDEMPOTENT)) for n in range(3)]
    for n, ref in enumerate(refs):
        key = f"ship-{n}"
        assert journal.ends.try_again(the(journal, ref, key), claim(journal, ref, key), 0, None, "again")
    mark, send = journal.runs.mark_all, engine.send_step

    def busy(which: Any, attention: str | None) -> None:
        assert database._IN_A_HURRY.get(), "else it would wait for as long as the row is kept"
        if refs[0] in which:
            raise JournalBusy("its row is kept")
        mark(which, attention)

    def cannot(run: Any, step: StepRow, steps: Any) -> None:
        if step.ref != refs[2]:
            raise CannotSendAgain("its arguments are not in the journal")
        send(run, step, steps)

    monkeypatch.setattr(journal.runs, "mark_all", busy)
    monkeypatch.setattr(engine, "send_step", cannot)
    report = sweeper.sweep(journal.time() + SECOND)
    assert (engine.sent, report.busy, report.errors) == (["ship-2"], 1, [])
    assert [the_run(journal, ref).attention for ref in refs] == [None, Attention.UNMARKED.value, None]


@pytest.fixture
def swallowing(engine: NotingEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> NotingEngine:
    """A broker behind which packets vanish: each publication is given up after four seconds."""

    def send(run: Any, step: StepRow, steps: Any) -> None:
        clock.at += 4
        engine.sent.append(step.key)
        raise ConnectionError("timed out")

    monkeypatch.setattr(engine, "send_step", send)
    return engine


def due_again(journal: Journal, number: int) -> list[str]:
    refs = [a_run(journal, a_step(f"pay-{n}", safety=Safety.IDEMPOTENT)) for n in range(number)]
    for n, ref in enumerate(refs):
        key = f"pay-{n}"
        assert journal.ends.try_again(the(journal, ref, key), claim(journal, ref, key), 0, None, "again")
    return refs


def test_a_broker_that_lets_each_publication_wait_takes_one_of_steps_and_one_of_runs_and_the_rest_stays_due(
    journal: Journal, sweeper: Sweeper, swallowing: NotingEngine, clock: Clock
) -> None:
    steps, runs = due_again(journal, 5), overdue(journal, 5, safety=Safety.IDEMPOTENT)
    before, at = [the(journal, ref, f"pay-{n}") for n, ref in enumerate(steps)], journal.time() + DAY
    began = clock.at
    sweeper.sweep(at)
    assert sorted(key[:4] for key in swallowing.sent) == ["pay-", "ship"]
    assert clock.at - began == 8
    left = [(row.ref, row.sent_at) for row in before if row.key not in swallowing.sent]
    assert [(ref, the(journal, ref, row.key).sent_at) for ref, row in zip(steps, before, strict=True)
            if row.key not in swallowing.sent] == left  # fmt: skip
    unsent = [(ref, f"ship-{n}") for n, ref in enumerate(runs) if f"ship-{n}" not in swallowing.sent]
    assert [(the_run(journal, ref).next_check_at, the_run(journal, ref).resends) for ref, _ in unsent] == [(at, 0)] * 4, (
        "not counted"
    )
    for _ in range(4):
        sweeper.sweep(at)
    assert len(set(swallowing.sent)) == 10, "each has its turn"


def test_a_withdrawal_and_a_probe_that_the_time_does_not_reach_are_due_again_at_once(
    journal: Journal,
) -> None:
    ref = a_run(journal, "gone", a_step("asked", safety=Safety.PROBE))
    change(journal, ref, "gone", status=StepStatus.CANCELLED.value, next_check_at=1)
    in_doubt(journal, ref, "asked")
    at = journal.time() + DAY
    rows = journal.due.take_steps(at, 10)
    assert sorted(row.key for row in rows) == ["asked", "gone"]
    assert journal.due.take_steps(at, 10) == []
    journal.due.give_back(rows, at)
    assert sorted(row.key for row in journal.due.take_steps(at, 10)) == ["asked", "gone"]


def test_a_step_that_has_changed_since_it_was_taken_is_not_made_due_again(journal: Journal) -> None:
    (ref,) = due_again(journal, 1)
    at = journal.time() + DAY
    rows = journal.due.take_steps(at, 10)
    claim(journal, ref, "pay-0")
    before = the(journal, ref, "pay-0")
    journal.due.give_back(rows, at)
    assert the(journal, ref, "pay-0") == before
