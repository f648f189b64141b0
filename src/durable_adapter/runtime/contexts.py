"""A context in which nothing durable is current: for what is run in the middle of something else and is no part of it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from ..current import FUNCTION, STEP
from .attributes import CARRIED
from .starting import STARTING


def afresh(run: Callable[[], Any], *also: contextvars.ContextVar[Any]) -> Any:
    """Runs something in a copy of this context in which no step, no workflow function, no start and no attributes are current.

    Args:
        run: what to run.
        *also: a binding's own variables that are to be unset as well.
    """
    context = contextvars.copy_context()
    variables: list[contextvars.ContextVar[Any]] = [FUNCTION, STEP, STARTING, CARRIED, *also]
    for variable in variables:
        context.run(variable.set, None)
    return context.run(run)
