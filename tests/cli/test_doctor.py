"""`doctor`: each check with what it finds and its cure; the levels decide the exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from durable_adapter.cli.checks.check import Check, Level
from durable_adapter.cli.checks.journal import _clock, _server, journal_checks
from durable_adapter.journal import Journal, workers
from durable_adapter.journal.schema import REVISION
from durable_adapter.model import SECOND, Cause, Event, Kind
from durable_adapter.reconcile.commands import Caller
from durable_adapter.settings import Settings
from tests.cli.conftest import Cli, Shop
from tests.journal.making import ONE, a_run, a_step, a_worker, the

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])


def checks(told: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The checks of a JSON report, by name."""
    names = [c["check"] for c in told["checks"]]
    assert len(set(names)) == len(names)
    return {c["check"]: c for c in told["checks"]}


def test_a_journal_in_order_is_clean(cli: Cli, journal: Journal, dialect: str) -> None:
    # A PostgreSQL that the tests start themselves does not wait for the disk: exactly that is then told.
    hasty = journal.reads.server().get("fsync") == "off"
    told = cli.json("doctor", code=1 if hasty else 0)
    assert list(told) == ["checks", "settings"]
    found = checks(told)
    expected = {"durability": "unsafe"} if hasty else {"sqlite": "note"} if dialect == "sqlite" else {}
    assert {name: c["level"] for name, c in found.items() if c["level"] != "ok"} == expected
    assert found["revision"]["found"] == f"{REVISION}, as this version of durable-adapter needs it"
    assert dialect in found["version"]["found"]
    assert found["workers"]["found"] == "1 on here (celery)"
    assert found["sweeper"]["found"].startswith("1 alive, the last beat ")


def test_settings_are_shown_with_where_they_came_from_and_without_a_password(cli: Cli, nowhere: Cli) -> None:
    told = cli.json("doctor", "--namespace", "shop")
    rows = {s["name"]: (s["value"], s["origin"]) for s in told["settings"]}
    assert rows["namespace"] == ("shop", "argument")
    assert rows["journal"][1] == "environment"
    assert rows["stale"] == (60.0, "default")
    text = nowhere("doctor", "--journal", "postgresql+psycopg://ann:hunter2@127.0.0.1:1/x", code=2).stdout
    assert "hunter2" not in text
    assert "postgresql+psycopg://ann:***@127.0.0.1:1/x" in text


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_nobody_who_sweeps_is_unsafe(cli: Cli) -> None:
    found = checks(cli.json("doctor", code=1))["sweeper"]
    assert found["level"] == "unsafe"
    assert found["found"] == "no sweeper is alive: timers, deaths, doubt and lost messages wait"
    assert "durable-adapter -A APP sweep" in found["cure"]


@on_sqlite
def test_silence_mixed_versions_and_a_crowd_are_told(journal: Journal) -> None:
    from durable_adapter.journal.schema import worker

    a_worker(journal, "s1", role="sweeper")
    journal.db.transaction(lambda conn: conn.execute(worker.update().values(beat_at=worker.c.beat_at - 300 * SECOND)))
    for number, version in enumerate(("v1", "v2")):
        a_worker(journal, f"n{number}", code_version=version)
    found = {c.name: c for c in journal_checks(journal, Settings(), ["celery"], Caller())}
    assert "the last sweeper beat 30" in found["sweeper"].found
    assert found["silent_workers"].found.startswith("1 have not beaten for longer than `stale`: here pid 1 (30")
    assert found["code_versions"].found == "workers run different code versions: none, v1, v2"


