"""The steps of the soak's sagas, whichever engine runs them. Their effects are in the fake bank, or in a table of the journal's
database for transactional steps; tests/crash/shop.py has the bank's client and the name of that table."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

import durable_adapter as durable
from tests.crash.shop import EFFECTS, bank
from tests.soak.sagas import STEPS

#: What is handed to `install()`: the same as in production, only sooner.
HASTE = {"stale": 5, "beat": 1, "sweep_every": 1, "resend_after": 5}
#: Seconds that an attempt may take. Those of an orphaned process end long before.
TIMEOUT = 15
#: Seconds for which the bank may go on with a request whose caller is gone.
SETTLE = 3
#: Seconds of work before an effect, and again after it: at most, drawn at random.
WORK = 0.04


def make_effect(step: str, safety: str, saga: str) -> str:
    """What a step is for, between two bits of work, so that a kill finds it at any point."""
    time.sleep(random.uniform(0, WORK))
    kind = STEPS[step]
    if safety == "transactional":
        durable.session().execute(sa.insert(EFFECTS).values(reference=saga, kind=kind))
    else:
        key = durable.idempotency_key() if safety == "idempotent" else None
        bank.do(kind, saga, key, **DETAILS[step])
    time.sleep(random.uniform(0, WORK))
    return f"{kind}-{saga}"


#: What the bank wants to know of each kind.
DETAILS: dict[str, dict[str, Any]] = {
    "check": {"subject": "ada"},
    "charge": {"card": "4242", "amount": 7400},
    "book": {"amount": 7400, "rate": "1.1"},
    "ship": {"items": {"teapot": 1}},
    "mail": {"to": "ada@example.com", "subject": "Your order"},
}


def probe_of(step: str) -> Callable[..., Any]:
    """Returns the function that asks the bank whether the step's effect happened."""

    def probe(*args: Any) -> Any:
        saga = args[-1]
        return durable.happened(f"{STEPS[step]}-{saga}") if bank.find(STEPS[step], reference=saga) else durable.did_not_happen()

    return probe


def declare(step: str, safety: str) -> Callable[[Any], Any]:
    """Returns the decorator of a step."""
    if safety == "probe":
        return durable.step(probe=probe_of(step), settle=SETTLE, timeout=TIMEOUT)
    return durable.step(**{safety: True}, timeout=TIMEOUT)
