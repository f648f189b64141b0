"""An idempotent step is claimed before its first attempt: what runs is begun, and nothing is decided behind its back."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import durable_adapter as durable
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred, Killed, StepFailed
from durable_adapter.journal import Journal
from durable_adapter.model import Attention, Cause, Effect, Event, Kind, Safety, StepStatus, WorkflowStatus
from durable_adapter.reconcile.changes import Operator
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.finding import Trouble
from durable_adapter.reconcile.orders import acknowledge
from durable_adapter.reconcile.survey import look_for_trouble
from durable_adapter.recovery import Sweeper
from tests.calls.conftest import Workplace
from tests.journal.making import (
    DECLINED,
    ONE,
    TWO,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    about,
    claim,
    events,
    fail,
    held,
    in_doubt,
    statuses,
    succeed,
    the,
    the_run,
)

IDEMPOTENT = StepPolicy(idempotent=True)
OPTIONS = {"counts": True, "window": IDEMPOTENT.window}
#: How long a test waits for another thread or process before it fails.
PATIENCE = 30


def a_shipment(journal: Journal) -> str:
    """A run whose only step is idempotent and can be undone."""
    return a_run(journal, a_step("ship", safety=Safety.IDEMPOTENT, compensation="recall", options=OPTIONS))


def cancelled(journal: Journal, ref: str) -> None:
    journal.runs.cancel(ref, who="ann", why="the customer changed her mind")


def rolled_back(journal: Journal, ref: str) -> None:
    journal.undo.begin(ref, who="ann", why="the customer changed her mind")


def died(journal: Journal, sweeper: Sweeper, worker_id: str) -> None:
    """A worker's process is found dead, and what follows from that is done."""
    (row,) = [w for w in journal.workers.alive() if w.id == worker_id]
    assert journal.workers.stood_still(row.id, row.beats, "its beat stood still")
    sweeper.sweep()


def undo(at_work: Workplace, ref: str) -> None:
    """Delivers the compensation of the shipment."""
    assert at_work.step(ref, "undo:ship", lambda: "recalled", kind=Kind.COMPENSATION, name="recall") == "recalled"


@pytest.mark.parametrize("give_up", [cancelled, rolled_back])
def test_what_runs_while_its_run_is_given_up_stays_begun_and_is_undone(
    journal: Journal, at_work: Workplace, give_up: Callable[[Journal, str], None]
) -> None:
    ref = a_shipment(journal)

    def ship() -> str:
        give_up(journal, ref)
        assert the(journal, ref, "ship").status is StepStatus.BEGUN
        return "parcel 1"

    assert at_work.step(ref, "ship", ship, IDEMPOTENT, completes_run=True) == "parcel 1"
    row = the(journal, ref, "ship")
    assert (row.status, row.marks, row.attempt) == (StepStatus.SUCCEEDED, [], 1)
    if give_up is cancelled:
        assert the_run(journal, ref).status is WorkflowStatus.CANCELLED
        rolled_back(journal, ref)
    journal.undo.reconsider(ref)
    undo(at_work, ref)
    assert statuses(journal, ref) == {"run": "compensated", "ship": "undone", "undo:ship": "succeeded"}


@pytest.mark.parametrize("give_up", [cancelled, rolled_back])
def test_what_dies_while_its_run_is_given_up_is_in_doubt_and_is_undone_when_it_is_known(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, give_up: Callable[[Journal, str], None]
) -> None:
    ref = a_shipment(journal)

    def ship() -> None:
        give_up(journal, ref)
        raise Killed("after the shipment")

    with pytest.raises(Killed):
        at_work.step(ref, "ship", ship, IDEMPOTENT)
    assert the(journal, ref, "ship").status is StepStatus.BEGUN
    died(journal, sweeper, at_work.host.worker)
    assert the(journal, ref, "ship").status is StepStatus.IN_DOUBT

    with pytest.raises(StepFailed, match="no error was recorded"):
        at_work.step(ref, "ship", lambda: "again", IDEMPOTENT)
    row = the(journal, ref, "ship")
    assert (row.status, row.effect, row.marks) == (StepStatus.FAILED, Effect.UNKNOWN, [Attention.EFFECT_UNKNOWN])
    assert at_work.ran == {"ship": 1}, "nothing of a run that is given up begins again"
    if give_up is rolled_back:
        assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK, "it is not over while nobody knows"
    assert journal.verdicts.happened(row, ONE, who="ann", why="the parcel is on its way").recorded
    if give_up is cancelled:
        rolled_back(journal, ref)
    journal.undo.reconsider(ref)
    undo(at_work, ref)
    assert statuses(journal, ref) == {"run": "compensated", "ship": "undone", "undo:ship": "succeeded"}


