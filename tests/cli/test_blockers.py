"""What keeps everything from moving is said first by every report: nobody sweeps, a queue that no living worker serves."""

from __future__ import annotations

from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.schema import worker
from durable_adapter.model import SECOND, WorkflowStatus
from tests.cli.conftest import Cli
from tests.journal.making import MINUTE, a_run, a_step, a_worker, age, change_worker, claim, held, the_run

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
REPORTS = {"reconcile": ("reconcile",), "list": ("list",), "explain": ("explain", "order-42")}


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_nobody_who_sweeps_is_said_first(cli: Cli, journal: Journal) -> None:
    held(journal, a_run(journal, "charge"), "charge")
    told = cli("reconcile", code=1).stdout
    assert told.startswith(
        "NOBODY SWEEPS  celery\n"
        "  certain    Nobody sweeps: no sweeper is known. Timers, deaths, doubt and lost messages wait.\n"
        "  mend       start a worker, or run this:\n"
        "             durable-adapter -A APP sweep\n"
    )
    assert "2 findings in 1 workflow\n       1  nobody sweeps: no sweeper is alive" in told
    first, second = cli.json("reconcile", code=1)["findings"]
    assert (first["kind"], first["workflow"], first["ref"], first["command"]) == (
        "nobody_sweeps", None, None, "durable-adapter -A APP sweep"
    )  # fmt: skip
    assert second["kind"] == "held"
    a_worker(journal, "s1", role="sweeper")
    assert "NOBODY SWEEPS" not in cli("reconcile", code=1).stdout


@on_sqlite
@pytest.mark.usefixtures("unswept")
def test_nobody_sweeps_is_a_finding_where_nothing_is_unfinished_too(cli: Cli, journal: Journal) -> None:
    assert [f["kind"] for f in cli.json("reconcile", code=1)["findings"]] == ["nobody_sweeps"]
    assert cli("list", code=0).stderr.startswith("Nobody sweeps: no sweeper is known.")
    a_worker(journal, "s1", role="sweeper", engine="rq")
    assert cli("reconcile", code=0).stdout.startswith("Nothing is wrong"), "no Celery is in use"
    assert cli("list", code=0).stderr == ""


@on_sqlite
@pytest.mark.usefixtures("unswept")
def test_other_kinds_alone_may_be_asked_for_and_it_is_said_first_all_the_same(cli: Cli) -> None:
    told = cli("reconcile", "--kind", "held", code=0)
    assert told.stderr.startswith("Nobody sweeps: no sweeper is known.")
    assert cli.json("reconcile", "--kind", "held", code=0)["findings"] == []
    assert len(cli.json("reconcile", "--kind", "nobody-sweeps", "--since", "1h", code=1)["findings"]) == 1


def on_queue(journal: Journal, queue: str, by: int = 2 * MINUTE, **given: Any) -> str:
    """A run whose only step has waited on a queue for a while."""
    ref = a_run(journal, a_step("ship", queue=queue), **given)
    age(journal, ref, "ship", "created_at", by=by)
    return ref


def test_a_queue_that_no_living_worker_serves_is_said_first(cli: Cli, journal: Journal) -> None:
    for number in range(2):
        on_queue(journal, "docks", id=f"order-{number}", declared=True)
    found = cli.findings()["unserved_queue"]
    assert found["certain"] == (
        "No living worker with the plugin serves the queue 'docks' of Celery. Addressed to it: 2 unfinished steps of 2 "
        "workflows, such as ship of order-0."
    )
    assert found["uncertain"] == "whether a worker without the plugin takes them, and runs them unrecorded"
    assert (found["name"], found["workflow"], found["command"]) == ("docks", None, "celery -A APP worker -Q docks")
    assert cli.json("explain", "order-1", code=1)["findings"][0]["kind"] == "unserved_queue"
    for words in (("list",), ("explain", "order-1")):
        assert cli(*words).stderr.startswith("No living worker with the plugin serves the queue 'docks' of Celery.")
    a_worker(journal, "w2", queues=["docks"], namespace="elsewhere")
    assert "unserved_queue" in cli.findings()
    a_worker(journal, "w3", queues=["docks"])
    assert cli.findings() == {}
    change_worker(journal, "w3", beat_at=worker.c.beat_at - 300 * SECOND)
    assert "unserved_queue" in cli.findings(), "it has not beaten for long"


