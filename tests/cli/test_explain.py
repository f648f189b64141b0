"""`explain` and `list`: the story in words, values masked, and every way in which people name a workflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from durable_adapter.codec import JSON, encode_stored, register
from durable_adapter.journal import Journal
from durable_adapter.model import Cause, Effect, Event, Kind, Stored, new_ref
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.making import (
    MINUTE,
    ONE,
    TIMED_OUT,
    a_call,
    a_function,
    a_run,
    a_step,
    a_worker,
    age,
    change,
    claim,
    fail,
    held,
    statuses,
    succeed,
    the,
)

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
LAST = {"counts": True}


@on_sqlite
def test_the_story_of_a_finished_run(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", options=LAST), id="order-42", declared=True, code_version="v7")
    succeed(journal, ref, "charge")
    succeed(journal, ref, "ship", completes_run=True)
    text = cli("explain", "order-42", code=0).stdout
    assert text.startswith("order-42 · order\n  succeeded after ")
    assert "a chain of 2 steps on celery, started " in text
    assert f"run 1, reference {ref}" in text
    assert "started by code version v7" in text
    assert "1. charge: succeeded at " in text
    assert "attempt 1, on here (pid 1)" in text
    assert "the workflow ended: succeeded" in text
    assert text.endswith("Next\n  Nothing is to be done.\n")


@on_sqlite
def test_the_story_of_a_held_step_tells_who_where_why_and_what_to_do(cli: Cli, journal: Journal) -> None:
    a_worker(journal, "a" * 32, host="web-7", pid=4711, parent="p")
    ref = a_run(journal, "charge", a_step("mail", kind=Kind.UNMARKED), id="order-42", declared=True)
    token = claim(journal, ref, "charge", "a" * 32)
    journal.workers.child_died("p", 4711, "signal 9")
    why = f"its worker {'a' * 32} died, as its parent saw, while the step was running"
    journal.doubts.raise_doubt(the(journal, ref, "charge"), token, why, cause=Cause.WORKER_DIED, over=True, who="w1")
    journal.doubts.hold(the(journal, ref, "charge"), why, who="w1")
    text = " ".join(cli("explain", "order-42", code=1).stdout.split())
    assert "running, in trouble: held (charge); a person must decide" in text
    assert "charge: HELD since" in text
    assert "attempt 1, on web-7 (pid 4711); its parent saw it die at" in text
    assert "in doubt because: its worker web-7 (pid 4711) died, as its parent saw, while the step was running" in text
    assert "nothing makes it safe to repeat" in text
    assert "mail: not begun not marked durable: only its end is recorded; it is never sent again by itself" in text
    assert "charge was put in doubt" in text
    assert "charge was held for a person" in text
    assert "durable-adapter resolve --happened VALUE --by \"$(id -un)\" --why 'how you know' -- order-42 charge" in text
    cli("resolve", "order-42", "--happened", "1", *SIGNED, code=0)
    text = " ".join(cli("explain", "order-42", code=0).stdout.split())
    assert "it was in doubt because: its worker web-7" in text
    assert "decided by: ann: happened: the bank says so" in text
    assert "ann decided: charge happened the bank says so" in text


@on_sqlite
def test_the_story_of_a_rollback_names_what_undid_what(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge")
    succeed(journal, ref, "reserve")
    fail(journal, ref, "charge")
    succeed_undo = claim(journal, ref, "undo:reserve")
    journal.ends.succeed_undo(ref, "undo:reserve", succeed_undo, "reserve", ONE)
    text = cli("explain", ref, code=0).stdout
    assert "refund (undoes reserve): succeeded" in text
    assert "reserve ran, and was undone later" in text
    assert "the rollback began" in text
    assert "the workflow ended: compensated" in text


@on_sqlite
def test_a_failed_run_tells_how_to_take_it_up_again(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    error = json.dumps({"type": "bank.CardDeclined", "message": "insufficient funds"}).encode()
    token = claim(journal, ref, "charge")
    journal.ends.fail(the(journal, ref, "charge"), token, error, Effect.DID_NOT_HAPPEN, fails_run=True)
    text = cli("explain", ref, code=0).stdout
    assert "it raised CardDeclined: insufficient funds; its effect did not happen" in text
    assert f"-- {ref}" in text
    (command,) = [line.strip() for line in text.splitlines() if line.startswith("    durable-adapter")]
    assert cli.run_printed(command).exit_code == 0
    assert statuses(journal, ref)["run"] == "running"


@on_sqlite
def test_every_sort_of_event_is_a_sentence(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    for kind in Event:
        journal.events.note(kind, ref=ref, key="charge", who="w1", why="because", name="charge", action="retry")
    text = cli("explain", ref).stdout
    assert text.count("because") == len(Event)
    assert "_" not in text.partition("What happened")[2].replace(ref, "")


@on_sqlite
def test_json_has_a_stable_shape(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    told = cli.json("explain", ref, code=1)
    assert list(told) == ["workflow", "steps", "events", "next_check_at", "unswept", "findings", "next", "others"]
    assert list(told["workflow"]) == [
        "id", "ref", "run", "declared", "namespace", "name", "shape", "engine", "status", "state", "attributes", "parent",
        "code_version", "waiting_for", "wake_at", "created_at", "ended_at", "attention", "pruned_at", "error",
    ]  # fmt: skip
    assert list(told["steps"][0]) == [
        "key", "position", "name", "kind", "status", "safety", "attempt", "takeovers", "task_id", "queue", "worker", "begun_at",
        "ended_at", "next_check_at", "cause", "doubt", "doubt_at", "evidence", "verdict", "effect", "attention", "twice_at",
        "reference", "heartbeat_at", "details", "undoes", "arguments", "outcome", "error", "engine_says",
    ]  # fmt: skip
    assert [list(e) for e in told["events"]] == [["at", "kind", "key", "who", "why", "detail"]] * 2
    assert told["findings"][0]["kind"] == "held"
    assert told["next"][0]["command"] == told["findings"][0]["command"]


def with_values(journal: Journal, shop: Shop) -> str:
    """A chain with arguments, results and an attribute, all of which say `zebra`."""
    charge, secret = shop.app.tasks["charge"], shop.app.tasks["secret"]
    (charge.s("zebra-order", card="zebra-card", amount="42.42") | secret.si("zebra-secret")).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    change(journal, ref, attributes=json.dumps({"customer": "zebra-customer"}))
    first, second = (s.key for s in journal.reads.steps(ref))
    succeed(journal, ref, first, outcome=encode_stored({"id": "zebra-result", "n": 7}))
    succeed(journal, ref, second, outcome=encode_stored("zebra-secret-result"))
    return ref


@on_sqlite
def test_values_are_masked_everywhere_unless_asked_for(cli: Cli, journal: Journal, shop: Shop) -> None:
    ref = with_values(journal, shop)
    held_key = journal.reads.steps(ref)[0].key
    change(journal, ref, held_key, twice_at=journal.time())
    for words in (("explain", ref), ("reconcile",), ("list",)):
        for form in ((), ("--json",)):
            assert "zebra" not in cli(*words, *form).stdout
    text = cli("explain", ref).stdout
    assert "given: [redacted], card=[redacted], amount=str(5)" in text
    assert "returned: {id: str(12), n: int}" in text
    assert "attributes: customer (masked)" in text


@on_sqlite
def test_show_values_shows_them_but_never_what_a_step_redacts(cli: Cli, journal: Journal, shop: Shop) -> None:
    ref = with_values(journal, shop)
    text = cli("explain", ref, "--show-values").stdout
    assert "given: '[redacted]', card='[redacted]', amount='42.42'" in text, "without the app any argument may be the card"
    assert "returned: {'id': 'zebra-result', 'n': 7}" in text
    assert "customer=zebra-customer" in text
    assert "zebra-secret" not in text
    told = cli.json("-A", shop.name, "explain", ref, "--show-values")
    given = {"args": [], "kwargs": {"order": "zebra-order", "card": "[redacted]", "amount": "42.42"}}
    assert told["steps"][0]["arguments"] == given
    assert told["steps"][1]["arguments"] == {"args": "[redacted]", "kwargs": "[redacted]"}
    assert told["steps"][1]["outcome"] == "[redacted]"
    assert "zebra-card" not in json.dumps(told)


@on_sqlite
def test_a_redacted_parameter_behind_a_handed_on_result_is_found(cli: Cli, journal: Journal, shop: Shop) -> None:
    (shop.app.tasks["ship"].s("x") | shop.app.tasks["charge"].s("zebra-card", "42.42")).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    told = cli.json("-A", shop.name, "explain", ref, "--show-values")
    given = {"args": [], "kwargs": {"card": "[redacted]", "amount": "42.42"}}
    assert told["steps"][1]["arguments"] == given, "the order is what the step before hands on"


@on_sqlite
def test_values_of_classes_that_this_process_does_not_have_are_read_as_json(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    order = b'{"$durable":"@shop.Order","v":{"id":"zebra","total":{"$durable":"decimal","v":"42.42"}}}'
    call = a_call(ref, "charge", arguments=Stored("json/1", b"[[" + order + b"],{}]"))
    assert journal.claims.begin_new(call)
    journal.ends.succeed(ref, "charge", call.token or "", Stored("json/1", order), completes_run=False)
    text = cli("explain", ref, code=0).stdout
    assert "zebra" not in text
    assert "given: {Order: {id: str(5), total: decimal}}" in text
    shown = cli.json("explain", ref, "--show-values")["steps"][1]
    assert shown["outcome"] == {"shop.Order": {"id": "zebra", "total": "42.42"}}


@on_sqlite
def test_no_class_is_made_and_no_pickle_is_opened_to_show_a_value(cli: Cli, journal: Journal, tmp_path: Path) -> None:
    class Loud:
        pass

    def shout(_recorded: object) -> Loud:
        (tmp_path / "loud").touch()
        return Loud()

    register(Loud, name="cli-tests.Loud", dump=lambda _: 1, load=shout)
    ref = a_run(journal, "charge", "ship", "mail")
    succeed(journal, ref, "charge", outcome=Stored("json/1", b'{"$durable":"@cli-tests.Loud","v":1}'))
    evil = f"cos\nsystem\n(S'touch {tmp_path}/loud'\ntR.".encode()
    succeed(journal, ref, "ship", outcome=Stored("pickle/1", evil))
    succeed(journal, ref, "mail", outcome=Stored("vault/3", b"\x00\x01"))
    for form in ((), ("--show-values",), ("--json", "--show-values")):
        text = cli("explain", ref, *form, code=0).stdout
        assert f"pickle/1: {len(evil)} bytes" in text
        assert "vault/3: 2 bytes" in text
    assert not (tmp_path / "loud").exists()


@on_sqlite
def test_what_came_too_late_is_a_value_too(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    row = held(journal, ref, "charge")
    journal.verdicts.did_not_happen(row, who="ann", why="not there")
    claim(journal, ref, "charge")
    journal.ends.late(ref, "charge", row.token or "", Stored("json/1", b'"zebra-late"'), "w1")
    text = cli("explain", ref, code=1).stdout
    assert "zebra" not in text
    assert "an attempt reported success too late, and returned 'str(10)'" in text
    assert "zebra-late" in cli("explain", ref, "--show-values").stdout


@on_sqlite
def test_damaged_rows_do_not_stop_the_story(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", plan=b"\x00not json")
    succeed(journal, ref, "charge", outcome=Stored("json/1", b"{not json"))
    change(journal, ref, "charge", error=b"\x00")
    assert "damaged: 9 bytes that are not JSON" in cli("explain", ref, code=0).stdout


@on_sqlite
def test_a_forgotten_run_says_so(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", options=LAST), id="order-42", declared=True)
    succeed(journal, ref, "charge", completes_run=True)
    age(journal, ref)
    assert journal.retention.forget(journal.time()).tombstones == 1
    text = cli("explain", "order-42", code=0).stdout
    assert "its steps were forgotten" in text
    assert "so that it is not started twice" in " ".join(text.split())


def test_a_workflow_is_named_by_its_id_its_reference_or_any_of_its_tasks(cli: Cli, journal: Journal, shop: Shop) -> None:
    charge, ship = shop.app.tasks["charge"], shop.app.tasks["ship"]
    result = (charge.s("1") | ship.s()).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    run = journal.reads.run(ref)
    assert run is not None
    for name in (ref, run.id, result.id, result.parent.id):
        assert cli.json("explain", name)["workflow"]["ref"] == ref
    first, second = (s.key for s in journal.reads.steps(ref))
    succeed(journal, ref, first)
    succeed(journal, ref, second, completes_run=True)
    assert cli.json("explain", result.parent.id)["workflow"]["ref"] == ref, "also once it is finished"


def test_a_task_of_a_declared_workflow_and_of_a_dispatched_step_are_found(cli: Cli, journal: Journal) -> None:
    declared = a_run(journal, a_step("charge", task_id="task-1"), id="order-42", declared=True)
    function = a_function(journal)
    journal.claims.plan_new(a_step("ledger", ref=function, position=1, kind=Kind.DISPATCH, completes_run=True, task_id="task-2"))
    assert cli.json("explain", "task-1")["workflow"]["ref"] == declared
    assert cli.json("explain", "task-2")["workflow"]["ref"] == function


def test_a_task_that_was_published_twice_names_the_newest_and_nothing_is_changed_by_it(cli: Cli, journal: Journal) -> None:
    refs = []
    for _ in range(2):
        ref = new_ref()
        a_run(journal, a_step("charge", task_id="t1"), ref=ref, id=f"t1.{ref[-8:]}")
        held(journal, ref, "charge")
        refs.append(ref)
    age(journal, refs[0], None, "created_at", by=MINUTE)
    told = cli.json("explain", "t1", code=1)
    assert (told["workflow"]["ref"], told["others"]) == (refs[1], [refs[0]])
    refused = cli("resolve", "t1", "--did-not-happen", *SIGNED, code=1).stderr
    assert "the task id 't1' was published 2 times and names as many runs" in refused
    assert all(ref in refused for ref in refs)


@on_sqlite
@pytest.mark.parametrize("command", [("explain",), ("resolve", "--failed"), ("retry",), ("rollback",), ("cancel",)])
def test_an_unknown_id_is_told_with_where_it_was_looked_for(cli: Cli, command: tuple[str, ...]) -> None:
    verb, *options = command
    told = cli(verb, "order-99", *options, code=2).stderr
    assert "has no workflow, run or task 'order-99' in namespace 'default'" in told
    assert "task ids are looked for among unfinished runs and the newest 20,000" in told
    assert "The command `list` shows what there is." in told


def test_list_shows_the_newest_first_and_where_each_stands(cli: Cli, journal: Journal) -> None:
    done = a_run(journal, a_step("charge", options=LAST), id="order-1", declared=True)
    succeed(journal, done, "charge", completes_run=True)
    stuck = a_run(journal, "charge", "ship", id="order-2", declared=True)
    held(journal, stuck, "charge")
    age(journal, done, None, "created_at", by=MINUTE)
    lines = cli("list", code=0).stdout.splitlines()
    assert lines[0].split() == ["workflow", "name", "status", "stands", "at", "started", "took"]
    assert lines[1].startswith("order-2   order  running    charge (held)  ")
    assert lines[2].startswith("order-1   order  succeeded  ")


def test_list_filters(cli: Cli, journal: Journal) -> None:
    failed = a_run(journal, "charge", name="nightly")
    fail(journal, failed, "charge")
    open_run = a_run(journal, "charge")
    age(journal, failed, None, "created_at", by=2 * 60 * MINUTE)

    def refs(*words: str) -> list[str]:
        return [w["ref"] for w in cli.json("list", *words, code=0)["workflows"]]

    assert refs() == [open_run, failed]
    assert refs("--status", "failed") == [failed]
    assert refs("--status", "failed", "--status", "running") == [open_run, failed]
    assert refs("--name", "nightly") == [failed]
    assert refs("--since", "1h") == [open_run]
    assert refs("--unfinished") == [open_run]
    told = cli.json("list", "--limit", "1")
    assert (len(told["workflows"]), told["more"]) == (1, True)


@on_sqlite
def test_list_as_json_has_a_stable_shape(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-1", declared=True)
    held(journal, ref, "charge")
    told = cli.json("list", code=0)
    assert list(told) == ["workflows", "more", "unreadable", "unswept", "findings"]
    (row,) = told["workflows"]
    created = row.pop("created_at")
    assert created.endswith("+00:00")
    assert row == {
        "id": "order-1", "ref": ref, "run": 1, "declared": True, "name": "order", "shape": "canvas", "engine": "celery",
        "status": "running", "stands_at": {"step": "charge", "key": "charge", "status": "held"}, "attention": None,
        "ended_at": None,
    }  # fmt: skip


@on_sqlite
def test_the_effect_that_is_not_known_is_said_of_each_failure(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    token = claim(journal, ref, "charge")
    journal.ends.fail(the(journal, ref, "charge"), token, TIMED_OUT, Effect.UNKNOWN, fails_run=True)
    text = cli("explain", ref, code=1).stdout
    assert "it raised TimeoutError; its effect is not known" in text
    assert JSON.id == "json"
