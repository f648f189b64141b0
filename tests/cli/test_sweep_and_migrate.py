"""`sweep` is the workers' own sweeper as a command; `migrate` applies what is missing, once, and says what."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import REVISION, REVISIONS
from tests.cli.conftest import Cli, Shop
from tests.journal.making import a_run, a_worker, claim, statuses
from tests.servers.fixtures import FreshDatabase, StartProcess
from tests.servers.waiting import eventually

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])

APP = """
import os
from celery import Celery
import durable_adapter as durable
import durable_adapter.celery
app = Celery("bakery", broker="memory://")
@durable.step
@app.task(name="charge")
def charge(order): ...
durable_adapter.celery.install(app, journal=os.environ["DURABLE_ADAPTER_JOURNAL"], stale=0.8, beat=0.2, sweep_every=0.2)
"""

MAIN = "from durable_adapter.cli import main; main()"


@on_sqlite
def test_one_sweep_says_what_it_did(cli: Cli, journal: Journal, shop: Shop) -> None:
    assert cli("-A", shop.name, "sweep", "--once", code=0).stdout == "Nothing was due.\n"
    a_worker(journal, "w2", parent="p", pid=2)
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge", "w2")
    journal.workers.child_died("p", 2, "signal 9")
    told = cli.json("-A", shop.name, "sweep", "--once", code=0)
    assert {name: count for name, count in told.items() if count} == {"doubts": 1, "held": 1}
    assert statuses(journal, ref)["charge"] == "held"


@on_sqlite
def test_options_that_contradict_each_other_or_a_setting(cli: Cli, shop: Shop) -> None:
    assert "--once and --for exclude each other" in cli("-A", shop.name, "sweep", "--once", "--for", "1", code=2).stderr
    told = cli("-A", shop.name, "sweep", "--every", "30", code=2).stderr
    assert "--every 30 is more than a quarter of stale=60" in told
    assert "x>0" in cli("-A", shop.name, "sweep", "--every", "0", code=2).stderr


@on_sqlite
def test_a_loop_declares_the_dead_and_ends_when_it_is_told(
    journal: Journal, url: str, start_process: StartProcess, tmp_path: Path
) -> None:
    (tmp_path / "bakery.py").write_text(APP)
    ref = a_run(journal, "charge")
    claim(journal, ref, "charge")
    command = [sys.executable, "-c", MAIN, "-A", "bakery", "sweep", "--json"]
    process = start_process(command, cwd=tmp_path, env={"DURABLE_ADAPTER_JOURNAL": url}, name="sweep")
    eventually(lambda: statuses(journal, ref)["charge"] == "held", 20)
    assert "sweeper" in [w.role for w in journal.workers.alive()]
    process.kill(signal.SIGTERM)
    assert process.wait() == 0
    assert [w.role for w in journal.workers.alive()] == [], "it says that it ended"
    reports = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
    assert sum(r["deaths"] for r in reports) == 1
    assert sum(r["held"] for r in reports) == 1


@on_sqlite
def test_a_sweep_for_a_while_ends_by_itself(journal: Journal, url: str, start_process: StartProcess, tmp_path: Path) -> None:
    (tmp_path / "bakery.py").write_text(APP)
    command = [sys.executable, "-c", MAIN, "-A", "bakery", "sweep", "--for", "0.3", "--every", "0.1"]
    process = start_process(command, cwd=tmp_path, env={"DURABLE_ADAPTER_JOURNAL": url}, name="sweep")
    assert process.wait() == 0
    assert "Sweeping every 0.1 s; stop with Ctrl-C." in process.output


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
def test_migrate_checks_shows_and_applies(nowhere: Cli, fresh_database: FreshDatabase, dialect: str) -> None:
    given = ("--journal", fresh_database(dialect))  # type: ignore[arg-type]
    assert nowhere.json("migrate", "--check", *given, code=1) == {
        "revision": None, "needed": REVISION, "missing": list(REVISIONS), "applied": []
    }  # fmt: skip
    written = nowhere("migrate", "--sql", *given, code=0).stdout
    assert "CREATE TABLE durable_workflow" in written
    assert nowhere.json("migrate", "--sql", *given, code=0)["sql"] == written
    assert nowhere.json("migrate", "--check", *given, code=1)["missing"] == list(REVISIONS), "nothing was applied"
    assert f"Applied {', '.join(REVISIONS)} to " in nowhere("migrate", *given, code=0).stdout
    assert nowhere("migrate", *given, code=0).stdout == f"Nothing to do: it is at revision {REVISION}.\n"
    assert nowhere("migrate", "--check", *given, code=0).stdout == f"The journal is at revision {REVISION}: up to date.\n"
    assert nowhere("list", *given, code=0).stdout == "No workflows.\n"


@on_sqlite
def test_check_and_sql_exclude_each_other(cli: Cli) -> None:
    assert "--check and --sql exclude each other" in cli("migrate", "--check", "--sql", code=2).stderr
