"""The inline binding: workflows that run in the process that starts them, without any queue.

For scripts, management commands and cron jobs: `install(journal=...)`, then `start("order-42", fulfil, 42)` runs the function
here, as far as it goes. The journal is all that remembers: what waits, and what a dead process left behind, is gone on with by
`work()`, in this process or in the next. It holds no rule of durability.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .current import FUNCTION
from .declare.policy import StepPolicy
from .errors import DeclarationError, Deferred, NotFinished, UnsupportedCanvas
from .model import StepRow, StepStatus, WorkflowRow, forward, new_ref
from .recovery import Sweeper
from .runtime.alerts import explain
from .runtime.binding import LOOK_AFTER, BaseBinding
from .runtime.calls import Call
from .runtime.contexts import afresh
from .runtime.deliveries import awaited, unmarked_ended
from .runtime.engine import EngineOutcome, message_of
from .runtime.functions import FunctionRun, run_function
from .runtime.handles import Found, find
from .runtime.kinds.declared import DeclaredCall
from .runtime.kinds.dispatch import Dispatch
from .runtime.marked import Named, dotted_name
from .runtime.plans import Member, arguments_of, compensation_options, encode_member, recorded, undo_call
from .runtime.publication import publication, publishing
from .runtime.starting import (
    AlreadyStarted,
    check_id,
    current_step,
    dispatching,
    identity_here,
    planned,
    start_run,
    started_before,
)
from .runtime.steps import run_step
from .runtime.values import read_failure
from .settings import Settings, load

__all__ = ["Handle", "Planned", "call", "enqueue", "handle", "install", "installed", "start", "uninstall", "work"]

logger = logging.getLogger("durable_adapter")

#: The name of the queue that every step has here.
QUEUE = "inline"
#: Seconds between two looks of `work()` at what is due.
LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Planned:
    """One call of a canvas that is about to be started."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Handle(Found):
    """One workflow that was started here, or found again by its id."""

    def result(self) -> Any:
        """Returns what the function returned, or the last call of a chain.

        Raises:
            NotFinished: it waits: for time to pass, for a person, or for `work()`.
            Exception: what it failed with, as it was recorded.
        """
        members = forward(self.steps())
        function = [s for s in members if s.kind.makes_calls]
        failed = function or [s for s in members if s.status is StepStatus.FAILED]
        last = (failed or members)[0 if failed else -1]
        if last.status is StepStatus.SUCCEEDED:
            return recorded(installed().registry, last)
        if last.status is StepStatus.FAILED:
            raise read_failure(last.error)
        statuses = ", ".join(f"{s.name} {s.status}" for s in members)
        raise NotFinished(f"workflow {self.id} is {self.status} ({statuses}): see `{explain(None, self.id)}`")


@dataclass(frozen=True, slots=True)
class Dispatched:
    """A step that a workflow function sent: it runs when the function waits for it, or has ended."""

    id: str

    def result(self) -> Any:
        """Its result; the function is suspended until it is there.

        Raises:
            NotFinished: it is asked for outside of the function that sent it.
        """
        function = FUNCTION.get()
        if not isinstance(function, FunctionRun) or not function.dispatched(self.id):
            raise NotFinished(f"the result of dispatched step {self.id} is for the workflow function that sent it")
        return function.wait_for(self.id)


@dataclass(frozen=True, slots=True)
class Plain:
    """The value of what ran while the plugin is off."""

    value: Any

    def result(self) -> Any:
        """Returns what the last call returned."""
        return self.value


class InlineEngine:
    """The engine protocol for one process."""

    name = "inline"
    hands_results_on = False
    cannot_suspend: str | None = None

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> None:
        """Has a step run here, soon."""
        step = message_of(run, step, steps)
        self._binding.post(run.ref, step.key, again=True)

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether nothing waits to be run here."""
        return not self._binding.waiting

    def is_gone(self, step: StepRow) -> bool | None:
        """Whether a step does not wait here. It may in another process, which nobody can ask: one of the two gets the claim."""
        return all((ref, key) != (step.ref, step.key) for ref, key, _ in self._binding.waiting)

    def out_of_reach(self, step: StepRow) -> str | None:
        """Returns None: what runs here is sent here."""
        return None

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """Returns None: there is no result store but the journal."""
        return None

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """Returns what a step's row keeps of its compensation."""
        return compensation_options(self._binding.registry, policy)

    def say_held(self, step: StepRow, why: str) -> None:
        """Does nothing: the journal says it."""

    def knows(self, name: str) -> bool:
        """Whether this process can import a function of that name."""
        return self._binding.registry.function(name) is not None

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Does nothing: a cancelled step is not run when its turn comes."""


class Local(threading.local):
    """The steps that one thread has to run, and whether it is running something."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[str, str, bool]] = deque()
        self.depth = 0


