"""Installing twice, and taking the plugin out: RQ is what it was, the same objects and no others."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from rq import Queue
from rq.job import Job

from durable_adapter.errors import InstallConflict, NotInstalled, SettingError
from durable_adapter.rq import install, uninstall
from durable_adapter.rq.binding import Binding
from durable_adapter.rq.installing import installed
from tests.rq_unchanged import jobs
from tests.rq_unchanged.custom import LoudJob, LoudQueue
from tests.rq_unchanged.stage import Stage, prepare
from tests.servers.fixtures import FreshDatabase

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The URL of a journal that nobody opens."""
    return f"sqlite:///{tmp_path}/journal.db"


@pytest.fixture(scope="module", autouse=True)
def all_of_rq() -> Iterator[None]:
    """Everything that RQ has is loaded before it is looked at."""
    for module in pkgutil.walk_packages(rq.__path__, "rq."):
        if not module.name.endswith("__main__") and "contrib" not in module.name:
            importlib.import_module(module.name)
    importlib.import_module("durable_adapter.rq.worker")
    return


def everything() -> dict[str, Any]:
    """Every attribute of every module and class of RQ, of classes made from them, and of redis-py's client."""
    found: dict[str, Any] = {}
    owners: set[Any] = {LoudJob, LoudQueue}
    for name, module in list(sys.modules.items()):
        if name == "rq" or name.startswith("rq."):
            found |= {f"{name}.{key}": value for key, value in vars(module).items()}
            owners |= {value for value in vars(module).values() if isinstance(value, type) and value.__module__.startswith("rq")}
    for owner in owners:
        found |= {f"{owner.__module__}.{owner.__qualname__}.{key}": value for key, value in vars(owner).items()}
    return {key: value for key, value in found.items() if not key.endswith("__annotations__")}  # Python makes it when asked


