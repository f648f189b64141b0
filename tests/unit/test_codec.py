"""What `JsonCodec` promises: everything comes back as it was, or is refused with its path."""

import base64
import collections
import dataclasses
import doctest
import enum
import functools
import json
import math
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_adapter import codec
from durable_adapter.codec import (
    JSON,
    TAG,
    CircularValue,
    JsonCodec,
    Stored,
    UnreadableValue,
    codec_tag,
    decode_stored,
    encode_stored,
    fingerprint,
    get_codec,
    mask,
    register,
    register_codec,
)
from durable_adapter.errors import UnknownCodec, UnregisteredType, UnserialisableValue

GOLDEN = json.loads((Path(__file__).parent / "golden" / "codec_v1.json").read_text())
BERLIN = ZoneInfo("Europe/Berlin")


@register(name="test.Colour")
class Colour(enum.Enum):
    RED = 1
    GREEN = (2, "x")


@register(name="test.Currency")
class Currency(enum.StrEnum):
    EUR = "eur"


@register(name="test.Level")
class Level(enum.IntEnum):
    LOW = 1


@register(name="test.Rights")
class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@register(name="test.Money")
@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    amount: Decimal
    currency: Currency = Currency.EUR


@register(name="test.Order")
@dataclasses.dataclass
class Order:
    id: str
    prices: list[Money]
    total: Decimal = dataclasses.field(init=False)
    tags: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        self.total = sum((price.amount for price in self.prices), Decimal(0))

    @functools.cached_property
    def shouted(self) -> str:
        return self.id.upper()


@register(name="test.Point")
class Point(NamedTuple):
    x: int
    y: int = 0


class Address(pydantic.BaseModel):
    city: str


@register(name="test.Customer")
class Customer(pydantic.BaseModel):
    name: str
    address: Address
    since: date
    limit: Decimal = Decimal("1.50")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def greeting(self) -> str:
        return f"Hello {self.name}"


@register(name="test.Opaque", dump=lambda opaque: opaque.inner, load=lambda inner: Opaque(inner))  # noqa: PLW0108 - Opaque does not exist yet
class Opaque:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and same(self.inner, other.inner)

    __hash__ = None  # type: ignore[assignment]


