"""The Celery binding: `install(app, journal=...)` once, and the chains that exist become durable workflows.

`durable.start("order-42", signature)` starts a workflow under an id that the business knows; `durable.handle("order-42")`
finds it again. The binding, and with it SQLAlchemy, is loaded only when one of its names is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

__all__ = ["Handle", "HeldTimeout", "binding_of", "handle", "install", "start", "uninstall"]

if TYPE_CHECKING:
    from .handles import Handle, handle, start
    from .installing import binding_of, install, uninstall
    from .results import HeldTimeout
else:
    #: Where each name comes from.
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Handle": ".handles",
            "HeldTimeout": ".results",
            "binding_of": ".installing",
            "handle": ".handles",
            "install": ".installing",
            "start": ".handles",
            "uninstall": ".installing",
        },
    )
