"""Every kind of finding is made to happen, found, told in plain words, and mended by the very command that it prints."""

from __future__ import annotations

import json
import time

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import (
    SECOND,
    Attention,
    Effect,
    Event,
    Kind,
    Safety,
    Shape,
    StepStatus,
    WorkflowStatus,
    attempt_name,
    new_ref,
)
from durable_adapter.runtime.engine import EngineEnd
from durable_adapter.runtime.engine_ends import Fate, ended_by_engine
from tests.cli.conftest import SIGNED, Cli, Shop
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

HOUR = 60 * MINUTE
LAST = {"counts": True}
on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])


def test_an_empty_journal_is_clean(cli: Cli) -> None:
    result = cli("reconcile", code=0)
    assert "Nothing is wrong: 0 unfinished workflows looked at." in result.stdout


def test_runs_that_go_well_are_no_findings(cli: Cli, journal: Journal) -> None:
    done = a_run(journal, a_step("charge"))
    succeed(journal, done, "charge", completes_run=True)
    a_run(journal, "charge", "ship")
    running = a_run(journal, "charge", "ship")
    token = claim(journal, running, "charge")
    journal.workers.beat("w1", [attempt_name(running, "charge", token)])
    waiting = a_function(journal)
    journal.runs.suspend(waiting, waiting_for="signal", wake_at=journal.time() + HOUR)
    age(journal, waiting, None, "created_at", by=HOUR)
    found = cli.json("reconcile", code=0)
    assert found["findings"] == []
    assert found["looked_at"] == 2, "one that sleeps until later is not even read"


def test_a_held_step_is_found_and_one_verdict_finishes_it(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("shop.charge"), a_step("shop.ship", options=LAST), declared=True, id="order-42")
    held(journal, ref, "shop.charge")
    text = cli("reconcile", code=1).stdout
    assert "HELD  order-42 · shop.charge" in text
    assert "on here (pid 1). It is held: nobody can tell." in text
    assert "whether its effect happened: ask whatever it calls" in text
    found = cli.findings()["held"]
    assert found["workflow"] == "order-42"
    assert (found["step"], found["key"], found["safe"]) == ("shop.charge", "shop.charge", False)
    assert found["command"] == (
        "durable-adapter resolve --happened VALUE --by \"$(id -un)\" --why 'how you know' -- order-42 shop.charge"
    )
    done = cli.run_printed(found["command"])
    assert done.exit_code == 0
    assert "shop.charge is recorded as happened. The workflow is running." in done.stdout
    assert cli.findings() == {}
    row = the(journal, ref, "shop.charge")
    assert row.status is StepStatus.SUCCEEDED
    assert row.outcome is not None
    assert row.outcome.data == b'"ok"'
    assert row.verdict == "ann: happened: asked the bank"


@pytest.mark.parametrize(("remedy", "becomes", "run"), [(1, StepStatus.WAITING, "running"), (2, StepStatus.FAILED, "failed")])
def test_a_held_step_is_mended_by_each_of_its_other_commands(
    cli: Cli, journal: Journal, remedy: int, becomes: StepStatus, run: str
) -> None:
    ref = a_run(journal, "charge", "ship")
    held(journal, ref, "charge")
    command = cli.findings()["held"]["remedies"][remedy]["command"]
    assert cli.run_printed(command).exit_code == 0
    assert cli.findings() == {}
    assert the(journal, ref, "charge").status is becomes
    assert the(journal, ref, "charge").effect is Effect.DID_NOT_HAPPEN
    assert the_run(journal, ref).status.value == run


def test_a_value_that_is_missing_is_found_and_given(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge"), a_step("ship", options=LAST))
    token = claim(journal, ref, "charge")
    reason = "it happened, but its value cannot be recorded: $: a value of type socket"
    assert journal.ends.happened_without_value(the(journal, ref, "charge"), token, reason, "w1")
    found = cli.findings()["value_missing"]
    assert "It happened, but its value cannot be recorded" in found["certain"]
    assert found["uncertain"] == "what it returned, as the steps after it need it"
    assert [r["when"] for r in found["remedies"]] == ["once you know what it returned"]
    assert cli.run_printed(found["command"], '{"id": 7}').exit_code == 0
    assert cli.findings() == {}
    assert the(journal, ref, "charge").status is StepStatus.SUCCEEDED


def test_a_failure_with_its_effect_unknown_is_found_and_resolved(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", options=LAST))
    error = json.dumps({"type": "requests.exceptions.ReadTimeout", "message": "no answer in 30 s"}).encode()
    token = claim(journal, ref, "charge")
    journal.ends.fail(the(journal, ref, "charge"), token, error, Effect.UNKNOWN, fails_run=True)
    found = cli.findings()["failed_effect_unknown"]
    assert "It failed for good with ReadTimeout: no answer in 30 s. What follows it was cancelled: ship." in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}
    assert statuses(journal, ref) == {"run": "failed", "charge": "succeeded", "ship": "cancelled"}
    assert cli("retry", ref, *SIGNED).exit_code == 0
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "ship": "planned"}
    assert the(journal, ref, "charge").next_check_at is not None, "its memo sends what follows"


