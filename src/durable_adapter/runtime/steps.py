"""The step: look the key up; memo hit, or claim; run; record; hand back.

`run_step` is the figure of section 6 of the design, a line a decision. It keeps P1 to P4 for every kind of call: canvas
members, dispatches, compensations and calls in place in a workflow function.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..codec import Stored
from ..declare.effects import is_refusal
from ..errors import Deferred, IllegalTransition, NotReadable, StepUndone, Suspended, UnserialisableValue
from ..journal import Ended
from ..model import (
    CLAIMABLE,
    REPEATABLE,
    SECOND,
    Attention,
    Cause,
    Effect,
    Event,
    Safety,
    StepRow,
    StepStatus,
    function_of,
    new_token,
)
from . import alerts
from .calls import Call, RetryRequest
from .current_step import RunningStep
from .doubt import may_be_repeated, settle_doubt
from .engine import INSTALLED, engine_of
from .host import Host
from .order import take_turn
from .transactions import AskedAgain, BodyFailed, Committed, NotMine, TransactionEnded, TransactionLost, run_transaction
from .unreadable import left_alone
from .values import decode, encode_for, member_fingerprint, read_failure, write_failure

logger = logging.getLogger("durable_adapter")

#: How often a step is looked at and claimed while other processes keep changing its row; then it is left to the sweeper.
TRIES = 20


def run_step(host: Host, call: Call) -> Any:
    """Runs one step of a workflow, or hands back what is recorded of it.

    Returns:
        The decoded recorded value.

    Raises:
        Deferred: somebody else has it, it is not due, in doubt or held; nothing was run that was not recorded.
        StepUndone: it was undone by a rollback.
        Exception: the recorded final error, or the body's own, recorded before it is raised.
    """
    with host.shielded(), left_alone():
        return _run(host, call)


def _run(host: Host, call: Call) -> Any:
    host.fit_to_begin()
    if call.is_member and call.turn is None:
        call.turn = partial(take_turn, host.patient, call.ref, call.key)
    if call.row is None and call.new_row is None and call.again:
        # Delivered again, it is a memo as a rule: a look costs less than a claim that takes nothing.
        call.row = host.beginning.claims.get(call.ref, call.key)
    tries = attempts = 0
    while tries < TRIES:
        tries = tries + 1 if call.attempts == attempts else 0  # what was run here and is tried again has changed no hands
        attempts = call.attempts
        ended = _try(host, call)
        if ended is not None:
            return ended.value
        row = call.row = call.row or row_of(host, call)
        refuse_misfit(host, call, row)
        if row.status in CLAIMABLE:
            call.take_turn()
        match row.status:
            case StepStatus.SUCCEEDED:
                return memo(host, call, row)
            case StepStatus.FAILED:
                raise read_failure(row.error)
            case StepStatus.UNDONE:
                raise StepUndone(f"step {row.name} ({row.key}) was undone by a rollback; nothing after it may run")
            case StepStatus.CANCELLED:
                raise Deferred(f"step {row.name} was cancelled")
            case StepStatus.BEGUN:
                _suppress(host, row)
                raise Deferred(f"step {row.name} is running under another claim; the sweeper owns its recovery")
            case StepStatus.HELD:
                raise Deferred(f"step {row.name} is held: {row.evidence or row.doubt}", held=True)
            case StepStatus.IN_DOUBT:
                settle_doubt(host, call, row)
                call.row = row_of(host, call)
            case StepStatus.WAITING:
                _wait_until_due(host, row)
            case StepStatus.PLANNED:
                host.prove_alive()
    raise Deferred(f"step {call.name} changed hands {TRIES} times; it is left to the sweeper")


def memo(host: Host, call: Call, row: StepRow) -> Any:
    """The recorded value of a finished step.

    Raises:
        Deferred: this process cannot read it: its code lacks what reads it. The step is put in front of a person.
    """
    try:
        return decode(row.outcome, call.policy)
    except NotReadable as error:
        why = f"the recorded value of step {row.name} ({row.key}) cannot be read here: {error}"
        host.patient.doubts.raise_attention(row.ref, row.key, Attention.DRIFT, why)
        raise Deferred(why, held=True) from error


class Value:
    """An attempt that ended here with a recorded value; told apart from "not mine to run"."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


