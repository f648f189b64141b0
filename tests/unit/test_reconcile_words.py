"""Times, spans, amounts and commands, as people and shells read them."""

from __future__ import annotations

import shlex
from decimal import Decimal

import pytest

from durable_adapter.cli.options import When, moment, read_span
from durable_adapter.model import SECOND, Kind, Mode, Shape, StepRow, StepStatus, WorkerRow, WorkflowRow, WorkflowStatus
from durable_adapter.reconcile import MEANING, Finding, Trouble, at_stake, words
from durable_adapter.reconcile.commands import Caller, step_word, workflow_word


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "less than 1 ms"), (0, "less than 1 ms"), (0.0004, "less than 1 ms"), (0.0126, "13 ms"), (1.26, "1.3 s"),
        (42, "42 s"), (60, "1 min"), (61, "1 min 1 s"), (15 * 60 + 9, "15 min"),
        (3600, "1 h"), (8040, "2 h 14 min"), (11 * 3600 + 60, "11 h"),
        (86400, "1 d"), (3 * 86400 + 7200, "3 d 2 h"), (400 * 86400, "400 d"),
    ],
)  # fmt: skip
def test_a_span_is_told_in_at_most_two_units(seconds: float, text: str):
    assert words.span(int(seconds * SECOND)) == text


def test_a_moment_is_told_with_how_long_ago_or_ahead_it_is():
    at = 1_763_881_869 * SECOND
    assert words.since(at, at + 90 * SECOND) == "2025-11-23 07:11:09 UTC (1 min 30 s ago)"
    assert words.since(at, at - 90 * SECOND) == "2025-11-23 07:11:09 UTC (in 1 min 30 s)"
    assert words.since(None, at) == "an unknown time"
    assert words.iso(at + 5) == "2025-11-23T07:11:09.000005+00:00"
    assert words.iso(None) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("15m", 900), ("15 min", 900), ("2h", 7200), ("1.5h", 5400), ("7d", 604800), ("1W", 604800)],
)
def test_a_span_is_read(text: str, seconds: int):
    assert read_span(text) == seconds * SECOND


@pytest.mark.parametrize("text", ["", "2", "h", "2 fortnights", "-2h", "2h30m"])
def test_what_is_no_span_is_none(text: str):
    assert read_span(text) is None


def test_a_moment_is_read_as_utc_unless_it_says_otherwise():
    assert moment("2025-11-23T07:11:09") == moment("2025-11-23T08:11:09+01:00") == When(at=1_763_881_869 * SECOND)
    assert moment("2025-11-23") == When(at=1_763_856_000 * SECOND)
    assert moment("2h").on(10_000 * SECOND) == 2_800 * SECOND


def a_process(**given: object) -> WorkerRow:
    row = {
        "id": "a" * 32, "role": "worker", "parent": None, "host": "web-7", "pid": 4711, "engine": "celery", "queues": [],
        "code_version": None, "beats": 1, "beat_at": 50 * SECOND, "previous_beat_at": 0, "running": [], "previously_running": [],
        "started_at": 0,
    }  # fmt: skip
    return WorkerRow(**{**row, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "it lives: its last beat was 10 s ago"),
        ({"dead_at": 0, "death": "parent_saw"}, "its parent saw it die at 1970-01-01 00:00:00 UTC"),
        ({"dead_at": 0, "death": "stood_still"}, "it stopped beating and was declared dead at 1970-01-01 00:00:00 UTC"),
        ({"stopped_at": 0}, "it stopped at 1970-01-01 00:00:00 UTC"),
    ],
)
def test_the_fate_of_a_process(given: dict[str, object], told: str):
    assert words.fate(a_process(**given), 60 * SECOND, 60 * SECOND) == told


def test_a_process_is_named_by_host_and_pid_also_inside_a_recorded_reason():
    row = a_process()
    assert words.process(row, row.id) == "web-7 (pid 4711)"
    assert words.process(None, "b" * 32) == "process bbbbbbbb"
    assert words.process(None, None) == "a process that is not recorded"
    assert words.fate(None, 0, 0) == "its row is gone from the journal"
    reason = f"its worker {'a' * 32} died; {'b' * 32} lives"
    assert words.with_places(reason, {row.id: row}) == f"its worker web-7 (pid 4711) died; {'b' * 32} lives"


def a_finding(ref: str, amount: str | None) -> Finding:
    return Finding(Trouble.HELD, ref, ref, "order", None, None, 0, "certain", amount=amount)


def test_what_is_at_stake_is_exact_and_counts_each_run_once():
    found = [a_finding("a", "0.10"), a_finding("a", "0.10"), a_finding("b", "0.20"), a_finding("c", None)]
    assert at_stake(found) == Decimal("0.30")
    assert at_stake([a_finding("a", None)]) is None
    assert at_stake([a_finding("a", "NaN"), a_finding("b", "many")]) is None


def test_every_kind_has_a_meaning():
    assert set(MEANING) == set(Trouble)


def a_run(**given: object) -> WorkflowRow:
    row = {
        "ref": "f" * 32, "namespace": "default", "id": "order-42", "run": 1, "name": "order", "shape": Shape.CANVAS,
        "engine": "celery", "mode": Mode.ENFORCE, "status": WorkflowStatus.RUNNING, "declared": True,
    }  # fmt: skip
    return WorkflowRow(**{**row, **given})  # type: ignore[arg-type]


def test_commands_name_a_run_by_its_id_only_where_that_names_it():
    assert workflow_word(a_run()) == "order-42"
    assert workflow_word(a_run(declared=False)) == "f" * 32
    assert workflow_word(a_run(run=2)) == "f" * 32
    assert workflow_word(a_run(id="https://shop/o/42")) == "https://shop/o/42"
    assert workflow_word(a_run(id="https://shop:s3@x/o?token=abc")) == "f" * 32, "it would be masked, and name nothing"


def test_commands_name_a_step_by_its_name_only_where_that_names_it():
    first, second = (
        StepRow(ref="r", key=key, position=0, name="charge", kind=Kind.STEP, status=StepStatus.HELD)
        for key in ("charge#1", "charge#2")
    )
    assert step_word(first, [first]) == "charge"
    assert step_word(first, [first, second]) == "charge#1"


def test_commands_are_safe_to_paste_and_decide_nothing():
    command = Caller("durable-adapter -A shop", frozenset({"celery"})).change(
        "resolve", "--failed", ids=["order 42; rm -rf /", "-it's gone"]
    )
    words_ = shlex.split(command)
    assert words_ == [
        "durable-adapter", "-A", "shop", "resolve", "--failed", "--by", "$(id -un)", "--why", "how you know",
        "--", "order 42; rm -rf /", "-it's gone",
    ]  # fmt: skip


def test_a_command_that_needs_the_app_says_so_where_none_was_named():
    assert Caller().command("sweep", "--once", sends=["celery"]) == "durable-adapter -A APP sweep --once"
    assert (
        Caller("celery -A shop durable", frozenset({"celery"})).command("sweep", sends=["celery"])
        == "celery -A shop durable sweep"
    )


def test_what_runs_inline_is_swept_by_its_own_program():
    caller = Caller("durable-adapter -A shop", frozenset({"celery"}))
    assert caller.sweep("--for", "120", engines=["inline"]) == "durable_adapter.inline.work(120)"
    assert caller.sweep("--once", engines=["inline"]) == "durable_adapter.inline.work()"
    assert caller.sweep("--once", engines=["inline", "celery"]) == "durable-adapter -A shop sweep --once"
    assert caller.sweep(engines=["rq"]) == "durable-adapter -A shop -u REDIS_URL sweep"
