"""Encodes values for the journal: bytes, with the short tag of the codec that wrote them.

`JsonCodec` returns equal values of the same types, or refuses with the path of a value that it cannot keep. Reading imports
nothing: a user's class is restored only if it is registered. `fingerprint` compares arguments (P5), `mask` shows the structure of
a value without its content. This file imports only the standard library and the errors.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import hashlib
import inspect
import itertools
import json
import math
import pickle
import re
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Protocol, TypeVar, overload
from uuid import UUID
from zoneinfo import ZoneInfo

from .errors import DurableError, UnknownCodec, UnreadableValue, UnregisteredType, UnserialisableValue

T = TypeVar("T")
_Convert = Callable[[Any], Any]

TAG = "$durable"  # the key of a JSON object that stands for a value of another type
TAG_LENGTH = 32  # characters of a codec's tag
MAX_DEPTH = 100  # nested containers; far below Python's recursion limit
_SHOWN = 50  # items of one container that `mask` shows
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z_\-]{0,39}[0-9]{0,2}")
_LONG_INT = 1 << 2048  # about 617 digits; Python may refuse to read a decimal number of more than 640


class CircularValue(UnserialisableValue, ValueError):
    """Raised when a value contains itself."""


class _Reason(ValueError):
    """Raised where a value cannot be kept, and caught where its path is known; its text never contains the value."""


class Codec(Protocol):
    """Encodes values as bytes and decodes them. Your own codec (encryption, say) needs these four and `register_codec`."""

    id: str
    """Short name, stored with each value."""
    version: int
    """Increased when old readers cannot read new values."""

    def encode(self, value: object) -> bytes:
        """Returns the value as bytes; raises `UnserialisableValue` rather than lose something."""
        ...

    def decode(self, data: bytes) -> object:
        """Returns the value that `encode` was given, of the same type."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Registered:
    cls: type
    name: str
    dump: _Convert
    load: _Convert


_BY_TYPE: dict[type, _Registered] = {}
_BY_NAME: dict[str, _Registered] = {}


@overload
def register(
    cls: type[T],
    name: str | None = ...,
    *,
    aliases: Iterable[str] = ...,
    dump: _Convert | None = ...,
    load: _Convert | None = ...,
) -> type[T]: ...
@overload
def register(
    cls: None = ...,
    name: str | None = ...,
    *,
    aliases: Iterable[str] = ...,
    dump: _Convert | None = ...,
    load: _Convert | None = ...,
) -> Callable[[type[T]], type[T]]: ...
def register(
    cls: type[T] | None = None,
    name: str | None = None,
    *,
    aliases: Iterable[str] = (),
    dump: _Convert | None = None,
    load: _Convert | None = None,
) -> type[T] | Callable[[type[T]], type[T]]:
    """Lets values of exactly this class be recorded, and restored as this class. Also a decorator, bare or called.

    An enum is recorded by the name of its member (a flag by its value). A dataclass is recorded by field, and restored
    without `__init__` or `__post_init__`; a field that is newer than the record gets its default. A named tuple is recorded
    by field. A pydantic model is recorded with `model_dump` and restored with `model_validate`, and is refused if they do
    not preserve its fields and private attributes. A dataclass or named tuple with other attributes than its fields is
    refused when it is recorded; a dataclass that is also a dict, a list or an error, when it is registered. A subclass must
    be registered itself.

    Args:
        cls: An enum, dataclass, named tuple or pydantic model; any class if `dump` and `load` are given.
        name: The stored name of the class (default: module and qualified name). Your own name allows you to move the class.
        aliases: Names under which older records of the class can still be read.
        dump: Receives the object, and returns a recordable value with its whole content.
        load: Receives the value that `dump` returned, and returns the object.

    Returns:
        The class itself, unchanged.

    Raises:
        TypeError: The class needs `dump` and `load`, or needs no registration.
        ValueError: The name belongs to another class.

    Example:
        >>> @register(name="Colour")
        ... class Colour(enum.Enum):
        ...     RED = 1
        >>> JSON.encode([Colour.RED])
        b'[{"$durable":"@Colour","v":"RED"}]'
    """
    if cls is None:
        return functools.partial(register, name=name, aliases=aliases, dump=dump, load=load)
    if cls in _NATIVE:
        raise TypeError(f"{_type_name(cls)} is recorded as it is and cannot be registered")
    shape = (dump, load) if dump and load else _shape(cls)
    if shape is None or bool(dump) != bool(load):
        kinds = "an enum, dataclass, named tuple or pydantic model"
        raise TypeError(f"{_type_name(cls)} is not {kinds}: give both dump= and load=")
    entry = _Registered(cls, name or f"{cls.__module__}.{cls.__qualname__}", *shape)
    for known in (entry.name, *aliases):
        other = _BY_NAME.get(known)
        # The same class of a reloaded module replaces the old one.
        if other and (other.cls.__module__, other.cls.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"the name {known!r} is already registered for {_type_name(other.cls)}")
    _BY_NAME.update(dict.fromkeys((entry.name, *aliases), entry))
    _BY_TYPE[cls] = entry
    return cls


