"""The explorer in small: its schedules end as promised, a seed replays one exactly, and what is wrong does not escape it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_adapter.journal.claims import Claim, Claims
from durable_adapter.journal.doubts import Doubts
from durable_adapter.journal.ends import Ends
from durable_adapter.model import Kind, Safety, StepStatus
from tests.explorer.explore import main, play, told
from tests.explorer.invariants import judge
from tests.explorer.scenario import Author
from tests.explorer.schedule import Schedule
from tests.explorer.stage import Stage

#: 200 schedules, spread over the test processes.
EACH = 25
SEEDS = range(0, 8 * EACH, EACH)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One journal on SQLite for the schedules of this module."""
    with Stage() as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_random_schedules_end_as_promised(stage: Stage, seed: int):
    outcomes = [play(stage, number) for number in range(seed, seed + EACH)]
    failed = [outcome for outcome in outcomes if outcome.problems]
    assert not failed, "\n".join(told(outcome, "sqlite") for outcome in failed[:1])


def test_a_seed_replays_a_schedule_exactly(stage: Stage):
    first, again = (Schedule(stage, 7, trace=True).play() for _ in range(2))
    with Stage() as another:
        elsewhere = Schedule(another, 7, trace=True).play()
    assert len(first.trace) > 50
    assert first.trace == again.trace == elsewhere.trace


def test_the_trace_says_who_did_what_at_which_switch_point(stage: Stage):
    outcome = Schedule(stage, 7, trace=True).play()
    text = told(outcome, "sqlite")
    assert 'replay: make explore ARGS="--dialect sqlite --seed 7 --schedules 1 --trace"' in text
    assert "BEGINS attempt 1" in text
    assert "before claims." in text


class Forgetful(Schedule):
    """A bank that always says that nothing happened."""

    def happened(self, name: str) -> bool:
        return False


def test_an_effect_that_is_repeated_because_a_probe_lied_is_found(stage: Stage):
    for seed in range(200):
        problems = Forgetful(stage, seed).play().problems
        if any("(probe" in problem and "happened 2 times" in problem for problem in problems):
            return
    pytest.fail("none of 200 schedules found it")


class KeyedChains(Author):
    """Chains of idempotent steps alone."""

    safeties = (Safety.IDEMPOTENT,)
    functions = 0.0


class GivenUp(Schedule):
    """Chains of idempotent steps, which people roll back and cancel."""

    author = KeyedChains
    commands = ("rollback", "cancel")


@pytest.fixture
def unclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim of the first attempt at an idempotent member is put off until the attempt has ended."""
    put_off: dict[Any, Callable[[], Any]] = {}
    begin = Claims.begin

    def begins(self: Any, ref: str, key: str, token: str, *args: Any, **given: Any) -> Any:
        row = self.get(ref, key)
        if row is None or row.status is not StepStatus.PLANNED or (row.safety, row.kind) != (Safety.IDEMPOTENT, Kind.STEP):
            return begin(self, ref, key, token, *args, **given)
        put_off[token] = lambda: begin(self, ref, key, token, *args, **given)
        return Claim(held=True)

    def behind_the_claim(end: Any) -> Any:
        def ends(self: Any, *args: Any, **given: Any) -> Any:
            for claim in [put_off.pop(arg) for arg in args if isinstance(arg, str) and arg in put_off]:
                claim()
            return end(self, *args, **given)

        return ends

    monkeypatch.setattr(Claims, "begin", begins)
    for room, name in ((Ends, "succeed"), (Ends, "fail"), (Ends, "try_again"), (Doubts, "raise_doubt")):
        monkeypatch.setattr(room, name, behind_the_claim(getattr(room, name)))


def lost_effects(stage: Stage) -> list[str]:
    """Effects of steps that are called cancelled, which says that they never ran, in schedules where runs are given up."""
    for seed in range(200):
        problems = GivenUp(stage, seed).play().problems
        assert not any("TypeError" in problem for problem in problems), problems
        found = [p for p in problems if "cancelled" in p and "neither recorded nor shown" in p]
        if found:
            return found
    return []


@pytest.mark.usefixtures("unclaimed")
def test_an_attempt_that_takes_no_claim_and_is_called_cancelled_is_found(stage: Stage):
    assert lost_effects(stage)


def test_an_attempt_that_takes_a_claim_is_never_called_cancelled(stage: Stage):
    assert not lost_effects(stage)


def played(stage: Stage, *, status: str, safety: str | None = None, lines: bool | None = None) -> tuple[Schedule, str, str]:
    """A schedule that went well, whose first run has a status and a succeeded step; the run and the step's key."""
    for seed in range(1_000, 1_400):
        schedule = Schedule(stage, seed)
        if (lines is not None and bool(schedule.workflows[0].lines) is not lines) or schedule.play().problems:
            continue
        found = stage.rows(
            "SELECT s.ref, s.key, s.safety FROM durable_step s JOIN durable_workflow w ON w.ref = s.ref "
            f"WHERE w.status = '{status}' AND s.status = 'succeeded' AND s.kind = 'step' ORDER BY s.position"
        )
        rows = [row for row in found if safety in (None, row[2])]
        if rows and not schedule.verdicts:
            return schedule, rows[0][0], rows[0][1]
    pytest.fail("no schedule of 400 ended so")


