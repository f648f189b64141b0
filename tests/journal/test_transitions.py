"""Random sequences of operations do to a run what a model in plain Python says, and every change they make is legal."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from durable_adapter.errors import IllegalTransition
from durable_adapter.journal import Journal, schema
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.transitions import Transitions, moving
from durable_adapter.model import (
    BORN,
    CLAIMABLE,
    LEGAL,
    OPEN_STEPS,
    UNSETTLED_STEPS,
    Cause,
    Effect,
    Kind,
    Safety,
    StepRow,
    StepStatus,
    Stored,
    WorkflowStatus,
    new_token,
)
from tests.journal.making import DECLINED, ONE, a_call, a_function, a_run, a_step, a_worker, claim, fail, succeed, the, the_run
from tests.journal.watching import every_change, illegal
from tests.servers.fixtures import FreshDatabase

S = StepStatus
DID_NOT = Effect.DID_NOT_HAPPEN
KEYS = ("charge", "pack", "ship")
SEQUENCES = 50
LENGTH = 25
#: What an argument of an operation may be; the token of the claim itself is the most interesting one.
ARGUMENTS: dict[str, list[Any]] = {
    "key": list(KEYS),
    "whose": ["the claim's", "the claim's", "the claim's", "an earlier one's", "nobody's"],
    "value": [1, 2],
    "known": [True, False],
    "happened": [True, False],
    "stale": [False, False, False, True],
    "keys": [set(), {"charge"}, {"pack", "ship"}, set(KEYS)],
}
#: Legal changes that these operations do not make; a test of their own makes each.
NOT_HERE = {
    "begun -> held",
    "cancelled -> planned",
    "cancelled -> waiting",
    "planned -> held",
    "planned -> waiting",
    "succeeded -> undone",
    "waiting -> held",
    "waiting -> in_doubt",
}
#: Every operation, and how often it is chosen: claims and doubts most often, or the sequences would soon be over.
WEIGHTS = {
    "begin": 8,
    "succeed": 2,
    "succeed_without_a_claim": 1,
    "late": 2,
    "fail": 1,
    "try_again": 3,
    "doubt": 6,
    "doubt_failed": 3,
    "hold": 5,
    "take_over": 2,
    "verdict": 4,
    "give_up": 1,
    "cancel": 1,
    "reopen": 3,
    "nobody_is_dead": 1,
}


@dataclass
class Step:
    """What the model knows of a step."""

    safety: Safety
    status: StepStatus = S.PLANNED
    token: str | None = None
    attempt: int = 0
    effect: Effect | None = None
    outcome: Stored | None = None
    earlier: list[str] = field(default_factory=list)

    def goes(self, to: StepStatus) -> None:
        assert self.status in LEGAL[to], f"the model goes from {self.status} to {to}"
        self.status = to


class Model:
    """A canvas without compensations: what may follow what, without a database."""

    def __init__(self) -> None:
        safeties = (Safety.PROTECTED, Safety.IDEMPOTENT, Safety.PROBE)
        self.steps = {key: Step(safety) for key, safety in zip(KEYS, safeties, strict=True)}
        self.run = WorkflowStatus.RUNNING
        self.open = 1

    def close_if_over(self) -> bool:
        """Whether the run goes forward; where it does not, what waits is closed."""
        if self.run is WorkflowStatus.RUNNING:
            return True
        for step in self.steps.values():
            if step.status in (S.PLANNED, S.WAITING):
                if step.status is S.WAITING and step.effect is Effect.UNKNOWN:
                    step.goes(S.FAILED)
                else:
                    step.goes(S.CANCELLED)
        return False

    def counts(self, key: str) -> None:
        if key == KEYS[-1]:
            if self.open == 1 and self.run is WorkflowStatus.RUNNING:
                self.run = WorkflowStatus.SUCCEEDED
            self.open -= 1


class Both:
    """Every method does one operation to the journal and to the model, and compares what they say."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.model = Model()
        rows = [a_step(key, safety=self.model.steps[key].safety, options={"counts": key == KEYS[-1]}) for key in KEYS]
        self.ref = a_run(self.journal, *rows)

    def row(self, key: str) -> StepRow:
        return the(self.journal, self.ref, key)

    def token(self, key: str, whose: str) -> str:
        step = self.model.steps[key]
        if whose == "the claim's" and step.token is not None:
            return step.token
        return step.earlier[0] if whose == "an earlier one's" and step.earlier else "nobody"

    def begin(self, key: str) -> None:
        step, token = self.model.steps[key], new_token()
        won = step.status in CLAIMABLE and (step.effect is not Effect.UNKNOWN or step.safety is Safety.IDEMPOTENT)
        assert self.journal.claims.begin(self.ref, key, token, "w1", safety=step.safety).held is won
        if won:
            step.goes(S.BEGUN)
            if step.token:
                step.earlier.append(step.token)
            step.token, step.attempt = token, step.attempt + 1
            step.effect = Effect.UNKNOWN if step.effect is Effect.UNKNOWN else None

    def succeed(self, key: str, whose: str, value: int) -> None:
        step, token, outcome = self.model.steps[key], self.token(key, whose), Stored("json/1", str(value).encode())
        mine = step.token == token
        ends = mine and step.status in UNSETTLED_STEPS
        said_before = mine and step.status is S.SUCCEEDED and step.outcome == outcome
        last = key == KEYS[-1]
        assert self.journal.ends.succeed(self.ref, key, token, outcome, completes_run=last) is (ends or said_before)
        if ends:
            step.goes(S.SUCCEEDED)
            step.outcome = outcome
            self.model.counts(key)

    def succeed_without_a_claim(self) -> None:
        key, token, outcome = "pack", new_token(), Stored("json/1", b"3")
        step = self.model.steps[key]
        first = step.status in OPEN_STEPS
        assert self.journal.ends.succeed_unclaimed(self.ref, key, token, "w1", outcome, completes_run=False) is first
        if first:
            step.goes(S.SUCCEEDED)
            if step.token:
                step.earlier.append(step.token)
            step.token, step.attempt, step.outcome = token, step.attempt + 1, outcome

    def late(self, key: str, whose: str) -> None:
        step, token, outcome = self.model.steps[key], self.token(key, whose), Stored("json/1", b"4")
        if step.status in UNSETTLED_STEPS:
            return  # it would be recorded, and is not late
        found = self.journal.ends.late(self.ref, key, token, outcome, "w1")
        assert found is not None
        failed = step.status is S.FAILED and self.model.run is not WorkflowStatus.RUNNING
        if failed or step.status in (S.CANCELLED, S.PLANNED, S.WAITING):
            counts = step.status in (S.PLANNED, S.WAITING)
            step.goes(S.SUCCEEDED)
            step.token, step.outcome = token, outcome
            if counts:
                self.model.counts(key)

    def fail(self, key: str, whose: str, known: bool) -> None:
        step, token = self.model.steps[key], self.token(key, whose)
        effect = DID_NOT if known else Effect.UNKNOWN
        ends = step.token == token and step.status in UNSETTLED_STEPS
        said_before = step.token == token and step.status is S.FAILED and self.row(key).error == DECLINED
        ended = self.journal.ends.fail(self.row(key), token, DECLINED, effect, fails_run=True)
        assert ended.recorded is (ends or said_before)
        if ends:
            step.goes(S.FAILED)
            step.effect = Effect.UNKNOWN if step.effect is Effect.UNKNOWN else effect
        if ended.recorded and self.model.run is WorkflowStatus.RUNNING:
            self.model.run = WorkflowStatus.FAILED
            self.model.close_if_over()

    def try_again(self, key: str, whose: str) -> None:
        step, token = self.model.steps[key], self.token(key, whose)
        row = self.row(key)
        ends = step.token == token and step.status in UNSETTLED_STEPS
        said_before = step.token == token and step.status is S.WAITING and row.error is None
        again = self.journal.ends.try_again(row, token, 0, None, "not done yet")
        if ends:
            step.goes(S.WAITING)
            step.effect = Effect.UNKNOWN if step.effect is Effect.UNKNOWN else None
            assert again is self.model.close_if_over()
        else:
            assert again is said_before

    def doubt(self, key: str) -> None:
        step, row = self.model.steps[key], self.row(key)
        token = step.token if step.status is not S.PLANNED else None
        if token is None and step.status is not S.PLANNED:
            return
        why = f"doubt {new_token()}"
        doubted = step.status is S.BEGUN or (step.status is S.PLANNED and row.token == step.token)
        assert self.journal.doubts.raise_doubt(row, token, why, cause=Cause.WORKER_DIED, over=True) is doubted
        if doubted:
            step.attempt += step.status is S.PLANNED
            step.goes(S.IN_DOUBT)

    def doubt_failed(self, key: str) -> None:
        step = self.model.steps[key]
        doubted = step.status is S.FAILED and step.effect is Effect.UNKNOWN
        assert self.journal.doubts.doubt_failed(self.row(key), f"wanted again {new_token()}") is doubted
        if doubted:
            step.goes(S.IN_DOUBT)

    def hold(self, key: str) -> None:
        step = self.model.steps[key]
        held = step.status is S.IN_DOUBT
        assert self.journal.doubts.hold(self.row(key), f"evidence {new_token()}") is held
        if held:
            step.goes(S.HELD)

    def take_over(self, key: str) -> None:
        step = self.model.steps[key]
        taken = step.status is S.IN_DOUBT
        over = self.journal.doubts.take_over(self.row(key), f"again {new_token()}")
        if taken:
            step.goes(S.WAITING)
            step.effect = Effect.UNKNOWN if step.safety is Safety.IDEMPOTENT else None
            assert over is self.model.close_if_over()
        else:
            assert not over

    def verdict(self, key: str, happened: bool, stale: bool) -> None:
        step, row = self.model.steps[key], self.row(key)
        if stale:
            row.token = "stale"
        decidable = step.status in (S.IN_DOUBT, S.HELD, S.FAILED) and not stale
        who = new_token()
        if happened:
            ended = self.journal.verdicts.happened(row, Stored("json/1", b"5"), who=who, why="seen")
        else:
            ended = self.journal.verdicts.did_not_happen(row, who=who, why="not seen")
        assert ended.recorded is decidable
        if not decidable:
            return
        failed = step.status is S.FAILED
        if happened:
            step.goes(S.SUCCEEDED)
            step.outcome, step.effect = Stored("json/1", b"5"), Effect.HAPPENED
            self.model.counts(key)
        else:
            step.effect = DID_NOT
            if not failed:
                step.goes(S.WAITING)
                self.model.close_if_over()

    def give_up(self, key: str) -> None:
        step, row = self.model.steps[key], self.row(key)
        ends = step.status in OPEN_STEPS - {S.BEGUN}
        error = new_token().encode()
        ended = self.journal.ends.fail(row, None, error, DID_NOT, fails_run=True, who="me", why="give it up")
        assert ended.recorded is ends
        if ends:
            step.goes(S.FAILED)
            step.effect = DID_NOT
            if self.model.run is WorkflowStatus.RUNNING:
                self.model.run = WorkflowStatus.FAILED
                self.model.close_if_over()

    def cancel(self) -> None:
        self.journal.runs.cancel(self.ref, who="me", why="wrong order")
        if self.model.run is WorkflowStatus.RUNNING:
            self.model.run = WorkflowStatus.CANCELLED
        self.model.close_if_over()

    def reopen(self, keys: set[str]) -> None:
        done = self.journal.runs.reopen(self.ref, sorted(keys), who="me", why="again", now=self.journal.time())
        assert done is (self.model.run is not WorkflowStatus.SUCCEEDED)
        if not done:
            return
        self.model.run = WorkflowStatus.RUNNING
        for name, step in self.model.steps.items():
            if name in keys and step.status is S.FAILED:
                step.goes(S.WAITING)
            elif step.status is S.CANCELLED:
                step.goes(S.PLANNED)
        if self.model.steps[KEYS[-1]].status is not S.SUCCEEDED:
            return
        if any(step.status is S.WAITING for step in self.model.steps.values()):
            self.model.open = 1
        else:
            self.model.run, self.model.open = WorkflowStatus.SUCCEEDED, 0
            self.model.close_if_over()

    def nobody_is_dead(self) -> None:
        assert self.journal.due.of_dead_workers(10) == []

    def compare(self) -> None:
        run = the_run(self.journal, self.ref)
        found: dict[str, Any] = {row.key: (row.status, row.token) for row in self.journal.reads.steps(self.ref)}
        assert found == {key: (step.status, step.token) for key, step in self.model.steps.items()}
        assert (run.status, run.open_steps) == (self.model.run, self.model.open)
        assert (run.next_check_at is None) is (run.status is not WorkflowStatus.RUNNING)


