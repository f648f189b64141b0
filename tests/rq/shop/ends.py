"""Steps that end otherwise than by a value or an error of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import NoReturn

from rq import get_current_job
from rq.command import send_stop_job_command
from rq.exceptions import AbandonedJobError

try:
    from rq.exceptions import StopRequested
except ImportError:  # RQ 1.16
    from rq.worker import StopRequested

import durable_adapter as durable
from tests.celery.ledger import ledger


class Stop(BaseException):
    """What no handler of `Exception` catches."""


class Mute(Exception):
    """An error that cannot be told."""

    def __str__(self) -> NoReturn:
        raise RuntimeError("no words")


def end(how: str, order: str) -> None:
    """Ends this job."""
    match how:
        case "sys.exit(0)":
            sys.exit(0)
        case "sys.exit(3)":
            sys.exit(3)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "BaseException":
            raise Stop
        case "an error without words":
            raise Mute
        case "StopRequested":
            raise StopRequested
        case "AbandonedJobError":
            raise AbandonedJobError
        case "ImportError":
            raise AttributeError("module has no attribute 'charge'")
        case "MemoryError":
            raise MemoryError
        case "RecursionError":
            end(how, order)
        case "os._exit(0)":
            os._exit(0)
        case "os._exit(1)":
            os._exit(1)
        case "os.abort()":
            os.abort()
        case "a segmentation fault":
            ctypes.string_at(0)
        case "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            _wait()
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop command":
            job = get_current_job()
            assert job is not None
            send_stop_job_command(job.connection, job.id)
            _wait()
        case "timeout":
            _wait()


def _wait() -> None:
    """Until somebody ends it."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        time.sleep(0.01)


@durable.step
def charge(order: str, how: str) -> str:
    ledger().record("charge", order)
    end(how, order)
    return f"ch-{order}"


@durable.step(idempotent=True)
def charge_idempotent(order: str, how: str) -> str:
    """Ends so the first time only."""
    ledger().record("charge", order, key=durable.idempotency_key())
    if ledger().count(order, "charge") == 1:
        end(how, order)
    return f"ch-{order}"


def charge_plainly(order: str, how: str) -> str:
    ledger().record("charge", order)
    end(how, order)
    return f"ch-{order}"
