"""Every way in which a body, or a hook of its task, ends the task other than by a value or an error of its own.

What plain Celery does is played beside it, on the same worker: the effects are the same, but for what would repeat a step that
nothing makes safe to repeat.
"""

from __future__ import annotations

import secrets
from types import SimpleNamespace
from typing import Any

import pytest
from celery import chain, chord, group
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, TimeLimitExceeded, WorkerLostError
from celery.states import SUCCESS

from durable_adapter.celery.endings import REACHED, after_run, as_celery_error, before_run
from durable_adapter.errors import StepFailed
from durable_adapter.model import STAMP, Attention, Cause, Effect, StepStatus, WorkflowRow, WorkflowStatus, make_stamp
from tests.celery.ledger import Ledger
from tests.celery.shop import app, endings
from tests.celery.world import SOON, Runs
from tests.servers.waiting import eventually

DONE, FAILED, CANCELLED = StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED
WENT_ON = ["effect", "next", "last"]


def published(first: Any, how: str, following: Any, **options: Any) -> tuple[str, Any]:
    """A chain of three, under an order of its own."""
    order = f"order-{secrets.token_hex(5)}"
    head = first.s(how, order).set(**options)
    head.on_error(endings.plainly_noted.si(order, "errback"))
    return order, chain(head, following.si(order), following.si(order, "last")).apply_async()


def ended(shop: Runs, result: Any, *statuses: WorkflowStatus) -> WorkflowRow:
    """The run of a task, once it has ended."""
    return shop.settled(eventually(lambda: shop.find(result), SOON), *statuses)


def all_quiet(shop: Runs, ledger: Ledger) -> None:
    """Whatever was in the queue before has been taken: each child has had a task since."""
    orders = [f"order-{secrets.token_hex(5)}" for _ in range(6)]
    for result in [endings.noted.delay(order) for order in orders]:
        result.get(timeout=SOON)


