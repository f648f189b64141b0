"""The errors of this library, one class for each thing that can go wrong.

A message names the workflow, the step, what was expected, what was found, and the command that shows or corrects it.
Suspensions are not errors: they derive from `BaseException`, so that a task's `except Exception` does not catch them.
"""

from __future__ import annotations


class DurableError(Exception):
    """Base of every error of durable-adapter."""


class DeclarationError(DurableError, TypeError):
    """Raised when the declaration of a step or a workflow contradicts itself or cannot be kept."""


class NotInstalled(DurableError):
    """Raised when an operation needs a journal and none is configured."""


class InstallConflict(DurableError):
    """Raised when `install()` is called a second time with other arguments."""


class SettingError(DurableError, ValueError):
    """Raised when a setting has a value that is not accepted; the message names the value's origin."""


class JournalError(DurableError):
    """Base of the errors that come from the journal itself."""


class JournalUnreachable(JournalError):
    """Raised when the journal's database cannot be reached or written: a start sends nothing, a worker begins nothing (P10)."""


class JournalBusy(JournalError):
    """Raised when another transaction locks a row for longer than a sweeper or an order waits; a sweeper tries again later."""


class JournalUnmigrated(JournalError):
    """Raised when the journal's tables are missing or older than this code can use."""


class JournalAhead(JournalError):
    """Raised when the journal's tables are newer than this code understands."""


class UnreadableRow(DurableError):
    """Raised when this release cannot read a row of the journal: the row is not changed here, and is reported (P11).

    Attributes:
        ref: the run's reference; for a worker's row, its id.
        key: the step's key; None for a run's or a worker's row.
        namespace: the run's namespace; None for other rows.
        id: the workflow's id; None for other rows.
        why: the column, and the reason.
    """

    def __init__(self, ref: str, key: str | None, why: str, *, namespace: str | None = None, id: str | None = None) -> None:
        row = f"step {key} of run {ref}" if key is not None else f"run {ref}"
        super().__init__(
            f"{row} cannot be read here: {why}. It is left alone. A newer release of durable-adapter may have written it: "
            "upgrade this process, or mend the row in the database."
        )
        self.ref = ref
        self.key = key
        self.namespace = namespace
        self.id = id
        self.why = why


class IllegalTransition(JournalError):
    """Raised when code requests a change of status that the table of legal transitions does not have."""


class NotInWorkflow(DurableError):
    """Raised when something that only exists inside a step or a workflow is used outside of one."""


class UnserialisableValue(DurableError, TypeError):
    """Raised when a value cannot be written to the journal without losing something."""


class NotReadable(DurableError):
    """Base of the errors for a recorded value that this process cannot read. The step or function that needs it is held."""


class UnreadableValue(NotReadable):
    """Raised when recorded bytes cannot be decoded: they are damaged, or a registered class has changed since."""


class UnregisteredType(NotReadable):
    """Raised when a recorded value is of a type that this process has not registered."""


class UnknownCodec(NotReadable):
    """Raised when a recorded value was written by a codec or a format that this process does not have."""


class StepFailed(DurableError):
    """Raised instead of a recorded error whose own type is not loaded in this process."""

    def __init__(self, message: str, *, type_name: str = "", traceback_text: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.type_name = type_name
        self.traceback_text = traceback_text


class SameIdOtherArguments(DurableError):
    """Raised when a workflow id is started again with other arguments than the first time (P5)."""


class WorkflowPruned(DurableError):
    """Raised when an id is started again of whose run only the tombstone is left, after its retention."""


class UnknownWorkflow(DurableError):
    """Raised when the journal has no workflow, or no such run of it, under the given id."""


class UnsupportedCanvas(DurableError):
    """Raised when durable tasks are published in a shape that cannot yet be kept durable; nothing is sent."""


class CannotSuspend(DurableError):
    """Raised when a workflow function would have to wait, on a queue library that cannot release its worker meanwhile."""


class PutAside(DurableError):
    """Raised by a job that RQ before 2.1 is to defer. It has not failed: only an exception makes such an RQ leave it."""


class DependencyFailed(DurableError):
    """Recorded for a step that never began, because a step of another run that it comes after failed for good."""


class UnknownStamp(DurableError):
    """Raised when a message's stamp has a form that this code does not know: the message is refused and reported."""


class CannotSendAgain(DurableError):
    """Raised when a step's message cannot be made again, because the journal does not have its arguments."""


class ValueUnreadable(CannotSendAgain):
    """Raised when a step cannot be sent, because this process cannot read a value that the step receives."""


class MessageExpired(DurableError):
    """Recorded for a step that never began, because its message expired."""


class EndedByEngine(DurableError):
    """Recorded for a step that never began, because its task was cancelled, stopped or deleted in its queue library."""


class NotResolvable(DurableError):
    """Raised when a person's verdict is given on a step that is not in doubt, held or failed with its effect unknown."""


class StepUndone(DurableError):
    """Raised when a step that a rollback has undone is called again; nothing after it may run (P1)."""


class WorkflowChanged(DurableError):
    """Raised when a replay meets another step than the one recorded at the same position."""


class InsideEventLoop(DurableError):
    """Raised when an `async def` step would run in a thread whose event loop is running, and so block that loop."""


class SameKeyTwice(DurableError):
    """Raised when a workflow function makes two calls with the same key in one wake."""


class TransactionMisuse(DurableError):
    """Raised when a transactional step commits or rolls back its own session, or goes on after a database error in it."""


class NotFinished(DurableError):
    """Raised in a test, under the test journal, by a call whose workflow waits for time to pass or for a person."""


#: Errors for a request that cannot be durable. It would be refused again, so it is not retried.
REFUSALS: tuple[type[Exception], ...] = (
    CannotSuspend,
    DeclarationError,
    InsideEventLoop,
    NotInWorkflow,
    SameKeyTwice,
    UnsupportedCanvas,
)


class Killed(BaseException):
    """Raised by a test's own code where the process is to die: the test journal handles it like `kill -9`.

    Example:
        >>> def charge_and_die(order_id):
        ...     bank.charge(order_id)
        ...     raise Killed("after the charge")
    """


class Suspended(BaseException):
    """Raised to leave user code when a workflow is suspended. It is not an `Exception`, so that handlers do not catch it."""

    def __init__(self, why: str, *, wake_at: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wake_at = wake_at


class Deferred(Suspended):
    """Raised when a call cannot run now: another worker runs it, or it is not due, in doubt, or held."""

    def __init__(self, why: str, *, held: bool = False, wake_at: int | None = None) -> None:
        super().__init__(why, wake_at=wake_at)
        self.held = held