# Each of these functions returns None where no outcome of its own counts. Then `call.row` is the row as it was just read, or
# None where it has to be read again.


def _try(host: Host, call: Call) -> Value | None:
    """Makes one attempt, if the step can be claimed and may be tried."""
    row, safety = call.row, call.policy.safety
    if row is not None and (row.status not in CLAIMABLE or _is_doubtful(host, call, row)):
        return None
    if safety is Safety.TRANSACTIONAL:
        return _run_in_transaction(host, call)
    return _run_claimed(host, call)


def _run_claimed(host: Host, call: Call) -> Value | None:
    """Claims the step, runs it, and records its end under the claim's token."""
    token = new_token()
    claims = host.beginning.claims
    with host.runs(call.ref, call.key, token):
        if call.row is None and call.new_row is not None:
            row = call.new_row()
            row.status, row.token, row.worker = StepStatus.BEGUN, token, host.worker
            row.deadline_at = call.policy.patience_us
            claim = claims.begin_new(row)
        else:
            policy = call.policy
            claim = claims.begin(
                call.ref, call.key, token, host.worker, policy.patience_us,
                expected=call.expected(), seen=call.row,
                safety=policy.safety, window=policy.window if policy.safety is Safety.IDEMPOTENT else None,
                in_turn=call.turn is not None,
            )  # fmt: skip
        if not claim:
            call.row = claim.found
            return None
        return _attempt(host, call, token)


def _is_doubtful(host: Host, call: Call, row: StepRow) -> bool:
    """Puts a step in doubt whose next attempt would not be safe, because an earlier one may have had its effect.

    Returns:
        Whether it did.
    """
    why = _why_doubtful(host, call, row)
    if why is None:
        return False
    host.patient.doubts.doubt_waiting(row, why, cause=Cause.UNSAFE_TO_REPEAT, who=host.worker)
    call.row = None
    return True


def _why_doubtful(host: Host, call: Call, row: StepRow) -> str | None:
    """Returns why another attempt would not be safe; None where it is.

    The declaration of the earlier attempt and that of today must both allow it, and the provider must still know the key.
    """
    safety = call.policy.safety
    if may_be_repeated(row, safety, call.policy.window, host.patient.time() if row.effect is Effect.UNKNOWN else 0):
        return None
    if row.safety.joined(safety) not in REPEATABLE:
        return f"an earlier attempt, declared {row.safety}, may have had its effect; the step is declared {safety} now"
    return "its idempotency window passed before it was tried again; an earlier attempt may have had its effect"


def _run_in_transaction(host: Host, call: Call) -> Value | None:
    """Runs a transactional step: its effect and its record are one commit, and an error rolls both back."""
    ended: Committed | Exception
    try:
        ended = run_transaction(host, call)
    except NotMine as rival:
        call.row = rival.row
        return None
    except AskedAgain as asked:
        return _not_done_yet(host, call, None, asked.retry_request, None)
    except BodyFailed as failed:
        ended = failed.error
    except UnserialisableValue as error:
        ended = error
    except (TransactionEnded, TransactionLost) as error:
        row = _row_for_end(host, call)
        alerts.hold_unbegun(host.patient, host.engine, row, str(error), who=host.worker)
        call.row = None
        return None
    if isinstance(ended, Exception):  # outside of the handlers: the body's error is raised without ours as its context
        return _ended_in_error(host, call, None, ended)
    for publish in ended.outbox:
        try:
            publish()
        except Exception as error:
            # A durable start is in the journal, and the sweeper sends it. Anything else is lost, as it is without this library.
            logger.exception("publication_failed run=%s step=%s msg=%r", call.ref, call.key, f"After its commit: {error}")
    follow(host, call, ended.ended)
    return Value(ended.value)


