"""A journaled call, as bindings and kinds hand it to the runtime; and the retry requests of engines, which may be refused."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..declare.policy import StepPolicy
from ..errors import InsideEventLoop
from ..model import Expected, Kind, StepRow, WorkflowRow
from .values import member_fingerprint


@dataclass(slots=True)
class RetryRequest:
    """An engine's request to run the same task again: a publication that was caught before it left.

    Attributes:
        error: what the attempt raised; None for "not done yet".
        delay: microseconds that the engine waits first.
        send: performs the publication.
        sent: whether its message comes by itself when the delay is over; False where that needs a process of the engine's that
            may not run, such as a scheduler.
        arguments: those that the next attempt is to have; None for the same.
    """

    error: BaseException | None
    delay: int
    send: Callable[[], Any]
    sent: bool = True
    arguments: tuple[list[Any], dict[str, Any]] | None = None


def awaited(value: Any) -> Any:
    """Returns what a call returned. A coroutine is run to its end first, so that its value is recorded."""
    return asyncio.run(value) if asyncio.iscoroutine(value) else value


def refuse_inside_event_loop(name: str, function: Callable[..., Any]) -> None:
    """Refuses an async function that cannot be awaited here, before anything of it begins.

    Raises:
        InsideEventLoop: an event loop runs in this thread.
    """
    if not inspect.iscoroutinefunction(inspect.unwrap(function)):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InsideEventLoop(
        f"step {name} is an async function and is called while an event loop runs in this thread; it was not begun. A step is "
        "recorded before the next line runs, which would stop that loop: call it outside of asyncio.run(), or make it a plain "
        "function that calls asyncio.run() itself."
    )


def no_retry_request(_error: BaseException | None) -> RetryRequest | None:
    """The `retry_request` of calls that are never published again."""
    return None


def is_never_final(_error: BaseException) -> bool:
    """The `final` of calls in which no error means the end of the task."""
    return False


def declines_nothing(_attempt: int, _error: BaseException) -> bool:
    """The `declines` of calls whose engine sets no limit of attempts."""
    return False


@dataclass(slots=True)
class Call:
    """A journaled call: which step it is, and how its body is run.

    Attributes:
        ref: the run.
        key: the step's key.
        name: the step's name.
        policy: its declaration.
        kind: what sort of call it is.
        completes_run: the run is complete only when this step is.
        args: its arguments, as probes and compensations see them.
        kwargs: likewise.
        body: runs the user's code. It gets the call as an argument: a reference of its own would be a cycle, which keeps the
            message and its values in memory until Python's collector runs.
        again: its message may have been run before: delivered again, or sent again.
        retry_request: returns the engine's request to repeat the attempt that just ended, if there is one.
        declines: whether the engine does not try the call again after an attempt, given its number and its error: its limits
            are reached, or it was told not to. False where it has no instructions.
        final: whether an error of the body is the engine's way to say that the task is over, whatever its policy.
        adopt: makes the run of a message that carries none, given the call; None where the message carries one.
        new_row: the row of a call that the plan does not know; None for planned calls.
        row: the row, where it was read already.
        attempts: how often its body was run here.
        facts: what was read about its workflow for the body, so that it is read once.
        turn: raises `Deferred` while the steps that a member of a canvas comes after are not done; called where the row's counter
            of them is not 0. None once it was called, and for calls that come after nothing.
    """

    ref: str
    key: str
    name: str
    policy: StepPolicy
    kind: Kind
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    body: Callable[[Call], Any]
    completes_run: bool = True
    again: bool = False
    retry_request: Callable[[BaseException | None], RetryRequest | None] = no_retry_request
    declines: Callable[[int, BaseException], bool] = declines_nothing
    final: Callable[[BaseException], bool] = is_never_final
    adopt: Callable[[Call], tuple[WorkflowRow, list[StepRow]]] | None = None
    new_row: Callable[[], StepRow] | None = None
    row: StepRow | None = None
    attempts: int = 0
    turn: Callable[[], None] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_member(self) -> bool:
        """Whether it is a planned member of a canvas."""
        return self.kind.member and self.new_row is None

    @property
    def fails_run(self) -> bool:
        """Whether the run fails when it fails for good; not so where its function may catch the error."""
        return self.kind.fails_run and self.new_row is None

    def expected(self) -> Expected:
        """Returns what its row must be for the message to fit."""
        prints: tuple[str | None, str | None] = (None, None)
        if self.is_member:
            behind = member_fingerprint(self.args[1:], self.kwargs, behind=True) if self.args else None
            prints = member_fingerprint(self.args, self.kwargs, behind=False), behind
        return Expected(self.name, self.kind, completes_run=self.is_member and self.completes_run, fingerprints=prints)

    def take_turn(self) -> None:
        """Makes sure, once, that what it comes after is done.

        Raises:
            Deferred: it is not.
        """
        if self.turn is not None:
            self.turn()
            self.turn = None

    def may_repeat(self, attempt: int, error: BaseException, *, declined: bool = False) -> bool:
        """Whether our own policy tries the call again after attempt number *attempt*, which ended in *error*.

        Where the engine declines, now or when that attempt ended (*declined*), only a retry policy of the step's own counts.
        """
        if self.final(error):
            return False
        if self.policy.retry is None and (declined or self.declines(attempt, error)):
            return False
        return self.policy.may_retry(attempt, error)