@pytest.fixture
def journal(dialect: Any, fresh_database: FreshDatabase) -> Iterator[Journal]:
    """A journal of this test's own: the triggers that watch it would be in the way of other tests."""
    found = Journal(fresh_database(dialect))
    migrate(found)
    a_worker(found)
    yield found
    found.close()


def test_random_sequences_of_operations_do_what_the_model_says_and_nothing_that_is_illegal(journal: Journal) -> None:
    chance = random.Random(42)
    with every_change(journal) as seen:
        for _ in range(SEQUENCES):
            both, done = Both(journal), []
            for name in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=LENGTH):
                operation = getattr(both, name)
                wanted = operation.__code__.co_varnames[1 : operation.__code__.co_argcount]
                given = {argument: chance.choice(ARGUMENTS[argument]) for argument in wanted}
                done.append(f"{name}({given})")
                try:
                    operation(**given)
                    both.compare()
                except AssertionError as error:
                    raise AssertionError("\n".join([str(error), *done])) from error
    assert illegal(seen) == []
    missing = {(old, new) for new, olds in LEGAL.items() for old in olds if old is not new} - seen
    assert {f"{old} -> {new}" for old, new in missing} <= NOT_HERE, "the sequences reach every other legal change"


def test_every_other_legal_change_and_every_way_to_be_made_has_an_operation_that_makes_it(journal: Journal) -> None:
    """With the sequences above: the table holds nothing that the journal does not do."""
    journal.db.transaction(lambda conn: conn.execute(schema.step.delete()))
    with every_change(journal) as seen:
        undone = a_run(journal, a_step("charge", compensation="refund"))
        succeed(journal, undone, "charge")
        decision = journal.undo.begin(undone, who="me", why="wrong order")
        assert decision is not None
        assert decision.undo is not None
        token = claim(journal, undone, decision.undo.key)
        assert journal.ends.succeed_undo(undone, decision.undo.key, token, "charge", ONE).recorded

        valueless = a_run(journal, "charge")
        token = claim(journal, valueless, "charge")
        assert journal.ends.happened_without_value(the(journal, valueless, "charge"), token, "no value", "w1")

        again = a_run(journal, "charge", "ship")
        fail(journal, again, "charge")
        assert journal.runs.reopen(again, ["charge"], who="me", why="mended", now=journal.time())

        drifted = a_function(journal)
        assert journal.doubts.hold_drift(the(journal, drifted, "function"), "another name")
        assert journal.verdicts.release(the(journal, drifted, "function"), who="me", why="deployed")
        assert journal.doubts.hold_drift(the(journal, drifted, "function"), "another name again")

        given_up = a_run(journal, a_step("charge", task_id="t-1"))
        assert journal.members.not_begun("t-1", "its worker was lost")
        assert journal.doubts.doubt_unfinished(journal.namespace, 0, who="me", why="restored")
        assert the(journal, given_up, "charge").status is S.IN_DOUBT

        function = a_function(journal)
        assert journal.claims.begin_new(a_call(function, "charge#1"))
        assert journal.claims.plan_new(a_step("sleep#1", ref=function, position=3, kind=Kind.SLEEP, status=S.WAITING))
        journal.runs.cancel(function, who="me", why="wait")
        assert journal.runs.reopen(function, [], who="me", why="go on", now=journal.time())
        a_run(journal, a_step("charge", status=S.IN_DOUBT))
        assert journal.members.join(a_step("late", ref=undone), []) is S.CANCELLED
    assert illegal(seen) == []
    changes = {f"{old} -> {new}" for old, new in seen if old is not None}
    assert changes >= NOT_HERE
    assert {new for old, new in seen if old is None} == BORN | {WorkflowStatus.RUNNING}


