"""What began plain, or without the plugin, ends plain for `plain_until` after its task was first recorded as enforced."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.journal.schema import event
from durable_adapter.model import SECOND, Event, StepStatus, WorkflowStatus
from tests.celery.conftest import journal_of
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, habits, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.databases import Databases
from tests.servers.waiting import eventually

Reinstall = Callable[..., AbstractContextManager[Runs]]
DAY = 86_400 * SECOND


@pytest.fixture
def here(world: World, databases: Databases, order: str) -> World:
    """A journal that has no run yet, and a queue of the test's own."""
    return replace(world, journal=journal_of(databases), queue=f"{world.queue}-{order}")


def ran_plain(shop: Runs) -> list[str]:
    """The tasks of the deliveries that were counted."""
    return [e["detail"]["name"] for e in shop.journal.events.since(Event.RAN_PLAIN, 0)]


def sent_before(shop: Runs, here: World, name: str, *args: Any, **options: Any) -> Any:
    """What an earlier attempt sent that ran plain: a message without a stamp that was retried."""
    return shop.binding.send_task(name, args, {}, queue=here.queue, retries=1, **options)


def test_a_task_between_retries_goes_on_plain_when_it_is_enforced(
    here: World, reinstall: Reinstall, ledger: Ledger, order: str
) -> None:
    with reinstall(journal=here.journal, mode="off") as shop:
        with here.worker(concurrency=1, env={"DURABLE_ADAPTER_MODE": "off"}) as off:
            result = habits.began_plain.apply_async((order,), queue=here.queue)
            eventually(lambda: ledger.count(order, "at gate"), SOON)
            off.kill(signal.SIGTERM)
            off.wait_for_line("(?i)warm shutdown")
            ledger.open("gate", order)
            off.wait()
        with here.worker():
            assert result.get(timeout=SOON) == order
        assert ledger.count(order, "attempt") == 3
        assert shop.find(result) is None
        assert ran_plain(shop) == [habits.began_plain.name] * 2


def test_later_it_is_in_doubt(here: World, reinstall: Reinstall, ledger: Ledger, order: str) -> None:
    with reinstall(journal=here.journal) as shop:
        with here.worker():
            assert steps.charge.apply_async((f"{order}-x",), queue=here.queue).get(timeout=SOON)
        enforced = event.c.kind == Event.ENFORCED.value
        shop.journal.db.transaction(lambda conn: conn.execute(sa.update(event).where(enforced).values(at=event.c.at - DAY)))
        result = sent_before(shop, here, steps.charge.name, order)
        with here.worker():
            eventually(lambda: shop.find(result), SOON)
            held = shop.step_is(shop.of(result), "charge", StepStatus.HELD)
        assert "sent without the plugin" in (held.doubt or "")
        assert (ledger.names(order), ran_plain(shop)) == ([], [])


def test_it_is_in_doubt_at_once_where_plain_until_says_so(here: World, reinstall: Reinstall, ledger: Ledger, order: str) -> None:
    with reinstall(journal=here.journal) as shop, here.worker(env={"DURABLE_ADAPTER_PLAIN_UNTIL": "0.001"}):
        assert steps.charge.apply_async((f"{order}-x",), queue=here.queue).get(timeout=SOON)
        result = sent_before(shop, here, steps.charge.name, order)
        eventually(lambda: shop.find(result), SOON)
        shop.step_is(shop.of(result), "charge", StepStatus.HELD)
        assert ledger.names(order) == []


def test_what_follows_it_in_a_chain_is_durable(here: World, reinstall: Reinstall, ledger: Ledger, order: str) -> None:
    with reinstall(journal=here.journal) as shop, here.worker():
        follows = chains.ship.s().set(queue=here.queue, task_id=f"ship-{order}")
        first = sent_before(shop, here, habits.began_plain.name, order, 0, chain=[dict(follows)])
        run = eventually(lambda: shop.find(f"ship-{order}"), SOON)
        shop.settled(run, WorkflowStatus.SUCCEEDED)
        assert shop.find(first) is None
        assert ran_plain(shop) == [habits.began_plain.name]
