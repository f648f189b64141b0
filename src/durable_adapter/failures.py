"""Errors as the journal keeps them: what raised, what it said and where, without a single local variable.

A recorded error comes back as its own type where that type is already loaded and the copy says the same; otherwise as
`StepFailed`. Neither recording nor restoring raises or imports: an error must not be lost because it is badly behaved.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from .codec import JSON
from .errors import DurableError, StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MESSAGE_LIMIT = 4_000  # characters: enough for a provider's error body
TRACEBACK_LIMIT = 16_000  # characters, the last ones: the innermost frames are at the end
FRAME_LIMIT = 50  # innermost frames of each error
CHAIN_LIMIT = 5  # errors behind the error
GROUP_LIMIT = 10  # errors beside each other in an exception group
STATE_LIMIT = 16_000  # bytes of recorded arguments and attributes

_SEPARATORS = {
    "cause": "The above exception was the direct cause of the following exception:",
    "context": "During handling of the above exception, another exception occurred:",
}


def record_failure(exc: BaseException) -> dict[str, object]:
    """Describes an error as plain data that JSON carries.

    Recorded are its type, its message, its traceback (source lines, no variables), the errors behind it, and, as JSON
    text, its arguments and attributes as far as `JsonCodec` keeps them. Every part is bounded. Never raises.

    Args:
        exc: The error, as caught.

    Returns:
        `type`, `module`, `message`, `traceback`, `chain` (type, message and relation of each error behind this one);
        where they can be recorded `args` and `attributes`; `omitted`, the names of attributes that cannot; `members`
        of an exception group.

    Example:
        >>> record_failure(ValueError("no such order"))["message"]
        'no such order'
    """
    behind = list(_behind(exc))
    attributes, omitted = _attributes(exc)
    failure: dict[str, object] = {
        "type": _type_name(type(exc)),
        "module": _text(getattr(type(exc), "__module__", ""), MESSAGE_LIMIT),
        "message": _message(exc),
        "traceback": _traceback_text(exc, behind),
        "chain": [{"relation": how, "type": _type_name(type(other)), "message": _message(other)} for how, other in behind],
    }
    if (args := _encoded(_args(exc))) is not None:
        failure["args"] = args
    if attributes:
        failure["attributes"] = attributes
    if omitted:
        failure["omitted"] = omitted
    if members := _members(exc):
        failure["members"] = [{"type": _type_name(type(one)), "message": _message(one)} for one in members]
    return failure


def restore_failure(failure: Mapping[str, Any]) -> Exception:
    """Gives back a recorded error, to be raised again.

    It is of its own type if that is an `Exception` in a module that is already loaded, and if the copy, made from the
    recorded arguments and attributes, says what the original said. Where the constructor wants other arguments than
    it handed to `Exception`, the copy is made without it, provided that every attribute was recorded. In all other
    cases it is a `StepFailed`. Either way it carries the recorded traceback as a note, and `__durable_recorded__` is
    true of it. Never raises, and never imports.

    Args:
        failure: What `record_failure` returned.

    Example:
        >>> restore_failure(record_failure(KeyError("order-42")))
        KeyError('order-42')
    """
    type_name, message = str(failure.get("type", "")), str(failure.get("message", ""))
    text = str(failure.get("traceback", ""))
    exc = _copy(failure)
    if exc is None:
        exc = StepFailed(message, type_name=type_name, traceback_text=text)
    note = f"Recorded by the attempt that failed:\n{text}" if text else f"Recorded as {type_name}, without a traceback."
    if isinstance(omitted := failure.get("omitted"), list):
        note += f"\nAttributes that could not be recorded: {', '.join(map(str, omitted))}"
    # Not setattr and add_note: an exception may be a frozen dataclass.
    exc.__dict__.update(__durable_recorded__=True, __notes__=[note])
    return exc


def _copy(failure: Mapping[str, Any]) -> Exception | None:
    cls = _loaded_type(str(failure.get("module", "")), str(failure.get("type", "")))
    if cls is None:
        return None
    try:
        args: Any = JSON.decode(str(failure["args"]).encode())
        attributes: Any = JSON.decode(str(failure.get("attributes", "{}")).encode())
    except (KeyError, ValueError, DurableError):
        return None
    makers: list[Callable[[type[Exception], list[Any]], Exception]] = [_constructed]
    if not failure.get("omitted"):
        makers.append(_assembled)
    for make in makers:
        try:
            exc = make(cls, args)
            exc.__dict__.update(attributes)
        except Exception:  # noqa: S112 - somebody else's constructor may raise anything
            continue
        if type(exc) is cls and _message(exc) == failure.get("message"):
            return exc
    return None


def _constructed(cls: type[Exception], args: list[Any]) -> Exception:
    return cls(*args)


def _assembled(cls: type[Exception], args: list[Any]) -> Exception:
    """Makes an exception as its constructor would have left it, without calling that: only the built-in base's part."""
    exc = cls.__new__(cls, *args)
    _builtin_base(cls).__init__(exc, *args)
    return exc


