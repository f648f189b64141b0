"""A marked job, for the tests in which the journal is away."""

from __future__ import annotations

import durable_adapter as durable
from tests.rq_unchanged.jobs import say


@durable.step
def charge(order: str) -> str:
    say(f"charge {order}")
    return f"charged {order}"
