"""Tasks that Celery ends on purpose before they begin, and while they run: revoked, expired, terminated, not taken.

Each test has a queue and workers of its own: what a worker was told to revoke stays in its memory.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import chain
from celery.canvas import Signature

import durable_adapter as durable
from durable_adapter.model import Attention, Cause, StepStatus, WorkflowRow, WorkflowStatus
from durable_adapter.reconcile.finding import Finding, Trouble
from durable_adapter.reconcile.survey import look_for_trouble
from tests.celery.ledger import Ledger
from tests.celery.shop import app, endings
from tests.celery.world import SOON, Runs, World
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

DONE, CANCELLED = StepStatus.SUCCEEDED, StepStatus.CANCELLED


@pytest.fixture
def here(world: World, order: str) -> World:
    """A queue of the test's own."""
    return replace(world, queue=f"{world.queue}-{order}")


@pytest.fixture
def worker(here: World) -> Iterator[RunningProcess]:
    """A worker with one child."""
    with here.worker(concurrency=1) as process:
        yield process


def sent(here: World, *members: Signature) -> Any:
    """A chain on the test's own queue."""
    return chain(*[member.set(queue=here.queue) for member in members]).apply_async()


def busy(here: World, ledger: Ledger) -> str:
    """Keeps the only child busy until the test opens the gate."""
    order = f"busy-{secrets.token_hex(5)}"
    endings.gated.apply_async((order,), queue=here.queue)
    eventually(lambda: ledger.count(order, "at gate"), SOON)
    return order


def passed(here: World) -> None:
    """Everything that was in the queue before has been taken."""
    order = f"order-{secrets.token_hex(5)}"
    endings.noted.apply_async((order,), queue=here.queue).get(timeout=SOON)


def shown(shop: Runs, run: WorkflowRow) -> list[Finding]:
    """What reconciliation reports of a run."""
    found = look_for_trouble(shop.journal, namespace=shop.journal.namespace)
    return [finding for finding in found.findings if finding.ref == run.ref]


def revoked(shop: Runs, ledger: Ledger, here: World, worker: RunningProcess, result: Any, gate: str) -> WorkflowRow:
    """Revokes a task while the only child is busy; the run, once its end is recorded."""
    app.control.revoke(result.id)
    worker.wait_for_line(f"revoked.*{result.id}|{result.id}.*revoked")
    ledger.open("gate", gate)
    return shop.settled(shop.of(result), WorkflowStatus.CANCELLED)


def test_a_task_that_was_revoked_before_it_began_never_runs_also_not_on_a_new_worker(
    idle_shop: Runs, here: World, ledger: Ledger, order: str
) -> None:
    with here.worker(concurrency=1) as first:
        gate = busy(here, ledger)
        last = sent(here, endings.noted.si(order, "pay"), endings.noted.si(order, "ship"))
        run = revoked(idle_shop, ledger, here, first, last.parent, gate)
    assert [s.status for s in idle_shop.steps(run)] == [CANCELLED, CANCELLED]
    assert (idle_shop.steps(run)[0].cause, run.attention) == (Cause.ENDED_BY_ENGINE, Attention.ENDED_BY_ENGINE)
    with here.worker(concurrency=1):
        passed(here)
        passed(here)
        assert ledger.names(order) == []
    (finding,) = shown(idle_shop, run)
    assert finding.kind is Trouble.ENDED_BY_ENGINE
    assert finding.command.startswith("durable-adapter retry ")
    assert finding.command.endswith(f"-- {run.ref}")