@pytest.mark.parametrize(
    ("how", "plain", "step", "state", "statuses"),
    [
        ("ignore", ["effect"], ["effect"], "PENDING", [FAILED, CANCELLED, CANCELLED]),
        ("reject", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("retry by hand", ["effect"], ["effect"], "RETRY", [FAILED, CANCELLED, CANCELLED]),
        ("predicate", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("revoked by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("terminated by hand", ["effect", "errback"], ["effect", "errback"], "REVOKED", [FAILED, CANCELLED, CANCELLED]),
        ("time limit by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("soft limit by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("max retries by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("not registered by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("content by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("decode by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("broker by hand", ["effect", "errback"], ["effect", "errback"], "FAILURE", [FAILED, CANCELLED, CANCELLED]),
        ("self.retry()", ["effect", *WENT_ON], ["effect", *WENT_ON], "SUCCESS", [DONE, DONE, DONE]),
        ("chain = None", ["effect"], ["effect"], "SUCCESS", [DONE, CANCELLED, CANCELLED]),
        ("chain = []", ["effect"], ["effect"], "SUCCESS", [DONE, CANCELLED, CANCELLED]),
        ("callbacks = None", WENT_ON, WENT_ON, "SUCCESS", [DONE, DONE, DONE]),
        ("retries = 7", WENT_ON, WENT_ON, "SUCCESS", [DONE, DONE, DONE]),
        ("update_state", WENT_ON, WENT_ON, "SUCCESS", [DONE, DONE, DONE]),
    ],
)
def test_a_body_that_ends_so_has_the_effects_that_it_has_without_the_plugin(
    shop: Runs, ledger: Ledger, how: str, plain: list[str], step: list[str], state: str, statuses: list[StepStatus]
) -> None:
    plainly, plain_result = published(endings.plain, how, endings.plainly_noted)
    order, result = published(endings.protected, how, endings.noted)
    first, plain_first = result.parent.parent, plain_result.parent.parent
    run = ended(shop, first)
    eventually(lambda: app.AsyncResult(first.id).state == state, SOON)
    eventually(lambda: app.AsyncResult(plain_first.id).state == state, SOON)
    all_quiet(shop, ledger)
    assert ledger.names(plainly) == plain
    assert ledger.names(order) == step
    assert [s.status for s in shop.steps(run)] == statuses


@pytest.mark.parametrize("how", ["requeue", "SystemExit", "KeyboardInterrupt", "shutdown", "terminate", "os._exit", "kill"])
def test_what_would_run_a_step_again_holds_it_where_nothing_makes_that_safe(shop: Runs, ledger: Ledger, how: str) -> None:
    order, result = published(endings.protected, how, endings.noted)
    run = eventually(lambda: shop.find(result.parent.parent), SOON)
    shop.step_is(run, "protected", StepStatus.HELD)
    all_quiet(shop, ledger)
    assert ledger.names(order) == ["effect"]


@pytest.mark.parametrize("how", ["requeue", "SystemExit", "os._exit", "kill"])
def test_and_runs_it_again_where_it_is_idempotent(shop: Runs, ledger: Ledger, how: str) -> None:
    order, result = published(endings.idempotent, how, endings.noted)
    ended(shop, result.parent.parent, WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["effect", "effect", "next", "last"]


def test_a_hard_time_limit_leaves_the_step_in_doubt(shop: Runs, ledger: Ledger) -> None:
    order, result = published(endings.protected, "hard limit", endings.noted, time_limit=1)
    run = eventually(lambda: shop.find(result.parent.parent), SOON)
    shop.step_is(run, "protected", StepStatus.HELD)
    assert "effect" in ledger.names(order)
    assert "next" not in ledger.names(order)


@pytest.mark.parametrize("how", ["chain.pop()", "chain.append()"])
@pytest.mark.parametrize("task", [endings.protected, endings.idempotent])
def test_a_body_that_changes_what_follows_it_stops_the_chain_and_is_shown(
    shop: Runs, ledger: Ledger, how: str, task: Any
) -> None:
    order, result = published(task, how, endings.noted)
    first = result.parent.parent
    assert first.get(timeout=SOON) == "done"
    run = ended(shop, first, WorkflowStatus.CANCELLED)
    all_quiet(shop, ledger)
    assert ledger.names(order) == ["effect"]
    assert [s.status for s in shop.steps(run)] == [DONE, CANCELLED, CANCELLED]
    assert run.attention == Attention.ENDED_BY_ENGINE
    assert "self.request.chain" in (shop.steps(run)[1].evidence or "")


def test_a_recorded_error_that_celery_would_requeue_on_is_told_once(shop: Runs, ledger: Ledger) -> None:
    """Without the plugin, such a task runs without end."""
    order, result = published(endings.protected, "worker lost by hand", endings.noted)
    first = result.parent.parent
    ended(shop, first, WorkflowStatus.FAILED)
    eventually(lambda: first.state == "FAILURE", SOON)
    all_quiet(shop, ledger)
    assert ledger.count(order, "effect") == 1
    assert ledger.count(order, "errback") <= 2, "once for the attempt, which Celery requeued, and once for what is recorded"


def test_only_what_celery_would_not_take_for_an_end_is_told_otherwise() -> None:
    requeues: Any = SimpleNamespace(reject_on_worker_lost=True, acks_on_timeout=False)
    fails: Any = SimpleNamespace(reject_on_worker_lost=False, acks_on_timeout=True)
    for error in (WorkerLostError("gone"), TimeLimitExceeded(1)):
        assert isinstance(as_celery_error(requeues, error), StepFailed)
        assert as_celery_error(fails, error) is error
    for error in (Reject("again", requeue=True), MemoryError("full")):
        assert isinstance(as_celery_error(fails, error), StepFailed)
    for error in (Reject("no", requeue=False), Ignore(), ValueError("declined")):
        assert as_celery_error(requeues, error) is error


@pytest.mark.parametrize(
    ("how", "status", "cause", "effect"),
    [
        ("ignore", CANCELLED, Cause.ENDED_BY_ENGINE, None),
        ("reject", CANCELLED, Cause.ENDED_BY_ENGINE, None),
        ("fail", FAILED, None, Effect.DID_NOT_HAPPEN),
        ("answer", DONE, None, Effect.HAPPENED),
    ],
)
def test_a_hook_that_ends_a_task_before_its_body_ends_the_step(
    shop: Runs, ledger: Ledger, how: str, status: StepStatus, cause: Cause | None, effect: Effect | None
) -> None:
    plainly, order = (f"order-{secrets.token_hex(5)}" for _ in range(2))
    chain(endings.plainly_hooked.s(how, plainly), endings.plainly_noted.si(plainly)).apply_async()
    result = chain(endings.hooked.s(how, order), endings.noted.si(order)).apply_async()
    run = ended(shop, result.parent)
    all_quiet(shop, ledger)
    assert ledger.names(order) == ledger.names(plainly)
    assert "effect" not in ledger.names(order)
    row = shop.steps(run)[0]
    assert (row.status, row.cause, row.effect) == (status, cause, effect)


@pytest.mark.parametrize("how", ["ignore", "reject"])
def test_an_unmarked_member_that_ends_so_ends_its_run_at_once(shop: Runs, ledger: Ledger, how: str) -> None:
    order = f"order-{secrets.token_hex(5)}"
    result = chain(endings.noted.si(order), endings.plain.si(how, order), endings.noted.si(order, "last")).apply_async()
    run = ended(shop, result.parent, WorkflowStatus.FAILED)
    assert [s.status for s in shop.steps(run)] == [DONE, FAILED, CANCELLED]
    assert ledger.names(order) == ["next", "effect"]


def test_a_rate_limit_puts_steps_off_and_loses_none(shop: Runs, ledger: Ledger) -> None:
    orders = [f"order-{secrets.token_hex(5)}" for _ in range(4)]
    for result in [endings.limited.delay(order) for order in orders]:
        assert result.get(timeout=SOON) == "done"
    assert [ledger.names(order) for order in orders] == [["effect"]] * 4


@pytest.mark.parametrize("how", ["ignore", "reject", "retry by hand"])
def test_what_says_that_a_task_is_over_is_not_tried_again_by_the_step_s_own_policy(shop: Runs, ledger: Ledger, how: str) -> None:
    order, result = published(endings.idempotent, how, endings.noted)
    run = ended(shop, result.parent.parent, WorkflowStatus.FAILED)
    all_quiet(shop, ledger)
    assert ledger.count(order, "effect") == 1
    assert [s.status for s in shop.steps(run)] == [FAILED, CANCELLED, CANCELLED]


@pytest.mark.parametrize("shape", ["group", "chord", "group and more"])
def test_a_run_ends_where_it_hands_over_to_a_group_or_chord_without_durable_members(
    shop: Runs, ledger: Ledger, shape: str
) -> None:
    """Of a group nobody hears that it ended: it is no message of its own."""
    order = f"order-{secrets.token_hex(5)}"
    members = [endings.plainly_noted.si(order, name) for name in ("one", "two")]
    last = endings.plainly_noted.si(order, "last")
    behind = {"group": [group(members)], "chord": [chord(members, last)], "group and more": [group(members), last]}[shape]
    head = f"head-{order}"
    chain(endings.noted.si(order).set(task_id=head), *behind).apply_async()
    run = eventually(lambda: shop.find(head), SOON)
    shop.settled(run, WorkflowStatus.SUCCEEDED)
    eventually(lambda: len(ledger.names(order)) == (3 if shape == "group" else 4), SOON)
    assert sorted(ledger.names(order)) == sorted(["next", "one", "two", *([] if shape == "group" else ["last"])])


@pytest.mark.parametrize("popped", [False, True], ids=["as Celery 5.7 does", "as Celery 5.4 to 5.6 do"])
@pytest.mark.parametrize(("after", "statuses"), [(1, ["planned"] * 3), (2, ["planned", "planned", "succeeded"])])
def test_only_the_member_that_comes_next_is_handed_over(
    idle_shop: Runs, order: str, popped: bool, after: int, statuses: list[str]
) -> None:
    """Celery before 5.7 takes the member that it sends out of the list that its request shows."""
    head = endings.noted.si(order).set(task_id=f"head-{order}", queue=f"nobody-{order}")
    chain(head, endings.noted.si(order), group(endings.plainly_noted.si(order) for _ in range(2))).apply_async()
    run = idle_shop.of(f"head-{order}")
    rows = idle_shop.steps(run)
    left = [{"task": s.name, "args": [], "kwargs": {}, "options": {"task_id": s.task_id}} for s in reversed(rows[after:])]
    own = rows[after - 1]
    request = Context(id=own.task_id, task=own.name, chain=left, stamps={STAMP: make_stamp(run.ref, own.key)}, delivery_info={})
    request.__dict__[REACHED] = True
    task: Any = SimpleNamespace(request=request, name=own.name)
    before_run(idle_shop.binding, task)
    if popped:
        left.pop()
    after_run(idle_shop.binding, task, SUCCESS, "next")
    assert [s.status.value for s in idle_shop.steps(run)] == statuses
