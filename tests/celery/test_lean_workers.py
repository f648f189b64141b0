"""What a prefork worker loads: SQLAlchemy's ORM only for transactional steps, and then once, before the pool forks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import pytest

from durable_adapter.celery import uninstall
from tests.celery import lean_app, plain_app
from tests.celery.world import SOON, World


@pytest.fixture
def lean(world: World) -> Iterator[World]:
    """The lean app in this process, with a queue of its own."""
    here = replace(world, queue=f"{world.queue}-lean-{secrets.token_hex(3)}")
    lean_app.connect(here.settings())
    yield here
    uninstall(lean_app.app)


def test_a_child_that_runs_steps_without_a_session_has_not_loaded_the_orm(lean: World) -> None:
    with lean.worker(app="tests.celery.lean_app", concurrency=1):
        assert lean_app.send_chain(lean.queue).get(timeout=SOON) == []
        assert lean_app.function.apply_async(queue=lean.queue).get(timeout=SOON) == []


def test_the_parent_loads_the_orm_for_all_its_children_where_a_transactional_step_is_declared(lean: World) -> None:
    with lean.worker(app="tests.celery.lean_app", concurrency=1, env={lean_app.WITH_TRANSACTIONAL: "1"}):
        assert lean_app.function.apply_async(queue=lean.queue).get(timeout=SOON) == ["sqlalchemy.orm"]


@pytest.mark.parametrize(("pool", "frozen"), [("prefork", True), ("solo", False)])
def test_children_share_with_their_parent_what_was_loaded_before_the_fork(lean: World, pool: str, frozen: bool) -> None:
    with lean.worker(app="tests.celery.lean_app", pool=pool, concurrency=1):
        assert lean_app.frozen.apply_async(queue=lean.queue).get(timeout=SOON) is frozen


def test_a_worker_in_which_nothing_is_marked_is_left_to_celery(lean: World) -> None:
    plain_app.connect(lean.settings())
    try:
        with lean.worker(app="tests.celery.plain_app", concurrency=1):
            assert plain_app.frozen.apply_async(queue=lean.queue).get(timeout=SOON) is False
    finally:
        uninstall(plain_app.app)
