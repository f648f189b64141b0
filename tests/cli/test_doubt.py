"""`doubt`: after a restore or a lossy fail-over, what may have run is put in doubt; shown first, and told what comes next."""

from __future__ import annotations

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import Event, Kind, Safety, Shape, StepStatus, WorkflowStatus
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.making import MINUTE, a_function, a_run, a_step, age, change, claim, statuses, succeed, the

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])

RESTORED = ("doubt", "--since", "2h")


def test_everything_unfinished_is_shown_first_and_put_in_doubt_when_it_is_ordered(cli: Cli, journal: Journal) -> None:
    chain = a_run(journal, "charge", a_step("ship", safety=Safety.IDEMPOTENT), a_step("find", safety=Safety.PROBE))
    function = a_function(journal)
    elsewhere = a_run(journal, "charge", namespace="other")
    done = a_run(journal, a_step("charge", completes_run=True))
    succeed(journal, done, "charge", completes_run=True)
    before = [statuses(journal, ref) for ref in (chain, function, elsewhere, done)]
    told = cli(*RESTORED, code=0)
    assert "Would put in doubt: 3 steps and 1 workflow function of 2 workflows." in told.stdout
    lines = [" ".join(line.split()) for line in told.stdout.splitlines()]
    assert "charge 1 held for a person" in lines
    assert "find 1 its probe is asked" in lines
    assert "order 1 held until `retry`" in lines
    assert "ship 1 runs again inside its window, else held" in lines
    assert "Nothing was changed. Add --apply, --by WHO and --why TEXT to do it." in told.stdout
    assert "Still at work on this journal: here (pid 1), here (pid 999). Stop the workers first" in told.stderr
    assert [statuses(journal, ref) for ref in (chain, function, elsewhere, done)] == before
    told = cli(*RESTORED, *SIGNED, code=0)
    assert "Puts in doubt: 3 steps and 1 workflow function of 2 workflows." in told.stdout
    assert "`" not in told.stdout.partition("Next:")[2]
    assert statuses(journal, chain) == {"run": "running", "charge": "in_doubt", "ship": "in_doubt", "find": "in_doubt"}
    assert statuses(journal, function) == {"run": "running", "function": "held"}
    assert [statuses(journal, ref) for ref in (elsewhere, done)] == before[2:]
    (event,) = journal.events.since(Event.OPERATOR, 0)
    assert (event["who"], event["why"], event["detail"]["action"]) == ("ann", "the bank says so", "doubt")
    again = cli(*RESTORED, code=0).stdout
    assert "Nothing that is unfinished can have gone on meanwhile.\n" in again


@on_sqlite
def test_the_commands_that_it_prints_lead_on_to_the_end(cli: Cli, journal: Journal, shop: Shop) -> None:
    chain, function = a_run(journal, "charge", a_step("ship")), a_function(journal)
    told = cli.json("-A", shop.name, *RESTORED, *SIGNED, code=0)
    cli("-A", shop.name, "sweep", "--once", code=0)
    assert statuses(journal, chain)["charge"] == "held"
    look, resolve, retry, refused = (step["command"] for step in told["next"] if step["command"])
    assert refused == f"durable-adapter -A {shop.name} reconcile --kind refused_message"
    found = cli.run_printed(look)
    assert (found.exit_code, found.stdout.count("HELD  "), found.stdout.count("DRIFT  ")) == (1, 2, 1)
    assert "a call without a record runs again" in " ".join(found.stdout.split())
    assert cli.run_printed(f"{resolve} --by ann --why so --apply").exit_code == 0
    assert cli.run_printed(f"{retry} --by ann --why so --apply").exit_code == 0
    assert the(journal, chain, "charge").status is StepStatus.WAITING
    assert the(journal, function, "function").status is StepStatus.WAITING


@on_sqlite
@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize("applied", [True, False])
def test_what_may_be_missing_is_for_the_provider_first(cli: Cli, journal: Journal, unfinished: bool, applied: bool) -> None:
    if unfinished:
        a_run(journal, "charge", "ship")
    told = " ".join(cli(*RESTORED, *(SIGNED if applied else ()), code=0).stdout.split())
    missing = told.index("The journal lacks what was started in the lost time, also what had finished")
    looks = told.index("Look at the provider first, for each")
    starts = told.index("Then start only what the provider does not have.")
    assert missing < looks < starts
    assert "what the provider has would happen a second time" in told[starts:]


