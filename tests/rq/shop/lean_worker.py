"""A worker of a deployment that imports its jobs before it forks, a transactional one among them."""

from __future__ import annotations

import durable_adapter as durable
import durable_adapter.rq


@durable.step(transactional=True)
def never_called() -> None:
    """A step that would need a session."""


class Preloaded(durable_adapter.rq.Worker):
    """Forks with what this module has imported."""
