"""A preview says what the order will do: each situation is brought about, previewed, ordered, and played to its end.

What the journal then holds, and what the bank has in its ledger, is compared with what was announced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa

from durable_adapter.errors import NotResolvable
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import step
from durable_adapter.model import (
    Effect,
    Kind,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
)
from durable_adapter.reconcile import orders
from durable_adapter.reconcile.changes import Change, Operator
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.verdicts import Verdict, decidable, decide
from tests.cli.conftest import SIGNED, Cli
from tests.journal.conftest import OpenJournal
from tests.journal.making import (
    DECLINED,
    NOTHING,
    ONE,
    TIMED_OUT,
    a_call,
    a_dispatch,
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

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
MONEY = {"attributes": {"total": "19.90"}, "amount": "total"}


def an_order(journal: Journal, *, pivot: bool = False) -> str:
    """A run of three steps, of which the first two can be undone."""
    return a_run(
        journal,
        a_step("reserve", compensation="release"),
        a_step("charge", compensation="refund", pivot=pivot),
        "ship",
        **MONEY,
    )


def running(journal: Journal) -> str:
    ref = an_order(journal)
    succeed(journal, ref, "reserve")
    return ref


def step_begun(journal: Journal) -> str:
    ref = running(journal)
    claim(journal, ref, "charge")
    return ref


def step_in_doubt(journal: Journal) -> str:
    ref = running(journal)
    in_doubt(journal, ref, "charge")
    return ref


def step_held(journal: Journal) -> str:
    ref = running(journal)
    held(journal, ref, "charge")
    return ref


def step_held_that_may_not_be_undone(journal: Journal) -> str:
    ref = a_run(journal, a_step("reserve", compensation="release"), "charge", "ship")
    succeed(journal, ref, "reserve")
    held(journal, ref, "charge")
    return ref


def last_step_held(journal: Journal) -> str:
    ref = running(journal)
    succeed(journal, ref, "charge")
    held(journal, ref, "ship")
    return ref


def waits_to_be_tried_again(journal: Journal) -> str:
    ref = running(journal)
    token = claim(journal, ref, "charge")
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "again", effect=Effect.DID_NOT_HAPPEN)
    return ref


def pivot_held(journal: Journal) -> str:
    ref = an_order(journal, pivot=True)
    succeed(journal, ref, "reserve")
    held(journal, ref, "charge")
    return ref


def failing_with_its_pivot_held(journal: Journal) -> str:
    ref = a_run(journal, a_step("reserve", compensation="release"), a_step("charge", pivot=True), "ship", **MONEY)
    succeed(journal, ref, "reserve")
    held(journal, ref, "charge")
    journal.undo.decision(ref)
    fail_forward(journal, ref, "ship")
    return ref


def fail_forward(journal: Journal, ref: str, key: str) -> None:
    """Fails a step that nothing holds back: as two members of a graph may run at once."""
    fail(journal, ref, key)


def failed_effect_unknown(journal: Journal) -> str:
    """Nothing can be undone: the run is failed."""
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    return ref


def rolling_back_effect_unknown(journal: Journal) -> str:
    ref = running(journal)
    fail(journal, ref, "charge", Effect.UNKNOWN)
    return ref


def rolling_back_while_a_step_is_held(journal: Journal) -> str:
    ref = step_held(journal)
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    return ref


def rolling_back_undo_held(journal: Journal) -> str:
    ref = running(journal)
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    held(journal, ref, "undo:reserve")
    return ref


def compensation_failed(journal: Journal) -> str:
    ref = running(journal)
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    fail(journal, ref, "undo:reserve", fails_run=False)
    return ref


def compensation_failed_effect_unknown(journal: Journal) -> str:
    ref = running(journal)
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    fail(journal, ref, "undo:reserve", Effect.UNKNOWN, fails_run=False)
    return ref


def compensated(journal: Journal) -> str:
    ref = running(journal)
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    undo = the(journal, ref, "undo:reserve")
    assert journal.ends.succeed_undo(ref, undo.key, claim(journal, ref, undo.key), "reserve", NOTHING).recorded
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATED
    return ref


def cancelled_with_a_step_held(journal: Journal) -> str:
    ref = step_held(journal)
    journal.runs.cancel(ref, who="bob", why="a test order")
    return ref


def failed_and_known_not_to_have_happened(journal: Journal) -> str:
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge")
    return ref


def function_whose_step_failed_effect_unknown(journal: Journal) -> str:
    ref = a_function(journal)
    call = a_call(ref, "charge", compensation="refund")
    assert journal.claims.begin_new(call)
    journal.ends.fail(the(journal, ref, "charge"), call.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False)
    return ref


def function_that_failed(journal: Journal) -> str:
    ref = a_function(journal)
    call = a_call(ref, "charge", compensation="refund")
    assert journal.claims.begin_new(call)
    assert journal.ends.succeed(ref, "charge", call.token or "", ONE, completes_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    return ref


def function_with_a_dispatched_step_held(journal: Journal) -> str:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "charge"))
    held(journal, ref, "charge")
    journal.runs.suspend(ref, waiting_for="step:charge", wake_at=None)
    return ref


def function_stopped_by_drift(journal: Journal) -> str:
    ref = a_function(journal)
    assert journal.doubts.hold_drift(the(journal, ref, "function"), "the code calls something else")
    return ref


def ended_by_its_engine(journal: Journal) -> str:
    ref = running(journal)
    journal.engine_ends.end(the(journal, ref, "charge"), "it was revoked")
    return ref


SITUATIONS = [
    ended_by_its_engine,
    running,
    step_begun,
    step_in_doubt,
    step_held,
    step_held_that_may_not_be_undone,
    last_step_held,
    waits_to_be_tried_again,
    pivot_held,
    failing_with_its_pivot_held,
    failed_effect_unknown,
    rolling_back_effect_unknown,
    rolling_back_while_a_step_is_held,
    rolling_back_undo_held,
    compensation_failed,
    compensation_failed_effect_unknown,
    compensated,
    cancelled_with_a_step_held,
    failed_and_known_not_to_have_happened,
    function_whose_step_failed_effect_unknown,
    function_that_failed,
    function_with_a_dispatched_step_held,
    function_stopped_by_drift,
]


def verdict(journal: Journal, ref: str, said: Verdict) -> Change:
    run, steps = the_run(journal, ref), journal.reads.steps(ref)
    operator = Operator(journal, who="ann", why="asked the bank", engines={}, caller=Caller())
    (row,) = decidable(run, steps) or [next(s for s in steps if s.status is not StepStatus.SUCCEEDED)]
    return decide(operator, run, steps, row, said, ONE if said is Verdict.HAPPENED else None)


def order(journal: Journal, ref: str, verb: str) -> Change:
    operator = Operator(journal, who="ann", why="asked the bank", engines={}, caller=Caller())
    made: Change = getattr(orders, verb)(operator, the_run(journal, ref), journal.reads.steps(ref))
    return made


ORDERS: dict[str, Callable[[Journal, str], Change]] = {
    "happened": lambda journal, ref: verdict(journal, ref, Verdict.HAPPENED),
    "did not happen": lambda journal, ref: verdict(journal, ref, Verdict.DID_NOT_HAPPEN),
    "failed": lambda journal, ref: verdict(journal, ref, Verdict.FAILED),
    "retry": lambda journal, ref: order(journal, ref, "retry"),
    "rollback": lambda journal, ref: order(journal, ref, "rollback"),
    "cancel": lambda journal, ref: order(journal, ref, "cancel"),
}


def everything(journal: Journal, ref: str) -> tuple[object, ...]:
    """All that the journal holds of a run."""
    return the_run(journal, ref), journal.reads.steps(ref), journal.events.of(ref)


@dataclass
class World:
    """Plays a run to its end as workers would, and keeps the bank's ledger."""

    journal: Journal
    ref: str
    ledger: list[str] = field(default_factory=list)

    def play(self) -> None:
        for _ in range(20):
            if not self._one_step():
                return
        raise AssertionError("it does not come to an end")

    def _one_step(self) -> bool:
        journal, ref = self.journal, self.ref
        begun = [s for s in journal.reads.steps(ref) if s.status is StepStatus.BEGUN and s.kind is not Kind.COMPENSATION]
        for row in begun:
            self.ledger.append(row.name)
            assert journal.ends.succeed(ref, row.key, row.token or "", ONE, completes_run=bool(row.options.get("counts")))
        decision = journal.undo.reconsider(ref)
        if decision is not None and decision.undo is not None and decision.target is not None:
            self.ledger.append(f"{decision.undo.name} of {decision.target.name}")
            token = claim(journal, ref, decision.undo.key)
            assert journal.ends.succeed_undo(ref, decision.undo.key, token, decision.target.key, NOTHING).recorded
            return True
        if the_run(journal, ref).status is not WorkflowStatus.RUNNING:
            return False
        members = [s for s in journal.reads.steps(ref) if s.kind is Kind.STEP]
        following = next((s for s in members if s.status is not StepStatus.SUCCEEDED), None)
        if following is None or following.status not in (StepStatus.PLANNED, StepStatus.WAITING):
            return False
        self.ledger.append(following.name)
        succeed(journal, ref, following.key, completes_run=bool(following.options.get("counts")))
        return True


