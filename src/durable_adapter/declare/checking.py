"""Checks of a declaration's options, one function per sort of value: each names the option, the value and what is accepted.

Everything is checked where it is written, as far as it can be seen there. Whether the names of parameters are any is
checked where the function is known: at the decorator of a plain function, at `install()` of a task.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from string import Formatter
from typing import Any

from ..codec import get_codec
from ..errors import DeclarationError, UnknownCodec
from ..model import LABEL_LENGTH, NAME_LENGTH, UNDO, is_storable

#: The longest span that any option takes: what a database's whole numbers of microseconds hold many times over.
LONGEST = timedelta(days=36_525)


def seconds(who: str, option: str, value: Any) -> float:
    """A span of time in seconds."""
    given = value.total_seconds() if isinstance(value, timedelta) else value
    if not is_number(given) or not 0 <= given <= LONGEST.total_seconds():
        raise DeclarationError(
            f"{who}: {option}={value!r} must be a number of seconds or a timedelta, not negative, of 100 years at the most"
        )
    return float(given)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(who: str, option: str, value: Any, *, least: float, most: float | None = None) -> None:
    """Refuses what is no finite number between two bounds."""
    if is_number(value) and least <= value and (most is None or value <= most):
        return
    bounds = f"a number of at least {least:g}" if most is None else f"a number from {least:g} to {most:g}"
    raise DeclarationError(f"{who}: {option}={value!r} must be {bounds}")


def whole(who: str, option: str, value: Any, meaning: str) -> None:
    """Refuses what is no whole number from 0 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DeclarationError(f"{who}: {option}={value!r} must be a whole number; {meaning}")


def flag(who: str, option: str, value: Any) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise DeclarationError(f"{who}: {option}={value!r} must be True or False")


def text(who: str, option: str, value: Any) -> None:
    """Refuses what is no text; None is none given."""
    if value is not None and (not isinstance(value, str) or not value):
        raise DeclarationError(f"{who}: {option}={value!r} must be a text that is not empty")


def label(who: str, option: str, value: Any) -> None:
    """Refuses what is no short text that the journal can keep; None is none given."""
    text(who, option, value)
    if value is not None and (len(value) > LABEL_LENGTH or not is_storable(value)):
        raise DeclarationError(
            f"{who}: {option}={value!r:.80} must be a text of {LABEL_LENGTH} characters at the most, without control "
            "characters: the journal keeps it with each run"
        )


def step_name(who: str, option: str, value: Any) -> None:
    """Refuses what cannot be the name of a step or a workflow in the journal; None is none given."""
    text(who, option, value)
    if value is None:
        return
    if len(value) > NAME_LENGTH or not is_storable(value):
        raise DeclarationError(
            f"{who}: {option}={value!r:.80} must be a text of {NAME_LENGTH} characters at the most, without control characters "
            "and halves of surrogate pairs: the journal keeps it"
        )
    if value.startswith(UNDO):
        raise DeclarationError(f"{who}: {option}={value!r} begins with {UNDO!r}, as the keys of compensations alone do")


def names(who: str, option: str, value: Any, *, of: str = "parameters") -> tuple[str, ...]:
    """Names of parameters, as a tuple. A single text is refused: as a sequence, it would be its letters."""
    given = tuple(value) if isinstance(value, (tuple, list)) else None
    if isinstance(value, (set, frozenset)):
        given = tuple(sorted(value, key=str))
    if given is not None and all(isinstance(name, str) and name for name in given):
        return given
    example = (value,) if isinstance(value, str) and value else ("order_id",)
    raise DeclarationError(f"{who}: {option}={value!r} must be a tuple of names of {of}, such as {example!r}")


def error_types(who: str, option: str, value: Any) -> tuple[type[BaseException], ...]:
    """Error types, as a tuple."""
    given: Any = (value,) if isinstance(value, type) else value
    if not isinstance(given, (tuple, list)):
        raise DeclarationError(f"{who}: {option}={value!r} must be an error type or a tuple of error types")
    for item in given:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise DeclarationError(f"{who}: {option} holds {item!r}, which is not an error type")
    return tuple(given)


def codec(who: str, value: Any) -> None:
    """Refuses a codec that nobody has registered."""
    text(who, "codec", value)
    try:
        if value is not None:
            get_codec(value, allow_pickle=True)
    except UnknownCodec as error:
        raise DeclarationError(f"{who}: codec={value!r} must be registered before it is named here: {error}") from error


def called(who: str, option: str, value: Any, meaning: str) -> None:
    """Refuses what cannot be called. `callable()` asks the type alone: Celery's lazy proxies stay as they are."""
    if value is not None and not callable(value):
        raise DeclarationError(f"{who}: {option}={value!r} must be {meaning}")


def step_function(who: str, function: Callable[..., Any]) -> None:
    """Refuses what a call only begins: of a generator nothing has run when it is returned."""
    inner = inspect.unwrap(function)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise DeclarationError(
            f"{who}: {getattr(function, '__qualname__', function)} is a generator: calling it runs nothing, so that there is "
            "nothing to record. Make it a function that returns a list, or make a step of each item."
        )


def template(who: str, option: str, value: Any) -> None:
    """Refuses a template that no arguments could fill."""
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise DeclarationError(f"{who}: {option}={value!r} must be a template such as 'order-{{order_id}}'")
    try:
        fields = list(template_names(value))
    except ValueError as error:
        raise DeclarationError(f"{who}: {option}={value!r} is no template such as 'order-{{order_id}}': {error}") from error
    if not all(name and not name.isdigit() for name in fields):
        raise DeclarationError(
            f"{who}: {option}={value!r} must name its fields by parameter, as 'order-{{order_id}}' does, not by position"
        )


def template_names(given: str) -> Iterator[str]:
    """The names that a template asks for: of `{order.id}` and `{order[id]}` it is `order`."""
    for _, name, spec, _ in Formatter().parse(given):
        if name is not None:
            yield name.partition(".")[0].partition("[")[0]
            yield from template_names(spec or "")


def parameters(who: str, function: Callable[..., Any], asked: Iterable[tuple[str, str]]) -> None:
    """Refuses names that a function has no parameter of.

    Args:
        who: how errors begin.
        function: the function, below any mark.
        asked: pairs of an option and a name that it holds.
    """
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return  # written in C: it says nothing of its parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option, name in asked:
        if name not in known:
            raise DeclarationError(
                f"{who}: {option} names {name!r}, which is no parameter of {getattr(function, '__qualname__', function)}; "
                f"it has {', '.join(known) or 'none'}"
            )
