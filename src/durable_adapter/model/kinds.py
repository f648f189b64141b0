"""The kinds of journaled call: one table of what is true of each.

Everything that treats kinds differently asks for a trait, here or in SQL (`having`). A new kind is a row of this table and a
file in `runtime/kinds/`; see "Adding a kind" in CONTRIBUTING.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Self

from .ids import UNDO, is_member_key


class Shape(enum.StrEnum):
    """How the plan of a workflow is known: before it starts, or by running it."""

    CANVAS = "canvas"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Words:
    """How the kinds are told to people that end with time.

    Attributes:
        noun: as in "a sleep that ends at 12:00".
        doing: as in "sleeping until 12:00".
        begun: as in "it went to sleep until 12:00".
        over: as in "it woke up".
    """

    noun: str
    doing: str
    begun: str
    over: str


@dataclass(frozen=True, eq=False, repr=False)
class Kind(str):
    """What sort of journaled call a step row is: its name, as stored, with its traits.

    Attributes:
        name: as the journal has it.
        member: planned in a canvas, where it comes after other members.
        in_place: where a workflow function calls it, the function's own process runs it: no message of its own sends it.
        awaited: a workflow function sends it, goes on, and waits for it at the latest when it returns. Its end wakes that.
        claimable: a worker claims each attempt, whose effect may be in doubt.
        makes_calls: its body makes the calls of its run and runs from the top on every wake. It is held as it stands.
        timed: nothing runs. It ends when its time has come, and wakes its function. How that is told; None for other kinds.
        undoes: it undoes another step, as a part of a rollback.
        marked: it is under this library's rules. Of one that is not, only the sending and the end are recorded.
        fails_run: the run fails when it fails for good; not so where a function is told of it, or a rollback.
    """

    name: str
    member: bool = False
    in_place: bool = False
    awaited: bool = False
    claimable: bool = False
    makes_calls: bool = False
    timed: Words | None = None
    undoes: bool = False
    marked: bool = True
    fails_run: bool = True

    STEP: ClassVar[Kind]
    FUNCTION: ClassVar[Kind]
    DISPATCH: ClassVar[Kind]
    SLEEP: ClassVar[Kind]
    COMPENSATION: ClassVar[Kind]
    UNMARKED: ClassVar[Kind]

    def __new__(cls, name: str, **_traits: object) -> Self:
        return super().__new__(cls, name)

    @property
    def called(self) -> bool:
        """Whether a workflow function calls it: that gets its value, or an error that it may catch."""
        return self.in_place or self.awaited

    @property
    def has_body(self) -> bool:
        """Whether a worker with this library runs something of it."""
        return self.claimable or self.makes_calls


Kind.STEP = Kind("step", member=True, in_place=True, claimable=True)
Kind.FUNCTION = Kind("function", makes_calls=True)
Kind.DISPATCH = Kind("dispatch", awaited=True, claimable=True, fails_run=False)
Kind.SLEEP = Kind("sleep", in_place=True, timed=Words("a sleep", "sleeping", "it went to sleep", "it woke up"))
Kind.COMPENSATION = Kind("compensation", claimable=True, undoes=True, fails_run=False)
Kind.UNMARKED = Kind("unmarked", member=True, marked=False)

#: Every kind by its name. A row whose kind is not among them is left alone (P11).
KINDS: dict[str, Kind] = {kind.name: kind for kind in vars(Kind).values() if isinstance(kind, Kind)}


def kind_named(name: object) -> Kind:
    """Returns the kind that a row names.

    Raises:
        ValueError: this release has none of that name.
    """
    found = KINDS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"{name!r} is not a valid Kind")
    return found


def having(trait: str, value: bool = True) -> list[str]:
    """Returns the names of the kinds that have a trait (or lack it, where *value* is False), for a condition in SQL."""
    return [kind.name for kind in KINDS.values() if bool(getattr(kind, trait)) is value]


def kind_of_member(*, is_function: bool, is_marked: bool) -> Kind:
    """Returns the kind of a planned task or job."""
    return Kind.FUNCTION if is_function else Kind.STEP if is_marked else Kind.UNMARKED


def kind_of_key(key: str, *, is_function: bool) -> Kind:
    """Returns the kind of the call that a message is for, by the form of its key. The claim checks that the row has it.

    Args:
        key: the key that the message names.
        is_function: its task is a workflow function.
    """
    if key.startswith(UNDO):
        return Kind.COMPENSATION
    return kind_of_member(is_function=is_function, is_marked=True) if is_member_key(key) else Kind.DISPATCH
