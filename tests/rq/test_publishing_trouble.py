"""A server that is away when something is enqueued: an error at the caller, and nothing anywhere (P10)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue

from durable_adapter.errors import JournalUnreachable
from durable_adapter.model import WorkflowStatus
from tests.celery.ledger import Ledger
from tests.rq.shop import functions, steps
from tests.rq.world import Shop, prepare
from tests.rq_versions import GROUPS
from tests.servers.fixtures import FreshDatabase
from tests.servers.proxy import TcpProxy


def _in_a_group(queue: Queue, order: str) -> object:
    from rq.group import Group

    return Group(connection=queue.connection).enqueue_many(queue, [Queue.prepare_data(steps.charge, (order,))] * 2)


WAYS: dict[str, Callable[[Queue, str], object]] = {
    "enqueue": lambda queue, order: queue.enqueue(steps.charge, order),
    "enqueue_many": lambda queue, order: queue.enqueue_many([Queue.prepare_data(steps.charge, (order,))] * 2),
    "group": _in_a_group,
    "function": lambda queue, order: queue.enqueue(functions.in_place, order),
}
EACH_WAY = pytest.mark.parametrize("way", [pytest.param(way, marks=[GROUPS] * (way == "group")) for way in WAYS])


@EACH_WAY
def test_a_journal_that_is_away_is_an_error_at_the_caller_and_nothing_is_in_redis(
    make_shop: Callable[..., Shop],
    fresh_database: FreshDatabase,
    tcp_proxy: Callable[[str], TcpProxy],
    order: str,
    way: str,
) -> None:
    journal = fresh_database("postgresql", prepare)
    proxy = tcp_proxy(journal)
    shop = make_shop(proxy.url(journal))
    shop.queue.enqueue(steps.charge, order)
    before = shop.sent()
    proxy.cut()
    with pytest.raises(JournalUnreachable):
        WAYS[way](shop.queue, order)
    assert shop.sent() == before
    assert shop.queue.count == 1


@pytest.fixture
def without_redis(shop: Shop, redis_url: str, tcp_proxy: Callable[[str], TcpProxy]) -> Iterator[tuple[Queue, TcpProxy]]:
    """A queue whose Redis can be taken away."""
    proxy = tcp_proxy(redis_url)
    impatient = redis.Redis.from_url(proxy.url(redis_url), retry=Retry(NoBackoff(), 0), socket_connect_timeout=1)
    queue = Queue(shop.name, connection=impatient)
    queue.get_redis_server_version()  # asked once: later it is the writing itself that fails
    yield queue, proxy
    impatient.close()


@EACH_WAY
def test_redis_that_is_away_is_an_error_at_the_caller_and_nothing_is_left_in_the_journal(
    shop: Shop, without_redis: tuple[Queue, TcpProxy], order: str, way: str
) -> None:
    queue, proxy = without_redis
    proxy.cut()
    with pytest.raises(redis.RedisError):
        WAYS[way](queue, order)
    assert shop.count_runs() == 0
    proxy.restore()
    shop.sweep_and_work(70)
    assert shop.ledger.names(order) == []


def test_a_member_that_could_not_be_sent_leaves_its_run(
    shop: Shop, ledger: Ledger, without_redis: tuple[Queue, TcpProxy], order: str
) -> None:
    queue, proxy = without_redis
    charge = shop.queue.enqueue(steps.charge, order)
    proxy.cut()
    with pytest.raises(redis.RedisError):
        queue.enqueue(steps.book, order, depends_on=charge)
    assert shop.story(charge) == [("charge", "planned")]
    shop.work()
    assert shop.status(charge) is WorkflowStatus.SUCCEEDED
    assert ledger.names(order) == ["charge"]


def test_redis_that_comes_back_empty_changes_nothing_for_what_was_started(shop: Shop, ledger: Ledger, order: str) -> None:
    job = shop.queue.enqueue(steps.charge, order)
    shop.flush()
    assert not shop.work()
    shop.sweep(10)
    assert not shop.work()
    shop.sweep_and_work(70)
    assert shop.value(job) == f"ch-{order}"
    assert ledger.names(order) == ["charge"]
