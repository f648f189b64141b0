"""The calls that a workflow function makes: a file per kind, each of which says what its call does.

The traits of a kind are a row of the table in `model/kinds.py`. A kind has no base class: it fulfils `JournaledCall`, and
`FunctionRun.call` makes the call. See "Adding a kind of call" in CONTRIBUTING.md.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from ...model import Kind, StepRow
from ..scope import Place
from ..wake import Wake

Result_co = TypeVar("Result_co", covariant=True)


class JournaledCall(Protocol[Result_co]):
    """One call of a workflow function."""

    @property
    def kind(self) -> Kind:
        """Its row of traits."""

    @property
    def name(self) -> str:
        """Its name in the journal."""

    def given_key(self) -> str | None:
        """Returns the key that the user gave; None for the name and its occurrence.

        It is asked before the call has a place: a call that cannot be made here at all raises in it.
        """

    def begin(self, wake: Wake, place: Place) -> Result_co:
        """Makes the call, of which nothing is recorded."""

    def replay(self, wake: Wake, place: Place, row: StepRow) -> Result_co:
        """Makes the call again, of which *row* is recorded: hands back how it ended, or goes on with it."""
