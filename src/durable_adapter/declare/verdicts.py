"""A probe's answers: the effect happened, with its value; it did not happen; the provider cannot tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Happened:
    """A verdict: the effect happened, and this is its value."""

    value: Any = None
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class DidNotHappen:
    """A verdict: the effect did not happen."""

    evidence: str = ""


@dataclass(frozen=True, slots=True)
class CannotTell:
    """A verdict that decides nothing: a person has to."""

    evidence: str = ""


Verdict = Happened | DidNotHappen | CannotTell


def happened(value: Any = None, *, evidence: str = "") -> Happened:
    """A probe's answer: the effect happened. *value* is what the step would have returned."""
    return Happened(value, evidence)


def did_not_happen(*, evidence: str = "") -> DidNotHappen:
    """A probe's answer: the effect did not happen. It counts only when asked after the attempt was over and settled."""
    return DidNotHappen(evidence)


def cannot_tell(*, evidence: str = "") -> CannotTell:
    """A probe's answer: the provider cannot say."""
    return CannotTell(evidence)
