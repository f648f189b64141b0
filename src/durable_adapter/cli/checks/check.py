"""One result of `doctor`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    SLOW = "slow"
    UNSAFE = "unsafe"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what, as a stable word for scripts.
        level: how bad it is: `note` is worth knowing, `slow` costs time after a crash, `unsafe` breaks a promise or hides
            a loss, `failed` could not be looked at.
        found: what was found, in words.
        cure: what to do about it; empty where nothing is to be done.
    """

    name: str
    level: Level
    found: str
    cure: str = ""

    def shown(self) -> dict[str, Any]:
        """The check as JSON."""
        return {"check": self.name, "level": self.level.value, "found": self.found, "cure": self.cure}


def ok(name: str, found: str) -> Check:
    """Nothing is wrong."""
    return Check(name, Level.OK, found)


def note(name: str, found: str, cure: str = "") -> Check:
    """Worth knowing."""
    return Check(name, Level.NOTE, found, cure)


def slow(name: str, found: str, cure: str) -> Check:
    """Nothing is lost, but it costs time."""
    return Check(name, Level.SLOW, found, cure)


def unsafe(name: str, found: str, cure: str) -> Check:
    """A promise does not hold, or a loss would go unseen."""
    return Check(name, Level.UNSAFE, found, cure)


def failed(name: str, found: str, cure: str = "") -> Check:
    """It could not be looked at."""
    return Check(name, Level.FAILED, found, cure)
