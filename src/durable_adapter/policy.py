"""What a user declares about steps and workflows, as frozen data that is checked when it is made.

Nothing declared means *protected*: legacy code does nothing twice on its own, and is held when in doubt (P4).
Declarations touch no queue and no database; a binding reads them when it is installed.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from . import checking
from .errors import REFUSALS, DeclarationError
from .model import SECOND, Safety

#: How long a provider is trusted to remember an idempotency key, from its first use: the claim of the first attempt.
IDEMPOTENCY_WINDOW = timedelta(hours=24)
#: How often an idempotent step in doubt may be taken over by a new attempt before a person is asked.
MAX_TAKEOVERS = 3
#: How long after an attempt is over a probe's "did not happen" begins to count, where the step has no time-out.
SETTLE = timedelta(seconds=60)

#: Errors that are known to mean that nothing left the process: the connection was never made.
NOTHING_LEFT: tuple[type[BaseException], ...] = (ConnectionRefusedError, socket.gaierror)
#: Names of such errors in libraries that need not be installed: matched along the class's own bases.
NOTHING_LEFT_NAMES = frozenset(
    {
        "requests.exceptions.ConnectTimeout",
        "urllib3.exceptions.ConnectTimeoutError",
        "urllib3.exceptions.NewConnectionError",
        "urllib3.exceptions.NameResolutionError",
        "httpx.ConnectTimeout",
        "httpx.ConnectError",
        "httpcore.ConnectTimeout",
        "httpcore.ConnectError",
        "aiohttp.client_exceptions.ClientConnectorError",
    }
)


#: Errors that are known to mean that the answer to something is missing. Time-outs and lost connections are `OSError`s.
NO_ANSWER: tuple[type[BaseException], ...] = (OSError, EOFError)
NO_ANSWER_NAMES = frozenset(
    {
        "urllib3.exceptions.ReadTimeoutError",
        "urllib3.exceptions.ProtocolError",
        "httpx.TransportError",
        "httpcore.NetworkError",
        "httpcore.TimeoutException",
        "httpcore.ProtocolError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "tenacity.RetryError",  # raised from the last try's error, whatever the others ended in
    }
)


class NeverConnected(Exception):
    """Stands in `did_not_happen=` for every error that means that a connection was never made, whoever raises it.

    Connection refused, name not found, connect time-out; of sockets, urllib, requests, urllib3, httpx and aiohttp. Only
    for a step that talks to one provider once: in a body that charges and then publishes a message, a broker that
    refuses the connection says nothing about the charge. Never raised by this library.
    """


@dataclass(frozen=True)
class RetryPolicy:
    """When a step that may be repeated is tried again, as Temporal and stripe-style clients state it.

    Args:
        initial_interval: seconds (or timedelta) before the second attempt.
        coefficient: factor by which each further interval grows.
        maximum_interval: seconds (or timedelta) that no interval exceeds.
        maximum_attempts: attempts in all, the first included; 0 means without end.
        non_retryable: error types after which the step fails at once.
        jitter: share of the interval, from 0 to 1, by which it is shortened at random.

    Raises:
        DeclarationError: a value is out of its range.

    Example:
        >>> RetryPolicy(initial_interval=2, maximum_attempts=5).delay(after_attempt=3)
        8.0
    """

    initial_interval: float | timedelta = 1.0
    coefficient: float = 2.0
    maximum_interval: float | timedelta = 300.0
    maximum_attempts: int = 3
    non_retryable: tuple[type[BaseException], ...] = ()
    jitter: float = 0.0

    def __post_init__(self) -> None:
        who, put = "RetryPolicy", object.__setattr__
        for option in ("initial_interval", "maximum_interval"):
            put(self, option, checking.seconds(who, option, getattr(self, option)))
        put(self, "non_retryable", checking.error_types(who, "non_retryable", self.non_retryable))
        checking.number(who, "coefficient", self.coefficient, least=1)
        checking.whole(who, "maximum_attempts", self.maximum_attempts, "0 means without end")
        checking.number(who, "jitter", self.jitter, least=0, most=1)

    def allows(self, attempt: int, error: BaseException) -> bool:
        """Whether another attempt may follow attempt number *attempt* that ended in *error*."""
        if any(isinstance(cause, self.non_retryable) for cause in causes(error)):
            return False
        return not self.maximum_attempts or attempt < self.maximum_attempts

    def delay(self, after_attempt: int) -> float:
        """Seconds to wait after attempt number *after_attempt* (the first is 1)."""
        initial, maximum = float(self.initial_interval), float(self.maximum_interval)  # type: ignore[arg-type]
        try:
            interval = min(maximum, initial * float(self.coefficient) ** max(after_attempt - 1, 0))
        except OverflowError:
            interval = maximum if initial else 0.0
        return interval * (1 - self.jitter * random.random())  # noqa: S311 - spreading load, not a secret


#: What a step that is safe to repeat does on an error whose effect is unknown, unless it says otherwise.
SAFE_RETRY = RetryPolicy()


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


@dataclass(frozen=True)
class StepPolicy:
    """One step's declaration. Made by `durable.step`; see its documentation for the meaning of each field."""

    idempotent: bool | timedelta = False
    transactional: bool = False
    probe: Callable[..., Verdict] | None = None
    did_not_happen: tuple[type[BaseException], ...] = ()
    maybe_happened: tuple[type[BaseException], ...] = ()
    retry: RetryPolicy | None = None
    timeout: float | timedelta | None = None
    heartbeat: float | timedelta | None = None
    settle: float | timedelta | None = None
    compensate: Any = None
    pivot: bool = False
    name: str | None = None
    key: str | None = None
    drift: Literal["hold", "record"] = "hold"
    ignore_arguments: tuple[str, ...] = ()
    redact: bool | tuple[str, ...] = False
    codec: str | None = None
    subject: str = field(default="step", repr=False, compare=False)

    def __post_init__(self) -> None:
        who = self.subject
        put = object.__setattr__
        for option in ("did_not_happen", "maybe_happened"):
            put(self, option, checking.error_types(who, option, getattr(self, option)))
        for option in ("timeout", "heartbeat", "settle"):
            if getattr(self, option) is not None:
                put(self, option, checking.seconds(who, option, getattr(self, option)))
        for option in ("transactional", "pivot"):
            checking.flag(who, option, getattr(self, option))
        if isinstance(self.idempotent, timedelta):
            if self.idempotent <= timedelta(0):
                raise DeclarationError(f"{who}: idempotent={self.idempotent!r} must be a positive span of time, or True")
        elif not isinstance(self.idempotent, bool):
            raise DeclarationError(f"{who}: idempotent={self.idempotent!r} must be True or a timedelta (its window)")
        checking.called(who, "probe", self.probe, "a function of the step's own arguments")
        claims = [n for n, on in (("idempotent", self.idempotent), ("transactional", self.transactional),
                                  ("probe", self.probe is not None)) if on]  # fmt: skip
        if self.transactional and len(claims) > 1:
            raise DeclarationError(
                f"{who}: transactional=True cannot be joined with {claims[-1] if claims[-1] != 'transactional' else claims[0]}: "
                "a transactional step's own row says whether it happened, so there is nothing to repeat by key or to ask. "
                "Remove one of the two."
            )
        if self.heartbeat == 0:
            raise DeclarationError(f"{who}: heartbeat=0 must be longer than nothing: it is how long the body may be silent")
        if self.transactional and self.heartbeat is not None:
            raise DeclarationError(
                f"{who}: transactional=True cannot be joined with heartbeat: a transactional step's row is its own "
                "transaction's until that ends, so that nobody could see its heartbeats. Remove one of the two."
            )
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise DeclarationError(f"{who}: retry={self.retry!r} must be a durable.RetryPolicy")
        if self.retry is not None and not claims and not self.did_not_happen:
            raise DeclarationError(
                f"{who}: retry= on a step that nothing makes safe to repeat would repeat an effect that may have happened. "
                "Declare idempotent=True, transactional=True, probe=..., or the errors after which nothing happened "
                "with did_not_happen=(...); or remove retry=."
            )
        both = set(self.did_not_happen) & set(self.maybe_happened)
        if both:
            names = ", ".join(sorted(t.__qualname__ for t in both))
            raise DeclarationError(f"{who}: {names} cannot be in did_not_happen and in maybe_happened at once")
        if self.drift not in ("hold", "record"):
            raise DeclarationError(f"{who}: drift={self.drift!r} must be 'hold' or 'record'")
        if self.compensate == "" or not isinstance(self.compensate, str):
            checking.called(who, "compensate", self.compensate, "a task, its signature, its name, or a function of a module")
        put(self, "ignore_arguments", checking.names(who, "ignore_arguments", self.ignore_arguments))
        if not isinstance(self.redact, bool):
            put(self, "redact", checking.names(who, "redact", self.redact))
        checking.step_name(who, "name", self.name)
        checking.codec(who, self.codec)
        checking.template(who, "key", self.key)

    def check_parameters(self, who: str, function: Callable[..., Any]) -> None:
        """Makes sure that what is named here are parameters of the step's function, and that it can be one.

        Raises:
            DeclarationError: names the option and the parameters that there are.
        """
        named = [("ignore_arguments", name) for name in self.ignore_arguments]
        named += [("redact", name) for name in (self.redact if isinstance(self.redact, tuple) else ())]
        named += [("key", name) for name in checking.template_names(self.key or "")]
        checking.step_function(who, function)
        checking.parameters(who, function, named)

    @property
    def safety(self) -> Safety:
        """What makes the step safe to repeat."""
        if self.transactional:
            return Safety.TRANSACTIONAL
        if self.idempotent:
            return Safety.IDEMPOTENT
        return Safety.PROBE if self.probe is not None else Safety.PROTECTED

    @property
    def window(self) -> int:
        """The idempotency window in microseconds; 0 for a step that is not idempotent."""
        span = self.idempotent if isinstance(self.idempotent, timedelta) else IDEMPOTENCY_WINDOW
        return int(span.total_seconds() * SECOND) if self.idempotent else 0

    @property
    def timeout_us(self) -> int | None:
        """The time-out in microseconds, if one is declared."""
        return None if self.timeout is None else int(float(self.timeout) * SECOND)  # type: ignore[arg-type]

    @property
    def heartbeat_us(self) -> int | None:
        """For how many microseconds a body may be silent, if that is declared."""
        return None if self.heartbeat is None else int(float(self.heartbeat) * SECOND)  # type: ignore[arg-type]

    @property
    def patience_us(self) -> int | None:
        """The microseconds after which an attempt that nobody hears of is in doubt: its time-out or its heartbeat."""
        return min((span for span in (self.timeout_us, self.heartbeat_us) if span is not None), default=None)

    @property
    def settle_us(self) -> int:
        """How long after the end of an attempt "did not happen" begins to count, in microseconds."""
        if self.settle is not None:
            return int(float(self.settle) * SECOND)  # type: ignore[arg-type]
        return self.timeout_us if self.timeout_us is not None else int(SETTLE.total_seconds() * SECOND)

    def effect_unknown(self, error: BaseException) -> bool:
        """Whether the step's effect may have happened although it ended in *error* (section 6 of the guarantees).

        Wrappers are looked through, from the outside in: Celery's `Retry.exc` and `__cause__`. The first error that says
        something decides: a time-out that was raised from a refused connection may be that of another try. A transactional
        step was rolled back.
        """
        if self.transactional:
            return False
        chain = list(causes(error))
        if any(isinstance(cause, self.maybe_happened) for cause in chain):
            return True
        never = NeverConnected in self.did_not_happen
        for cause in chain:
            if isinstance(cause, self.did_not_happen) or (never and nothing_left(cause)):
                return False
            if no_answer(cause):
                return True
        return True

    def may_retry(self, attempt: int, error: BaseException) -> bool:
        """Whether our own policy, apart from any wish of the engine, asks for another attempt."""
        if is_refusal(error):
            return False
        if self.retry is not None:
            return self.retry.allows(attempt, error)
        chain = list(causes(error))
        refused = (
            not self.effect_unknown(error)
            and any(isinstance(c, self.did_not_happen) for c in chain)
            and not any(isinstance(c, self.maybe_happened) for c in chain)
        )
        if self.safety is Safety.PROTECTED or refused:
            return False
        return SAFE_RETRY.allows(attempt, error)

    def retry_delay(self, attempt: int) -> float:
        """Seconds before the attempt that follows attempt number *attempt*."""
        return (self.retry or SAFE_RETRY).delay(attempt)

    def stored(self) -> dict[str, Any]:
        """What the journal keeps of the declaration, so that tools can judge a step without its code."""
        kept: dict[str, Any] = {}
        if self.idempotent:
            kept["window"] = self.window
        if self.settle is not None or self.timeout is not None:
            kept["settle"] = self.settle_us
        if self.timeout is not None:
            kept["timeout"] = self.timeout_us
        if self.heartbeat is not None:
            kept["heartbeat"] = self.heartbeat_us
        if self.redact:
            kept["redact"] = True if self.redact is True else list(self.redact or ())
        return kept


