"""Jobs that use no session: each returns which packages its process has loaded that no step here needs."""

from __future__ import annotations

import sys

import durable_adapter as durable


def loaded() -> list[str]:
    """Which packages that no step here needs this process has loaded."""
    return sorted({"alembic", "celery", "rich", "sqlalchemy.orm", "typed_settings"} & set(sys.modules))


@durable.step
def protected() -> list[str]:
    """A step."""
    return loaded()


@durable.step
def in_place() -> list[str]:
    """A step that a workflow function calls."""
    return loaded()


@durable.workflow
def function() -> list[str]:
    """A workflow function."""
    return sorted({*in_place(), *loaded()})
