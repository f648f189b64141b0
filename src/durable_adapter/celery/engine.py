"""Celery as the runtime and the sweeper see it: how a step is sent again, and what broker and result store can tell."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import InvalidTaskError, NotRegistered, TaskRevokedError
from celery.states import FAILURE, REVOKED, SUCCESS
from kombu.exceptions import ContentDisallowed, DecodeError

from ..declare.policy import StepPolicy
from ..model import SECOND, StepRow, WorkflowRow
from ..runtime.engine import EngineEnd, EngineOutcome, message_of
from ..runtime.plans import compensation_options
from .binding import Binding
from .plans import dispatched_message, message_for, undo_message
from .results import HELD
from .tasks import task_named

logger = logging.getLogger("durable_adapter")


class CeleryEngine:
    """The engine protocol for one app."""

    name = "celery"
    hands_results_on = True
    cannot_suspend: str | None = None

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def send_step(self, run: WorkflowRow, step: StepRow, steps: Sequence[StepRow]) -> None:
        """Publishes a step's own message again."""
        step = message_of(run, step, steps)
        marked = self._binding.registry
        if step.kind.undoes:
            target = next(s for s in steps if s.key == step.target)
            name, args, kwargs, options = undo_message(marked, run, step, target, steps)
        elif step.kind.awaited:
            name, args, kwargs, options = dispatched_message(run, step, steps)
        else:
            name, args, kwargs, options = message_for(marked, run, step, steps)
        self._publish(name, args, kwargs, options)

    def _publish(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        """Sends a message as it is, past our own hook, and with the options that the task's own `apply_async` adds."""
        task = task_named(self._binding.app, name)
        extra = {"task_type": task} if task is not None else {}
        if task is not None:
            options = {**{k: v for k, v in task._get_exec_options().items() if v is not None}, **options}
            options.setdefault("ignore_result", task.ignore_result)
        self._binding.send_task(name, tuple(args or ()), kwargs, add_to_parent=False, **extra, **options)

    def queue_is_empty(self, queue: str | None) -> bool | None:
        """Whether the broker holds no message in a queue now; None where the transport cannot say."""
        if queue is None:
            return None
        try:
            with self._binding.app.connection_for_read() as connection:
                channel = connection.default_channel
                if hasattr(channel, "_size"):
                    return int(channel._size(queue)) == 0
                return int(channel.queue_declare(queue=queue, passive=True).message_count) == 0
        except Exception as error:
            # A queue that was never declared holds nothing; anything else is not known.
            if type(error).__name__ in ("NotFound", "ChannelError"):
                return True
            logger.debug("queue_depth_unknown queue=%s msg=%r", queue, str(error))
            return None

    def is_gone(self, step: StepRow) -> bool | None:
        """Unknown: a Celery broker cannot be asked for one message."""
        return None

    def out_of_reach(self, step: StepRow) -> str | None:
        """Returns None: an app has one broker."""
        return None

    def withdraw(self, steps: Sequence[StepRow]) -> None:
        """Does nothing: what follows in a chain is sent by the member before it, and not where that failed."""

    def outcome(self, step: StepRow) -> EngineOutcome | None:
        """Returns what the result backend holds for a step's task."""
        task_id = step.task_id
        if task_id is None:
            return None
        try:
            meta = self._binding.app.backend.get_task_meta(task_id, cache=False)
        except Exception as error:
            logger.debug("result_unknown task=%s msg=%r", task_id, str(error))
            return None
        at, status, result = _stored_at(meta.get("date_done")), meta.get("status"), meta.get("result")
        if status == REVOKED:
            word = str(result) if result is not None and str(result) else "revoked"
            revoked = result if isinstance(result, BaseException) else TaskRevokedError(word)
            return EngineOutcome(succeeded=False, at=at, ended=EngineEnd(f"Celery says: {word}", revoked, at))
        if status not in (SUCCESS, FAILURE):
            return None
        if status == FAILURE:
            # With `result_extended` the store keeps how often its task was retried: then an earlier delivery has run.
            refused = None if meta.get("retries") else _refused(step.name, result, meta.get("traceback"))
            return EngineOutcome(succeeded=False, at=at, refused=refused)
        return EngineOutcome(succeeded=True, value=result, at=at)

    def compensation(self, policy: StepPolicy) -> dict[str, Any]:
        """Returns what a step's row keeps of its compensation."""
        self._binding.registry.check_compensation(policy)
        return compensation_options(self._binding.registry, policy)

    def say_held(self, step: StepRow, why: str) -> None:
        """Stores the state HELD for the step's task, where its results are stored at all."""
        task = task_named(self._binding.app, step.name)
        if step.task_id is None or (task is not None and task.ignore_result):
            return
        try:
            self._binding.app.backend.store_result(step.task_id, {"why": why}, HELD)
        except Exception:
            logger.warning("result_not_stored task=%s state=%s", step.task_id, HELD, exc_info=True)

    def knows(self, name: str) -> bool:
        """Whether this app has a task of that name."""
        return task_named(self._binding.app, name) is not None


#: The errors by which a worker says that it cannot read a task's message. A body may raise them as well.
_UNREADABLE = (ContentDisallowed, DecodeError, InvalidTaskError)
#: The frame in a stored traceback in which Celery calls a task's body.
_BODY = re.compile(r"\bin trace_task$", re.MULTILINE)


def _refused(name: str, error: Any, traceback: Any) -> str | None:
    """Why a worker called a task failed without running it; None where it may have run."""
    if isinstance(traceback, str) and _BODY.search(traceback):
        return None
    if isinstance(error, NotRegistered) and name in (str(error), *error.args):
        return "no worker on its queue knows it"
    if isinstance(error, _UNREADABLE):
        return f"its worker could not read its message ({type(error).__name__})"
    return None


def _stored_at(done: Any) -> int | None:
    """Returns when a result was stored. A backend without time zones stores UTC."""
    try:
        moment = done if isinstance(done, datetime) else datetime.fromisoformat(done)
    except (TypeError, ValueError):
        return None
    return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * SECOND)
