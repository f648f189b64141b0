"""Inside a Celery worker: the sweeper's thread, the children's deaths, and what a warm shutdown means.

The sweeper runs in the parent, in a thread of its own: database work must not block the event loop. The same thread
watches which processes the pool has reaped, and writes their deaths at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from typing import Any

from celery import bootsteps
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from ..errors import DurableError, InstallConflict, JournalError, JournalUnreachable
from ..model import StepStatus
from ..recovery import SweeperThread
from ..runtime import outages
from ..runtime.transactions import prepare_transactions
from .binding import Binding

logger = logging.getLogger("durable_adapter")


class SweeperStep(bootsteps.StartStopStep):
    """Runs the sweeper in the parent of the pool, from after the fork until the worker stops."""

    name = "durable-adapter"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.thread: SweeperThread | None = None
        self.children: set[int] = set()
        #: Children that were not there at the last look: dead when they are not there at this one either.
        self.missing: set[int] = set()
        self.dead: dict[int, str] = {}
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        """Starts the thread."""
        binding: Binding = worker.app.durable_binding

        def watch() -> bool:
            recorded = self._record_deaths(binding, worker)
            self._return_unbegun(binding)
            binding.discards.record()
            return recorded

        self.thread = SweeperThread.beside(binding, watch)
        self.thread.start()

    def stop(self, worker: Any) -> None:
        """A warm shutdown: the sweep that is under way ends first."""
        if self.thread is not None:
            self.thread.stop(wait=5)

    def terminate(self, worker: Any) -> None:
        """A cold shutdown."""
        if self.thread is not None:
            self.thread.stop()

    def _record_deaths(self, binding: Binding, worker: Any) -> bool:
        """Records the deaths of this worker's own children: those that its pool has reaped since the last look."""
        # Copied at once: the pool's own thread takes processes out of this list while we look.
        living = {process.pid for process in list(getattr(getattr(worker.pool, "_pool", None), "_pool", None) or ())}
        missing = self.children - living
        for pid in missing & self.missing:
            self.dead[pid] = "its parent saw it end"
        self.missing = missing - self.missing
        self.children = living | self.missing
        for pid, why in list(self.dead.items()):
            try:
                binding.journal.workers.child_died(binding.parent, pid, why)
            except JournalError as error:
                outages.away(binding.journal, error)
                logger.debug("death_not_recorded_yet pid=%s msg=%r", pid, str(error))
                return False
            del self.dead[pid]
            if not self.dead:
                return True
        return False

    def _return_unbegun(self, binding: Binding) -> None:
        """Makes due again what Celery gave up before its body began: that failure is the process's, not the step's."""
        while binding.given_up:
            task_id = binding.given_up[0]
            try:
                if not binding.journal.members.not_begun(task_id, "Celery gave it up before it began"):
                    # It had begun: Celery has called it failed, which may have written over that it is held.
                    for row in binding.journal.reads.unsettled():
                        if row.task_id == task_id and row.status is StepStatus.HELD:
                            binding.engine.say_held(row, row.evidence or row.doubt or "its outcome is unknown")
            except JournalError as error:
                outages.away(binding.journal, error)
                logger.debug("unbegun_not_recorded_yet task=%s msg=%r", task_id, str(error))
                return
            binding.given_up.popleft()


def prepare_fork(binding: Binding, worker: Any) -> None:
    """Loads and compiles once, in the parent, what every child of the pool needs, and keeps it shared.

    Celery collects garbage in the parent before each fork, which writes to every page with an object on it: what is frozen
    stays one copy for all children, Celery's own modules included.
    """
    prepare_transactions(binding.registry)
    binding.journal.compile_hot()
    if "prefork" in str(worker.pool_cls):
        gc.freeze()


def check(binding: Binding) -> None:
    """Makes sure, when a worker starts, that the journal is there and that every marked task is hooked.

    Raises:
        JournalError: the journal is not migrated, or newer than this code; not where nothing is marked.
        NotInstalled: something is marked, and no journal is named anywhere.
        InstallConflict: a task cannot be hooked, and `strict` is set; else that task alone is refused.
    """
    binding.hook_tasks()
    if not binding.registry.marks_anything:
        return  # a worker that needs no journal does not wait for one
    with contextlib.suppress(JournalUnreachable):
        binding.journal.check()
    missing = binding.unhooked()
    if not missing:
        return
    text = f"these durable tasks cannot be hooked in this worker and would run unprotected: {', '.join(missing)}"
    if binding.settings.strict:
        raise InstallConflict(text)
    logger.error("tasks_refused msg=%r", f"{text}. This worker refuses them: it takes them for unregistered tasks")
    for name in missing:
        binding.app._tasks.unregister(name)


# Receivers of Celery's signals; `hooks` says which listens to what.


def modules_imported(binding: Binding, **_: Any) -> None:
    """Task modules were imported, or lazy tasks made: what is marked among them is hooked."""
    if binding.app.finalized:
        binding.hook_tasks()


def set_up(binding: Binding, instance: Any = None, **_: Any) -> None:
    """A worker is about to start."""
    if instance is None or instance.app is not binding.app:
        return
    binding.queues = sorted(binding.app.amqp.queues.consume_from)
    try:
        check(binding)
    except DurableError as error:
        # A signal's receiver can only stop a worker that must not run by leaving the process.
        logger.critical("worker_not_started msg=%r", f"this worker does not start: {error}")
        raise SystemExit(1) from error
    if binding.registry.marks_anything:
        prepare_fork(binding, instance)


def process_begins(binding: Binding, **_: Any) -> None:
    """A child of the pool begins."""
    binding.hook_tasks()


def process_ends(binding: Binding, **_: Any) -> None:
    """This worker, or this child of its pool, ends."""
    binding.host.stop()


def shutting_down(binding: Binding, **_: Any) -> None:
    """A warm shutdown has begun."""
    binding.stop_children()


def given_up(binding: Binding, sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """In the parent alone: a lost child or a hard time limit, after which the message is gone and a failure stored."""
    if isinstance(exception, (WorkerLostError, TimeLimitExceeded)) and binding.registry.is_marked(sender.name):
        binding.given_up.append(task_id)


def revoked(binding: Binding, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any) -> None:
    """A task was revoked, or its message has expired."""
    if request is not None:
        binding.discards.note_end(request, terminated=terminated, expired=expired)


def unknown(binding: Binding, message: Any = None, name: Any = None, **_: Any) -> None:
    """A message names a task that this worker does not have."""
    binding.discards.note_not_taken(message, f"does not know the task {name}")


def rejected(binding: Binding, message: Any = None, exc: Any = None, **_: Any) -> None:
    """A message cannot be read."""
    why = type(exc).__name__ if exc else "unknown format"
    binding.discards.note_not_taken(message, f"cannot read its message ({why})")
