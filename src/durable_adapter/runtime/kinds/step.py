"""A step in place: the function's own process runs it, and the function gets its value, or its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...model import Kind, StepRow, StepStatus
from ..calls import Call, awaited, declines_nothing, refuse_inside_event_loop
from ..scope import Place
from ..wake import Wake
from .declared import DeclaredCall


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a declared step in place.

    Attributes:
        call: the step and its arguments.
        declines: as in `Call`.
    """

    kind: ClassVar[Kind] = Kind.STEP
    call: DeclaredCall
    declines: Callable[[int, BaseException], bool] = declines_nothing

    @property
    def name(self) -> str:
        """The step's name."""
        return self.call.name

    def given_key(self) -> str | None:
        """The key that its template makes of the arguments.

        Raises:
            InsideEventLoop: it is an async function, and an event loop runs in this thread.
        """
        refuse_inside_event_loop(self.name, self.call.function)
        return self.call.given_key()

    def begin(self, wake: Wake, place: Place) -> Any:
        """Claims it and runs it; its row comes with the claim."""
        print_ = self.call.fingerprint()
        self.call.check_undo(wake)
        return wake.run(self._call(wake, place, print_))

    def replay(self, wake: Wake, place: Place, row: StepRow) -> Any:
        """Hands back its value, or goes on with it as any step: raises its error, tries it again, settles a doubt."""
        print_ = self.call.fingerprint()
        self.call.check_drift(wake, row, print_)
        if row.status is StepStatus.SUCCEEDED:
            return wake.value_of(row, self.call.policy)
        return wake.run(self._call(wake, place, print_))

    def _call(self, wake: Wake, place: Place, print_: str | None) -> Call:
        function, args, kwargs = self.call.function, self.call.args, self.call.kwargs
        return Call(
            ref=wake.ref,
            key=place.key,
            name=self.name,
            policy=self.call.policy,
            kind=self.kind,
            args=args,
            kwargs=kwargs,
            body=lambda _: awaited(function(*args, **kwargs)),
            completes_run=False,
            again=wake.function.again,
            declines=self.declines,
            new_row=lambda: self.call.row(wake, place, self.kind, print_, wake.host.engine),
            row=place.row,
            facts=wake.function.facts,
        )
