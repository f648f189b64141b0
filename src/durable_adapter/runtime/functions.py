"""A workflow function: runs from the top on every wake; what finished is handed back from the journal.

Here stands what runs it: from its claim to its end. What a call in its body does stands in `kinds/`, a file per kind; what the
calls of one wake share, in `wake.py`.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..current import FUNCTION, RUNNING
from ..declare.effects import is_refusal
from ..declare.policy import StepPolicy
from ..errors import Deferred, StepUndone, Suspended, UnserialisableValue
from ..model import Effect, StepRow, StepStatus, new_token
from . import alerts
from .calls import Call, awaited, declines_nothing
from .kinds import JournaledCall
from .kinds.declared import DeclaredCall
from .kinds.dispatch import join, wait_for
from .kinds.sleep import Sleep
from .kinds.step import Step
from .publication import publishing
from .steps import described, follow, memo, refuse_misfit, row_of
from .unreadable import left_alone
from .values import decode, encode_for, read_failure, write_failure
from .wake import Wake

if TYPE_CHECKING:
    from .host import Host

logger = logging.getLogger("durable_adapter")

Result = TypeVar("Result")


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
        own = row_of(host, call)  # adopts a message without a run, or refuses one whose run is unknown
        steps = host.beginning.reads.steps(call.ref)
    refuse_misfit(host, call, own)
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
        why = described(retry_request.error or error)
        if ends.try_again(own, None, retry_request.delay, failure, why, sent=True):
            retry_request.send()
        return
    failure = write_failure(error)
    why = described(error)
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
    why = f"its attempt ended in {described(error)}; whether its effect happened is unknown"
    if not host.patient.doubts.doubt_failed(row, why, who=host.worker):
        return
    alerts.hold(host.patient, host.engine, row, why, who=host.worker)
    raise Deferred(f"step {row.name} is held: {why}", held=True) from error


class FunctionRun:
    """A workflow function that runs: what its body may ask of it, and the bindings that publish in its body."""

    def __init__(self, host: Host, call: Call, steps: list[StepRow]) -> None:
        self.ref = call.ref
        self._host = host
        self._call = call
        self._wake = Wake(host, call, steps)

    def execute(self) -> Any:
        """Runs the user's function from the top, and waits for what it dispatched.

        Raises:
            Suspended: it waits for something, whatever its body made of that.
        """
        wake = self._wake
        previous = FUNCTION.set(self)
        wake.scope.thread = here = threading.get_ident()
        outer = RUNNING.get(here)
        RUNNING[here] = wake.scope
        try:
            with publishing(attributes=None), self._host.exposed():
                value = awaited(self._call.body(self._call))
        except Suspended:
            raise
        except Exception as error:
            if wake.closed is not None:
                _swallowed(wake, wake.closed, error)
                raise wake.closed from None
            raise
        finally:
            FUNCTION.reset(previous)
            if outer is None:
                del RUNNING[here]
            else:
                RUNNING[here] = outer
        if wake.closed is not None:
            _swallowed(wake, wake.closed, None)
            raise wake.closed
        join(wake)
        return value

    def call(self, call: JournaledCall[Result]) -> Result:
        """Makes a call of the body, of any kind: from the top, or as far as it is recorded.

        Raises:
            Suspended: the function waits for it, or is held.
            Exception: what the call failed with, or why it cannot be made here.
        """
        place = self._wake.next(call.kind, call.name, call.given_key())
        if place.row is None:
            return call.begin(self._wake, place)
        return call.replay(self._wake, place, place.row)

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
        return self.call(Step(DeclaredCall(policy, name, function, args, kwargs), declines))

    def sleep(self, seconds: float, key: str | None) -> None:
        """Waits without a worker."""
        self.call(Sleep(seconds, key))

    def wait_for(self, task_id: str) -> Any:
        """The result of a dispatched step; suspends the function until it is there."""
        return wait_for(self._wake, task_id)

    def launch(self) -> int:
        """The ordinal of a run that the body starts beside itself: part of its derived ids."""
        return self._wake.launch()

    def key_of(self, task_id: str) -> str | None:
        """The key of a task that this function sent; None where it did not."""
        row = self._wake.sent_as(task_id)
        return row.key if row is not None else None

    def dispatched(self, task_id: str) -> bool:
        """Whether a task id is that of a step that this function dispatched."""
        row = self._wake.sent_as(task_id)
        return row is not None and row.kind.awaited

    def failed_with(self, error: BaseException) -> str | None:
        """The key of the step in place that raised an error, or what the error was made of; None where none did."""
        return self._wake.failed_with(error)


def _swallowed(wake: Wake, closed: Suspended, error: BaseException | None) -> None:
    """Tells that the body caught its own suspension."""
    trace = traceback.extract_tb(closed.__traceback__)
    frames = [f for f in trace if "durable_adapter" not in f.filename] or trace[-1:]
    where = f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else "its body"
    logger.warning(
        "suspension_caught run=%s msg=%r",
        wake.ref,
        f"Workflow {wake.function.name} caught its own suspension ({closed}) near {where}"
        f"{f' and went on to raise {error!r}' if error else ''}; it is suspended all the same. Handlers must let "
        "BaseException pass.",
    )  # fmt: skip