@dataclass(frozen=True)
class WorkflowPolicy:
    """A workflow function's declaration: how its id is made from its arguments, and what support may search for.

    Args:
        id: a template over the function's parameters, such as `"order-{order_id}"`; None gives each call a run of its own.
        name: the name in lists; the task's name where none is given.
        attributes: names of parameters to keep as searchable attributes.
        amount: the attribute that says how much money is at stake.
    """

    id: str | None = None
    name: str | None = None
    attributes: tuple[str, ...] = ()
    amount: str | None = None
    subject: str = field(default="workflow", repr=False, compare=False)

    def __post_init__(self) -> None:
        checking.template(self.subject, "id", self.id)
        checking.step_name(self.subject, "name", self.name)
        checking.label(self.subject, "amount", self.amount)
        object.__setattr__(self, "attributes", checking.names(self.subject, "attributes", self.attributes))
        if self.amount is not None and self.amount not in self.attributes:
            object.__setattr__(self, "attributes", (*self.attributes, self.amount))

    def check_parameters(self, who: str, function: Callable[..., Any]) -> None:
        """As a step's: makes sure that what is named here are parameters of the function."""
        named = [("id", name) for name in checking.template_names(self.id or "")]
        checking.step_function(who, function)
        checking.parameters(who, function, named + [("attributes", name) for name in self.attributes])


