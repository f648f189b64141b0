"""Durable calls in a test's own process: a journal, a clock that the test moves, and the engines that publish into it.

Everything between publishing and running is the real thing: the engines' own messages, our hooks, the runtime and the sweeper.
Only brokers, result stores and the clock are replaced. No thread, no process, no waiting: the clock moves when it is told to,
and by itself only over the delay of a retry.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..current import FUNCTION, OUTSIDE, beside
from ..declare.policy import StepPolicy
from ..errors import Deferred, Killed, NotFinished, NotInWorkflow
from ..model import (
    OPEN_STEPS,
    OPEN_WORKFLOWS,
    SECOND,
    Kind,
    Mode,
    Shape,
    StepRow,
    StepStatus,
    WorkflowRow,
    WorkflowStatus,
    new_ref,
)
from ..recovery import Sweeper
from ..runtime.calls import Call
from ..runtime.contexts import afresh
from ..runtime.functions import run_function
from ..runtime.host import Host
from ..runtime.values import decode, read_failure

if TYPE_CHECKING:
    from ..journal import Journal
    from ..runtime.engine import Engine
    from ..runtime.marked import Marked

logger = logging.getLogger("durable_adapter")

#: Seconds that no test lasts: nothing here beats, dies or is given up by the wall clock.
NEVER = 10 * 365 * 86_400.0
#: Rounds of sweeping and running that may follow one another before it is taken for an endless loop.
ROUNDS = 1_000
#: The name by which the hosts of a test know their one parent.
PARENT = "in process"
#: The key of the function that stands around a step that a test calls by itself.
_CALLED = "called"


class Clock:
    """A clock that stands still, but for what a test lets pass and for a millisecond with each thing that happens.

    It counts milliseconds, as SQLite's does, so that what is due at a moment is due at exactly that moment.
    """

    def __init__(self) -> None:
        self._now = round(time.time() * 1000)
        #: The milliseconds that went by without anybody asking for it.
        self.ticks = 0

    def microseconds(self) -> int:
        """Microseconds since 1970, as the journal counts."""
        return self._now * 1000

    def tick(self) -> None:
        """Something happens: what follows is later."""
        self._now += 1
        self.ticks += 1

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += math.ceil(max(0.0, seconds) * 1000)

    def move_to(self, moment: int) -> None:
        """Lets time pass until a moment, in microseconds."""
        self._now = max(self._now, -(-moment // 1000))

    def julian_day(self, *_: Any) -> float:
        """SQLite's `julianday('now')`, which is what the journal reads the time from."""
        return self._now / 86_400_000 + 2_440_587.5


class Bound(Protocol):
    """A binding, as a test redirects it."""

    journal: Journal
    host: Host
    engine: Any
    settings: Any


class Driver(Protocol):
    """One engine, as a test redirects it: what a binding's own room knows of how its messages are kept and run here."""

    #: The binding that `install()` made.
    binding: Any
    #: The engine that stands in for the binding's own.
    engine: Any
    #: The engine's own context variables that are unset while something else runs.
    variables: Sequence[ContextVar[Any]]

    def enter(self, here: Harness, put: Patches) -> None:
        """Redirects the engine for as long as the stack behind *put* stands."""

    def pull(self) -> Callable[[], None] | None:
        """The next message that is due, where the engine keeps its messages itself; None where there is none."""

    def moments(self) -> list[int]:
        """Returns when messages become due that the engine keeps itself."""

    def record_death(self) -> None:
        """Does what the engine does when it sees that the process that ran its message was killed."""