@on_sqlite
def test_a_step_that_has_just_been_sent_waits_for_a_worker_that_may_be_starting(cli: Cli, journal: Journal) -> None:
    on_queue(journal, "docks", by=0)
    assert cli.findings() == {}
    on_queue(journal, "parcels", engine="rq")
    found = cli.findings()["unserved_queue"]
    assert found["command"] == "rq worker -w durable_adapter.rq.Worker -u REDIS_URL parcels"
    assert "of RQ." in found["certain"]


@on_sqlite
def test_the_queue_of_a_step_that_is_over_or_runs_needs_nobody(cli: Cli, journal: Journal) -> None:
    ref = on_queue(journal, "docks")
    claim(journal, ref, "ship")
    assert cli.findings() == {}
    ended = on_queue(journal, "docks")
    assert journal.runs.cancel(ended, who="ann", why="a test order") == []
    assert cli.findings() == {}


@pytest.mark.usefixtures("unswept")
@pytest.mark.parametrize("command", REPORTS)
@pytest.mark.parametrize("end", ["stopped", "declared dead", "silent"])
def test_since_when_nobody_sweeps_is_said_by_every_report(cli: Cli, journal: Journal, command: str, end: str) -> None:
    ref = a_run(journal, "charge", id="order-42", declared=True)
    a_worker(journal, "s1", role="sweeper")
    words = REPORTS[command]
    assert "Nobody sweeps" not in cli(*words).stderr
    if end == "stopped":
        journal.workers.stop("s1")
    elif end == "declared dead":
        assert journal.workers.stood_still("s1", 0, "it stood still")
    change_worker(journal, "s1", beat_at=worker.c.beat_at - 300 * SECOND)
    told = cli(*words).stderr
    if command == "reconcile":
        told = " ".join(cli(*words, code=1).stdout.split())
        assert told.startswith("NOBODY SWEEPS celery since 20")
    else:
        assert told.startswith("Nobody sweeps: the last beat of a sweeper was at 20")
        assert "Start a worker, or run this: `durable-adapter -A APP sweep`." in told
    assert "Nobody sweeps: the last beat of a sweeper was at 20" in told
    assert " UTC (5 min " in told
    (found,) = [f for f in cli.json(*words)["findings"] if f["kind"] == "nobody_sweeps"]
    assert found["since"] is not None
    (idle,) = cli.json(*words)["unswept"]
    assert idle["engine"] == "celery"
    assert idle["last_beat_at"] is not None
    assert the_run(journal, ref).status is WorkflowStatus.RUNNING


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_a_sweeper_of_another_namespace_sweeps_nothing_here(cli: Cli, journal: Journal) -> None:
    a_run(journal, "charge")
    a_worker(journal, "s1", role="sweeper", namespace="elsewhere")
    assert cli.findings()["nobody_sweeps"]["certain"].startswith("Nobody sweeps: no sweeper is known.")


@pytest.mark.usefixtures("unswept")
@on_sqlite
def test_nothing_is_said_to_be_right_while_nobody_sweeps_and_the_next_look_is_told(cli: Cli, journal: Journal) -> None:
    a_run(journal, "charge", id="order-42", declared=True)
    assert "Nothing is wrong" not in cli("reconcile", code=1).stdout
    explained = " ".join(cli("explain", "order-42", code=1).stdout.split())
    assert "the next look at it is due 20" in explained
    assert "), and nobody sweeps" in explained
    a_worker(journal, "s1", role="sweeper")
    assert "Nothing is wrong: 1 unfinished workflow looked at. The next look" in cli("reconcile", code=0).stdout
    assert "nobody sweeps" not in cli("explain", "order-42", code=0).stdout
