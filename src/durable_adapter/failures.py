"""Records errors for the journal, with type, message and traceback but without local variables, and restores them.

A recorded error is restored as its own type if that type is already loaded, otherwise as `StepFailed`. If JSON could not keep all
of it (a response object, say), it is restored as a subclass that says what is missing, so that `except` still matches. Neither
recording nor restoring raises or imports, so that no error is lost.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .codec import JSON
from .errors import DurableError, StepFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MESSAGE_LIMIT = 4_000  # characters: enough for a provider's error body
REPR_LIMIT = 200  # characters of the message in the repr of an error that could not be recorded in full
TRACEBACK_LIMIT = 16_000  # characters, the last ones: the innermost frames are at the end
FRAME_LIMIT = 50  # innermost frames of each error
CHAIN_LIMIT = 5  # causes and contexts of the error
GROUP_LIMIT = 10  # direct members of an exception group
MEMBERS_LIMIT = 30  # members of an exception group and its nested groups, in total
STATE_LIMIT = 16_000  # bytes of recorded arguments, and of attributes
MEMBER_STATE_LIMIT = 2_000  # the same for each member of an exception group

#: Characters of a text that is too long to be recorded in full.
_CUT_AT = MESSAGE_LIMIT

#: The keys that a restored error has in its dictionary besides its own attributes: its message, and the names of its parts that
#: could not be kept, or not in full.
_SAID, _MISSING, _CUT = "__durable_message__", "__durable_missing__", "__durable_cut__"
_OURS = frozenset({"__notes__", "__durable_recorded__", _SAID, _MISSING, _CUT})

_SEPARATORS = {
    "cause": "The above exception was the direct cause of the following exception:",
    "context": "During handling of the above exception, another exception occurred:",
}


def record_failure(exc: BaseException) -> dict[str, object]:
    """Describes an error as plain data for JSON.

    It records the type, the message, the traceback (source lines, no variables), the chain of causes and contexts, and, as
    JSON text, the arguments and attributes that `JsonCodec` keeps. Every part has a limit. Never raises.

    Args:
        exc: The error, as caught.

    Returns:
        `type`, `module`, `message`, `traceback`, `chain` (type, message and relation of each cause or context); `args` and
        `attributes`, or `kept_args` if only some arguments can be recorded; `omitted` and `cut`, the names of parts that
        cannot be recorded, or not in full; `group` and `members` of an exception group.

    Example:
        >>> record_failure(ValueError("no such order"))["message"]
        'no such order'
    """
    behind = list(_causes(exc))
    failure = {
        **_named(exc),
        "traceback": _traceback_text(exc, behind),
        "chain": [{"relation": how, "type": _type_name(type(other)), "message": _message(other)} for how, other in behind],
    }
    return failure | _state(exc, STATE_LIMIT, [MEMBERS_LIMIT])


def _named(exc: BaseException) -> dict[str, object]:
    return {
        "type": _type_name(type(exc)),
        "module": _text(getattr(type(exc), "__module__", ""), MESSAGE_LIMIT),
        "message": _message(exc),
    }


def _state(exc: BaseException, limit: int, room: list[int]) -> dict[str, object]:
    """Returns the recordable arguments, attributes and members of an error.

    Args:
        exc: the error.
        limit: the most bytes of its arguments, and of its attributes.
        room: the number of members that may still be recorded, shared by all nested groups.
    """
    state: dict[str, object] = {}
    lost = _Lost(names=list(vars(exc).get(_MISSING, ())), cut=list(vars(exc).get(_CUT, ())))
    if isinstance(exc, BaseExceptionGroup):
        state["group"] = _text(exc.message, MESSAGE_LIMIT)
        members: list[object] = []
        for one in _members(exc):
            if room[0] <= 0:
                break
            room[0] -= 1
            members.append({**_named(one), **_state(one, MEMBER_STATE_LIMIT, room)})
        state["members"] = members
        if len(members) < len(exc.exceptions):
            lost.names.append(f"exceptions[{len(members)}:]")
    elif (args := _encoded(_args(exc), limit)) is not None:
        state["args"] = args
    else:
        places = {f"args[{place}]": value for place, value in enumerate(_args(exc))}
        kept = _kept(places, limit, lost)
        state["kept_args"] = _encoded([kept.get(name) for name in places], sys.maxsize)
    attributes = {name: value for name, value in vars(exc).items() if name not in _OURS}
    if attributes:
        whole = _encoded(attributes, limit)
        encoded = whole if whole is not None else _encoded(_kept(attributes, limit, lost), sys.maxsize)
        if encoded not in (None, "{}"):
            state["attributes"] = encoded
    if lost.names:
        state["omitted"] = list(dict.fromkeys(_text(name, 100) for name in lost.names))
    if lost.cut:
        state["cut"] = list(dict.fromkeys(_text(name, 100) for name in lost.cut))
    return state


@dataclass
class _Lost:
    """The names of an error's parts that cannot be recorded, or only in part."""

    names: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def _kept(values: Mapping[str, object], limit: int, lost: _Lost) -> dict[str, object]:
    """Returns those of some values that can be recorded in *limit* bytes; a text that is too long is cut."""
    kept: dict[str, object] = {}
    for name, value in values.items():
        given = value
        if isinstance(value, str) and _encoded(value, limit) is None:
            given = _text(value, min(_CUT_AT, limit // 4))
        whole = _encoded(given, limit)
        if whole is None or not isinstance(name, str):
            lost.names.append(str(name))
            continue
        limit -= len(whole)
        kept[name] = given
        if given is not value:
            lost.cut.append(name)
    return kept


def restore_failure(failure: Mapping[str, Any]) -> Exception:
    """Restores a recorded error, to be raised again.

    It has its own type if that is an `Exception` in a loaded module, and if the copy, made from the recorded arguments and
    attributes, has the original's message. If the constructor takes other arguments than it passed to `Exception`, it is
    not called. If a part could not be recorded, the type is a subclass with the same name: a missing attribute raises
    `AttributeError`, and the `repr` names it. In all other cases it is a `StepFailed`. The recorded traceback is a note of
    the error, and its `__durable_recorded__` is true. Never raises, and never imports.

    Args:
        failure: The result of `record_failure`.

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
    message = failure.get("message")
    if cls is None or not isinstance(message, str):
        return None
    missing, cut = tuple(map(str, _listed(failure.get("omitted")))), tuple(map(str, _listed(failure.get("cut"))))
    try:
        args: Any = _recorded_args(cls, failure)
        attributes: Any = JSON.decode(str(failure.get("attributes", "{}")).encode())
    except (KeyError, ValueError, TypeError, DurableError):
        return None
    makers: list[Callable[[type[Exception], list[Any]], Exception]] = []
    if "kept_args" not in failure and not cut:
        makers.append(_constructed)
        if not missing:
            makers.append(_assembled)
    for make in makers:
        try:
            exc = make(cls, args)
            exc.__dict__.update(attributes)
        except Exception:  # noqa: S112 - a foreign constructor may raise anything
            continue
        if type(exc) is cls and _message(exc) == message:
            return exc
    if not missing and not cut:
        return None
    try:
        return _incomplete(cls, args, {**attributes, _SAID: message, _MISSING: missing, _CUT: cut})
    except Exception:
        return None


def _recorded_args(cls: type[Exception], failure: Mapping[str, Any]) -> list[Any]:
    """Returns the arguments of an error; those that could not be recorded are None.

    Raises:
        KeyError: none are recorded. Reading them raises the decoder's other errors.
    """
    if "group" in failure and issubclass(cls, BaseExceptionGroup):
        return [str(failure["group"]), [_copy(one) or _failed(one) for one in _listed(failure.get("members"))]]
    found: Any = JSON.decode(str(failure["kept_args"] if "kept_args" in failure else failure["args"]).encode())
    return list(found) if isinstance(found, list) else found


def _failed(failure: Mapping[str, Any]) -> StepFailed:
    return StepFailed(str(failure.get("message", "")), type_name=str(failure.get("type", "")))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


class _Incomplete:
    """A mixin before the type of a recorded error of which a part is missing. It has the message, and names what is missing."""

    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        """Does nothing, so that a base that registers its subclasses does not register this copy."""

    def __str__(self) -> str:
        return str(vars(self)[_SAID])

    def __repr__(self) -> str:
        said = str(self)
        said = said if len(said) <= REPR_LIMIT else f"{said[:REPR_LIMIT]}..."
        return f"{type(self).__qualname__}({said!r}) [recorded; not kept: {_not_kept(self)}]"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__qualname__} has no attribute {name!r} here: the error was read from the journal, which could not "
            f"keep: {_not_kept(self)}"
        )

    def __reduce__(self) -> Any:
        own = type(self).__mro__[2]
        args = list(_builtin_base(own).__reduce__(self)[1])
        return _incomplete, (own, args, dict(vars(self)))


def _not_kept(exc: Any) -> str:
    """Returns the names of an error's parts that could not be kept, or not in full."""
    return ", ".join([*vars(exc).get(_MISSING, ()), *(f"{name} (cut)" for name in vars(exc).get(_CUT, ()))])


#: The incomplete subclasses, by original type.
_INCOMPLETE: dict[type[Exception], type[Exception]] = {}


def _incomplete(cls: type[Exception], args: list[Any], state: dict[str, Any]) -> Exception:
    """Makes an error of a subclass of *cls*, without calling the constructor of *cls*."""
    if cls not in _INCOMPLETE:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _INCOMPLETE[cls] = type(cls.__name__, (_Incomplete, cls), names)
    made, base = _INCOMPLETE[cls], _builtin_base(cls)
    exc: Exception = base.__new__(made, *args)
    base.__init__(exc, *args)
    exc.__dict__.update(state)
    return exc


def _constructed(cls: type[Exception], args: list[Any]) -> Exception:
    return cls(*args)


def _assembled(cls: type[Exception], args: list[Any]) -> Exception:
    """Makes an exception without calling its own constructor, only the one of its built-in base."""
    exc = cls.__new__(cls, *args)
    _builtin_base(cls).__init__(exc, *args)
    return exc


def _loaded_type(module: str, type_name: str) -> type[Exception] | None:
    """Finds a loaded class. It reads dictionaries, because `getattr` on a lazy module may import."""
    found: object = sys.modules.get(module)
    for name in type_name.removeprefix(f"{module}.").split("."):
        try:
            found = object.__getattribute__(found, "__dict__")[name]
        except (AttributeError, KeyError):
            return None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _causes(exc: BaseException) -> Iterator[tuple[str, BaseException]]:
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
    # Not TracebackException: it inspects objects for suggestions, and does not limit the message.
    try:
        frames = "".join(traceback.format_list(traceback.extract_tb(exc.__traceback__, limit=-FRAME_LIMIT)))
    except Exception:
        frames = "  (no frames: they cannot be read)\n"
    head = "Traceback (most recent call last):\n" if frames else ""
    message = _message(exc)
    return f"{head}{_text(frames)}{_type_name(type(exc))}{': ' if message else ''}{message}\n"


def _args(exc: BaseException) -> list[object]:
    # The arguments that pickle would pass. Not `exc.args`: an OSError omits its file name, and a subclass may override them.
    return list(_builtin_base(type(exc)).__reduce__(exc)[1])


def _builtin_base(cls: type[BaseException]) -> Any:
    own = (base for base in cls.__mro__ if not issubclass(base, _Incomplete))
    return next(base for base in own if base.__module__ == "builtins" and issubclass(base, BaseException))


def _encoded(value: object, limit: int) -> str | None:
    try:
        data = JSON.encode(value)
    except Exception:
        return None
    return data.decode() if len(data) <= limit else None


def _message(exc: BaseException) -> str:
    try:
        return _text(str(exc), MESSAGE_LIMIT)
    except Exception:
        return "<no message: its __str__ raises>"


def _type_name(cls: type) -> str:
    return _text(f"{getattr(cls, '__module__', '')}.{cls.__qualname__}", MESSAGE_LIMIT)


def _text(text: object, limit: int = sys.maxsize) -> str:
    """Returns a plain `str` in valid Unicode, cut at its end."""
    exact = str.encode(str(text)[:limit], "utf-8", "backslashreplace").decode()
    return exact if len(str(text)) <= limit else f"{exact}..."
