"""One step: memo, claim, run, record, hand back; and what is known about its effect when it ends in an error."""

from __future__ import annotations

import gc
import socket
import uuid

import pytest

import durable_adapter as durable
from durable_adapter.errors import NotInWorkflow, UnserialisableValue
from durable_adapter.model import SECOND, Cause, Effect, StepStatus, idempotency_key, new_token
from durable_adapter.runtime.alerts import Held
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.values import encode
from durable_adapter.testing import Killed
from tests.runtime import shop
from tests.runtime.worlds import World

KILLED = Killed("kill -9")


def test_a_step_runs_once_and_its_value_is_recorded(world: World) -> None:
    sent = world.send(shop.charge, "42")
    assert world.bank.effects == ["charge 42"]
    workflow = world.workflow(sent)
    assert (workflow.status, workflow.steps, workflow.value) == ("succeeded", ["charge: succeeded"], "ch-42")


def test_the_happy_path_writes_no_event(world: World) -> None:
    sent = world.chain((shop.charge, "42"), (shop.ship, "42"))
    assert world.workflow(sent).status == "succeeded"
    assert world.events(sent) == []


def test_what_a_call_was_given_goes_when_it_is_over(world: World) -> None:
    """Not when Python's collector comes by: until then a worker would keep the values of hundreds of calls."""
    gc.collect()
    others = [it for it in gc.get_objects() if type(it) is Call]  # errors of other tests keep them
    gc.disable()
    try:
        world.chain((shop.charge, "42"), (shop.keyed, "42"), (shop.book, "42"))
        world.send(shop.in_place, "42")
        left = [it for it in gc.get_objects() if type(it) is Call and it not in others]
    finally:
        gc.enable()
    assert left == []


@pytest.mark.parametrize("function", [shop.charge, shop.keyed, shop.probed, shop.book], ids=lambda f: f.__name__)
def test_a_message_that_comes_again_is_a_memo_hit(world: World, function: object) -> None:
    sent = world.send(function, "42")  # type: ignore[arg-type]
    done = list(world.bank.effects)
    before = world.rows(sent)
    world.again(sent, function.__name__)  # type: ignore[attr-defined]
    assert world.bank.effects == done
    assert [(r.status, r.attempt, r.token, r.ended_at) for r in world.rows(sent)] == [
        (r.status, r.attempt, r.token, r.ended_at) for r in before
    ]


def test_an_error_fails_the_step_and_its_effect_is_unknown(world: World) -> None:
    world.bank.trouble = [ValueError("no paper")]
    sent = world.send(shop.charge, "42")
    workflow = world.workflow(sent)
    assert (workflow.status, workflow.steps) == ("failed", ["charge: failed"])
    assert isinstance(workflow.error, ValueError)
    row = world.row(sent, "charge")
    assert (row.effect, row.attention) == (Effect.UNKNOWN, "effect_unknown")
    world.again(sent, "charge")
    assert world.count("charge 42") == 1


def test_a_declared_error_says_that_nothing_happened(world: World) -> None:
    sent = world.send(shop.decline, "42")
    row = world.row(sent, "decline")
    assert (row.status, row.effect, row.attention) == (StepStatus.FAILED, Effect.DID_NOT_HAPPEN, None)


@pytest.mark.parametrize("error", [ConnectionRefusedError(), socket.gaierror()], ids=["refused", "unknown name"])
def test_an_error_of_a_connection_that_was_never_made_says_that_nothing_happened(world: World, error: Exception) -> None:
    world.bank.trouble = [("before", error)]
    assert world.row(world.send(shop.polite, "42"), "polite").effect is Effect.DID_NOT_HAPPEN


def test_the_same_error_says_nothing_of_a_step_that_does_not_say_so(world: World) -> None:
    """It may have charged before a broker refused the connection."""
    world.bank.trouble = [("before", ConnectionRefusedError())]
    assert world.row(world.send(shop.charge, "42"), "charge").effect is Effect.UNKNOWN


def test_a_wrapped_error_is_looked_through(world: World) -> None:
    wrapped = RuntimeError("the client's own")
    wrapped.__cause__ = ConnectionRefusedError()
    world.bank.trouble = [("before", wrapped)]
    assert world.row(world.send(shop.polite, "42"), "polite").effect is Effect.DID_NOT_HAPPEN


def test_an_error_that_may_have_happened_is_unknown_however_harmless_it_looks(world: World) -> None:
    world.bank.trouble = [("before", ConnectionRefusedError())]
    assert world.row(world.send(shop.doubtful, "42"), "doubtful").effect is Effect.UNKNOWN