def same(left: Any, right: Any) -> bool:
    """Equality that sees types, NaN, the sign of zero, the order of keys, time zones and folds."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Money):
        return same(left.amount, right.amount) and same(left.currency, right.currency)
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and all(any(same(one, other) for other in right) for one in left)
    if isinstance(left, datetime | time):
        zones = left.tzinfo, right.tzinfo
        return repr(left) == repr(right) and left.fold == right.fold and type(zones[0]) is type(zones[1])
    return bool(left == right)


def golden_values() -> dict[str, Any]:
    aware = datetime(2026, 10, 25, 2, 30, 0, 5, tzinfo=BERLIN)
    return {
        "null": None,
        "true": True,
        "int": 42,
        "int_negative": -7,
        "int_long": -(1 << 2048) - 1,
        "float": 1.5,
        "float_whole": 1.0,
        "float_minus_zero": -0.0,
        "float_nan": math.nan,
        "float_inf": [math.inf, -math.inf],
        "str": "Grüße \U0001f600 \"'\\\n\x00",
        "str_two_lone_surrogates": "\ud83d\ude00",
        "list": [1, "a", None, [True, []]],
        "dict": {"b": 1, "a": {"": {}}},
        "dict_other_keys": {1: "int", "1": "str", None: 0, (1, 2): [], 2.5: {}},
        "dict_like_a_tag": {TAG: "decimal", "v": "1"},
        "dict_like_a_tag_nested": {"x": [{TAG: {TAG: "dict", "v": []}, "v": Decimal("1")}]},
        "dict_lone_surrogate_key": {"\ud800": 1},
        "decimal": [Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal("1E+3"), Decimal("NaN"), Decimal("sNaN7")],
        "uuid": UUID("12345678-1234-5678-1234-567812345678"),
        "bytes": [b"", b"\x00\xff"],
        "tuple": (1, (), ("a",)),
        "set": [{3, 1, 2}, {"b", "a"}, frozenset({(1, 2)}), set()],
        "date": date(2026, 1, 2),
        "datetime_naive": datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001
        "datetime_naive_fold": datetime(2026, 10, 25, 2, 30, fold=1),  # noqa: DTZ001
        "datetime_utc": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        "datetime_offset": datetime(1, 1, 1, tzinfo=timezone(-timedelta(hours=3, minutes=30, seconds=1, microseconds=2))),
        "datetime_named_offset": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1), "CET")),
        "datetime_zone": [aware, aware.replace(fold=1), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))],
        "time": [time(1, 2), time(1, 2, tzinfo=UTC), time(1, 2, 3, 4, tzinfo=BERLIN, fold=1)],
        "timedelta": [timedelta(days=-1, microseconds=1), timedelta.max],
        "enum": [Colour.RED, Colour.GREEN, Currency.EUR, Level.LOW, Rights.READ | Rights.WRITE, Rights(0)],
        "enum_key": {Currency.EUR: 1, Level.LOW: 2},
        "dataclass": Order("a", [Money(Decimal("1.50")), Money(Decimal("2"))], {"x"}),
        "namedtuple": [Point(1), Point(2, 3)],
        "pydantic": Customer(name="Ada", address=Address(city="Paris"), since=date(2020, 1, 1)),
        "opaque": Opaque({1: Opaque(None)}),
    }


VALUES = golden_values()


@pytest.mark.parametrize("name", VALUES)
def test_what_version_1_writes_is_frozen(name: str) -> None:
    assert JSON.encode(VALUES[name]).decode() == GOLDEN[name]["json"]
    assert fingerprint(VALUES[name]) == GOLDEN[name]["fingerprint"]


@pytest.mark.parametrize("name", VALUES)
def test_what_version_1_wrote_is_read_for_ever(name: str) -> None:
    assert same(JSON.decode(GOLDEN[name]["json"].encode()), VALUES[name])


def test_the_golden_file_and_the_values_name_the_same() -> None:
    assert GOLDEN.keys() == VALUES.keys()


def test_what_is_written_is_strict_json() -> None:
    def refuse(constant: str) -> object:
        raise AssertionError(constant)

    for value in VALUES.values():
        json.loads(JSON.encode(value), parse_constant=refuse)


ZONES = st.sampled_from([None, UTC, BERLIN, timezone(timedelta(minutes=-210)), timezone(timedelta(hours=1), "CET")])
HASHABLE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(st.characters()),
        st.binary(),
        st.decimals(allow_nan=False),
        st.uuids(),
        st.dates(),
        st.times(),
        st.timedeltas(),
        st.datetimes(timezones=ZONES),
        st.sampled_from([*Colour, *Currency, *Level, Point(1, 2)]),
    ),
    lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
ANY = st.recursive(
    st.one_of(HASHABLE, st.just(math.nan), st.integers(min_value=1 << 2040, max_value=1 << 2056)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=5) | st.sampled_from([TAG, "v"]), inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
        st.builds(Money, inner),
        st.builds(Opaque, inner),
    ),
    max_leaves=12,
)


@given(ANY)
def test_every_value_comes_back_with_its_exact_types(value: object) -> None:
    assert same(JSON.decode(JSON.encode(value)), value)


@given(ANY)
def test_encoding_and_fingerprint_do_not_change_by_a_round_trip(value: object) -> None:
    again = JSON.decode(JSON.encode(value))
    assert JSON.encode(again) == JSON.encode(value)
    assert fingerprint(again) == fingerprint(value)


def reversed_keys(value: Any) -> Any:
    if type(value) is dict:
        return {key: reversed_keys(item) for key, item in reversed(value.items())}
    return [reversed_keys(item) for item in value] if type(value) in (list, tuple) else value


@given(ANY)
def test_a_fingerprint_sees_neither_the_order_of_keys_nor_tuples(value: object) -> None:
    assert fingerprint(reversed_keys(value)) == fingerprint(value)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0, None),
        (0.0, -0.0),
        ("1", 1),
        (b"a", "a"),
        (Decimal("1.0"), Decimal("1.00")),
        ([1, 2], [2, 1]),
        ([1, 2], {1, 2}),
        ({1}, frozenset({1})),
        ({"1": 0}, {1: 0}),
        ({TAG: "tuple", "v": [1]}, (1,)),
        (Currency.EUR, "eur"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))),
    ],
)
def test_a_fingerprint_tells_apart_what_is_recorded_differently(left: object, right: object) -> None:
    assert fingerprint(left) != fingerprint(right)
    assert fingerprint([{"x": left}]) != fingerprint([{"x": right}])


def test_a_fingerprint_takes_a_tuple_for_a_list_because_brokers_do() -> None:
    assert fingerprint((1, (Decimal(2), Point(3, 4)))) == fingerprint([1, [Decimal(2), [3, 4]]])
    assert fingerprint(((1,),)) == fingerprint([[1]])


def test_a_fingerprint_of_a_set_does_not_depend_on_the_hash_seed() -> None:
    program = "from durable_adapter.codec import *; print(fingerprint({'a', 'b', 'c', ('d', 'e')}), JSON.encode({'x', 'y'}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(codec.__file__).parents[1])},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "123"
    }
    assert len(said) == 1


class Unregistered(enum.Enum):
    A = 1


class Text(str):
    __slots__ = ()


class Unzoned(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None if when is None else timedelta(hours=1)

    def dst(self, when: datetime | None) -> timedelta | None:
        return None

    def tzname(self, when: datetime | None) -> str:
        return "X"


class Pair(NamedTuple):
    a: int


@dataclasses.dataclass
class Plain:
    a: int


@pytest.mark.parametrize(
    ("value", "path", "advice"),
    [
        ({"items": [0, 1, {"price": Unregistered.A}]}, "$.items[2].price: ", "durable_adapter.register(Unregistered)"),
        ([Plain(1)], "$[0]: ", "durable_adapter.register(Plain)"),
        ([Address(city="x")], "$[0]: ", "durable_adapter.register(Address)"),
        ((Pair(1),), "$[0]: ", "durable_adapter.register(Pair)"),
        (Text("x"), "$: ", "Convert it to str, or register Text with dump= and load="),
        ({"a": collections.OrderedDict()}, "$.a: ", "Convert it to dict"),
        ({"a": type("Stamp", (datetime,), {})(2026, 1, 1)}, "$.a: ", "Convert it to datetime"),
        ({"two words": object()}, "$['two words']: ", "Use plain data in its place"),
        ({1: {(1, 2): object()}}, "$[1][tuple]: ", "object"),
        ({Text("k"): 1}, "$.k: ", "Convert it to str"),
        ({frozenset({object()})}, "$[*][*]: ", "object"),
        ([datetime(2026, 1, 1, tzinfo=Unzoned())], "$[0]: ", "Unzoned: use zoneinfo.ZoneInfo or a fixed offset"),
        ([1j], "$[0]: a value of type complex ", "Use plain data"),
        ([bytearray(b"x")], "$[0]: ", "bytearray"),
        ({"order": Order(object(), [])}, "$.order.id: ", "object"),  # type: ignore[arg-type]
        ({"f": print}, "$.f: ", "builtin_function_or_method"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_path_type_and_advice(value: object, path: str, advice: str) -> None:
    with pytest.raises(UnserialisableValue) as refused:
        JSON.encode(value)
    assert str(refused.value).startswith(path)
    assert advice in str(refused.value)
    with pytest.raises(UnserialisableValue):
        fingerprint(value)


def test_a_refusal_never_shows_the_value() -> None:
    class Secret:
        def __repr__(self) -> str:
            return "hunter2"

    with pytest.raises(UnserialisableValue) as refused:
        JSON.encode({"password": Secret()})
    assert "hunter2" not in str(refused.value)


def test_a_value_that_contains_itself_is_refused_as_circular() -> None:
    loop: dict[str, Any] = {"items": []}
    loop["items"].append(loop)
    with pytest.raises(CircularValue, match=r"\$\.items\[0\]: the dict contains itself"):
        JSON.encode(loop)
    with pytest.raises(ValueError, match="contains itself"):
        fingerprint(loop)
    order = Order("a", [])
    order.prices.append(order)  # type: ignore[arg-type]
    with pytest.raises(CircularValue):
        JSON.encode(order)


def test_the_same_object_twice_is_no_circle() -> None:
    shared = [Decimal(1)]
    assert JSON.decode(JSON.encode([shared, shared])) == [shared, shared]


def nested(depth: int, wrap: Any) -> Any:
    value: Any = wrap(0)
    for _ in range(depth - 1):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"a": x}, lambda x: (x,), lambda x: {1: x}])
def test_a_hundred_levels_are_kept_and_one_more_is_refused(wrap: Any) -> None:
    deep = nested(100, wrap)
    assert JSON.decode(JSON.encode(deep)) == deep
    assert fingerprint(deep)
    with pytest.raises(UnserialisableValue, match="100 levels") as refused:
        JSON.encode(nested(101, wrap))
    assert not isinstance(refused.value, ValueError)


def test_integers_beyond_what_python_writes_in_decimal_are_kept() -> None:
    limit = sys.get_int_max_str_digits()
    huge = 10**5000
    sys.set_int_max_str_digits(640)
    try:
        for number in (huge, -huge, 10**640, 10**615):
            assert JSON.decode(JSON.encode({"n": number})) == {"n": number}
    finally:
        sys.set_int_max_str_digits(limit)


def test_a_fixed_offset_of_another_library_keeps_its_instant() -> None:
    parsed = pydantic.TypeAdapter(datetime).validate_python("2026-01-02T03:04:05+01:00")
    assert type(parsed.tzinfo) is not timezone
    assert JSON.decode(JSON.encode(parsed)) == parsed


def test_reading_imports_nothing_and_names_the_type_that_is_missing() -> None:
    before = set(sys.modules)
    with pytest.raises(UnregisteredType, match=r"'wave\.Wave_read'.*register\(\).*aliases=\['wave\.Wave_read'\]"):
        JSON.decode(b'[{"$durable":"@wave.Wave_read","v":{}}]')
    assert set(sys.modules) == before


def test_a_mark_of_a_newer_library_asks_for_an_upgrade() -> None:
    with pytest.raises(UnregisteredType, match=r"'matrix'.*newer durable-adapter"):
        JSON.decode(b'{"$durable":"matrix","v":[]}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"$durable":"decimal"}',
        b'{"$durable":"decimal","v":"x"}',
        b'{"$durable":7,"v":1}',
        b'{"$durable":"bytes","v":"*"}',
        b'{"$durable":"set","v":[[]]}',
        b'{"$durable":"datetime","v":{"at":"2026-01-01","zone":"No/Where"}}',
        b'{"$durable":"@test.Colour","v":"BLUE"}',
        b'{"$durable":"@test.Money","v":{"currency":null}}',
        b'{"$durable":"@test.Money","v":{"amount":1,"gone":2}}',
        b'{"$durable":"@test.Point","v":{"x":1,"z":2}}',
        b'{"$durable":"@test.Point","v":{}}',
        b'{"$durable":"@test.Customer","v":{}}',
    ],
)
def test_damaged_or_outdated_records_are_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableValue):
        JSON.decode(data)


def test_a_field_that_is_younger_than_the_record_takes_its_default() -> None:
    assert JSON.decode(b'{"$durable":"@test.Money","v":{"amount":1}}') == Money(1, Currency.EUR)  # type: ignore[arg-type]
    assert JSON.decode(b'{"$durable":"@test.Point","v":{"x":1}}') == Point(1, 0)
    order: Any = JSON.decode(b'{"$durable":"@test.Order","v":{"id":"a","prices":[],"total":0}}')
    assert order.tags == set()


def test_a_dataclass_comes_back_without_running_its_constructor() -> None:
    order = Order("a", [Money(Decimal(3))])
    order.total = Decimal(99)
    assert order.shouted == "A"
    again: Any = JSON.decode(JSON.encode(order))
    assert again == order
    assert again.total == Decimal(99)


def test_a_dataclass_with_more_than_its_fields_is_refused() -> None:
    order = Order("a", [])
    order.note = "lost"  # type: ignore[attr-defined]
    with pytest.raises(UnserialisableValue, match="attribute note is not a field"):
        JSON.encode(order)


def test_a_subclass_of_a_registered_class_is_not_registered() -> None:
    @dataclasses.dataclass
    class Special(Order):
        pass

    with pytest.raises(UnserialisableValue, match="Special"):
        JSON.encode(Special("a", []))


def test_a_model_with_aliases_comes_back_by_whatever_names_pydantic_can_read() -> None:
    @register(name="test.Aliased")
    class Aliased(pydantic.BaseModel):
        name: str = pydantic.Field(alias="fullName")
        inner: dict[str, "Aliased"] = pydantic.Field(default={}, validation_alias="in", serialization_alias="in")

    value = Aliased.model_validate({"fullName": "Ada", "in": {"x": {"fullName": "Bob"}}})
    assert JSON.decode(JSON.encode([value])) == [value]
    assert JSON.decode(b'{"$durable":"@test.Aliased","v":{"fullName":"Ada"}}') == Aliased(fullName="Ada")


def test_a_model_that_pydantic_does_not_give_back_is_refused() -> None:
    @register(name="test.Lossy")
    class Lossy(pydantic.BaseModel):
        kept: int
        hidden: int = pydantic.Field(default=0, exclude=True)

    assert JSON.decode(JSON.encode(Lossy(kept=1))) == Lossy(kept=1)
    with pytest.raises(UnserialisableValue, match="field hidden"):
        JSON.encode([Lossy(kept=1, hidden=2)])


def test_a_dump_that_raises_is_a_refusal_with_its_path() -> None:
    @register(name="test.Broken", dump=lambda _: 1 / 0, load=lambda _: None)
    class Broken:
        pass

    with pytest.raises(UnserialisableValue, match=r"\$\.a: .*ZeroDivisionError"):
        JSON.encode({"a": Broken()})


def test_an_alias_reads_what_was_written_under_an_older_name() -> None:
    @register(name="test.New", aliases=["test.Old"])
    class New(enum.Enum):
        A = 1

    assert JSON.decode(b'{"$durable":"@test.Old","v":"A"}') is New.A
    assert b"@test.New" in JSON.encode(New.A)


def test_registration_is_a_bare_decorator_too_and_checks_what_it_gets() -> None:
    @register
    class Bare(enum.Enum):
        A = 1

    assert f'"@{__name__}.'.encode() in JSON.encode(Bare.A)
    assert register(Bare) is Bare
    with pytest.raises(ValueError, match=r"already registered for .*Colour"):
        register(Unregistered, "test.Colour")
    with pytest.raises(TypeError, match="dump= and load="):
        register(object().__class__)
    with pytest.raises(TypeError, match="dump= and load="):
        register(Plain, dump=vars)
    with pytest.raises(TypeError, match="recorded as it is"):
        register(dict)


def test_stored_values_carry_codec_and_format_in_one_short_text() -> None:
    assert encode_stored({"a": 1}) == Stored("json/1", b'{"a":1}')
    assert decode_stored("json/1", memoryview(b'{"a":1}')) == {"a": 1}  # type: ignore[arg-type]


def test_a_tag_that_nobody_here_reads_says_what_would() -> None:
    with pytest.raises(UnknownCodec, match=r"'json/2'.*newer durable-adapter"):
        decode_stored("json/2", b"")
    with pytest.raises(UnknownCodec, match=r"'aes/1'.*register_codec"):
        decode_stored("aes/1", b"")
    with pytest.raises(UnknownCodec, match=r"no codec 'yaml'"):
        get_codec("yaml")


def test_pickle_is_used_only_where_somebody_allowed_it() -> None:
    assert get_codec("json") is JSON
    with pytest.raises(UnknownCodec, match="allow it by name"):
        get_codec("pickle")
    pickled = encode_stored({1j}, get_codec("pickle", allow_pickle=True))
    with pytest.raises(UnknownCodec, match="allow it by name"):
        decode_stored(pickled.codec, pickled.data)
    assert decode_stored(pickled.codec, pickled.data, allow_pickle=True) == {1j}
    with pytest.raises(UnserialisableValue):
        get_codec("pickle", allow_pickle=True).encode(lambda: None)
    with pytest.raises(UnreadableValue):
        decode_stored("pickle/1", b"", allow_pickle=True)


def test_a_codec_of_ones_own_can_wrap_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reversed:
        id = "reversed"
        version = 3

        def encode(self, value: object) -> bytes:
            return base64.b64encode(JSON.encode(value))

        def decode(self, data: bytes) -> object:
            return JSON.decode(base64.b64decode(data))

    monkeypatch.setattr(codec, "_CODECS", dict(codec._CODECS))
    mine = Reversed()
    register_codec(mine)
    assert get_codec("reversed") is mine
    assert codec_tag(mine) == "reversed/3"
    stored = encode_stored((1,), mine)
    assert decode_stored(stored.codec, stored.data) == (1,)


def test_a_mask_keeps_the_structure_and_none_of_the_content() -> None:
    value = {
        "card": "4242",
        "paid": True,
        "none": None,
        "ada@example.org": [Decimal("12.3"), b"xyz"],
        "bob@example.org": (1.5, {7}),
        42: {"line2": Order("secret", [Money(Decimal(1))])},
        "acct12345678": 1,
    }
    assert mask(value) == {
        "card": "str(4)",
        "paid": "bool",
        "none": "None",
        "str(15)": ["Decimal", "bytes(3)"],
        "str(15) #5": ["float", ["int"]],
        "int": {
            "line2": {
                "Order": {
                    "id": "str(6)",
                    "prices": [{"Money": {"amount": "Decimal", "currency": "Currency"}}],
                    "total": "Decimal",
                    "tags": [],
                }
            }
        },
        "str(12)": "int",
    }


def test_a_mask_cuts_what_is_long_deep_or_circular() -> None:
    assert mask(list(range(60)))[-1] == "... 10 more"  # type: ignore[index]
    assert mask({str(n): n for n in range(60)})["..."] == "10 more"  # type: ignore[index]
    loop: list[Any] = []
    loop.append(loop)
    assert "..." in json.dumps(mask(loop))
    assert mask(object()) == "object"


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(codec).failed == 0


@pytest.mark.parametrize("name", ["acme-kms-envelope-encryption-v2", "übersetzt"])
def test_a_codec_whose_tag_the_journal_has_no_room_for_is_refused(name: str) -> None:
    class Other(JsonCodec):
        id = name

    with pytest.raises(ValueError, match="tag"):
        register_codec(Other())


@pytest.mark.parametrize("base", [dict, list, Exception, collections.OrderedDict, str])
def test_a_dataclass_that_is_something_else_as_well_needs_dump_and_load(base: type) -> None:
    made = dataclasses.make_dataclass("Box", [("n", int, 0)], bases=(base,))
    with pytest.raises(TypeError, match="give both dump= and load="):
        register(made)
    assert register(made, name=f"box of {base.__name__}", dump=lambda box: box.n, load=lambda n: made()) is made


def test_attributes_of_a_named_tuple_are_refused_rather_than_lost() -> None:
    @register(name="a point with more")
    class Point(collections.namedtuple("Point", "x")):
        pass

    point = Point(1)
    assert JSON.decode(JSON.encode(point)) == point
    point.extra = 2
    with pytest.raises(UnserialisableValue, match="attribute extra is not a field"):
        JSON.encode(point)


def test_what_the_slots_of_a_base_hold_is_refused_rather_than_lost() -> None:
    class Base:
        __slots__ = ("secret",)

    @register(name="an order with a secret")
    @dataclasses.dataclass(slots=True)
    class Order(Base):
        id: str

    order = Order("42")
    assert JSON.decode(JSON.encode(order)) == order
    order.secret = "s"
    with pytest.raises(UnserialisableValue, match="attribute secret is not a field"):
        JSON.encode(order)


def test_private_attributes_of_a_model_are_refused_rather_than_lost() -> None:
    pydantic = pytest.importorskip("pydantic")

    @register(name="a model with a secret")
    class Order(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        id: str
        _secret: int = pydantic.PrivateAttr(default=0)
        _length: int = pydantic.PrivateAttr(default=0)

        def model_post_init(self, _context: object) -> None:
            self._length = len(self.id)

    order = Order(id="42")
    assert JSON.decode(JSON.encode(order)) == order, "what is made anew from the fields is not lost"
    order._secret = 5
    with pytest.raises(UnserialisableValue, match="private attributes _secret would be lost"):
        JSON.encode(order)