def test_a_person_s_order_runs_it_although_the_worker_remembers_that_it_was_revoked(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    gate = busy(here, ledger)
    last = sent(here, endings.noted.si(order, "pay"), endings.noted.si(order, "ship"))
    run = revoked(idle_shop, ledger, here, worker, last.parent, gate)
    journal = idle_shop.journal
    assert journal.runs.reopen(run.ref, [idle_shop.steps(run)[0].key], who="ann", why="it is to run", now=journal.time())
    idle_shop.settled(run, WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["pay", "ship"]
    assert shown(idle_shop, idle_shop.of(last)) == []


def test_what_was_done_before_a_revoked_task_stays_until_a_person_decides(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    result = sent(here, endings.undoable.s(order), endings.gated.si(order), endings.noted.si(order))
    app.control.revoke(result.parent.id)
    worker.wait_for_line(f"revoked.*{result.parent.id}|{result.parent.id}.*revoked")
    run = idle_shop.settled(idle_shop.of(result), WorkflowStatus.CANCELLED)
    if ledger.names(order) == ["undoable"]:  # else the gated step had begun before it was revoked
        (finding,) = shown(idle_shop, run)
        assert [r.command.split()[1] for r in finding.remedies] == ["retry", "rollback", "resolve"]
    assert "undone" not in ledger.names(order)


def test_a_task_that_was_revoked_by_a_stamp_never_runs(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    gate = busy(here, ledger)
    signature = endings.noted.si(order, "pay").set(queue=here.queue)
    signature.stamp(customer=order)
    result = signature.apply_async()
    app.control.revoke_by_stamped_headers({"customer": [order]})
    worker.wait_for_line(f"revoked.*{order}|{order}.*revoked")
    ledger.open("gate", gate)
    idle_shop.settled(idle_shop.of(result), WorkflowStatus.CANCELLED)
    passed(here)
    assert ledger.names(order) == []


def test_an_expired_task_is_shown_and_runs_by_a_person_s_order(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    past = datetime.now(UTC) - timedelta(seconds=5)
    result = endings.noted.apply_async((order,), queue=here.queue, expires=past)
    run = idle_shop.settled(eventually(lambda: idle_shop.find(result), SOON), WorkflowStatus.CANCELLED)
    assert idle_shop.steps(run)[0].evidence == "its message expired"
    assert ledger.names(order) == []
    journal = idle_shop.journal
    assert journal.runs.reopen(run.ref, [idle_shop.steps(run)[0].key], who="ann", why="it is to run", now=journal.time())
    idle_shop.settled(run, WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["next"]


def test_a_task_that_runs_is_not_touched_by_a_revoke(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    result = sent(here, endings.gated.si(order), endings.noted.si(order))
    eventually(lambda: ledger.count(order, "at gate"), SOON)
    app.control.revoke(result.parent.id)
    worker.wait_for_line(f"revoked.*{result.parent.id}|{result.parent.id}.*revoked")
    ledger.open("gate", order)
    idle_shop.settled(idle_shop.of(result), WorkflowStatus.SUCCEEDED)
    assert ledger.names(order) == ["at gate", "effect", "next"]


def test_a_task_that_is_terminated_while_it_runs_is_in_doubt_and_held(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    result = sent(here, endings.gated.si(order), endings.noted.si(order))
    eventually(lambda: ledger.count(order, "at gate"), SOON)
    app.control.revoke(result.parent.id, terminate=True)
    run = idle_shop.of(result)
    idle_shop.step_is(run, "gated", StepStatus.HELD)
    passed(here)
    assert ledger.names(order) == ["at gate"]
    assert idle_shop.of(result).status is WorkflowStatus.RUNNING


def test_an_idempotent_one_is_not_repeated_against_that_order(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    """Its message is sent again, and thrown away by the worker that was told to revoke it: what it did is not known."""
    result = sent(here, endings.gated_idempotent.si(order), endings.noted.si(order))
    eventually(lambda: ledger.count(order, "at gate"), SOON)
    app.control.revoke(result.parent.id, terminate=True)
    row = idle_shop.step_is(idle_shop.of(result), "gated_idempotent", StepStatus.HELD)
    passed(here)
    assert ledger.count(order, "effect") == 1
    assert "it was revoked" in (row.evidence or "")
    assert "so that it is not settled or repeated by itself" in (row.evidence or "")


def test_a_function_is_told_that_a_step_which_it_sent_was_revoked(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    gate = busy(here, ledger)
    result = durable.start(order, endings.dispatches.s(order).set(queue=here.queue))
    ledger.open("gate", gate)

    def dispatched() -> str | None:
        rows = idle_shop.steps(idle_shop.named(order))
        return next((s.task_id for s in rows if s.name.endswith("gated")), None)

    app.control.revoke(eventually(dispatched, SOON))
    endings.gated.apply_async((f"{order}-x",), queue=here.queue)
    ledger.open("gate", f"{order}-x")
    assert result.get(timeout=SOON) in ("revoked", "done")
    if ledger.count(order, "told"):
        assert ledger.count(order, "effect") == 0


def test_an_end_that_was_heard_while_the_journal_was_away_is_read_from_the_result_store(
    idle_shop: Runs, here: World, ledger: Ledger, order: str
) -> None:
    """The worker without the plugin has nobody to tell: the state REVOKED is all that is left."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    result = endings.noted.apply_async((order,), queue=here.queue, expires=past)
    run = idle_shop.of(result)
    with here.worker(app="tests.celery.unplugged"):
        eventually(lambda: result.state == "REVOKED", SOON)
    with here.worker():
        idle_shop.settled(run, WorkflowStatus.CANCELLED, timeout=2 * SOON)
        passed(here)
    assert ledger.names(order) == []


def test_a_message_that_a_worker_does_not_know_is_shown_at_once_and_sent_again(
    idle_shop: Runs, here: World, ledger: Ledger, order: str
) -> None:
    with here.worker(app="tests.celery.older"):
        result = endings.noted.apply_async((order,), queue=here.queue)
        run = idle_shop.of(result)
        row = eventually(lambda: next((s for s in idle_shop.steps(run) if s.cause == Cause.NOT_TAKEN), None), SOON)
        assert row.status is StepStatus.PLANNED
        (finding,) = shown(idle_shop, run)
        assert finding.kind is Trouble.UNKNOWN_TASK
        assert "does not know the task tests.celery.shop.endings.noted: its body did not run" in finding.certain
    with here.worker():
        idle_shop.settled(run, WorkflowStatus.SUCCEEDED, timeout=3 * SOON)
    assert ledger.names(order) == ["next"]
    assert "in_doubt" not in idle_shop.events(run)


def test_a_message_that_a_worker_may_not_read_is_shown_at_once(
    idle_shop: Runs, here: World, worker: RunningProcess, ledger: Ledger, order: str
) -> None:
    result = endings.noted.apply_async((order,), queue=here.queue, serializer="yaml")
    run = idle_shop.of(result)
    row = eventually(lambda: next((s for s in idle_shop.steps(run) if s.cause == Cause.NOT_TAKEN), None), SOON)
    assert "cannot read its message (ContentDisallowed): its body did not run" in (row.evidence or "")
    assert ledger.names(order) == []


def test_an_unmarked_member_that_kills_its_worker_each_time_is_shown_with_how_often_it_ran(
    idle_shop: Runs, here: World, ledger: Ledger, order: str
) -> None:
    with here.worker(concurrency=1):
        result = sent(here, endings.noted.si(order), endings.plain.si("kill always", order), endings.noted.si(order, "last"))
        run = idle_shop.of(result)
        eventually(lambda: idle_shop.steps(run)[1].attempt >= 2, 2 * SOON)
        (finding,) = shown(idle_shop, run)
    assert finding.kind is Trouble.STOPPED_AT_UNMARKED
    assert "tests.celery.shop.endings.plain came again" in finding.certain
    assert "last" not in ledger.names(order)


@pytest.mark.parametrize("late", [True, False])
def test_a_killed_child_leaves_a_step_in_doubt_however_celery_acknowledges(
    idle_shop: Runs, here: World, ledger: Ledger, late: bool
) -> None:
    order, again = (f"order-{secrets.token_hex(5)}" for _ in range(2))
    with here.worker(app="tests.celery.acking", env={"ACKS_LATE": str(int(late))}):
        held = sent(here, endings.protected.s("kill", order), endings.noted.si(order))
        taken = sent(here, endings.idempotent.s("kill", again), endings.noted.si(again))
        idle_shop.step_is(idle_shop.of(held), "protected", StepStatus.HELD)
        idle_shop.settled(idle_shop.of(taken), WorkflowStatus.SUCCEEDED, timeout=2 * SOON)
    assert ledger.names(order) == ["effect"]
    assert ledger.names(again) == ["effect", "effect", "next"]
    assert [s.status for s in idle_shop.steps(idle_shop.of(taken))] == [DONE, DONE]
