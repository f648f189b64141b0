"""A transactional step: its effect and its record are one commit in the journal's own database.

The row is locked first, in the step's own transaction: a rival waits there, then finds the memo without running. What
the body publishes goes out after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import JournalUnreachable
from ..journal import Ended
from ..journal.sessions import Refused, step_transaction
from ..model import CLAIMABLE, StepRow, StepStatus, new_token
from .calls import Call, Wish
from .current_step import RunningStep
from .values import decode, encode_for

if TYPE_CHECKING:
    from .host import Host


class Committed:
    """A transactional attempt that was committed here, its value, what it released, and what it still has to publish."""

    __slots__ = ("ended", "outbox", "value")

    def __init__(self, value: Any, ended: Ended, outbox: list[Callable[[], Any]]) -> None:
        self.value = value
        self.ended = ended
        self.outbox = outbox


class NotMine(Exception):
    """Raised where the row was not to be had: it is finished, or held, or another's. Its transaction is rolled back.

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

    def __init__(self, wish: Wish) -> None:
        super().__init__("the task asked to be run again")
        self.wish = wish


def run_transaction(host: Host, call: Call) -> Committed:
    """One attempt at a transactional step. One commit.

    Raises:
        NotMine: nothing was run.
        BodyFailed: the body raised, or the database refused what it did, at its commit perhaps; nothing of it is left.
        AskedAgain: the body is not done yet, and nothing of it is left.
        UnserialisableValue: its value cannot be recorded; the transaction is rolled back, so nothing happened.
    """
    token = new_token()
    journal = host.journal
    worker = host.worker
    before = call.attempts
    running = RunningStep(host, call, token, session=lambda: session)
    with host.runs(call.ref, call.key, token):
        try:
            with step_transaction(journal.db) as (connection, session):
                if call.row is None and call.new_row is not None:
                    row = call.new_row()
                    row.status, row.token, row.worker = StepStatus.BEGUN, token, worker
                    if not journal.claims.lock_new(connection, row):
                        raise NotMine
                else:
                    locked = journal.claims.lock(connection, call.ref, call.key, token, worker)
                    if locked is None or locked.token != token or locked.status not in CLAIMABLE:
                        raise NotMine(locked)
                    row = locked
                call.attempts += 1
                with running.current(), host.exposed():
                    try:
                        value = call.body(call)
                        session.flush()
                    except JournalUnreachable:
                        raise
                    except Exception as error:
                        raise BodyFailed(error) from error
                wish = call.wish(None)
                if wish is not None:
                    raise AskedAgain(wish)
                outcome = encode_for(journal, value, call.policy.codec)
                row.reference = running.reference
                ended = journal.ends.succeed_locked(connection, row, outcome, last=call.counts)
        except Refused as refused:
            if call.attempts == before:
                raise refused.error from None
            raise BodyFailed(refused.error) from refused.error
        except JournalUnreachable:
            # The commit may have happened although its answer was lost: the row knows, by its token.
            found = host.patient.claims.look(call.ref, call.key)
            if found is None or found.token != token or found.status is not StepStatus.SUCCEEDED:
                call.row = None if call.new_row is None else found
                return run_transaction(host, call)
            return Committed(decode(found.outcome, call.policy), Ended(recorded=True), running.outbox or [])
    return Committed(decode(outcome, call.policy), ended, running.outbox or [])