STEP = "WHERE ref = '{ref}' AND durable_step.key = '{key}'"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (f"UPDATE durable_step SET status = 'cancelled' {STEP}", "neither recorded nor shown"),
        (f"UPDATE durable_step SET status = 'begun' {STEP}", "with the open step"),
        (f"DELETE FROM durable_step {STEP}", "the journal has no row of it"),
        ("UPDATE durable_workflow SET status = 'running', next_check_at = NULL WHERE ref = '{ref}'", "nothing goes on"),
        ("UPDATE durable_workflow SET status = 'compensated' WHERE ref = '{ref}'", None),
    ],
)
def test_a_journal_that_does_not_fit_the_bank_is_found(stage: Stage, change: str, says: str | None):
    schedule, ref, key = played(stage, status="succeeded", safety="idempotent", lines=False)
    assert judge(schedule) == []
    stage.rows_changed(change.format(ref=ref, key=key))
    undoable = stage.rows(f"SELECT 1 FROM durable_step WHERE ref = '{ref}' AND compensation IS NOT NULL")
    if says is not None:
        assert any(says in problem for problem in judge(schedule))
    else:
        assert any("not undone and not shown" in problem for problem in judge(schedule)) is bool(undoable)


def test_an_effect_that_the_bank_never_saw_is_found(stage: Stage):
    schedule, _, _ = played(stage, status="succeeded", safety="idempotent")
    schedule.bank.attempts.clear()
    assert any("is recorded, and never happened" in problem for problem in judge(schedule))


def test_a_transaction_that_is_recorded_and_left_nothing_is_found(stage: Stage):
    schedule, _, _ = played(stage, status="succeeded", safety="transactional")
    stage.rows_changed("DELETE FROM explorer_effect")
    assert any("(transactional" in problem and "never happened" in problem for problem in judge(schedule))


def test_a_mark_of_twice_that_went_without_a_person_is_found(stage: Stage):
    schedule, ref, key = played(stage, status="succeeded")
    schedule.twice.add((ref, key))
    assert any("was marked as twice" in problem for problem in judge(schedule))


def test_the_exit_code_is_the_verdict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    given = ["--dialect", "sqlite", "--schedules", "2", "--seed", "7", "--jobs", "1"]
    assert main(given) == 0
    assert "explored 2 schedules on sqlite, 0 failed, seed 7" in capsys.readouterr().out
    monkeypatch.setattr("tests.explorer.invariants.judge", lambda schedule: ["something"])
    assert main(given) == 1
    said = capsys.readouterr().out
    assert "2 failed, seed 7; failed: --dialect sqlite --seed 7 --schedules 1" in said
    assert "BEGINS attempt" in said
