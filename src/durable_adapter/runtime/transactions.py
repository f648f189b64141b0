"""A transactional step: its effect and its record are one commit in the journal's own database.

The row is locked first, in the step's own transaction: a rival waits there, then finds the memo without running. What
the body publishes goes out after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..errors import Deferred, JournalUnreachable, TransactionMisuse
from ..journal import Ended
from ..journal.sessions import Refused, load_sessions, step_transaction
from ..model import CLAIMABLE, StepRow, StepStatus, new_token
from .calls import Call, RetryRequest
from .current_step import RunningStep
from .values import decode, encode_for

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from .host import Host
    from .marked import Marked

logger = logging.getLogger("durable_adapter")

#: How often an attempt may lose its transaction after the body ran; then the step is held.
MAX_LOSSES: Final = 5
#: Seconds before the attempt after the first loss; each further pause is twice as long.
PAUSE: Final = 0.2


class Committed:
    """An attempt that was committed here: its value, what it released, and what is still to be published."""

    __slots__ = ("ended", "outbox", "value")

    def __init__(self, value: Any, ended: Ended, outbox: list[Callable[[], Any]]) -> None:
        self.value = value
        self.ended = ended
        self.outbox = outbox


class NotMine(Exception):
    """Raised where the row could not be claimed. The transaction is rolled back.

    Attributes:
        row: the row, where it was read.
    """

    def __init__(self, row: StepRow | None = None) -> None:
        super().__init__("the step is not to be had")
        self.row = row


class BodyFailed(Exception):
    """The body raised, or could not be committed: its transaction is rolled back, so its effect did not happen."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class AskedAgain(Exception):
    """The body asked to be run again: its transaction is rolled back, as if it had not run."""

    def __init__(self, retry_request: RetryRequest) -> None:
        super().__init__("the task asked to be run again")
        self.retry_request = retry_request


class TransactionLost(Exception):
    """Raised where the database ended the transaction after the body ran, or its answer to the commit was lost.

    Attributes:
        token: the claim that the transaction would have committed.
        outbox: what the body wanted published after the commit.
    """

    def __init__(self, token: str, why: str, *, outbox: list[Callable[[], Any]]) -> None:
        super().__init__(why)
        self.token = token
        self.outbox = outbox


class TransactionEnded(Exception):
    """Raised where the body ended the transaction itself, so that what it wrote after that was committed without the step."""


def prepare_transactions(marked: Marked) -> None:
    """Loads the ORM before a worker forks, where a transactional step is declared; its children then share it.

    A worker that forks before it imports its jobs sees no declaration: then each child loads the ORM with its first
    transactional step.
    """
    if marked.has_transactional:
        load_sessions()


def run_transaction(host: Host, call: Call) -> Committed:
    """Makes one attempt at a transactional step. One commit.

    An attempt that lost its transaction after the body ran is made again here, up to `MAX_LOSSES` times. One that did not reach
    its body waits for the journal; a database that can be read and not written counts as away.

    Raises:
        NotMine: nothing was run.
        BodyFailed: the body raised, or the database refused what it did, at its commit perhaps; nothing of it is left.
        AskedAgain: the body is not done yet, and nothing of it is left.
        UnserialisableValue: its value cannot be recorded; the transaction is rolled back, so nothing happened.
        TransactionEnded: the body ended the transaction itself; part of what it did may be committed.
        TransactionLost: the transaction was lost as often as is tried; nothing of it is left.
        Deferred: it was lost or the journal is away, and this worker is shutting down or switched off.
    """
    while True:
        try:
            return host.patiently(partial(_attempt, host, call), begins=True)
        except TransactionLost as lost:
            # The commit may have succeeded although its answer was lost: then the row has this attempt's token.
            found = host.patient.claims.get(call.ref, call.key)
            if found is not None and found.token == lost.token and found.status is StepStatus.SUCCEEDED:
                return Committed(decode(found.outcome, call.policy), Ended(recorded=True), lost.outbox)
            call.row = None if call.new_row is None else found
            if _losses(host, call, found, str(lost)) >= MAX_LOSSES:
                raise
            if host.is_stopping():
                raise Deferred(f"the transaction of step {call.name} was lost, and this worker is shutting down") from lost


