"""A workflow function: runs from the top on every wake; what finished is handed back from the journal.

Every call it makes has a key (its name and occurrence, or one that was given) and a position, by which a change of the
code is noticed. Once suspended a run is closed: every later journaled call raises the same suspension before touching
the journal or user code.
"""

from __future__ import annotations

import inspect
import logging
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..codec import Stored, mask
from ..current import FUNCTION, RUNNING, STEP
from ..declare import checking
from ..declare.effects import causes, is_refusal
from ..declare.policy import StepPolicy, template_fields
from ..errors import (
    CannotSuspend,
    DeclarationError,
    Deferred,
    NotInWorkflow,
    NotReadable,
    SameKeyTwice,
    StepUndone,
    Suspended,
    UnserialisableValue,
    WorkflowChanged,
)
from ..model import (
    OPEN_STEPS,
    SECOND,
    SLEEPS,
    Effect,
    Kind,
    Safety,
    StepRow,
    StepStatus,
    bounded_key,
    call_key,
    derive,
    is_storable,
    new_token,
)
from . import alerts
from .calls import Call, awaited, declines_nothing, refuse_inside_event_loop
from .marked import compensation_name
from .publication import publishing
from .steps import _described, _look, _refuse_misfit, follow, memo, run_step
from .unreadable import left_alone
from .values import arguments_fingerprint, decode, encode, encode_for, read_failure, write_failure

if TYPE_CHECKING:
    from .engine import Engine
    from .host import Host

logger = logging.getLogger("durable_adapter")

#: A sleep's name in the journal.
SLEEP = "sleep"


def run_function(host: Host, call: Call) -> Any:
    """Runs a workflow function, or hands back its recorded result.

    Raises:
        Deferred: it waits for something, or is held; nothing is lost.
        Exception: the function's own final error, recorded before it is raised.
    """
    with host.shielded(), left_alone():
        return _run(host, call)


def _run(host: Host, call: Call) -> Any:
    host.fit_to_begin()
    steps = host.beginning.reads.steps(call.ref)
    own = next((s for s in steps if s.key == call.key), None)
    if own is None:
        own = _look(host, call)  # adopts a message without a run, or refuses one whose run is unknown
        steps = host.beginning.reads.steps(call.ref)
    _refuse_misfit(host, call, own)
    match own.status:
        case StepStatus.SUCCEEDED:
            return memo(host, call, own)
        case StepStatus.FAILED:
            raise read_failure(own.error)
        case StepStatus.CANCELLED:
            raise Deferred(f"workflow {call.name} was cancelled")
        case StepStatus.IN_DOUBT | StepStatus.HELD:
            raise Deferred(f"workflow {call.name} is held: {own.evidence or own.doubt}", held=True)
        case StepStatus.UNDONE:
            raise StepUndone(f"workflow {call.name} was undone")
    call.take_turn()
    call.row = own
    if own.status is StepStatus.WAITING:  # of its own retry; that it waits for something is cleared by what it does next
        host.patient.runs.woken(call.ref, call.key)
    run = FunctionRun(host, call, steps)
    token = new_token()
    with host.runs(call.ref, call.key, token):
        try:
            value = run.execute()
            run.join()
        except Suspended:
            raise
        except Exception as error:
            _failed(host, call, own, error, run)
            raise
        return _finished(host, call, own, token, value)


def _finished(host: Host, call: Call, own: StepRow, token: str, value: Any) -> Any:
    try:
        outcome = encode_for(host.patient, value, call.policy.codec)
    except UnserialisableValue as error:
        reason = f"the function finished, but its result cannot be recorded: {error}"
        hold = alerts.hold_without_value
        held = hold(host.patient, host.engine, own, None, reason, who=host.worker)
        raise Deferred(reason, held=held) from error
    worker = host.worker
    if host.patient.ends.succeed_unclaimed(call.ref, call.key, token, worker, outcome, completes_run=True):
        return decode(outcome, call.policy)
    row = host.patient.claims.get(call.ref, call.key)
    if row is not None and row.status is StepStatus.SUCCEEDED:
        return decode(row.outcome, call.policy)
    raise Deferred(f"workflow {call.name} was decided otherwise while it ran")


