"""Declarations of steps and workflows, as frozen data that is checked when it is made.

Nothing declared means *protected*: legacy code does nothing twice on its own, and is held when in doubt (P4).
Declarations touch no queue and no database; a binding reads them when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from ..errors import DeclarationError
from ..model import SECOND, Safety
from . import checking
from .effects import NeverConnected, causes, is_refusal, no_answer, nothing_left
from .retry import SAFE_RETRY, RetryPolicy
from .verdicts import Verdict

#: Time for which a provider is trusted to remember an idempotency key, from its first use: the claim of the first attempt.
IDEMPOTENCY_WINDOW = timedelta(hours=24)

#: Attempts that may take over an idempotent step in doubt before a person is asked.
MAX_TAKEOVERS = 3

#: Time after the end of an attempt before a probe's "did not happen" counts, where the step has no time-out.
SETTLE = timedelta(seconds=60)


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
        """The microseconds after the end of an attempt before "did not happen" counts."""
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
        """Whether our own policy, apart from what the engine asks for, asks for another attempt."""
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
        """Returns what the journal keeps of the declaration, so that tools can judge a step without its code."""
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


def template_fields(template: str, arguments: Mapping[str, Any], subject: str) -> str:
    """Fills an id template from bound arguments, with an error that names what is missing."""
    try:
        return template.format(**arguments)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        known = ", ".join(sorted(arguments)) or "none"
        raise DeclarationError(
            f"{subject}: the id template {template!r} asks for {error}, but the call has these parameters: {known}"
        ) from error
