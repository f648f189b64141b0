"""Attributes of workflows: what support searches by, and the amount at stake. They are given where work is started.

Every start reads them from its context, on every engine. Two starts that differ in them alone are the same start.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

from ..errors import DeclarationError
from ..model import LABEL_LENGTH
from .publication import Attributes, publication, publishing

#: Characters that one attribute may have.
LONGEST = 1000
_PLAIN = (str, int, float, bool, Decimal, dt.date, dt.datetime, UUID, type(None))


@contextlib.contextmanager
def attributes(*, amount: str | None = None, **values: Any) -> Iterator[None]:
    """Gives every workflow that is started in the block attributes: lone tasks, chains, jobs, `durable.start()`.

    `explain` shows them, and `reconcile` adds up the amount. Within another such block they add to those. A workflow
    function that declares attributes of its own keeps them beside these. Work that the body of a task starts later does not
    get them: give them there again.

    Args:
        amount: the name of the attribute that is the amount of money at stake.
        **values: the attributes: texts, numbers, dates and the like.

    Raises:
        DeclarationError: a value is none of these, or *amount* names none of them.

    Example:
        >>> with attributes(order="42", total=Decimal("74.00"), amount="total"):
        ...     pass  # chain(charge.s(42), ship.s()).delay()
    """
    outer = publication().attributes or Attributes()
    kept = {**outer.values, **{name: _plain(name, value) for name, value in values.items()}}
    if amount is not None and (not isinstance(amount, str) or amount not in kept):
        raise DeclarationError(
            f"durable.attributes(amount={amount!r}): amount names one of the attributes, as in "
            f"durable.attributes(total={'74' if isinstance(amount, str) else amount!r}, amount='total'); "
            f"here they are {', '.join(kept) or 'none'}"
        )
    with publishing(attributes=Attributes(kept, amount if amount is not None else outer.amount)):
        yield


def storable(value: Any) -> Any:
    """A value as the journal keeps it in attributes: as JSON can say it, else as its text."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _plain(name: str, value: Any) -> Any:
    infinite = isinstance(value, (float, Decimal)) and not math.isfinite(value)
    if not isinstance(value, _PLAIN) or infinite or len(str(value)) > LONGEST:
        raise DeclarationError(
            f"durable.attributes({name}={str(value)[:60]!r}): an attribute is a text of {LONGEST} characters at the most, a "
            f"finite number, a truth value, a date, a UUID or None; this is a {type(value).__name__}"
        )
    if len(name) > LABEL_LENGTH:
        raise DeclarationError(f"durable.attributes({name[:60]}...): a name has {LABEL_LENGTH} characters at the most")
    return storable(value)
