"""`durable_journal`: durable calls run in the test's own process, through the real runtime."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import chain, group
from celery.app.task import Task as TaskClass

import durable_adapter as durable
from durable_adapter.celery import HeldTimeout
from durable_adapter.errors import SameIdOtherArguments, UnknownWorkflow, UnsupportedCanvas
from durable_adapter.testing import NotFinished, TestJournal
from durable_adapter.testing.recorded import redirected
from tests.testing.shop import Declined, Shop


def test_delay_runs_at_once_and_is_recorded(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    result = shop.charge.delay("42")
    assert result.get() == "ch-42"
    assert result.successful()
    assert effects == ["charge"]
    assert durable_journal.steps(result) == ["charge: succeeded"]
    assert durable_journal.step(result, "charge").value == "ch-42"


@pytest.mark.parametrize("how", ["apply", "signature.apply", "apply_async", "direct", "run"])
def test_every_way_to_call_a_task_is_recorded(durable_journal: TestJournal, shop: Shop, effects: list[Any], how: str) -> None:
    value = {
        "apply": lambda: shop.charge.apply(("42",)).get(),
        "signature.apply": lambda: shop.charge.s("42").apply().get(),
        "apply_async": lambda: shop.charge.apply_async(("42",)).get(),
        "direct": lambda: shop.charge("42"),
        "run": lambda: shop.charge.run("42"),
    }[how]()
    assert value == "ch-42"
    assert effects == ["charge"]
    (workflow,) = durable_journal.workflows()
    assert (workflow.status, workflow.steps, workflow.value) == ("succeeded", ["charge: succeeded"], "ch-42")


@pytest.mark.parametrize("how", ["apply_async", "apply"])
def test_a_chain_is_one_workflow(durable_journal: TestJournal, shop: Shop, effects: list[Any], how: str) -> None:
    signature = chain(shop.charge.s("42"), shop.mail.s(), shop.ship.s())
    result = getattr(signature, how)()
    assert result.get() == "sent for ch-42"
    assert result.parent.parent.get() == "ch-42"
    assert effects == ["charge", ("mail", "ch-42"), "ship"]
    assert durable_journal.steps(result) == ["charge: succeeded", "mail: succeeded", "ship: succeeded"]


def test_a_plain_function_that_is_a_step_may_be_called_by_itself(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    assert shop.pack("42", box="large") == "large box for 42"
    (workflow,) = durable_journal.workflows()
    assert workflow.steps == ["pack it: succeeded", "pack it: succeeded"]  # the call, and the step in it
    assert effects == ["pack"]


def test_inside_a_step_that_the_test_calls_there_is_an_idempotency_key(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    shop.keyed("42")
    ((_, key),) = effects
    assert len(key) == 36


def test_a_function_sleeps_until_the_test_lets_time_pass(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    result = shop.fulfil.delay("42")
    assert not result.ready()
    assert durable_journal.steps("order-42") == ["charge: succeeded", "sleep: waiting"]
    durable_journal.advance(minutes=59)
    assert effects == ["body", "charge"]
    durable_journal.advance(minutes=1)
    assert effects == ["body", "charge", "body", "pack"]
    durable_journal.advance(timedelta(hours=1))
    assert result.get() == ["ch-42", "small box for 42", "sent for ch-42"]
    assert effects.count("body") == 4
    assert [e for e in effects if e != "body"] == ["charge", "pack", "ship"]
    workflow = durable_journal.workflow("order-42")
    assert (workflow.status, workflow.attributes) == ("succeeded", {"order": "42"})
    assert workflow.step("ship").kind == "dispatch"


def test_what_becomes_due_on_the_way_fires_in_its_order(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    """Two sleeps of an hour each are over after two hours, not after two calls."""
    shop.mail.apply_async(("in 90 minutes",), countdown=90 * 60)
    shop.fulfil.delay("42")
    durable_journal.advance(hours=3)
    assert durable_journal.workflow("order-42").status == "succeeded"
    assert [e for e in effects if e != "body"] == ["charge", "pack", ("mail", "in 90 minutes"), "ship"]


def test_get_on_what_waits_does_not_wait_and_says_what_to_do(durable_journal: TestJournal, shop: Shop) -> None:
    result = shop.fulfil.delay("42")
    with pytest.raises(NotFinished, match=r"workflow order-42 is not finished \(.*sleep waiting\).*due in 3600 s: call advance"):
        result.get()


def test_a_direct_call_of_a_function_that_waits_says_so(durable_journal: TestJournal, shop: Shop) -> None:
    with pytest.raises(NotFinished, match=r"call advance\(\)"):
        shop.fulfil("42")
    durable_journal.advance(hours=2)
    assert durable_journal.workflow("order-42").value == ["ch-42", "small box for 42", "sent for ch-42"]


def test_a_retry_of_our_own_needs_no_waiting(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    shop.trouble = [TimeoutError("no answer"), TimeoutError("no answer")]
    assert shop.keyed.delay("42").get() == "keyed-42"
    assert len({key for _, key in effects}) == 1
    assert len(effects) == 3
    (workflow,) = durable_journal.workflows()
    assert workflow.step("keyed").attempts == 3
    assert [kind for kind, _ in durable_journal.events(workflow.id)] == ["attempt_failed"] * 2


def test_a_retry_of_celerys_needs_no_waiting(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    assert shop.slow.delay("42").get() == "at last"
    assert effects == ["slow"] * 3


def test_a_countdown_waits_for_the_test(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    result = shop.charge.apply_async(("42",), countdown=600)
    with pytest.raises(NotFinished, match=r"due in 600 s"):
        result.get()
    durable_journal.advance(600)
    assert result.get() == "ch-42"


def test_an_error_is_the_tasks_own_and_is_recorded(durable_journal: TestJournal, shop: Shop) -> None:
    shop.trouble = [Declined("insufficient funds")]
    result = shop.charge.delay("42")
    with pytest.raises(Declined, match="insufficient funds"):
        result.get()
    assert result.failed()
    workflow = durable_journal.workflow(result)
    assert (workflow.status, workflow.steps) == ("failed", ["charge: failed"])
    assert isinstance(workflow.error, Declined)


def test_an_error_comes_out_of_the_call_where_the_app_propagates_eager_errors(shop: Shop, request: pytest.FixtureRequest) -> None:
    shop.app.conf.task_eager_propagates = True
    request.getfixturevalue("durable_journal")
    shop.trouble = [Declined("one"), Declined("two"), None, Declined("three")]
    with pytest.raises(Declined, match="one"):
        shop.charge.delay("42")
    with pytest.raises(Declined, match="two"):
        shop.charge.apply(("42",))
    with pytest.raises(Declined, match="three"):
        chain(shop.charge.s("42"), shop.charge.s()).delay()


def test_a_rollback_is_seen_in_the_journal(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    shop.trouble = [None, *[Declined("no")] * 4]
    result = shop.undone.delay("42")
    with pytest.raises(Declined):
        result.get()
    workflow = durable_journal.workflow(result)
    assert workflow.status == "compensated"
    assert workflow.steps == ["undone: failed", "charge: undone", "keyed: failed", "refund: succeeded"]
    assert effects[-1] == ("refund", "42")


def test_a_step_that_may_have_happened_is_held(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    shop.trouble = [shop.killed()]
    result = shop.charge.delay("42")
    assert effects == ["charge"]
    (held,) = durable_journal.held()
    assert held == "charge: held"
    assert "died, as its parent saw, while the step was running" in held.why
    assert result.state == "HELD"
    with pytest.raises(HeldTimeout, match="a person must decide"):
        result.get()


def test_a_process_that_is_killed_after_its_effect_repeats_an_idempotent_step_with_the_same_key(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    shop.trouble = [shop.killed()]
    assert shop.keyed.delay("42").get() == "keyed-42"
    assert len(effects) == 2
    assert len(set(effects)) == 1


def test_a_function_whose_process_is_killed_repeats_no_finished_step(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    shop.trouble = [None, shop.killed()]
    result = shop.fulfil.delay("42")
    durable_journal.advance(hours=2)
    assert result.get()[1] == "small box for 42"
    assert effects.count("charge") == 1
    assert effects.count("pack") == 2  # it is idempotent: the process died in it


def test_a_plain_step_whose_process_is_killed_is_called_again(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    shop.trouble = [shop.killed()]
    assert shop.pack("42") == "small box for 42"
    assert effects == ["pack", "pack"]


def test_a_declared_id_starts_once(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    first = durable.start("order-42", shop.charge.s("42"))
    second = durable.start("order-42", shop.charge.s("42"))
    assert first.id == second.id
    assert effects == ["charge"]
    with pytest.raises(SameIdOtherArguments):
        durable.start("order-42", shop.charge.s("43"))
    assert durable.handle("order-42", app=shop.app).status == "succeeded"


def test_a_function_with_a_template_id_starts_once(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    assert shop.fulfil.delay("42").id == shop.fulfil.delay(order="42").id
    assert effects == ["body", "charge"]


def test_a_transactional_step_has_a_session(durable_journal: TestJournal, shop: Shop) -> None:
    assert shop.book.delay("42").get() == 42


def test_a_plain_function_can_be_run_as_a_workflow(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    def both(order: str) -> list[str]:
        return [shop.charge(order), shop.pack(order)]

    assert durable_journal.call(both, "42") == ["ch-42", "small box for 42"]
    (workflow,) = durable_journal.workflows()
    assert workflow.steps == ["both: succeeded", "charge: succeeded", "pack it: succeeded"]


def test_unmarked_tasks_run_here_too_and_are_not_recorded(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    assert shop.mail.delay("hello").get() == "hello"
    assert shop.mail.apply(("again",)).get() == "again"
    assert shop.mail("once more") == "once more"
    assert group(shop.mail.s("a"), shop.mail.s("b")).apply_async().get() == ["a", "b"]
    assert durable_journal.workflows() == []


def test_links_are_called(durable_journal: TestJournal, shop: Shop, effects: list[Any]) -> None:
    shop.charge.apply_async(("42",), link=shop.mail.s())
    assert effects == ["charge", ("mail", "ch-42")]


def test_a_group_of_durable_tasks_is_refused_as_in_production(durable_journal: TestJournal, shop: Shop) -> None:
    with pytest.raises(UnsupportedCanvas):
        group(shop.charge.s("1"), shop.charge.s("2")).apply_async()


def test_a_task_that_is_elsewhere_is_not_run_but_seen(durable_journal: TestJournal, shop: Shop) -> None:
    shop.app.send_task("other.service", ("42",), {"a": 1})
    assert durable_journal.elsewhere == [("other.service", ["42"], {"a": 1})]


def test_an_unknown_workflow_is_answered_with_those_that_there_are(durable_journal: TestJournal, shop: Shop) -> None:
    shop.fulfil.delay("42")
    with pytest.raises(UnknownWorkflow, match=r"no workflow 'order-43'; it has: order-42"):
        durable_journal.workflow("order-43")
    with pytest.raises(LookupError, match=r"workflow order-42 has no step 'ship'; it has 'fulfil: planned', 'charge: succeeded'"):
        durable_journal.step("order-42", "ship")


def test_two_tests_share_nothing(durable_journal: TestJournal, shop: Shop) -> None:
    assert durable_journal.workflows() == []
    assert "durable-journal.sqlite3" in durable_journal.url


def test_afterwards_everything_is_as_it_was(shop: Shop, tmp_path: Path) -> None:
    from durable_adapter.current import OUTSIDE
    from durable_adapter.journal import Journal
    from durable_adapter.journal.migrations import migrate

    url = f"sqlite:///{tmp_path}/journal.db"
    journal = Journal(url)
    migrate(journal)
    journal.close()
    apply, run = TaskClass.apply, shop.charge.run
    with redirected(url, app=shop.app):
        assert TaskClass.apply is not apply
        assert len(OUTSIDE) == 1
    assert TaskClass.apply is apply
    assert OUTSIDE == []
    assert shop.charge.run is run or shop.charge.run == run
    assert "send_task" not in vars(shop.app)
    assert shop.app.conf.task_always_eager is True
    assert shop.app._backend_cache is None
