"""Settling a step in doubt, in the worker that gets its message: by a new attempt, by its probe, or by holding it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..declare.policy import MAX_TAKEOVERS
from ..declare.verdicts import CannotTell, DidNotHappen, Happened
from ..errors import Deferred, UnserialisableValue
from ..journal.doubts import AGAIN, SILENT
from ..model import REPEATABLE, SECOND, Cause, Effect, Safety, StepRow
from . import alerts
from .calls import Call
from .host import Host
from .values import encode_for, read_failure, was_declined, write_failure

if TYPE_CHECKING:
    from ..journal import Journal

#: How long after the doubt began a probe that raises is asked again; then the step is held.
PROBE_PATIENCE = 900 * SECOND
#: How long after the doubt began a probe that says "did not happen" of an attempt that nobody saw end is asked again.
SILENT_PATIENCE = 900 * SECOND
#: The delay before a probe that raised is asked again.
PROBE_AGAIN = 10 * SECOND
#: How many attempts of a step may die before it is held, although its probe says each time that nothing happened.
MAX_PROBED = 10


def settle_doubt(host: Host, call: Call, row: StepRow) -> None:
    """Settles a step in doubt as far as its declaration allows. The caller then reads its row again.

    A declaration that was deployed later does not apply to an attempt that was made before it. What counts is what both that
    attempt's declaration and today's allow.

    Raises:
        Deferred: it is not time yet, or a person must decide.
    """
    now = host.patient.time()
    match row.safety.joined(call.policy.safety):
        case Safety.PROBE if call.policy.probe is not None:
            _ask(host, call, row, now)
        case Safety.IDEMPOTENT:
            _take_over(host, call, row, now)
        case Safety.TRANSACTIONAL:
            _again(host, row, "its transaction was not committed, so its effect did not happen")
        case _:
            why = why_in_doubt(row)
            if row.safety is not call.policy.safety:
                why += f"; it was declared {row.safety} then and is declared {call.policy.safety} now, which says nothing of it"
            hold(host, call, row, why)


def why_in_doubt(row: StepRow) -> str:
    """Why the outcome of a step is not known."""
    return row.doubt or "its attempt began and its outcome is unknown"


def hold(host: Host, call: Call, row: StepRow, why: str) -> None:
    """Holds a step until a person decides."""
    alerts.hold(host.patient, host.engine, row, why, who=host.worker)


def _take_over(host: Host, call: Call, row: StepRow, now: int) -> None:
    """Begins a new attempt of an idempotent step, inside its window and below its limit of takeovers.

    The old attempt need not be over, only its worker silent: the provider's key makes the two one effect.
    """
    if row.over_at is not None and row.over_at > now and row.over_at != SILENT:
        host.patient.doubts.ask_later(row, row.over_at or now)
        raise Deferred(f"step {row.name} is in doubt and its attempt may still be running")
    if row.takeovers >= MAX_TAKEOVERS:
        hold(host, call, row, f"it was taken over {row.takeovers} times and never ended; last: {row.doubt}")
        return
    if not inside_window(row, call.policy.window, now):
        hours = call.policy.window / SECOND / 3600
        hold(
            host,
            call,
            row,
            f"its idempotency window of {hours:g} h has passed; the provider may have forgotten the key",
        )
        return
    _again(host, row, "it is idempotent and inside its window")


def may_be_repeated(row: StepRow, safety: Safety, window: int, now: int) -> bool:
    """Whether a step may be tried again although an earlier attempt may have had its effect.

    Args:
        row: the step, with what was declared for that attempt.
        safety: what is declared today; both have to make a repetition safe.
        window: microseconds for which the provider remembers a key.
        now: the database's time.
    """
    if row.effect is not Effect.UNKNOWN:
        return True
    if row.safety.joined(safety) not in REPEATABLE:
        return False
    return safety is not Safety.IDEMPOTENT or inside_window(row, window, now)


def inside_window(row: StepRow, window: int, now: int) -> bool:
    """Whether the provider still remembers the step's key. The window runs from the first use of the key.

    Args:
        row: the step.
        window: microseconds for which the provider remembers a key.
        now: the database's time.
    """
    return now - (row.first_begun_at or row.created_at) < window


def _again(host: Host, row: StepRow, why: str) -> None:
    host.patient.doubts.take_over(row, why, who=host.worker)


def _ask(host: Host, call: Call, row: StepRow, now: int) -> None:
    """Asks the probe. "Happened" always counts; "did not happen" only after the attempt was over and settled."""
    assert call.policy.probe is not None
    doubts = host.patient.doubts
    counts_from = (row.over_at or row.doubt_at or now) + call.policy.settle_us
    try:
        verdict: Any = call.policy.probe(*call.args, **call.kwargs)
    except Exception as error:
        evidence = f"the probe raised {type(error).__name__}: {str(error)[:300]}"
        if now - (row.doubt_at or now) > PROBE_PATIENCE:
            hold(host, call, row, evidence)
            return
        doubts.ask_later(row, now + PROBE_AGAIN, evidence)
        raise Deferred(f"step {row.name}: {evidence}; it is asked again") from error
    match verdict:
        case Happened(value=value, evidence=evidence):
            try:
                outcome = encode_for(host.patient, value, call.policy.codec)
            except UnserialisableValue as error:
                hold(host, call, row, f"its probe says that it happened, with a value that cannot be recorded: {error}")
                return
            why = evidence or "the probe said that it happened"
            host.patient.verdicts.happened(row, outcome, who="probe", why=why, send=False)
        case DidNotHappen(evidence=evidence):
            if row.over_at == SILENT:
                _ask_of_the_silent(host, call, row, now)
                return
            if now < counts_from:
                doubts.ask_later(row, counts_from)
                left = (counts_from - now) / SECOND
                raise Deferred(f"step {row.name}: the probe's “did not happen” counts only in {left:.0f} s")
            _did_not_happen(host, call, row, evidence or "the probe said that it did not happen")
        case CannotTell(evidence=evidence):
            hold(host, call, row, f"its probe cannot tell. {evidence}".strip())
        case _:
            hold(
                host, call, row,
                f"its probe answered {type(verdict).__name__}, which is no verdict: it must return durable.happened(value), "
                "durable.did_not_happen() or durable.cannot_tell()",
            )  # fmt: skip


def _ask_of_the_silent(host: Host, call: Call, row: StepRow, now: int) -> None:
    """Handles a “did not happen” about an attempt that nobody saw end. It never counts: asks again later, and holds in the end.

    The worker fell silent and the step has no time-out, so its body may still be running without its database.
    """
    waited = now - (row.doubt_at or now)
    if waited <= max(SILENT_PATIENCE, call.policy.settle_us):
        host.patient.doubts.ask_later(row, now + max(AGAIN, waited))  # twice as late each time
        raise Deferred(
            f"step {row.name}: nobody saw its attempt end, so that the probe's “did not happen” does not count; it is asked again"
        )
    why = (
        f"its probe says that it did not happen, and nobody saw its attempt end: {row.doubt}. Declare a timeout= on the step, "
        "or see to it that this process has ended, and resolve the step"
    )
    hold(host, call, row, why)


def _did_not_happen(host: Host, call: Call, row: StepRow, why: str) -> None:
    """Acts on a “did not happen” that counts: another attempt, unless the error or the policy forbids one."""
    journal = host.patient
    if row.error is not None:
        error = read_failure(row.error)
        if not call.may_repeat(row.attempt, error, declined=was_declined(row.error)):
            failure = write_failure(error)
            journal.ends.fail(
                row, row.token, failure, Effect.DID_NOT_HAPPEN, fails_run=call.fails_run, who="probe", why=why, send=False
            )
            return
    elif row.attempt >= MAX_PROBED:
        hold(host, call, row, f"{row.attempt} attempts began and none ended, although nothing happened: {row.doubt}")
        return
    delay = int(call.policy.retry_delay(row.attempt) * SECOND) if row.error is not None else 0
    journal.verdicts.did_not_happen(row, who="probe", why=why, delay=delay)


def attempt_lost(journal: Journal, row: StepRow, token: str, why: str, *, who: str | None) -> bool:
    """Records that the process which ran an attempt has ended. Puts the step in doubt, if the attempt had claimed it.

    A process names an attempt before it claims it. Without that claim the step did not begin there.

    Returns:
        Whether it was recorded.
    """
    if row.token == token:
        return journal.doubts.raise_doubt(row, token, why, cause=Cause.WORKER_DIED, over=True, who=who)
    return journal.members.died_unbegun(row, "the process that had its message was seen to end before the step began", who=who)