@pytest.mark.parametrize(
    ("server", "name", "level", "told"),
    [
        ({"dialect": "sqlite", "version": "3.34.1", "journal_mode": "wal"}, "version", Level.UNSAFE, "older than 3.40"),
        ({"dialect": "sqlite", "version": "3.45", "journal_mode": "delete"}, "durability", Level.SLOW, "journal_mode is delete"),
        (
            {"dialect": "postgresql", "version": "16.2", "fsync": "on", "synchronous_commit": "off", "read_only": False},
            "durability", Level.UNSAFE, "synchronous_commit is off",
        ),
        (
            {"dialect": "postgresql", "version": "16.2", "fsync": "off", "synchronous_commit": "on", "read_only": False},
            "durability", Level.UNSAFE, "fsync is off",
        ),
        (
            {"dialect": "postgresql", "version": "16.2", "fsync": "on", "synchronous_commit": "on", "read_only": True},
            "read_only", Level.UNSAFE, "the database is read-only",
        ),
        (
            {"dialect": "mysql", "version": "8.0.36", "innodb_flush_log_at_trx_commit": 2, "read_only": False},
            "durability", Level.UNSAFE, "innodb_flush_log_at_trx_commit is 2",
        ),
        (
            {"dialect": "mysql", "version": "10.5.1-MariaDB", "innodb_flush_log_at_trx_commit": 1, "read_only": False},
            "version", Level.UNSAFE, "mariadb 10.5.1-MariaDB is older than 10.6",
        ),
    ],
)  # fmt: skip
def test_what_a_database_may_lose_is_told(server: dict[str, Any], name: str, level: Level, told: str) -> None:
    found = {c.name: c for c in _server(server)}[name]
    assert found.level is level
    assert told in found.found
    assert found.cure


class Clocked:
    """A journal whose clock is wrong."""

    def __init__(self, by: float) -> None:
        self._by = by

    def time(self) -> int:
        import time

        return int((time.time() + self._by) * SECOND)


@pytest.mark.parametrize(("by", "told"), [(90.0, "90.0 s ahead of this host"), (-90.0, "90.0 s behind this host")])
def test_a_clock_that_differs_is_told(by: float, told: str) -> None:
    found = next(c for c in _clock(Clocked(by)) if c.name == "clock")  # type: ignore[arg-type]
    assert (found.level, told in found.found) == (Level.UNSAFE, True)


def of_app(cli: Cli, shop: Shop, *words: str) -> dict[str, dict[str, str]]:
    return checks(cli.json("-A", shop.name, "doctor", *words))


@on_sqlite
@pytest.mark.parametrize(("by", "told"), [(3700, "far is 1 h 1 min ahead of it"), (-3700, "far is 1 h 1 min behind it")])
def test_the_host_of_a_worker_whose_clock_is_off_is_named(
    cli: Cli, journal: Journal, monkeypatch: pytest.MonkeyPatch, by: int, told: str
) -> None:
    a_worker(journal, "s1", role="sweeper")
    a_worker(journal, "near", host="near")
    assert checks(cli.json("doctor"))["host_clocks"]["level"] == "ok"
    a_worker(journal, "far", host="far")  # its clock was right when it registered
    clock = workers.host_clock
    monkeypatch.setattr(workers, "host_clock", lambda: clock() + by * SECOND)
    assert journal.workers.beat("far", [])
    found = checks(cli.json("doctor", code=1))["host_clocks"]
    assert found["level"] == "unsafe"
    assert told in found["found"]
    assert "near" not in found["found"]
    assert "NTP" in found["cure"]