def _failed(host: Host, call: Call, own: StepRow, error: Exception, run: FunctionRun) -> None:
    """The function's own error: tried again if the engine wants to, since its steps are memos; else it fails for good.

    Where the error is a step's whose effect is unknown, the engine asks to repeat that step: it is in doubt instead.
    """
    retry_request = call.retry_request(error) if not is_refusal(error) else None
    ends = host.patient.ends
    if retry_request is not None:
        _refuse_to_repeat(host, call, run.failed_with(retry_request.error or error), retry_request.error or error)
        failure = write_failure(retry_request.error or error)
        why = _described(retry_request.error or error)
        if ends.try_again(own, None, retry_request.delay, failure, why, sent=True):
            retry_request.send()
        return
    failure = write_failure(error)
    why = _described(error)
    ended = ends.fail(own, None, failure, Effect.DID_NOT_HAPPEN, fails_run=True, why=why)
    follow(host, call, ended)


def _refuse_to_repeat(host: Host, call: Call, key: str | None, error: BaseException) -> None:
    """Holds the step whose error the engine wants to answer with a repetition, if its effect may have happened.

    Raises:
        Deferred: it is held now.
    """
    row = host.patient.claims.get(call.ref, key) if key is not None else None
    if row is None or row.status is not StepStatus.FAILED or row.effect is not Effect.UNKNOWN:
        return
    why = f"its attempt ended in {_described(error)}; whether its effect happened is unknown"
    if not host.patient.doubts.doubt_failed(row, why, who=host.worker):
        return
    alerts.hold(host.patient, host.engine, row, why, who=host.worker)
    raise Deferred(f"step {row.name} is held: {why}", held=True) from error


