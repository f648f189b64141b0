"""What finding 1,000 partial runs costs among ten thousand finished ones, and among a million: it should be the same.

Time inside the process, on PostgreSQL. Both journals are filled first, then asked in turn; the command line's own start
is measured by `benchmarks.startup`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

from benchmarks import report

#: How much more the large journal may cost.
LIMIT = 1.5
PARTIAL = 1000
SORTS = ("held", "dead_worker", "lost_message", "failed_effect_unknown", "rollback_failed")

#: Finished chains of three steps, with what a step of a real one holds; a twentieth of them had an event or two.
HISTORY = (
    """
    INSERT INTO durable_workflow (ref, namespace, id, run, name, shape, engine, mode, status, declared, fingerprint, plan,
        resends, open_steps, created_at, ended_at)
    SELECT lpad(to_hex(n), 32, '0'), 'default', 'order-' || n, 1, 'order', 'canvas', 'celery', 'enforce', 'succeeded', true,
        md5(n::text), decode(repeat('7b', 600), 'hex'), 0, 0, {start} + n * 1000, {start} + n * 1000 + 500
    FROM generate_series({first}, {last}) n
    """,
    """
    INSERT INTO durable_step (ref, key, position, name, kind, status, attempt, takeovers, token, worker, queue, task_id, outcome,
        outcome_codec, safety, options, pivot, created_at, begun_at, ended_at)
    SELECT lpad(to_hex(n), 32, '0'), md5(n || '-' || p) || '/0/shop.step' || p, p, 'shop.step' || p, 'step', 'succeeded', 1, 0,
        left(md5(p || '-' || n), 16), md5('w' || mod(n, 50)), 'celery', md5(n || '-' || p), decode(repeat('31', 40), 'hex'),
        'json/1',
        'protected', '{{"counts":true}}', false, {start} + n * 1000, {start} + n * 1000 + 10, {start} + n * 1000 + 20
    FROM generate_series({first}, {last}) n, generate_series(0, 2) p
    """,
    """
    INSERT INTO durable_event (at, kind, ref, key, who, why)
    SELECT {start} + n * 1000, CASE mod(n, 3) WHEN 0 THEN 'operator' WHEN 1 THEN 'in_doubt' ELSE 'attempt_failed' END,
        lpad(to_hex(n), 32, '0'), 'k', 'w', 'it happened long ago'
    FROM generate_series({first}, {last}) n WHERE mod(n, 20) = 0
    """,
)
#: Rows that one statement of the history inserts at the most.
CHUNK = 100_000


def main(arguments: list[str] | None = None) -> int:
    """Fills two journals, asks both in turn, and says whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--finished", type=int, nargs=2, default=[10_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument(
        "--postgres", default=os.environ.get("BENCH_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
    )
    given = parser.parse_args(arguments)
    from durable_adapter.journal import Journal

    seconds: dict[int, list[float]] = {}
    counts: dict[int, Counter[str]] = {}
    with ExitStack() as stack:
        journals = {}
        for finished in given.finished:
            journal = Journal(stack.enter_context(report.scratch_database(given.postgres)), pool_size=1)
            stack.callback(journal.close)
            started = time.monotonic()
            fill(journal, finished)
            print(f"{finished:,} finished: filled in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            journals[finished] = journal
            ask(journal)  # warms the caches of both
            seconds[finished] = []
        for number in range(given.rounds):
            for finished, journal in journals.items():
                took, counts[finished] = ask(journal)
                seconds[finished].append(took)
                print(f"round {number + 1}/{given.rounds} {finished:,}: {took * 1000:.0f} ms", file=sys.stderr, flush=True)
        scans = sequential_scans(journals[given.finished[1]])
    for scan in scans:
        print(f"reads a whole table: {scan}", file=sys.stderr)
    return max(conclude(seconds, counts, given), int(bool(scans)))


def sequential_scans(journal: Any) -> list[str]:
    """The statements of people's commands that the planner would answer by reading a whole table of the large journal."""
    import sqlalchemy

    from durable_adapter.cli.search import find_run
    from durable_adapter.errors import UnknownWorkflow
    from durable_adapter.reconcile import look_for_trouble

    sent: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    engine = journal.db.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    hour = 3600 * 1_000_000
    look_for_trouble(journal, namespace="default", longer_than=hour)
    journal.reads.listed(namespace="default")
    journal.reads.listed(namespace="default", unfinished=True)
    with suppress(UnknownWorkflow):
        find_run(journal, "default", "no-such-task")
    sqlalchemy.event.remove(engine, "before_cursor_execute", note)
    found = []
    with engine.connect() as connection:
        for statement, parameters in {s: p for s, p in sent if s.lstrip().startswith("SELECT")}.items():
            plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
            if any(f"Seq Scan on {table}" in plan for table in ("durable_workflow", "durable_step", "durable_event")):
                found.append(f"{' '.join(statement.split())[:300]}\n{plan[:1000]}")
    return found


def ask(journal: Any) -> tuple[float, Counter[str]]:
    """Looks once, and makes of it what `reconcile --json` prints."""
    from durable_adapter.reconcile import look_for_trouble

    started = time.perf_counter()
    found = look_for_trouble(journal, namespace="default")
    json.dumps([finding.shown() for finding in found.findings])
    took = time.perf_counter() - started
    return took, Counter(finding.kind.value for finding in found.findings)


def conclude(seconds: dict[int, list[float]], counts: dict[int, Counter[str]], given: argparse.Namespace) -> int:
    """The table, and whether everything was found in time."""
    few, many = given.finished
    wanted = {sort: PARTIAL // len(SORTS) for sort in SORTS}
    medians = {finished: statistics.median(found) for finished, found in seconds.items()}
    ratio = medians[many] / medians[few]
    rows = []
    for finished, found in seconds.items():
        spread = f"({min(found) * 1000:.0f}-{max(found) * 1000:.0f})"
        rows.append([f"{finished:,}", f"{medians[finished] * 1000:.0f} {spread}", str(sum(counts[finished].values()))])
    rows.append(["ratio", f"{ratio:.2f}", f"at most {LIMIT}: {'kept' if ratio <= LIMIT else 'BROKEN'}"])
    report.write(
        "reconcile",
        f"Finding {PARTIAL:,} partial runs, {given.rounds} interleaved rounds, milliseconds in the process",
        "python -m benchmarks.reconcile",
        [(["finished runs", "median (min-max)", "findings"], rows)],
    )
    complete = all(dict(found) == wanted for found in counts.values())
    if not complete:
        print(f"not everything was found: wanted {wanted}, found {counts}", file=sys.stderr)
    return int(ratio > LIMIT or not complete)


def fill(journal: Any, finished: int) -> None:
    """A journal with a history, and a thousand runs that stopped half-way."""
    from durable_adapter.journal.migrations import migrate
    from durable_adapter.model import SECOND

    migrate(journal)
    start = journal.time() - 80 * 86_400 * SECOND
    with journal.db.engine.connect() as connection:
        for first in range(1, finished + 1, CHUNK):
            last = min(first + CHUNK - 1, finished)
            for statement in HISTORY:
                connection.exec_driver_sql(statement.format(start=start, first=first, last=last))
    partial(journal)
    with journal.db.engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # what autovacuum does by itself


def partial(journal: Any) -> None:
    """Two hundred runs of each of five sorts of trouble."""
    from durable_adapter.model import WorkerRow

    for worker in ("living", "dead"):
        journal.workers.register(
            WorkerRow(
                id=worker, role="worker", parent="p", host="web-1", pid=1 if worker == "dead" else 2, engine="celery", queues=[],
                code_version=None, beats=0, beat_at=0, previous_beat_at=0, running=[], previously_running=[], started_at=0,
            )
        )  # fmt: skip
    for number in range(PARTIAL):
        stop(journal, SORTS[number % len(SORTS)])
    journal.workers.child_died("p", 1, "signal 9")


def stop(journal: Any, sort: str) -> None:
    """One run that stopped half-way."""
    from durable_adapter.model import (
        Effect,
        Kind,
        Mode,
        Shape,
        StepRow,
        StepStatus,
        Stored,
        WorkflowRow,
        WorkflowStatus,
        new_ref,
        new_token,
    )

    ref = new_ref()
    undo = "shop.refund" if sort == "rollback_failed" else None
    steps = [
        StepRow(ref=ref, key=f"{ref}-{n}/0/shop.step{n}", position=n, name=f"shop.step{n}", kind=Kind.STEP,
                status=StepStatus.PLANNED, queue="celery", task_id=f"{ref}-{n}", compensation=undo if n == 0 else None)
        for n in range(3)
    ]  # fmt: skip
    run = WorkflowRow(ref=ref, namespace="default", id=f"partial-{ref}", run=1, name="order", shape=Shape.CANVAS,
                      engine="celery", mode=Mode.ENFORCE, status=WorkflowStatus.RUNNING, declared=True, open_steps=1,
                      plan=b"{" * 600)  # fmt: skip
    assert journal.starts.start(run, steps)
    if sort == "lost_message":
        age(journal, ref)
        return
    first, second = (s.key for s in steps[:2])
    token = begin(journal, ref, first, "living")
    journal.ends.succeed(ref, first, token, Stored("json/1", b"1"), last=False)
    token = begin(journal, ref, second, "dead" if sort == "dead_worker" else "living")
    row = journal.claims.get(ref, second)
    error = json.dumps({"type": "bank.Timeout", "message": "no answer in 30 s", "traceback": "x" * 2000}).encode()
    match sort:
        case "held":
            journal.doubts.raise_doubt(row, token, "its attempt ended in Timeout", over=True, error=error)
            journal.doubts.hold(journal.claims.get(ref, second), "nobody can tell")
        case "failed_effect_unknown":
            journal.ends.fail(row, token, error, Effect.UNKNOWN, decides=True)
        case "rollback_failed":
            decision = journal.ends.fail(row, token, error, Effect.DID_NOT_HAPPEN, decides=True).decision
            token = new_token()
            assert journal.claims.begin(ref, decision.undo.key, token, "living")
            journal.ends.fail(journal.claims.get(ref, decision.undo.key), token, error, Effect.DID_NOT_HAPPEN, decides=False)


def begin(journal: Any, ref: str, key: str, worker: str) -> str:
    """Claims a step."""
    from durable_adapter.model import new_token

    token = new_token()
    assert journal.claims.begin(ref, key, token, worker)
    return token


def age(journal: Any, ref: str) -> None:
    """Moves a run an hour into the past."""
    hour = 3600 * 1_000_000
    with journal.db.engine.connect() as connection:
        sets = f"created_at = created_at - {hour}"
        connection.exec_driver_sql(f"UPDATE durable_step SET {sets} WHERE ref = '{ref}'")
        connection.exec_driver_sql(
            f"UPDATE durable_workflow SET {sets}, next_check_at = next_check_at - {hour} WHERE ref = '{ref}'"
        )


if __name__ == "__main__":
    raise SystemExit(main())