@on_sqlite
def test_the_advice_to_repeat_says_to_look_at_the_provider_first(cli: Cli, journal: Journal) -> None:
    a_run(journal, "charge", "ship")
    a_function(journal)
    told = cli.json(*RESTORED, *SIGNED, code=0)["next"]
    repeats = [
        step["when"]
        for step in told
        if step["command"] and ("--did-not-happen" in step["command"] or " retry" in step["command"])
    ]
    assert len(repeats) == 2
    assert all(when.startswith("Look at the provider first") for when in repeats)
    printed = " ".join(cli(*RESTORED, code=0).stdout.split())
    assert "Look at the provider first" in printed


@on_sqlite
@pytest.mark.parametrize("unfinished", [True, False])
def test_a_preview_prints_its_command_on_a_line_of_its_own(cli: Cli, journal: Journal, unfinished: bool) -> None:
    if unfinished:
        a_run(journal, "charge", "ship")
    told = cli(*RESTORED, code=0).stdout
    assert "\n  durable-adapter reconcile --kind refused_message\n" in told
    assert "\\n" not in told


@on_sqlite
def test_a_function_whose_calls_may_be_lost_is_not_for_resolving(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    cli(*RESTORED, *SIGNED, code=0)
    told = " ".join(cli("resolve", ref, "--did-not-happen", code=1).stderr.split())
    assert "is held because the journal may have lost commits: the bank says so, so that calls of it may have no record." in told
    assert f"run `durable-adapter retry -- {ref}`: a call without a record runs again" in told
    assert "run again from the top, with what is recorded; calls without a record run again." in cli("retry", ref, code=0).stdout


@on_sqlite
def test_what_slept_all_the_while_and_what_began_later_are_left_alone(cli: Cli, journal: Journal) -> None:
    asleep = a_run(journal, a_step("function", kind=Kind.FUNCTION), shape=Shape.FUNCTION)
    change(journal, asleep, status=WorkflowStatus.SUSPENDED.value, wake_at=journal.time() + 60 * MINUTE)
    for key in (None, "function"):
        age(journal, asleep, key, "created_at", by=24 * 60 * MINUTE)
    began = a_run(journal, "charge")
    age(journal, began, None, "created_at", by=90 * MINUTE)
    later = a_run(journal, "charge")
    claim(journal, later, "charge")
    told = cli.json(*RESTORED, "--until", "30m", code=0)
    assert (told["workflows"], told["steps"], told["functions"], told["asleep"]) == (1, 1, 0, 1)
    told = cli.json(*RESTORED, code=0)
    assert (told["workflows"], told["steps"], told["asleep"], told["applied"]) == (2, 2, 1, False)
    assert told["tasks"] == [
        {"name": "charge", "kind": "step", "safety": "protected", "count": 2, "then": "held for a person"}
    ]  # fmt: skip
    assert "1 workflow slept all the while, and is left alone." in cli(*RESTORED, code=0).stdout
    cli(*RESTORED, "--until", "30m", *SIGNED, code=0)
    assert [statuses(journal, ref) for ref in (asleep, began, later)] == [
        {"run": "suspended", "function": "planned"},
        {"run": "running", "charge": "in_doubt"},
        {"run": "running", "charge": "begun"},
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Missing option '--since'"),
        (("--since", "yesterday"), "is no time: give a span such as 2h or 7d (ago)"),
        (("--since", "2999-01-01"), "--since: is still to come: give the time from when on commits may be lost"),
        (("--since", "1h", "--until", "2h"), "--until: is not after --since"),
        (("--since", "1h", "--apply"), "--apply needs --by WHO and --why TEXT"),
    ],
)
def test_what_it_cannot_do_it_says(cli: Cli, words: tuple[str, ...], told: str) -> None:
    assert told in " ".join(cli("doubt", *words, code=2).stderr.split())
