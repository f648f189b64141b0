"""One schedule: random workflows, two workers, a sweeper, perhaps a person, and what goes wrong; until nothing changes any more.

First everything happens at once, with faults. Then the faults end: what is frozen goes on, the workers that are left take what
comes, and the sweeper is given time until nothing changes any more. Only then is the outcome judged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

import durable_adapter as durable
from durable_adapter import inline
from durable_adapter.current import FUNCTION, STEP
from durable_adapter.declare.policy import WorkflowPolicy
from durable_adapter.errors import JournalUnreachable, Killed
from durable_adapter.model import OPEN_WORKFLOWS, SECOND, Safety
from durable_adapter.runtime.publication import publishing
from durable_adapter.runtime.starting import AlreadyStarted

from .bank import Attempt, Bank
from .broker import Broker, Message
from .clock import simulated
from .operator import COMMANDS, Operator
from .process import Process, Registry
from .scenario import Author, Declined, Does, Ends, Lost, Step, Workflow
from .scheduler import HERE, Actor, Scheduler
from .stage import EFFECTS, Stage

#: How the labels of the points around an effect begin: there a fault is the most likely.
_BODY = ("in the body", "probe")
#: After so many switch points no more faults happen.
LONGEST = 2_000
#: After so many it is given up as going in circles.
ENDLESS = 8_000
#: How often nothing may have changed before a schedule is at rest, and before one that waits for a person is.
UNCHANGED = 6
HELD = 2
#: How often messages may be sent without changing anything, at rest, before they are sent in circles.
CIRCLES = 12

_MARKED = (
    "SELECT ref, durable_step.key, status, attention, twice_at FROM durable_step "
    "WHERE attention IS NOT NULL OR twice_at IS NOT NULL OR status IN ('held', 'in_doubt')"
)
_MOMENTS = (
    "SELECT next_check_at FROM durable_step WHERE next_check_at IS NOT NULL UNION ALL "
    "SELECT next_check_at FROM durable_workflow WHERE next_check_at IS NOT NULL UNION ALL "
    "SELECT wake_at FROM durable_workflow WHERE wake_at IS NOT NULL"
)


@dataclass
class Line:
    """One line of the trace."""

    number: int
    seconds: float
    actor: str
    says: str

    def __str__(self) -> str:
        return f"{self.number:5} {self.seconds:10.3f} s  {self.actor:<12} {self.says}"


@dataclass
class Outcome:
    """How a schedule ended.

    Attributes:
        seed: replays it.
        problems: what is wrong; empty where nothing is.
        trace: who did what at which switch point, where that was asked for.
        points: how many switch points were passed.
        figures: what happened how often.
    """

    seed: int
    problems: list[str]
    trace: list[str]
    points: int
    figures: dict[str, int] = field(default_factory=dict)


class Schedule:
    """Plays one schedule on a stage.

    Args:
        stage: the journal.
        seed: decides everything.
        trace: keeps what happens in words.
    """

    #: What people do.
    commands: tuple[str, ...] = COMMANDS
    #: Who makes the workflows up.
    author: type[Author] = Author

    def __init__(self, stage: Stage, seed: int, *, trace: bool = False) -> None:
        self.stage = stage
        self.seed = seed
        self.chance = random.Random(seed)
        self.bank = Bank()
        self.registry = Registry()
        self.trace: list[Line] = []
        self.problems: list[str] = []
        #: What a person said: the step's name, whether it happened in their words, and whether it had.
        self.verdicts: list[tuple[str, bool, bool]] = []
        #: The names of steps whose run a person had tried again.
        self.retried: set[str] = set()
        #: Steps that were seen to be marked as twice.
        self.twice: set[tuple[str, str]] = set()
        self.figures: dict[str, int] = {}
        #: Whether a step waits for a person's verdict.
        self.is_undecided = False
        self.processes: list[Process] = []
        self._tracing = trace
        self._quiet = False
        self._idle = 0
        self._unchanged = 0
        self._circles = 0
        self._last: Any = None
        #: The sweepers, and those that are to sweep once more.
        self._sweeping: list[Actor] = []
        self._sweep_wanted: set[Actor] = set()
        #: Whose connection is lost at its next operation, and whether that one is made first.
        self._cuts: dict[Actor, bool] = {}
        self._operator: Actor | None = None
        self._frozen: list[Actor] = []
        self._sleepers: list[int] = []
        chance = self.chance
        self.broker = Broker(stage.clock, chance, chance.random() < 0.6, chance.random() < 0.5)
        self.scheduler = Scheduler(chance, self, chance.choice([0.03, 0.15, 0.4]))
        if trace:
            self.scheduler.tell = lambda actor, label: self._note(actor.name, label)
        self._faults = chance.choice([0, 1, 1, 2, 2, 3, 5])
        self._gap = chance.choice([8, 25, 70])
        self._next_fault = int(chance.expovariate(1 / self._gap))
        self._rounds = chance.randint(1, 5)
        self._people = chance.choice([0, 0, 1, 1, 2, 3])
        self._lies = chance.choice([0.0, 0.0, 0.0, 0.3])
        self._sweepers = chance.choice([1, 1, 1, 2])
        author = self.author(chance, self._probe)
        self.workflows = [author.workflow(number + 1) for number in range(chance.choice([1, 1, 2]))]
        self.by_name = {step.name: step for workflow in self.workflows for step in workflow.every_step}
        for workflow in self.workflows:
            self._learn(workflow)
        self.client = Process(self, "client")

    # What the actors are

    def play(self) -> Outcome:
        """Plays the schedule to its end and judges it."""
        from .invariants import judge

        stage = self.stage
        disabled = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with stage.taken_by(self.scheduler), simulated(stage.clock, self.chance, self.sleep):
                stage.written, stage.cut = self._look_for_marks, self._is_cut
                for workflow in self.workflows:
                    self._start(workflow)
                self._worker()
                self._worker()
                for _ in range(self._sweepers):
                    self._sweeper()
                self.scheduler.play()
                stage.written = stage.cut = None
                self.problems += self.scheduler.crashes
                if self.scheduler.points >= ENDLESS:
                    self.problems.append(f"it goes in circles: {ENDLESS} switch points were passed")
                self.problems += judge(self)
        finally:
            logging.disable(disabled)
        told = [str(workflow) for workflow in self.workflows] + [str(line) for line in self.trace]
        return Outcome(self.seed, self.problems, told if self._tracing else [], self.scheduler.points, self.figures)

    def _learn(self, workflow: Workflow) -> None:
        for step in workflow.every_step:
            self._function(step.name, self._undo_body(step) if step.name.endswith("undo") else self._body(step))
            self.registry.steps[step.name] = step.policy
            if step.undo is not None:
                self.registry.compensations.add(step.undo.name)
        if workflow.lines:
            self._function(workflow.name, self._flow(workflow))
            self.registry.workflows[workflow.name] = WorkflowPolicy()

    def _function(self, name: str, function: Callable[..., Any]) -> None:
        function.__module__, _, function.__qualname__ = name.rpartition(".")
        self.registry.functions[name] = function

    def _start(self, workflow: Workflow) -> None:
        """A client that starts a workflow; where it is killed, mostly another makes the same start again."""

        def work() -> None:
            try:
                self._publish(workflow)
            except Killed:
                if self.chance.random() < 0.7:
                    self.scheduler.spawn(f"client of {workflow.name.rpartition('.')[2]} again", lambda: self._publish(workflow))
                raise

        # Sometimes somebody else starts the same at the same time.
        for again in ("", " as well")[: 2 if self.chance.random() < 0.1 else 1]:
            self.client.actors.append(self.scheduler.spawn(f"client of {workflow.name.rpartition('.')[2]}{again}", work))

    def _publish(self, workflow: Workflow) -> None:
        names = [workflow.name] if workflow.lines else [step.name for step in workflow.steps]
        calls = [inline.Planned(self.registry.functions[name], (name,), {}) for name in names]
        try:
            with publishing(workflow_id=workflow.name):
                self.client.publish(calls)
        except AlreadyStarted:
            self.say("finds that it is started already")
        except JournalUnreachable as error:
            self.say(f"is refused: {error}")
            if self.chance.random() < 0.7:
                self._publish(workflow)

    def _worker(self) -> None:
        process = Process(self, f"worker {len(self.processes) + 1}")
        self.processes.append(process)
        process.actors = [
            self.scheduler.spawn(process.name, lambda: self._work(process)),
            self.scheduler.spawn(f"beat {len(self.processes)}", lambda: self._beat(process)),
        ]

    def _work(self, process: Process) -> None:
        _ = process.host.worker
        while True:
            self.scheduler.wait(self.broker.is_due, "waits for a message")
            message = self.broker.take()
            self.stage.clock.move(0.001)
            self.say(f"takes the message {message}")
            died = True
            before = len(self.bank.attempts)
            try:
                self.scheduler.point("has a message")
                process.deliver(message.ref, message.key, again=message.again)
                died = False
            finally:
                self.broker.done(message, died=died)
                if not died:
                    actor = HERE.actor
                    for attempt in self.bank.attempts[before:]:
                        attempt.reported = attempt.reported or attempt.actor is actor

    def _beat(self, process: Process) -> None:
        while True:
            self.scheduler.wait(lambda: process.beat_is_due, "waits for its next beat")
            process.beat_is_due = False
            with contextlib.suppress(JournalUnreachable):
                process.host.beat()

    def _sweeper(self) -> None:
        sweeper = inline.Sweeper(
            self.stage.journal, [self.client.engine], queues=lambda: [inline.QUEUE], monotonic=lambda: self.stage.clock.seconds
        )

        def work() -> None:
            actor = HERE.actor
            assert actor is not None
            while True:
                self.scheduler.wait(lambda: actor in self._sweep_wanted, "waits for its next sweep")
                self._sweep_wanted.remove(actor)
                try:
                    report = sweeper.sweep()
                except JournalUnreachable as error:
                    self.say(f"no sweep: {error}")
                    continue
                for error in report.errors:
                    self.complain(f"a sweep met an error: {error}")
                done = {name: count for name, count in vars(report).items() if isinstance(count, int) and count}
                self.say(f"swept: {done or 'nothing to do'}")

        name = "sweeper" if not self._sweeping else f"sweeper {len(self._sweeping) + 1}"
        self._sweeping.append(self.scheduler.spawn(name, work))

    def _sweep(self) -> None:
        self._sweep_wanted = {actor for actor in self._sweeping if not actor.is_dead}

    def _person(self) -> None:
        operator = Operator(self, self.chance, self._lies)
        self.count(f"operator: {operator.command}")
        before = self._operator

        def work() -> None:
            # One after the other: in one process they would meet in locks of Python's own, which no switch point sees.
            self.scheduler.wait(lambda: before is None or before.is_done, "waits for the one before")
            operator.work()

        self._operator = self.scheduler.spawn(f"op {operator.command}", work)

    # What runs in them

    def _body(self, step: Step) -> Callable[..., Any]:
        def body(name: str) -> dict[str, str]:
            return self._effect(step)

        return body

    def _undo_body(self, step: Step) -> Callable[..., Any]:
        def undo(result: Any, name: str) -> dict[str, str]:
            return self._effect(step)

        return undo

    def _effect(self, step: Step) -> dict[str, str]:
        running, actor = STEP.get(), HERE.actor
        assert running is not None
        assert actor is not None
        point, bank = self.scheduler.point, self.bank
        process = next((p for p in (*self.processes, self.client) if actor in p.actors), self.client)
        number = len(bank.of(step.name)) + 1
        attempt = Attempt(step.name, number, actor, process.name, getattr(running, "token", None))
        if step.safety is Safety.IDEMPOTENT:
            attempt.key = durable.idempotency_key()
        attempt.began_at = self.stage.clock.now
        self._beside(step, attempt)
        bank.begin(attempt)
        short, ends = step.name.removeprefix("explored."), step.ends(number)
        self.say(f"BEGINS attempt {number} at {short}")
        try:
            point(f"in the body of {short}, before its effect")
            if ends is Ends.DECLINED:
                raise Declined(f"{short} is declined")
            if ends is Ends.LOST_BEFORE:
                raise Lost(f"{short} got no answer")
            if step.safety is Safety.TRANSACTIONAL:
                durable.session().execute(sa.insert(EFFECTS).values(name=step.name, attempt=number))
                attempt.acted = True
            else:
                bank.act(attempt)
            self.stage.clock.move(0.001)
            self.say(f"EFFECT of {short}{'' if attempt.counted else ' (not a new one)'}")
            point(f"in the body of {short}, behind its effect")
            if ends is Ends.LOST_AFTER:
                raise Lost(f"{short} got no answer")
            attempt.succeeded = True
            return {"name": step.name}
        finally:
            if not actor.is_dead:
                attempt.body_ended = True

    def _beside(self, step: Step, attempt: Attempt) -> None:
        """Complains of two attempts at once, unless the other's process counts as dead or its time has passed."""
        if step.safety is Safety.TRANSACTIONAL:
            return
        for other in self.bank.of(step.name):
            process = next((p for p in self.processes if p.name == other.process), self.client)
            late = step.policy.timeout is not None and self.stage.clock.now - other.began_at >= step.policy.timeout * SECOND
            if other.is_running and not process.false_death and not late and not self._said(step.name):
                self.complain(f"two attempts at {step.name} run at once: {other.process} and {attempt.process}, both living")

    def _said(self, name: str) -> bool:
        return any(step == name for step, _, _ in self.verdicts)

    def _probe(self, name: str) -> Callable[..., Any]:
        def probe(*_: Any) -> Any:
            self.scheduler.point(f"probe of {name.removeprefix('explored.')}, before it looks")
            happened = self.happened(name)
            self.scheduler.point(f"probe of {name.removeprefix('explored.')} says {'it happened' if happened else 'it did not'}")
            if self.chance.random() < 0.1:
                return durable.cannot_tell()
            return durable.happened({"name": name}) if happened else durable.did_not_happen()

        return probe

    def _flow(self, workflow: Workflow) -> Callable[..., Any]:
        def flow(name: str) -> str:
            function, actor = FUNCTION.get(), HERE.actor
            assert function is not None
            process = next(p for p in self.processes if actor in p.actors)
            sent: dict[str, Any] = {}
            for line in workflow.lines:
                try:
                    step = line.step
                    match line.does:
                        case Does.SLEEP:
                            durable.sleep(line.seconds)
                        case Does.CALL:
                            assert step is not None
                            runs = self.registry.functions[step.name]
                            function.call_step(step.policy, step.name, runs, (step.name,), {})
                        case Does.DISPATCH:
                            assert step is not None
                            runs = self.registry.functions[step.name]
                            sent[step.name] = process.publish([inline.Planned(runs, (step.name,), {})])
                        case Does.WAIT:
                            assert step is not None
                            sent[step.name].result()
                except Exception:
                    if not line.catches:
                        raise
            return "done"

        return flow

    # What others ask

    def happened(self, name: str) -> bool:
        """What the bank says of an effect."""
        step = self.by_name.get(name)
        if step is not None and step.safety is Safety.TRANSACTIONAL:
            return self.committed(name) > 0
        return self.bank.count(name) > 0

    def committed(self, name: str) -> int:
        """How often a transactional step's effect was committed."""
        return int(self.stage.rows(f"SELECT count(*) FROM explorer_effect WHERE name = '{name}'")[0][0])

    def refs(self) -> list[str]:
        """The runs that there are."""
        return [ref for (ref,) in self.stage.rows("SELECT ref FROM durable_workflow")]

    def sleep(self, seconds: float) -> None:
        """The current actor sleeps."""
        until = self.stage.clock.now + int(seconds * SECOND)
        self._sleepers.append(until)
        self.scheduler.wait(lambda: self.stage.clock.now >= until, f"sleeps for {seconds:g} s")
        self._sleepers.remove(until)

    def complain(self, problem: str) -> None:
        """Keeps what was wrong on the way."""
        if problem not in self.problems:
            self.problems.append(problem)
            self.say(f"PROBLEM: {problem}")

    def say(self, says: str) -> None:
        """Puts something into the trace."""
        if self._tracing:
            self._note(HERE.actor.name if HERE.actor is not None else "schedule", says)

    def _note(self, actor: str, says: str) -> None:
        self.trace.append(Line(self.scheduler.points, self.stage.clock.seconds, actor, says))

    def count(self, what: str) -> None:
        """Counts something for the figures."""
        self.figures[what] = self.figures.get(what, 0) + 1

    def _look_for_marks(self) -> None:
        """After each write: which steps are marked as twice, whether there is anything to decide, who was declared dead."""
        dead = {row[0] for row in self.stage.rows("SELECT id FROM durable_worker WHERE dead_at IS NOT NULL")}
        for process in self.processes:
            process.false_death = process.false_death or (not process.is_dead and process.host.row in dead)
        marked = self.stage.rows(_MARKED)
        self.is_undecided = any(row[2] in ("held", "in_doubt") or row[3] == "effect_unknown" for row in marked)
        self.twice.update((row[0], row[1]) for row in marked if row[3] == "twice" or row[4] is not None)

    # What is decided besides who runs

    def decide(self, actor: Actor, label: str) -> None:
        """At each switch point: perhaps something goes wrong, or somebody comes."""
        if self._quiet:
            return
        points = self.scheduler.points
        if points >= LONGEST:
            self._be_quiet()
        elif points >= self._next_fault or (label.startswith(_BODY) and self.chance.random() < 0.2):
            self._next_fault = points + 1 + int(self.chance.expovariate(1 / self._gap))
            self._something(actor)

    def _something(self, actor: Actor | None) -> None:
        if self._people and self.chance.random() < 0.35:
            self._people -= 1
            self._person()
            return
        if self.chance.random() < 0.3:
            self._sweep()
            return
        if not self._faults:
            return
        self._faults -= 1
        faults: list[tuple[Callable[[Actor | None], None], int]] = [
            (self._kill, 30), (self._declare_dead, 20), (self._freeze, 12), (self._lose, 12), (self._double, 22),
            (self._put_off, 8), (self._jump, 14), (self._kill_another, 8), (self._cut, 20),
        ]  # fmt: skip
        (fault,) = self.chance.choices([f for f, _ in faults], [weight for _, weight in faults])
        fault(actor)

    def _living(self, actor: Actor | None) -> Process | None:
        """A living worker: mostly the one that runs."""
        living = [process for process in self.processes if not process.is_dead]
        here = next((process for process in living if actor in process.actors), None)
        if here is not None and self.chance.random() < 0.7:
            return here
        return self.chance.choice(living) if living else None

    def _kill(self, actor: Actor | None) -> None:
        process = self._living(actor)
        if process is None:
            return
        self.count("killed")
        saw = self.chance.random() < 0.5
        self._note_fault(
            f"{process.name} is KILLED at: {process.actors[0].at}; its parent {'saw it' if saw else 'is gone as well'}"
        )
        process.is_dead = True
        for other in reversed(process.actors):
            self.scheduler.kill(other)
        if saw:
            died = self.stage.journal.workers.child_died
            self.scheduler.spawn(process.parent, lambda: self._surely(lambda: died(process.parent, os.getpid(), "it was killed")))
        self._worker()

    def _kill_another(self, actor: Actor | None) -> None:
        """The sweeper or a client."""
        if self.chance.random() < 0.5:
            living = [sweeper for sweeper in self._sweeping if not sweeper.is_dead]
            sweeper = self.chance.choice(living)
            self.count("sweeper killed")
            self._note_fault(f"{sweeper.name} is KILLED at: {sweeper.at}")
            self.scheduler.kill(sweeper)
            self._sweeper()
            return
        clients = [client for client in self.client.actors if not client.is_done and not client.is_dead]
        if clients:
            self.count("client killed")
            self._note_fault(f"{clients[0].name} is KILLED at: {clients[0].at}")
            self.scheduler.kill(clients[0])

    def _declare_dead(self, actor: Actor | None) -> None:
        """Another sweeper, which watched a worker stand still, declares it dead; perhaps it stands still for longer."""
        process = self._living(actor)
        row = process.host.row if process is not None else None
        if process is None or row is None:
            return
        self.count("declared dead")
        self._note_fault(f"{process.name} is declared DEAD while it stands at: {process.actors[0].at}")
        if self.chance.random() < 0.7:
            self._freeze_it(process.actors[0])

        def work() -> None:
            found = self.stage.journal.workers.get(row)
            if found is not None:
                self.stage.journal.workers.stood_still(row, found.beats, "it stood still, as another sweeper saw")

        self.scheduler.spawn("sweeper elsewhere", lambda: self._surely(work))

    @staticmethod
    def _surely(work: Callable[[], object]) -> None:
        """Does something until the journal takes it."""
        while True:
            try:
                work()
                return
            except JournalUnreachable:
                continue

    def _freeze(self, actor: Actor | None) -> None:
        process = self._living(actor)
        if process is not None:
            self.count("frozen")
            self._freeze_it(process.actors[0])

    def _freeze_it(self, actor: Actor) -> None:
        if self.stage.locked_by(actor) or actor.is_done:
            return
        self._note_fault(f"{actor.name} is FROZEN at: {actor.at}")
        actor.is_frozen = True
        self._frozen.append(actor)

    def _thaw(self, probability: float) -> None:
        for actor in list(self._frozen):
            if self.chance.random() < probability:
                self._frozen.remove(actor)
                if actor.is_frozen:
                    actor.is_frozen = False
                    self._note_fault(f"{actor.name} goes on")

    def _cut(self, actor: Actor | None) -> None:
        """The connection of somebody is lost: before his next operation is made, or before it is answered."""
        others = [process.actors[0] for process in self.processes if not process.is_dead] + self._sweeping
        somebody = actor if actor is not None and self.chance.random() < 0.7 else self.chance.choice(others)
        if not somebody.is_done and not somebody.is_dead:
            self.count("connection cut")
            self._cuts[somebody] = self.chance.random() < 0.7
            self._note_fault(f"{somebody.name} loses its connection")

    def _is_cut(self, answered: bool) -> bool:
        actor = HERE.actor
        if actor is None or self._cuts.get(actor) is not answered:
            return False
        del self._cuts[actor]
        return True

    def _lose(self, _: Actor | None) -> None:
        if self.broker.waiting:
            message = self.chance.choice(self.broker.waiting)
            self.broker.waiting.remove(message)
            self.count("message lost")
            self._note_fault(f"the message {message} is LOST")

    def _double(self, _: Actor | None) -> None:
        known = [*self.broker.waiting, *self.broker.delivered]
        if known:
            message = self.chance.choice(known)
            self.count("message doubled")
            self._note_fault(f"the message {message} comes once MORE")
            self.broker.post(Message(message.ref, message.key, again=self.chance.random() < 0.5))

    def _put_off(self, _: Actor | None) -> None:
        if self.broker.waiting:
            message = self.chance.choice(self.broker.waiting)
            message.due = self.stage.clock.now + self.chance.choice([2, 30, 700]) * SECOND
            self.count("message put off")
            self._note_fault(f"the message {message} is put off")

    def _jump(self, _: Actor | None) -> None:
        seconds = self.chance.choice([1, 6, 35, 70, 130])
        self.count("time jumped")
        self._note_fault(f"{seconds} s pass")
        self._pass(seconds)

    def _note_fault(self, says: str) -> None:
        if self._tracing:
            self._note("***", says)

    def _pass(self, seconds: float) -> None:
        self.stage.clock.move(seconds)
        for process in self.processes:
            process.beat_is_due = not process.is_dead and not process.actors[0].is_frozen

    def _be_quiet(self) -> None:
        """No more faults: what is frozen goes on."""
        self._quiet = True
        self._note_fault("no more faults")
        self._thaw(1.0)

    def idle(self) -> bool:
        """Nobody can run: time passes, until nothing changes any more."""
        if self.scheduler.points >= ENDLESS:
            return False
        self._idle += 1
        if not self._quiet:
            if self._idle > self._rounds:
                self._be_quiet()
            else:
                self._thaw(0.4)
                self._something(None)
                self._sweep()
                self._pass(self._until_next() if self.chance.random() < 0.5 else self.chance.choice([5, 15, 15, 30]))
            return True
        return self._settle()

    def _settle(self) -> bool:
        runs = self.stage.rows("SELECT ref, status, waiting_for FROM durable_workflow ORDER BY ref")
        steps = self.stage.rows("SELECT ref, durable_step.key, status, attempt, token, attention FROM durable_step ORDER BY 1, 2")
        state, before = (runs, steps, len(self.bank.attempts), self.broker.sent), self._last
        self._unchanged = self._unchanged + 1 if state == before else 0
        # What is sent and changes nothing is no progress.
        self._circles = self._circles + 1 if before is not None and state[:3] == before[:3] and state != before else 0
        self._last = state
        if self._circles >= CIRCLES:
            self.complain(f"messages are sent again and again, and change nothing: {self.broker.delivered[-1]}")
            return False
        if not self._silent():
            held = {row[0] for row in steps if row[2] == "held" or row[5] is not None}
            is_held = all(ref in held for ref, status, _ in runs if status in OPEN_WORKFLOWS)
            is_held = is_held and not any(row[2] in ("in_doubt", "begun", "waiting") for row in steps)
            if self._unchanged >= (HELD if is_held else UNCHANGED):
                return False
            if not self.broker.waiting and self._is_over():
                return False
            self._pass(self._until_next())
        else:
            self._pass(min(15.0, self._until_next()))
        self._sweep()
        return True

    def _silent(self) -> bool:
        """Whether a process is dead and nobody has noticed yet."""
        alive = {row[0] for row in self.stage.rows("SELECT id FROM durable_worker WHERE alive = 1")}
        return any(process.is_dead and process.host.row in alive for process in self.processes)

    def _is_over(self) -> bool:
        """Whether the journal has nothing that is ever due."""
        due = " UNION ".join(
            f"SELECT 1 FROM {table} WHERE next_check_at IS NOT NULL" for table in ("durable_workflow", "durable_step")
        )
        return not self.stage.rows(due)

    def _until_next(self) -> float:
        """The seconds until the next thing is due; ten minutes where nothing is."""
        now = self.stage.clock.now
        moments = [at for (at,) in self.stage.rows(_MOMENTS)]
        moments += [message.due for message in self.broker.waiting] + self._sleepers
        later = [at for at in moments if at is not None and at > now]
        return min(((min(later) - now) / SECOND) if later else 600.0, 86_400.0) + 0.001
