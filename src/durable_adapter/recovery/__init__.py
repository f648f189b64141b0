"""Recovery: makes good what was missed. The sweeper, and what it looks after.

`Sweeper` makes the sweeps and `SweeperThread` runs them beside a worker; `deaths` judges processes that fell silent, `due`
decides what becomes of steps and runs whose look has come, `lost` whether a message is to be sent again, and `absence`
notices that nobody sweeps. This room knows bindings only by the `Engine` protocol, and runs no user code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

__all__ = ["Absence", "Report", "Sweeper", "SweeperThread"]

if TYPE_CHECKING:
    from .absence import Absence
    from .sweep import Report
    from .sweeper import Sweeper
    from .thread import SweeperThread
else:
    #: Where each name comes from, once it is asked for: reports use this room's rules alone.
    __getattr__, __dir__ = lazily(
        __name__,
        {"Absence": ".absence", "Report": ".sweep", "Sweeper": ".sweeper", "SweeperThread": ".thread"},
    )