def test_a_failure_that_did_not_happen_after_all_may_be_retried(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert cli.run_printed(cli.findings()["failed_effect_unknown"]["remedies"][1]["command"]).exit_code == 0
    assert cli.findings() == {}
    assert the_run(journal, ref).status is WorkflowStatus.FAILED
    assert cli("retry", ref, *SIGNED).exit_code == 0
    assert statuses(journal, ref) == {"run": "running", "charge": "waiting", "ship": "planned"}


def undone(journal: Journal, effect: Effect) -> str:
    """A run whose rollback failed at its only compensation."""
    ref = a_run(journal, a_step("reserve", compensation="refund"), "charge")
    succeed(journal, ref, "reserve")
    fail(journal, ref, "charge")
    token = claim(journal, ref, "undo:reserve")
    journal.ends.fail(the(journal, ref, "undo:reserve"), token, TIMED_OUT, effect, fails_run=False)
    assert the_run(journal, ref).status is WorkflowStatus.COMPENSATION_FAILED
    return ref


def test_a_compensation_that_failed_is_found_and_tried_again(cli: Cli, journal: Journal) -> None:
    ref = undone(journal, Effect.DID_NOT_HAPPEN)
    found = cli.findings()["rollback_failed"]
    assert found["step"] == "reserve"
    assert "reserve happened and was to be undone. Its compensation refund failed for good with TimeoutError." in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert the(journal, ref, "undo:reserve").status is StepStatus.WAITING
    assert the_run(journal, ref).status is WorkflowStatus.ROLLING_BACK


def test_a_compensation_whose_effect_is_unknown_is_resolved_first(cli: Cli, journal: Journal) -> None:
    ref = undone(journal, Effect.UNKNOWN)
    found = cli.findings()["rollback_failed"]
    assert "whether the compensation had its effect" in found["uncertain"]
    refused = cli("retry", ref, *SIGNED, code=1)
    assert "its effect may have happened" in refused.stderr
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}
    assert statuses(journal, ref) == {
        "run": "compensated", "reserve": "undone", "charge": "failed", "undo:reserve": "succeeded"
    }  # fmt: skip


def test_drift_is_found_and_released(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.doubts.hold_drift(the(journal, ref, "function"), "charge was recorded with 1 and now called with 2")
    found = cli.findings()["drift"]
    assert "charge was recorded with 1 and now called with 2" in found["certain"]
    assert found["remedies"][0]["when"] == "once code is deployed that fits what is recorded"
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}
    assert the(journal, ref, "function").status is StepStatus.WAITING


