"""Eight threads do everything at once to a few runs: nothing surfaces, nothing happens twice, nothing is stuck.

What the steps do is written in a ledger of the test's own, as a bank would have it; the journal never reads it.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.model import (
    CLAIMABLE,
    FORWARD_WORKFLOWS,
    OPEN_WORKFLOWS,
    UNSETTLED_STEPS,
    Cause,
    Effect,
    Kind,
    Safety,
    Shape,
    StepRow,
    StepStatus,
    WorkflowStatus,
    attempt_name,
    new_token,
)
from tests.journal.interleaving import together
from tests.journal.making import (
    DECLINED,
    MINUTE,
    NOTHING,
    ONE,
    TIMED_OUT,
    a_call,
    a_dispatch,
    a_run,
    a_step,
    a_worker,
    marked,
)
from tests.journal.watching import every_change, illegal
from tests.servers.fixtures import FreshDatabase

THREADS = 8
OPERATIONS = 60
DID_NOT = Effect.DID_NOT_HAPPEN
CANVASES, FUNCTIONS = 3, 2


@dataclass
class Attempt:
    """One attempt at a step, as the process that runs it knows it."""

    row: StepRow
    token: str
    worker: str
    happened: bool


@dataclass
class World:
    """The journal, what really happened, and attempts whose process is frozen."""

    journal: Journal
    refs: list[str]
    ended: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    happened: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: set[tuple[str, str, str | None]] = field(default_factory=set)
    frozen: list[Attempt] = field(default_factory=list)
    running: dict[str, set[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def some_run(self, chance: random.Random) -> str:
        """One of the few runs that everybody works on; one that has ended makes room for a new one."""
        place = chance.randrange(len(self.refs))
        ref = self.refs[place]
        run = self.journal.reads.run(ref)
        assert run is not None
        if run.status in OPEN_WORKFLOWS or chance.random() < 0.5:
            return ref
        new = a_new_run(self.journal, run.shape, pivot=chance.random() < 0.3)
        with self.lock:
            if self.refs[place] == ref:
                self.refs[place] = new
                self.ended.append(ref)
                return new
        self.journal.starts.forget(new)
        return ref

    def effect(self, attempt: Attempt) -> None:
        """The step's effect happens, now; a protected step's must not have happened before."""
        row = attempt.row
        with self.lock:
            attempt.happened = True
            self.happened[row.ref, row.key] += 1
            self.tokens.add((row.ref, row.key, attempt.token))
            if self.happened[row.ref, row.key] > 1 and row.safety is not Safety.IDEMPOTENT:
                self.errors.append(f"{row.key} of {row.ref} happened twice")

    def did_happen(self, row: StepRow) -> bool:
        """What a probe finds: whether the attempt that holds the step's token had its effect."""
        with self.lock:
            return (row.ref, row.key, row.token) in self.tokens or self.happened[row.ref, row.key] > 0


