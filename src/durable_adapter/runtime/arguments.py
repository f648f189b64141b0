"""A call's arguments: by the names of its parameters, the key that a template makes of them, and their fingerprint."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..declare.policy import StepPolicy, template_fields
from ..errors import DeclarationError
from ..model import is_storable
from .values import arguments_fingerprint


def parameters_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by parameter name, as templates see them; by number where they do not fit the signature."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return {**{f"arg{number}": value for number, value in enumerate(args)}, **kwargs}
    bound.apply_defaults()
    named = dict(bound.arguments)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = named.pop(parameter.name, {})
            # A positional-only parameter leaves its name free for a keyword: neither may hide the other.
            named |= {f"**{name}" if name in named else name: value for name, value in more.items()}
    return named


def template_key(
    policy: StepPolicy, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Returns the key that the step's own template makes of its arguments; None where it has no template.

    Raises:
        DeclarationError: the key cannot be stored.
    """
    if policy.key is None:
        return None
    key = template_fields(policy.key, parameters_of(function, args, kwargs), name)
    if not is_storable(key):
        raise DeclarationError(
            f"step {name}: its template {policy.key!r} gives the key {key!r:.80}, which holds a control character or half "
            "of a surrogate pair: a key may have neither"
        )
    return key


def counted_fingerprint(
    policy: StepPolicy, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Returns the fingerprint of the arguments, without those that the step's declaration ignores."""
    if not policy.ignore_arguments:
        return arguments_fingerprint(args, kwargs)
    counted = {k: v for k, v in parameters_of(function, args, kwargs).items() if k not in policy.ignore_arguments}
    return arguments_fingerprint((), counted)
