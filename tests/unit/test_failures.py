"""What comes back of a recorded error: its own type and message, or `StepFailed`; never its variables."""

import collections
import dataclasses
import doctest
import enum
import importlib.util
import json
import pickle
import sys
import traceback
import types
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from durable_adapter import errors, failures
from durable_adapter.errors import StepFailed
from durable_adapter.failures import MESSAGE_LIMIT, STATE_LIMIT, TRACEBACK_LIMIT, record_failure, restore_failure

GOLDEN = json.loads((Path(__file__).parent / "golden" / "failure_v1.json").read_text())


class Declined(Exception):
    """The usual trap: hands its base another argument than it was given."""

    def __init__(self, code: int) -> None:
        super().__init__(f"declined with {code}")
        self.code = code


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class KeywordOnlyWithout(KeywordOnly):
    def __init__(self, *, code: int) -> None:
        super().__init__(code=code)
        self.client = object()


class FileTrouble(OSError):
    def __init__(self, name: str) -> None:
        super().__init__(2, "no such thing", name)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Falsy(Exception):
    def __len__(self) -> int:
        return 0


class Colour(enum.Enum):
    RED = 1


class ShadowedArgs(Exception):
    args = None  # type: ignore[assignment]


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:
        return caught


def replayed(exc: BaseException) -> Exception:
    record = record_failure(raised(exc))
    return restore_failure(json.loads(json.dumps(record)))


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("no such order"),
        ValueError(),
        KeyError("order-42"),
        KeyError(("a", 1)),
        OSError(2, "No such file", "/tmp/x"),
        FileNotFoundError(2, "No such file", "/tmp/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        Declined(51),
        KeywordOnly(code=7),
        FileTrouble("ledger"),
        Frozen(3),
        ArithmeticError(Decimal("1.50"), {"a": (1,)}),
        errors.UnknownWorkflow("order-42"),
        StepFailed("gone", type_name="a.b", traceback_text="..."),
        Unprintable(1),
        Falsy("x"),
        json.JSONDecodeError("bad", "doc", 0),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_a_loaded_type_comes_back_with_message_arguments_and_attributes(exc: Exception) -> None:
    again = replayed(exc)
    assert type(again) is type(exc)
    assert again.args == exc.args
    kept = {name: value for name, value in vars(again).items() if name not in ("__notes__", "__durable_recorded__")}
    assert kept == {name: value for name, value in vars(exc).items() if name != "__notes__"}
    if not isinstance(exc, Unprintable):
        assert str(again) == str(exc)


def test_the_builtin_state_of_an_error_comes_back() -> None:
    again: Any = replayed(FileTrouble("ledger"))
    assert (again.errno, again.filename) == (2, "ledger")
    decode: Any = replayed(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"))
    assert decode.object == b"\xff"


@pytest.mark.parametrize(
    "exc",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        errors.Suspended("sleeping"),
        BaseExceptionGroup("one", [SystemExit(1)]),
        type("Local", (Exception,), {})("made here"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_cannot_come_back_as_itself_comes_back_as_step_failed(exc: BaseException) -> None:
    again: Any = replayed(exc)
    assert type(again) is StepFailed
    assert again.type_name == f"{type(exc).__module__}.{type(exc).__qualname__}"
    assert again.message == str(again) == str(exc)[:MESSAGE_LIMIT] + ("..." if len(str(exc)) > MESSAGE_LIMIT else "")
    assert again.type_name in again.traceback_text


class StatusError(Exception):
    """The shape of httpx.HTTPStatusError."""

    def __init__(self, message: str, *, request: object, response: object) -> None:
        super().__init__(message)
        self._request, self.response = request, response

    @property
    def request(self) -> object:
        return self._request


class APIStatusError(Exception):
    """The shape of openai.APIStatusError."""

    known: typing.ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        APIStatusError.known.append(cls)

    def __init__(self, message: str, *, response: object, body: object) -> None:
        super().__init__(message)
        self.message, self.response, self.body, self.status_code, self.request_id = message, response, body, 402, "req-1"


@pytest.mark.parametrize(
    ("exc", "missing"),
    [
        (ValueError(object()), "args[0]"),
        (ValueError("order-42", Colour.RED), "args[1]"),
        (ValueError("x" * (STATE_LIMIT + 1)), "args[0] (cut)"),
        (KeywordOnlyWithout(code=1), "client"),
        (StatusError("402", request=object(), response=object()), "_request, response"),
        (APIStatusError("402 <html>", response=object(), body={"code": "no_money"}), "response"),
        (
            APIStatusError("x" * 50_000, response=object(), body="y" * 50_000),
            "response, args[0] (cut), message (cut), body (cut)",
        ),
        (ExceptionGroup("many", [ValueError(n) for n in range(40)]), "exceptions[10:]"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else "",
)
def test_what_cannot_be_recorded_in_full_comes_back_as_a_kind_of_its_own_type_and_says_what_is_missing(
    exc: Exception, missing: str
) -> None:
    again = replayed(replayed(exc))
    assert isinstance(again, type(exc))
    assert (type(again).__name__, type(again).__module__) == (type(exc).__name__, type(exc).__module__)
    assert f"not kept: {missing}]" in repr(again)
    assert len(repr(again)) < 500
    assert str(again) == str(exc)[:MESSAGE_LIMIT] + ("..." if len(str(exc)) > MESSAGE_LIMIT else "")
    unpickled = pickle.loads(pickle.dumps(again))  # as a pool hands an error to its parent
    assert (type(unpickled), str(unpickled), repr(unpickled)) == (type(again), str(again), repr(again))
    assert len(json.dumps(record_failure(raised(exc)))) < 150_000


def test_attributes_that_were_kept_are_there_and_the_others_are_missing() -> None:
    again: Any = replayed(APIStatusError("402", response=object(), body={"code": "no_money"}))
    assert (again.status_code, again.body, again.request_id) == (402, {"code": "no_money"}, "req-1")
    assert again.args == ("402",)
    assert not hasattr(again, "response")
    with pytest.raises(AttributeError, match=r"'response' here.*could not keep: response"):
        _ = again.response
    assert APIStatusError.known == [], "nobody hears of a type that is only a copy"
    other: Any = replayed(StatusError("402", request=object(), response=object()))
    with pytest.raises(AttributeError, match="could not keep: _request, response"):
        _ = other.request


def test_a_group_comes_back_with_its_members_and_the_groups_in_it() -> None:
    nested = ExceptionGroup("in", [Declined(51), StatusError("402", request=object(), response=object())])
    again: Any = replayed(ExceptionGroup("out", [KeyError("b"), nested]))
    assert type(again) is ExceptionGroup
    assert str(again) == "out (2 sub-exceptions)"
    assert [type(one) for one in again.exceptions] == [KeyError, ExceptionGroup]
    declined, status = again.exceptions[1].exceptions
    assert (type(declined), declined.code) == (Declined, 51)
    assert isinstance(status, StatusError)
    found: list[Any] = []
    try:
        raise again
    except* Declined as caught:
        found += caught.exceptions[0].exceptions  # type: ignore[attr-defined]
    except* (KeyError, StatusError):
        pass
    assert [type(one) for one in found] == [Declined]


def test_a_member_of_a_type_that_is_not_loaded_says_so() -> None:
    local = type("Local", (Exception,), {})
    again: Any = replayed(ExceptionGroup("one", [local("made here")]))
    assert type(again) is ExceptionGroup
    assert (type(again.exceptions[0]), str(again.exceptions[0])) == (StepFailed, "made here")


def test_a_recorded_error_says_so_and_carries_the_recorded_traceback() -> None:
    again = replayed(Frozen(3))
    assert again.__durable_recorded__ is True  # type: ignore[attr-defined]
    printed = "".join(traceback.format_exception(again))
    assert "Recorded by the attempt that failed:" in printed
    assert "in raised" in printed


def test_a_recorded_error_that_is_recorded_again_keeps_its_type_and_nothing_of_ours() -> None:
    again = replayed(replayed(Declined(51)))
    assert type(again) is Declined
    assert again.code == 51
    assert len(again.__notes__) == 1


def test_attributes_that_cannot_be_recorded_are_named_and_the_type_is_kept() -> None:
    response = requests.Response()
    again: Any = replayed(requests.HTTPError("402 Payment Required", response=response))
    assert type(again) is requests.HTTPError
    assert again.response is None
    assert "Attributes that could not be recorded: response" in again.__notes__[0]


def test_restoring_imports_nothing_not_even_through_lazy_modules() -> None:
    record = record_failure(ValueError("x"))
    before = set(sys.modules)
    again: Any = restore_failure({**record, "type": "wave.Error", "module": "wave"})
    assert again.type_name == "wave.Error"
    assert set(sys.modules) == before

    lazy = types.ModuleType("lazy_for_test")
    lazy.__getattr__ = pytest.fail  # type: ignore[method-assign]
    spec = importlib.util.find_spec("wave")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    unloaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unloaded)
    sys.modules.update(lazy_for_test=lazy, unloaded_for_test=unloaded)
    try:
        for name in ("lazy_for_test", "unloaded_for_test"):
            assert type(restore_failure({**record, "type": f"{name}.Error", "module": name})) is StepFailed
        assert type(unloaded) is not types.ModuleType, "it was loaded"
    finally:
        del sys.modules["lazy_for_test"], sys.modules["unloaded_for_test"]


@pytest.mark.parametrize("name", ["builtins.print", "builtins.int", "builtins.SystemExit", "os.path", "builtins.", ""])
def test_only_an_exception_class_is_ever_called(name: str) -> None:
    module = name.partition(".")[0]
    failure = {"type": name, "module": module, "message": "x", "args": '["x"]', "traceback": ""}
    assert type(restore_failure(failure)) is StepFailed


@pytest.mark.parametrize(
    "damage",
    [
        {"args": "{"},
        {"args": "7"},
        {"args": 7},
        {"args": '"\ud800"'},
        {"attributes": "[1]"},
        {"attributes": None},
        {"args": '[{"$durable":"@gone.Type","v":1}]'},
        {"message": None},
        {"type": None, "module": None},
        {"omitted": 1, "args": "{"},
    ],
)
def test_a_damaged_record_still_gives_an_error(damage: dict[str, Any]) -> None:
    assert type(restore_failure({**record_failure(ValueError("x")), **damage})) is StepFailed
    assert type(restore_failure({})) is StepFailed


def test_constructors_that_raise_or_answer_nonsense_are_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_failure(Declined(51))
    monkeypatch.setattr(Declined, "__init__", lambda self, *args: 1 / 0)
    assert type(restore_failure(record)) is Declined
    monkeypatch.setattr(Declined, "__new__", lambda cls, *args: 7)
    assert type(restore_failure(record)) is StepFailed


def test_badly_behaved_errors_are_recorded_all_the_same() -> None:
    assert record_failure(Unprintable())["message"] == "<no message: its __str__ raises>"
    assert record_failure(ShadowedArgs("x"))["args"] == '["x"]'
    assert record_failure(ValueError("\ud800\x00"))["message"] == "\\ud800\x00"
    strange = type("Strange", (Exception,), {"__module__": None})
    assert type(replayed(strange("x"))) is StepFailed


def test_no_variable_of_a_frame_is_recorded() -> None:
    class Secret:
        def __repr__(self) -> str:
            raise AssertionError("somebody looked")

        def __dir__(self) -> list[str]:
            raise AssertionError("somebody looked")

    def charge(card: str, secret: Secret) -> None:
        secret.charge(card)  # type: ignore[attr-defined]

    try:
        charge("4242" * 4, Secret())
    except AttributeError as exc:
        text = json.dumps(record_failure(exc))
    assert "4242424242424242" not in text
    assert "secret.charge(card)" in text


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    else:
        raise ValueError("bottom")


def test_message_traceback_and_chain_are_bounded() -> None:
    try:
        deep(200)
    except ValueError as exc:
        text = str(record_failure(exc)["traceback"])
    assert text.count("in deep") <= 50
    assert text.endswith("builtins.ValueError: bottom")

    exc: BaseException = ValueError("y" * 100_000)
    for _ in range(50):
        try:
            raise ValueError("x" * 100_000) from exc
        except ValueError as caught:
            exc = caught
    record: Any = record_failure(exc)
    assert len(record["message"]) == MESSAGE_LIMIT + 3
    assert len(record["chain"]) == 5
    assert len(record["traceback"]) < TRACEBACK_LIMIT + 100
    assert record["traceback"].startswith("[")
    assert "args" not in record


def test_the_errors_behind_an_error_are_named_with_their_relation() -> None:
    def fail(*, hide: bool) -> BaseException:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise Falsy("second")  # noqa: B904
        except Falsy as second:
            try:
                raise ValueError("third") from (None if hide else second)
            except ValueError as third:
                return third

    record: Any = record_failure(fail(hide=False))
    assert [(link["relation"], link["message"]) for link in record["chain"]] == [
        ("cause", "second"),
        ("context", "'first'"),
    ]
    text = record["traceback"]
    parts = ["KeyError: 'first'", "During handling", "Falsy: second", "direct cause", "ValueError: third"]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    assert record_failure(fail(hide=True))["chain"] == []


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert len(record_failure(one)["chain"]) == 1  # type: ignore[arg-type]


def test_the_members_of_a_group_are_recorded_with_their_frames() -> None:
    group = ExceptionGroup("two", [raised(ValueError("a")), raised(ExceptionGroup("in", [KeyError("b")]))])  # type: ignore[list-item]
    record: Any = record_failure(raised(group))
    assert [member["message"] for member in record["members"]] == ["a", "in (1 sub-exception)"]
    assert "Member 1 of the group:" in record["traceback"]
    assert "builtins.ValueError: a" in record["traceback"]


@given(st.text(st.characters()), st.lists(st.one_of(st.integers(), st.text(st.characters()), st.binary())))
def test_any_message_and_arguments_come_back(message: str, args: list[Any]) -> None:
    again = restore_failure(json.loads(json.dumps(record_failure(RuntimeError(message, *args)))))
    assert type(again) is RuntimeError
    assert again.args == (message, *args)


def test_what_version_1_writes_is_frozen_and_what_it_wrote_is_read() -> None:
    failure = record_failure(Declined(51))
    module = Declined.__module__
    frozen = json.loads(json.dumps(GOLDEN).replace("MODULE", module))
    assert failure == frozen
    again = restore_failure(frozen)
    assert type(again) is Declined
    assert again.code == 51


def test_an_error_with_an_unregistered_argument_is_still_named() -> None:
    Row = collections.namedtuple("Row", "a")
    again: Any = replayed(LookupError(Row(1)))
    assert isinstance(again, LookupError)
    assert "not kept: args[0]" in repr(again)


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(failures).failed == 0