class Actor:
    """One thread: a worker process that now and then sweeps, or is an operator."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.journal = world.journal
        self.chance = random.Random(number)
        self.number = number
        self.births = 0
        self.worker = ""
        self.register()

    def register(self) -> None:
        self.births += 1
        self.worker = f"w{self.number}.{self.births}"
        a_worker(self.journal, self.worker, parent=f"p{self.number}", pid=self.births)
        self.world.running[self.worker] = set()

    def act(self) -> None:
        work: list[tuple[int, Callable[[str], object]]] = [
            (30, self.attempt_any),
            (6, self.call_of_a_function),
            (3, self.dispatch_of_a_function),
            (3, self.suspend_or_end_a_function),
            (8, self.thaw),
            (10, self.sweep),
            (6, self.go_on_undoing),
            (6, self.decide),
            (2, self.die),
            (4, self.order),
            (3, self.beat_and_read),
        ]
        operation = self.chance.choices([w for _, w in work], [n for n, _ in work])[0]
        operation(self.world.some_run(self.chance))

    def attempt_any(self, ref: str) -> None:
        """Claim something that is to be had, run it, and end it in one of the ways in which attempts end."""
        rows = [r for r in self.journal.reads.steps(ref) if r.status in CLAIMABLE and r.kind is not Kind.FUNCTION]
        if rows:
            self.claim_and_run(self.chance.choice(rows))

    def claim_and_run(self, row: StepRow) -> None:
        token = new_token()
        name = attempt_name(row.ref, row.key, token)
        self.world.running[self.worker].add(name)
        timeout = self.chance.choice([None, 1, MINUTE])
        if not self.journal.claims.begin(row.ref, row.key, token, self.worker, timeout, safety=row.safety):
            self.world.running[self.worker].discard(name)
            return
        row.token = token
        self.run(Attempt(row, token, self.worker, False))

    def run(self, attempt: Attempt) -> None:
        if self.chance.random() < 0.65:
            self.world.effect(attempt)
        if self.chance.random() < 0.12:
            with self.world.lock:
                self.world.frozen.append(attempt)
            return
        self.end(attempt)
        self.world.running[attempt.worker].discard(attempt_name(attempt.row.ref, attempt.row.key, attempt.token))

    def end(self, attempt: Attempt) -> None:
        row, token, ends = attempt.row, attempt.token, self.journal.ends
        if attempt.happened and self.chance.random() < 0.85:
            if row.kind is Kind.COMPENSATION:
                recorded = ends.succeed_undo(row.ref, row.key, token, row.target or "", NOTHING).recorded
            elif row.kind is Kind.DISPATCH:
                recorded = ends.succeed_dispatched(row.ref, row.key, token, ONE).recorded
            else:
                recorded = ends.succeed(row.ref, row.key, token, ONE, completes_run=bool(row.options.get("counts")))
            if not recorded:
                ends.late(row.ref, row.key, token, ONE, attempt.worker)
        elif attempt.happened:
            why = f"it raised, {new_token()}"
            self.journal.doubts.raise_doubt(row, token, why, cause=Cause.WORKER_DIED, over=True, error=TIMED_OUT)
        elif self.chance.random() < 0.6:
            ends.try_again(row, token, 0, DECLINED, "declined", effect=DID_NOT)
        else:
            ends.fail(row, token, DECLINED, DID_NOT, fails_run=row.kind is Kind.STEP and not self.is_call(row))

    @staticmethod
    def is_call(row: StepRow) -> bool:
        return row.key.startswith("call")

    def call_of_a_function(self, ref: str) -> None:
        run = self.journal.reads.run(ref)
        if run is None or run.shape is not Shape.FUNCTION:
            return
        number = self.chance.randint(1, 3)
        row = a_call(ref, f"call#{number}", number, worker=self.worker, compensation="undo" if number == 1 else None)
        name = attempt_name(ref, row.key, row.token)
        self.world.running[self.worker].add(name)
        if self.journal.claims.begin_new(row):
            self.run(Attempt(row, row.token or "", self.worker, False))
        else:
            self.world.running[self.worker].discard(name)

    def dispatch_of_a_function(self, ref: str) -> None:
        run = self.journal.reads.run(ref)
        if run is not None and run.shape is Shape.FUNCTION:
            number = self.chance.randint(4, 6)
            self.journal.claims.plan_new(a_dispatch(ref, f"send#{number}", number))

    def suspend_or_end_a_function(self, ref: str) -> None:
        steps = self.journal.reads.steps(ref)
        if not any(s.kind is Kind.FUNCTION for s in steps):
            return
        sent = [s for s in steps if s.kind is Kind.DISPATCH]
        runs = self.journal.runs
        if sent and self.chance.random() < 0.7:
            key = self.chance.choice(sent).key
            runs.suspend(ref, waiting_for=f"step:{key}", wake_at=None, unless_ended=key)
        elif not runs.suspend(ref, waiting_for="steps", wake_at=None, unless_ended="*") and self.chance.random() < 0.3:
            self.journal.ends.succeed_unclaimed(ref, "function", new_token(), self.worker, ONE, completes_run=True)

    def thaw(self, _ref: str) -> None:
        """A process that was frozen goes on as if nothing had been."""
        with self.world.lock:
            attempt = self.world.frozen.pop() if self.world.frozen else None
        if attempt is not None:
            self.end(attempt)
            self.world.running[attempt.worker].discard(attempt_name(attempt.row.ref, attempt.row.key, attempt.token))

    def sweep(self, _ref: str) -> None:
        doubts, due = self.journal.doubts, self.journal.due
        for row, _ in due.of_dead_workers(20):
            doubts.raise_doubt(
                row, row.token, "its worker died", cause=Cause.WORKER_DIED, over=self.chance.random() < 0.7, who="sweeper"
            )
        for row, _ in due.missing_from_heartbeats(20):
            doubts.raise_doubt(row, row.token, "its worker lost it", cause=Cause.WORKER_DIED, over=True, who="sweeper")
        now = self.journal.time() + 60 * MINUTE
        for row in due.take_steps(now, 5):
            if row.status is StepStatus.IN_DOUBT:
                self.settle(row)
            elif row.status is StepStatus.WAITING and row.kind is not Kind.FUNCTION:
                self.claim_and_run(row)
        for run, _ in self.journal.due.take_runs(now, 3):
            self.go_on_undoing(run.ref)

    def settle(self, row: StepRow) -> None:
        """As a worker would, on the step's own message; a probe is asked only when the attempt is over."""
        doubts = self.journal.doubts
        if row.over_at is None or row.over_at > self.journal.time():
            doubts.ask_later(row, row.over_at or 0)
            return
        if self.is_frozen(row):
            return  # its process lives: nothing that is said of its effect would count
        if row.safety is Safety.IDEMPOTENT:
            doubts.take_over(row, f"it is idempotent, {new_token()}")
        elif row.safety is Safety.PROBE:
            self.say(row, "probe")
        else:
            doubts.hold(row, f"nobody can tell, {new_token()}")

    def is_frozen(self, row: StepRow) -> bool:
        with self.world.lock:
            return any(a.row.ref == row.ref and a.row.key == row.key for a in self.world.frozen) or any(
                attempt_name(row.ref, row.key, row.token) in names for names in self.world.running.values()
            )

    def decide(self, ref: str) -> None:
        """An operator finds out, and says it."""
        rows = [r for r in self.journal.reads.steps(ref) if r.status in (StepStatus.HELD, StepStatus.IN_DOUBT)]
        rows += [r for r in marked(self.journal) if r.ref == ref and r.effect is Effect.UNKNOWN]
        if rows:
            row = self.chance.choice(rows)
            if not self.is_frozen(row):
                self.say(row, f"operator {self.number}")

    def say(self, row: StepRow, who: str) -> None:
        if self.world.did_happen(row):
            self.journal.verdicts.happened(row, ONE, who=who, why=new_token())
        else:
            self.journal.verdicts.did_not_happen(row, who=who, why=new_token())

    def go_on_undoing(self, ref: str) -> None:
        decision = self.journal.undo.advance(ref)
        if decision is not None and decision.undo is not None and decision.undo.status in CLAIMABLE:
            self.claim_and_run(decision.undo)

    def die(self, _ref: str) -> None:
        """This process ends at once, with all that it has in hand; its parent sees it."""
        with self.world.lock:
            mine = [a for a in self.world.frozen if a.worker == self.worker]
            self.world.frozen = [a for a in self.world.frozen if a.worker != self.worker]
        assert self.journal.workers.child_died(f"p{self.number}", self.births, "killed") == 1
        for attempt in mine:
            self.world.running[self.worker].discard(attempt_name(attempt.row.ref, attempt.row.key, attempt.token))
        self.register()

    def order(self, ref: str) -> None:
        """A person's order."""
        runs, chance = self.journal.runs, self.chance.random()
        if chance < 0.3:
            self.journal.undo.begin(ref, who="me", why="stop")
        elif chance < 0.4:
            runs.cancel(ref, who="me", why="stop")
        else:
            failed = [s for s in self.journal.reads.steps(ref) if s.status is StepStatus.FAILED and s.effect is DID_NOT]
            undoing = self.chance.random() < 0.5
            keys = [s.key for s in failed if (s.kind is Kind.COMPENSATION) is undoing]
            runs.reopen(ref, keys, who="me", why="again", now=self.journal.time())

    def beat_and_read(self, ref: str) -> None:
        self.journal.workers.beat(self.worker, sorted(self.world.running[self.worker]))
        self.journal.reads.run(ref)
        self.journal.reads.unsettled(limit=10)
        self.journal.reads.listed(limit=3)
        self.journal.events.of(ref, limit=5)


