"""A journal that is away, empty or too new: refused at the caller, and at the start of a worker (P10)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import redis
import sqlalchemy as sa
from celery import chain
from celery.exceptions import NotRegistered

import durable_adapter as durable
from durable_adapter.errors import JournalUnmigrated, JournalUnreachable
from durable_adapter.journal import Journal, schema
from tests.celery.ledger import Ledger
from tests.celery.shop import chains, functions, steps
from tests.celery.world import SOON, Runs, World
from tests.servers.addresses import LOOPBACK, free_port
from tests.servers.databases import Databases
from tests.servers.fixtures import FreshDatabase

Reinstall = Callable[..., AbstractContextManager[Runs]]


def nothing_in(world: World, queue: str) -> bool:
    """Whether no message lies in a queue to which nobody listens."""
    with redis.Redis.from_url(world.redis) as broker:
        return broker.llen(queue) == 0


def test_a_journal_that_cannot_be_reached_is_an_error_at_the_caller_and_nothing_is_sent(
    reinstall: Reinstall, world: World, order: str
) -> None:
    queue = f"{world.queue}-{order}"
    with reinstall(journal=f"postgresql+psycopg://user:secret@{LOOPBACK}:{free_port()}/nowhere"):
        for publish in (
            lambda: steps.charge.apply_async((order,), queue=queue),
            lambda: chain(chains.note.s(order).set(queue=queue), chains.ship.s()).apply_async(),
            lambda: functions.in_place.apply_async((order,), queue=queue),
            lambda: durable.start(order, steps.charge.s(order).set(queue=queue)),
        ):
            with pytest.raises(JournalUnreachable) as caught:
                publish()
            message = str(caught.value)
            assert "cannot be reached" in message
            assert "Nothing was sent." in message
            assert "durable-adapter doctor" in message
            assert "secret" not in message
        assert nothing_in(world, queue)


def test_an_unmarked_task_is_sent_although_the_journal_is_away(reinstall: Reinstall, world: World, order: str) -> None:
    queue = f"{world.queue}-{order}"
    with reinstall(journal=f"postgresql+psycopg://user@{LOOPBACK}:{free_port()}/nowhere"):
        steps.mail.apply_async((order,), queue=queue)
    assert not nothing_in(world, queue)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_journal_without_tables_is_an_error_at_the_caller_that_names_the_command(
    reinstall: Reinstall, world: World, fresh_database: FreshDatabase, order: str, dialect: str
) -> None:
    queue = f"{world.queue}-{order}"
    with reinstall(journal=fresh_database(dialect)):  # type: ignore[arg-type]
        with pytest.raises(JournalUnmigrated, match=r"lacks tables .*Run `durable-adapter migrate`"):
            steps.charge.apply_async((order,), queue=queue)
        assert nothing_in(world, queue)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("empty", r"this worker does not start: the journal .* has no tables; .* Run `durable-adapter migrate`"),
        ("ahead", r"this worker does not start: the journal .* is at revision 9999, .*Upgrade durable-adapter"),
    ],
)
def test_a_worker_on_a_journal_that_it_cannot_use_does_not_start_and_says_why(
    world: World, databases: Databases, sqlite_world: World, ledger: Ledger, state: str, says: str
) -> None:
    url = databases.fresh("sqlite") if state == "empty" else sqlite_world.journal
    if state == "ahead":
        journal = Journal(url)
        version = sa.table(schema.VERSION_TABLE, sa.column("version_num"))
        journal.db.transaction(lambda conn: conn.execute(sa.update(version).values(version_num="9999")))
        journal.close()
    with replace(sqlite_world, journal=url).worker(ready=False) as worker:
        worker.wait_for_line(says, SOON)
        assert worker.wait(SOON) == 1


def test_a_strict_worker_with_a_task_that_is_not_hooked_does_not_start(world: World) -> None:
    there = replace(world, queue=f"{world.queue}-strict", durable={"strict": True})
    with there.worker(app="tests.celery.unhooked", ready=False) as worker:
        worker.wait_for_line(r"this worker does not start: these durable tasks cannot be hooked .*steps\.charge", SOON)
        assert worker.wait(SOON) == 1


def test_a_worker_that_is_not_strict_refuses_the_task_alone_and_says_so(
    idle_shop: Runs, world: World, ledger: Ledger, order: str
) -> None:
    there = replace(world, queue=f"{world.queue}-lenient")
    with there.worker(app="tests.celery.unhooked") as worker:
        worker.wait_for_line(r"ERROR.*durable tasks cannot be hooked .*steps\.charge\. This worker refuses them", SOON)
        refused = steps.charge.apply_async((order,), queue=there.queue)
        assert chains.reserve.apply_async((order,), queue=there.queue).get(timeout=SOON) == order
        with pytest.raises(NotRegistered):
            refused.get(timeout=SOON)
    assert ledger.names(order) == ["reserve"]
