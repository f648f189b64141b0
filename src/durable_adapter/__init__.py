"""durable-adapter: durable execution for the Celery and RQ code that is already there.

What `import durable_adapter as durable` offers. Importing it touches no database, patches nothing and loads neither
SQLAlchemy nor a queue library; `durable_adapter.celery.install()` does, once, visibly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import lazily
from .printable import guard_log

__all__ = [
    "DurableError",
    "NeverConnected",
    "RetryPolicy",
    "Verdict",
    "attributes",
    "cannot_tell",
    "did_not_happen",
    "external_reference",
    "handle",
    "happened",
    "heartbeat",
    "idempotency_key",
    "last_heartbeat",
    "on_attention",
    "on_held",
    "register",
    "session",
    "sleep",
    "start",
    "step",
    "workflow",
]


if TYPE_CHECKING:
    from .celery import handle, start
    from .codec import register
    from .current import external_reference, heartbeat, idempotency_key, last_heartbeat, session, sleep
    from .declare.decorators import step, workflow
    from .declare.effects import NeverConnected
    from .declare.retry import RetryPolicy
    from .declare.verdicts import Verdict, cannot_tell, did_not_happen, happened
    from .errors import DurableError
    from .runtime.alerts import on_attention, on_held
    from .runtime.attributes import attributes
else:
    #: The module of each name, which is imported at its first use: every `celery` command imports this file.
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "DurableError": ".errors",
            "NeverConnected": ".declare.effects",
            "RetryPolicy": ".declare.retry",
            "Verdict": ".declare.verdicts",
            "attributes": ".runtime.attributes",
            "cannot_tell": ".declare.verdicts",
            "did_not_happen": ".declare.verdicts",
            "external_reference": ".current",
            "handle": ".celery",
            "happened": ".declare.verdicts",
            "heartbeat": ".current",
            "idempotency_key": ".current",
            "last_heartbeat": ".current",
            "on_attention": ".runtime.alerts",
            "on_held": ".runtime.alerts",
            "register": ".codec",
            "session": ".current",
            "sleep": ".current",
            "start": ".celery",
            "step": ".declare.decorators",
            "workflow": ".declare.decorators",
        },
    )

# Records of this library's logger hold texts from outside, whoever writes them and whichever handler shows them.
guard_log()
