"""The engines that a soak is played on: how their workers are started, and what shows that a broker holds nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

QUEUE = "soak"


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        name: as the command line has it.
        shop: the module whose `start` publishes a saga.
        ready: what a worker writes when it takes messages.
        command: the arguments of Python that start a worker; is given the worker's name and the broker's URL.
        cli: how `durable-adapter` is told of the engine; is given the broker's URL.
        child: what a process is called that runs messages for a worker.
        workers: how many workers there are.
        sagas: how many sagas are started by default.
        messages: how many messages the broker holds, taken by a worker or not.
    """

    name: str
    shop: str
    ready: str
    command: Callable[[str, str], list[str]]
    cli: Callable[[str], list[str]]
    child: str
    workers: int
    sagas: int
    messages: Callable[[redis.Redis], int]


def _celery_worker(name: str, _broker: str) -> list[str]:
    words = ["-m", "celery", "-A", "tests.soak.celery_app", "worker", "-c", "3", "-l", "INFO", "-n", f"{name}@soak"]
    return [*words, "--without-gossip", "--without-mingle", "--without-heartbeat"]


def _rq_worker(name: str, broker: str) -> list[str]:
    return ["-m", "tests.soak.rq_worker", "--url", broker, "--name", name, "-w", "durable_adapter.rq.Worker", QUEUE]


def _celery_messages(broker: Any) -> int:
    return int(broker.llen(QUEUE)) + int(broker.hlen("unacked"))


def _rq_messages(broker: Any) -> int:
    return int(broker.llen(f"rq:queue:{QUEUE}")) + int(broker.llen(f"rq:queue:{QUEUE}:intermediate"))


CELERY = Engine(
    name="celery",
    shop="tests.soak.celery_app",
    ready=r"soak ready\.",
    command=_celery_worker,
    cli=lambda _broker: ["-A", "tests.soak.celery_app"],
    child="pool child",
    workers=2,
    sagas=2000,
    messages=_celery_messages,
)
RQ = Engine(
    name="rq",
    shop="tests.soak.rq_app",
    ready=r"Listening on",
    command=_rq_worker,
    cli=lambda broker: ["-u", broker, "--import", "tests.soak.rq_app"],
    child="work horse",
    workers=3,
    sagas=500,
    messages=_rq_messages,
)
ENGINES = {engine.name: engine for engine in (CELERY, RQ)}