def test_a_move_that_is_not_legal_hits_nothing_and_naming_it_is_an_error(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    row = the(journal, ref, "charge")
    with pytest.raises(IllegalTransition, match="nothing goes from succeeded to begun: it is reached from planned, waiting only"):
        moving(S.BEGUN, {}, of=(S.PLANNED, S.SUCCEEDED))
    undone = moving(S.UNDONE, {}, schema.step.c.ref == ref)
    assert journal.db.transaction(lambda conn: conn.execute(undone).rowcount) == 0
    assert the(journal, ref, "charge") == row


def test_a_run_that_has_to_move_and_cannot_is_an_error_that_says_where_it_stands(journal: Journal) -> None:
    ref = a_run(journal, "charge")
    transitions = Transitions(journal.db, journal.events)
    with pytest.raises(IllegalTransition, match=f"run {ref} cannot go from running to compensated"):
        journal.db.transaction(lambda conn: transitions.move_run(conn, ref, WorkflowStatus.COMPENSATED, {}))
    only = {"of": [WorkflowStatus.ROLLING_BACK]}
    assert not journal.db.transaction(lambda conn: transitions.move_run(conn, ref, WorkflowStatus.COMPENSATED, {}, **only))


def test_no_statement_of_the_journal_sets_a_status_but_through_a_transition() -> None:
    """The counter of a run's open steps is the one exception: the same statement ends the run, from where that is legal."""
    room = Path(schema.__file__).parent
    spelled = re.compile(r"""["']status["']: |\bstatus=.*\.value|^\s*\(\w+\.c\.status, |values\(\*given, \(""")
    for file in sorted(room.glob("*.py")):
        found = [line.strip() for line in file.read_text().splitlines() if spelled.search(line)]
        allowed = {"transitions.py": 1, "turns.py": 1}.get(file.name, 0)
        assert file.name == "rows.py" or len(found) == allowed, (file.name, found)