def surroundings() -> dict[str, Any]:
    """What a process has besides its modules."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)
    return {
        "environment": {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        "signals": [signal.getsignal(number) for number in numbers],
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("durable")),
    }


def changed(before: dict[str, Any]) -> set[str]:
    """The attributes that are not the same objects as before."""
    now = everything()
    return {key for key in {*before, *now} if key not in now or key not in before or now[key] is not before[key]}


def test_uninstall_puts_every_attribute_of_rq_back(journal: str) -> None:
    before = everything()
    installed = install(journal=journal)
    of_rq = {patch.where for patch in installed.patches if patch.where.startswith("rq.")}
    assert {patch.where for patch in installed.patches} - of_rq == {"signal.SIGALRM", "os.register_at_fork"}
    assert changed(before) == of_rq >= {"rq.job.Job.create", "rq.job.Job._execute"}
    uninstall()
    assert changed(before) == set()
    assert installed.patches == []


def test_uninstall_puts_a_signals_handler_back(journal: str) -> None:
    """Not only where RQ sets its own anew for each job: a process may have one that stays."""

    def mine(_number: int, _frame: Any) -> None: ...

    before = signal.signal(signal.SIGALRM, mine)
    try:
        installed = install(journal=journal)
        with installed.host.shielded():
            assert signal.getsignal(signal.SIGALRM) is not mine
        uninstall()
        assert signal.getsignal(signal.SIGALRM) is mine
    finally:
        signal.signal(signal.SIGALRM, before)


def test_importing_the_package_and_its_workers_changes_nothing(journal: str) -> None:
    """Without a journal in the environment: with one, importing the workers installs."""
    before = everything()
    importlib.reload(importlib.import_module("durable_adapter.rq.worker"))
    assert (changed(before), Binding.installed) == (set(), [])


def test_installing_twice_alike_is_nothing(journal: str) -> None:
    first = install(journal=journal, stale=30)
    before, patches = everything(), list(first.patches)
    assert install(journal=journal, stale=30) is first
    assert install() is first
    assert (changed(before), first.patches) == (set(), patches)


def test_taking_out_what_was_put_in_twice_takes_it_all_out(journal: str) -> None:
    before = everything()
    install(journal=journal)
    install(journal=journal)
    uninstall()
    assert changed(before) == set()
    with pytest.raises(NotInstalled):
        installed()


def test_taking_out_what_is_not_in_is_nothing() -> None:
    before = everything()
    uninstall()
    uninstall()
    assert changed(before) == set()


def test_installing_twice_differently_is_an_error_that_names_what_differs(journal: str) -> None:
    install(journal=journal, stale=30)
    before = everything()
    with pytest.raises(InstallConflict, match=r"another (stale, namespace|namespace, stale)"):
        install(journal=journal, stale=31, namespace="eu")
    assert (changed(before), installed().settings.stale) == (set(), 30)


def test_an_install_that_is_refused_leaves_rq_alone() -> None:
    before = everything()
    with pytest.raises(NotInstalled):
        install()
    with pytest.raises(SettingError):
        install("sqlite:////tmp/journal.db", stail=3)
    with pytest.raises(SettingError):
        install("oracle://nowhere")
    assert (changed(before), Binding.installed) == (set(), [])


def test_an_rq_that_is_too_old_is_refused_and_left_alone(journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything()
    monkeypatch.setattr("durable_adapter.rq.versions.VERSION", "1.15.1")
    monkeypatch.setattr("durable_adapter.rq.versions.FOUND", (1, 15))
    with pytest.raises(InstallConflict, match=r"needs RQ 1\.16 or newer; this is 1\.15\.1"):
        install(journal=journal)
    assert (changed(before), Binding.installed) == (set(), [])


def test_installing_anew_after_taking_it_out_works(journal: str) -> None:
    install(journal=journal)
    uninstall()
    assert install(journal=journal, namespace="eu").settings.namespace == "eu"


@pytest.mark.parametrize("kind", ["SimpleWorker", "Worker"])
def test_nothing_of_a_worker_that_ran_is_left(plain: Stage, fresh_database: FreshDatabase, kind: str) -> None:
    """Variables, signals, threads; and a second worker in the same process works as the first did."""
    attributes, around = everything(), surroundings()
    plain.journal = fresh_database("sqlite", prepare)
    install(journal=plain.journal)
    for number in (1, 2):
        job = plain.queue().enqueue(jobs.add, number)
        plain.work(kind=kind)
        assert job.return_value() == number
    uninstall()
    assert changed(attributes) == set()
    assert surroundings() == around


def test_a_worker_of_ours_in_a_process_where_nothing_is_installed_says_what_is_missing(plain: Stage) -> None:
    plain.queue().enqueue(jobs.add, 1)
    worker = importlib.import_module("durable_adapter.rq").SimpleWorker([plain.queue()], connection=plain.connection)
    with pytest.raises(NotInstalled, match="no journal is named"):
        worker.work(burst=True)
    assert plain.ledger() == []


def test_what_somebody_has_wrapped_meanwhile_stays_and_works(plain: Stage, journal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tracing libraries do; also where a hook of ours comes back with their leaving, after it was taken out."""
    places: list[tuple[type, str]] = [(Job, "_execute"), (Queue, "enqueue_job"), (Job, "return_value")]
    originals = [vars(owner)[name] for owner, name in places]
    install(journal=journal)
    for owner, name in places:
        below = getattr(owner, name)

        @functools.wraps(below)
        def theirs(self: Any, *args: Any, below: Any = below, **kwargs: Any) -> Any:
            jobs.say(f"around {below.__name__}", self.connection)
            return below(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, theirs)
    uninstall()
    job = plain.queue().enqueue(jobs.add, 1)
    plain.work()
    assert job.return_value() == 1
    assert plain.ledger() == ["around enqueue_job", "around _execute", "add 1 0", "around return_value"]
    monkeypatch.undo()
    try:
        install(journal=journal)
        again = plain.queue().enqueue(jobs.add, 2)
        plain.work()
        assert again.return_value() == 2
        uninstall()
    finally:
        for (owner, name), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


def test_hooks_look_like_what_they_hook(journal: str) -> None:
    import inspect

    signatures = {where: inspect.signature(getattr(Job, where)) for where in ("create", "to_dict", "_execute", "return_value")}
    install(journal=journal)
    assert {where: inspect.signature(getattr(Job, where)) for where in signatures} == signatures


def test_an_rq_that_is_too_old_is_told_before_anything_that_it_does_not_have_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module("durable_adapter.rq")
    monkeypatch.setattr("durable_adapter.rq.versions.VERSION", "1.15.1")
    monkeypatch.setattr("durable_adapter.rq.versions.FOUND", (1, 15))
    for name in ("install", "Worker", "SpawnWorker", "start", "mark"):
        with pytest.raises(InstallConflict, match=r"needs RQ 1\.16 or newer; this is 1\.15\.1"):
            getattr(package, name)


def test_a_worker_class_that_an_old_rq_does_not_have_is_an_error_that_names_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module("durable_adapter.rq")
    monkeypatch.setattr("durable_adapter.rq.versions.VERSION", "2.1.0")
    monkeypatch.setattr("durable_adapter.rq.versions.FOUND", (2, 1))
    with pytest.raises(InstallConflict, match=r"RQ 2\.2 or newer; this is 2\.1\.0.*durable_adapter\.rq\.SimpleWorker"):
        _ = package.SpawnWorker
    assert package.Worker
