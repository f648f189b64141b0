"""Throughput and latency of a chain of three no-op steps: plain Celery, a hand-written journal, durable-adapter.

Prefork `-c 2`, Redis, PostgreSQL. Variants are interleaved in every round. Throughput is the drain of chains published
while no worker runs; a hop is the time between the bodies of successive steps with one chain in flight.
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
from pathlib import Path
from typing import Any

from benchmarks import report

VARIANTS = ("late", "sketch2", "protected", "idempotent")
#: what, measured, against, the figure, limit: ratios of which at least so much is promised.
PROMISES = (
    ("throughput, protected against the hand-written journal", "protected", "sketch2", "steps", 0.90),
    ("throughput, protected against plain Celery", "protected", "late", "steps", 0.57),
    ("throughput, idempotent against the hand-written journal", "idempotent", "sketch2", "steps", 0.90),
    ("throughput, idempotent against plain Celery", "idempotent", "late", "steps", 0.57),
    ("publication of a chain of 3 against plain Celery", "protected", "late", "published", 0.50),
)
#: How many times as long as with the hand-written journal a hop may take.
HOP = 1.1

CLIENT = """
import json, sys, time
from celery import chain
from benchmarks.chain_app import app, step
mode, n = sys.argv[1], int(sys.argv[2])
one = lambda: chain(step.s([]), step.s(), step.s(last=True)).apply_async()
app.connection_for_write().ensure_connection()
if mode == "publish":
    for _ in range(20): one()
    t = time.perf_counter()
    ids = [one().id for _ in range(n)]
    print(json.dumps({"per_second": n / (time.perf_counter() - t), "ids": ids}))
else:
    hops, chains = [], []
    for _ in range(20): one().get(timeout=30)
    for _ in range(n):
        t = time.time()
        stamps = one().get(timeout=30)
        chains.append(time.time() - t)
        hops += [stamps[1] - stamps[0], stamps[2] - stamps[1]]
    print(json.dumps({"hops": hops, "chains": chains}))
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the rounds, prints a table, writes the result, and says whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chains", type=int, default=600, help="chains drained per variant and round")
    parser.add_argument("--latency", type=int, default=100, help="chains timed one by one per variant and round")
    parser.add_argument(
        "--postgres", default=os.environ.get("BENCH_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
    )
    parser.add_argument("--redis", default=os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/11"))
    parser.add_argument("--variants", default=",".join(VARIANTS))
    given = parser.parse_args(arguments)
    rows: dict[str, list[dict[str, float]]] = {v: [] for v in given.variants.split(",")}
    with report.scratch_database(given.postgres) as url:
        prepare(url)
        for number in range(given.rounds):
            for variant, found in rows.items():
                started = time.monotonic()
                last = one_round(variant, url, given)
                found.append(last)
                print(
                    f"round {number + 1}/{given.rounds} {variant}: {last['steps']:.0f} steps/s, hop {last['hop50']:.2f} ms "
                    f"({time.monotonic() - started:.0f} s)",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    return conclude(rows, given)


def prepare(url: str) -> None:
    """Makes the tables of the sketch and of the journal."""
    import sqlalchemy

    from benchmarks.chain_app import TABLE
    from durable_adapter.journal import Journal
    from durable_adapter.journal.migrations import migrate

    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(TABLE)
    engine.dispose()
    journal = Journal(url)
    migrate(journal)
    journal.close()


def one_round(variant: str, url: str, given: argparse.Namespace) -> dict[str, float]:
    """One variant once: publish, drain, then time single chains."""
    import redis

    environment = {**os.environ, "BENCH_VARIANT": variant, "BENCH_JOURNAL": url, "BENCH_REDIS": given.redis}
    store = redis.Redis.from_url(given.redis)
    store.flushdb()
    published = client(environment, "publish", given.chains)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "benchmarks.chain_app", "worker", "-c", "2", "-l", "error",
         "--without-gossip", "--without-mingle", "-n", f"{variant}@%h"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        keys = [f"celery-task-meta-{task}" for task in published["ids"]]
        deadline = time.monotonic() + 300
        while sum(found is not None for found in store.mget(keys)) < len(keys):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{variant}: the chains were not drained within 300 s")
            time.sleep(0.2)
        stamps = [json.loads(found)["result"] for found in store.mget(keys)]
        first, last = min(s[0] for s in stamps), max(s[-1] for s in stamps)
        timed = client(environment, "latency", given.latency)
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    return {
        "steps": 3 * given.chains / (last - first),
        "published": published["per_second"],
        "hop50": statistics.median(timed["hops"]) * 1e3,
        "hop99": statistics.quantiles(timed["hops"], n=100)[98] * 1e3,
        "chain50": statistics.median(timed["chains"]) * 1e3,
    }


def client(environment: dict[str, str], mode: str, number: int) -> dict[str, Any]:
    """Publishes or times chains in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, mode, str(number)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def conclude(rows: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> int:
    """The table, the promises, and the file."""
    median = {v: {k: statistics.median(r[k] for r in found) for k in found[0]} for v, found in rows.items()}
    table = [
        [v, f"{m['steps']:.0f} ({min(r['steps'] for r in rows[v]):.0f}-{max(r['steps'] for r in rows[v]):.0f})",
         f"{m['steps'] / median['late']['steps']:.2f}" if "late" in median else "", f"{m['hop50']:.2f}", f"{m['hop99']:.2f}",
         f"{m['chain50']:.1f}", f"{m['published']:.0f}"]
        for v, m in median.items()
    ]  # fmt: skip
    kept = []
    for what, ours, other, figure, limit in PROMISES:
        if ours in median and other in median:
            # Round by round, because the machine's speed drifts.
            ratio = statistics.median(a[figure] / b[figure] for a, b in zip(rows[ours], rows[other], strict=True))
            kept.append([what, f"{ratio:.2f}", f"at least {limit}", "kept" if ratio >= limit else "BROKEN"])
    for ours in ("protected", "idempotent"):
        if ours in median and "sketch2" in median:
            ratio = statistics.median(a["hop50"] / b["hop50"] for a, b in zip(rows[ours], rows["sketch2"], strict=True))
            told = f"hop p50, {ours} against the hand-written journal"
            kept.append([told, f"{ratio:.2f}", f"at most {HOP}", "kept" if ratio <= HOP else "BROKEN"])
    head = ["variant", "steps/s", "of plain", "hop p50 ms", "hop p99 ms", "chain p50 ms", "published chains/s"]
    report.write(
        "celery-chain",
        f"Chain of 3 no-op steps, `celery worker -c 2`, Redis, PostgreSQL, {given.rounds} interleaved rounds, medians",
        "python -m benchmarks.celery_chain",
        [(head, table), (["promise", "measured", "limit", ""], kept)],
    )
    return 1 if any(row[3] != "kept" for row in kept) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    raise SystemExit(main())