@pytest.fixture
def journal(dialect: Any, fresh_database: FreshDatabase) -> Iterator[Journal]:
    """A journal of this test's own: the triggers that watch it would be in the way of other tests."""
    found = Journal(fresh_database(dialect), pool_size=THREADS + 2)
    migrate(found)
    yield found
    found.close()


def a_new_run(journal: Journal, shape: Shape, *, pivot: bool = False) -> str:
    """A canvas with every safety, compensations and perhaps a pivot; or a function."""
    if shape is Shape.FUNCTION:
        return a_run(journal, a_step("function", kind=Kind.FUNCTION, completes_run=True), shape=shape)
    return a_run(
        journal,
        a_step("charge", compensation="refund"),
        a_step("pack", safety=Safety.IDEMPOTENT, compensation="unpack"),
        a_step("ship", safety=Safety.PROBE, compensation="recall", pivot=pivot),
        a_step("mail", completes_run=True),
    )


def test_a_storm_of_everything_at_once_breaks_no_promise(journal: Journal) -> None:
    shapes = [Shape.CANVAS] * CANVASES + [Shape.FUNCTION] * FUNCTIONS
    world = World(journal, [a_new_run(journal, shape) for shape in shapes])
    actors = [Actor(world, number) for number in range(THREADS)]

    def storm(actor: Actor) -> None:
        for _ in range(OPERATIONS):
            actor.act()

    with every_change(journal) as seen:
        together(*[lambda a=a: storm(a) for a in actors])  # type: ignore[misc]
        consistent(world)
        calm_down(world, actors)
    assert world.errors == []
    assert illegal(seen) == []
    consistent(world)


