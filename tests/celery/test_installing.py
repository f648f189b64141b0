"""Putting the plugin in and taking it out: nothing of Celery is changed that is not put back, and what is not marked is
sent as before, to the byte (P9)."""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, Task, canvas, chain, chord, group, signals
from celery.app import trace
from celery.worker.consumer import consumer

import durable_adapter as durable
from durable_adapter.celery import binding_of, install, uninstall
from durable_adapter.celery.binding import Binding
from durable_adapter.celery.hooks import SHARED
from durable_adapter.errors import InstallConflict, NotInstalled, SettingError

pytestmark = pytest.mark.usefixtures("declarations", "alone")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No other app of this test process is hooked meanwhile."""
    others, shared = list(Binding.installed), dict(SHARED)
    for (owner, name), (_, original) in shared.items():
        setattr(owner, name, original)
    Binding.installed.clear()
    SHARED.clear()
    yield
    monkeypatch.undo()
    for (owner, name), (_, original) in SHARED.items():
        setattr(owner, name, original)
    SHARED.clear()
    SHARED.update(shared)
    for (owner, name), (patch, _) in shared.items():
        setattr(owner, name, patch)
    Binding.installed[:] = others


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app of its own, with a marked and an unmarked task."""
    made = Celery("installing", broker="memory://", backend="cache+memory://", set_as_current=False)
    marked(made)
    unmarked(made)
    made.finalize()
    yield made
    uninstall(made)
    made.close()


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The URL of a journal that nobody opens."""
    return f"sqlite:///{tmp_path}/journal.db"


def marked(app: Celery, name: str = "installing.marked") -> Any:
    @durable.step
    @app.task(name=name, shared=False)
    def marked_task(number: int) -> int:
        return number

    return marked_task


def unmarked(app: Celery) -> Any:
    @app.task(name="installing.unmarked", bind=True, shared=False)
    def unmarked_task(self: Any, number: int) -> int:
        return number

    return unmarked_task


def everything(app: Celery) -> dict[str, Any]:
    """Every object that the plugin might touch, by where it is."""
    classes = {
        "Celery": Celery,
        "Task": Task,
        **{name: cls for name, cls in vars(canvas).items() if isinstance(cls, type)},
    }
    found: dict[str, Any] = {f"{name}.{key}": value for name, cls in classes.items() for key, value in vars(cls).items()}
    found |= {f"trace.{key}": value for key, value in vars(trace).items()}
    found |= {f"consumer.{key}": value for key, value in vars(consumer).items()}
    found |= {f"app.{key}": value for key, value in vars(app).items()}
    for name, task in app.tasks.items():
        found |= {f"{name}.{key}": value for key, value in vars(task).items()}
        found |= {f"{name}.type.{key}": value for key, value in vars(type(task)).items()}
    for name, heard in vars(signals).items():
        if isinstance(heard, signals.Signal):
            found |= {f"signal {name} {number}": receiver for number, (_, receiver) in enumerate(heard.receivers or ())}
    found["worker steps"] = frozenset(app.steps["worker"])
    found |= {f"signal.{number.name}": signal.getsignal(number) for number in signal.Signals if number in signal.valid_signals()}
    return found


def test_uninstall_puts_every_object_back(app: Celery, journal: str) -> None:
    for lazy in ("AsyncResult", "GroupResult", "backend", "amqp", "Task", "annotations"):
        getattr(app, lazy)  # Celery makes these when first asked
    everything(app)
    soft_limit = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)  # as Celery's pool sets one in its children
    before = everything(app)
    binding = install(app, journal=journal)
    with binding.host.shielded():
        during = everything(app)
    assert {key for key in during if during[key] is not before.get(key)} >= {
        "app.send_task",
        "app.AsyncResult",
        "group.apply_async",
        "_chord.run",
        "trace.build_tracer",
        "consumer.build_tracer",
        "installing.marked.run",
        "signal.SIGUSR1",
    }
    uninstall(app)
    after = everything(app)
    signal.signal(signal.SIGUSR1, soft_limit)
    assert after.keys() == before.keys()
    assert {key for key in before if after[key] is not before[key] and after[key] != before[key]} == set()
    for key in ("trace.build_tracer", "consumer.build_tracer", "group.apply_async", "_chord.run"):
        assert after[key] is before[key]
    assert binding.patches == []


def test_an_unmarked_task_is_the_same_object_all_the_time(app: Celery, journal: str) -> None:
    task = app.tasks["installing.unmarked"]
    before = dict(vars(task))
    install(app, journal=journal)
    assert app.tasks["installing.unmarked"] is task
    assert vars(task) == before


def test_installing_twice_alike_is_nothing(app: Celery, journal: str) -> None:
    first = install(app, journal=journal, stale=30)
    places = list(first.patches)
    assert install(app, journal=journal, stale=30) is first
    assert first.patches == places


def test_installing_twice_differently_is_an_error_that_names_what_differs(app: Celery, journal: str) -> None:
    install(app, journal=journal, stale=30)
    with pytest.raises(InstallConflict, match=r"called before on this app with another stale, namespace|namespace, stale"):
        install(app, journal=journal, stale=31, namespace="eu")
    assert binding_of(app).settings.stale == 30


def test_installing_anew_after_taking_it_out_works(app: Celery, journal: str) -> None:
    install(app, journal=journal)
    uninstall(app)
    install(app, journal=journal, namespace="eu")
    assert binding_of(app).settings.namespace == "eu"
    assert [patch.where for patch in binding_of(app).patches].count("installing.marked.run") == 1


def test_taking_out_what_is_not_in_is_nothing(app: Celery) -> None:
    uninstall(app)
    uninstall(app)


def test_without_a_journals_url_nothing_is_installed_and_every_place_for_it_is_named(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DURABLE_ADAPTER_JOURNAL", raising=False)
    with pytest.raises(NotInstalled) as caught:
        install(app)
    for place in ("install(journal=...)", "DURABLE_ADAPTER_JOURNAL", "durable_adapter_journal", "[tool.durable_adapter]"):
        assert place in str(caught.value)
    assert "send_task" not in vars(app)


def test_an_unknown_setting_is_refused_by_name(app: Celery, journal: str) -> None:
    with pytest.raises(SettingError, match=r"stail \(argument\) is no setting of durable-adapter; there are: journal"):
        install(app, journal=journal, stail=3)


def test_the_apps_own_settings_are_read(app: Celery, journal: str) -> None:
    app.conf.update(durable_adapter_journal=journal, durable_adapter_namespace="eu")
    binding = install(app)
    assert binding.settings.namespace == "eu"
    assert binding.settings.origins["namespace"] == "engine settings"


def test_a_celery_that_is_too_old_is_refused(app: Celery, journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_adapter.celery.installing.VERSION", (5, 3, 6, "", ""))
    with pytest.raises(InstallConflict, match=r"needs Celery 5\.4 or newer; this is 5\.3\.6"):
        install(app, journal=journal)


def test_a_celery_without_a_place_that_is_patched_is_refused_and_left_alone(
    app: Celery, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(trace, "build_tracer")
    with pytest.raises(InstallConflict, match=r"has no celery\.app\.trace\.build_tracer, which durable-adapter patches"):
        install(app, journal=journal)
    assert "send_task" not in vars(app)
    assert "durable_binding" not in vars(app)


def test_an_app_whose_declarations_are_wrong_is_not_left_half_hooked(app: Celery, journal: str) -> None:
    @durable.step(compensate="installing.nowhere")
    @app.task(name="installing.wrong", shared=False)
    def wrong() -> None: ...

    with pytest.raises(durable.DurableError, match=r"compensate='installing\.nowhere' is no task of this app"):
        install(app, journal=journal)
    assert "send_task" not in vars(app)
    assert "durable_binding" not in vars(app)
    assert "run" not in vars(app.tasks["installing.marked"])


def test_an_app_that_is_not_finalized_is_hooked_when_it_is(journal: str) -> None:
    app = Celery("unfinalized", broker="memory://", set_as_current=False)
    task = marked(app)
    binding = install(app, journal=journal)
    assert not app.finalized
    assert "installing.marked.run" not in [patch.where for patch in binding.patches]
    assert task.name == "installing.marked"
    app.finalize()
    assert "installing.marked.run" in [patch.where for patch in binding.patches]
    uninstall(app)


def test_tasks_that_are_marked_after_install_are_hooked(app: Celery, journal: str) -> None:
    binding = install(app, journal=journal)

    @durable.step
    @app.task(name="installing.late", shared=False)
    def late(number: int) -> int:
        return number

    binding.ensure_hooked()
    assert binding.unhooked() == []
    assert any(patch.where == "installing.late.run" for patch in binding.patches)


def test_a_hook_that_somebody_has_wrapped_is_found_and_does_nothing_once_taken_out(app: Celery, journal: str) -> None:
    """As sentry-sdk does with `task.run`."""
    binding = install(app, journal=journal)
    task = app.tasks["installing.marked"]
    hook = task.run

    @functools.wraps(hook)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ("wrapped", hook(*args, **kwargs))

    task.run = theirs
    binding.hook_tasks()
    assert task.run is theirs
    assert binding.unhooked() == []
    uninstall(app)
    assert task.run is theirs
    assert task(1) == ("wrapped", 1)


def test_a_method_that_somebody_has_wrapped_stays_wrapped(app: Celery, journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(app, journal=journal)
    ours = canvas.group.__dict__["apply_async"]

    @functools.wraps(ours)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    monkeypatch.setattr(canvas.group, "apply_async", theirs)
    uninstall(app)
    assert canvas.group.__dict__["apply_async"] is theirs


def test_two_apps_in_one_process_are_each_taken_out_by_themselves(app: Celery, journal: str) -> None:
    second = Celery("second", broker="memory://", set_as_current=False)
    task = marked(second)
    original = trace.build_tracer, canvas.group.__dict__["apply_async"]
    install(app, journal=journal)
    install(second, journal=journal)
    uninstall(app)
    with pytest.raises(durable.DurableError, match="groups and chords are not durable yet"):
        group(task.s(1), task.s(2)).apply_async()
    uninstall(second)
    assert (trace.build_tracer, canvas.group.__dict__["apply_async"]) == original


def test_of_two_apps_in_one_process_each_hears_celerys_signals(app: Celery, journal: str) -> None:
    """A Celery before 5.7 takes the same method of two objects for one receiver."""
    second = Celery("second", broker="memory://", set_as_current=False)
    second.finalize()
    of_app, of_second = install(app, journal=journal), install(second, journal=journal)
    marked(app, "installing.late")
    marked(second)
    assert (of_app.unhooked(), of_second.unhooked()) == (["installing.late"], ["installing.marked"])
    signals.import_modules.send(sender=None)
    assert (of_app.unhooked(), of_second.unhooked()) == ([], [])
    uninstall(app)
    marked(second, "installing.later")
    assert of_second.unhooked() == ["installing.later"]
    signals.import_modules.send(sender=None)
    assert of_second.unhooked() == []
    uninstall(second)


def published(app: Celery, url: str, queue: str) -> list[bytes]:
    """What lies in a queue, byte for byte, without the two ids that Celery makes anew for each publication."""
    with redis.Redis.from_url(url) as broker:
        raw = broker.lrange(queue, 0, -1)
        broker.delete(queue)
    messages = []
    for text in reversed(raw):
        message = json.loads(text)
        message["properties"].pop("delivery_tag")
        messages.append(json.dumps(message).encode())
    assert messages
    return messages


def publish_unmarked(app: Celery) -> None:
    """Every way to publish, with ids that do not change."""
    task = app.tasks["installing.unmarked"]
    task.apply_async((1,), task_id="one", priority=3, headers={"a": "b"}, expires=3600, root_id="one")
    app.send_task("installing.unmarked", (2,), {"b": 1}, task_id="two")
    app.send_task("somewhere.else", (2,), task_id="three", queue=app.conf.task_default_queue)
    links = {"link": task.s().set(task_id="l"), "link_error": task.s().set(task_id="e")}
    task.apply_async((3,), task_id="four", **links)
    chain(task.s(1).set(task_id="c1"), task.s().set(task_id="c2")).apply_async()
    group(task.s(1).set(task_id="g1"), task.s(2).set(task_id="g2")).apply_async(group_id="g")
    chord([task.s(1).set(task_id="h1")], task.s().set(task_id="b")).apply_async(task_id="b")


def test_an_unmarked_tasks_message_is_the_same_to_the_byte_with_and_without_the_plugin(
    app: Celery, journal: str, redis_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.conf.update(broker_url=redis_url, result_backend=redis_url, task_default_queue=f"{queue_prefix}plain")
    counter = iter(range(10_000))
    for place in ("celery.canvas.uuid", "celery.app.base.uuid", "celery.app.task.uuid", "celery.utils.uuid"):
        monkeypatch.setattr(place, lambda: f"fixed-{next(counter)}", raising=False)
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(app, "now", lambda: moment)
    monkeypatch.setattr(type(app.amqp), "utc", True, raising=False)

    def messages() -> list[bytes]:
        nonlocal counter
        counter = iter(range(10_000))
        publish_unmarked(app)
        return published(app, redis_url, f"{queue_prefix}plain")

    without = messages()
    assert messages() == without
    install(app, journal=journal)
    assert messages() == without
    uninstall(app)
    assert messages() == without


def test_a_marked_tasks_message_differs_by_its_stamp_alone(
    app: Celery, tmp_path: Path, redis_url: str, queue_prefix: str
) -> None:
    from tests.celery.world import prepare

    url = f"sqlite:///{tmp_path}/stamped.db"
    prepare(url)
    queue = f"{queue_prefix}stamped"
    app.conf.update(broker_url=redis_url, result_backend=redis_url, task_default_queue=queue)
    task = app.tasks["installing.marked"]

    def message() -> dict[str, Any]:
        task.apply_async((1,), task_id="one", headers={"a": "b"})
        found: dict[str, Any] = json.loads(published(app, redis_url, queue)[0])
        return found

    without = message()
    install(app, journal=url)
    stamped = message()
    headers = stamped["headers"]
    (ref,) = (headers["stamps"]["durable_run"],)
    assert headers["stamped_headers"] == ["durable_run"]
    assert ref.startswith("1:")
    headers |= {"stamped_headers": without["headers"]["stamped_headers"], "stamps": without["headers"]["stamps"]}
    headers.pop("durable_run", None)
    assert stamped == without
    uninstall(app)
    assert message() == without
