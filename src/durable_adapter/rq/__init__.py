"""The RQ binding: `install(journal=...)` once in every process, and the jobs that exist become durable.

Processes that publish call `install()`; workers are started as `rq worker -w durable_adapter.rq.Worker` (or `SimpleWorker`,
`SpawnWorker`, or `RQ_WORKER_CLASS`), which installs by itself. `start("order-42", queue, charge, 42)` starts a workflow
under an id that the business knows; `handle("order-42")` finds it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..lazy import lazily

__all__ = [
    "Handle",
    "SimpleWorker",
    "SpawnWorker",
    "Worker",
    "handle",
    "install",
    "installed",
    "mark",
    "result_of",
    "start",
    "uninstall",
]

if TYPE_CHECKING:
    from .handles import Handle, handle, result_of, start
    from .installing import install, installed, uninstall
    from .registry import mark
    from .spawning import SpawnWorker
    from .worker import SimpleWorker, Worker
else:
    #: Where each name comes from, once it is asked for: a process that only publishes needs no worker.
    _load, __dir__ = lazily(
        __name__,
        {
            "Handle": ".handles",
            "SimpleWorker": ".worker",
            "SpawnWorker": ".spawning",
            "Worker": ".worker",
            "handle": ".handles",
            "install": ".installing",
            "installed": ".installing",
            "mark": ".registry",
            "result_of": ".handles",
            "start": ".handles",
            "uninstall": ".installing",
        },
    )

    def __getattr__(name: str) -> Any:
        if name in __all__:
            from .versions import require_rq, require_spawn_worker

            require_rq()
            if name == "SpawnWorker":
                require_spawn_worker()
        return _load(name)
