"""Which functions are marked, by the dotted name under which RQ sends them; RQ stores it, and imports it in the worker."""

from __future__ import annotations

from typing import Any

from ..errors import DeclarationError
from ..policy import StepPolicy
from ..runtime.marked import Named, refuse_a_name_in_a_class

#: Functions that are marked by name, because nobody may edit them.
NAMED: dict[str, StepPolicy] = {}


def mark(name: str, **options: Any) -> None:
    """Marks a function as a step by its dotted name, where its module may not be edited.

    While the plugin is installed, the attribute of its module is wrapped, so that a call of it in a workflow function is a
    step as well. What was taken before with `from module import name` stays what it was.

    Args:
        name: as RQ stores it, such as `legacy.payments.charge`.
        **options: those of `durable.step`.

    Raises:
        DeclarationError: an option is unknown, options contradict each other, or the name is that of a method.
    """
    refuse_a_name_in_a_class(name)
    try:
        NAMED[name] = StepPolicy(**options, subject=f"mark({name!r})")
    except TypeError as error:
        raise DeclarationError(f"mark({name!r}): {error}") from error
    from .binding import BINDINGS

    for binding in BINDINGS:
        binding.wrapping.wrap(NAMED)


class Registry(Named):
    """The marked functions, as far as this process has seen them."""

    named = NAMED
