"""`retry`, `rollback` and `cancel`: what each does, what it refuses and why, and what happens to many at once."""

from __future__ import annotations

import json
import re

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import SECOND, Effect, Event, Kind, Safety, StepStatus, WorkflowStatus
from durable_adapter.reconcile import orders
from durable_adapter.reconcile.changes import Operator
from durable_adapter.reconcile.commands import Caller
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.making import (
    DECLINED,
    MINUTE,
    ONE,
    TIMED_OUT,
    a_call,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    age,
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
LAST = {"counts": True}


def refusal(cli: Cli, *words: str) -> str:
    """Why a command is refused."""
    return " ".join(cli(*words, *SIGNED, code=1).stderr.split())


def test_retry_runs_what_failed_and_then_what_was_cancelled(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", "mail")
    fail(journal, ref, "charge")
    told = cli("retry", ref, code=0)
    assert f"{ref}: would run charge again.\n" in told.stdout
    assert "  - then what was cancelled runs: ship, mail\n" in told.stdout
    assert statuses(journal, ref)["run"] == "failed"
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "charge": "waiting", "ship": "planned", "mail": "planned"}
    last = journal.events.of(ref)[-1]
    assert (last["kind"], last["who"], last["why"], last["detail"]["action"]) == (
        Event.OPERATOR, "ann", "the bank says so", "retry"
    )  # fmt: skip


def test_retry_of_a_function_runs_the_step_that_it_failed_with(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    for position, (key, error) in enumerate((("caught", TIMED_OUT), ("charge", DECLINED)), 1):
        call = a_call(ref, key, position)
        assert journal.claims.begin_new(call)
        journal.ends.fail(the(journal, ref, key), call.token, error, Effect.DID_NOT_HAPPEN, fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    told = cli("retry", ref, code=0)
    assert "would run charge again; run order again from the top, with what is recorded." in told.stdout
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {
        "run": "running", "function": "waiting", "caught": "failed", "charge": "waiting"
    }  # fmt: skip


def test_retry_of_a_function_that_failed_by_itself_runs_only_the_function(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "caught")
    assert journal.claims.begin_new(call)
    journal.ends.fail(the(journal, ref, "caught"), call.token, TIMED_OUT, Effect.DID_NOT_HAPPEN, fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "function": "waiting", "caught": "failed"}


def test_retry_with_a_dispatched_step_that_failed_counts_it_again(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "ledger"))
    fail(journal, ref, "ledger", fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    before = the_run(journal, ref).open_steps
    cli("retry", ref, "ledger", *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "function": "waiting", "ledger": "waiting"}
    assert the_run(journal, ref).open_steps == before + 1


@on_sqlite
def test_retry_refuses_what_may_have_happened(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", id="order-1", declared=True)
    fail(journal, ref, "charge", Effect.UNKNOWN)
    told = refusal(cli, "retry", "order-1")
    assert "step charge of order-1 failed, and its effect may have happened: running it again might repeat it." in told
    commands = [f"`durable-adapter resolve {said} -- order-1 charge`" for said in ("--happened VALUE", "--did-not-happen")]
    assert f"First say what happened: {' or '.join(commands)}. See `durable-adapter explain -- order-1`." in told
    assert statuses(journal, ref)["run"] == "failed"


@on_sqlite
def test_retry_runs_an_idempotent_step_again_inside_its_window_only(cli: Cli, journal: Journal) -> None:
    options = {"window": 30 * MINUTE}
    ref = a_run(journal, a_step("charge", safety=Safety.IDEMPOTENT, options=options))
    fail(journal, ref, "charge", Effect.UNKNOWN)
    age(journal, ref, "charge", by=20 * MINUTE)
    assert cli("retry", ref).exit_code == 0
    age(journal, ref, "charge", by=20 * MINUTE)
    assert "its idempotency window has passed, and running it again might repeat it" in refusal(cli, "retry", ref)


@on_sqlite
def test_retry_waits_for_a_verdict_on_the_step_that_the_function_failed_with(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge")
    assert journal.claims.begin_new(call)
    journal.ends.fail(the(journal, ref, "charge"), call.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, TIMED_OUT, Effect.DID_NOT_HAPPEN, fails_run=True)
    assert "failed, and its effect may have happened" in refusal(cli, "retry", ref)


@on_sqlite
def test_retry_waits_for_a_verdict_on_a_step_that_the_function_caught(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    for position, (key, error, effect) in enumerate(
        (("charge", TIMED_OUT, Effect.UNKNOWN), ("ship", DECLINED, Effect.DID_NOT_HAPPEN)), 1
    ):
        call = a_call(ref, key, position)
        assert journal.claims.begin_new(call)
        journal.ends.fail(the(journal, ref, key), call.token, error, effect, fails_run=False)
    journal.ends.fail(the(journal, ref, "function"), None, DECLINED, Effect.DID_NOT_HAPPEN, fails_run=True)
    told = refusal(cli, "retry", ref)
    assert "step charge of" in told
    assert "may have happened, and nobody has said" in told


@on_sqlite
def test_retry_does_not_repeat_a_failure_that_happened_after_all(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    call = a_call(ref, "charge")
    assert journal.claims.begin_new(call)
    journal.ends.fail(the(journal, ref, "charge"), call.token, TIMED_OUT, Effect.UNKNOWN, fails_run=False)
    journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="the bank has it")
    told = refusal(cli, "retry", ref, "charge")
    assert "failed and happened all the same (ann: happened: the bank has it): running it again would repeat it" in told
    journal.ends.fail(the(journal, ref, "function"), None, TIMED_OUT, Effect.DID_NOT_HAPPEN, fails_run=True)
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "function": "waiting", "charge": "succeeded"}


@on_sqlite
def test_retry_leaves_held_steps_to_resolve(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    told = refusal(cli, "retry", ref)
    assert f"step charge of {ref} is held: only a verdict takes it further." in told
    commands = re.findall("`durable-adapter (resolve [^`]+)`", told)
    assert len(commands) == 3
    for command in commands:  # each is whole: it may be run as it stands, but for its value
        assert "would record that charge" in cli(*command.replace("VALUE", "1").split(), code=0).stdout


@on_sqlite
def test_retry_of_what_succeeded_or_is_not_failed_says_so(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options=LAST))
    assert f"step charge of {ref} is planned, not failed." in refusal(cli, "retry", ref, "charge")
    succeed(journal, ref, "charge", completes_run=True)
    assert f"{ref} is succeeded: there is nothing to go on with." in refusal(cli, "retry", ref)


@on_sqlite
def test_retry_does_not_run_unmarked_tasks(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("mail", kind=Kind.UNMARKED, options=LAST))
    succeed(journal, ref, "charge")
    journal.members.record_unmarked(ref, "mail", None, failed=DECLINED)
    told = refusal(cli, "retry", ref)
    assert "step mail of" in told
    assert "is not marked durable: what it did before is not recorded, and it is never sent again" in told


def test_retry_takes_a_cancelled_run_up_again(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", options=LAST))
    succeed(journal, ref, "charge")
    cli("cancel", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "cancelled", "charge": "succeeded", "ship": "cancelled"}
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "planned"}
    assert the(journal, ref, "charge").next_check_at is not None, "its memo sends what follows"


def test_retry_completes_a_run_of_which_everything_happened_after_all(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options=LAST))
    fail(journal, ref, "charge", Effect.UNKNOWN)
    cli("resolve", ref, "--happened", "1", *SIGNED, code=0)
    assert statuses(journal, ref)["run"] == "failed"
    cli("retry", ref, *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "succeeded", "charge": "succeeded"}
    assert cli.findings() == {}


@on_sqlite
def test_retry_of_a_run_that_is_forgotten_is_refused(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-1", declared=True)
    fail(journal, ref, "charge")
    age(journal, ref)
    journal.retention.forget(journal.time())
    assert "order-1 ended long ago, and its steps are forgotten." in refusal(cli, "retry", "order-1")


def test_retry_in_bulk_goes_on_with_everything_that_failed_at_a_step(cli: Cli, journal: Journal) -> None:
    refs = [a_run(journal, "charge", "ship") for _ in range(3)]
    for ref in refs[:2]:
        fail(journal, ref, "charge")
    fail(journal, refs[2], "charge", Effect.UNKNOWN)
    old = a_run(journal, "charge")
    fail(journal, old, "charge")
    age(journal, old, None, "created_at", by=5 * 60 * MINUTE)
    told = cli.json("retry", "--task", "charge", "--since", "1h", *SIGNED, code=1)
    assert {c["ref"] for c in told["changes"]} == set(refs[:2])
    assert len(told["refused"]) == 1
    assert "its effect may have happened" in told["refused"][0]
    assert [statuses(journal, ref)["run"] for ref in (*refs, old)] == ["running", "running", "failed", "failed"]


@on_sqlite
def test_an_order_that_comes_too_late_changes_nothing_and_says_so(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    run, steps = the_run(journal, ref), journal.reads.steps(ref)
    operator = Operator(journal, who="ann", why="so", engines={}, caller=Caller())
    cancel, retry = orders.cancel(operator, run, steps), orders.retry(operator, run, steps)
    succeed(journal, ref, "charge")
    fail(journal, ref, "ship")
    for change_ in (cancel, retry):
        outcome = change_.carry_out()
        assert outcome.done is False
        assert outcome.says == f"Nothing was changed: while you were deciding, {ref} became failed."
    assert the_run(journal, ref).status is WorkflowStatus.FAILED


def test_rollback_undoes_in_reverse_and_cancels_the_rest(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("flight", compensation="refund_flight"), a_step("hotel", compensation="refund_hotel"), "mail")
    succeed(journal, ref, "flight", "hotel")
    change(journal, ref, "flight", ended_at=1)
    told = cli("rollback", ref, code=0).stdout
    assert "  - begins a rollback that undoes hotel, flight\n  - refund_hotel runs now and undoes hotel\n" in told
    assert "  - cancels mail, which is planned\n" in told
    assert statuses(journal, ref)["run"] == "running"
    done = cli("rollback", ref, *SIGNED, code=0).stdout
    assert f"{ref} is being rolled back. The next sweep sends refund_hotel." in done
    assert statuses(journal, ref) == {
        "run": "rolling_back", "flight": "succeeded", "hotel": "succeeded", "mail": "cancelled", "undo:hotel": "planned"
    }  # fmt: skip
    assert (the_run(journal, ref).next_check_at or 0) <= journal.time()


@on_sqlite
def test_rollback_sends_the_first_compensation_where_the_app_is_at_hand(cli: Cli, journal: Journal, shop: Shop) -> None:
    (shop.app.tasks["reserve"].s("42") | shop.app.tasks["charge"].s()).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    succeed(journal, ref, journal.reads.steps(ref)[0].key)
    done = cli("-A", shop.name, "rollback", ref, *SIGNED, code=0).stdout
    assert "refund was sent." in done
    assert shop.sent == ["reserve", "refund"]


@on_sqlite
def test_a_broker_that_is_away_leaves_the_sending_to_the_sweepers(
    cli: Cli, journal: Journal, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop.app.tasks["reserve"].s("42") | shop.app.tasks["charge"].s()).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    succeed(journal, ref, journal.reads.steps(ref)[0].key)

    def away(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("no broker")

    monkeypatch.setattr(shop.binding.engine, "_publish", away)
    done = cli("-A", shop.name, "rollback", ref, *SIGNED, code=0).stdout
    assert "refund could not be sent now (ConnectionRefusedError); the sweepers send it" in done
    assert statuses(journal, ref)["run"] == "rolling_back"


@on_sqlite
def test_rollback_says_what_it_waits_for(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), a_step("charge", compensation="refund"), "mail")
    succeed(journal, ref, "reserve")
    held(journal, ref, "charge")
    result = cli("rollback", ref, code=0)
    assert "  - charge is held: once `resolve` has said that it happened, it is undone\n" in result.stdout


@on_sqlite
@pytest.mark.parametrize("decided", [True, False])
def test_rollback_stops_at_the_pivot(cli: Cli, journal: Journal, decided: bool) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), a_step("capture", pivot=True), "mail")
    succeed(journal, ref, "reserve")
    if decided:
        succeed(journal, ref, "capture")
    else:
        in_doubt(journal, ref, "capture")
    told = refusal(cli, "rollback", ref)
    assert f"{ref} cannot be rolled back: its pivot capture" in told
    assert ("has succeeded, and behind it there is only forward" if decided else "may have happened: resolve it first") in told


@on_sqlite
def test_nothing_offers_the_rollback_that_a_passed_pivot_refuses(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), a_step("capture", pivot=True), "mail")
    succeed(journal, ref, "reserve")
    assert "can be undone" in cli("cancel", ref, code=0).stderr
    succeed(journal, ref, "capture")
    told = cli("cancel", ref, *SIGNED, code=0)
    assert "rollback" not in told.stdout + told.stderr
    told = cli("explain", ref, code=0)
    assert "to go on where it stopped" in told.stdout
    assert "rollback" not in told.stdout


def test_rollback_stops_at_a_pivot_that_is_passed_while_the_operator_decides(journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), a_step("capture", pivot=True), "mail")
    succeed(journal, ref, "reserve")
    run, steps = the_run(journal, ref), journal.reads.steps(ref)
    order = orders.rollback(Operator(journal, who="ann", why="so", engines={}, caller=Caller()), run, steps)
    succeed(journal, ref, "capture")
    outcome = order.carry_out()
    assert (outcome.done, outcome.says) == (False, "Nothing was changed: while you were deciding, its pivot was passed.")
    assert statuses(journal, ref)["run"] == "running"


@on_sqlite
def test_rollback_where_nothing_can_be_undone_points_to_cancel(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    succeed(journal, ref, "charge")
    told = refusal(cli, "rollback", ref)
    assert "has nothing to undo: no step of it that happened declares compensate=." in told
    assert f"`durable-adapter cancel -- {ref}` ends it without undoing anything" in told


@on_sqlite
def test_rollback_of_what_failed_does_not_point_to_cancel_which_refuses_it(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge")
    told = refusal(cli, "rollback", ref)
    assert "has nothing to undo: no step of it that happened declares compensate=. See `durable-adapter explain -- " in told
    assert "cancel" not in told


@on_sqlite
def test_an_order_that_comes_too_late_points_to_an_id_that_begins_with_a_dash(journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge", id="-42", declared=True)
    succeed(journal, ref, "reserve")
    operator = Operator(journal, who="ann", why="a test order", engines={}, caller=Caller())
    made = orders.rollback(operator, the_run(journal, ref), journal.reads.steps(ref))
    journal.undo.begin(ref, who="bob", why="the customer withdrew")
    assert "See `durable-adapter explain -- -42`." in made.carry_out().next


@on_sqlite
def test_rollback_of_what_is_rolled_back_says_so(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge")
    succeed(journal, ref, "reserve")
    fail(journal, ref, "charge")
    assert f"{ref} is rolling back already." in refusal(cli, "rollback", ref)
    assert "is being rolled back: that goes on; there is nothing to cancel" in refusal(cli, "cancel", ref)
    fail(journal, ref, "undo:reserve", fails_run=False)
    assert f"`durable-adapter retry -- {ref}` tries failed compensations again" in refusal(cli, "rollback", ref)


def test_rollback_in_bulk_undoes_every_run_in_which_the_step_happened_or_may_have(cli: Cli, journal: Journal) -> None:
    happened, doubtful, untouched, passed, undone, old = (
        a_run(journal, a_step("reserve", compensation="refund"), "ship", "mail") for _ in range(6)
    )
    for ref in (happened, passed, undone, old):
        succeed(journal, ref, "reserve")
    in_doubt(journal, doubtful, "reserve")
    change(journal, passed, "ship", pivot=True)
    succeed(journal, passed, "ship")
    cli("rollback", undone, *SIGNED, code=0)
    age(journal, old, None, "created_at", by=3 * 60 * MINUTE)
    words = ("rollback", "--task", "reserve", "--since", "2h")
    told = cli(*words, code=1)
    assert told.stdout.count("  - begins a rollback that undoes reserve\n") == 1
    assert told.stdout.count("  - begins a rollback, with nothing to undo yet\n") == 1
    assert f"Left alone: {passed} cannot be rolled back: its pivot ship has succeeded" in " ".join(told.stderr.split())
    assert "2 to be done, 1 left alone.\nNothing was changed. Add --apply, --by WHO and --why TEXT to do it.\n" in told.stdout
    done = cli.json(*words, *SIGNED, code=1)
    assert {c["ref"] for c in done["changes"]} == {happened, doubtful}
    assert (all(c["done"] for c in done["changes"]), len(done["refused"]), done["more"]) == (True, 1, False)
    assert the_run(journal, doubtful).status is WorkflowStatus.ROLLING_BACK
    assert {the_run(journal, ref).status for ref in (untouched, passed, old)} == {WorkflowStatus.RUNNING}
    last = journal.events.of(happened)[-1]
    assert (last["who"], last["why"]) == ("ann", "the bank says so")
    again = cli.json(*words, code=1)
    assert (again["changes"], len(again["refused"])) == ([], 1), "what is being undone is not named again"


@on_sqlite
def test_rollback_in_bulk_takes_a_workflow_by_its_name(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "ship", name="booking")
    succeed(journal, ref, "reserve")
    told = cli("rollback", "--task", "booking", "--since", "2h", *SIGNED, code=0).stdout
    assert f"{ref} is being rolled back." in told


@on_sqlite
@pytest.mark.parametrize("command", ["retry", "rollback", "cancel", "resolve"])
def test_an_order_in_bulk_says_when_its_limit_was_reached(cli: Cli, journal: Journal, command: str) -> None:
    for _ in range(2):
        ref = a_run(journal, a_step("reserve", compensation="refund"), "ship")
        if command == "retry":
            fail(journal, ref, "reserve")
        elif command == "resolve":
            held(journal, ref, "reserve")
        elif command == "rollback":
            succeed(journal, ref, "reserve")
    verdict = ("--failed",) if command == "resolve" else ()
    words = (command, "--task", "reserve", "--since", "1h", *verdict)
    assert "There may be more: the limit was reached." in cli(*words, "--limit", "1", code=0).stderr
    assert cli.json(*words, "--limit", "1", code=0)["more"] is True
    told = cli(*words, code=0)
    assert ("2 to be done." in told.stdout, told.stderr) == (True, "")


def test_cancel_ends_what_has_not_begun_and_names_what_is_open(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge", "ship")
    succeed(journal, ref, "reserve")
    claim(journal, ref, "charge")
    told = cli("cancel", ref, code=0)
    assert told.stdout.startswith(f"{ref}: would cancel what has not begun, and with it the workflow.\n")
    assert "  - ends the workflow; nothing is undone\n  - cancels ship, which is planned\n" in told.stdout
    assert "  - charge runs now: its success is recorded, and nothing undoes it\n" in told.stdout
    assert "reserve happened and can be undone: `durable-adapter rollback" in told.stderr
    done = cli("cancel", ref, *SIGNED, code=0)
    assert f"{ref} is cancelled. Still to be settled: charge." in done.stdout
    assert statuses(journal, ref) == {"run": "cancelled", "reserve": "succeeded", "charge": "begun", "ship": "cancelled"}


@on_sqlite
def test_cancel_of_what_has_ended_is_refused(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options=LAST))
    succeed(journal, ref, "charge", completes_run=True)
    assert f"{ref} is succeeded; there is nothing to cancel." in refusal(cli, "cancel", ref)


def test_cancel_in_bulk_ends_unfinished_runs_by_name_or_by_open_step(cli: Cli, journal: Journal) -> None:
    by_name = a_run(journal, "charge", name="nightly")
    by_step = a_run(journal, "nightly")
    passed = a_run(journal, "nightly", "ship")
    succeed(journal, passed, "nightly")
    other = a_run(journal, "charge")
    old = a_run(journal, "charge", name="nightly")
    age(journal, old, None, "created_at", by=3 * 60 * MINUTE)
    told = cli.json("cancel", "--task", "nightly", "--since", "2h", *SIGNED, code=0)
    assert {c["ref"] for c in told["changes"]} == {by_name, by_step}
    ended = [ref for ref in (by_name, by_step, passed, other, old) if statuses(journal, ref)["run"] == "cancelled"]
    assert ended == [by_name, by_step]


@on_sqlite
def test_a_waiting_step_is_made_due_by_retry(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    journal.ends.try_again(the(journal, ref, "charge"), token, 0, None, "again")
    age(journal, ref, "charge", "next_check_at", by=SECOND)
    journal.due.take_steps(journal.time(), 10)
    assert the(journal, ref, "charge").sent_at is not None
    cli("retry", ref, *SIGNED, code=0)
    row = the(journal, ref, "charge")
    assert (row.status, row.sent_at) == (StepStatus.WAITING, None)
    assert json.loads(json.dumps(journal.events.of(ref)[-1]["detail"])) == {"action": "look now"}


@on_sqlite
def test_a_verdict_on_a_value_is_kept_when_the_run_goes_on(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", options=LAST))
    succeed(journal, ref, "charge", outcome=ONE)
    fail(journal, ref, "ship")
    cli("retry", ref, *SIGNED, code=0)
    assert the(journal, ref, "charge").outcome == ONE
