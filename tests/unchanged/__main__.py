"""`make unchanged`: exits 0 where not one line differs."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import kombu
import redis

from tests.servers.addresses import LOOPBACK
from tests.servers.rabbitmq import shared_rabbitmq
from tests.servers.redis import shared_redis
from tests.servers.unavailable import Unavailable
from tests.unchanged import app
from tests.unchanged.recorder import Recorder

ROOT = Path(__file__).parents[2]
#: Seconds within which a worker is ready, and a kind is published.
PATIENCE = 60.0
START = "worker start, journal silent"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The URL of a journal that takes connections and never answers; whoever waits for it, waits for an hour."""
    with socket.create_server((LOOPBACK, 0), backlog=100) as server:
        yield f"postgresql+psycopg://nobody@{LOOPBACK}:{server.getsockname()[1]}/silent?connect_timeout=3600"


def kinds(only: Sequence[str] = ()) -> list[str]:
    """Every kind of publication, or those that are named."""
    found = [f"published/{name}" for name in app.PUBLISHED] + [f"worked/{name}" for name in app.WORKED]
    return [kind for kind in found if not only or kind in only]


def empty(broker: str, backend: str) -> None:
    """Leaves nothing of the kind before in the broker's queues and in the result backend."""
    with redis.Redis.from_url(backend) as client:
        client.flushdb()
    if not broker.startswith("redis"):
        for queue in (app.QUEUE, f"{app.QUEUE}-other"):
            with kombu.Connection(broker) as connection, contextlib.suppress(*connection.channel_errors):
                connection.default_channel.queue_purge(queue)


def record(broker: str, backend: str, journal: str, wanted: Sequence[str]) -> dict[str, list[str]]:
    """What one process sends, kind by kind."""
    recorders = [Recorder(broker), Recorder(backend)]
    command = [sys.executable, "-m", "tests.unchanged.app", recorders[0].url, recorders[1].url, journal]
    found: dict[str, list[str]] = {}
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for kind in wanted:
            empty(broker, backend)
            process.stdin.write(f"{kind}\n")
            process.stdin.flush()
            said = process.stdout.readline().strip()
            if not said:
                raise SystemExit(f"the program that publishes ended in {kind!r}")
            sent = [f"{what} {line}" for what, recorder in zip(("broker", "backend"), recorders, strict=True)
                    for line in recorder.take(timeout=PATIENCE)]  # fmt: skip
            if said != "done":
                raise SystemExit(f"{kind} could not be published: {said}")
            found[kind] = sent
        process.stdin.close()
        process.wait(PATIENCE)
    for recorder in recorders:
        recorder.close()
    return found


def start(broker: str, backend: str, journal: str) -> list[str]:
    """What a worker sends to its broker until it waits for messages, each line once: its threads take turns as they like."""
    recorder = Recorder(broker)
    command = [
        sys.executable, "-m", "tests.unchanged.worker", recorder.url, backend, journal,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONHASHSEED": "0", "C_FORCE_ROOT": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE
            while not all(any(command in line for line in recorder.peek()) for command in ("BRPOP", "PSUBSCRIBE")):
                if time.monotonic() > until or process.poll() is not None:
                    return ["the worker did not begin to wait for messages"]
                time.sleep(0.05)
            return sorted(set(recorder.peek()))
        finally:
            process.kill()
            recorder.close()


def compare(broker: str, backend: str, wanted: Sequence[str], *, starts: bool) -> dict[str, tuple[int, list[str]]]:
    """Per kind, how many lines were sent and which differ."""
    # Once for nothing: a server that has seen no script of a client yet is sent it, and one that has is not.
    record(broker, backend, "plain", wanted)
    if starts:
        start(broker, backend, "plain")
    with silent() as journal:
        without, with_it = (record(broker, backend, where, wanted) for where in ("plain", journal))
        if starts:
            without[START], with_it[START] = (start(broker, backend, where) for where in ("plain", journal))
    return {kind: (len(without[kind]), differing(without[kind], with_it[kind])) for kind in without}


def differing(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that one of two runs has and the other has not."""
    return [line for line in difflib.ndiff(before, after) if line.startswith(("- ", "+ "))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares, says what differs, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="make unchanged", description=__doc__)
    parser.add_argument("--kind", action="append", default=[], help="only this kind; may be repeated")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], action="append", help="only this broker")
    parser.add_argument("--no-start", action="store_true", help="do not start workers")
    given = parser.parse_args(arguments)
    wanted, lines, different, brokers = kinds(given.kind), 0, 0, []
    with contextlib.ExitStack() as stack:
        backend, _ = stack.enter_context(shared_redis())
        servers = {"redis": backend}
        try:
            servers["rabbitmq"] = stack.enter_context(shared_rabbitmq())[0]
        except Unavailable as missing:
            print(f"rabbitmq is left out: {missing}")
        for name, broker in servers.items():
            if given.broker and name not in given.broker:
                continue
            brokers.append(name)
            starts = name == "redis" and not given.no_start and not given.kind
            for kind, (count, found) in compare(broker, backend, wanted, starts=starts).items():
                lines += count
                different += len(found)
                print(f"{name:9} {kind:45} {count:5} lines, {len(found)} differ")
                for line in found[:20]:
                    print(f"    {line[:1000]}")
    total = len(wanted) + (1 if "redis" in brokers and not given.no_start and not given.kind else 0)
    print(f"{different} of {lines} lines of {total} kinds differ ({', '.join(brokers)})")
    return 1 if different or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