def calm_down(world: World, actors: list[Actor]) -> None:
    """Workers and sweepers that do their duty and people who settle what is theirs: every run comes to its end."""
    deadline = time.monotonic() + 60
    world.refs += world.ended
    while time.monotonic() < deadline:
        for actor in actors:
            while world.frozen:
                actor.thaw("")
            actor.sweep("")
            for ref in world.refs:
                actor.decide(ref)
                actor.go_on_undoing(ref)
                run = world.journal.reads.run(ref)
                assert run is not None
                if run.status in FORWARD_WORKFLOWS:
                    actor.attempt_any(ref)
                if run.status in FORWARD_WORKFLOWS and run.shape is Shape.FUNCTION and run.open_steps <= 1:
                    world.journal.ends.succeed_unclaimed(ref, "function", new_token(), actor.worker, ONE, completes_run=True)
                failed = [s.key for s in world.journal.reads.steps(ref) if s.status is StepStatus.FAILED]
                if run.status is WorkflowStatus.RUNNING and run.shape is Shape.CANVAS and failed:
                    world.journal.runs.reopen(ref, failed, who="me", why="again", now=world.journal.time())
        if not world.journal.reads.unfinished() and not world.journal.reads.unsettled():
            return
    stuck = [(run.status, [(s.key, s.status, s.effect) for s in world.journal.reads.steps(run.ref)])
             for run in world.journal.reads.unfinished()]  # fmt: skip
    raise AssertionError(f"stuck: {stuck} {world.journal.reads.unsettled()}")


def consistent(world: World) -> None:
    """What must be true of the journal at any moment at which nobody writes."""
    journal = world.journal
    dead = {row.key for row, _ in journal.due.of_dead_workers(1000)}
    living = {row.id for row in journal.workers.alive()}
    for ref in {*world.refs, *world.ended}:
        run, steps = journal.reads.run(ref), journal.reads.steps(ref)
        assert run is not None
        told = (run, steps)
        assert (run.next_check_at is not None) is (run.status in OPEN_WORKFLOWS), told
        assert len({s.target for s in steps if s.target}) == len([s for s in steps if s.target]), told
        forward = [s for s in steps if s.kind is not Kind.COMPENSATION]
        counted = [s for s in forward if s.completes_run]
        ended = [s for s in counted if s.status in (StepStatus.SUCCEEDED, StepStatus.UNDONE)]
        ended += [s for s in counted if s.kind is Kind.DISPATCH and s.status is StepStatus.FAILED]
        assert run.open_steps == len(counted) - len(ended), told
        if run.status not in FORWARD_WORKFLOWS and run.status is not WorkflowStatus.SUCCEEDED:
            assert not [s for s in forward if s.status in CLAIMABLE], told
        if run.status is WorkflowStatus.SUCCEEDED:
            assert run.open_steps == 0, told
        for s in steps:
            if s.status is StepStatus.BEGUN:
                assert s.worker in living or s.key in dead, told
            if s.status is StepStatus.SUCCEEDED and s.safety is not Safety.IDEMPOTENT and s.kind is not Kind.FUNCTION:
                assert world.happened[ref, s.key], told
            if s.status is StepStatus.UNDONE:
                assert world.happened[ref, f"undo:{s.key}"], told
        if run.status is WorkflowStatus.COMPENSATED:
            left = [
                s.key
                for s in steps
                if s.compensation and world.happened[ref, s.key] and s.status not in (StepStatus.UNDONE, *UNSETTLED_STEPS)
            ]
            assert left == [], (
                left,
                [(s.key, s.status.value, s.effect, s.token, s.attempt, s.verdict) for s in steps],
                [(e["kind"], e["key"], e["token"], e["why"], e["detail"]) for e in journal.events.of(ref)],
                [t for t in world.tokens if t[0] == ref],
                [a for a in world.frozen if a.row.ref == ref],
            )