Declaration = StepPolicy | WorkflowPolicy


@dataclass
class Declared:
    """A declaration beside the object that it is about. The object is never touched, only kept."""

    target: Any
    step: StepPolicy | None = None
    workflow: WorkflowPolicy | None = None


class Declarations:
    """Every declaration of this process, in order. Bindings read it when installed, and again when it has changed."""

    def __init__(self) -> None:
        self._entries: dict[int, Declared] = {}
        #: Grows with every change, so that a reader can tell cheaply that there is something new.
        self.generation = 0

    def add(self, target: Any, *, step: StepPolicy | None = None, workflow: WorkflowPolicy | None = None) -> None:
        """Keeps a declaration beside *target*, replacing an earlier one of the same sort about the same object."""
        entry = self._entries.get(id(target), Declared(target))
        self._entries[id(target)] = replace(entry, step=step or entry.step, workflow=workflow or entry.workflow)
        self.generation += 1

    def __iter__(self) -> Iterator[Declared]:
        return iter(list(self._entries.values()))


#: The declarations of this process.
DECLARED = Declarations()


def causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it wraps: an engine's `exc` attribute where that is an error, then `__cause__`."""
    seen: set[int] = set()
    queue: list[BaseException] = [error]
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        inner = (getattr(current, "exc", None), current.__cause__)
        queue.extend(error for error in inner if isinstance(error, BaseException))


