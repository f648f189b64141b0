"""References, keys and stamps: their formats, and the lengths of the journal's texts.

The formats are frozen: a change would give every step another key, and every provider another idempotency key.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid

from ..errors import UnknownStamp

#: Most characters of a step's key in the journal.
KEY_LENGTH = 400

#: Most characters of the name of a step, a task, a workflow or a queue.
NAME_LENGTH = 255

#: Most characters of an engine's task id.
TASK_ID_LENGTH = 155

#: Most characters of a workflow's id.
ID_LENGTH = 200

#: Most characters of a namespace, a code version, and the name of the attribute that is an amount.
LABEL_LENGTH = 64

#: Namespace used when none is configured.
DEFAULT_NAMESPACE = "default"

#: The uuid5 namespace of every derived id. Frozen: a change would change every key.
NAMESPACE = uuid.UUID("6f1d6c2e-7b0b-5f43-9a5c-0d0e5b1d4c11")

#: The name of the stamp that carries a run through a broker. Frozen.
STAMP = "durable_run"

#: Version of the stamp's format. Frozen for the formats `1:<ref>` and `1:<ref>:<key>`.
STAMP_VERSION = "1"

#: Prefix of a run's `waiting_for` while its function sleeps; the key of the sleep follows. Frozen.
SLEEPS = "sleep:"
_REF = re.compile("[0-9a-f]{32}")


def new_ref() -> str:
    """Returns a new run reference: 32 hex digits that begin with the time, so that new rows are adjacent in the index."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{milliseconds:012x}7{os.urandom(10).hex()[:19]}"


def new_token() -> str:
    """Returns a new token for one claim: 16 random hex digits."""
    return os.urandom(8).hex()


def derive(*parts: object) -> str:
    """Returns an id that is always the same for the same parts: uuid5 over their joined text."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))


def derive_ref(*parts: object) -> str:
    """Returns the id of `derive` as a run reference (32 hex digits)."""
    return derive(*parts).replace("-", "")


def member_key(position: int, name: str) -> str:
    """Returns the key of a canvas member: its place in the plan, counted from 1, and its name. Frozen format.

    Starting the same workflow id again, after a restore for example, gives its members the same keys.

    Args:
        position: its position in the plan, counted from 0.
        name: the task's name.
    """
    return bounded_key(f"{position + 1}:{name}")


def task_key(task_id: str, name: str) -> str:
    """Returns the key of a canvas member in revision 0001, whose message has a stamp without a key. Frozen format."""
    return bounded_key(f"{task_id}/0/{name}")


#: Prefix of a canvas member's key. No task name may begin so, because the key of a dispatched call begins with the name.
_PLACE = re.compile(r"\d+:")


def is_member_key(key: str) -> bool:
    """Returns whether a key has the form of a canvas member's key, of any revision."""
    return _PLACE.match(key) is not None or "/0/" in key


def call_key(name: str, occurrence: int, given: str | None = None) -> str:
    """Returns the key of a call in a workflow function: its name and occurrence, or the user's own key. Frozen format."""
    return f"{name}#{occurrence}" if given is None else f"{name}@{given}"


#: Prefix of the key of every compensation. Frozen.
UNDO = "undo:"


def undo_key(key: str) -> str:
    """Returns the key of the compensation that undoes the step *key*. Frozen format."""
    return f"{UNDO}{key}"


def idempotency_key(namespace: str, workflow: str, run: int, ref: str, key: str, generation: int = 0) -> str:
    """Returns the key that a provider sees for a step: stable across retries, different for each run (P4). Frozen formats.

    A declared workflow is identified by its id and run number, another by its reference.

    Args:
        namespace: the run's namespace.
        workflow: its declared id, or an empty text.
        run: its number.
        ref: its reference.
        key: the step's key.
        generation: the number of times that the step is known not to have happened. Each makes a new key, because a
            provider that stored a refusal under the old key would repeat it.
    """
    return derive("idempotency", namespace, workflow or ref, run, key, *([generation + 1] if generation else []))


def make_stamp(ref: str, key: str | None = None) -> str:
    """Returns the text that names the run *ref* and the step *key* in a message. Revision 0001 had no key."""
    return f"{STAMP_VERSION}:{ref}" if key is None else f"{STAMP_VERSION}:{ref}:{key}"


def read_stamp(stamp: object) -> tuple[str, str | None] | None:
    """Returns the run reference and the step key of a stamp; None if there is no stamp.

    Raises:
        UnknownStamp: the stamp has a form that this code does not know. It does not count as missing, because the message
            belongs to a run, which must not begin as another.
    """
    if isinstance(stamp, (list, tuple)):
        stamp = stamp[0] if stamp else None
    if stamp is None:
        return None
    version, _, rest = stamp.partition(":") if isinstance(stamp, str) else ("", "", "")
    ref, _, key = rest.partition(":")
    if version != STAMP_VERSION or not _REF.fullmatch(ref):
        raise UnknownStamp(f"a message has the stamp {stamp!r:.80}, of a form that this version of durable-adapter does not know")
    return ref, key or None


def attempt_name(ref: str, key: str, token: str | None) -> str:
    """Returns the name of a running attempt in a worker's heartbeat."""
    return f"{ref} {token or ''} {key}"


def attempt_place(name: str) -> tuple[str, str]:
    """The run and the key in an attempt's name."""
    ref, _token, key = name.split(" ", 2)
    return ref, key


#: Control characters: C0, DEL, C1.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]")


def bounded_key(key: str) -> str:
    """Returns *key*; if it is longer than the journal's column, its beginning and a hash of the whole."""
    if len(key) <= KEY_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    return f"{key[: KEY_LENGTH - 33]}~{digest}"


def can_be_kept(text: str) -> bool:
    """Returns whether every database can store a text: without halves of surrogate pairs and (PostgreSQL) NULs."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def is_storable(text: str) -> bool:
    """Returns whether a text may be an id, a key or a name: it can be stored, and has no control character.

    U+001F joins the parts from which keys are derived (`derive`): inside a part it could forge another key.
    """
    return can_be_kept(text) and _CONTROLS.search(text) is None


def stored_text(text: str) -> str:
    """Returns *text* with the characters replaced that a database cannot store."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