class FunctionRun:
    """One wake of a workflow function."""

    def __init__(self, host: Host, call: Call, steps: list[StepRow]) -> None:
        self.ref = call.ref
        self._host = host
        self._call = call
        self._recorded = {s.key: s for s in steps if not (s.kind.makes_calls or s.kind.undoes)}
        self._at = {s.position: s for s in self._recorded.values()}
        #: What the code says of the steps that it dispatched in this wake, by task id.
        self._dispatched: dict[str, StepPolicy] = {}
        self._by_task = {s.task_id: s for s in steps if s.kind.awaited and s.task_id}
        self._occurrences: dict[str, int] = {}
        #: The number of each call of this wake, by its key.
        self._called: dict[str, int] = {}
        self._position = 0
        self._launched = 0
        self._closed: Suspended | None = None
        #: The thread that runs the body, once it does.
        self._thread: int | None = None
        #: Whether a step in place runs now, of which everything that is called is a part.
        self.is_inside_step = False
        self._failures: list[tuple[Exception, str]] = []
        #: The keys of the steps that this wake sent: whatever makes the function wait records that with its own commit.
        self._sent: list[str] = []

    def execute(self) -> Any:
        """Runs the user's function from the top."""
        previous = FUNCTION.set(self)
        self._thread = threading.get_ident()
        outer = RUNNING.get(self._thread)
        RUNNING[self._thread] = self
        try:
            with publishing(attributes=None), self._host.exposed():
                value = awaited(self._call.body(self._call))
        except Suspended:
            raise
        except Exception as error:
            if self._closed is not None:
                self._swallowed(error)
                raise self._closed from None
            raise
        finally:
            FUNCTION.reset(previous)
            if outer is None:
                del RUNNING[self._thread]
            else:
                RUNNING[self._thread] = outer
        if self._closed is not None:
            self._swallowed(None)
            raise self._closed
        return value

    @property
    def workflow(self) -> str:
        """What errors call it."""
        return f"{self._call.name} ({self.ref})"

    def _in_its_thread(self, what: str) -> None:
        """Raises where a thread that has the function's context makes a call of its own: its place among the others would be
        chance, and on a replay another.
        """
        if self._thread not in (None, threading.get_ident()):
            raise NotInWorkflow(
                f"{what} was called in thread {threading.current_thread().name!r}, which is not the one that runs workflow "
                f"{self.workflow}: the order of such calls would differ on each replay, so it was not begun. Call it in the "
                "function's own thread, or send steps with .delay(), which runs them at the same time."
            )

    def _swallowed(self, error: BaseException | None) -> None:
        place = traceback.extract_tb(self._closed.__traceback__)[-1:] if self._closed is not None else []
        frames = [f for f in traceback.extract_tb(getattr(self._closed, "__traceback__", None))
                  if "durable_adapter" not in f.filename] or list(place)  # fmt: skip
        where = f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else "its body"
        logger.warning(
            "suspension_caught run=%s msg=%r",
            self.ref,
            f"Workflow {self._call.name} caught its own suspension ({self._closed}) near {where}"
            f"{f' and went on to raise {error!r}' if error else ''}; it is suspended all the same. Handlers must let "
            "BaseException pass.",
        )  # fmt: skip

    def _suspend(self, suspension: Suspended) -> Suspended:
        self._closed = suspension
        return suspension

    def _next(self, kind: Kind, name: str, given: str | None) -> tuple[str, int, StepRow | None]:
        """The key and position of the next call, and what is recorded of it.

        Raises:
            Suspended: the run is closed, or this worker is shutting down.
            SameKeyTwice: an earlier call of this wake has the key.
            WorkflowChanged: another call was recorded at this position.
        """
        self._in_its_thread(name)
        if self._closed is not None:
            raise self._closed
        checking.step_name(f"workflow {self._call.name}", "the name of a call", name)
        if STEP.get() is not None:
            raise NotInWorkflow(f"{name} was called inside a running step, of which it is a part")
        occurrence = self._occurrences[name] = self._occurrences.get(name, 0) + 1
        key = bounded_key(call_key(name, occurrence, given))
        self._position += 1
        position = self._position
        before = self._called.setdefault(key, position)
        if before != position:
            raise SameKeyTwice(
                f"workflow {self._call.name} ({self.ref}) makes its calls number {before} and {position}, both to {name}, under "
                f"one key: {key}. The second would be given the first one's outcome and never run, so nothing of it was begun. "
                "Give each a key of its own: name a parameter in key= in which they differ."
            )
        found = self._recorded.get(key)
        there = self._at.get(position)
        if there is not None and there.key != key and (there.name != name or there.kind is not kind) and found is None:
            error = WorkflowChanged(
                f"workflow {self._call.name} ({self.ref}) was changed while it runs: call number {position} was "
                f"{there.kind} {there.name!r} ({there.key}) when it was recorded and is now {kind} {name!r} ({key}). "
                f"Deploy code in which it is {there.name!r} again, or finish the run with `durable-adapter cancel`."
            )
            self._stop_for(str(error))
            raise self._suspend(Deferred(str(error), held=True)) from error
        if found is None and self._host.is_stopping():
            raise self._suspend(self._leave_for_shutdown())
        return key, position, found

    def _stop_for(self, evidence: str) -> None:
        """Holds the whole workflow: its function no longer fits what is recorded."""
        own = self._call.row
        assert own is not None
        alerts.hold_for_drift(self._host.patient, self._host.engine, own, evidence)

    def _leave_for_shutdown(self) -> Deferred:
        journal = self._host.patient
        now = journal.time()
        journal.runs.suspend(self.ref, waiting_for="another worker", wake_at=now, sent=self._sent)
        return Deferred("this worker is shutting down; the workflow goes on elsewhere")

    def call_step(
        self,
        policy: StepPolicy,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        declines: Callable[[int, BaseException], bool] = declines_nothing,
    ) -> Any:
        """Runs a step in place, or hands back its recorded outcome; *declines* as in `Call`."""
        refuse_inside_event_loop(name, function)
        given = _given_key(policy, name, function, args, kwargs)
        key, position, found = self._next(Kind.STEP, name, given)
        print_ = _fingerprint(policy, function, args, kwargs)
        if found is not None:
            self._check_drift(policy, found, print_, args, kwargs)
        else:
            self._check_undo(policy, name, args, kwargs)
        call = Call(
            ref=self.ref,
            key=key,
            name=name,
            policy=policy,
            kind=Kind.STEP,
            args=args,
            kwargs=kwargs,
            body=lambda _: awaited(function(*args, **kwargs)),
            completes_run=False,
            again=self._call.again,
            declines=declines,
            new_row=lambda: self._row(Kind.STEP, key, position, name, policy, args, kwargs, print_, self._host.engine),
            row=found,
            facts=self._call.facts,
        )
        if found is not None and found.status is StepStatus.SUCCEEDED:
            return self._recorded_value(found, policy)
        self.is_inside_step = True
        try:
            return run_step(self._host, call)
        except Suspended as suspension:
            raise self._suspend(suspension) from None
        except Exception as error:
            self._failures.append((error, key))
            raise
        finally:
            self.is_inside_step = False

    def _recorded_value(self, row: StepRow, policy: StepPolicy | None) -> Any:
        """The value of a finished call.

        Raises:
            Suspended: this process cannot read it. The code has changed while the workflow runs, which is held.
        """
        try:
            return decode(row.outcome, policy)
        except NotReadable as error:
            evidence = (
                f"the recorded value of step {row.name} ({row.key}) cannot be read here: {error} Deploy code that reads it, then "
                "let the workflow go on with `durable-adapter retry`"
            )
            self._stop_for(evidence)
            raise self._suspend(Deferred(evidence, held=True)) from error

    def failed_with(self, error: BaseException) -> str | None:
        """The key of the step in place that raised an error, or what the error was made of; None where none did."""
        chain = list(causes(error))
        return next((key for raised, key in self._failures if any(raised is cause for cause in chain)), None)

    def dispatch(
        self,
        policy: StepPolicy,
        name: str,
        function: Callable[..., Any],
        queue: str | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        message: Callable[[str, str], bytes],
        send: Callable[[str, str], Any],
        engine: Engine,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """A step that runs in a worker of its own: recorded, then sent; does not wait.

        Args:
            policy: the step's declaration.
            name: the task's name.
            function: what it runs, for the names of its parameters.
            queue: the queue that it is sent to, where that is known.
            args: its arguments.
            kwargs: likewise.
            message: makes what sends it again, from its task id and key.
            send: publishes it, from its task id and key; returns what the caller of `.delay()` gets.
            engine: what sends it, and what would send its compensation.
            options: what else its row keeps.
        """
        given = _given_key(policy, name, function, args, kwargs)
        key, position, found = self._next(Kind.DISPATCH, name, given)
        print_ = _fingerprint(policy, function, args, kwargs)
        if found is not None:
            self._check_drift(policy, found, print_, args, kwargs)
            assert found.task_id is not None
            self._dispatched[found.task_id] = policy
            return self._sent_again(found, key, send)
        self._must_be_able_to_wait(f"sends {name} to a worker of its own, and has to wait for it at the latest when it returns")
        task_id = derive("dispatch", self.ref, key)
        row = self._row(Kind.DISPATCH, key, position, name, policy, args, kwargs, print_, engine)
        row.task_id, row.queue, row.message, row.token = task_id, queue, message(task_id, key), new_token()
        if engine.name != self._host.engine.name:
            row.engine = engine.name
        row.completes_run = True
        row.options |= options or {}
        if not self._host.beginning.claims.plan_new(row):
            row_now = self._host.patient.claims.get(self.ref, key)
            if row_now is None:
                raise self._suspend(Deferred(f"{name} may not begin: its workflow no longer goes forward"))
            row = row_now
        self._recorded[key] = row
        self._by_task[task_id] = row
        self._dispatched[task_id] = policy
        sent = send(task_id, key)
        self._sent.append(key)
        return sent

    def _sent_again(self, row: StepRow, key: str, send: Callable[[str, str], Any]) -> Any:
        """Sends a recorded step whose sending an earlier wake did not come to confirm; one that was sent is not sent again."""
        assert row.task_id is not None
        if row.status is not StepStatus.PLANNED or row.sent_at is not None or key in self._sent:
            return row.task_id
        sent = send(row.task_id, key)
        self._sent.append(key)
        return sent

    def key_of(self, task_id: str) -> str | None:
        """The key of a task that this function sent; None where it did not."""
        return next((row.key for row in self._recorded.values() if row.task_id == task_id), None)

    def dispatched(self, task_id: str) -> bool:
        """Whether a task id is that of a step that this function dispatched."""
        return task_id in self._by_task

    def send_once(self, name: str, send: Callable[[str], Any]) -> Any:
        """Sends an unmarked task from the function's body: its sending is recorded, so that no replay sends it again.

        Where sending fails, that is taken back: the function hears of it, and a later wake sends it.

        Args:
            name: the task's name.
            send: publishes it under the task id that it is given, and returns what the caller gets.
        """
        key, position, found = self._next(Kind.UNMARKED, name, None)
        task_id = derive("unmarked", self.ref, key)
        if found is None:
            row = StepRow(
                ref=self.ref, key=key, position=position, name=name, kind=Kind.UNMARKED, status=StepStatus.PLANNED,
                task_id=task_id, token=new_token(),
            )  # fmt: skip
            if self._host.beginning.claims.plan_new(row):
                try:
                    sent = send(task_id)
                except Exception:
                    self._host.patient.runs.leave(self.ref, key)
                    raise
                self._recorded[key] = row
                return sent
        return task_id

    def launch(self) -> int:
        """The ordinal of a run that the function's body starts beside itself: part of its derived ids."""
        self._in_its_thread("a start")
        if self._closed is not None:
            raise self._closed
        self._launched += 1
        return self._launched

    def wait_for(self, task_id: str) -> Any:
        """The result of a dispatched step; suspends the function until it is there."""
        if self._closed is not None:
            raise self._closed
        row = self._by_task[task_id]
        if row.status in OPEN_STEPS:
            key = row.key
            journal = self._host.patient
            suspended = journal.runs.suspend(self.ref, waiting_for=f"step:{key}", wake_at=None, unless_ended=key, sent=self._sent)
            if suspended:
                raise self._suspend(Deferred(f"workflow {self._call.name} waits for {row.name}"))
            fresh = journal.claims.get(self.ref, key)
            assert fresh is not None
            row = self._by_task[task_id] = self._recorded[key] = fresh
        if row.status is StepStatus.SUCCEEDED:
            return self._recorded_value(row, self._dispatched.get(task_id))
        if row.status is StepStatus.FAILED:
            raise read_failure(row.error)
        raise self._suspend(Deferred(f"{row.name} is {row.status}"))

    def sleep(self, seconds: float, key: str | None) -> None:
        """Waits without a worker: a timer in the journal."""
        key, position, found = self._next(Kind.SLEEP, SLEEP, key)
        journal = self._host.patient
        if found is None:
            self._must_be_able_to_wait(f"sleeps for {seconds:g} s")
            now = journal.time()
            row = StepRow(
                ref=self.ref, key=key, position=position, name=SLEEP, kind=Kind.SLEEP, status=StepStatus.WAITING,
                safety=Safety.IDEMPOTENT, look_at=now + int(seconds * SECOND),
            )  # fmt: skip
            if journal.runs.sleep(row, sent=self._sent):
                raise self._suspend(Deferred(f"workflow {self._call.name} sleeps for {seconds:g} s", wake_at=row.look_at))
            # Another wake of this function went to sleep here before, or the run was given up.
            found = journal.claims.get(self.ref, key)
            if found is None:
                raise self._suspend(Deferred(f"{SLEEP} may not begin: its workflow no longer goes forward"))
        if found.status is StepStatus.SUCCEEDED:
            return
        if found.status is not StepStatus.WAITING:
            raise self._suspend(Deferred(f"{found.name} is {found.status}"))
        now, wake_at = journal.time(), found.look_at or 0
        if wake_at > now:
            waits = journal.runs.suspend(
                self.ref, waiting_for=f"{SLEEPS}{key}", wake_at=wake_at, unless_ended=key, sent=self._sent
            )
            if waits:
                raise self._suspend(Deferred(f"workflow {self._call.name} still sleeps", wake_at=wake_at))
            return
        worker, nothing = self._host.worker, encode(None)
        journal.ends.succeed_unclaimed(self.ref, key, new_token(), worker, nothing, completes_run=False)

    def _must_be_able_to_wait(self, what: str) -> None:
        """Refuses a call that makes the function wait, where no worker can be given back: before anything of it happened.

        Raises:
            CannotSuspend: the engine cannot suspend it.
        """
        cannot = self._host.engine.cannot_suspend
        if cannot is not None:
            raise CannotSuspend(f"workflow {self._call.name} {what}; but {cannot}. Nothing of this call was sent or recorded")

    def join(self) -> None:
        """A function is complete only when what it dispatched is: waits for the rest of it."""
        still_open = [s for s in self._recorded.values() if s.kind.awaited and s.status in OPEN_STEPS]
        if not still_open:
            return
        if self._host.patient.runs.suspend(self.ref, waiting_for="steps", wake_at=None, unless_ended="*", sent=self._sent):
            raise self._suspend(Deferred(f"workflow {self._call.name} waits for {len(still_open)} dispatched steps"))

    def _row(
        self,
        kind: Kind,
        key: str,
        position: int,
        name: str,
        policy: StepPolicy,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        print_: str | None,
        engine: Engine,
    ) -> StepRow:
        """The row of a call; *engine* is what would send its compensation."""
        arguments: Stored | None
        try:
            arguments = encode_for(self._host.patient, [list(args), kwargs])
        except UnserialisableValue:
            arguments = None
        return StepRow(
            ref=self.ref,
            key=key,
            position=position,
            name=name,
            kind=kind,
            status=StepStatus.PLANNED,
            arguments=arguments,
            fingerprint=print_,
            safety=policy.safety,
            options={**policy.stored(), **engine.compensation(policy)},
            compensation=compensation_name(policy),
            pivot=policy.pivot,
        )

    def _check_undo(self, policy: StepPolicy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses a step that could never be undone, because its compensation would be called with what cannot be kept.

        Raises:
            UnserialisableValue: an argument cannot be written down.
        """
        if policy.compensate is None or "undo_call" in self._host.engine.compensation(policy):
            return
        try:
            encode_for(self._host.patient, [list(args), kwargs])
        except UnserialisableValue as error:
            raise UnserialisableValue(
                f"step {name} of workflow {self._call.name} ({self.ref}) was not begun: {compensation_name(policy)}, which "
                f"undoes it, is called with its arguments, and one of them cannot be recorded: {error} Or declare a "
                "compensation with arguments of its own, as in compensate=refund.si(...)."
            ) from error

    def _check_drift(
        self, policy: StepPolicy, found: StepRow, print_: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Other arguments for a recorded step mean that the code between the steps was not deterministic."""
        if found.fingerprint is None or print_ is None or found.fingerprint == print_ or policy.drift == "record":
            return
        recorded = _readable_arguments(found)
        evidence = (
            f"step {found.name} ({found.key}) was recorded with arguments {recorded} [{found.fingerprint[:8]}] and was now "
            f"called with {mask([list(args), kwargs])} [{print_[:8]}]: the code between the steps is not deterministic. "
            "Make it so, or declare drift='record' or ignore_arguments=(...) on the step"
        )
        self._stop_for(evidence)
        raise self._suspend(Deferred(evidence, held=True))


def _readable_arguments(row: StepRow) -> str:
    """A call's recorded arguments as they may be shown."""
    if row.arguments is None:
        return "not recorded"
    try:
        return str(mask(decode(row.arguments)))
    except NotReadable:
        return "which this process cannot read"


def _given_key(
    policy: StepPolicy, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """The key that the step's own template makes of its arguments; None where it has no template."""
    if policy.key is None:
        return None
    given = template_fields(policy.key, parameters_of(function, args, kwargs), name)
    if not is_storable(given):
        raise DeclarationError(
            f"step {name}: its template {policy.key!r} gives the key {given!r:.80}, which holds a control character or half "
            "of a surrogate pair: a key may have neither"
        )
    return given


def _fingerprint(policy: StepPolicy, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The fingerprint of the arguments that count."""
    if not policy.ignore_arguments:
        return arguments_fingerprint(args, kwargs)
    counted = {k: v for k, v in parameters_of(function, args, kwargs).items() if k not in policy.ignore_arguments}
    return arguments_fingerprint((), counted)


def parameters_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by parameter name, as templates see them; by number where they do not fit the signature."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{f"arg{number}": value for number, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    named = dict(bound.arguments)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = named.pop(parameter.name, {})
            # A positional-only parameter leaves its name free for a keyword: neither may hide the other.
            named |= {f"**{name}" if name in named else name: value for name, value in more.items()}
    return named