def test_an_idempotent_step_is_tried_again_with_the_same_key(world: World) -> None:
    world.bank.trouble = [TimeoutError("no answer"), TimeoutError("no answer")]
    sent = world.send(shop.keyed, "42")
    assert world.workflow(sent).value == "ke-42"
    assert world.count("keyed 42") == 1
    assert len(world.bank.keys) == 3
    assert len(set(world.bank.keys)) == 1
    assert world.row(sent, "keyed").attempt == 3
    assert world.events(sent) == ["attempt_failed", "attempt_failed"]


def test_a_step_that_is_tried_too_often_fails_with_its_own_error(world: World) -> None:
    world.bank.trouble = [TimeoutError(f"number {n}") for n in range(9)]
    sent = world.send(shop.keyed, "42")
    workflow = world.workflow(sent)
    assert workflow.status == "failed"
    assert isinstance(workflow.error, TimeoutError)
    assert world.row(sent, "keyed").attempt == 4


def test_an_error_that_is_not_worth_a_retry_is_not_tried_again(world: World) -> None:
    world.bank.trouble = [TimeoutError("later"), shop.Gone("never")]
    sent = world.send(shop.picky, "42")
    assert isinstance(world.workflow(sent).error, shop.Gone)
    assert world.row(sent, "picky").attempt == 2


def test_an_attempt_that_is_far_off_gives_the_worker_back(world: World) -> None:
    """What is near is waited for in the worker; what is not waits in the journal, and is sent when it is due."""
    for driver in world.here.drivers:
        driver.binding.host.near = 1.0
    world.bank.trouble = [TimeoutError("no answer")]
    sent = world.send(shop.keyed, "42")
    row = world.row(sent, "keyed")
    assert row.status is StepStatus.WAITING
    assert 59 * SECOND < (row.next_check_at or 0) - world.here.clock.microseconds() <= 60 * SECOND
    world.journal.advance(59)
    assert len(world.bank.keys) == 1
    world.journal.advance(2)
    assert world.workflow(sent).value == "ke-42"


