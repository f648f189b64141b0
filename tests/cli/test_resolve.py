"""`resolve`: a verdict is recorded once, refused where nothing is open, and says what was decided meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from durable_adapter.codec import JSON
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import Cause, Effect, Event, Kind, Shape, StepStatus, attempt_name
from durable_adapter.reconcile.changes import Operator
from durable_adapter.reconcile.commands import Caller
from durable_adapter.reconcile.verdicts import Verdict, decide
from durable_adapter.runtime.values import encode, read_failure
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.conftest import OpenJournal
from tests.journal.interleaving import together
from tests.journal.making import (
    MINUTE,
    ONE,
    TIMED_OUT,
    a_dispatch,
    a_function,
    a_run,
    a_step,
    a_worker,
    age,
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

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])

NOBODY = (
    "Nobody sweeps: no sweeper is known. Timers, deaths, doubt and lost messages wait. "
    "Start a worker, or run this: `durable-adapter -A APP sweep`."
)


@on_sqlite
def test_nothing_is_changed_without_apply(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    before = journal.reads.steps(ref), journal.events.of(ref)
    result = cli("resolve", ref, "--did-not-happen", code=0)
    assert result.stdout == (
        f"{ref}: would record that charge did not happen.\n"
        "  - a new attempt of charge is due at once\n"
        "Nothing was changed. Add --apply, --by WHO and --why TEXT to do it.\n"
    )
    assert (journal.reads.steps(ref), journal.events.of(ref)) == before


@on_sqlite
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "--by WHO and --why TEXT"),
        (("--by", "ann"), "--why TEXT"),
        (("--why", "so"), "--by WHO"),
        (("--by", " ", "--why", "so"), "--by WHO"),
    ],
)
def test_apply_needs_a_name_and_a_reason(cli: Cli, journal: Journal, given: tuple[str, ...], missing: str) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    result = cli("resolve", ref, "--did-not-happen", "--apply", *given, code=2)
    assert f"--apply needs {missing}: what people change is recorded with who did it, and why." in result.stderr
    assert the(journal, ref, "charge").status is StepStatus.HELD


def test_a_verdict_is_recorded_with_who_and_why(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    cli("resolve", ref, "charge", "--did-not-happen", *SIGNED, code=0)
    told = journal.events.of(ref)[-1]
    assert (told["kind"], told["who"], told["why"]) == (Event.VERDICT, "ann", "the bank says so")
    assert the(journal, ref, "charge").verdict == "ann: did not happen: the bank says so"


@on_sqlite
@pytest.mark.parametrize("text", ['"ch_42"', "42", "null", '{"id": 7, "fees": [1.5]}', '{"$durable":"decimal","v":"1.50"}'])
def test_the_value_is_what_later_steps_get(cli: Cli, journal: Journal, text: str) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    cli("resolve", ref, "--happened", text, *SIGNED, code=0)
    outcome = the(journal, ref, "charge").outcome
    assert outcome is not None
    assert JSON.decode(outcome.data) == JSON.decode(text.encode())


@on_sqlite
def test_a_value_that_is_no_json_is_refused_and_shown_quoted(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    result = cli("resolve", ref, "--happened", "ch_42", *SIGNED, code=2)
    assert "'ch_42' is not JSON" in result.stderr
    assert """A text is given in quotes: --happened '"ch_42"'""" in result.stderr


@on_sqlite
@pytest.mark.parametrize("verdicts", [(), ("--failed", "--did-not-happen"), ("--happened", "1", "--acknowledge")])
def test_exactly_one_verdict_is_wanted(cli: Cli, verdicts: tuple[str, ...]) -> None:
    result = cli("resolve", "order-42", *verdicts, code=2)
    assert "exactly one of --happened VALUE, --did-not-happen, --failed and --acknowledge" in result.stderr


@on_sqlite
def test_failed_means_that_nothing_happened_and_the_workflow_fails_with_the_recorded_error(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge", "ship")
    succeed(journal, ref, "reserve")
    token = claim(journal, ref, "charge")
    journal.doubts.raise_doubt(
        the(journal, ref, "charge"), token, "it timed out", cause=Cause.WORKER_DIED, over=True, error=TIMED_OUT
    )
    journal.doubts.hold(the(journal, ref, "charge"), "nobody can tell")
    result = cli("resolve", ref, "charge", "--failed", code=0)
    assert f"{ref}: would record that charge failed for good and left no effect.\n" in result.stdout
    assert "  - begins a rollback that undoes reserve\n  - refund runs now and undoes reserve\n" in result.stdout
    done = cli("resolve", ref, "charge", "--failed", *SIGNED, code=0)
    assert "The workflow is rolling back. The next sweep sends refund." in done.stdout
    row = the(journal, ref, "charge")
    assert (row.status, row.effect, row.error) == (StepStatus.FAILED, Effect.DID_NOT_HAPPEN, TIMED_OUT)
    assert row.verdict == "ann: failed: the bank says so"
    assert statuses(journal, ref)["run"] == "rolling_back"
    assert (the_run(journal, ref).next_check_at or 0) <= journal.time()


@on_sqlite
def test_failed_without_a_recorded_error_says_who_decided_it(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    cli("resolve", ref, "--failed", *SIGNED, code=0)
    assert str(read_failure(the(journal, ref, "charge").error)) == "ann decided that it failed: the bank says so"
    assert the_run(journal, ref).status == "failed"


@on_sqlite
def test_a_step_of_a_function_that_is_failed_gives_its_error_to_the_function(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    journal.claims.plan_new(a_dispatch(ref, "ledger"))
    journal.runs.suspend(ref, waiting_for="step:ledger", wake_at=None)
    held(journal, ref, "ledger")
    result = cli("resolve", ref, "ledger", "--failed", *SIGNED, code=0)
    assert "its workflow function gets the error" in result.stdout
    run = the_run(journal, ref)
    assert run.status == "suspended"
    assert run.wake_at is not None, "the function that waited for it is woken"


def refusal(cli: Cli, *words: str) -> str:
    """Why a command is refused; the terminal's line breaks taken out."""
    return " ".join(cli("resolve", *words, *SIGNED, code=1).stderr.split())