class Binding(BaseBinding):
    """The state of this process."""

    installed: ClassVar[list[Binding]] = []
    registry: Named

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Named(), InlineEngine, look_after=LOOK_AFTER)
        self.queues = [QUEUE]
        self._sweeper = Sweeper(
            self.journal,
            [self.engine],
            stale=settings.stale,
            beat=settings.beat,
            retention=settings.retention,
            queues=lambda: [QUEUE],
        )
        self._sweeping = threading.Lock()
        self._local = Local()
        #: Has a step run later and elsewhere than here: set by the test journal.
        self.elsewhere: Callable[[Callable[[], None]], None] | None = None

    @property
    def waiting(self) -> deque[tuple[str, str, bool]]:
        """The steps that this thread still has to run."""
        return self._local.waiting

    def register(self) -> None:
        """Makes this the process's binding."""
        super().register()
        atexit.register(self._exit)

    def uninstall(self) -> None:
        """Takes it out again."""
        atexit.unregister(self._exit)
        self._exit()
        super().uninstall()

    def _exit(self) -> None:
        """The process ends by itself: what it had begun is over, and nobody waits for its beat."""
        with contextlib.suppress(Exception):
            self._sweeper.stop()
        self.host.stop()

    def publish(self, calls: Sequence[Planned]) -> Handle | Dispatched | Plain:
        """Starts a run, or inside of a workflow function dispatches a step."""
        names = [dotted_name(p.function) for p in calls]
        registry = self.registry
        marked = [registry.learn(name, p.function) for name, p in zip(names, calls, strict=True)]
        if self.is_off:
            values = [awaited(p.function(*p.args, **p.kwargs)) for p in calls]
            return Plain(values[-1])
        self._refuse(calls, names, marked)
        function = dispatching(registry, names[0])
        if function is not None:
            return self._dispatch(function, calls, names[0], marked=marked[0])
        return self._start(calls, names)

    def _refuse(self, calls: Sequence[Planned], names: Sequence[str], marked: Sequence[bool]) -> None:
        """Raises where what is to be started cannot be made durable."""
        for p, name in zip(calls, names, strict=True):
            if self.registry.function(name) is None:
                raise DeclarationError(
                    f"{p.function!r} cannot be found again under the name {name}: a process that goes on with this workflow "
                    "has to import it. Make it a function of a module."
                )
        if not any(marked):
            raise DeclarationError(
                f"{', '.join(names)}: nothing here is durable. Mark what has effects with @durable.step, or the function with "
                "@durable.workflow; or call it."
            )
        functions = [name for name in names if name in self.registry.workflows]
        if functions and len(names) > 1:
            raise UnsupportedCanvas(
                f"{functions[0]} is a workflow function and stands in a chain: a workflow function is started by itself. Call "
                "what belongs together in its body. Nothing was started."
            )

    def _start(self, calls: Sequence[Planned], names: Sequence[str]) -> Handle:
        inside = identity_here(names[0]) if publication().workflow_id is None else None
        ids = [inside.task_id if inside is not None and not n else str(uuid.uuid4()) for n in range(len(calls))]
        members = [
            Member(name, p.args, p.kwargs, task_id=task_id, immutable=True, queue=QUEUE)
            for name, p, task_id in zip(names, calls, ids, strict=True)
        ]
        step = current_step()
        run, steps = planned(self.host, self.registry, members, ref=inside.ref if inside is not None else new_ref())

        def send() -> bool:
            self.post(run.ref, steps[0].key, again=False)
            return True

        started, _ = start_run(self.host, run, steps, send=send, inside=inside is not None)
        existing = run if started else started_before(self.host, run)
        if started and (step is None or step.outbox is None):
            self.drain()
        return Handle(self.journal, existing)

    def _dispatch(self, function: FunctionRun, calls: Sequence[Planned], name: str, *, marked: bool) -> Dispatched:
        if len(calls) > 1:
            raise UnsupportedCanvas(
                f"a workflow function starts a chain that begins with {name}: its calls would have other ids on every wake. Call "
                "the functions one after the other, or start the chain under an id: inline.start('...', ...)."
            )
        (p,) = calls
        if not marked:
            raise DeclarationError(
                f"{name} is not durable: inside of a workflow function, call it, or mark it with @durable.step"
            )
        runs = self.registry.function(name)
        assert runs is not None

        def message(task_id: str, _key: str) -> bytes:
            return encode_member(Member(name, p.args, p.kwargs, task_id=task_id, immutable=True, queue=QUEUE))

        def send(task_id: str, key: str) -> str:
            self.post(function.ref, key, again=False)
            return task_id

        policy = self.registry.policy(name)
        call = DeclaredCall(policy, name, runs, p.args, p.kwargs)
        return Dispatched(str(function.call(Dispatch(call, self.engine, QUEUE, message, send))))

    def post(self, ref: str, key: str, *, again: bool) -> None:
        """Has a step run when what runs now has ended."""
        if self.elsewhere is not None:
            self.elsewhere(lambda: self.deliver(ref, key, again=again))
        elif (ref, key) not in [(r, k) for r, k, _ in self.waiting]:
            self.waiting.append((ref, key, again))

    def drain(self) -> int:
        """Runs what waits here, unless something runs: then it is run after that. Returns how much it was."""
        local = self._local
        ran = 0
        if self.elsewhere is not None or local.depth:
            return ran
        local.depth += 1
        try:
            while local.waiting:
                ref, key, again = local.waiting.popleft()
                afresh(lambda ref=ref, key=key, again=again: self.deliver(ref, key, again=again))  # type: ignore[misc]
                ran += 1
        finally:
            local.depth -= 1
        return ran

    def work(self, seconds: float) -> int:
        """Runs whatever is due, for so long."""
        until = time.monotonic() + seconds
        ran = 0
        while True:
            with self._sweeping:
                report = self._sweeper.sweep()
            ran += self.drain()
            if report.did_anything:
                continue
            left = until - time.monotonic()
            if left <= 0:
                return ran
            time.sleep(min(left, LOOK_EVERY, self.settings.sweep_every))

    def deliver(self, ref: str, key: str, *, again: bool) -> None:
        """Runs one step as a worker would, and has what follows it run."""
        run = self.host.patient.reads.run(ref)
        steps = self.host.patient.reads.steps(ref)
        step = next((s for s in steps if s.key == key), None)
        if run is None or step is None:
            return
        function = self.registry.function(step.name)
        if function is None:
            why = "There is no such function here. Import it, then call work()"
            logger.error("step_not_run run=%s step=%s msg=%r", ref, step.name, why)
            return
        try:
            self._run(run, step, steps, function, again=again)
        except Deferred as left:
            logger.info("step_deferred workflow=%s step=%s msg=%r", run.id, step.name, str(left))
        except Exception as error:
            logger.warning("step_failed workflow=%s step=%s error=%s msg=%r", run.id, step.name, type(error).__name__, str(error))
        else:
            self._follow(step, steps)

    def _run(
        self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow], function: Callable[..., Any], *, again: bool
    ) -> None:
        if step.kind.undoes:
            args, kwargs, _ = undo_call(self.registry, run, next(s for s in steps if s.key == step.target), steps)
        else:
            args, kwargs = arguments_of(self.registry, run, step, steps)
        if not step.kind.marked:
            self._unmarked(step, lambda: awaited(function(*args, **kwargs)))
            return
        self.registry.learn(step.name)
        call = Call(
            ref=step.ref,
            key=step.key,
            name=step.name,
            policy=self.registry.policy(step.name),
            kind=step.kind,
            args=tuple(args),
            kwargs=kwargs,
            body=lambda _: awaited(function(*args, **kwargs)),
            completes_run=step.completes_run,
            again=again,
        )
        if step.kind.makes_calls:
            run_function(self.host, call)
        else:
            run_step(self.host, call)

    def _unmarked(self, step: StepRow, body: Callable[[], Any]) -> None:
        """A member without a mark: run as it is, and its end recorded; not once more where that has been."""
        if step.status is not StepStatus.PLANNED:
            return
        try:
            value = body()
        except Exception as error:
            unmarked_ended(self.host, step.ref, step.key, step.name, error=error)
            raise
        unmarked_ended(self.host, step.ref, step.key, step.name, value=value)

    def _follow(self, step: StepRow, steps: Sequence[StepRow]) -> None:
        """The next member of a chain."""
        if not step.kind.member:
            return
        following = next((s for s in steps if s.position == step.position + 1 and not s.kind.undoes), None)
        if following is not None:
            self.post(following.ref, following.key, again=False)


