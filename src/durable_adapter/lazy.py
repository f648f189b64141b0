"""Lazy names of a package: each is imported when it is first used, so that importing the package is fast."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, origins: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns the `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        origins: the module of each of its names, relative to the package.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the package's own
        if name in origins:
            return getattr(import_module(origins[name], package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:  # noqa: N807
        return sorted({*vars(sys.modules[package]), *origins})

    return __getattr__, __dir__
