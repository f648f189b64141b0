"""Values on their way into the journal and out of it: encoding, fingerprints, recorded errors."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from ..codec import JSON, Stored, decode_stored, encode_stored, fingerprint, get_codec
from ..declare.policy import StepPolicy
from ..errors import UnserialisableValue
from ..failures import record_failure, restore_failure

if TYPE_CHECKING:
    from ..journal import Journal


def encode(value: Any, codec: str | None = None) -> Stored:
    """Returns a value as the journal keeps it. *codec* is a name that the user gave."""
    return encode_stored(value, JSON if codec is None else get_codec(codec, allow_pickle=codec == "pickle"))


def encode_for(journal: Journal, value: Any, codec: str | None = None) -> Stored:
    """Returns a value as this journal keeps it.

    Raises:
        UnserialisableValue: it cannot be encoded, or is too large for the journal's database.
    """
    stored = encode(value, codec)
    journal.db.check_size(stored.data)
    return stored


def decode(stored: Stored | None, policy: StepPolicy | None = None) -> Any:
    """Returns a recorded value. Pickle is read only where the step declares it by name."""
    if stored is None:
        return None
    return decode_stored(stored.codec, stored.data, allow_pickle=policy is not None and policy.codec == "pickle")


def arguments_fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Returns the fingerprint of a call's arguments; None where one cannot be encoded."""
    try:
        return fingerprint([list(args), kwargs])
    except UnserialisableValue:
        return None


def write_failure(error: BaseException, *, declined: bool = False) -> bytes:
    """Returns an error as it is recorded: its type, its message and a traceback without locals.

    Args:
        error: the error.
        declined: the engine declined to repeat the attempt that ended in it.
    """
    failure = record_failure(error)
    return json.dumps({**failure, "declined": True} if declined else failure).encode()


def was_declined(data: bytes) -> bool:
    """Whether the engine declined to repeat the attempt that ended in a recorded error."""
    return bool(json.loads(data).get("declined"))


def member_fingerprint(args: Sequence[Any], kwargs: Mapping[str, Any], *, behind: bool) -> str | None:
    """Returns the fingerprint of a member's own arguments, which is compared with that of a message.

    A queue's serializer may turn a tuple into a list and a key into a text, so these count as equal. How a serializer of the
    user's own changes other classes is not known: arguments with such a value are not compared.

    Args:
        args: the member's own arguments, without the result of the one before it.
        kwargs: likewise.
        behind: the result is given to it.

    Returns:
        64 hex digits; None where an argument cannot be compared.
    """
    try:
        text = json.dumps([behind, _transported(list(args)), _transported(dict(kwargs))], sort_keys=True)
    except (_NotCompared, RecursionError, ValueError):
        return None
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _NotCompared(Exception):
    """Raised for a value whose form after transport is not known."""


def _transported(value: Any) -> Any:
    """Returns a value in a form that does not depend on the serializer."""
    match value:
        case None | bool() | int() | float():
            return value.value if isinstance(value, enum.Enum) else value
        case str():
            return str.__str__(value)
        case list() | tuple():
            return [_transported(item) for item in value]
        case dict():
            return {str(_transported(key)): _transported(item) for key, item in value.items()}
        case Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case set() | frozenset():
            return sorted(json.dumps(_transported(item), sort_keys=True) for item in value)
    raise _NotCompared


def read_failure(data: bytes | None) -> Exception:
    """Returns a recorded error, as its own type where that is loaded already."""
    return restore_failure(json.loads(data) if data else {"type": "", "message": "no error was recorded"})