def _attempt(host: Host, call: Call, token: str) -> Value | None:
    """Runs the body, records how it ended, and returns what was recorded."""
    call.attempts += 1
    running = RunningStep(host, call, token)
    try:
        with running.current(), host.exposed():
            value = call.body(call)
    except Suspended:
        raise
    except Exception as error:
        running.say_the_rest()
        return _ended_in_error(host, call, token, error)
    retry_request = call.retry_request(None)
    if retry_request is not None:
        # It asked to be run again, and then returned: what it returned is not an outcome.
        if retry_request.error is None:
            return _not_done_yet(host, call, token, retry_request, None)
        return _ended_in_error(host, call, token, retry_request.error, retry_request=retry_request)
    return _succeeded(host, call, running, value)


def _succeeded(host: Host, call: Call, running: RunningStep, value: Any) -> Value | None:
    token = running.token
    try:
        outcome = encode_for(host.patient, value, call.policy.codec)
    except UnserialisableValue as error:
        raise _value_missing(host, call, token, error) from error
    ended = record_success(host, call, token, outcome)
    if ended.recorded:
        follow(host, call, ended)
        return Value(decode(outcome, call.policy))
    late = host.patient.ends.late
    call.row = late(call.ref, call.key, token, outcome, host.worker, generation=running.generation)
    return None


def record_success(host: Host, call: Call, token: str, outcome: Stored) -> Ended:
    """Records a success, and releases what follows a step of its kind."""
    ends = host.patient.ends
    if call.kind.undoes:
        undo = _row_for_end(host, call)
        return ends.succeed_undo(call.ref, call.key, token, undo.target or "", outcome)
    if call.kind.awaited:
        return ends.succeed_dispatched(call.ref, call.key, token, outcome)
    return Ended(ends.succeed(call.ref, call.key, token, outcome, member=call.is_member, completes_run=call.completes_run))


def _value_missing(host: Host, call: Call, token: str | None, error: UnserialisableValue) -> Deferred:
    """Holds a step whose value cannot be recorded: that it happened is kept (P10). Returns what is to be raised."""
    reason = f"it happened, but its value cannot be recorded: {error}"
    row = call.row or (call.new_row() if call.new_row else None) or row_of(host, call)
    hold = alerts.hold_without_value
    held = hold(host.patient, host.engine, row, token, reason, who=host.worker)
    return Deferred(reason, held=held)


def _ended_in_error(
    host: Host, call: Call, token: str | None, error: BaseException, *, retry_request: RetryRequest | None = None
) -> Value | None:
    """Decides from what is known about the effect: tries again, fails, or puts in doubt. May refuse the engine's retry request.

    Args:
        host: this process.
        call: the call.
        token: its claim's.
        error: what it raised, or what it asked to be run again for.
        retry_request: the engine's request to repeat it, where the body returned instead of raising.
    """
    policy = call.policy
    returned, retry_request = retry_request is not None, retry_request or call.retry_request(error)
    if is_refusal(error):
        retry_request = None
    cause: BaseException | None = retry_request.error if retry_request is not None else error
    if retry_request is not None and cause is None:
        return _not_done_yet(host, call, token, retry_request, error)
    assert cause is not None
    unknown = policy.effect_unknown(cause)
    repeatable = not unknown or policy.safety is Safety.IDEMPOTENT
    if repeatable and retry_request is not None:
        return _not_done_yet(host, call, token, retry_request, None if returned else error)
    if not repeatable and (policy.safety is Safety.PROBE or retry_request is not None):
        return _in_doubt(host, call, token, cause)
    attempt = _attempt_number(host, call, token)
    if repeatable and call.may_repeat(attempt, cause):
        return _later(host, call, token, cause, policy.retry_delay(attempt))
    effect = Effect.UNKNOWN if unknown else Effect.DID_NOT_HAPPEN
    recorded = _fail(host, call, token, error, effect)
    if recorded is None:
        return None  # another outcome was recorded first, and that one counts
    if call.kind.in_place and not call.fails_run:
        raise read_failure(recorded) from error  # a workflow function sees the same error now and on every replay
    raise error


def _attempt_number(host: Host, call: Call, token: str | None) -> int:
    """Returns the number of attempts, this one included. Read only after a failure."""
    row = host.patient.claims.get(call.ref, call.key)
    call.row = row
    if row is None:
        return 1
    return row.attempt if token is not None else row.attempt + 1


