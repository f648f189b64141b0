"""Values as reports show them: masked unless asked for, never what a step redacts, and never in need of the user's classes.

What is recorded as JSON is read as JSON: no class of the user's is made, no pickle is opened, so that a report works in a
process that has not loaded their code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..codec import TAG, Stored, decode_stored, mask
from ..errors import DurableError
from ..model import StepRow, WorkflowRow

REDACTED = "[redacted]"
#: Names a call's arguments by parameter; None where the function is not at hand.
Parameters = Callable[[str, tuple[Any, ...], dict[str, Any]], dict[str, Any] | None]


#: What reading a damaged value raises.
_DAMAGED = (ValueError, TypeError, RecursionError)
#: How many levels of a nested value are shown.
DEEP = 100


class Values:
    """How values are shown.

    Args:
        show: whether values are shown at all; else only their shapes.
        parameters: names arguments by parameter, where the app is at hand; else positional arguments of a step that
            redacts by name are all redacted.
    """

    def __init__(self, *, show: bool = False, parameters: Parameters | None = None) -> None:
        self.show = show
        self._parameters = parameters

    def outcome(self, step: StepRow) -> Any:
        """What a step returned; None where nothing is recorded."""
        if step.outcome is None:
            return None
        return REDACTED if step.options.get("redact") is True else self._stored(step.outcome)

    def details(self, step: StepRow) -> Any:
        """What a step's body said last in a heartbeat; None where it said nothing."""
        if step.details is None:
            return None
        if step.options.get("redact") is True:
            return REDACTED
        try:
            return self._raw(json.loads(step.details))
        except _DAMAGED:
            return f"damaged: {len(step.details)} characters that are not JSON"

    def arguments(self, run: WorkflowRow, step: StepRow) -> dict[str, Any] | None:
        """What a step was given, as `args` and `kwargs`; None where nothing is recorded.

        Of a member of a chain these are its own: what the member before it hands on comes first, and is not repeated.
        """
        given = _recorded_arguments(run, step)
        if given is None:
            return None
        redact = step.options.get("redact") or ()
        if redact is True:
            return {"args": REDACTED, "kwargs": REDACTED}
        if redact:
            given = self._without(step.name, given, redact, handed_on=_handed_on(run, step))
        return {"args": [self._raw(a) for a in given[0]], "kwargs": {k: self._raw(v) for k, v in given[1].items()}}

    def detail(self, detail: dict[str, Any]) -> dict[str, Any]:
        """An event's detail. The outcome that an attempt reported too late is a user's value."""
        if "outcome" not in detail:
            return detail
        stored = Stored(str(detail.get("codec", "json/1")), str(detail["outcome"]).encode())
        return {**{k: v for k, v in detail.items() if k != "codec"}, "outcome": self._stored(stored)}

    def _without(
        self, name: str, given: tuple[list[Any], dict[str, Any]], redact: Sequence[str], *, handed_on: bool
    ) -> tuple[list[Any], dict[str, Any]]:
        """Arguments without those that a step redacts by name; all positional ones where their names are not known."""
        args, kwargs = given
        before = [REDACTED] if handed_on else []
        named = self._parameters(name, (*before, *args), kwargs) if self._parameters is not None else None
        if named is None or not set(redact) <= named.keys() | kwargs.keys():
            return [REDACTED for _ in args], {k: REDACTED if k in redact else v for k, v in kwargs.items()}
        if handed_on:
            named.pop(next(iter(named)))
        return [], {k: REDACTED if k in redact else v for k, v in named.items()}

    def _raw(self, raw: Any) -> Any:
        if isinstance(raw, str) and raw == REDACTED:
            return raw
        if _is_deep(raw):
            return f"nested more than {DEEP} levels deep"
        return plain(raw) if self.show else mask(_shapes(raw))

    def _stored(self, stored: Stored) -> Any:
        if stored.codec.partition("/")[0] == "json":
            try:
                return self._raw(json.loads(stored.data))
            except RecursionError:
                return f"nested more than {DEEP} levels deep"
            except ValueError:
                return f"damaged: {len(stored.data)} bytes that are not JSON"
        opaque = f"{stored.codec}: {len(stored.data)} bytes"
        if stored.codec.startswith("pickle/"):
            return opaque  # opening it would run it
        try:
            value = decode_stored(stored.codec, stored.data)
        except (DurableError, *_DAMAGED):
            return opaque
        return _as_json(value) if self.show else mask(value)


def _recorded_arguments(run: WorkflowRow, step: StepRow) -> tuple[list[Any], dict[str, Any]] | None:
    """A step's own arguments as raw JSON: from its row, or from the plan of its canvas."""
    try:
        if step.arguments is not None:
            args, kwargs = json.loads(step.arguments.data)
            return list(args), dict(kwargs)
        member = _raw_message(run, step) if step.target is None else None
        if member is not None:
            return (list(member["args"]), dict(member["kwargs"])) if member["task"] == step.name else None
    except (*_DAMAGED, LookupError):
        return None
    return None


def _raw_message(run: WorkflowRow, step: StepRow) -> dict[str, Any] | None:
    """What is kept of a step's message as raw JSON: in its row, or in the plan of revision 0001."""
    if step.message is not None:
        found: dict[str, Any] = json.loads(step.message)
        return found
    members: list[dict[str, Any]] = json.loads(run.plan)["members"] if run.plan else []
    return members[step.position] if step.position < len(members) else None


def _handed_on(run: WorkflowRow, step: StepRow) -> bool:
    """Whether a member of a chain gets the result of the one before it as its first argument."""
    if step.arguments is not None or step.position == 0:
        return False
    try:
        member = _raw_message(run, step)
        return member is not None and not member["immutable"]
    except (*_DAMAGED, LookupError):
        return False


def plain(raw: Any) -> Any:
    """Recorded JSON without the codec's marks: what it says, readable.

    Example:
        >>> plain({"$durable": "decimal", "v": "1.50"})
        '1.50'
    """
    if isinstance(raw, list):
        return [plain(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    tag = raw.get(TAG)
    if tag is None:
        return {key: plain(item) for key, item in raw.items()}
    value = plain(raw.get("v"))
    if isinstance(tag, str) and tag.startswith("@"):
        return {tag[1:]: value}
    if tag == "dict" and isinstance(value, list):
        return {key if isinstance(key, str) else json.dumps(key): item for key, item in value}
    return value


def _is_deep(raw: Any) -> bool:
    """Whether a value is nested so deeply that whatever walks it might not come back."""
    level = [raw]
    for _ in range(DEEP):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return False
    return True


def _inside(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


class _Shape:
    """Stands for a recorded value of which only the type is shown."""


def _shapes(raw: Any) -> Any:
    """Recorded JSON as `mask` wants it: marked values become objects of a type of their own name."""
    if isinstance(raw, list):
        return [_shapes(item) for item in raw]
    if not isinstance(raw, dict):
        return raw
    tag = raw.get(TAG)
    if not isinstance(tag, str):
        return {key: _shapes(item) for key, item in raw.items()}
    inner = raw.get("v")
    if tag in ("tuple", "set", "frozenset") and isinstance(inner, list):
        return [_shapes(item) for item in inner]
    name = tag.removeprefix("@").rpartition(".")[2]
    if tag.startswith("@") and isinstance(inner, dict):
        return {name: _shapes(inner)}
    return type(name, (_Shape,), {})()


def _as_json(value: Any) -> Any:
    from ..codec import JSON

    try:
        return plain(json.loads(JSON.encode(value)))
    except DurableError:
        return repr(value)
