"""Groups and chords: refused where they hold durable members, untouched where they do not."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery import chain, chord, group

from durable_adapter.errors import UnsupportedCanvas
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.waiting import eventually

MARKED, PLAIN = chains.reserve, chains.note


def shapes(order: str) -> dict[str, Any]:
    """Every shape that holds a group or a chord with a durable member."""
    return {
        "group": group(MARKED.s(order), PLAIN.s(order)),
        "nested group": group(PLAIN.s(order), group(PLAIN.s(order), MARKED.s(order))),
        "chain in a group": group(chain(PLAIN.s(order), MARKED.s()), PLAIN.s(order)),
        "chord with a durable header": chord([MARKED.s(order), PLAIN.s(order)], PLAIN.si(order)),
        "chord with a durable body": chord([PLAIN.s(order), PLAIN.s(order)], MARKED.si(order)),
        "group at the head of a chain": chain(group(MARKED.s(order), PLAIN.s(order)), PLAIN.si(order)),
        "group in a chain": chain(PLAIN.s(order), group(MARKED.s(), PLAIN.s()), PLAIN.si(order)),
        "group behind a durable task": chain(MARKED.s(order), group(MARKED.s(), PLAIN.s())),
        "chord behind a durable task": chain(MARKED.s(order), group(PLAIN.s(), PLAIN.s()), MARKED.si(order)),
    }


@pytest.mark.parametrize("shape", list(shapes("")))
def test_a_group_or_chord_with_durable_members_is_refused_and_nothing_is_published(
    idle_shop: Runs, world: World, order: str, shape: str
) -> None:
    queue = f"{world.queue}-{order}"  # nobody listens there
    with pytest.raises(UnsupportedCanvas) as caught:
        shapes(order)[shape].apply_async(queue=queue)
    assert "groups and chords are not durable yet. Nothing was sent." in str(caught.value)
    assert "take the mark off these tasks" in str(caught.value)
    with redis.Redis.from_url(world.redis) as broker:
        assert broker.llen(queue) == 0
    assert idle_shop.traces(order) == []


def test_calling_a_group_is_refused_as_publishing_it_is(idle_shop: Runs, order: str) -> None:
    with pytest.raises(UnsupportedCanvas):
        group(MARKED.s(order), PLAIN.s(order))()
    with pytest.raises(UnsupportedCanvas):
        chord([MARKED.s(order), PLAIN.s(order)])(PLAIN.si(order))


def test_a_group_of_unmarked_tasks_is_left_alone(shop: Runs, ledger: Ledger, order: str) -> None:
    result = group(PLAIN.s(order), PLAIN.s(order)).apply_async()
    assert result.get(timeout=SOON) == [order, order]
    assert all(shop.find(child) is None for child in result.children)


def test_a_chord_of_unmarked_tasks_is_left_alone(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chord([PLAIN.s(order), PLAIN.s(order)], PLAIN.si(order)).apply_async()
    assert result.get(timeout=SOON) == order
    assert ledger.count(order, "note") == 3
    assert shop.find(result) is None


def test_a_group_of_unmarked_tasks_behind_a_durable_one_runs(shop: Runs, ledger: Ledger, order: str) -> None:
    result = chain(MARKED.s(order), group(PLAIN.s(), PLAIN.s())).apply_async()
    assert result.get(timeout=SOON) == [order, order]
    assert (ledger.count(order, "reserve"), ledger.count(order, "note")) == (1, 2)


def test_several_links_of_a_durable_task_are_all_called(shop: Runs, ledger: Ledger, order: str) -> None:
    """Celery sends several callbacks as one group of its own."""
    result = steps.charge.apply_async((order,), link=[chains.on_done.s(order), chains.on_done.s(order)])
    result.get(timeout=SOON)
    eventually(lambda: ledger.count(order, "on_done") == 2, SOON)
