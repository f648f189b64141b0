"""Throughput and latency of three dependent jobs: plain RQ and durable-adapter, with a fork for each job and without.

Beside them, without a fork, the least that a journal can be: two statements by hand, which is where two commits put the limit.

One worker process, Redis, PostgreSQL. Variants are interleaved in every round. Throughput is the drain of chains published
while no worker runs; a hop is the time between the bodies of successive jobs with one chain in flight.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report

#: variant: the worker class, and the function of each job.
VARIANTS = {
    "fork, plain": ("rq.Worker", "plain"),
    "fork, protected": ("durable_adapter.rq.Worker", "protected"),
    "simple, plain": ("rq.SimpleWorker", "plain"),
    "simple, two bare commits": ("rq.SimpleWorker", "sketch"),
    "simple, protected": ("durable_adapter.rq.SimpleWorker", "protected"),
}
#: what, measured, against, the figure, limit; None where it is told and not promised.
PROMISES = (
    ("throughput, a fork for each job, against plain RQ", "fork, protected", "fork, plain", "steps", 0.70),
    ("throughput, SimpleWorker, against plain RQ", "simple, protected", "simple, plain", "steps", 0.78),
    ("throughput, two bare commits by hand, against plain RQ", "simple, two bare commits", "simple, plain", "steps", None),
    (
        "throughput, SimpleWorker, against two bare commits by hand",
        "simple, protected",
        "simple, two bare commits",
        "steps",
        0.88,
    ),
    ("publication of a chain of 3 against plain RQ", "simple, protected", "simple, plain", "published", 0.40),
)
#: Chains with one in flight that are thrown away before the timing begins.
WARM = 5


def main(arguments: list[str] | None = None) -> int:
    """Runs the rounds, prints a table, writes the result, and says whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--chains", type=int, default=60, help="chains drained per round with a fork for each job")
    parser.add_argument("--simple-chains", type=int, default=200, help="chains drained per round with SimpleWorker")
    parser.add_argument("--latency", type=int, default=30, help="chains timed one by one per variant and round")
    parser.add_argument(
        "--postgres", default=os.environ.get("BENCH_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
    )
    parser.add_argument("--redis", default=os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/11"))
    given = parser.parse_args(arguments)
    rows: dict[str, list[dict[str, float]]] = {v: [] for v in VARIANTS}
    with report.scratch_database(given.postgres) as url:
        prepare(url)
        for number in range(given.rounds):
            for variant, found in rows.items():
                last = one_round(variant, given)
                found.append(last)
                print(
                    f"round {number + 1}/{given.rounds} {variant}: {last['steps']:.0f} jobs/s, hop {last['hop50']:.2f} ms",
                    file=sys.stderr,
                    flush=True,
                )
        uninstall()
    return conclude(rows, given)


def prepare(url: str) -> None:
    """Makes the journal's tables and the sketch's, and lets this process publish durable jobs."""
    import psycopg

    import durable_adapter.rq
    from benchmarks.rq_jobs import SKETCH
    from durable_adapter.journal.migrations import migrate

    os.environ["DURABLE_ADAPTER_JOURNAL"] = url
    migrate(durable_adapter.rq.install().journal)
    os.environ["BENCH_SKETCH"] = url.replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(os.environ["BENCH_SKETCH"], autocommit=True) as connection:
        connection.execute(SKETCH)


def uninstall() -> None:
    """Lets go of the database."""
    import durable_adapter.rq

    durable_adapter.rq.uninstall()


def one_round(variant: str, given: argparse.Namespace) -> dict[str, float]:
    """One variant once: publish, drain, then time single chains."""
    import redis
    from rq import Queue
    from rq.job import Job

    worker_class, name = VARIANTS[variant]
    function = f"benchmarks.rq_jobs.{name}"
    __import__("benchmarks.rq_jobs")
    store = redis.Redis.from_url(given.redis)
    store.flushdb()
    queue = Queue("bench", connection=store)

    def publish() -> list[str]:
        first = queue.enqueue(function)
        second = queue.enqueue(function, depends_on=first)
        return [first.id, second.id, queue.enqueue(function, depends_on=second).id]

    def stamps(ids: list[str]) -> list[float]:
        return [job.return_value() for job in Job.fetch_many(ids, connection=store) if job is not None]

    count = given.chains if variant.startswith("fork") else given.simple_chains
    started = time.perf_counter()
    chains = [publish() for _ in range(count)]
    published = count / (time.perf_counter() - started)
    command = [sys.executable, "-m", "rq.cli", "worker", "-q", "-u", given.redis, "-w", worker_class, "bench"]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    worker = subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        done: list[list[float]] = []
        deadline = time.monotonic() + 300
        while len(done) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{variant}: the chains were not drained within 300 s")
            time.sleep(0.2)
            if Job.fetch(chains[-1][2], connection=store).is_finished:
                done = [found for ids in chains if all(found := stamps(ids))]
        hops, whole = [], []
        for number in range(WARM + given.latency):
            at = time.time()
            ids = publish()
            last = Job.fetch(ids[2], connection=store)
            while not last.is_finished:
                time.sleep(0.001)
            found = stamps(ids)
            if number >= WARM:
                hops += [found[1] - found[0], found[2] - found[1]]
                whole.append(found[2] - at)
    finally:
        worker.terminate()
        worker.wait(30)
    return {
        "steps": 3 * count / (max(d[2] for d in done) - min(d[0] for d in done)),
        "published": published,
        "hop50": statistics.median(hops) * 1e3,
        "hop99": statistics.quantiles(hops, n=100)[98] * 1e3,
        "chain50": statistics.median(whole) * 1e3,
    }


def conclude(rows: dict[str, list[dict[str, float]]], given: Any) -> int:
    """The table, the promises, and the file."""
    median = {v: {k: statistics.median(r[k] for r in found) for k in found[0]} for v, found in rows.items()}
    table = [
        [v, f"{m['steps']:.0f} ({min(r['steps'] for r in rows[v]):.0f}-{max(r['steps'] for r in rows[v]):.0f})",
         f"{m['hop50']:.2f}", f"{m['hop99']:.2f}", f"{m['chain50']:.1f}", f"{m['published']:.0f}"]
        for v, m in median.items()
    ]  # fmt: skip
    kept = []
    for what, ours, other, figure, limit in PROMISES:
        # Round by round, because the machine's speed drifts.
        ratio = statistics.median(a[figure] / b[figure] for a, b in zip(rows[ours], rows[other], strict=True))
        if limit is None:
            kept.append([what, f"{ratio:.2f}", "", ""])
        else:
            kept.append([what, f"{ratio:.2f}", f"at least {limit}", "kept" if ratio >= limit else "BROKEN"])
    head = ["variant", "jobs/s", "hop p50 ms", "hop p99 ms", "chain p50 ms", "published chains/s"]
    report.write(
        "rq-chain",
        f"Three dependent no-op jobs, one RQ worker, Redis, PostgreSQL, {given.rounds} interleaved rounds, medians",
        "python -m benchmarks.rq_chain",
        [(head, table), (["promise", "measured", "limit", ""], kept)],
    )
    return 1 if any(row[3] == "BROKEN" for row in kept) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    raise SystemExit(main())
