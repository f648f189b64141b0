"""`reconcile`: what it prints, what it leaves out, what `--apply` does and does not do, and what it costs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import SECOND, Effect, Event, StepStatus
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.interleaving import statements
from tests.journal.making import (
    MINUTE,
    ONE,
    a_function,
    a_run,
    a_step,
    a_worker,
    age,
    change,
    change_worker,
    claim,
    fail,
    held,
    statuses,
    succeed,
    the,
    the_run,
)

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_json_has_a_stable_shape(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-1", declared=True)
    held(journal, ref, "charge")
    told = cli.json("reconcile", code=1)
    assert list(told) == [
        "at", "looked_at", "swept_at", "unswept", "next_check_at", "counts", "at_stake", "more", "applied", "findings"
    ]  # fmt: skip
    assert {k: v for k, v in told.items() if k not in ("at", "next_check_at", "findings")} == {
        "looked_at": 1, "swept_at": None, "unswept": [{"engine": "celery", "last_beat_at": None}],
        "counts": {"nobody_sweeps": 1, "held": 1},
        "at_stake": None, "more": False, "applied": None,
    }  # fmt: skip
    _, found = told["findings"]
    assert list(found) == [
        "kind", "workflow", "ref", "name", "step", "key", "since", "certain", "uncertain", "amount", "command", "remedies", "safe"
    ]  # fmt: skip
    assert [list(r) for r in found["remedies"]] == [["when", "command"]] * 3


@on_sqlite
def test_the_summary_counts_the_kinds_and_adds_up_what_is_at_stake(cli: Cli, journal: Journal) -> None:
    for amount in ("19.90", "100", None):
        given = {"attributes": {"total": amount}} if amount else {}
        ref = a_run(journal, "charge", amount="total", **given)
        held(journal, ref, "charge")
    text = cli("reconcile", code=1).stdout
    assert " · 19.90 at stake" in text
    assert "3 findings in 3 workflows" in text
    assert "       3  held: a step may have happened, and only a person can say" in text
    assert "At stake: 119.90" in text
    assert cli.json("reconcile")["at_stake"] == "119.90"


@on_sqlite
def test_the_amount_may_be_named_by_the_asker_and_each_run_counts_once(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship", attributes={"total": 30, "fee": "2"}, amount="total")
    held(journal, ref, "charge")
    held(journal, ref, "ship")
    assert cli.json("reconcile")["at_stake"] == "30"
    assert cli.json("reconcile", "--amount", "fee")["at_stake"] == "2"
    assert cli.json("reconcile", "--amount", "other")["at_stake"] is None


@on_sqlite
def test_an_amount_that_is_no_number_is_shown_and_not_added(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", attributes={"total": "a lot"}, amount="total")
    held(journal, ref, "charge")
    told = cli.json("reconcile")
    assert (told["findings"][0]["amount"], told["at_stake"]) == ("a lot", None)


def test_kinds_times_and_limits_narrow_it_down(cli: Cli, journal: Journal) -> None:
    refs = [a_run(journal, "charge") for _ in range(3)]
    for ref in refs:
        held(journal, ref, "charge")
    age(journal, refs[0], "charge", "doubt_at", by=3 * 60 * MINUTE)
    drifted = a_function(journal)
    journal.doubts.hold_drift(the(journal, drifted, "function"), "it changed")
    kinds = [f["kind"] for f in cli.json("reconcile")["findings"]]
    assert kinds == ["held", "held", "held", "drift"]
    assert len(cli.json("reconcile", "--kind", "held")["findings"]) == 3
    assert len(cli.json("reconcile", "--kind", "may-have-happened-twice", code=0)["findings"]) == 0
    assert len(cli.json("reconcile", "--kind", "held", "--kind", "drift", "--since", "1h")["findings"]) == 3
    told = cli.json("reconcile", "--limit", "2", code=1)
    assert (len(told["findings"]), told["more"]) == (2, True)
    assert "There is more: the limit was reached." in cli("reconcile", "--limit", "2").stderr


@on_sqlite
def test_an_unknown_kind_is_told_with_all_that_there_are(cli: Cli) -> None:
    told = cli("reconcile", "--kind", "lost", code=2).stderr
    assert "'lost' is no kind of finding. There are:" in told
    assert "  lost_message: something is due, and nothing has begun" in told


@on_sqlite
@pytest.mark.parametrize("option", ["--since", "--waiting-longer-than"])
def test_a_time_that_is_none_is_told_with_what_is_accepted(cli: Cli, option: str) -> None:
    told = cli("reconcile", option, "yesterday", code=2).stderr
    assert "'yesterday' is no" in told
    assert "2h" in told


@on_sqlite
def test_another_namespace_is_not_looked_into(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", namespace="other")
    held(journal, ref, "charge")
    assert cli.findings() == {}
    found = cli.findings("--namespace", "other")["held"]
    assert found["command"] == (
        f"durable-adapter --namespace other resolve --happened VALUE --by \"$(id -un)\" --why 'how you know' -- {ref} charge"
    )


@on_sqlite
def test_a_process_that_has_missed_its_beats_is_not_said_to_live(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    claim(journal, ref, "charge")
    assert "it lives: its last beat was" in " ".join(cli("explain", ref).stdout.split())
    change_worker(journal, "w1", beat_at=worker.c.beat_at - 240 * SECOND)
    told = " ".join(cli("explain", ref).stdout.split())
    assert "it has not beaten for 4 min" in told
    assert "and nobody has declared it dead" in told
    assert "it lives" not in told


def troubled(journal: Journal, shop: Shop) -> dict[str, str]:
    """One run of each sort that is safe to mend, and one that is not."""
    a_worker(journal, "w2", parent="p", pid=2)
    dead = a_run(journal, a_step("charge", queue="celery"))
    claim(journal, dead, "charge", "w2")
    journal.workers.child_died("p", 2, "signal 9")
    shop.app.tasks["charge"].delay("42")
    ((_, lost), *_rest) = journal.reads.newest_refs("default")
    (step,) = journal.reads.steps(lost)
    age(journal, lost)
    age(journal, lost, step.key)
    with shop.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")
    unsafe = a_run(journal, "charge")
    held(journal, unsafe, "charge")
    return {"dead": dead, "lost": lost, "held": unsafe}


def test_apply_mends_what_is_safe_and_leaves_the_rest_to_people(cli: Cli, journal: Journal, shop: Shop) -> None:
    refs = troubled(journal, shop)
    command = f"durable-adapter -A {shop.name} reconcile --by \"$(id -un)\" --why 'how you know'"
    shown = cli("-A", shop.name, "reconcile", code=1)
    assert f"2 findings may be mended without asking anybody; with --apply behind it:\n  {command}" in shown.stdout
    assert statuses(journal, refs["dead"])["charge"] == "begun", "shown, not done"
    done = cli.run_printed(command)
    assert done.exit_code == 1, "what only people can mend is left"
    assert "Made due: 2 workflows. Swept: doubts 1, held 1, sent again 1." in done.stdout
    assert statuses(journal, refs["dead"])["charge"] == "held"
    assert shop.sent == ["charge", "charge"]
    assert {f["kind"] for f in cli.json("reconcile")["findings"]} == {"held"}
    for ref in (refs["dead"], refs["lost"]):
        (order,) = [e for e in journal.events.of(ref) if e["kind"] == Event.OPERATOR]
        assert (order["who"], order["why"]) == ("ann", "asked the bank")
    assert not [e for e in journal.events.of(refs["held"]) if e["kind"] == Event.OPERATOR]
    assert sorted(w.id for w in journal.workers.alive()) == ["s0", "w1"], "the sweeper of the command says that it ended"


def test_apply_without_an_app_makes_it_due_and_sends_nothing(cli: Cli, journal: Journal, shop: Shop) -> None:
    refs = troubled(journal, shop)
    change(journal, refs["lost"], next_check_at=journal.time() + MINUTE)
    told = cli.json("reconcile", *SIGNED, code=1)
    assert set(told["applied"]["due"]) == {refs["dead"], refs["lost"]}
    assert (told["applied"]["swept"], told["applied"]["ended"]) == ({}, [])
    assert (the_run(journal, refs["lost"]).next_check_at or 0) <= journal.time()
    assert shop.sent == ["charge"]
    assert statuses(journal, refs["dead"])["charge"] == "begun", "the sweepers in the workers do that"
    assert "Nothing was sent from here: the sweepers in the workers do that." in cli("reconcile", *SIGNED).stdout


@on_sqlite
def test_apply_with_kinds_acts_on_those_alone(cli: Cli, journal: Journal, shop: Shop) -> None:
    refs = troubled(journal, shop)
    cli("reconcile", "--kind", "lost_message", *SIGNED, code=1)
    assert [e for e in journal.events.of(refs["dead"]) if e["kind"] == Event.OPERATOR] == []
    assert [e["kind"] for e in journal.events.of(refs["lost"])] == [Event.OPERATOR]


@on_sqlite
def test_apply_needs_a_name_and_a_reason(cli: Cli) -> None:
    assert "--apply needs --by WHO and --why TEXT" in cli("reconcile", "--apply", code=2).stderr


@on_sqlite
def test_apply_twice_at_once_does_everything_once(cli: Cli, journal: Journal, shop: Shop) -> None:
    refs = troubled(journal, shop)
    for _ in range(2):
        cli("-A", shop.name, "reconcile", *SIGNED, code=1)
    assert shop.sent == ["charge", "charge"]
    kinds = [e["kind"] for e in journal.events.of(refs["dead"])]
    assert kinds.count(Event.IN_DOUBT) == kinds.count(Event.HELD) == 1


def test_finding_trouble_takes_a_few_queries_whatever_the_number_of_runs(journal: Journal) -> None:
    from durable_adapter.reconcile import look_for_trouble

    def queries(count: int) -> int:
        for _ in range(count):
            held(journal, a_run(journal, "charge", "ship"), "charge")
        with statements(journal) as sent:
            found = look_for_trouble(journal, namespace="default")
        assert len(found.findings) == found.runs
        return len([s for s in sent if s.startswith("SELECT")])

    assert queries(1) == queries(20)


@on_sqlite
def test_every_finding_of_many_runs_is_reported(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    from durable_adapter.reconcile import look_for_trouble, survey

    monkeypatch.setattr(survey, "PAGE", 3)
    refs = [a_run(journal, "charge") for _ in range(10)]
    for ref in refs:
        held(journal, ref, "charge")
    assert [f.ref for f in look_for_trouble(journal, namespace="default").findings] == refs


@on_sqlite
def test_runs_that_end_while_it_is_looked_are_left_out(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    from durable_adapter.reconcile import look_for_trouble

    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    select: Callable[..., Any] = journal.db.select

    def and_then_it_ends(statement: Any, *values: Any) -> Any:
        found = select(statement, *values)
        if "\nFROM durable_workflow" in str(statement) and statuses(journal, ref)["charge"] == StepStatus.HELD:
            journal.verdicts.happened(the(journal, ref, "charge"), ONE, who="ann", why="asked the bank")
        return found

    monkeypatch.setattr(journal.db, "select", and_then_it_ends)
    assert look_for_trouble(journal, namespace="default").findings == []
    assert statuses(journal, ref)["charge"] == StepStatus.SUCCEEDED


@on_sqlite
def test_a_worker_that_registers_while_it_is_looked_is_not_taken_for_gone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from durable_adapter.reconcile import look_for_trouble

    ref = a_run(journal, "charge")
    around = journal.around
    began: list[str] = []

    def and_then_a_step_begins() -> Any:
        found = around()
        a_worker(journal, "w9")
        time.sleep(0.002)  # SQLite's clock counts milliseconds
        began.append(claim(journal, ref, "charge", "w9"))
        return found

    monkeypatch.setattr(journal, "around", and_then_a_step_begins)
    assert (look_for_trouble(journal, namespace="default").findings, len(began)) == ([], 1)


@on_sqlite
def test_a_success_needs_no_explanation(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", completes_run=True))
    succeed(journal, ref, "charge", completes_run=True)
    assert cli("reconcile", code=0).stdout == "Nothing is wrong: 0 unfinished workflows looked at.\n"


def _held(journal: Journal) -> str:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    return ref


def _failed_after_a_doubt(journal: Journal) -> str:
    """Its doubt is older than its end, which is what a finding tells as the time since when it is so."""
    ref = a_run(journal, "charge")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    change(journal, ref, "charge", doubt_at=journal.time() - 60 * MINUTE)
    return ref


def _drifted(journal: Journal) -> str:
    ref = a_function(journal)
    assert journal.doubts.hold_drift(the(journal, ref, "function"), "the code calls something else")
    return ref


@on_sqlite
@pytest.mark.parametrize("situation", [_held, _failed_after_a_doubt, _drifted])
def test_the_command_of_a_group_chooses_all_of_the_group(cli: Cli, journal: Journal, situation: Callable[[Journal], str]) -> None:
    refs = {situation(journal) for _ in range(4)}
    told = cli("reconcile", code=1).stdout
    commands = [line.strip() for line in told.splitlines() if " --task " in line]
    assert commands
    for command in commands:
        words = shlex.split(command.replace("VALUE", "1"))[1:]
        assert {each["ref"] for each in cli.json(*words, code=0)["changes"]} >= refs, command


@on_sqlite
def test_a_group_says_that_its_command_may_choose_more_than_the_group(cli: Cli, journal: Journal) -> None:
    for _ in range(4):
        _drifted(journal)
    told = " ".join(cli("reconcile", code=1).stdout.split())
    assert "note these commands choose every step of the task that fits since then, also what is not in this group: read" in told
    failed = a_function(journal)
    journal.ends.fail(the(journal, failed, "function"), None, b"{}", Effect.DID_NOT_HAPPEN, fails_run=True)
    (command,) = [line.strip() for line in cli("reconcile", code=1).stdout.splitlines() if "retry --task" in line]
    preview = cli(*shlex.split(command)[1:], code=0).stdout
    assert "5 to be done." in preview, "a run that failed for a reason of its own is one of them, and is counted"
