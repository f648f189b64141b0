"""What the jobs of these tests do. None of it is marked; what happened is written into a list in Redis, the ledger."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Retry, get_current_job
from rq.job import Job

from tests.servers.waiting import eventually

#: The key of the ledger.
LEDGER = "ledger"


def say(what: Any, connection: Redis | None = None) -> None:
    """Writes down that something happened."""
    if connection is None:
        job = get_current_job()
        assert job is not None
        connection = job.connection
    assert connection is not None
    connection.rpush(LEDGER, str(what))


def add(a: int, b: int = 0) -> int:
    say(f"add {a} {b}")
    return a + b


async def later(number: int) -> int:
    await asyncio.sleep(0)
    say(f"later {number}")
    return number


def named(name: str) -> str:
    say(name)
    return name


def nothing() -> None:
    say("nothing")


def fail(what: str = "no stock") -> None:
    say(f"fail {what}")
    raise ValueError(what)


def fail_until(times: int) -> int:
    """Fails so many times, then succeeds."""
    say("try")
    job = get_current_job()
    assert job is not None
    assert job.connection is not None
    tries = job.connection.llen(LEDGER)
    if tries <= times:
        raise ConnectionError(f"try {tries}")
    return tries


def ask_again(times: int, interval: int = 0) -> Any:
    """Returns RQ's own Retry so many times, then a value."""
    say("asked")
    job = get_current_job()
    assert job is not None
    if (job.number_of_retries or 0) < times:
        return Retry(max=times, interval=interval)
    return "done"


def unserialisable() -> Any:
    say("unserialisable")
    return threading.Lock()


def note_progress(step: int) -> None:
    job = get_current_job()
    assert job is not None
    job.meta["step"] = step
    job.save_meta()


def environment() -> dict[str, str | None]:
    """What a horse has around it."""
    say("environment")
    return {name: os.environ.get(name) for name in ("RQ_JOB_ID", "RQ_WORKER_ID")}


def too_long() -> None:
    say("too long")
    time.sleep(30)
    say("was not interrupted")


def wait_for(path: str) -> str:
    """Says that it began, and ends when a file is there."""
    say(f"began {os.getpid()}")
    eventually(Path(path).exists, 30)
    say("ended")
    return "waited"


def die() -> None:
    """What kills the process that runs it."""
    say("die")
    os.kill(os.getpid(), signal.SIGKILL)


def enqueue_another(name: str) -> str:
    """A job that sends a job."""
    from rq import Queue

    job = get_current_job()
    assert job is not None
    assert job.connection is not None
    say("outer")
    return Queue(job.origin, connection=job.connection).enqueue(named, name, job_id=f"inner-{name}").id


def child_result() -> Any:
    """A job that reads what it depends on."""
    job = get_current_job()
    assert job is not None
    assert job.dependency is not None
    say("child")
    return job.dependency.return_value()


class Till:
    """A thing whose method is a job."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ring(self, amount: int) -> str:
        say(f"{self.name} {amount}")
        return f"{self.name}: {amount}"

    @staticmethod
    def open(amount: int) -> int:
        say(f"open {amount}")
        return amount


def succeeded(job: Job, connection: Redis, result: Any, *args: Any, **kwargs: Any) -> None:
    say(f"succeeded {job.id} {result}", connection)


def failed(job: Job, connection: Redis, kind: type, value: BaseException, traceback: Any) -> None:
    say(f"failed {job.id} {kind.__name__} {value}", connection)


def stopped(job: Job, connection: Redis) -> None:
    say(f"stopped {job.id}", connection)


def bad_callback(job: Job, connection: Redis, result: Any) -> None:
    say(f"bad callback {job.id}", connection)
    raise KeyError("callback")


def handler(job: Job, kind: type, value: BaseException, traceback: Any) -> bool:
    """An exception handler that lets the next one have it, too."""
    say(f"handled {job.id} {kind.__name__}", job.connection)
    return True


def last_handler(job: Job, kind: type, value: BaseException, traceback: Any) -> bool:
    """An exception handler that is the last."""
    say(f"last {job.id} {kind.__name__}", job.connection)
    return False


def horse_killed(job: Job, pid: int, status: int, usage: Any) -> None:
    say(f"horse killed {job.id} {os.WTERMSIG(status)}", job.connection)