@on_sqlite
def test_what_is_not_in_doubt_is_refused_with_what_it_is(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", id="order-1", declared=True)
    assert "step ship of order-1 is not in doubt: it has not begun." in refusal(cli, "order-1", "ship", "--did-not-happen")
    succeed(journal, ref, "charge")
    told = refusal(cli, "order-1", "charge", "--happened", "1")
    assert "step charge of order-1 is not in doubt: it succeeded at" in told
    assert "See `durable-adapter explain -- order-1`." in told
    told = refusal(cli, "order-1", "--happened", "1")
    assert "no step of order-1 is in doubt, held, or failed with its effect unknown; it is running." in told
    claim(journal, ref, "ship")
    told = refusal(cli, "order-1", "ship", "--failed")
    assert "attempt 1 is running on here (pid 1), and it ends by itself." in told
    journal.workers.stop("w1")
    told = refusal(cli, "order-1", "ship", "--failed")
    assert "its process is gone; the next sweep puts it in doubt (`durable-adapter -A APP sweep --once`)." in told


@on_sqlite
def test_a_failure_that_is_known_to_have_done_nothing_is_for_retry(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge")
    told = refusal(cli, ref, "--did-not-happen")
    assert "it failed, and its effect did not happen. `retry` runs it again." in told


@on_sqlite
def test_a_failure_cannot_be_failed_once_more(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    told = refusal(cli, ref, "--failed")
    assert "has failed already; what is open is whether its effect happened" in told


@on_sqlite
@pytest.mark.parametrize("verdict", ["--did-not-happen", "--failed"])
def test_what_happened_without_a_value_takes_only_the_value(cli: Cli, journal: Journal, verdict: str) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    journal.ends.happened_without_value(the(journal, ref, "charge"), token, "a socket", "w1")
    told = refusal(cli, ref, verdict)
    assert "certainly happened; only its value is missing (a socket). Give it with --happened VALUE." in told


@on_sqlite
@pytest.mark.parametrize("verdict", [("--did-not-happen",), ("--happened", "1")])
def test_drift_is_no_question_of_what_happened(cli: Cli, journal: Journal, verdict: tuple[str, ...]) -> None:
    ref = a_function(journal)
    journal.doubts.hold_drift(the(journal, ref, "function"), "it changed")
    told = refusal(cli, ref, *verdict)
    assert "is held because its code does not fit what is recorded, not because its effect is unknown" in told
    assert f"`durable-adapter retry -- {ref}`" in told


@on_sqlite
def test_a_step_that_may_still_run_is_not_run_beside_itself(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge", timeout=MINUTE)
    age(journal, ref, "charge")
    journal.due.take_steps(journal.time(), 10)
    journal.doubts.hold(the(journal, ref, "charge"), "its time-out has passed")
    name = attempt_name(ref, "charge", token)
    journal.workers.beat("w1", [name])
    told = refusal(cli, ref, "--did-not-happen")
    assert "may still be running: here (pid 1) says so" in told
    assert "its own outcome then decides. Or end that process, and try again." in told
    assert cli("resolve", ref, "--happened", "1").exit_code == 0, "what happened, happened"
    for _ in range(2):
        journal.workers.beat("w1", [])
    assert cli("resolve", ref, "--did-not-happen").exit_code == 0


@on_sqlite
def test_the_step_may_be_left_out_where_only_one_waits(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge"), a_step("ship"))
    held(journal, ref, "charge")
    held(journal, ref, "ship")
    told = refusal(cli, ref, "--did-not-happen")
    assert f"2 steps of {ref} wait for a verdict; name one: charge (charge), ship (ship)" in told
    cli("resolve", ref, "ship", "--did-not-happen", *SIGNED, code=0)
    cli("resolve", ref, "--did-not-happen", *SIGNED, code=0)
    assert statuses(journal, ref) == {"run": "running", "charge": "waiting", "ship": "waiting"}


@on_sqlite
@pytest.mark.parametrize("word", ["t2/0/shop.charge", "t2", "shop.charge", "charge"])
def test_a_step_is_named_by_its_key_its_task_its_name_or_the_end_of_that(cli: Cli, journal: Journal, word: str) -> None:
    step = a_step("t2/0/shop.charge", name="shop.charge", task_id="t2")
    ref = a_run(journal, a_step("t1/0/shop.reserve", name="shop.reserve", task_id="t1"), step)
    held(journal, ref, "t2/0/shop.charge")
    cli("resolve", ref, word, "--did-not-happen", *SIGNED, code=0)


@on_sqlite
def test_a_step_that_is_not_there_and_one_that_is_there_twice(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("a", name="shop.charge"), a_step("b", name="shop.charge"), id="order-1", declared=True)
    assert "order-1 has no step 'pay'; its steps are: shop.charge, shop.charge" in refusal(cli, ref, "pay", "--failed")
    told = refusal(cli, ref, "charge", "--failed")
    assert "order-1 has 2 steps named 'charge'; name one by its key: 'a' (planned), 'b' (planned)" in told


def test_of_two_operators_one_decides_and_the_other_is_told_what(journal: Journal, elsewhere: OpenJournal) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    run, steps = the_run(journal, ref), journal.reads.steps(ref)
    changes = [
        decide(Operator(elsewhere(), who=who, why="so", engines={}, caller=Caller()), run, steps, steps[0], verdict, ONE)
        for who, verdict in (("ann", Verdict.DID_NOT_HAPPEN), ("bob", Verdict.HAPPENED))
    ]
    outcomes = together(*(change.carry_out for change in changes))
    assert sorted(outcome.done for outcome in outcomes) == [False, True]
    assert events(journal, ref).count(Event.VERDICT) == 1
    loser = next(outcome for outcome in outcomes if not outcome.done)
    assert "was decided otherwise: it is" in loser.says
    assert "by another verdict (" in loser.says


Meanwhile = Callable[[Journal, str], object]


def by_its_attempt(journal: Journal, ref: str) -> object:
    token = the(journal, ref, "charge").token
    assert token is not None
    return journal.ends.succeed(ref, "charge", token, ONE, completes_run=False)


def by_another_person(journal: Journal, ref: str) -> object:
    return journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="bob", why="saw it")


def by_a_take_over(journal: Journal, ref: str) -> object:
    journal.verdicts.did_not_happen(the(journal, ref, "charge"), who="bob", why="saw nothing")
    return claim(journal, ref, "charge")


def by_its_failure(journal: Journal, ref: str) -> object:
    row = the(journal, ref, "charge")
    return journal.ends.fail(row, row.token, TIMED_OUT, Effect.DID_NOT_HAPPEN, fails_run=True)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (by_its_attempt, "its own attempt succeeded,"),
        (by_another_person, "it is succeeded by another verdict (bob: happened: saw it)"),
        (by_a_take_over, "it is begun by another verdict (bob: did not happen: saw nothing)"),
        (by_its_failure, "it failed,"),
    ],
)
@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_verdict_that_comes_too_late_says_what_the_step_became(
    journal: Journal, what: Meanwhile, told: str, verdict: Verdict
) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    run, steps = the_run(journal, ref), journal.reads.steps(ref)
    operator = Operator(journal, who="ann", why="so", engines={}, caller=Caller())
    change = decide(operator, run, steps, steps[0], verdict, encode(None))
    what(journal, ref)
    before = the(journal, ref, "charge")
    outcome = change.carry_out()
    assert outcome.done is False
    assert f"Nothing was changed: while you were deciding, charge was decided otherwise: {told}" in outcome.says
    assert the(journal, ref, "charge") == before


def test_in_bulk_every_step_of_a_name_is_decided_at_once(cli: Cli, journal: Journal) -> None:
    refs = [a_run(journal, a_step("charge"), "ship") for _ in range(3)]
    for ref in refs:
        held(journal, ref, "charge")
    old = a_run(journal, "charge")
    held(journal, old, "charge")
    age(journal, old, "charge", "doubt_at", by=5 * 60 * MINUTE)
    other = a_run(journal, a_step("ship"))
    held(journal, other, "ship")
    words = ("resolve", "--task", "charge", "--since", "1h", "--did-not-happen")
    assert cli(*words, code=0).stdout.count("would record that charge did not happen") == 3
    told = cli.json(*words, *SIGNED, code=0)
    assert {c["ref"] for c in told["changes"]} == set(refs)
    assert all(c["done"] for c in told["changes"])
    assert the(journal, old, "charge").status is StepStatus.HELD
    assert the(journal, other, "ship").status is StepStatus.HELD
    assert cli(*words, code=0).stdout == "Nothing fits: there is nothing to do.\n"


def test_in_bulk_two_steps_of_one_run_are_both_decided(cli: Cli, journal: Journal) -> None:
    ref = a_run(
        journal,
        a_step("p0", name="charge", after=[], pending=0),
        a_step("p1", name="charge", after=[], pending=0),
        a_step("ship", after=["p0", "p1"], pending=2, completes_run=True),
    )
    held(journal, ref, "p0")
    held(journal, ref, "p1")
    words = ("resolve", "--task", "charge", "--since", "1h", "--happened", "1")
    told = cli(*words, *SIGNED, code=0).stdout
    assert "2 done." in told
    assert "while you were deciding" not in told
    assert "what follows it is sent: ship" in told, "the second is told from the run as the first left it"
    assert statuses(journal, ref) == {"run": "running", "p0": "succeeded", "p1": "succeeded", "ship": "planned"}


@on_sqlite
def test_in_bulk_what_the_order_itself_has_ended_is_left_alone(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, *(a_step(key, name="charge", after=[], pending=0) for key in ("p0", "p1")), open_steps=2)
    held(journal, ref, "p0")
    held(journal, ref, "p1")
    told = cli.json("resolve", "--task", "charge", "--since", "1h", "--failed", *SIGNED)
    assert "while you were deciding" not in json.dumps(told)
    assert {each["key"] for each in told["changes"] if each["done"]} == {"p0", "p1"}


@on_sqlite
def test_in_bulk_what_cannot_be_decided_so_is_left_alone_and_named(cli: Cli, journal: Journal) -> None:
    ref, missing = a_run(journal, "charge"), a_run(journal, "charge")
    held(journal, ref, "charge")
    token = claim(journal, missing, "charge")
    journal.ends.happened_without_value(the(journal, missing, "charge"), token, "a socket", "w1")
    result = cli("resolve", "--task", "charge", "--since", "1h", "--did-not-happen", *SIGNED, code=1)
    assert f"Left alone: step charge of {missing} certainly happened" in result.stderr
    assert the(journal, ref, "charge").status is StepStatus.WAITING


@on_sqlite
@pytest.mark.parametrize("command", ["resolve", "retry", "rollback", "cancel"])
def test_bulk_needs_a_name_and_a_time_and_never_means_everything(cli: Cli, command: str) -> None:
    verdict = ("--failed",) if command == "resolve" else ()
    for words in ((), ("--task", "charge"), ("--since", "1h")):
        told = cli(command, *words, *verdict, code=2).stderr
        assert "name a workflow by its ID; or many of them by --task NAME together with --since TIME" in told
    told = cli(command, "order-1", "--task", "charge", "--since", "1h", *verdict, code=2).stderr
    assert "give either an ID, or --task NAME and --since TIME for many workflows; not both" in told


@on_sqlite
def test_the_bulk_limit_is_kept(cli: Cli, journal: Journal) -> None:
    for _ in range(3):
        held(journal, a_run(journal, "charge"), "charge")
    told = cli.json("resolve", "--task", "charge", "--since", "1h", "--did-not-happen", "--limit", "2")
    assert len(told["changes"]) == 2


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_json_tells_what_would_be_done_and_what_was(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-1", declared=True)
    held(journal, ref, "charge")
    told = cli.json("resolve", "order-1", "--did-not-happen", code=0)
    change = {
        "workflow": "order-1",
        "ref": ref,
        "step": "charge",
        "key": "charge",
        "action": "did not happen",
        "would": "record that charge did not happen",
        "consequences": ["a new attempt of charge is due at once"],
        "warnings": [],
    }
    assert told == {
        "applied": False,
        "changes": [{**change, "done": None, "says": None, "next": None}],
        "refused": [],
        "more": False,
        "next": None,
    }
    told = cli.json("resolve", "order-1", "--did-not-happen", *SIGNED, code=0)
    says = {"done": True, "says": "charge is recorded as not happened.", "next": f"The workflow is running. {NOBODY}"}
    assert told == {"applied": True, "changes": [{**change, **says}], "refused": [], "more": False, "next": None}


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_a_verdict_says_who_sends_what_is_due_now(cli: Cli, journal: Journal, shop: Shop) -> None:
    refs = []
    for number in range(4):
        (shop.app.tasks["charge"].s(str(number)) | shop.app.tasks["ship"].s()).apply_async()
        ((_, ref),) = journal.reads.newest_refs("default", limit=1)
        held(journal, ref, journal.reads.steps(ref)[0].key)
        refs.append(ref)
    first, second = refs[:2]
    assert NOBODY in cli("resolve", first, "--did-not-happen", *SIGNED, code=0).stdout
    a_worker(journal, "s1", role="sweeper")
    told = cli("resolve", second, "--did-not-happen", *SIGNED, code=0).stdout
    assert "The workflow is running. The sweepers take it from here; the last one beat" in told
    shop.sent.clear()
    bulk = ("resolve", "--task", "charge", "--since", "1h", "--did-not-happen", *SIGNED)
    told = cli("-A", shop.name, *bulk, code=0).stdout
    assert (told.count("is recorded as not happened"), told.count("A sweep sent 4 messages.")) == (2, 1)
    assert shop.sent == ["charge"] * 4
    sweepers = [role for role, *_ in journal.db.select(sa.select(worker.c.role)) if role == "sweeper"]
    assert len(sweepers) == 2, "one sweep for all of them"


@on_sqlite
def test_acknowledging_needs_something_to_acknowledge(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    assert f"{ref} has nothing that is marked for a person." in refusal(cli, ref, "--acknowledge")
    held_ref = a_function(journal)
    journal.doubts.hold_drift(the(journal, held_ref, "function"), "it changed")
    assert "waits for a verdict; acknowledging would not give one" in refusal(cli, held_ref, "--acknowledge")
    result = cli("resolve", "0" * 32, "--acknowledge", *SIGNED, code=2)
    assert "and in namespace 'default' no message of it was refused" in result.stderr


@on_sqlite
def test_acknowledging_a_whole_run_takes_all_of_it_off_the_list(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge")
    succeed(journal, ref, "reserve")
    fail(journal, ref, "charge")
    fail(journal, ref, "undo:reserve", Effect.DID_NOT_HAPPEN, fails_run=False)
    assert "rollback_failed" in cli.findings()
    cli("resolve", ref, "--acknowledge", *SIGNED, code=0)
    assert cli.findings() == {}
    assert the_run(journal, ref).attention is None


@on_sqlite
def test_an_unmarked_member_at_which_the_chain_does_not_stand_is_refused(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("mail", kind=Kind.UNMARKED), shape=Shape.CANVAS)
    told = refusal(cli, ref, "mail", "--happened", "1")
    assert "is not marked durable, and the chain does not stand there: it has not begun." in told


@on_sqlite
def test_doubt_of_a_dead_worker_is_decided_like_a_held_step(cli: Cli, journal: Journal) -> None:
    a_worker(journal, "w2")
    ref = a_run(journal, "charge")
    in_doubt(journal, ref, "charge")
    cli("resolve", ref, "--did-not-happen", *SIGNED, code=0)
    assert json.loads(json.dumps(statuses(journal, ref))) == {"run": "running", "charge": "waiting"}
