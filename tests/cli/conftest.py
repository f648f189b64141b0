"""The command line on real journals, and a Celery app that it can be given with `-A`."""

from __future__ import annotations

import getpass
import inspect
import itertools
import os
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery, _state
from celery.signals import before_task_publish
from click.testing import CliRunner, Result

import durable_adapter as durable
import durable_adapter.celery
from durable_adapter.celery.binding import Binding
from durable_adapter.cli import command_line
from durable_adapter.declare.registry import DECLARED
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from tests.journal.conftest import dialect, elsewhere, journal, migrated, url
from tests.journal.making import a_worker

__all__ = ["dialect", "elsewhere", "journal", "migrated", "url"]

#: What a person adds to a command that changes something.
SIGNED = ("--by", "ann", "--why", "the bank says so", "--apply")

_number = itertools.count()


def separate_outputs() -> CliRunner:
    """A runner that keeps what is printed and what is complained about apart, as click 8.2 does by itself."""
    mixes = "mix_stderr" in inspect.signature(CliRunner).parameters
    return CliRunner(**{"mix_stderr": False} if mixes else {})


@dataclass
class Cli:
    """The command line as an operator has it: the journal is named in the environment."""

    url: str | None
    runner: CliRunner = field(default_factory=separate_outputs)

    def __call__(self, *words: str, code: int | None = None, **environment: str | None) -> Result:
        """Runs a command in this process."""
        env = {"DURABLE_ADAPTER_JOURNAL": self.url, "USER": "ann", **environment}
        result = self.runner.invoke(command_line, [*words], env=env, prog_name="durable-adapter")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        if code is not None:
            assert result.exit_code == code, f"exit code {result.exit_code}\n{result.output}"
        return result

    def json(self, *words: str, code: int | None = None) -> Any:
        """Runs a command with `--json`, and reads what it printed."""
        import json

        return json.loads(self(*words, "--json", code=code).stdout)

    def run_printed(self, command: str, value: str = '"ok"', app: str | None = None, redis: str | None = None) -> Result:
        """Runs a command as a finding prints it, as a shell would, and as a person who has decided: what it leaves to them is
        filled in, and `--apply` is added to what changes something.

        `redis` is the URL that stands for `REDIS_URL`, and that a shell has in `$RQ_REDIS_URL`.
        """
        if redis is not None:
            command = command.replace('"$RQ_REDIS_URL"', shlex.quote(redis)).replace("-u REDIS_URL", f"-u {shlex.quote(redis)}")
        command = command.replace("--happened VALUE", f"--happened {shlex.quote(value)}").replace('"$(id -un)"', "ann")
        if "--why 'how you know'" in command:
            command = command.replace("--why 'how you know'", "--why 'asked the bank' --apply")
        if app is not None:
            command = command.replace("-A APP", f"-A {app}")
        program, *words = shlex.split(command)
        assert program == "durable-adapter"
        assert "APP" not in words
        return self(*words)

    def findings(self, *words: str) -> dict[str, dict[str, Any]]:
        """What `reconcile` finds, by kind; each kind at most once."""
        found = self.json("reconcile", *words)["findings"]
        kinds = [f["kind"] for f in found]
        assert len(set(kinds)) == len(kinds), kinds
        return {f["kind"]: f for f in found}


@pytest.fixture
def cli(url: str, journal: Journal) -> Cli:
    """The command line on an empty journal with one living worker, `w1`, and one sweeper, `s0`; once per dialect."""
    a_worker(journal, "s0", role="sweeper", engine="celery,rq,inline", queues=[], parent="parent of s0", pid=999)
    return Cli(url)


@pytest.fixture
def unswept(cli: Cli, journal: Journal) -> Journal:
    """The journal of `cli` before it ever knew of a sweeper."""
    journal.db.transaction(lambda conn: conn.execute(sa.delete(worker).where(worker.c.id == "s0")))
    return journal


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Cli:
    """The command line where no journal is named."""
    monkeypatch.delenv("DURABLE_ADAPTER_JOURNAL", raising=False)
    monkeypatch.chdir(tmp_path)
    return Cli(None)


@dataclass
class Shop:
    """A Celery app that `-A` finds, and what it published."""

    name: str
    app: Celery
    binding: Binding
    sent: list[str] = field(default_factory=list)


@pytest.fixture
def make_shop(url: str, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    """`make_shop(**conf)`: an app with durable tasks on this journal, whose messages go to memory."""
    # Celery shares the tasks of one app with every other app of the process: those of other tests stay out of this one.
    own = {f for f in _state._on_app_finalizers if f.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)
    made: list[Shop] = []
    before = dict(DECLARED._entries)

    def make(install: bool = True, options: dict[str, Any] | None = None, **conf: Any) -> Shop:
        name = f"bakery_{next(_number)}"
        app = Celery(name, broker="memory://", backend="cache+memory://", set_as_current=False)
        app.conf.update({
            "task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 1, **conf
        })  # fmt: skip

        @durable.step(redact=("card",))
        @app.task(name="charge", shared=False)
        def charge(order: str, card: str = "", amount: str = "") -> str:
            return f"ch_{order}"

        @durable.step(redact=True)
        @app.task(name="secret", shared=False)
        def secret(order: str) -> str:
            return order

        @app.task(name="refund", shared=False)
        @durable.step
        def refund(*args: Any) -> None: ...

        @durable.step(compensate=refund)
        @app.task(name="reserve", shared=False)
        def reserve(order: str) -> str:
            return f"res_{order}"

        @app.task(name="ship", shared=False)
        @durable.step(idempotent=True)
        def ship(charged: str) -> str:
            return charged

        @app.task(name="mail", shared=False)
        def mail(shipped: str) -> str:
            return shipped

        @app.task(name="fulfil", shared=False)
        @durable.workflow(id="order-{order}", attributes=("customer",), amount="total")
        def fulfil(order: str, total: str = "0", customer: str = "") -> str:
            return order

        module = types.ModuleType(name)
        module.app = app  # type: ignore[attr-defined]
        sys.modules[name] = module
        binding = None
        if install:
            settings = {"stale": 60, "beat": 10, "resend_after": 600, **(options or {})}
            binding = durable_adapter.celery.install(app, journal=url, **settings)
        app.finalize()
        shop = Shop(name, app, binding)  # type: ignore[arg-type]

        def note(sender: Any = None, **_: Any) -> None:
            shop.sent.append(str(sender))

        before_task_publish.connect(note, weak=False, dispatch_uid=name)
        made.append(shop)
        return shop

    yield make
    for shop in made:
        before_task_publish.disconnect(dispatch_uid=shop.name)
        durable_adapter.celery.uninstall(shop.app)
        shop.app.close()
        del sys.modules[shop.name]
    DECLARED._entries.clear()
    DECLARED._entries.update(before)
    DECLARED.generation += 1


@pytest.fixture
def shop(make_shop: Callable[..., Shop]) -> Shop:
    """An app with durable tasks on this journal."""
    return make_shop()


@pytest.fixture
def me() -> str:
    """Who runs the tests."""
    return os.environ.get("USER") or getpass.getuser()
