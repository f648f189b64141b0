"""A step that only a person may decide about: its state, what `get()` says, who is told, and what cannot be written down."""

from __future__ import annotations

import pytest
from celery import chain
from celery.exceptions import TimeoutError as CeleryTimeout

from durable_adapter.celery import HeldTimeout
from durable_adapter.errors import UnserialisableValue
from durable_adapter.model import Effect, StepRow, StepStatus, WorkflowStatus
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, functions, habits, steps
from tests.celery.world import SOON, Runs
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually


def held(shop: Runs, result: object, name: str) -> StepRow:
    """Waits until a task's step is held."""
    return shop.step_is(eventually(lambda: shop.find(result), SOON), name, StepStatus.HELD)


def test_a_held_step_has_state_held_and_is_never_ready(shop: Runs, order: str) -> None:
    result = habits.retries_protected.delay(order)
    held(shop, result, "retries_protected")
    eventually(lambda: result.state == "HELD", SOON)
    assert not result.ready()
    assert not result.failed()
    assert not result.successful()


def test_get_with_a_timeout_says_that_a_person_must_decide_and_how(shop: Runs, order: str) -> None:
    result = habits.retries_protected.delay(order)
    held(shop, result, "retries_protected")
    eventually(lambda: result.state == "HELD", SOON)
    with pytest.raises(HeldTimeout) as caught:
        result.get(timeout=0.3)
    message = str(caught.value)
    assert f"task {result.id} is held and a person must decide" in message
    assert "TimeoutError: no answer; whether its effect happened is unknown" in message
    assert f"durable-adapter explain -- {result.id}" in message
    assert "durable-adapter resolve" in message
    assert isinstance(caught.value, CeleryTimeout)


def test_get_on_a_later_member_of_the_chain_names_the_held_one(shop: Runs, order: str) -> None:
    result = chain(chains.reserve.s(order), habits.retries_protected.s(), chains.ship.s()).apply_async()
    held(shop, result, "retries_protected")
    eventually(lambda: result.parent.state == "HELD", SOON)
    with pytest.raises(HeldTimeout, match=f"task {result.parent.id} is held"):
        result.get(timeout=0.3)


def test_get_on_a_step_that_is_not_held_times_out_as_before(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.slow_charge.delay(order)
    with pytest.raises(CeleryTimeout) as caught:
        result.get(timeout=0.3)
    assert not isinstance(caught.value, HeldTimeout)
    ledger.open("slow", order)
    assert result.get(timeout=SOON) == f"ch-{order}"


def test_a_held_step_is_one_error_line_with_the_command(shop: Runs, order: str, shop_worker: RunningProcess) -> None:
    result = habits.retries_protected.delay(order)
    held(shop, result, "retries_protected")
    ref = shop.of(result).ref

    def lines() -> list[str]:
        return [line for line in shop_worker.output.splitlines() if ref in line and "ERROR" in line]

    (line,) = eventually(lines, SOON)
    assert f"step_held workflow={ref} " in line
    assert f'command="durable-adapter explain -- {ref}"' in line


def test_the_alert_fires_once_with_what_a_pager_needs(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.retries_protected.delay(order)
    held(shop, result, "retries_protected")
    ref = shop.of(result).ref
    (alert,) = eventually(lambda: ledger.entries(ref, "on_held"), SOON)
    assert alert["step"] == "tests.celery.shop.habits.retries_protected"
    assert alert["command"] == f"durable-adapter explain -- {ref}"
    assert "TimeoutError: no answer" in alert["why"]


def test_a_held_step_of_a_declared_workflow_is_named_by_the_workflows_id(shop: Runs, ledger: Ledger, order: str) -> None:
    functions.durable.start(order, habits.retries_protected.s(order))
    (alert,) = eventually(lambda: ledger.entries(order, "on_held"), SOON)
    assert alert["command"] == f"durable-adapter explain -- {order}"


def test_a_held_step_ignores_its_message_when_it_comes_again(shop: Runs, ledger: Ledger, order: str) -> None:
    result = habits.retries_protected.delay(order)
    held(shop, result, "retries_protected")
    run = shop.of(result)
    shop.binding.engine.send_step(run, shop.steps(run)[0], shop.steps(run))
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["attempt"]


def test_an_argument_that_cannot_be_written_down_is_an_error_at_the_caller_and_nothing_is_sent(
    idle_shop: Runs, ledger: Ledger, order: str
) -> None:
    with pytest.raises(UnserialisableValue) as caught:
        steps.charge.apply_async((order,), {"amount": object()}, serializer="pickle")
    message = str(caught.value)
    assert "task tests.celery.shop.steps.charge cannot be made durable with these arguments" in message
    assert "Nothing was sent." in message
    assert idle_shop.traces(order) == []
    assert ledger.names(order) == []


def test_an_argument_of_a_later_member_that_cannot_be_written_down_names_that_member(idle_shop: Runs, order: str) -> None:
    with pytest.raises(UnserialisableValue, match=r"task tests\.celery\.shop\.chains\.book cannot be made durable"):
        chain(chains.reserve.s(order), chains.book.s(object())).apply_async()
    assert idle_shop.traces(order) == []


def test_a_start_whose_message_cannot_be_sent_is_taken_back(idle_shop: Runs, order: str) -> None:
    """Celery itself refuses the message, after the start was committed."""
    with pytest.raises(Exception, match="no-such-serializer"):
        steps.charge.apply_async((order,), serializer="no-such-serializer")
    assert idle_shop.traces(order) == []


def test_a_result_that_cannot_be_recorded_leaves_the_step_held_as_happened(shop: Runs, ledger: Ledger, order: str) -> None:
    result = steps.returns_what_cannot_be_recorded.delay(order)
    step = held(shop, result, "returns_what_cannot_be_recorded")
    assert (step.effect, step.attention) == (Effect.HAPPENED, "value_missing")
    assert "it happened, but its value cannot be recorded" in (step.doubt or "")
    assert "Unserialisable" in (step.doubt or "")
    run = shop.of(result)
    assert run.status is WorkflowStatus.RUNNING
    assert "value_missing" in shop.events(run)
    eventually(lambda: result.state == "HELD", SOON)
    shop.binding.engine.send_step(run, step, shop.steps(run))
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    steps.charge.delay(f"{order}-later").get(timeout=SOON)
    assert ledger.names(order) == ["charge"]


def test_a_receiver_of_the_alert_that_raises_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from durable_adapter.runtime.alerts import Held, Signal

    signal: Signal[Held] = Signal("on_held")
    seen: list[Held] = []

    @signal.connect
    def broken(_held: Held) -> None:
        raise RuntimeError("the pager is down")

    signal.connect(seen.append)
    signal.send(Held("order-42", "charge", "k", "why", "command"))
    assert len(seen) == 1
    assert "receiver_failed signal=on_held" in caplog.text
    signal.disconnect(broken)