@pytest.mark.parametrize("verb", ORDERS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_announced_is_what_happens(journal: Journal, situation: Callable[[Journal], str], verb: str) -> None:
    ref = situation(journal)
    rows = everything(journal, ref)
    try:
        made = ORDERS[verb](journal, ref)
    except NotResolvable:
        assert everything(journal, ref) == rows
        return
    assert everything(journal, ref) == rows, "a preview changes nothing"
    outcome = made.carry_out()
    assert outcome.done, outcome.says
    after = the_run(journal, ref)
    world = World(journal, ref)
    world.play()
    _compare(made, world, after)


def _compare(made: Change, world: World, after: WorkflowRow) -> None:
    """Holds each sentence of a preview against the bank's ledger."""
    undone = [line.partition(" of ")[2] for line in world.ledger if " of " in line]
    for said in made.consequences:
        if said.startswith("begins a rollback that undoes "):
            names = said.removeprefix("begins a rollback that undoes ").split(", ")
            assert undone[-len(names) :] == names or set(names) <= set(undone), (said, world.ledger)
        elif " runs now and undoes " in said:
            name, _, target = said.partition(" runs now and undoes ")
            assert f"{name} of {target.partition(' (')[0]}" in world.ledger, (said, world.ledger)
        elif said.startswith("cancels "):
            name = said.removeprefix("cancels ").partition(",")[0]
            assert name not in world.ledger, (said, world.ledger)
        elif ": its success is undone by " in said:
            name, _, undo = said.partition(" runs now: its success is undone by ")
            assert f"{undo} of {name}" in world.ledger, (said, world.ledger)
        elif said.startswith("a new attempt of ") and after.status is WorkflowStatus.RUNNING:
            name = said.removeprefix("a new attempt of ").partition(" is due")[0]
            assert name in world.ledger, (said, world.ledger)
    if undone:
        told = " ".join(made.consequences)
        assert "rollback" in told, (made.consequences, world.ledger)
    if "nothing is undone" in " ".join(made.consequences):
        assert not undone, (made.consequences, world.ledger)


@on_sqlite
def test_a_verdict_that_begins_a_refund_says_so_and_how_much(cli: Cli, journal: Journal) -> None:
    ref = rolling_back_effect_unknown(journal)
    told = cli("resolve", ref, "charge", "--happened", "1", code=0).stdout
    assert "  - refund runs now and undoes charge (at stake: 19.90)\n" in told
    assert "the rollback goes on; still to be undone: charge, reserve\n" in told
    cli("resolve", ref, "charge", "--happened", "1", *SIGNED, code=0)
    world = World(journal, ref)
    world.play()
    assert world.ledger == ["refund of charge", "release of reserve"]


def siblings_held(journal: Journal) -> str:
    """Two steps that run side by side, both held, and a third that comes after both."""
    ref = a_run(
        journal,
        a_step("p0", after=[], pending=0),
        a_step("p1", after=[], pending=0),
        a_step("p2", after=[], pending=0),
        a_step("ship", after=["p0", "p1"], pending=2),
        a_step("mail", after=["p2"], pending=1, completes_run=True),
    )
    held(journal, ref, "p0")
    held(journal, ref, "p1")
    return ref


@on_sqlite
def test_only_what_comes_after_a_step_is_said_to_be_sent_behind_it(cli: Cli, journal: Journal) -> None:
    ref = siblings_held(journal)
    told = cli("resolve", ref, "p0", "--happened", "1", code=0).stdout
    assert "  - ship still waits for other steps\n" in told
    assert "is sent" not in told
    assert "mail" not in told
    assert "p2" not in told
    cli("resolve", ref, "p0", "--happened", "1", *SIGNED, code=0)
    told = cli("resolve", ref, "p1", "--happened", "1", code=0).stdout
    assert "  - what follows it is sent: ship\n" in told
    assert "mail" not in told


@on_sqlite
def test_did_not_happen_in_a_rollback_is_not_tried_again_and_says_so(cli: Cli, journal: Journal) -> None:
    ref = rolling_back_while_a_step_is_held(journal)
    told = cli("resolve", ref, "charge", "--did-not-happen", code=0).stdout
    assert "  - charge is cancelled, and not tried again: the workflow is rolling back\n" in told
    assert "a new attempt" not in told


@on_sqlite
def test_a_rollback_while_a_step_runs_says_what_runs_and_what_becomes_of_it(cli: Cli, journal: Journal) -> None:
    ref = step_begun(journal)
    token = the(journal, ref, "charge").token
    assert journal.workers.beat("w1", [f"{ref} {token} charge"])
    told = cli("rollback", ref, code=0).stdout
    assert "  - charge runs now on here (pid 1): its success is undone by refund\n" in told
    assert "cancels ship, which is planned" in told
    assert "cancels charge" not in told


@on_sqlite
def test_a_function_that_runs_is_not_said_to_be_cancelled_before_it_ran(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge", compensation="refund")
    assert journal.claims.begin_new(call)
    assert journal.ends.succeed(ref, "charge", call.token or "", ONE, completes_run=False)
    assert journal.workers.beat("w1", [f"{ref}  function"])
    told = cli("rollback", ref, code=0).stdout
    assert "  - order runs now on here (pid 1), and is cancelled: it begins no further step\n" in told
    assert "cancels order" not in told


@pytest.mark.parametrize("verb", ["rollback", "cancel", "retry", "did not happen"])
def test_what_changed_since_the_preview_is_not_done_and_is_told(journal: Journal, verb: str) -> None:
    ref = step_held(journal) if verb == "did not happen" else waits_to_be_tried_again(journal)
    if verb == "retry":
        ref = failed_and_known_not_to_have_happened(journal)
    made = ORDERS[verb](journal, ref)
    if verb == "did not happen":
        journal.undo.begin(ref, who="bob", why="the customer withdrew")
    elif verb == "retry":
        change(journal, ref, "ship", status=StepStatus.PLANNED.value)
    else:
        succeed(journal, ref, "charge")
    before = statuses(journal, ref)
    outcome = made.carry_out()
    assert not outcome.done
    assert outcome.says.startswith("Nothing was changed: while you were deciding, ")
    assert statuses(journal, ref) == before


def test_of_three_people_one_decides_and_the_others_are_told_by_whom_and_when(journal: Journal, elsewhere: OpenJournal) -> None:
    ref = step_held(journal)
    mine, hers = ORDERS["did not happen"](journal, ref), ORDERS["rollback"](journal, ref)
    other = elsewhere()
    operator = Operator(other, who="bob", why="the bank has it", engines={}, caller=Caller())
    row = the(other, ref, "charge")
    assert decide(operator, the_run(other, ref), other.reads.steps(ref), row, Verdict.HAPPENED, ONE).carry_out().done
    for late in (mine, hers):
        outcome = late.carry_out()
        assert not outcome.done
        assert "bob decided (happened) at 20" in outcome.next
        assert " UTC (" in outcome.next
        assert "the bank has it" in outcome.next
    assert [e["who"] for e in journal.events.of(ref) if e["kind"] == "verdict"] == ["bob"]
    assert statuses(journal, ref)["charge"] == "succeeded"


def test_an_order_does_not_wait_for_a_transactional_step(journal: Journal, elsewhere: OpenJournal) -> None:
    ref = running(journal)
    made = ORDERS["rollback"](journal, ref)
    if journal.db.is_sqlite:
        return  # all of SQLite is one lock: whoever has it is done in a moment, or is waited for
    other = elsewhere()
    with other.db.open_transaction() as connection:
        connection.execute(sa.select(step.c.key).where(step.c.ref == ref, step.c.key == "charge").with_for_update()).all()
        outcome = made.carry_out()
        with pytest.raises(NotResolvable, match="cannot be changed now: another transaction keeps a row of this run"):
            ORDERS["rollback"](journal, ref)
    assert (outcome.done, outcome.says[:54]) == (False, "Nothing was changed: another transaction keeps a row o")
    assert statuses(journal, ref)["run"] == "running"
    assert made.carry_out().done