def _shape(cls: Any) -> tuple[_Convert, _Convert] | None:
    bases: tuple[type, ...] = cls.__mro__
    if issubclass(cls, enum.Flag):
        return (lambda flag: flag._value_), cls
    if issubclass(cls, enum.Enum):
        return (lambda member: member._name_), (lambda name: cls[name])
    if dataclasses.is_dataclass(cls):
        # The data of a built-in base (a dict's items, an error's arguments) is in no field.
        plain = all(base is object or base.__module__ not in ("builtins", "collections") for base in bases)
        return (_dump_fields, functools.partial(_load_fields, cls)) if plain else None
    if hasattr(cls, "model_dump") and hasattr(cls, "model_validate"):
        return _model_shape(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _dump_row, functools.partial(_load_row, cls)
    return None


def _dump_fields(value: Any) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(value)]
    _refuse_more(value, names)
    return {name: getattr(value, name) for name in names}


def _refuse_more(value: Any, names: Collection[str]) -> None:
    """Raises if an object has attributes besides its fields, other than cached properties."""
    slots = {s for base in type(value).__mro__ for s in _slots(base) if hasattr(value, s)}
    for extra in sorted((getattr(value, "__dict__", {}).keys() | slots) - set(names)):
        if not isinstance(getattr(type(value), extra, None), functools.cached_property):
            raise _Reason(f"its attribute {extra} is not a field and would be lost: register it with dump= and load=")


def _slots(cls: type) -> list[str]:
    given = cls.__dict__.get("__slots__", ())
    names = [given] if isinstance(given, str) else list(given)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _dump_row(row: Any) -> dict[str, object]:
    _refuse_more(row, ())
    return dict(zip(row._fields, row, strict=True))


def _load_fields(cls: Any, recorded: dict[str, object]) -> object:
    value = cls.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in recorded:
            item = recorded.pop(field.name)
        elif field.default_factory is not dataclasses.MISSING:
            item = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            item = field.default
        else:
            raise _Reason(f"the record has no field {field.name}")
        object.__setattr__(value, field.name, item)
    if recorded:
        raise _Reason(f"the class no longer has the recorded fields {sorted(recorded)}")
    return value


def _load_row(cls: Any, recorded: dict[str, object]) -> object:
    if gone := recorded.keys() - set(cls._fields):
        raise _Reason(f"the class no longer has the recorded fields {sorted(gone)}")
    return cls._make({**cls._field_defaults, **recorded}[name] for name in cls._fields)


def _model_shape(cls: Any) -> tuple[_Convert, _Convert]:
    # Field names if pydantic can read them (2.11), else aliases, so that a model with aliases can be restored.
    by_name = "by_name" in inspect.signature(cls.model_validate).parameters
    either = {"by_name": True, "by_alias": True} if by_name else {}

    def load(recorded: object) -> object:
        return cls.model_validate(recorded, **either)

    def dump(value: Any) -> object:
        recorded = value.model_dump(round_trip=True, by_alias=not by_name)
        again = load(recorded)
        for name in getattr(cls, "model_fields", ()):
            kept, given = getattr(again, name), getattr(value, name)
            if kept is not given and kept != given and repr(kept) != repr(given):
                raise _Reason(f"model_dump and model_validate do not give its field {name} back as it was")
        given, kept = (getattr(model, "__pydantic_private__", None) or {} for model in (value, again))
        if lost := sorted(name for name in given.keys() | kept.keys() if given.get(name) != kept.get(name)):
            raise _Reason(f"its private attributes {', '.join(lost)} would be lost: register it with dump= and load=")
        return recorded

    return dump, load


