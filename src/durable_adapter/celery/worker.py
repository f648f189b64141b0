"""Inside a Celery worker: the sweeper's thread, the children's deaths, and what a warm shutdown means.

The sweeper runs in the parent, in a thread of its own: database work must not block the event loop. The same thread
watches which processes the pool has reaped, and writes their deaths at once.
"""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from celery.exceptions import TimeLimitExceeded, WorkerLostError

from ..errors import DurableError, JournalError
from ..model import StepStatus
from ..recovery import Sweeper, SweeperThread
from ..runtime import outages
from ..runtime.engine import installed_beside
from ..runtime.transactions import prepare_transactions
from . import ended

if TYPE_CHECKING:
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
        settings = binding.settings
        sweeper = Sweeper(
            binding.journal,
            lambda: installed_beside(binding.engine),
            stale=settings.stale,
            beat=settings.beat,
            retention=settings.retention,
            queues=lambda: binding.queues,
        )

        def watch() -> bool:
            buried = self._bury(binding, worker)
            self._return_unbegun(binding)
            ended.write(binding)
            return buried

        self.thread = SweeperThread(sweeper, every=settings.sweep_every if settings.sweeper else None, watch=watch)
        self.thread.start()

    def stop(self, worker: Any) -> None:
        """A warm shutdown: the sweep that is under way ends first."""
        if self.thread is not None:
            self.thread.stop(wait=5)

    def terminate(self, worker: Any) -> None:
        """A cold shutdown."""
        if self.thread is not None:
            self.thread.stop()

    def _bury(self, binding: Binding, worker: Any) -> bool:
        """Writes the deaths of this worker's own children: those that its pool has reaped since the last look."""
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
                logger.debug("the death of child %s is not written yet: %s", pid, error)
                return False
            del self.dead[pid]
            if not self.dead:
                return True
        return False

    def _return_unbegun(self, binding: Binding) -> None:
        """What Celery gave up before its body began is due again: its verdict is about a process, not about the step."""
        while binding.given_up:
            task_id = binding.given_up[0]
            try:
                if not binding.journal.runs.not_begun(task_id, "Celery gave it up before it began"):
                    # It had begun: Celery has called it failed, which may have written over that it is held.
                    for row in binding.journal.reads.unsettled():
                        if row.task_id == task_id and row.status is StepStatus.HELD:
                            binding.engine.say_held(row, row.evidence or row.doubt or "its outcome is unknown")
            except JournalError as error:
                outages.away(binding.journal, error)
                logger.debug("task %s is not looked at yet: %s", task_id, error)
                return
            binding.given_up.popleft()


def before_the_fork(binding: Binding, worker: Any) -> None:
    """Loads and compiles once, in the parent, what every child of the pool needs, and keeps it shared.

    Celery collects garbage in the parent before each fork, which writes to every page with an object on it: what is frozen
    stays one copy for all children, Celery's own modules included.
    """
    prepare_transactions(binding.registry)
    binding.journal.compile_hot()
    if "prefork" in str(worker.pool_cls):
        gc.freeze()


def install(binding: Binding) -> None:
    """Adds the bootstep and listens to the worker's life."""
    app = binding.app
    app.durable_binding = binding
    steps = app.steps["worker"]
    steps.add(SweeperStep)

    def undo() -> None:
        steps.discard(SweeperStep)
        app.__dict__.pop("durable_binding", None)

    binding.patched(
        "app.steps['worker']",
        "runs the sweeper in the worker's parent, and hears of children's deaths",
        undo,
        guard="Celery's documented way to extend a worker; a pool without a list of processes reports no deaths",
    )

    def after_setup(instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is app:
            binding.queues = sorted(app.amqp.queues.consume_from)
            try:
                binding.check_worker()
            except DurableError as error:
                # A signal's receiver can only stop a worker that must not run by leaving the process.
                logger.critical("this worker does not start: %s", error)
                raise SystemExit(1) from error
            if binding.registry.marks_anything:
                before_the_fork(binding, instance)

    def process_init(**_: Any) -> None:
        binding.hook_tasks()

    def given_up(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
        # In the parent alone: a lost child or a hard time limit, after which the message is gone and a failure stored.
        if isinstance(exception, (WorkerLostError, TimeLimitExceeded)) and binding.registry.is_marked(sender.name):
            binding.given_up.append(task_id)

    def revoked(request: Any = None, terminated: bool = False, expired: bool = False, **_: Any) -> None:
        if request is not None:
            ended.hear(binding, request, terminated=terminated, expired=expired)

    def unknown(message: Any = None, name: Any = None, **_: Any) -> None:
        ended.hear_not_taken(binding, message, f"does not know the task {name}")

    def rejected(message: Any = None, exc: Any = None, **_: Any) -> None:
        ended.hear_not_taken(binding, message, f"cannot read its message ({type(exc).__name__ if exc else 'unknown format'})")

    def shutting_down(**_: Any) -> None:
        binding.stop_children()

    def process_shutdown(**_: Any) -> None:
        binding.host.stop()

    binding.listen(signals.celeryd_after_setup, after_setup)
    binding.listen(signals.worker_process_init, process_init)
    binding.listen(signals.task_failure, given_up)
    binding.listen(signals.task_revoked, revoked)
    binding.listen(signals.task_unknown, unknown)
    binding.listen(signals.task_rejected, rejected)
    binding.listen(signals.worker_shutting_down, shutting_down)
    binding.listen(signals.worker_process_shutdown, process_shutdown)
    binding.listen(signals.worker_shutdown, process_shutdown)