def install(journal: str | None = None, **options: Any) -> Binding:
    """Makes this process able to run durable functions by itself.

    Args:
        journal: SQLAlchemy URL of the journal; else from the environment, or from pyproject.toml.
        **options: any other setting by name: `namespace`, `schema`, `mode`, `stale`, `beat`, `resend_after`, `retention`,
            `pool_size`, `code_version`. Times in seconds.

    Returns:
        The binding. Without arguments, the one that is installed already.

    Raises:
        NotInstalled: no journal is named anywhere.
        SettingError: a setting is unknown or has a value that is not accepted.
        InstallConflict: it was installed before with other settings.

    Example:
        >>> binding = install("sqlite:////tmp/durable-doctest-inline.db")
        >>> uninstall()
    """
    here = Binding.installed
    if here and journal is None and not options:
        return here[-1]
    settings = load({"journal": journal, **options})
    if here:
        here[-1].refuse_others(settings, room="inline", where="in this process", undo="uninstall()")
        return here[-1]
    made = Binding(settings)
    made.register()
    return made


def uninstall() -> None:
    """Takes the binding out; nothing where it was not installed."""
    Binding.uninstall_all()


def installed() -> Binding:
    """The binding of this process.

    Raises:
        NotInstalled: `install()` was not called.
    """
    return Binding.latest(
        "durable-adapter is not installed in this process: call durable_adapter.inline.install(journal=...) before "
        "the first start"
    )


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Planned:
    """A call that is to be a member of a chain."""
    return Planned(function, args, kwargs)


