"""Where nothing is marked the plugin stays out of the way: settings, registries, results and a worker's start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeout

import durable_adapter as durable
from durable_adapter.celery import HeldTimeout, binding_of, install, uninstall
from durable_adapter.celery.results import HELD
from durable_adapter.errors import NotInstalled, SettingError
from tests.celery.world import World

pytestmark = pytest.mark.usefixtures("declarations")


class Apps:
    """Makes apps, and takes the plugin out of them."""

    def __init__(self, directory: Path) -> None:
        self.journal = f"sqlite:///{directory}/journal.db"
        self.made: list[Celery] = []

    def __call__(self, cls: type[Celery] = Celery, **options: Any) -> Celery:
        app = cls("staying-out", set_as_current=False, broker="memory://", backend="cache+memory://", **options)
        self.made.append(app)
        return app


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Apps]:
    made = Apps(tmp_path)
    yield made
    for app in made.made:
        uninstall(app)
        app.close()


def test_installing_and_marking_do_not_make_celery_read_its_configuration(apps: Apps) -> None:
    app = apps()

    @durable.step(idempotent=True)
    @app.task(name="staying.out")
    def task() -> None: ...

    install(app, journal=apps.journal)
    assert not app.configured
    app.conf.task_default_queue = "set-after-install"
    app.config_from_object({"task_default_priority": 7})
    assert (app.conf.task_default_queue, app.conf.task_default_priority) == ("set-after-install", 7)


def test_settings_that_celery_reads_after_install_count(apps: Apps) -> None:
    app = apps()
    app.conf.durable_adapter_beat = 2
    binding = install(app, journal=apps.journal)
    assert (binding.settings.beat, binding.settings.stale) == (2, 60)
    app.config_from_object({"durable_adapter_stale": 120, "durable_adapter_namespace": "later"})
    _ = app.conf.broker_url
    assert (binding.settings.beat, binding.settings.stale) == (2, 120)
    assert binding.journal.namespace == "later"
    assert binding.settings.origins["stale"] == "engine settings"


def test_the_journal_may_be_named_in_a_configuration_that_celery_reads_later(apps: Apps) -> None:
    app = apps()
    app.config_from_object({"durable_adapter_journal": apps.journal})
    binding = install(app)
    assert not app.configured
    assert binding.journal.db.safe_url == apps.journal


def test_a_journal_that_is_named_nowhere_is_told_to_who_needs_it(apps: Apps) -> None:
    with pytest.raises(NotInstalled):
        install(apps())
    app = apps()
    app.config_from_object({"task_default_queue": "x"})
    binding = install(app)
    with pytest.raises(NotInstalled):
        _ = binding.journal


def test_a_setting_that_is_not_accepted_is_told_to_who_needs_the_journal(apps: Apps) -> None:
    app = apps()
    app.config_from_object({"durable_adapter_stale": "soon"})
    binding = install(app, journal=apps.journal)
    _ = app.conf.broker_url
    with pytest.raises(SettingError, match="soon"):
        _ = binding.journal


class OnlyGet:
    """A registry that finds names, and does nothing else."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        self._found = tasks

    def get(self, name: str) -> Any:
        return self._found.get(name)


class OnlyGetItem:
    """Likewise, by index."""

    def __init__(self, tasks: dict[str, Any]) -> None:
        self._found = tasks

    def __getitem__(self, name: str) -> Any:
        return self._found[name]


@pytest.mark.parametrize("registry", [OnlyGet, OnlyGetItem])
def test_a_registry_that_neither_counts_nor_lists_its_tasks_will_do(apps: Apps, registry: type[Any]) -> None:
    app = apps()
    install(app, journal=apps.journal)
    app._tasks = registry({})
    assert app.send_task("nobody.knows").id


class WithDefaults(Celery):
    """An app whose `send_task` has defaults of its own."""

    seen: Any = None

    def send_task(self, name: str, args: Any = (1,), kwargs: Any = {"by": "default"}, countdown: Any = 9, **options: Any) -> Any:  # type: ignore[override] # noqa: B006
        self.seen = (name, args, kwargs, countdown, options)


