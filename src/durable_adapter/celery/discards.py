"""Messages that a worker's parent throws away: of revoked or expired tasks, of unknown ones, those that it cannot read.

Celery tells of them on its event loop, which must not wait for a database: they are noted there, and recorded by the parent's
own thread. While the journal is away they are kept.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import TaskRevokedError
from celery.worker import state

from ..errors import JournalError
from ..model import SECOND, STAMP, Cause, StepStatus, read_stamp
from ..runtime.engine import EngineEnd
from ..runtime.engine_ends import Fate, ended_by_engine
from .plans import place_of

if TYPE_CHECKING:
    from ..runtime.binding import BaseBinding

logger = logging.getLogger("durable_adapter")


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A message that this worker threw away unread.

    Attributes:
        ref: the run that it names.
        task_id: its task's id.
        why: why it was thrown away.
        came_before: it was delivered before, so that a worker without the plugin may have run it then.
    """

    ref: str
    task_id: str
    why: str
    came_before: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """One task that this worker ended.

    Attributes:
        ref: the run that its message names.
        task_id: its id.
        name: its name.
        word: how it was ended.
        listed_at: since when its id is on this worker's list of revoked tasks, on the monotonic clock.
        expired: its message expired.
        killed: the process that had it was killed.
    """

    ref: str
    task_id: str
    name: str
    word: str
    listed_at: float
    expired: bool
    killed: bool


class Discards:
    """The messages that one app's worker discarded and has not recorded yet."""

    def __init__(self, binding: BaseBinding) -> None:
        self._binding = binding
        self._waiting: deque[Ended | NotTaken] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def clear(self) -> None:
        """Forgets what was noted."""
        self._waiting.clear()

    def note_end(self, request: Any, *, terminated: bool, expired: bool) -> None:
        """Notes a task of a durable run that Celery ended. Waits for nothing."""
        place = place_of(request)
        if place is None:
            return
        task_id = str(request.id)
        word = (
            "its message expired" if expired else "it was revoked, and its process was killed" if terminated else "it was revoked"
        )
        entry = state.revoked._data.get(task_id)
        # One that was revoked by a stamp is on no list with a time: that stands until the worker is restarted.
        listed_at = time.monotonic() if entry is None else float(entry[0])
        name = str(request.task or "")
        self._waiting.append(Ended(place[0], task_id, name, word, listed_at, bool(expired), bool(terminated)))

    def note_not_taken(self, message: Any, why: str) -> None:
        """Notes a message that Celery threw away unread. Waits for nothing."""
        headers = getattr(message, "headers", None)
        if not isinstance(headers, dict) or not isinstance(headers.get("stamps"), dict):
            return
        stamp = read_stamp(headers["stamps"].get(STAMP))
        if stamp is None or not headers.get("id"):
            return
        delivery = getattr(message, "delivery_info", None) or {}
        queue = delivery.get("routing_key")
        came_before = bool(delivery.get("redelivered") or headers.get("redelivered") or headers.get("retries"))
        where = f" on queue {queue!r}" if queue else ""
        known = "it did not run now, but an earlier delivery of it may have run" if came_before else "its body did not run"
        self._waiting.append(NotTaken(stamp[0], str(headers["id"]), f"a worker{where} {why}: {known}", came_before))

    def record(self) -> None:
        """Records what was noted. What cannot be recorded yet is kept for the next call; what never can be stops no other."""
        while self._waiting:
            noted = self._waiting[0]
            try:
                if isinstance(noted, NotTaken):
                    _record_not_taken(self._binding, noted)
                else:
                    _record_end(self._binding, noted)
            except JournalError as error:
                logger.warning("end_not_recorded_yet task=%s msg=%r", noted.task_id, str(error))
                return
            except Exception as error:
                logger.exception(
                    "end_not_written task=%s run=%s error=%s msg=%r",
                    noted.task_id,
                    noted.ref,
                    type(error).__name__,
                    "How its task ended could not be recorded. It is left alone",
                )
            self._waiting.popleft()


def _record_end(binding: BaseBinding, ended: Ended) -> None:
    """Records that a task was ended, and has it sent again where it is to run all the same."""
    if _record(binding, ended) is not Fate.GOES_ON:
        return
    # Its message was thrown away because of this worker's list. It is due at once, for a worker that takes it.
    state.revoked.discard(ended.task_id)
    binding.journal.engine_ends.send_again(ended.ref, ended.task_id)
    why = f"Its message was discarded ({ended.word}), and it is to run all the same"
    logger.warning("step_sent_again task=%s msg=%r", ended.task_id, why)


def _record_not_taken(binding: BaseBinding, message: NotTaken) -> None:
    """Has a message that was thrown away sent again; in doubt where an earlier delivery may have run a guarded step."""
    journal, who = binding.journal, binding.host.row
    step = next((s for s in journal.reads.steps(message.ref) if s.task_id == message.task_id), None)
    if step is None or step.status is not StepStatus.PLANNED:
        return
    if message.came_before and step.is_guarded:
        doubt = journal.doubts.raise_doubt
        recorded = doubt(step, None, message.why, cause=Cause.MESSAGE_LOST, over=True, who=who)
        what = "It is in doubt"
    else:
        recorded, what = journal.engine_ends.not_taken(message.ref, message.task_id, message.why, who=who), "It is sent again"
    if recorded:
        logger.error("message_not_taken run=%s task=%s msg=%r", message.ref, message.task_id, f"{message.why}. {what}")


def _record(binding: BaseBinding, ended: Ended) -> Fate:
    journal = binding.journal
    at = journal.time() - int((time.monotonic() - ended.listed_at) * SECOND)
    end = EngineEnd(ended.word, TaskRevokedError(ended.word), at, first_only=ended.expired, killed=ended.killed)
    return ended_by_engine(journal, ended.ref, ended.task_id, end, engine=binding.engine, who=binding.host.row)