def is_refusal(error: BaseException) -> bool:
    """Whether *error*, or what it wraps, is a refusal of this library's own: the same code would be refused again."""
    return any(isinstance(cause, REFUSALS) for cause in causes(error))


def no_answer(error: BaseException) -> bool:
    """Whether *error* is of a kind that means that something was asked and its answer, or that of one try of several, is
    not known: whatever it was raised from says no more about it.
    """
    return isinstance(error, NO_ANSWER) or _is_named(error, NO_ANSWER_NAMES)


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return any(f"{base.__module__}.{base.__qualname__}" in names for base in type(error).__mro__)


def nothing_left(error: BaseException) -> bool:
    """Whether *error* is of a kind that means that a connection was never made."""
    if isinstance(error, NOTHING_LEFT):
        return True
    if _is_named(error, NOTHING_LEFT_NAMES):
        return True
    reason = getattr(error, "reason", None)  # urllib.error.URLError keeps the socket's error here
    return isinstance(reason, BaseException) and isinstance(reason, NOTHING_LEFT)


def template_fields(template: str, arguments: Mapping[str, Any], subject: str) -> str:
    """Fills an id template from bound arguments, with an error that names what is missing."""
    try:
        return template.format(**arguments)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        known = ", ".join(sorted(arguments)) or "none"
        raise DeclarationError(
            f"{subject}: the id template {template!r} asks for {error}, but the call has these parameters: {known}"
        ) from error