def test_what_dies_in_a_run_that_goes_on_is_taken_over_under_the_same_key(
    journal: Journal, at_work: Workplace, sweeper: Sweeper
) -> None:
    ref, sent = a_shipment(journal), []

    def ship() -> str:
        sent.append(durable.idempotency_key())
        if len(sent) == 1:
            raise Killed("after the shipment")
        return "parcel 1"

    with pytest.raises(Killed):
        at_work.step(ref, "ship", ship, IDEMPOTENT)
    died(journal, sweeper, at_work.host.worker)
    assert the(journal, ref, "ship").status is StepStatus.IN_DOUBT
    assert at_work.step(ref, "ship", ship, IDEMPOTENT, completes_run=True) == "parcel 1"
    assert (len(sent), len(set(sent))) == (2, 1)
    assert statuses(journal, ref) == {"run": "succeeded", "ship": "succeeded"}


@contextlib.contextmanager
def in_a_thread(call: Callable[[], Any]) -> Iterator[list[Any]]:
    """Makes a call beside the test, and holds what it returned once the block has ended."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    yield found
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("kind", [Kind.STEP, Kind.DISPATCH])
@pytest.mark.parametrize("again", [False, True])
def test_a_second_delivery_does_not_run_the_body_while_the_first_one_does(
    journal: Journal, at_work: Workplace, kind: Kind, again: bool
) -> None:
    if kind is Kind.STEP:
        ref = a_shipment(journal)
    else:
        ref = a_function(journal)
        dispatched = a_dispatch(ref, "ship", 1, safety=Safety.IDEMPOTENT, options=OPTIONS)
        assert journal.claims.plan_new(dispatched)
    inside, go = threading.Event(), threading.Event()

    def ship() -> str:
        inside.set()
        assert go.wait(PATIENCE)
        return "parcel 1"

    with in_a_thread(lambda: at_work.step(ref, "ship", ship, IDEMPOTENT, kind=kind)) as first:
        assert inside.wait(PATIENCE)
        try:
            with pytest.raises(Deferred, match="running under another claim"):
                at_work.step(ref, "ship", lambda: "a second parcel", IDEMPOTENT, kind=kind, again=again)
            assert at_work.ran == {"ship": 1}
        finally:
            go.set()
    assert first == ["parcel 1"]
    assert events(journal, ref) == [Event.SUPPRESSED]
    assert (the(journal, ref, "ship").attempt, at_work.ran) == (1, {"ship": 1})


#: A worker's process: it runs the step whose run is named, and says when it is in its body.
WORKER = """\
import sys
from durable_adapter.journal import Journal
from durable_adapter.model import Kind
from durable_adapter.declare.policy import StepPolicy
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.host import Host
from durable_adapter.runtime.steps import run_step
from tests.calls.conftest import NEVER, CallingEngine
import durable_adapter as durable

def ship(_):
    print(durable.idempotency_key(), flush=True)
    sys.stdin.read()