def _not_done_yet(host: Host, call: Call, token: str | None, request: RetryRequest, error: BaseException | None) -> Value | None:
    """Lets the engine run this again: commits the attempt's end, then sends the message."""
    why = described(request.error) if request.error is not None else "the task asked to be run again"
    if not _try_again(host, call, token, request.delay, request.error, why, sent=request.sent, given=request.arguments):
        return None
    try:
        request.send()
    except Exception:
        logger.warning(
            "retry_not_sent run=%s step=%s msg=%r", call.ref, call.key, "The sweeper sends it when it is due.", exc_info=True
        )
    if error is not None:
        raise error
    raise Deferred("the task asked to be run again")


def _later(host: Host, call: Call, token: str | None, error: BaseException, delay: float) -> Value | None:
    """Tries again by the step's own policy: here if that is soon; else gives the slot back, and the sweeper sends it."""
    why = described(error)
    if not _try_again(host, call, token, int(delay * SECOND), error, why, sent=delay <= host.near):
        return None
    if delay > host.near:
        raise Deferred(f"step {call.name} failed and is tried again in {delay:g} s: {why}")
    logger.info("step_tried_again run=%s step=%s in_seconds=%g msg=%r", call.ref, call.key, delay, why)
    host.pause(delay)
    return None


def _try_again(
    host: Host,
    call: Call,
    token: str | None,
    delay: int,
    error: BaseException | None,
    why: str,
    *,
    sent: bool,
    given: tuple[list[Any], dict[str, Any]] | None = None,
) -> bool:
    """Commits the end of an attempt whose step is tried again; False where another outcome was recorded first."""
    row = _row_for_end(host, call)
    failure = write_failure(error) if error is not None else None
    effect = Effect.UNKNOWN if error is not None and call.policy.effect_unknown(error) else Effect.DID_NOT_HAPPEN
    changed = given if call.is_member and given is not None and given != (list(call.args), call.kwargs) else None
    arguments = _arguments(host, *(changed or (call.args, call.kwargs))) if changed or row.arguments is None else None
    print_ = member_fingerprint(*changed, behind=False) if changed else None
    try_again = host.patient.ends.try_again
    worker = host.worker
    recorded = try_again(
        row, token, delay, failure, why, effect=effect, arguments=arguments, print_=print_, sent=sent, worker_id=worker
    )
    call.row = None
    return recorded


