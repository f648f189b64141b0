"""A call of a declared step, run here or sent: its key, its row, and whether it is the call that was recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...codec import Stored, mask
from ...declare.policy import StepPolicy
from ...errors import NotReadable, UnserialisableValue
from ...model import Kind, StepRow, StepStatus
from ..arguments import counted_fingerprint, template_key
from ..marked import compensation_name
from ..scope import Place
from ..values import decode, encode_for
from ..wake import Wake

if TYPE_CHECKING:
    from ..engine import Engine


@dataclass(frozen=True, slots=True)
class DeclaredCall:
    """A declared step and its arguments.

    Attributes:
        policy: the step's declaration.
        name: its name.
        function: what it runs, for the names of its parameters.
        args: its arguments.
        kwargs: likewise.
    """

    policy: StepPolicy
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def given_key(self) -> str | None:
        """The key that its template makes of the arguments."""
        return template_key(self.policy, self.name, self.function, self.args, self.kwargs)

    def fingerprint(self) -> str | None:
        """The fingerprint of the arguments that count. Taken before the body runs, which may change them."""
        return counted_fingerprint(self.policy, self.function, self.args, self.kwargs)

    def row(self, wake: Wake, place: Place, kind: Kind, print_: str | None, engine: Engine) -> StepRow:
        """The row of the call; *engine* is what would send its compensation."""
        arguments: Stored | None
        try:
            arguments = encode_for(wake.host.patient, [list(self.args), self.kwargs])
        except UnserialisableValue:
            arguments = None
        return StepRow(
            ref=wake.ref,
            key=place.key,
            position=place.position,
            name=self.name,
            kind=kind,
            status=StepStatus.PLANNED,
            arguments=arguments,
            fingerprint=print_,
            safety=self.policy.safety,
            options={**self.policy.stored(), **engine.compensation(self.policy)},
            compensation=compensation_name(self.policy),
            pivot=self.policy.pivot,
        )

    def check_undo(self, wake: Wake) -> None:
        """Refuses a step that could never be undone, because its compensation would be called with what cannot be kept.

        Raises:
            UnserialisableValue: an argument cannot be written down.
        """
        if self.policy.compensate is None or "undo_call" in wake.host.engine.compensation(self.policy):
            return
        try:
            encode_for(wake.host.patient, [list(self.args), self.kwargs])
        except UnserialisableValue as error:
            raise UnserialisableValue(
                f"step {self.name} of workflow {wake.workflow} was not begun: {compensation_name(self.policy)}, which "
                f"undoes it, is called with its arguments, and one of them cannot be recorded: {error} Or declare a "
                "compensation with arguments of its own, as in compensate=refund.si(...)."
            ) from error

    def check_drift(self, wake: Wake, row: StepRow, print_: str | None) -> None:
        """Holds the workflow where the call was recorded with other arguments: the code between the steps is not deterministic.

        Raises:
            Suspended: it was.
        """
        if row.fingerprint is None or print_ is None or row.fingerprint == print_ or self.policy.drift == "record":
            return
        raise wake.hold(
            f"step {row.name} ({row.key}) was recorded with arguments {_readable_arguments(row)} [{row.fingerprint[:8]}] and was "
            f"now called with {mask([list(self.args), self.kwargs])} [{print_[:8]}]: the code between the steps is not "
            "deterministic. Make it so, or declare drift='record' or ignore_arguments=(...) on the step"
        )


def _readable_arguments(row: StepRow) -> str:
    """A call's recorded arguments as they may be shown."""
    if row.arguments is None:
        return "not recorded"
    try:
        return str(mask(decode(row.arguments)))
    except NotReadable:
        return "which this process cannot read"
