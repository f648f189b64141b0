"""A context in which no step, no function and no publication is current, for code that runs inside them but is not a part."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

from ..current import FUNCTION, STEP
from .publication import nothing_under_way


def afresh(run: Callable[[], Any], *also: contextvars.ContextVar[Any]) -> Any:
    """Runs something in a copy of this context in which no step, no workflow function and no publication is current.

    Args:
        run: what to run.
        *also: a binding's own variables that are to be unset as well.
    """
    context = contextvars.copy_context()
    variables: list[contextvars.ContextVar[Any]] = [FUNCTION, STEP, *also]
    for variable in variables:
        context.run(variable.set, None)
    context.run(nothing_under_way)
    return context.run(run)
