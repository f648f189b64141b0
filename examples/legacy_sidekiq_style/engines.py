"""Celery and RQ, as far as the stories tell them apart: what carries the jobs, what a worker is, where the shop lies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .processes import Processes, port_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The processes of a telling import the shop by this name, wherever the file lies that tells it.
PACKAGE = Path(__file__).resolve().parent.name
#: Seconds within which RQ knows that a job failed whose process was killed.
NOTICED = 5.0


def _nothing(_processes: Processes) -> None:
    """What is not called for on an engine."""


@dataclass(frozen=True)
class Engine:
    """One of the two.

    Attributes:
        name: as `--engine` has it.
        place: where `before` and `after` lie, below the package.
        workers: the command lines of the workers of a side, which all run at once.
        open: starts what carries the jobs, and tells the others about it.
        forget: loses every job that is under way.
        requeue: what somebody on call does about jobs that failed.
    """

    name: str
    place: str
    workers: Callable[[str], Sequence[Sequence[str]]]
    open: Callable[[Processes], None] = _nothing
    forget: Callable[[Processes], None] = _nothing
    requeue: Callable[[Processes], None] = _nothing

    def side(self, side: str) -> str:
        """The package that holds a side of the shop."""
        return ".".join(filter(None, [PACKAGE, self.place, side]))


def _celery_workers(side: str) -> list[list[str]]:
    """One worker with two processes."""
    switches = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO"]
    return [["-m", "celery", "-A", f"{CELERY.side(side)}.app", "worker", "--pool=prefork", "--concurrency=2", *switches]]


def _open_broker(processes: Processes) -> None:
    """Makes the broker's tables and its one queue, before two processes try that at once: kombu lets one of them fail."""
    from kombu import Connection, Queue

    home = Path(processes.env["SHOP_DIR"])
    home.mkdir(parents=True, exist_ok=True)
    processes.env["SHOP_BROKER_URL"] = f"sqla+sqlite:///{home / 'broker.sqlite3'}"
    with Connection(processes.env["SHOP_BROKER_URL"]) as connection:
        Queue("celery").bind(connection.default_channel).declare()


def _rq_workers(side: str) -> list[list[str]]:
    """Two workers, each of which forks a process for each job."""
    worker = "durable_adapter.rq.Worker" if side == "after" else "rq.Worker"
    return [["-m", "rq.cli", "worker", "--worker-class", worker, "default"]] * 2


def _open_redis(processes: Processes) -> None:
    port = port_of(processes, ["-m", f"{PACKAGE}.on_rq.fake_redis"], "redis")
    url = f"redis://127.0.0.1:{port}/0"
    processes.env |= {"SHOP_REDIS_URL": url, "RQ_REDIS_URL": url}
    processes.env["RQ_CONNECTION_CLASS"] = f"{PACKAGE}.on_rq.fake_redis.Client"


def _redis(processes: Processes) -> Any:
    from redis import Redis

    return Redis.from_url(processes.env["SHOP_REDIS_URL"])


def _restart_redis_empty(processes: Processes) -> None:
    with _redis(processes) as redis:
        redis.flushall()


def _requeue_what_failed(processes: Processes) -> None:
    """`rq requeue --all`, as soon as there is something to requeue."""
    with _redis(processes) as redis:
        until = time.monotonic() + NOTICED
        while not redis.zcard("rq:failed:default") and time.monotonic() < until:
            time.sleep(0.05)
    processes.run(["-m", "rq.cli", "requeue", "--queue", "default", "--all"], "requeue.log")


#: Its broker is a table, in which what a killed worker had taken stays taken: nobody gets it again.
CELERY = Engine("celery", "", _celery_workers, open=_open_broker)
RQ = Engine("rq", "on_rq", _rq_workers, open=_open_redis, forget=_restart_redis_empty, requeue=_requeue_what_failed)