def _dump_moment(moment: datetime | time) -> object:
    zone, extra = moment.tzinfo, dict[str, object]()
    if moment.fold:
        extra["fold"] = 1
    if type(zone) is ZoneInfo:
        if not zone.key:
            raise _Reason("its ZoneInfo has no key")
        extra["zone"] = zone.key
        zone = None
    elif zone is not None:
        offset = zone.utcoffset(None)  # a tzinfo that needs no date (pydantic's, dateutil's) is a fixed offset
        if offset is None:
            raise _Reason(f"its time zone is a {_type_name(type(zone))}: use zoneinfo.ZoneInfo or a fixed offset")
        if type(zone) is timezone and zone.tzname(None) != timezone(offset).tzname(None):
            extra["name"] = zone.tzname(None)
        zone = timezone(offset)
    text = moment.replace(tzinfo=zone).isoformat()
    return {"at": text, **extra} if extra else text


def _load_moment(kind: type[datetime] | type[time], recorded: Any) -> object:
    if isinstance(recorded, str):
        return kind.fromisoformat(recorded)
    moment = kind.fromisoformat(recorded["at"])
    zone: Any = moment.tzinfo
    if "zone" in recorded:
        zone = ZoneInfo(recorded["zone"])
    elif "name" in recorded:
        zone = timezone(zone.utcoffset(None), recorded["name"])
    return moment.replace(tzinfo=zone, fold=recorded.get("fold", 0))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_LEAVES: dict[type, tuple[str, _Convert]] = {
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", _b64),
    datetime: ("datetime", _dump_moment),
    date: ("date", date.isoformat),
    time: ("time", _dump_moment),
    timedelta: ("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
}
_LOADERS: dict[str, _Convert] = {
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": functools.partial(base64.b64decode, validate=True),
    "datetime": functools.partial(_load_moment, datetime),
    "date": date.fromisoformat,
    "time": functools.partial(_load_moment, time),
    "timedelta": lambda recorded: timedelta(*recorded),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "int": lambda recorded: int(recorded, 16),
    "float": float,
    "str": lambda recorded: base64.b64decode(recorded).decode("utf-8", "surrogatepass"),
}
_ATOMS: frozenset[type] = frozenset({str, bool, float, type(None)})
_CONTAINERS: frozenset[type] = frozenset({dict, list, tuple, set, frozenset})
_NATIVE: Collection[type] = (*_LEAVES, *_ATOMS, int, *_CONTAINERS)


def _is_plain(value: object, sequences: Collection[type], depth: int = MAX_DEPTH) -> bool:
    """Returns whether plain JSON preserves the value: exact types, string keys, nothing that looks like a tag."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is int:
        return -_LONG_INT < value < _LONG_INT  # type: ignore[operator]
    if depth == 0:
        return False
    if kind is dict:
        if TAG in value:  # type: ignore[operator]
            return False
        for key, item in value.items():  # type: ignore[attr-defined]
            if type(key) is not str or not (type(item) in _ATOMS or _is_plain(item, sequences, depth - 1)):
                return False
        return True
    if kind in sequences:
        return all(type(item) in _ATOMS or _is_plain(item, sequences, depth - 1) for item in value)  # type: ignore[attr-defined]
    return False


_LIST = (list,)
_LIST_OR_TUPLE = (list, tuple)
# Strict JSON: NaN, the infinities and lone surrogates make these raise ValueError, and are tagged instead.
_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
_dumps_sorted = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode


class _Tagger:
    """Converts one value to tagged JSON, and tracks the path inside it."""

    def __init__(self, *, canonical: bool) -> None:
        self.canonical = canonical
        self.trail: list[object] = []
        self.inside: set[int] = set()

    def tag(self, value: Any) -> object:
        kind = type(value)
        if kind is bool or value is None:
            return value
        if kind is str:
            return value if _is_unicode(value) else {TAG: "str", "v": _b64(value.encode("utf-8", "surrogatepass"))}
        if kind is int:
            return value if -_LONG_INT < value < _LONG_INT else {TAG: "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {TAG: "float", "v": str(value)}
        if kind in _LEAVES:
            name, dump = _LEAVES[kind]
            return {TAG: name, "v": self.taken_apart(value, dump)}
        if kind not in _CONTAINERS and kind not in _BY_TYPE:
            raise self.refusal(value, f"cannot be recorded. {_advice(kind)}")
        if id(value) in self.inside:
            raise CircularValue(f"{self.path()}: the {_type_name(kind)} contains itself and cannot be recorded")
        if len(self.inside) == MAX_DEPTH:
            raise self.refusal(value, f"is nested more than {MAX_DEPTH} levels deep")
        self.inside.add(id(value))
        tagged = self.container(value, kind)
        self.inside.discard(id(value))
        return tagged

    def container(self, value: Any, kind: type) -> object:
        if kind is list or (self.canonical and isinstance(value, tuple)):
            return [self.at(index, item) for index, item in enumerate(value)]
        if kind is dict:
            if TAG not in value and all(type(key) is str and _is_unicode(key) for key in value):
                return {key: self.at(key, item) for key, item in value.items()}
            pairs = [[self.at(key, key), self.at(key, item)] for key, item in value.items()]
            return {TAG: "dict", "v": sorted(pairs, key=_dumps_sorted) if self.canonical else pairs}
        if kind is tuple:
            return {TAG: "tuple", "v": [self.at(index, item) for index, item in enumerate(value)]}
        if kind is set or kind is frozenset:
            return {TAG: kind.__name__, "v": sorted((self.at(..., item) for item in value), key=_dumps_sorted)}
        entry = _BY_TYPE[kind]
        return {TAG: "@" + entry.name, "v": self.tag(self.taken_apart(value, entry.dump))}

    def at(self, step: object, value: object) -> object:
        self.trail.append(step)  # not removed after an error, whose message needs it
        tagged = self.tag(value)
        self.trail.pop()
        return tagged

    def taken_apart(self, value: object, dump: _Convert) -> object:
        try:
            return dump(value)
        except _Reason as reason:
            raise self.refusal(value, f"cannot be recorded: {reason}") from None
        except Exception as error:
            raise self.refusal(value, f"cannot be recorded: reading it raised {type(error).__name__}") from error

    def refusal(self, value: object, why: str) -> UnserialisableValue:
        return UnserialisableValue(f"{self.path()}: a value of type {_type_name(type(value))} {why}")

    def path(self) -> str:
        return "$" + "".join(map(_path_step, self.trail))


def _path_step(step: object) -> str:
    if isinstance(step, str) and step.isidentifier():
        return f".{step}"
    if step is ...:
        return "[*]"  # a member of a set has no place
    return f"[{step!r:.40}]" if type(step) in (str, int) else f"[{_type_name(type(step))}]"


def _untag(data: dict[str, Any]) -> object:
    if TAG not in data:
        return data
    tag = data[TAG]
    if tag.startswith("@"):
        if (entry := _BY_NAME.get(tag[1:])) is None:
            raise UnregisteredType(
                f"a recorded value is of type {tag[1:]!r}, which this process has not registered. Import the module "
                f"that calls durable_adapter.register() for it, or register its successor with aliases=[{tag[1:]!r}]."
            )
        load = entry.load
    elif (known := _LOADERS.get(tag)) is None:
        raise UnregisteredType(
            f"a recorded value is marked {tag!r}, which durable-adapter {_own_version()} does not know. A mark without "
            "'@' is never a registered type: it comes from a newer durable-adapter. Upgrade this process."
        )
    else:
        load = known
    try:
        return load(data["v"])
    except Exception as error:
        why = error if isinstance(error, _Reason) else type(error).__name__
        raise UnreadableValue(f"a recorded {tag} cannot be put together again: {why}") from error


def _written(value: object, sequences: Collection[type], dumps: Callable[[object], str], *, canonical: bool) -> bytes:
    if _is_plain(value, sequences):
        try:
            return dumps(value).encode()
        except ValueError:
            pass  # NaN, an infinity or a lone surrogate: these need a tag
    return dumps(_Tagger(canonical=canonical).tag(value)).encode()


_loads = json.JSONDecoder().decode
_loads_tagged = json.JSONDecoder(object_hook=_untag).decode


class JsonCodec:
    """Strict JSON that people and databases can read, with tagged objects for other types.

    Keeps, with exact types: None, bool, int of any size, float, str, list, dict with any keys, tuple, set, frozenset,
    bytes, Decimal, UUID, datetime and time (naive, fixed offset or ZoneInfo, with fold), date, timedelta, registered
    classes. Anything else, subclasses included, is refused. An object that occurs in two places is restored as two objects,
    and any fixed-offset time zone as `datetime.timezone`.

    Example:
        >>> JSON.encode({"price": Decimal("1.50"), "n": 3})
        b'{"price":{"$durable":"decimal","v":"1.50"},"n":3}'
        >>> JSON.decode(_)
        {'price': Decimal('1.50'), 'n': 3}
    """

    id = "json"
    version = 1

    def encode(self, value: object) -> bytes:
        """Returns the value as UTF-8 JSON.

        Raises:
            UnserialisableValue: Names the path inside the value, the type, and what to do.
            CircularValue: The value contains itself.
        """
        return _written(value, _LIST, _dumps, canonical=False)

    def decode(self, data: bytes) -> object:
        """Returns the value that was encoded. Imports nothing.

        Raises:
            UnregisteredType: The value holds a class that this process has not registered.
            UnreadableValue: The bytes are damaged, or a registered class no longer fits its record.
        """
        try:
            text = data.decode()
            return _loads_tagged(text) if TAG in text else _loads(text)
        except DurableError:
            raise
        except Exception as error:
            raise UnreadableValue(f"recorded bytes are not a value of json/1: {type(error).__name__}") from error


class PickleCodec:
    """Python's pickle, for values that no other codec keeps. Decoding can run code: use it only with a journal you trust."""

    id = "pickle"
    version = 1

    def encode(self, value: object) -> bytes:
        """Returns the pickled value; raises `UnserialisableValue` if pickle fails."""
        try:
            return pickle.dumps(value, protocol=5)
        except Exception as error:
            raise UnserialisableValue(f"$: pickle refuses a {_type_name(type(value))}: {type(error).__name__}") from error

    def decode(self, data: bytes) -> object:
        """Returns the unpickled value; raises `UnreadableValue` if pickle fails."""
        try:
            return pickle.loads(data)  # noqa: S301 - only if pickle was allowed by name
        except Exception as error:
            raise UnreadableValue(f"recorded bytes are not a value of pickle/1: {type(error).__name__}") from error


JSON = JsonCodec()
_CODECS: dict[str, Codec] = {}


def register_codec(codec: Codec) -> None:
    """Makes a codec available under its id, and readable under its tag, in this process.

    Raises:
        ValueError: The tag is longer than the journal's column, or not ASCII.
    """
    if len(codec_tag(codec)) > TAG_LENGTH or not codec_tag(codec).isascii():
        raise ValueError(f"the codec's tag {codec_tag(codec)!r} must have {TAG_LENGTH} characters of ASCII at the most")
    _CODECS[codec_tag(codec)] = codec


def codec_tag(codec: Codec) -> str:
    """Returns the tag that is stored with a value, such as `json/1`."""
    return f"{codec.id}/{codec.version}"


register_codec(JSON)
register_codec(PickleCodec())


def get_codec(name: str, *, allow_pickle: bool = False) -> Codec:
    """Returns the newest codec of that name.

    Raises:
        UnknownCodec: There is none, or it is `pickle`, which was not allowed.
    """
    known = [codec for codec in _CODECS.values() if codec.id == name]
    if not known:
        raise UnknownCodec(f"there is no codec {name!r}; known are {_known()}. register_codec() adds your own.")
    return _allowed(max(known, key=lambda codec: codec.version), allow_pickle)


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A value as two columns: the codec's tag (`json/1`) and the bytes."""

    codec: str
    data: bytes


def encode_stored(value: object, codec: Codec = JSON) -> Stored:
    """Returns the value as the journal stores it; raises what the codec's `encode` raises."""
    return Stored(codec_tag(codec), codec.encode(value))


def decode_stored(tag: str, data: bytes, *, allow_pickle: bool = False) -> object:
    """Returns the value that is stored under a codec's tag.

    Raises:
        UnknownCodec: No codec here reads that tag; the message says what to do.
        UnregisteredType, UnreadableValue: See the codec's `decode`.
    """
    codec = _CODECS.get(tag)
    if codec is None:
        name, _, version = tag.partition("/")
        if name == JSON.id and version.isdecimal() and int(version) > JSON.version:
            cure = f"It was written by a newer durable-adapter; this is {_own_version()}. Upgrade this process."
        else:
            cure = "Pass the codec that wrote it to durable_adapter.codec.register_codec() in this process."
        raise UnknownCodec(f"a value is recorded as {tag!r}, and this process reads only {_known()}. {cure}")
    return _allowed(codec, allow_pickle).decode(bytes(data))


def fingerprint(value: object) -> str:
    """Returns 32 hex digits that are equal if and only if two values are recorded equally, in any order of keys.

    1, 1.0 and True differ, and so do `Decimal("1.0")` and `Decimal("1.00")`. A tuple, named or not, equals a list of
    the same items, because brokers turn tuples into lists. Other changes by a broker (integer keys, say) make a difference.

    Raises:
        UnserialisableValue: See `JsonCodec.encode`.

    Example:
        >>> fingerprint({"a": (1, 2), "b": 3}) == fingerprint({"b": 3, "a": [1, 2]})
        True
    """
    text = _written(value, _LIST_OR_TUPLE, _dumps_sorted, canonical=True)
    return hashlib.sha256(text).hexdigest()[:32]


def mask(value: object) -> object:
    """Returns the structure of a value, with types and sizes instead of its content, for people to see.

    Keys that look like field names are kept; others are masked as well, because they may be e-mail addresses or account
    numbers. Deep or long values are cut.

    Example:
        >>> mask({"card": "4242424242424242", "items": [1, None]})
        {'card': 'str(16)', 'items': ['int', 'None']}
    """
    return _masked(value, 12)


def _masked(value: Any, depth: int) -> object:
    kind = type(value)
    if kind in (dict, list, tuple, set, frozenset) and depth == 0:
        return "..."
    if kind is dict:
        shown: dict[str, object] = {}
        for key, item in itertools.islice(value.items(), _SHOWN):
            label = key if type(key) is str and _FIELD_NAME.fullmatch(key) else _masked(key, 0)
            shown[f"{label} #{len(shown) + 1}" if label in shown else str(label)] = _masked(item, depth - 1)
        return shown if len(value) <= _SHOWN else {**shown, "...": f"{len(value) - _SHOWN} more"}
    if kind in (list, tuple, set, frozenset):
        items = [_masked(item, depth - 1) for item in itertools.islice(value, _SHOWN)]
        return items if len(value) <= _SHOWN else [*items, f"... {len(value) - _SHOWN} more"]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        return {kind.__name__: _masked(fields, depth - 1)} if depth else kind.__name__
    if kind in (str, bytes):
        return f"{kind.__name__}({len(value)})"
    return "None" if value is None else kind.__name__


def _allowed(codec: Codec, allow_pickle: bool) -> Codec:
    if codec.id == PickleCodec.id and not allow_pickle:
        raise UnknownCodec('reading a pickle runs what it says: allow it by name, with codec="pickle"')
    return codec


def _known() -> str:
    return ", ".join(sorted(_CODECS))


def _own_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("durable-adapter")
    except metadata.PackageNotFoundError:
        return "of this checkout"


def _advice(kind: type) -> str:
    name = kind.__qualname__
    if _shape(kind) is not None:
        return f"Register the class: durable_adapter.register({name})."
    for base in _NATIVE:
        if issubclass(kind, base):
            return f"Convert it to {base.__name__}, or register {name} with dump= and load=."
    return f"Use plain data in its place, or register {name} with dump= and load=."


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