def _arguments(host: Host, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Stored | None:
    """Returns a call's arguments as stored, so that it can be sent again without the result of the step before it."""
    try:
        return encode_for(host.patient, [list(args), dict(kwargs)])
    except UnserialisableValue:
        return None


def _in_doubt(host: Host, call: Call, token: str | None, error: BaseException) -> Value | None:
    """Puts a step in doubt whose attempt is over: its effect may have happened, and something would repeat it."""
    row = _row_for_end(host, call)
    why = f"its attempt ended in {described(error)}; whether its effect happened is unknown"
    failure = write_failure(error, declined=call.declines(row.attempt if token is not None else row.attempt + 1, error))
    worker = host.worker
    raise_doubt, late = host.patient.doubts.raise_doubt, host.patient.ends.late_failure
    if not raise_doubt(row, token, why, cause=Cause.RAISED, over=True, error=failure, who=worker):
        late(row, token, worker, why)
    call.row = None
    return None


def _fail(host: Host, call: Call, token: str | None, error: BaseException, effect: Effect) -> bytes | None:
    """Records that the step failed for good; returns what was recorded, or None where another outcome came first."""
    row = _row_for_end(host, call)
    failure = write_failure(error)
    why = described(error)
    fail, fails_run, worker = host.patient.ends.fail, call.fails_run, host.worker
    ended = fail(row, token, failure, effect, fails_run=fails_run, why=why, worker_id=worker)
    follow(host, call, ended)
    if ended.recorded:
        return failure
    call.row = None
    logger.warning("late_failure run=%s step=%s msg=%r", call.ref, call.key, f"Another outcome was recorded before: {why}")
    return None


def _row_for_end(host: Host, call: Call) -> StepRow:
    """Returns the row that an end is written to. A call whose transaction was rolled back with its row gets a new one."""
    row = call.row
    if row is None:
        row = host.patient.claims.get(call.ref, call.key)
    if row is None and call.new_row is not None:
        row = call.new_row()
        planned = row
        host.patient.claims.plan_new(planned)
    if row is None:
        raise IllegalTransition(f"step {call.name} ({call.key}) of run {call.ref} has no row in the journal")
    call.row = row
    return row


def row_of(host: Host, call: Call) -> StepRow:
    """Returns the row of a step that could not be claimed. Refuses a message whose run the journal does not have."""
    row = host.patient.claims.get(call.ref, call.key)
    if row is not None:
        return row
    if call.adopt is not None:
        run, steps = call.adopt(call)
        call.adopt = None
        host.beginning.starts.start(run, steps)
        return row_of(host, call)
    if call.new_row is not None:
        raise Deferred(f"step {call.name} may not begin: its workflow no longer goes forward")
    why = (
        f"a message names the run {call.ref}, step {call.key}, which this journal does not have: it was pruned or "
        "restored, the message belongs to another journal, or its start was rolled back"
    )
    raise _refused(host, call, why)


def refuse_misfit(host: Host, call: Call, row: StepRow) -> None:
    """Refuses a message that is not for the row that it names, and reports it. The row is as it was.

    Raises:
        Deferred: it was refused.
    """
    why = call.expected().misfit(row) if call.new_row is None else None
    if why is not None:
        raise _refused(host, call, why)


def _refused(host: Host, call: Call, why: str) -> Deferred:
    """Reports that a message is not run; returns what says so to its worker."""
    detail = {"name": call.name, "namespace": host.journal.namespace}  # there may be no run that would say whose it is
    host.patient.events.note(Event.REFUSED, ref=call.ref, key=call.key, who=host.worker, why=why, **detail)
    told = f"The message was not run: {why}. See: durable-adapter reconcile"
    logger.error("message_refused run=%s step=%s task=%s msg=%r", call.ref, call.key, call.name, told)
    return Deferred(why)


def _suppress(host: Host, row: StepRow) -> None:
    """Records that a delivery came while its step was running, and was left alone. One event per delivery."""
    why, worker = f"attempt {row.attempt} of it was running", host.worker
    note = host.patient.events.note
    note(Event.SUPPRESSED, ref=row.ref, key=row.key, token=row.token, who=worker, why=why)


def _wait_until_due(host: Host, row: StepRow) -> None:
    """Waits here for a step that is due very soon; leaves one that is not."""
    left = ((row.next_check_at or 0) - host.patient.time()) / SECOND
    if left > host.near:
        raise Deferred(f"step {row.name} is due in {left:.0f} s", wake_at=row.next_check_at)
    if left <= 0:
        host.prove_alive()  # it was due and could not be claimed: this process may have been declared dead
        return
    host.pause(left + 0.005)


def follow(host: Host, call: Call, ended: Ended) -> None:
    """Sends at once what an end released: the next compensation, or a function that waited. The sweeper sends what is missed."""
    released(host, call.ref, call.name, ended)


def released(host: Host, ref: str, name: str, ended: Ended) -> None:
    """Like `follow`, for a step that has no `Call` here: *ref* is its run, *name* its name."""
    if ended.decision is None and not ended.wakes:
        return
    journal = host.journal
    known = {**INSTALLED, host.engine.name: host.engine}
    try:
        run, steps = journal.reads.run(ref), journal.reads.steps(ref)
        if run is None:
            return
        following = ended.decision.undo if ended.decision is not None else None
        if ended.decision is not None:
            host.engine.withdraw(
                [s for s in steps if s.status is StepStatus.CANCELLED and (s.engine or run.engine) == host.engine.name]
            )
        elif ended.wakes:
            following = function_of(steps)
        engine = engine_of(run, following, known) if following is not None else None
        if engine is not None and following is not None:
            engine.send_step(run, following, steps)
    except Exception:
        what = f"What step {name} released was not sent; the sweeper sends it."
        logger.warning("release_not_sent run=%s msg=%r", ref, what, exc_info=True)


def described(error: BaseException) -> str:
    """An error in one line, without its values beyond its own message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
