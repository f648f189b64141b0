"""Retry policies: when a step that may be repeated is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from . import checking
from .effects import causes


@dataclass(frozen=True)
class RetryPolicy:
    """A retry policy, with the options that Temporal and stripe-style clients have.

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


#: The policy of a step that is safe to repeat and declares none.
SAFE_RETRY = RetryPolicy()
