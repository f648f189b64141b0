"""The kinds of journaled call."""

from __future__ import annotations

import enum


class Kind(enum.StrEnum):
    """What sort of journaled call a step row is."""

    STEP = "step"
    FUNCTION = "function"
    DISPATCH = "dispatch"
    SLEEP = "sleep"
    COMPENSATION = "compensation"
    UNMARKED = "unmarked"


class Shape(enum.StrEnum):
    """How the plan of a workflow is known: before it starts, or by running it."""

    CANVAS = "canvas"
    FUNCTION = "function"