def test_drift_can_be_ended_as_a_failure(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    journal.doubts.hold_drift(the(journal, ref, "function"), "it changed")
    assert cli.run_printed(cli.findings()["drift"]["remedies"][1]["command"]).exit_code == 0
    assert cli.findings() == {}
    assert statuses(journal, ref) == {"run": "failed", "function": "failed"}


def at_unmarked(journal: Journal, **given: object) -> str:
    """A chain that has stood at an unmarked member for an hour."""
    mail = a_step("mail", kind=Kind.UNMARKED, queue="celery", task_id="m1")
    ref = a_run(journal, "charge", mail, a_step("ship", options=LAST), **given)
    succeed(journal, ref, "charge")
    for key in ("charge", "mail"):
        age(journal, ref, key)
    age(journal, ref)
    return ref


def test_a_chain_that_stands_at_an_unmarked_task_is_found_and_taken_over_it(cli: Cli, journal: Journal) -> None:
    ref = at_unmarked(journal)
    found = cli.findings()["stopped_at_unmarked"]
    assert "The chain reached mail" in found["certain"]
    assert "It is not marked durable, and its end was not recorded." in found["certain"]
    assert found["safe"] is False
    done = cli.run_printed(found["command"])
    assert "The end of mail is recorded. The sweepers send ship after 10 min; with -A it is sent at once." in done.stdout
    assert cli.findings() == {}
    assert statuses(journal, ref) == {"run": "running", "charge": "succeeded", "mail": "succeeded", "ship": "planned"}


def test_an_unmarked_task_that_did_not_run_is_sent_again(cli: Cli, journal: Journal, shop: Shop) -> None:
    charge, mail, ship = shop.app.tasks["charge"], shop.app.tasks["mail"], shop.app.tasks["ship"]
    (charge.s("42") | mail.s() | ship.s()).apply_async()
    (ref,) = journal.reads.newest_refs("default")
    ref = ref[1]
    keys = [s.key for s in journal.reads.steps(ref)]
    succeed(journal, ref, keys[0])
    for key in keys[:2]:
        age(journal, ref, key)
    age(journal, ref)
    found = cli.findings()["stopped_at_unmarked"]
    refused = cli.run_printed(found["remedies"][1]["command"].replace(" -A APP", ""))
    assert refused.exit_code == 1
    assert "to send it again its app is needed. Give it with -A" in refused.stderr
    done = cli.run_printed(found["remedies"][1]["command"], app=shop.name)
    assert done.exit_code == 0, done.output
    assert shop.sent == ["charge", "mail"]


def test_a_refused_message_is_found_until_a_person_has_seen_it(cli: Cli, journal: Journal) -> None:
    ref = new_ref()
    for _ in range(2):
        journal.events.note(Event.REFUSED, ref=ref, key="t1/0/charge", who="w1", why="pruned", name="charge")
    found = cli.findings()["refused_message"]
    assert found["workflow"] == ref
    assert "2 messages of charge came for a run that this journal does not have; nothing was run." in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    journal.events.note(Event.REFUSED, ref=ref, key="t1/0/charge", who="w1", why="pruned", name="charge")
    assert "refused_message" in cli.findings(), "another message is news"


def test_a_refused_message_of_a_run_that_is_there_is_told_so_and_can_be_acknowledged(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-7", declared=True)
    journal.events.note(Event.REFUSED, ref=ref, key="9:mail", who="w1", why="it has no row", name="mail")
    found = cli.findings()["refused_message"]
    assert "1 message of mail came for the step '9:mail', which this journal does not have; it has the run" in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}


@on_sqlite
def test_a_start_that_was_taken_back_is_no_message_in_any_namespace(cli: Cli, journal: Journal) -> None:
    for _ in range(3):  # a broker that is away for a while
        journal.starts.forget(a_run(journal, a_step("pay", safety=Safety.IDEMPOTENT, options={"window": 10**12})))
    assert cli.findings() == {}
    assert cli.findings("--namespace", "another") == {}


@on_sqlite
def test_a_refused_message_is_the_concern_of_its_workers_namespace(cli: Cli, journal: Journal) -> None:
    ref = new_ref()
    journal.events.note(Event.REFUSED, ref=ref, key="t1/0/charge", who="w1", why="pruned", name="charge", namespace="other")
    assert cli.findings() == {}
    told = cli("resolve", ref, "--acknowledge", *SIGNED, code=2).stderr
    assert f"has no workflow '{ref}', and in namespace 'default' no message of it was refused" in told
    found = cli.findings("--namespace", "other")["refused_message"]
    assert "--namespace other resolve" in found["command"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings("--namespace", "other") == {}


@on_sqlite
def test_a_run_of_another_namespace_is_told_and_not_touched(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), namespace="other")
    held(journal, ref, "charge")
    told = cli("resolve", ref, "--failed", *SIGNED, code=2).stderr
    assert f"the run {ref} is of namespace 'other', and this is 'default': give --namespace other" in told
    assert "has no workflow, run or task 't-1' in namespace 'default'" in cli("explain", "t-1", code=2).stderr
    assert cli("--namespace", "other", "explain", "t-1", code=1).exit_code == 1
    assert statuses(journal, ref)["charge"] == "held"


def test_a_task_that_the_code_no_longer_has_is_found_only_with_the_app(cli: Cli, journal: Journal, shop: Shop) -> None:
    ref = a_run(journal, a_step("charge"), a_step("gone", name="shop.gone"))
    assert cli.findings() == {}
    found = cli.findings("-A", shop.name)["unknown_task"]
    assert "this app has no task named 'shop.gone'" in found["certain"]
    assert found["command"].startswith(f"durable-adapter -A {shop.name} cancel --by ")
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings("-A", shop.name) == {}
    assert statuses(journal, ref)["run"] == "cancelled"


def test_the_claim_of_a_dead_worker_is_found_and_a_sweep_takes_it_further(cli: Cli, journal: Journal, shop: Shop) -> None:
    a_worker(journal, "w2", host="web-7", pid=4711, parent="p")
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge", "w2")
    journal.workers.child_died("p", 4711, "signal 9")
    found = cli.findings()["dead_worker"]
    assert "on web-7 (pid 4711). Of that process it is known: its parent saw it die at" in found["certain"]
    assert found["safe"] is True
    assert found["command"] == "durable-adapter -A APP sweep --once"
    done = cli.run_printed(found["command"], app=shop.name)
    assert done.exit_code == 0, done.output
    assert "doubts 1, held 1" in done.stdout
    assert set(cli.findings()) == {"held"}


def test_a_worker_that_is_silent_and_not_yet_declared_dead_is_found(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    from durable_adapter.journal.schema import worker

    journal.db.transaction(lambda conn: conn.execute(worker.update().values(beat_at=worker.c.beat_at - HOUR)))
    found = cli.findings()["dead_worker"]
    assert "That process has not beaten for 1 h, and nobody declared it dead." in found["certain"]
    assert found["safe"] is False
    assert found["command"] == "durable-adapter -A APP sweep --for 120"


def test_a_step_that_its_living_worker_no_longer_runs_is_found_and_a_sweeper_has_to_watch(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    age(journal, ref, "charge", "begun_at", by=MINUTE)
    for _ in range(2):
        journal.workers.beat("w1", [])
    found = cli.findings()["begun_not_running"]
    assert "That process lives, and its last two beats do not name this step." in found["certain"]
    assert found["safe"] is False
    assert found["command"] == "durable-adapter -A APP sweep --for 120"


def test_doubt_that_nobody_looks_at_is_found(cli: Cli, journal: Journal, shop: Shop) -> None:
    charge = shop.app.tasks["charge"]
    charge.delay("42")
    ((_, ref),) = journal.reads.newest_refs("default")
    (step,) = journal.reads.steps(ref)
    change(journal, ref, step.key, safety=Safety.PROBE.value)
    in_doubt(journal, ref, step.key)
    age(journal, ref, step.key, "next_check_at", by=2 * MINUTE)
    found = cli.findings()["in_doubt"]
    assert "It has been due to be looked at since" in found["certain"]
    assert [r["command"].split()[1] for r in found["remedies"]] == ["-A", "resolve", "resolve", "resolve"]
    assert cli.run_printed(found["command"], app=shop.name).exit_code == 0
    assert shop.sent == ["charge", "charge"], "its message is sent, so that a worker asks the probe"
    assert cli.findings() == {}
    age(journal, ref, step.key, "doubt_at")
    assert "It is looked at again and again, and is not settled" in cli.findings()["in_doubt"]["certain"]


def lost(journal: Journal, shop: Shop) -> str:
    """A lone task whose message was lost an hour ago."""
    shop.app.tasks["charge"].delay("42")
    ((_, ref),) = journal.reads.newest_refs("default")
    (step,) = journal.reads.steps(ref)
    age(journal, ref)
    age(journal, ref, step.key)
    with shop.app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")
    return ref


def test_a_lost_message_is_found_and_sent_again(cli: Cli, journal: Journal, shop: Shop) -> None:
    lost(journal, shop)
    found = cli.findings()["lost_message"]
    assert "and has not." in found["certain"]
    assert "whether its message is lost or still waits in the queue 'celery'" in found["uncertain"]
    assert found["safe"] is True
    with_app = cli.findings("-A", shop.name)["lost_message"]["command"]
    assert with_app.startswith(f"durable-adapter -A {shop.name} retry --by ")
    done = cli.run_printed(with_app)
    assert "A sweep sent 1 message." in done.stdout
    assert shop.sent == ["charge", "charge"]
    assert cli.findings() == {}


@pytest.mark.usefixtures("unswept")
def test_a_lost_message_is_left_to_the_sweepers_without_an_app(cli: Cli, journal: Journal, shop: Shop) -> None:
    ref = lost(journal, shop)
    change(journal, ref, next_check_at=journal.time() + HOUR, resends=3)
    done = cli.run_printed(cli.findings()["lost_message"]["command"])
    assert "Nobody sweeps: no sweeper is known." in done.stdout
    assert (the_run(journal, ref).next_check_at or 0) <= journal.time(), "whoever sweeps next looks at it"


def test_a_message_that_waits_for_its_countdown_is_not_lost(cli: Cli, journal: Journal, shop: Shop) -> None:
    shop.app.tasks["charge"].apply_async(("42",), countdown=7200)
    ((_, ref),) = journal.reads.newest_refs("default")
    age(journal, ref, None, "created_at", by=HOUR)
    assert cli.findings() == {}


def test_a_step_that_is_due_and_not_begun_is_found(cli: Cli, journal: Journal, shop: Shop) -> None:
    shop.app.tasks["charge"].delay("42")
    ((_, ref),) = journal.reads.newest_refs("default")
    (step,) = journal.reads.steps(ref)
    token = claim(journal, ref, step.key)
    journal.ends.try_again(the(journal, ref, step.key), token, 0, None, "the task asked to be run again")
    assert cli.findings() == {}
    age(journal, ref, step.key, "next_check_at", by=5 * MINUTE)
    found = cli.findings("-A", shop.name)["lost_message"]
    assert "It has been due since" in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert shop.sent == ["charge", "charge"]
    assert cli.findings() == {}


def test_a_function_that_nobody_woke_is_found(cli: Cli, journal: Journal, shop: Shop) -> None:
    shop.app.tasks["fulfil"].delay("42")
    run = journal.reads.latest("default", "order-42")
    assert run is not None
    journal.runs.suspend(run.ref, waiting_for="signal", wake_at=journal.time() - 5 * MINUTE)
    age(journal, run.ref, None, "created_at", by=5 * MINUTE)
    for row in journal.reads.steps(run.ref):
        age(journal, run.ref, row.key, "created_at", by=5 * MINUTE)
    found = cli.findings("-A", shop.name)["lost_message"]
    assert "It was to be woken" in found["certain"]
    assert found["workflow"] == "order-42"
    assert cli.run_printed(found["command"]).exit_code == 0
    assert shop.sent == ["fulfil", "fulfil"]


def test_a_dispatched_step_that_nobody_began_is_found(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    assert journal.claims.plan_new(a_dispatch(ref, "ledger"))
    age(journal, ref)
    age(journal, ref, "ledger")
    age(journal, ref, "function")
    found = cli.findings()["lost_message"]
    assert (found["step"], "It was sent" in found["certain"]) == ("ledger", True)


def test_a_rollback_at_rest_is_found_and_goes_on(cli: Cli, journal: Journal, shop: Shop) -> None:
    reserve, charge = shop.app.tasks["reserve"], shop.app.tasks["charge"]
    (reserve.s("42") | charge.s()).apply_async()
    ((_, ref),) = journal.reads.newest_refs("default")
    first, second = (s.key for s in journal.reads.steps(ref))
    succeed(journal, ref, first)
    fail(journal, ref, second)
    for step in journal.reads.steps(ref):
        age(journal, ref, step.key, by=25 * MINUTE)
    age(journal, ref, by=25 * MINUTE)
    found = cli.findings("-A", shop.name)["rollback_unfinished"]
    assert "The workflow is being rolled back; nothing of it has been recorded since" in found["certain"]
    assert "Still to be undone: reserve." in found["certain"]
    assert found["safe"] is True
    assert cli.run_printed(found["command"]).exit_code == 0
    assert shop.sent == ["reserve", "refund"]
    assert cli.findings() == {}


def test_a_rollback_that_waits_for_a_verdict_says_on_what(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("reserve", compensation="refund"), a_step("charge", pivot=True), shape=Shape.CANVAS)
    succeed(journal, ref, "reserve")
    fail(journal, ref, "charge", Effect.UNKNOWN)
    assert the_run(journal, ref).status is WorkflowStatus.FAILING
    for key in ("reserve", "charge"):
        age(journal, ref, key)
    age(journal, ref)
    found = cli.findings()["rollback_unfinished"]
    assert "its pivot is not decided" in found["certain"]
    assert "It waits for a verdict on charge, which is failed." in found["certain"]
    assert cli.run_printed(found["remedies"][1]["command"]).exit_code == 0
    assert statuses(journal, ref) == {
        "run": "rolling_back", "reserve": "succeeded", "charge": "failed", "undo:reserve": "planned"
    }  # fmt: skip
    assert cli.findings() == {}


def test_what_may_have_happened_twice_is_found_first_and_taken_off_the_list(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", "ship")
    row = held(journal, ref, "charge")
    other = a_run(journal, "charge")
    held(journal, other, "charge")
    assert journal.verdicts.did_not_happen(row, who="ann", why="not in the bank").recorded
    token = claim(journal, ref, "charge")
    assert row.token is not None
    journal.ends.late(ref, "charge", row.token, ONE, "w1")
    assert journal.ends.succeed(ref, "charge", token, ONE, completes_run=False)
    found = cli.json("reconcile")["findings"]
    assert [f["kind"] for f in found] == ["may_have_happened_twice", "held"]
    assert "An attempt of it reported success after its outcome had been decided otherwise" in found[0]["certain"]
    assert "ann: did not happen: not in the bank" in found[0]["certain"]
    assert cli.run_printed(found[0]["command"]).exit_code == 0
    assert set(cli.findings()) == {"held"}
    assert the(journal, ref, "charge").attention is None


def test_a_run_that_waits_for_long_is_found_when_asked_about(cli: Cli, journal: Journal) -> None:
    ref = a_function(journal)
    journal.runs.suspend(ref, waiting_for="the approval", wake_at=journal.time() + HOUR)
    age(journal, ref, None, "created_at", by=3 * HOUR)
    age(journal, ref, "function", by=3 * HOUR)
    assert cli.findings() == {}
    assert cli.findings("--waiting-longer-than", "4h") == {}
    found = cli.findings("--waiting-longer-than", "2h")["waiting_long"]
    assert "Nothing of it has been recorded for 3 h. It waits for the approval. It is woken" in found["certain"]
    assert found["command"] == f"durable-adapter explain -- {ref}"
    assert cli.run_printed(found["command"]).exit_code == 0


def test_a_job_that_fails_behind_its_step_is_shown_until_it_is_acknowledged(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", a_step("ship", options=LAST), engine="rq")
    succeed(journal, ref, "charge")
    assert journal.doubts.raise_attention(ref, "charge", Attention.CALLBACK, "it fails behind it")
    assert not journal.doubts.raise_attention(ref, "charge", Attention.CALLBACK, "it fails behind it"), "it is there"
    succeed(journal, ref, "ship", completes_run=True)
    found = cli.findings()["called_failed"]
    assert "RQ calls its job failed all the same" in found["certain"]
    assert cli.run_printed(found["command"]).exit_code == 0
    assert cli.findings() == {}


def test_a_task_that_its_engine_ended_before_it_began_is_found(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t-1"), "ship")
    end = EngineEnd("it was revoked", RuntimeError("revoked"), journal.time())
    assert ended_by_engine(journal, ref, "t-1", end, who="w1") is Fate.ENDED
    found = cli.findings()["ended_by_engine"]
    assert found["command"].startswith("durable-adapter retry ")
    assert found["command"].endswith(f"-- {ref}")


def test_a_row_that_cannot_be_read_is_found(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", id="order-42", declared=True)
    change(journal, ref, "charge", safety="blessed")
    found = cli.findings()["unreadable"]
    assert (found["workflow"], found["key"]) == ("order-42", "charge")
    assert "its column safety holds 'blessed'" in found["certain"]


def test_every_kind_of_finding_is_made_to_happen_here() -> None:
    from pathlib import Path

    from durable_adapter.reconcile import Trouble

    here = "".join(Path(__file__).with_name(name).read_text() for name in ("test_findings.py", "test_blockers.py"))
    assert [kind for kind in Trouble if f'"{kind.value}"' not in here] == []


def test_the_clock_of_a_finding_is_the_databases_own(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    from datetime import datetime

    since = datetime.fromisoformat(cli.findings()["held"]["since"])
    assert abs(since.timestamp() * SECOND - journal.time()) < MINUTE


@on_sqlite
def test_an_id_that_looks_like_a_secret_is_named_by_its_reference_in_commands(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("k1", name="https://pay:pw@x/charge"), id="https://shop:s3@x/o?token=abc", declared=True)
    held(journal, ref, "k1")
    told = cli("reconcile", code=1).stdout
    command = next(line.strip() for line in told.splitlines() if "resolve --did-not-happen" in line)
    assert command.endswith(f" -- {ref} k1")
    assert "s3" not in told
    assert cli.run_printed(command).exit_code == 0
    assert statuses(journal, ref)["k1"] == "waiting"
