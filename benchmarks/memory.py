"""What the plugin costs in memory: a prefork worker with and without it, and where that goes.

Real `celery worker -c 2` processes run the same chains, in turn: plain, then with the plugin on. What a child has for itself
alone is its unique set size; what it shares with its parent is in the parent's resident set. Then a fresh interpreter imports
what the plugin needs, stage by stage, on top of what a worker has loaded anyway.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from benchmarks import report
from benchmarks.celery_chain import client, prepare

#: MB by which a child's unique set size, and the parent's resident set, may be more than plain Celery's.
CHILD, PARENT = 15, 35

#: What is imported, in this order, after what every Celery worker has loaded.
STAGES = (
    ("SQLAlchemy's core", "import sqlalchemy"),
    ("its dialect for PostgreSQL", "import sqlalchemy.dialects.postgresql"),
    ("its dialects for MySQL and SQLite", "import sqlalchemy.dialects.mysql, sqlalchemy.dialects.sqlite"),
    ("psycopg", "import psycopg"),
    ("durable-adapter", "from durable_adapter.celery import install"),
    ("the journal, its tables and statements", "import durable_adapter.journal as j; kept = j.Journal(sys.argv[1])"),
    ("its first connection", "kept.time()"),
    ("only with transactional steps: SQLAlchemy's ORM", "import sqlalchemy.orm"),
)
PROGRAM = """
import gc, json, psutil, sys
import celery.apps.worker, celery.bin.celery, celery.concurrency.prefork, celery.worker.consumer, kombu.transport.redis
def own():
    gc.collect()
    return psutil.Process().memory_full_info().uss
found, before = [], own()
for stage in json.loads(sys.argv[2]):
    exec(stage)
    now = own()
    found.append((now - before) / 1e6)
    before = now
print(json.dumps(found))
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the rounds, prints the tables, writes the result, and says whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=200, help="chains of three that a worker runs before it is measured")
    parser.add_argument(
        "--postgres", default=os.environ.get("BENCH_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
    )
    parser.add_argument("--redis", default=os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/11"))
    given = parser.parse_args(arguments)
    found: dict[str, list[dict[str, float]]] = {"late": [], "protected": []}
    stages: list[list[float]] = []
    with report.scratch_database(given.postgres) as url:
        prepare(url)
        for number in range(given.rounds):
            for variant, each in found.items():
                each.append(one_worker(variant, url, given))
                print(f"round {number + 1}/{given.rounds} {variant}: {each[-1]}", file=sys.stderr, flush=True)
            program = [sys.executable, "-c", PROGRAM, url, json.dumps([stage for _, stage in STAGES])]
            stages.append(json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout))
    return conclude(found, stages, given)


def one_worker(variant: str, url: str, given: argparse.Namespace) -> dict[str, float]:
    """One worker: it runs the chains, then its processes are measured. In MB."""
    import redis

    environment = {**os.environ, "BENCH_VARIANT": variant, "BENCH_JOURNAL": url, "BENCH_REDIS": given.redis}
    redis.Redis.from_url(given.redis).flushdb()
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "benchmarks.chain_app", "worker", "-c", "2", "-l", "error",
         "--without-gossip", "--without-mingle", "-n", f"{variant}@%h"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        drain(client(environment, "publish", given.chains)["ids"], given)
        parent = psutil.Process(worker.pid)
        children = [child.memory_full_info() for child in parent.children()]
        mine = parent.memory_full_info()
        return {
            "child": statistics.mean(child.uss for child in children) / 1e6,
            "largest": max(child.uss for child in children) / 1e6,
            "child_rss": statistics.mean(child.rss for child in children) / 1e6,
            "parent": mine.rss / 1e6,
            "parent_uss": mine.uss / 1e6,
        }
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def drain(ids: list[str], given: argparse.Namespace) -> None:
    """Waits until the worker has run every chain.

    Raises:
        TimeoutError: it had not within five minutes.
    """
    import redis

    store = redis.Redis.from_url(given.redis)
    deadline = time.monotonic() + 300
    while any(found is None for found in store.mget([f"celery-task-meta-{task}" for task in ids])):
        if time.monotonic() > deadline:
            raise TimeoutError("the chains were not drained within 300 s")
        time.sleep(0.2)


def conclude(found: dict[str, list[dict[str, float]]], stages: list[list[float]], given: Any) -> int:
    """The tables, the limits, and the file."""
    names = (
        ("child", "a child's own (USS), mean of both"),
        ("largest", "the larger child's own (USS)"),
        ("child_rss", "a child's resident set, mean of both"),
        ("parent", "the parent's resident set"),
        ("parent_uss", "the parent's own (USS)"),
    )
    limits = {"child": CHILD, "largest": CHILD, "parent": PARENT}
    rows, broken = [], False
    for name, what in names:
        plain, ours = (statistics.median(each[name] for each in found[variant]) for variant in ("late", "protected"))
        limit = limits.get(name)
        verdict = "" if limit is None else "kept" if ours - plain <= limit else "BROKEN"
        broken |= verdict == "BROKEN"
        told = "" if limit is None else f"at most {limit}"
        rows.append([what, f"{plain:.1f}", f"{ours:.1f}", f"{ours - plain:+.1f}", told, verdict])
    medians = [statistics.median(each) for each in zip(*stages, strict=True)]
    where = [[what, f"{size:.1f}"] for (what, _), size in zip(STAGES, medians, strict=True)]
    title = f"Memory of `celery worker -c 2` after {given.chains} chains of 3, PostgreSQL, {given.rounds} rounds, MB, medians"
    report.write(
        "memory",
        title,
        "python -m benchmarks.memory",
        [
            (["of the worker", "plain", "with the plugin", "more", "limit", ""], rows),
            (["what a fresh interpreter gains, beside what a worker has loaded", "MB"], where),
        ],
    )
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