def _losses(host: Host, call: Call, found: StepRow | None, why: str) -> int:
    """Counts a lost transaction, logs it and pauses; returns how many there were."""
    if found is None and call.new_row is not None:
        row = call.new_row()
        host.patient.claims.plan_new(row)
        call.row = found = host.patient.claims.get(call.ref, call.key)
    times = host.patient.ends.count_loss(found, why, host.worker) if found is not None else 0
    told = f"The database lost the transaction of {call.name} after the body had run, and rolled it back: {why}"
    logger.warning("transaction_lost run=%s step=%s times=%d msg=%r", call.ref, call.key, times, told)
    if 0 < times < MAX_LOSSES:
        host.pause(PAUSE * 2 ** (times - 1))
    return times


def _attempt(host: Host, call: Call) -> Committed:
    token = new_token()
    journal = host.journal
    worker = host.worker
    before = call.attempts
    running = RunningStep(host, call, token, session=lambda: session)
    with host.runs(call.ref, call.key, token):
        try:
            with step_transaction(journal.db) as (connection, session):
                new = call.row is None and call.new_row is not None
                if new:
                    assert call.new_row is not None
                    row = call.new_row()
                    row.status, row.token, row.worker = StepStatus.BEGUN, token, worker
                    if not journal.claims.lock_new(connection, row):
                        raise NotMine
                else:
                    locked = journal.claims.lock(
                        connection, call.ref, call.key, token, worker, expected=call.expected(), in_turn=call.turn is not None
                    )
                    if locked is None or locked.token != token or locked.status not in CLAIMABLE:
                        raise NotMine(locked)
                    row = locked
                running.generation = row.generation
                call.attempts += 1
                with running.current(), host.exposed():
                    try:
                        value = call.body(call)
                        session.flush()
                    except JournalUnreachable:
                        raise
                    except Exception as error:
                        if connection.invalidated:  # the server ended the connection: that is no failure of the body's
                            raise JournalUnreachable(f"the connection was lost inside the body: {error}") from error
                        raise BodyFailed(error) from error
                retry_request = call.retry_request(None)
                if retry_request is not None:
                    raise AskedAgain(retry_request)
                outcome = encode_for(journal, value, call.policy.codec)
                row.reference = running.reference
                ended = journal.ends.succeed_locked(connection, row, outcome, completes_run=call.completes_run, new=new)
                if not ended.recorded:
                    _not_recorded(host, call, connection, row)
        except Refused as refused:
            if call.attempts == before:
                raise refused.error from None
            raise BodyFailed(refused.error) from refused.error
        except JournalUnreachable as lost:
            if call.attempts == before:
                raise
            raise TransactionLost(token, str(lost), outbox=running.outbox or []) from lost
    return Committed(decode(outcome, call.policy), ended, running.outbox or [])


def _not_recorded(host: Host, call: Call, connection: Connection, row: StepRow) -> NoReturn:
    """Rolls back a transaction whose end was not recorded: it hit no row, or its run no longer goes forward.

    Raises:
        NotMine: the run was given up while the body ran; nothing of it is left.
        BodyFailed: the database ended the transaction inside the body, and the rest is rolled back too.
        TransactionEnded: the body ended the transaction, and what it wrote after that is committed.
    """
    journal = host.journal
    if journal.claims.is_claimed(connection, row.ref, row.key, row.token or ""):
        raise NotMine
    if journal.db.keeps_nothing_after_an_abort:
        raise BodyFailed(
            TransactionMisuse(
                f"the database ended the transaction of step {call.name} inside its body, which caught that error and went on: "
                "nothing of the step is left. Let such an error pass, or put the statement that may fail into "
                "`with durable.session().begin_nested():`."
            )
        )
    raise TransactionEnded(
        f"the body of transactional step {call.name} ended its transaction itself (a COMMIT or ROLLBACK of its own): what it "
        "wrote before may be lost, and what it wrote after that may be committed"
    )
