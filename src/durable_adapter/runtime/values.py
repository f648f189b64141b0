"""Values on their way into the journal and out of it: encoding, fingerprints, recorded errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..codec import JSON, Stored, decode_stored, encode_stored, fingerprint, get_codec
from ..errors import UnserialisableValue
from ..failures import record_failure, restore_failure
from ..policy import StepPolicy

if TYPE_CHECKING:
    from ..journal import Journal


def encode(value: Any, codec: str | None = None) -> Stored:
    """A value as the journal keeps it; `codec` is a name that the user gave."""
    return encode_stored(value, JSON if codec is None else get_codec(codec, allow_pickle=codec == "pickle"))


def encode_for(journal: Journal, value: Any, codec: str | None = None) -> Stored:
    """A value as this journal keeps it.

    Raises:
        UnserialisableValue: it cannot be written down, or is too large for the journal's database.
    """
    stored = encode(value, codec)
    journal.db.check_size(stored.data)
    return stored


def decode(stored: Stored | None, policy: StepPolicy | None = None) -> Any:
    """The recorded value. Pickle is read only where the step asks for it by name."""
    if stored is None:
        return None
    return decode_stored(stored.codec, stored.data, allow_pickle=policy is not None and policy.codec == "pickle")


def arguments_fingerprint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What two calls with the same arguments share; None where an argument cannot be written down."""
    try:
        return fingerprint([list(args), kwargs])
    except UnserialisableValue:
        return None


def write_failure(error: BaseException, *, declined: bool = False) -> bytes:
    """A recorded error: type, message and a traceback without locals.

    Args:
        error: the error.
        declined: the engine declined to try the attempt again that ended in it.
    """
    failure = record_failure(error)
    return json.dumps({**failure, "declined": True} if declined else failure).encode()


def was_declined(data: bytes) -> bool:
    """Whether the engine declined to try the attempt again that ended in a recorded error."""
    return bool(json.loads(data).get("declined"))


def read_failure(data: bytes | None) -> Exception:
    """The recorded error, as its own type where that is loaded already."""
    return restore_failure(json.loads(data) if data else {"type": "", "message": "no error was recorded"})