host = Host(Journal(sys.argv[1]), CallingEngine(), stale=NEVER, beat=NEVER)
print(host.worker, flush=True)
policy = StepPolicy(idempotent=True)
run_step(host, Call(ref=sys.argv[2], key="ship", name="ship", policy=policy, body=ship, kind=Kind.STEP, args=(), kwargs={}))
"""


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb", "sqlite"], indirect=True)
def test_a_worker_that_is_killed_in_its_first_attempt_leaves_a_begun_step(
    journal: Journal, at_work: Workplace, sweeper: Sweeper, url: str
) -> None:
    ref = a_shipment(journal)
    command = [sys.executable, "-c", WORKER, url, ref]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            worker, key = process.stdout.readline().strip(), process.stdout.readline().strip()
        finally:
            process.kill()
    assert process.returncode == -9
    row = the(journal, ref, "ship")
    assert (row.status, row.worker, row.attempt, row.safety) == (StepStatus.BEGUN, worker, 1, Safety.IDEMPOTENT)
    assert row.first_begun_at == about(row.begun_at)

    died(journal, sweeper, worker)
    assert the(journal, ref, "ship").status is StepStatus.IN_DOUBT
    assert at_work.step(ref, "ship", durable.idempotency_key, IDEMPOTENT) == key, "the provider tells that it is the same"
    assert the(journal, ref, "ship").attempt == 2


class TestTwice:
    """That a step may have happened twice is shown until a person acknowledges it, whatever becomes of the step."""

    def happened_twice(self, journal: Journal) -> str:
        """Another worker's attempt runs, and the one that a verdict was about reports success."""
        ref = a_run(journal, a_step("charge", safety=Safety.PROBE, compensation="refund"), "ship")
        first = held(journal, ref, "charge")
        journal.verdicts.did_not_happen(first, who="ann", why="not in the ledger")
        self.token = claim(journal, ref, "charge")
        journal.ends.late(ref, "charge", first.token or "", ONE, "w1")
        self.is_shown(journal, ref, StepStatus.BEGUN)
        return ref

    def is_shown(self, journal: Journal, ref: str, status: StepStatus) -> None:
        row = the(journal, ref, "charge")
        assert (row.status, row.twice_at is not None, row.marks[:1]) == (status, True, [Attention.TWICE])
        findings = look_for_trouble(journal, namespace="default").findings
        assert Trouble.TWICE in [finding.kind for finding in findings if finding.step == "charge"]

    def in_doubt(self, journal: Journal, ref: str) -> None:
        row = the(journal, ref, "charge")
        assert journal.doubts.raise_doubt(row, self.token, "its worker died", cause=Cause.WORKER_DIED, over=True)
        self.is_shown(journal, ref, StepStatus.IN_DOUBT)

    def test_it_survives_a_probe(self, journal: Journal, at_work: Workplace) -> None:
        ref = self.happened_twice(journal)
        self.in_doubt(journal, ref)
        policy = StepPolicy(probe=lambda: durable.happened("ch_2"))
        assert at_work.step(ref, "charge", lambda: "ch_3", policy) == "ch_2"
        self.is_shown(journal, ref, StepStatus.SUCCEEDED)

    @pytest.mark.parametrize("verdict", ["happened", "did not happen", "failed"])
    def test_it_survives_a_persons_verdict(self, journal: Journal, verdict: str) -> None:
        ref = self.happened_twice(journal)
        self.in_doubt(journal, ref)
        assert journal.doubts.hold(the(journal, ref, "charge"), "nobody can tell")
        self.is_shown(journal, ref, StepStatus.HELD)
        row, said = the(journal, ref, "charge"), {"who": "ann", "why": "so says the bank"}
        if verdict == "happened":
            assert journal.verdicts.happened(row, TWO, **said).recorded
            self.is_shown(journal, ref, StepStatus.SUCCEEDED)
        elif verdict == "did not happen":
            assert journal.verdicts.did_not_happen(row, **said).recorded
            self.is_shown(journal, ref, StepStatus.WAITING)
            succeed(journal, ref, "charge")
            self.is_shown(journal, ref, StepStatus.SUCCEEDED)
        else:
            assert journal.ends.fail(row, None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True, **said).recorded
            self.is_shown(journal, ref, StepStatus.FAILED)

    def rolled_back(self, journal: Journal) -> str:
        """Its rollback has undone it, once."""
        ref = self.happened_twice(journal)
        assert journal.ends.succeed(ref, "charge", self.token, TWO, completes_run=False)
        fail(journal, ref, "ship")
        undone = journal.ends.succeed_undo(ref, "undo:charge", claim(journal, ref, "undo:charge"), "charge", ONE)
        assert undone.decision.status is WorkflowStatus.COMPENSATED
        return ref

    def test_it_survives_a_rollback_and_its_run_is_shown(self, journal: Journal) -> None:
        """One refund takes back one charge: the rollback does not end as if nothing were left."""
        ref = self.rolled_back(journal)
        self.is_shown(journal, ref, StepStatus.UNDONE)
        run = the_run(journal, ref)
        assert (run.status, run.attention) == (WorkflowStatus.COMPENSATED, Attention.TWICE)
        assert ref in journal.reads.troubled_refs()

    @pytest.mark.parametrize("whole_run", [True, False])
    def test_acknowledging_clears_it(self, journal: Journal, whole_run: bool) -> None:
        ref = self.rolled_back(journal)
        operator = Operator(journal, engines={}, who="ann", why="the second charge was refunded by hand", caller=Caller())
        steps = journal.reads.steps(ref)
        charge = next(s for s in steps if s.key == "charge")
        assert acknowledge(operator, the_run(journal, ref), steps, None if whole_run else charge).carry_out().done
        row = the(journal, ref, "charge")
        assert (row.status, row.twice_at, row.marks) == (StepStatus.UNDONE, None, [])
        assert the_run(journal, ref).attention is None
        assert journal.reads.troubled_refs() == set()
        assert look_for_trouble(journal, namespace="default").findings == []

    def test_a_rollback_of_what_happened_once_shows_nothing(self, journal: Journal) -> None:
        ref = a_run(journal, a_step("charge", compensation="refund"), "ship")
        in_doubt(journal, ref, "charge")
        assert journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="in the ledger").recorded
        fail(journal, ref, "ship")
        journal.ends.succeed_undo(ref, "undo:charge", claim(journal, ref, "undo:charge"), "charge", ONE)
        assert (the_run(journal, ref).status, the_run(journal, ref).attention) == (WorkflowStatus.COMPENSATED, None)
