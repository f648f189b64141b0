"""A script as somebody's cron would run it: with a journal, a ledger and a command as its arguments.

`die` starts an order and is killed in the middle of it; `go on` is the next run of the script.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import durable_adapter as durable
from durable_adapter import inline
from durable_adapter.model import OPEN_WORKFLOWS, WorkflowStatus

ENDED = frozenset(WorkflowStatus) - OPEN_WORKFLOWS


def bank(what: str) -> None:
    """What happened."""
    with Path(sys.argv[2]).open("a") as ledger:
        ledger.write(what + "\n")


@durable.step
def reserve(order: str) -> str:
    bank(f"reserve {order}")
    return f"re-{order}"


@durable.step(idempotent=True)
def charge(order: str) -> str:
    bank(f"charge {order} {durable.idempotency_key()}")
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"ch-{order}"


@durable.step
def ship(order: str) -> str:
    bank(f"ship {order}")
    return f"sh-{order}"


@durable.workflow
def fulfil(order: str) -> list[str]:
    return [reserve(order), charge(order), ship(order)]


def main() -> None:
    inline.install(sys.argv[1], stale=1.0, beat=0.2, sweep_every=0.25, resend_after=0.5)
    if sys.argv[3] == "die":
        inline.start("order-42", fulfil, "42")
    until = time.monotonic() + 30
    while inline.handle("order-42").status not in ENDED and time.monotonic() < until:
        inline.work(seconds=0.5)