def enqueue(function: Callable[..., Any] | Planned, *args: Any, **kwargs: Any) -> Any:
    """Starts a workflow: one durable function, or several calls one after the other.

    Inside of a workflow function it dispatches a step, which runs when the function waits or has ended.

    Args:
        function: a function that is marked with `@durable.step` or `@durable.workflow`, and its arguments; or calls that
            `call()` made, which then run one after the other.
        *args: the function's arguments, or the further calls.
        **kwargs: the function's arguments.

    Returns:
        A `Handle`, after it has run as far as it goes. Inside of a workflow function, what has the step's `result()`.

    Raises:
        DeclarationError: nothing of it is durable, or it cannot be found by its name.
        JournalUnreachable: the journal is away; nothing was begun (P10).

    Example:
        >>> enqueue(call(charge, 42), call(ship, 42)).result()  # doctest: +SKIP
    """
    return installed().publish(_planned(function, args, kwargs))


def start(workflow_id: str, function: Callable[..., Any] | Planned, *args: Any, **kwargs: Any) -> Any:
    """Starts a workflow under an id that the business knows; the same id twice gives one run (P5).

    Args:
        workflow_id: such as `order-42`; at most 200 characters.
        function: as `enqueue()` takes it.
        *args: likewise.
        **kwargs: likewise.

    Returns:
        A `Handle`, after it has run as far as it goes. A second start runs nothing and returns the first one's.

    Raises:
        SameIdOtherArguments: the id was started before with other work.
        DeclarationError: nothing of it is durable, or the id is not usable.
        JournalUnreachable: the journal is away; nothing was begun (P10).
    """
    check_id(workflow_id)
    here = installed()
    planned = _planned(function, args, kwargs)
    try:
        with publishing(workflow_id=workflow_id):
            return here.publish(planned)
    except AlreadyStarted as before:
        return Handle(here.journal, before.run)


def handle(workflow_id: str) -> Handle:
    """Finds a workflow by its id.

    Raises:
        UnknownWorkflow: the journal has none under that id.
    """
    here = installed()
    return Handle(here.journal, find(here.journal, workflow_id))


def work(seconds: float = 0.0) -> int:
    """Runs whatever of this binding's is due: sleeps that are over, retries, what a dead process left.

    Args:
        seconds: for how long to go on; 0 runs what is due now. To see that another process died, it takes longer than
            `stale`, or a sweeper that runs elsewhere.

    Returns:
        How many times something was run.
    """
    return installed().work(seconds)


def _planned(function: Callable[..., Any] | Planned, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Planned]:
    if not isinstance(function, Planned):
        if not callable(function):
            raise DeclarationError(
                f"{function!r} is no function: give a marked function and its arguments, or calls made by call()"
            )
        return [Planned(function, args, kwargs)]
    if kwargs or not all(isinstance(other, Planned) for other in args):
        raise DeclarationError("a chain is made of calls alone: give call(charge, 42), call(ship, 42) and nothing else")
    return [function, *args]