@pytest.mark.parametrize(
    ("given", "options", "seen"),
    [
        (("n",), {}, ("n", (1,), {"by": "default"}, 9, {})),
        ((), {"name": "n"}, ("n", (1,), {"by": "default"}, 9, {})),
        (("n", None, None), {}, ("n", None, None, 9, {})),
        (("n", (2,), {}, 3), {"queue": "q"}, ("n", (2,), {}, 3, {"queue": "q"})),
    ],
)
def test_send_task_is_handed_what_it_was_given_and_nothing_else(
    apps: Apps, given: tuple[Any, ...], options: dict[str, Any], seen: Any
) -> None:
    app = apps(WithDefaults)
    install(app, journal=apps.journal)
    app.send_task(*given, **options)
    assert app.seen == seen


def test_a_call_of_send_task_that_does_not_fit_fails_as_ever(apps: Apps) -> None:
    app = apps()
    install(app, journal=apps.journal)
    with pytest.raises(TypeError, match="multiple values"):
        app.send_task("n", (), args=())
    with pytest.raises(TypeError, match="name"):
        app.send_task()


class Away:
    """A result backend that has nothing, and then is gone."""

    def __init__(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.fails = True
        monkeypatch.setattr(app.backend, "wait_for_pending", self.wait_for_pending)
        monkeypatch.setattr(app.backend, "get_task_meta", self.get_task_meta)

    def wait_for_pending(self, *_: Any, **__: Any) -> Any:
        raise CeleryTimeout("The operation timed out.")

    def get_task_meta(self, *_: Any, **__: Any) -> Any:
        self.asked += 1
        if self.fails:
            raise ConnectionError("the backend is gone")
        return {"status": HELD, "result": {"why": "a person must look"}}


def test_a_timeout_of_an_unmarked_task_asks_the_backend_nothing_more(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    app = apps()

    @app.task(name="staying.unmarked")
    def unmarked() -> None: ...

    @durable.step
    @app.task(name="staying.marked")
    def marked() -> None: ...

    install(app, journal=apps.journal)
    away = Away(app, monkeypatch)
    result = unmarked.delay()
    with pytest.raises(CeleryTimeout):
        result.get(timeout=0.1)
    assert away.asked == 0
    named = marked.AsyncResult(result.id)
    with pytest.raises(CeleryTimeout):
        named.get(timeout=0.1)
    assert away.asked == 1
    away.fails = False
    with pytest.raises(HeldTimeout, match="a person must look"):
        named.get(timeout=0.1)


def test_where_nothing_is_marked_no_timeout_asks_the_backend_anything(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    app = apps()
    install(app, journal=apps.journal)
    away = Away(app, monkeypatch)
    with pytest.raises(CeleryTimeout):
        app.AsyncResult("some-id").get(timeout=0.1)
    assert away.asked == 0


def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    yield from silent()


def test_a_worker_in_which_nothing_is_marked_starts_and_works_without_its_journal(
    world: World, silent_port: int, order: str
) -> None:
    """The journal takes the connection and never answers: whoever waited for it would wait as long as the test."""
    settings = {"journal": f"postgresql+psycopg://nobody@127.0.0.1:{silent_port}/silent?connect_timeout=3600"}
    quiet = World(world.redis, settings["journal"], world.directory)
    with quiet.worker(app="tests.celery.plain_app") as worker:
        from tests.celery import plain_app

        plain_app.connect(quiet.settings())
        result = plain_app.note.apply_async((order,), queue=quiet.queue)
        assert result.get(timeout=30) == order
        assert worker.returncode is None
        uninstall(plain_app.app)
    assert quiet.ledger.names(order) == ["plain"]


def test_binding_of_finds_it_before_and_after_configuration(apps: Apps) -> None:
    app = apps()
    binding = install(app, journal=apps.journal)
    assert binding_of(app) is binding
