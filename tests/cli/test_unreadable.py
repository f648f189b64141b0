"""A row that cannot be read stops itself: no sweep, no report, no worker and no other workflow (P11). On each dialect."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.declare.policy import StepPolicy
from durable_adapter.errors import Deferred, UnreadableRow
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import step, worker, workflow
from durable_adapter.model import SECOND, Kind, Safety, Shape, StepStatus, Stored, attempt_name
from durable_adapter.recovery import Sweeper
from durable_adapter.runtime.calls import Call
from durable_adapter.runtime.functions import run_function
from durable_adapter.runtime.host import Host
from durable_adapter.runtime.steps import run_step
from tests.cli.conftest import Cli
from tests.journal.making import a_run, a_step, a_worker, change, claim, held, the, the_run
from tests.sweeper.conftest import NotingEngine

DAY = 86_400 * SECOND
DEEP = "[" * 200_000
#: What is written where, and how the report calls it.
DAMAGED: list[tuple[sa.Table, str, Any]] = [
    (step, "safety", "blessed"),
    (step, "status", "delegated"),
    (step, "kind", "wait"),
    (step, "effect", "perhaps"),
    (step, "options", "{"),
    (step, "options", "[1]"),
    (step, "options", DEEP),
    (step, "after", "7"),
    (workflow, "status", "paused"),
    (workflow, "shape", "tree"),
    (workflow, "mode", "share"),
    (workflow, "attributes", "not JSON"),
    (workflow, "attributes", DEEP),
]
#: SQLite keeps any value in any column.
ON_SQLITE: list[tuple[sa.Table, str, Any]] = [
    (step, "takeovers", "many"),
    (step, "attempt", 1.5),
    (step, "created_at", "yesterday"),
    (workflow, "resends", "often"),
    (workflow, "open_steps", b"\x00"),
]


def damage(journal: Journal, ref: str, table: sa.Table, column: str, value: Any) -> None:
    untyped = sa.update(table).where(table.c.ref == ref).values({sa.literal_column(column): sa.literal(value)})
    journal.db.transaction(lambda conn: conn.execute(untyped))


@pytest.fixture
def damaged(journal: Journal) -> dict[str, str]:
    """Overdue runs of which one column each holds what this release cannot read: the column, by reference."""
    found: dict[str, str] = {}
    for table, column, value in [*DAMAGED, *(ON_SQLITE if journal.db.is_sqlite else [])]:
        ref = a_run(journal, a_step("charge", queue="celery"), a_step("ship", queue="celery"))
        damage(journal, ref, table, column, value)
        change(journal, ref, next_check_at=1)
        found[ref] = column
    return found


def raw(journal: Journal, ref: str) -> list[tuple[Any, ...]]:
    """The rows of a run as they are."""
    rows: list[tuple[Any, ...]] = []
    for table in (workflow, step):
        columns = [sa.type_coerce(c, sa.types.NullType()) for c in table.c]
        rows += map(tuple, journal.db.select(sa.select(*columns).where(table.c.ref == ref)))
    return rows


def test_a_sweep_leaves_them_as_they_are_and_looks_after_the_others(
    journal: Journal, damaged: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    healthy = [a_run(journal, a_step(f"ship-{n}", queue="celery", safety=Safety.IDEMPOTENT)) for n in range(2)]
    before = {ref: raw(journal, ref) for ref in damaged}
    engine = NotingEngine()
    sweeper = Sweeper(journal, [engine], stale=60)
    for _ in range(3):
        report = sweeper.sweep(journal.time() + DAY)
        assert report.errors == []
    assert set(engine.sent) >= {"ship-0", "ship-1"}
    assert [the_run(journal, ref).resends for ref in healthy] == [1, 1]
    assert {ref: raw(journal, ref) for ref in damaged} == before
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("row_unreadable ")]
    assert len(told) == len(damaged), "each is told once"
    for ref, column in damaged.items():
        (line,) = [line for line in told if ref in line]
        assert column in line


def test_more_of_them_than_a_sweep_takes_do_not_keep_it_from_the_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from durable_adapter.recovery import sweeper as module

    monkeypatch.setattr(module, "BATCH", 2)
    for _ in range(5):
        ref = a_run(journal, a_step("charge", queue="celery"))
        damage(journal, ref, workflow, "status", "paused")
        change(journal, ref, next_check_at=1)
    a_run(journal, a_step("ship", queue="celery", safety=Safety.IDEMPOTENT))
    engine = NotingEngine()
    sweeper = Sweeper(journal, [engine], stale=60)
    for _ in range(4):
        sweeper.sweep(journal.time() + DAY)
    assert engine.sent == ["ship"]


def test_one_in_the_hands_of_a_dead_worker_keeps_no_death_from_being_followed_up(journal: Journal) -> None:
    a_worker(journal, "child", parent="p", pid=7)
    broken, ref = a_run(journal, "charge"), a_run(journal, "charge")
    for run in (broken, ref):
        claim(journal, run, "charge", worker="child")
    damage(journal, broken, step, "safety", "blessed")
    journal.workers.child_died("p", 7, "signal 9")
    Sweeper(journal, [NotingEngine()], stale=60).sweep(journal.time() + SECOND)
    assert the(journal, ref, "charge").status is StepStatus.HELD


@pytest.mark.parametrize("column", ["running", "queues"])
def test_a_worker_s_row_that_cannot_be_read_is_nobody_s_death_and_stops_no_sweep(journal: Journal, column: str) -> None:
    a_worker(journal, "odd")
    ref = a_run(journal, a_step("ship", queue="celery", safety=Safety.IDEMPOTENT))
    here = sa.update(worker).where(worker.c.id == "odd").values({column: "{" if column == "queues" else '["x"]'})
    journal.db.transaction(lambda conn: conn.execute(here))
    engine = NotingEngine()
    assert Sweeper(journal, [engine], stale=60).sweep(journal.time() + DAY).errors == []
    assert engine.sent == ["ship"]
    assert the_run(journal, ref).resends == 1
    assert "odd" not in {row.id for row in journal.workers.alive()}
    assert journal.reads.ever_listened("default")


def test_reports_name_them_and_tell_of_all_the_others(cli: Cli, journal: Journal, damaged: dict[str, str]) -> None:
    other = a_run(journal, "charge", id="order-7", declared=True)
    held(journal, other, "charge")
    findings = cli.json("reconcile", code=1)["findings"]
    unreadable = {f["ref"]: f["certain"] for f in findings if f["kind"] == "unreadable"}
    assert unreadable.keys() == damaged.keys()
    assert all(column in unreadable[ref] for ref, column in damaged.items())
    assert [f["ref"] for f in findings if f["kind"] == "held"] == [other]
    assert "unreadable" in cli("reconcile", code=1).stdout

    listed = cli.json("list", "--limit", "100", code=0)
    assert {row["ref"] for row in listed["unreadable"]} == damaged.keys()
    assert other in {row["ref"] for row in listed["workflows"]}

    checks = {check["check"]: check for check in cli.json("doctor")["checks"]}
    assert "cannot be read here" in checks["unreadable"]["found"]

    for ref, column in damaged.items():
        told = cli("explain", ref, code=2)
        assert "cannot be read here" in told.stderr
        assert column in told.stderr


def test_a_worker_leaves_a_call_alone_of_which_it_cannot_read_the_row(journal: Journal) -> None:
    host = Host(journal, NotingEngine())  # type: ignore[arg-type]
    ran: list[str] = []
    ref = a_run(journal, a_step("charge", status=StepStatus.PLANNED))
    claim(journal, ref, "charge")
    damage(journal, ref, step, "safety", "blessed")
    function = a_run(journal, a_step("function", kind=Kind.FUNCTION), shape=Shape.FUNCTION)
    damage(journal, function, step, "options", "{")

    def call(ref: str, key: str, kind: Kind) -> Call:
        return Call(
            ref=ref, key=key, name=key, policy=StepPolicy(), kind=kind, args=(), kwargs={}, body=lambda _: ran.append(key),
            completes_run=True, again=True,
        )  # fmt: skip

    try:
        with pytest.raises(Deferred, match="cannot be read here"):
            run_step(host, call(ref, "charge", Kind.STEP))
        with pytest.raises(Deferred, match="cannot be read here"):
            run_function(host, call(function, "function", Kind.FUNCTION))
    finally:
        host.stop()
    assert ran == []
    with pytest.raises(UnreadableRow):
        journal.reads.run(ref) and journal.reads.steps(ref)


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("levels", [150, 900, 100_000])
def test_a_value_that_is_nested_deeply_is_told_as_such(cli: Cli, journal: Journal, levels: int) -> None:
    ref = a_run(journal, "charge", id="order-42", declared=True)
    deep = Stored("json/1", b"[" * levels + b"]" * levels)
    assert journal.ends.succeed(ref, "charge", claim(journal, ref, "charge"), deep, completes_run=True)
    for words in ((), ("--show-values",), ("--json",), ("--json", "--show-values")):
        assert "levels deep" in cli("explain", "order-42", *words, code=0).stdout


def test_an_attempt_s_name_that_makes_no_sense_is_not_read() -> None:
    assert attempt_name("ref", "key", None).count(" ") == 2, "what a worker's row is checked for"