def _loaded_type(module: str, type_name: str) -> type[Exception] | None:
    """Finds a class without importing: `getattr` on a module may import (a lazy one does), its dictionary does not."""
    found: object = sys.modules.get(module)
    for name in type_name.removeprefix(f"{module}.").split("."):
        try:
            found = object.__getattribute__(found, "__dict__")[name]
        except (AttributeError, KeyError):
            return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _behind(exc: BaseException) -> Iterator[tuple[str, BaseException]]:
    seen = {id(exc)}
    for _ in range(CHAIN_LIMIT):
        how, other = "cause", exc.__cause__
        if other is None and not exc.__suppress_context__:
            how, other = "context", exc.__context__
        if other is None or id(other) in seen:
            return
        seen.add(id(other))
        yield how, other
        exc = other


def _members(exc: BaseException) -> tuple[BaseException, ...]:
    return exc.exceptions[:GROUP_LIMIT] if isinstance(exc, BaseExceptionGroup) else ()


def _traceback_text(exc: BaseException, behind: list[tuple[str, BaseException]]) -> str:
    members = [f"\nMember {number} of the group:\n\n{_frames(one)}" for number, one in enumerate(_members(exc), 1)]
    parts = [_frames(exc) + "".join(members)]
    for how, other in behind:
        parts += [f"\n{_SEPARATORS[how]}\n\n", _frames(other)]
    text = "".join(reversed(parts)).rstrip()
    if len(text) > TRACEBACK_LIMIT:
        text = f"[{len(text) - TRACEBACK_LIMIT} characters left out]\n{text[-TRACEBACK_LIMIT:]}"
    return text


def _frames(exc: BaseException) -> str:
    # Not TracebackException: it looks into objects for suggestions, and does not bound the message.
    try:
        frames = "".join(traceback.format_list(traceback.extract_tb(exc.__traceback__, limit=-FRAME_LIMIT)))
    except Exception:
        frames = "  (no frames: they cannot be read)\n"
    head = "Traceback (most recent call last):\n" if frames else ""
    message = _message(exc)
    return f"{head}{_text(frames)}{_type_name(type(exc))}{': ' if message else ''}{message}\n"


def _args(exc: BaseException) -> list[object]:
    # What pickle would hand to the type. Not `exc.args`: an OSError leaves its file name out, and a subclass may
    # hide them behind something else.
    return list(_builtin_base(type(exc)).__reduce__(exc)[1])


def _builtin_base(cls: type[BaseException]) -> Any:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins" and issubclass(base, BaseException))


def _attributes(exc: BaseException) -> tuple[str | None, list[str]]:
    kept: dict[str, object] = {}
    omitted: list[str] = []
    for name, value in vars(exc).items():
        if name in ("__notes__", "__durable_recorded__"):
            continue
        if _encoded(value) is None:
            omitted.append(_text(name, 100))
        else:
            kept[name] = value
    encoded = _encoded(kept) if kept else None
    return (encoded, omitted) if encoded or not kept else (None, [*map(str, kept), *omitted])


def _encoded(value: object) -> str | None:
    try:
        data = JSON.encode(value)
    except Exception:
        return None
    return data.decode() if len(data) <= STATE_LIMIT else None


def _message(exc: BaseException) -> str:
    try:
        return _text(str(exc), MESSAGE_LIMIT)
    except Exception:
        return "<no message: its __str__ raises>"


def _type_name(cls: type) -> str:
    return _text(f"{getattr(cls, '__module__', '')}.{cls.__qualname__}", MESSAGE_LIMIT)


def _text(text: object, limit: int = sys.maxsize) -> str:
    """Returns exactly a `str`, in valid Unicode, cut in the middle of nothing: the end is what goes."""
    exact = str.encode(str(text)[:limit], "utf-8", "backslashreplace").decode()
    return exact if len(str(text)) <= limit else f"{exact}..."
