"""Steps that a workflow function calls in place, in one process on PostgreSQL: ours, DBOS, and raw psycopg.

Each side is a process of its own that stays up; the sides take turns in every round, and a turn is one workflow of many no-op
steps, timed from its first step to its last. `raw` writes the same two commits by hand: an insert before the step, an update
after it. Beside the speed stands what the side's own process uses of the processor, which other work on the machine changes
less. DBOS gets an environment of its own, made on the first run; where that cannot be had it is left out, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
#: name, ours against, limit: the ratios that are promised.
PROMISES = (
    ("steps in place against DBOS", "dbos", 3.5),
    ("steps in place against raw psycopg with the same two commits", "raw", 0.35),
)
#: What DBOS is installed as.
DBOS = ("dbos>=3,<4", "psycopg[binary]>=3.2")

OURS = """
import json, sys, time, uuid
import durable_adapter as durable
from durable_adapter import inline
from durable_adapter.journal.migrations import migrate
@durable.step
def step(number: int) -> dict:
    return {"ok": True, "number": number}
@durable.workflow
def flow(count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        step(number)
    return time.perf_counter() - started
step.__module__ = flow.__module__ = "__main__"
migrate(inline.install(journal=sys.argv[1]).journal)
run = lambda count: inline.start(uuid.uuid4().hex, flow, count).result()
"""
PEER = """
import json, sys, time
from dbos import DBOS
DBOS(config={"name": "bench", "system_database_url": sys.argv[1].replace("+psycopg", ""), "run_admin_server": False,
             "log_level": "ERROR"})
@DBOS.step()
def step(number: int) -> dict:
    return {"ok": True, "number": number}
@DBOS.workflow()
def flow(count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        step(number)
    return time.perf_counter() - started
DBOS.launch()
run = flow
"""
RAW = """
import json, sys, time, uuid
import psycopg
connection = psycopg.connect(sys.argv[1].replace("+psycopg", ""), autocommit=True)
connection.execute("CREATE TABLE raw (run text, step text, name text, state text, token text, arguments bytea, result bytea, "
                   "begun timestamptz, done timestamptz, PRIMARY KEY (run, step))")
def run(count):
    ref = uuid.uuid4().hex
    cursor = connection.cursor()
    started = time.perf_counter()
    for number in range(count):
        token = uuid.uuid4().hex
        cursor.execute("INSERT INTO raw (run, step, name, state, token, arguments, begun) VALUES "
                       "(%s, %s, 'step', 'begun', %s, %s, now()) ON CONFLICT DO NOTHING",
                       (ref, f"step#{number}", token, json.dumps([[number], {}]).encode()))
        value = {"ok": True, "number": number}
        cursor.execute("UPDATE raw SET state = 'succeeded', result = %s, done = now() "
                       "WHERE run = %s AND step = %s AND token = %s AND state = 'begun'",
                       (json.dumps(value).encode(), ref, f"step#{number}", token))
    return time.perf_counter() - started
"""
#: Every side answers each line of its input, a number of steps, with the seconds that they took, and those of its processor.
SERVE = """
for line in sys.stdin:
    before = time.process_time()
    seconds = run(int(line))
    print(json.dumps([seconds, time.process_time() - before]), file=answers, flush=True)
"""


class Side:
    """One side of the comparison: its process, which runs so many steps when it is told to."""

    def __init__(self, name: str, python: str, program: str, url: str) -> None:
        self.name = name
        # Whatever a library prints is no answer.
        keep = "import os, sys\nanswers = os.fdopen(os.dup(1), 'w')\nos.dup2(2, 1)\n"
        self._process = subprocess.Popen(
            [python, "-c", keep + program + SERVE, url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip

    def seconds(self, count: int) -> tuple[float, float]:
        """How long so many steps take, and how much of the processor this process takes for them.

        Raises:
            RuntimeError: the process ended; with the end of what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            assert self._process.stderr is not None
            raise RuntimeError(f"{self.name} ended: {self._process.stderr.read()[-2000:]}")
        seconds, processor = json.loads(line)
        return float(seconds), float(processor)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


def dbos_python(folder: Path) -> tuple[str | None, str]:
    """The interpreter of an environment with DBOS in it, made where there is none; or None, and why."""
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        if subprocess.run([python, "-c", "import dbos"], capture_output=True, check=False).returncode:
            subprocess.run([python, "-m", "pip", "install", "-q", *DBOS], check=True, capture_output=True, text=True, timeout=600)
        done = subprocess.run(
            [python, "-c", "from importlib.metadata import version; print(version('dbos'))"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return None, f"an environment with {DBOS[0]} could not be made: {said[-1] if said else error!r}"
    return str(python), f"DBOS {done.stdout.strip()}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the rounds, prints a table, writes the result, and says whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200, help="steps of one workflow, which is one turn of a side")
    parser.add_argument(
        "--postgres", default=os.environ.get("BENCH_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
    )
    parser.add_argument("--dbos", type=Path, default=ROOT / ".venv-dbos", help="where DBOS's environment is, or is made")
    given = parser.parse_args(arguments)
    python, about = dbos_python(given.dbos)
    programs = {"raw": (sys.executable, RAW), "durable-adapter": (sys.executable, OURS)}
    if python is not None:
        programs["dbos"] = (python, PEER)
    found: dict[str, list[float]] = {name: [] for name in programs}
    processor: dict[str, list[float]] = {name: [] for name in programs}
    with report.scratch_database(given.postgres) as url, report.scratch_database(given.postgres) as other:
        sides = [Side(name, *program, other if name == "dbos" else url) for name, program in programs.items()]
        try:
            for side in sides:
                side.seconds(given.steps)  # warms up
            for _ in range(given.rounds):
                for side in sides:
                    seconds, busy = side.seconds(given.steps)
                    found[side.name].append(given.steps / seconds)
                    processor[side.name].append(busy / given.steps * 1e3)
        finally:
            for side in sides:
                side.close()
    return conclude(found, processor, about, given)


def conclude(found: dict[str, list[float]], processor: dict[str, list[float]], about: str, given: Any) -> int:
    """The table, the promises, and the file."""
    table = [
        [about if name == "dbos" else name, f"{statistics.median(each):.0f} ({min(each):.0f}-{max(each):.0f})",
         f"{statistics.median(processor[name]):.2f} ({min(processor[name]):.2f}-{max(processor[name]):.2f})"]
        for name, each in found.items()
    ]  # fmt: skip
    kept = []
    for what, other, limit in PROMISES:
        if other not in found:
            kept.append([what, f"not measured: {about}", f"at least {limit}", "skipped"])
            continue
        # Round by round, because the machine's speed drifts.
        ratio = statistics.median(a / b for a, b in zip(found["durable-adapter"], found[other], strict=True))
        kept.append([what, f"{ratio:.2f}", f"at least {limit}", "kept" if ratio >= limit else "BROKEN"])
    report.write(
        "function-steps",
        f"Steps called in place by a workflow function, one process, PostgreSQL, {given.rounds} interleaved rounds, medians",
        "python -m benchmarks.function_steps",
        [(["side", "steps/s", "ms of CPU a step, client alone"], table), (["promise", "measured", "limit", ""], kept)],
    )
    return 1 if any(row[3] == "BROKEN" for row in kept) else 0


if __name__ == "__main__":
    raise SystemExit(main())
