"""The kinds of journaled call: one table of their traits.

Code that treats kinds differently checks a trait, here or in SQL (`having`). A new kind is a row of this table and a file in
`runtime/kinds/`; see "Adding a kind" in CONTRIBUTING.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar, Self

from .ids import UNDO, is_member_key


class Shape(enum.StrEnum):
    """The form of a workflow's plan: known before it starts, or found by running it."""

    CANVAS = "canvas"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Words:
    """The texts about a timed kind.

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
    """The kind of a journaled call: its stored name, with its traits.

    Attributes:
        name: the name in the journal.
        member: it is planned in a canvas, where it comes after other members.
        in_place: when a workflow function calls it, the function's own process runs it, without a message.
        awaited: a workflow function sends it, goes on, and waits for it at the latest when it returns. Its end wakes the
            function.
        claimable: a worker claims each attempt, whose effect may be in doubt.
        makes_calls: its body makes the calls of its run and runs from the top on every wake. It is held in any open status.
        timed: nothing runs. It ends at its time, and wakes its function. The texts about it; None for other kinds.
        undoes: it undoes another step, as a part of a rollback.
        marked: it is durable. For an unmarked one only the sending and the end are recorded.
        fails_run: its final failure fails the run; false where a function or a rollback handles the failure.
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
        """True if a workflow function calls it, and gets its value, or an error that it may catch."""
        return self.in_place or self.awaited

    @property
    def has_body(self) -> bool:
        """True if a worker runs a body for it."""
        return self.claimable or self.makes_calls


Kind.STEP = Kind("step", member=True, in_place=True, claimable=True)
Kind.FUNCTION = Kind("function", makes_calls=True)
Kind.DISPATCH = Kind("dispatch", awaited=True, claimable=True, fails_run=False)
Kind.SLEEP = Kind("sleep", in_place=True, timed=Words("a sleep", "sleeping", "it went to sleep", "it woke up"))
Kind.COMPENSATION = Kind("compensation", claimable=True, undoes=True, fails_run=False)
Kind.UNMARKED = Kind("unmarked", member=True, marked=False)

#: Every kind by its name. A row with another kind is not changed (P11).
KINDS: dict[str, Kind] = {kind.name: kind for kind in vars(Kind).values() if isinstance(kind, Kind)}


def kind_named(name: object) -> Kind:
    """Returns the kind that a row names.

    Raises:
        ValueError: this release has no kind of that name.
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