class Patches:
    """Sets attributes until the stack unwinds."""

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.undo = undo

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Sets one, and puts back what was there."""
        before = getattr(owner, name)
        setattr(owner, name, value)
        self.undo.callback(setattr, owner, name, before)


@dataclass(order=True)
class _Waiting:
    """Something that is not run yet: a message, or a call that the test made."""

    due: int
    number: int
    run: Callable[[], None] = field(compare=False)
    again: bool = field(compare=False, default=True)


class _Sent:
    """An engine; a function that the test called by itself has no message, and is called again instead."""

    def __init__(self, engine: Engine, here: Harness) -> None:
        self._engine = engine
        self._here = here

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> None:
        """As the engine does."""
        if not self._here.call_again(run.ref):
            self._engine.send_step(run, step, steps)


class Harness:
    """Runs the messages of its engines in this process while it is entered.

    Args:
        journal: an empty journal on SQLite.
        drivers: the engines; the first is the one whose functions a test calls by themselves.
    """

    def __init__(self, journal: Journal, drivers: Sequence[Driver]) -> None:
        self.journal = journal
        self.drivers = list(drivers)
        self.clock = Clock()
        #: Messages for tasks that this process does not have: (name, args, kwargs).
        self.elsewhere: list[tuple[str, list[Any], dict[str, Any]]] = []
        self._engines: list[Any] = [_Sent(driver.engine, self) for driver in self.drivers]
        self._sweeper = Sweeper(journal, self._engines, stale=NEVER, beat=NEVER)
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._called: dict[str, Callable[[], Any]] = {}
        self._depth = 0
        self._undo = contextlib.ExitStack()
        self._variables = [variable for driver in self.drivers for variable in driver.variables]

    def __enter__(self) -> Harness:
        self.journal.db.on_connect = self._prepare
        with contextlib.ExitStack() as undo:
            put = Patches(undo)
            for driver, engine in zip(self.drivers, self._engines, strict=True):
                binding: Bound = driver.binding
                put.attribute(binding, "journal", self.journal)
                put.attribute(binding, "host", self._new_host(binding, engine))
                put.attribute(binding, "engine", engine)
                put.attribute(binding, "settings", replace(binding.settings, mode=Mode.ENFORCE))
                driver.enter(self, put)
            OUTSIDE.append(self)
            undo.callback(OUTSIDE.remove, self)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        hosts = [driver.binding.host for driver in self.drivers]
        self._undo.close()
        for host in hosts:
            host.stop()
        self.journal.close()

    def _new_host(self, binding: Bound, engine: Engine) -> Host:
        version = binding.settings.code_version
        host = Host(self.journal, engine, parent=PARENT, stale=NEVER, beat=NEVER, code_version=version)
        host.near = NEVER
        host.pause = self.clock.move
        return host

    def _prepare(self, connection: Any) -> None:
        connection.create_function("julianday", 1, self.clock.julian_day)
        connection.execute("PRAGMA synchronous=OFF")  # nobody cuts a test's power

    @property
    def host(self) -> Host:
        """The process, as the journal sees it, of what the test calls by itself."""
        found: Host = self.drivers[0].binding.host
        return found

    def marked(self, engine: str) -> Marked:
        """Returns what is marked on one of the engines."""
        driver = next((driver for driver in self.drivers if driver.engine.name == engine), self.drivers[0])
        found: Marked = driver.binding.registry
        return found

    # Messages

    @property
    def is_empty(self) -> bool:
        """Whether no message waits."""
        return not self._waiting

    @property
    def is_idle(self) -> bool:
        """Whether it is the test that runs now, and no task."""
        return self._depth == 0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A block that is no longer the test's own, although nothing was taken from a queue."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def push(self, run: Callable[[], None], delay: float = 0.0, *, again: bool = True) -> None:
        """Keeps a message.

        Args:
            run: delivers it.
            delay: seconds for which it is put off.
            again: where its process is killed, it is delivered once more, as a broker does that was told of no end.
        """
        due = self.clock.microseconds() + int(delay * SECOND)
        heapq.heappush(self._waiting, _Waiting(due, next(self._numbers), run, again))

    @property
    def is_due(self) -> bool:
        """Whether a message is due; one that an engine keeps itself is taken over."""
        if not (self._waiting and self._waiting[0].due <= self.clock.microseconds()):
            pulled = next((found for driver in self.drivers if (found := driver.pull()) is not None), None)
            if pulled is None:
                return False
            self.push(pulled, again=False)
        return True

    def run_next(self) -> bool:
        """Runs what is due first, in a context in which no workflow and no task is current; False where nothing is due."""
        if not self.is_due:
            return False
        waiting = heapq.heappop(self._waiting)
        self.clock.tick()
        try:
            with self.busy():
                afresh(waiting.run, *self._variables)
        except Killed as killed:
            # The death of what stands for a worker's process is written, and a broker gives out again what it ran.
            logger.info("process_killed msg=%r", str(killed))
            self.journal.workers.child_died(PARENT, os.getpid(), "it was killed by the test")
            for driver, engine in zip(self.drivers, self._engines, strict=True):
                driver.binding.host.stop()
                driver.binding.host = self._new_host(driver.binding, engine)
                driver.record_death()
            if waiting.again:
                self.push(waiting.run)
        return True

    # Time

    def settle(self) -> None:
        """Runs and sweeps until nothing more happens without time passing."""
        for _ in range(ROUNDS):
            while self.run_next():
                pass
            for driver in self.drivers:
                driver.binding.host.beat()
            if not self._sweeper.sweep().did_anything and not self.is_due:
                return
        raise NotFinished(f"the tasks of this test still send each other messages after {ROUNDS} rounds")

    def advance(self, seconds: float) -> None:
        """Lets time pass, and fires what becomes due in between in its order."""
        target = self.clock.microseconds() + int(seconds * SECOND) - self.clock.ticks * 1000
        self.settle()
        while (moment := self._next_moment()) is not None and moment <= target + self.clock.ticks * 1000:
            self.clock.move_to(moment)
            self.settle()
        self.clock.move_to(target + self.clock.ticks * 1000)
        self.settle()

    def _next_moment(self) -> int | None:
        """The next time, after now, at which anything is due."""
        now = self.clock.microseconds()
        moments = [waiting.due for waiting in self._waiting]
        moments += [moment for driver in self.drivers for moment in driver.moments()]
        runs = self.journal.reads.unfinished(limit=10_000)
        for run in runs:
            moments += [at for at in (run.wake_at, run.next_check_at) if at is not None]
        for steps in self.journal.reads.steps_of([run.ref for run in runs]).values():
            moments += [step.next_check_at for step in steps if step.next_check_at is not None and step.status in OPEN_STEPS]
        return min((moment for moment in moments if moment > now), default=None)

    # Calls by the test itself

    def call_step(
        self, policy: StepPolicy, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A plain function marked as a step that the test calls: a workflow of one step. Inside a task it runs plain."""
        if not self.is_idle:
            self.refuse_beside(name)
            return function(*args, **kwargs)
        return self.call(name, lambda: FUNCTION.get().call_step(policy, name, function, args, kwargs))  # type: ignore[union-attr]

    def refuse_beside(self, name: str) -> None:
        """Raises where a step is called in another thread than the one that runs a function: here, nothing else starts any.

        Raises:
            NotInWorkflow: it would run plainly, and again on each replay.
        """
        why = beside(name) if self._depth == 1 else None
        if why is not None:
            raise NotInWorkflow(why)

    def call(self, name: str, body: Callable[[], Any]) -> Any:
        """Runs a function as a workflow function of its own.

        Raises:
            NotFinished: it has no outcome yet, because it waits for something.
        """
        ref = new_ref()
        run = WorkflowRow(
            ref=ref, namespace=self.journal.namespace, id=f"{name}.{ref[-8:]}", run=1, name=name, shape=Shape.FUNCTION,
            engine=self.host.engine.name, mode=Mode.ENFORCE, status=WorkflowStatus.RUNNING, open_steps=1,
        )  # fmt: skip
        row = StepRow(ref=ref, key=_CALLED, position=0, name=name, kind=Kind.FUNCTION, status=StepStatus.PLANNED)
        self.journal.starts.start(run, [row])
        given: dict[str, Any] = {"policy": StepPolicy(), "kind": Kind.FUNCTION, "args": (), "kwargs": {}}
        self._called[ref] = lambda: run_function(self.host, Call(ref=ref, key=_CALLED, name=name, body=lambda _: body(), **given))
        self.call_again(ref)
        self.settle()
        return self._outcome_of_call(ref)

    def call_again(self, ref: str) -> bool:
        """Calls a function again that the test called; False where the run is none of those."""
        if ref not in self._called:
            return False
        self.push(lambda: self._call(ref))
        return True

    def _call(self, ref: str) -> None:
        try:
            self._called[ref]()
        except (Deferred, Exception) as error:
            logger.debug("call_ended run=%s error=%r", ref, error)

    def _outcome_of_call(self, ref: str) -> Any:
        row = self.journal.claims.get(ref, _CALLED)
        assert row is not None
        if row.status is StepStatus.SUCCEEDED:
            return decode(row.outcome)
        if row.status is StepStatus.FAILED:
            raise read_failure(row.error)
        raise NotFinished(self.waits(ref))

    def unfinished_of(self, task_id: str) -> str | None:
        """The unfinished run that has a task."""
        for run in self.journal.reads.unfinished(limit=10_000):
            if any(step.task_id == task_id for step in self.journal.reads.steps(run.ref)):
                return run.ref
        return None

    def waits(self, ref: str) -> str:
        """Returns what a run waits for, in words, and what to do about it in a test."""
        run, steps = self.journal.reads.run(ref), self.journal.reads.steps(ref)
        assert run is not None
        held = [step for step in steps if step.status is StepStatus.HELD]
        if held:
            return f"workflow {run.id}: step {held[0].name} is held: {held[0].evidence or held[0].doubt}"
        now = self.clock.microseconds()
        dues = [
            step.next_check_at
            for step in steps
            if step.next_check_at is not None and step.next_check_at > now and step.status in OPEN_STEPS
        ]
        dues += [waiting.due for waiting in self._waiting if waiting.due > now]
        dues += [moment for driver in self.drivers for moment in driver.moments() if moment > now]
        if not dues and run.status in OPEN_WORKFLOWS and run.next_check_at is not None:
            dues = [run.next_check_at]
        when = f"; the next thing is due in {(min(dues) - now) / SECOND:.0f} s: call advance() with as many" if dues else ""
        return f"workflow {run.id} is not finished ({', '.join(f'{s.name} {s.status}' for s in steps)}){when}"
