"""Reconciliation: what was begun and not finished, told in plain words, and what of it may be mended without asking.

`look_for_trouble` reads unfinished work, what is marked for people, and refused messages of the last days: never the
history. It changes nothing. `mend` lets the sweeper act on what is safe by the promises, by a person's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

__all__ = ["MEANING", "Finding", "Found", "Mended", "Remedy", "Trouble", "at_stake", "look_for_trouble", "mend"]

if TYPE_CHECKING:
    from .finding import MEANING, Finding, Remedy, Trouble, at_stake
    from .repair import Mended, mend
    from .survey import Found, look_for_trouble
else:
    #: Where each name comes from, once it is asked for: other commands use this room's words alone.
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "MEANING": ".finding",
            "Finding": ".finding",
            "Found": ".survey",
            "Mended": ".repair",
            "Remedy": ".finding",
            "Trouble": ".finding",
            "at_stake": ".finding",
            "look_for_trouble": ".survey",
            "mend": ".repair",
        },
    )