@on_sqlite
def test_an_app_in_order(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop()
    found = of_app(cli, shop)
    assert found["installed"]["found"] == "durable-adapter is installed, in mode enforce"
    assert found["marked"]["found"] == "6 durable tasks: 1 idempotent, 4 protected, 1 workflow"
    assert {n: c["level"] for n, c in found.items() if c["level"] in ("slow", "unsafe", "failed")} == {"broker": "unsafe"}
    assert "memory://" in found["broker"]["found"]


@on_sqlite
@pytest.mark.parametrize(
    ("conf", "name", "level", "told"),
    [
        ({"task_acks_late": False}, "acks_late", "slow", "acknowledged before the task runs: charge, fulfil, refund"),
        ({"task_reject_on_worker_lost": False}, "reject_on_worker_lost", "slow", "Celery calls these tasks failed"),
        ({"worker_prefetch_multiplier": 4}, "prefetch", "slow", "worker_prefetch_multiplier is 4"),
        ({"task_always_eager": True}, "eager", "unsafe", "task_always_eager is on"),
        ({"accept_content": ["json", "pickle"]}, "serializers", "slow", "pickle is in use"),
        ({"result_backend": "disabled://"}, "results", "slow", "there is no result backend"),
        ({"worker_pool": "threads", "worker_concurrency": 8}, "pool", "slow", "8 threads share 2 database connections"),
        ({"task_routes": {"ship": {"queue": "docks"}}}, "queues", "slow", "with the plugin serves: docks (for ship)"),
        (
            {"broker_url": "redis://127.0.0.1:1/0", "task_time_limit": 7200},
            "visibility_timeout", "slow", "visibility_timeout is 3600 s, and these tasks may run for longer: charge",
        ),
        (
            {"broker_url": "redis://127.0.0.1:1/0", "broker_transport_options": {"visibility_timeout": 60}},
            "visibility_timeout", "slow", "visibility_timeout is 60 s, and these tasks are retried after longer: charge",
        ),
        ({"broker_url": "redis://127.0.0.1:1/0"}, "broker", "failed", "the broker does not answer: "),
        ({"broker_url": "filesystem://"}, "redelivery", "note", "does not deliver again what a dead worker had taken"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_it_slow_or_unsafe_is_told_with_its_cure(
    cli: Cli, make_shop: Callable[..., Shop], conf: dict[str, Any], name: str, level: str, told: str
) -> None:
    shop = make_shop(**conf)
    if "result_backend" in conf:
        shop.app._backend_cache = None
    found = checks(cli.json("-A", shop.name, "doctor", code=0 if level == "note" else 1))[name]
    assert (found["level"], told in found["found"]) == (level, True), found
    assert found["cure"]


def test_queues_are_known_by_the_sweepers_of_workers_that_have_run_nothing_yet(
    cli: Cli, journal: Journal, make_shop: Callable[..., Shop]
) -> None:
    shop = make_shop(task_routes={"ship": {"queue": "docks"}})
    journal.workers.stop("w1")
    found = of_app(cli, shop)
    assert found["queues"]["found"] == (
        "no living worker with the plugin serves: celery (for charge, fulfil, refund, reserve, secret); docks (for ship)"
    )
    assert found["workers"]["level"] == "note"
    a_worker(journal, "apart", role="sweeper", queues=[])
    a_worker(journal, "parent", role="sweeper", queues=["celery"])
    found = of_app(cli, shop)
    assert (found["queues"]["level"], found["queues"]["found"]) == (
        "slow", "no living worker with the plugin serves: docks (for ship)"
    )  # fmt: skip
    assert found["workers"]["found"] == "none has run a durable task yet; listening: 1 on here (celery)"
    a_worker(journal, "p2", role="sweeper", engine="rq", queues=["docks"])
    assert of_app(cli, shop)["queues"]["level"] == "slow", "a queue of RQ's is another, whatever its name"
    a_worker(journal, "p3", role="sweeper", engine="celery", queues=["docks", "mail"])
    assert of_app(cli, shop)["queues"]["found"] == "served: celery, docks"


@pytest.mark.parametrize("engine", ["celery", "rq"])
def test_a_queue_with_planned_steps_that_never_had_a_worker_of_ours_is_unsafe(cli: Cli, journal: Journal, engine: str) -> None:
    a_run(journal, a_step("ship", queue="docks"), a_step("label", queue="docks"), engine=engine)
    a_run(journal, a_step("mail", queue="mail", kind=Kind.UNMARKED), engine=engine)
    a_worker(journal, "s1", role="sweeper", engine=engine, queues=[])
    told = checks(cli.json("doctor", code=1))["planned_queues"]
    assert (told["level"], told["found"]) == (
        "unsafe",
        "planned steps wait on queues where no worker with the plugin has ever listened: "
        f"docks (2 steps on {engine}, such as label). A worker without the plugin that takes them runs them unrecorded",
    )
    assert "workers are rolled out before producers" in told["cure"]
    other = {"celery": "rq", "rq": "celery"}[engine]
    a_worker(journal, "p1", role="sweeper", engine=other, queues=["docks"])
    assert checks(cli.json("doctor", code=1))["planned_queues"]["level"] == "unsafe"
    a_worker(journal, "p2", role="sweeper", engine=engine, queues=["docks"])
    told = checks(cli.json("doctor"))["planned_queues"]
    assert (told["level"], told["found"]) == (
        "ok", f"workers with the plugin listen where planned steps wait: docks (2 steps on {engine}, such as label)"
    )  # fmt: skip
    journal.workers.stop("p2")
    told = checks(cli.json("doctor", code=1))["idle_queues"]
    assert (told["level"], "where no living worker with the plugin listens: docks" in told["found"]) == ("slow", True)


@on_sqlite
def test_what_workers_without_the_plugin_ran_is_told_with_their_queues(cli: Cli, journal: Journal) -> None:
    adopted = a_run(journal, a_step("ship", queue="docks"), a_step("label", queue="docks"))
    doubtful = a_run(journal, a_step("charge", queue="tills"))
    others = a_run(journal, a_step("charge", queue="theirs"), namespace="other")
    assert "ran_elsewhere" not in checks(cli.json("doctor"))
    for ref, key in ((adopted, "ship"), (others, "charge")):
        assert journal.verdicts.happened(
            the(journal, ref, key), ONE, who="result store", why="so", send=False, cause=Cause.RAN_ELSEWHERE
        ).recorded
    assert journal.doubts.raise_doubt(the(journal, doubtful, "charge"), None, "so", cause=Cause.RAN_ELSEWHERE, over=True)
    told = checks(cli.json("doctor", code=1))["ran_elsewhere"]
    assert told["level"] == "unsafe"
    assert "workers without the plugin ran 2 durable steps in the last 7 days, such as ship, on docks, tills" in told["found"]


@on_sqlite
def test_what_began_plain_is_counted_with_its_tasks(cli: Cli, journal: Journal) -> None:
    journal.events.note(Event.RAN_PLAIN, who="w1", why="so", name="shop.charge", namespace="default")
    journal.events.note(Event.RAN_PLAIN, who="w1", why="so", name="shop.theirs", namespace="other")
    told = checks(cli.json("doctor"))["ran_plain"]
    assert (told["level"], told["found"].startswith("1 message of shop.charge began before")) == ("note", True)


@on_sqlite
def test_a_worker_that_does_not_say_what_it_serves_may_serve_any_queue(cli: Cli, journal: Journal) -> None:
    a_run(journal, a_step("ship", queue="docks"))
    a_worker(journal, "w2", queues=[])
    assert checks(cli.json("doctor"))["planned_queues"]["level"] == "ok"


@on_sqlite
def test_errbacks_under_a_hard_time_limit_are_named(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(task_time_limit=60)
    charge, mail = shop.app.tasks["charge"], shop.app.tasks["mail"]
    assert "errbacks" not in of_app(cli, shop)
    charge.apply_async(("42",), link_error=mail.s())
    found = of_app(cli, shop)["errbacks"]
    assert "these tasks have a hard time limit, and an errback or on_failure: charge." in found["found"]


@on_sqlite
def test_a_task_that_is_not_hooked_is_unsafe(cli: Cli, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop.binding, "unhooked", lambda: ["charge"])
    found = of_app(cli, shop)["hooks"]
    assert (found["level"], found["found"]) == ("unsafe", "these tasks are marked, and not hooked: charge")


@on_sqlite
def test_an_app_without_the_plugin_is_looked_at_all_the_same(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(install=False)
    found = of_app(cli, shop)
    assert found["installed"]["level"] == "unsafe"
    assert "nothing of it is durable" in found["installed"]["found"]


@on_sqlite
def test_mode_off_is_told(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(options={"mode": "off"})
    assert of_app(cli, shop)["installed"]["found"] == "installed with mode off: no new start is made durable"


@on_sqlite
def test_patches_lists_every_place(cli: Cli, shop: Shop) -> None:
    told = cli.json("-A", shop.name, "doctor", "--patches")
    assert told["patches"] == [{"where": p.where, "why": p.why} for p in shop.binding.patches]
    assert {"app.send_task", "app.AsyncResult"} <= {p["where"] for p in told["patches"]}
    assert "Patched\n  app.send_task\n" in cli("-A", shop.name, "doctor", "--patches").stdout
    assert "name the Celery app with -A, or RQ with -u or -c" in cli("doctor", "--patches", code=2).stderr


@on_sqlite
def test_the_text_names_level_check_and_cure(cli: Cli) -> None:
    text = cli("doctor", code=0).stdout
    assert f"OK      revision: {REVISION}, as" in text
    assert "NOTE    sqlite: the journal is a file" in text
    assert "        hint: for several hosts, or many workers, use PostgreSQL" in text
    assert "\nSettings\nname " in text


def test_levels_are_part_of_the_interface() -> None:
    assert [level.value for level in Level] == ["ok", "note", "slow", "unsafe", "failed"]
    assert replace(Check("x", Level.OK, "y"), cure="z").shown() == {"check": "x", "level": "ok", "found": "y", "cure": "z"}