def test_a_killed_step_is_held_where_nothing_is_declared_and_nothing_behind_it_begins(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.chain((shop.charge, "42"), (shop.ship, "42"))
    assert world.statuses(sent) == [("charge", "held"), ("ship", "planned")]
    assert "died" in world.workflow(sent).step("charge").why
    world.journal.advance(days=2)
    assert world.bank.effects == ["charge 42"]


def test_a_held_step_is_told_once_with_what_a_pager_needs(world: World) -> None:
    told: list[Held] = []
    durable.on_held.connect(told.append)
    try:
        world.bank.trouble = [KILLED]
        world.start("order-42", (shop.charge, "42"))
        world.again("order-42", "charge")
        world.journal.advance(days=1)
    finally:
        durable.on_held.disconnect(told.append)
    (held,) = told
    assert (held.workflow, held.step.rpartition(".")[2]) == ("order-42", "charge")
    assert held.command == "durable-adapter explain -- order-42"


def test_one_verdict_finishes_a_held_step_and_what_is_behind_it(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.chain((shop.charge, "42"), (shop.ship, "42"))
    held = world.row(sent, "charge")
    assert world.here.journal.verdicts.happened(held, encode("ch-42"), who="ann", why="the bank's page shows it").recorded
    world.journal.sweep()
    assert world.workflow(sent).status == "succeeded"
    assert world.bank.effects == ["charge 42", "ship 42"]


def test_a_verdict_that_nothing_happened_runs_a_held_step_once_more(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.send(shop.charge, "42")
    assert world.here.journal.verdicts.did_not_happen(world.row(sent, "charge"), who="ann", why="asked the bank").recorded
    world.journal.sweep()
    assert world.workflow(sent).value == "ch-42"
    assert world.row(sent, "charge").attempt == 2


def test_a_killed_idempotent_step_is_taken_over_with_the_same_key(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.send(shop.keyed, "42")
    world.journal.advance(hours=1)
    assert world.workflow(sent).value == "ke-42"
    assert world.count("keyed 42") == 1
    assert len(set(world.bank.keys)) == 1


def test_an_idempotent_step_is_taken_over_three_times_and_then_held(world: World) -> None:
    world.bank.trouble = [KILLED] * 9
    sent = world.send(shop.keyed, "42")
    world.journal.advance(hours=20)
    row = world.row(sent, "keyed")
    assert (row.status, row.takeovers) == (StepStatus.HELD, 3)
    assert "taken over 3 times" in (row.evidence or "")


def test_an_idempotent_step_is_not_taken_over_when_its_window_has_passed(world: World) -> None:
    """Its provider may have forgotten the key."""
    world.bank.trouble = [KILLED]
    world.bank.meanwhile = lambda _: world.here.clock.move(3 * 3600)
    sent = world.send(shop.soon_forgotten, "42")
    world.journal.advance(hours=1)
    row = world.row(sent, "soon_forgotten")
    assert row.status is StepStatus.HELD
    assert "window of 2 h has passed" in (row.evidence or "")
    assert world.count("soon 42") == 1


def test_a_killed_transactional_step_leaves_nothing_and_runs_again(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.send(shop.book, "42")
    world.journal.advance(hours=1)
    assert world.workflow(sent).value == 1
    assert world.booked() == ["42"]


def test_a_probe_that_finds_the_effect_spares_a_second_one(world: World) -> None:
    world.bank.trouble = [KILLED]
    sent = world.send(shop.probed, "42")
    world.journal.advance(minutes=5)
    assert world.workflow(sent).value == "found probed 42"
    assert world.count("probed 42") == 1


def test_a_probe_after_an_error_is_asked_too(world: World) -> None:
    world.bank.trouble = [TimeoutError("no answer")]
    sent = world.send(shop.probed, "42")
    world.journal.advance(minutes=5)
    assert world.workflow(sent).value == "found probed 42"


def test_a_probe_that_finds_nothing_counts_only_when_it_is_asked_late_enough(world: World) -> None:
    """Whoever the dead process asked may still be working on it."""
    world.bank.trouble = [("before", KILLED)]
    sent = world.send(shop.probed, "42")
    world.journal.advance(29)
    assert world.row(sent, "probed").status is StepStatus.IN_DOUBT
    assert world.bank.effects == []
    world.journal.advance(minutes=2)
    assert world.workflow(sent).value == "pr-42"
    assert world.row(sent, "probed").attempt == 2


def test_what_happens_between_two_questions_of_a_probe_is_not_repeated(world: World) -> None:
    world.bank.trouble = [("before", KILLED)]
    sent = world.send(shop.probed, "42")
    world.journal.advance(10)
    world.bank.effects.append("probed 42")  # the bank has only now got round to it
    world.journal.advance(minutes=5)
    assert world.workflow(sent).value == "found probed 42"
    assert world.count("probed 42") == 1


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        (durable.cannot_tell(evidence="the page is down"), "cannot tell. the page is down"),
        ("yes", "answered str, which is no verdict"),
        (durable.happened(object()), "with a value that cannot be recorded"),
    ],
    ids=["cannot tell", "nonsense", "no value"],
)
def test_a_probe_that_does_not_know_leaves_the_step_to_a_person(world: World, answer: object, evidence: str) -> None:
    world.bank.trouble, world.bank.answers = [KILLED], [answer] * 5
    sent = world.send(shop.probed, "42")
    world.journal.advance(minutes=5)
    row = world.row(sent, "probed")
    assert row.status is StepStatus.HELD
    assert evidence in (row.evidence or "")


def test_a_probe_that_raises_is_asked_again(world: World) -> None:
    world.bank.trouble, world.bank.answers = [KILLED], [ConnectionError("down"), ConnectionError("down")]
    sent = world.send(shop.probed, "42")
    world.journal.advance(5)
    assert "the probe raised ConnectionError: down" in (world.row(sent, "probed").evidence or "")
    world.journal.advance(minutes=5)
    assert world.workflow(sent).value == "found probed 42"


def test_a_probe_that_raises_for_a_quarter_of_an_hour_leaves_the_step_to_a_person(world: World) -> None:
    world.bank.trouble, world.bank.answers = [KILLED], [ConnectionError("down")] * 1000
    sent = world.send(shop.probed, "42")
    world.journal.advance(minutes=14)
    assert world.row(sent, "probed").status is StepStatus.IN_DOUBT
    world.journal.advance(minutes=3)
    assert world.row(sent, "probed").status is StepStatus.HELD


def test_a_step_that_dies_ten_times_without_an_effect_is_left_to_a_person(world: World) -> None:
    world.bank.trouble = [("before", KILLED)] * 50
    sent = world.send(shop.probed_again, "42")
    world.journal.advance(days=1)
    row = world.row(sent, "probed_again")
    assert (row.status, row.attempt) == (StepStatus.HELD, 10)
    assert "10 attempts began and none ended" in (row.evidence or "")


def test_a_probed_error_is_tried_again_by_its_policy_and_then_fails_with_it(world: World) -> None:
    world.bank.trouble = [("before", TimeoutError("no answer"))] * 5
    sent = world.send(shop.probed_again, "42")
    world.journal.advance(hours=1)
    workflow = world.workflow(sent)
    assert workflow.status == "failed"
    assert isinstance(workflow.error, TimeoutError)
    row = world.row(sent, "probed_again")
    assert (row.attempt, row.effect) == (3, Effect.DID_NOT_HAPPEN)


def test_a_success_after_a_verdict_may_have_happened_twice(world: World) -> None:
    """The process was only slow: a person has decided, and another attempt has run, when its own end comes."""

    def decide(_: str) -> None:
        world.bank.meanwhile = None
        journal = world.here.journal
        row = next(step for step in journal.reads.unsettled() if step.name.endswith("charge"))
        journal.doubts.raise_doubt(row, row.token, "it is silent", cause=Cause.WORKER_DIED, over=True)
        doubted = journal.claims.get(row.ref, row.key)
        assert doubted is not None
        assert journal.verdicts.did_not_happen(doubted, who="ann", why="the bank's page shows nothing").recorded
        token = new_token()
        assert journal.claims.begin(row.ref, row.key, token, row.worker or "")
        assert journal.ends.succeed(row.ref, row.key, token, encode("the other's"), completes_run=True)

    world.bank.meanwhile = decide
    sent = world.send(shop.charge, "42")
    row = world.row(sent, "charge")
    assert (row.status, row.marks) == (StepStatus.SUCCEEDED, ["twice"])
    assert world.workflow(sent).value == "the other's"  # the first recorded outcome stands
    assert "late_success" in world.events(sent)


def test_a_success_after_a_verdict_that_said_so_happened_once(world: World) -> None:
    """Its own attempt is the only one that there was."""

    def decide(_: str) -> None:
        journal = world.here.journal
        (row,) = journal.reads.unsettled()
        journal.doubts.raise_doubt(row, row.token, "it is silent", cause=Cause.WORKER_DIED, over=True)
        doubted = journal.claims.get(row.ref, row.key)
        assert doubted is not None
        assert journal.verdicts.happened(doubted, encode("by hand"), who="ann", why="the bank's page shows it").recorded

    world.bank.meanwhile = decide
    sent = world.send(shop.charge, "42")
    assert (world.workflow(sent).value, world.row(sent, "charge").attention) == ("by hand", None)


def test_a_success_that_comes_before_the_verdict_settles_the_doubt(world: World) -> None:
    def doubt(_: str) -> None:
        journal = world.here.journal
        (row,) = journal.reads.unsettled()
        journal.doubts.raise_doubt(row, row.token, "it is silent", cause=Cause.WORKER_DIED, over=False)

    world.bank.meanwhile = doubt
    sent = world.send(shop.charge, "42")
    assert world.workflow(sent).value == "ch-42"
    assert world.row(sent, "charge").attention is None


def test_a_result_that_cannot_be_recorded_leaves_the_step_held_as_happened(world: World) -> None:
    sent = world.chain((shop.unspeakable, "42"), (shop.ship, "42"))
    row = world.row(sent, "unspeakable")
    assert row.status is StepStatus.HELD
    assert "it happened, but its value cannot be recorded" in (row.evidence or row.doubt or "")
    world.journal.advance(days=1)
    assert world.bank.effects == ["unspeakable 42"]


def test_an_argument_that_cannot_be_written_down_is_an_error_at_the_caller_and_nothing_is_sent(world: World) -> None:
    with pytest.raises(UnserialisableValue, match=r"charge cannot be made durable with these arguments: .* Nothing was sent"):
        world.send(shop.charge, object())
    assert world.bank.effects == []
    assert world.journal.workflows() == []


@pytest.mark.parametrize("function", [shop.referred, shop.referred_in_transaction], ids=lambda f: f.__name__)
def test_the_providers_own_name_is_kept(world: World, function: object) -> None:
    sent = world.send(function, "42")  # type: ignore[arg-type]
    assert world.workflow(sent).steps[0].reference == "ref-42"


def test_the_key_of_a_declared_workflow_follows_from_its_id(world: World) -> None:
    world.start("order-42", (shop.keyed, "42"))
    ((_, key),) = world.bank.keys
    run, row = world.run("order-42"), world.row("order-42", "keyed")
    assert key == idempotency_key("default", "order-42", 1, run.ref, row.key)
    assert uuid.UUID(key).version == 5


def test_two_runs_have_two_keys(world: World) -> None:
    world.send(shop.keyed, "42")
    world.send(shop.keyed, "42")
    assert len(world.bank.keys) == 2
    assert len(set(world.bank.keys)) == 2


def test_outside_of_a_step_there_is_no_key(world: World) -> None:
    with pytest.raises(NotInWorkflow, match="inside a durable step"):
        durable.idempotency_key()


def test_a_step_called_by_the_test_itself_is_a_workflow_of_one_step(world: World) -> None:
    assert shop.charge("42") == "ch-42"
    (workflow,) = world.journal.workflows()
    assert workflow.steps[-1] == "charge: succeeded"
