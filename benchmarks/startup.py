"""How long the command line takes to answer: `durable-adapter --help` and `durable-adapter list` on a small journal."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report

#: Seconds within which each command answers.
LIMIT = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Times each command as a whole process, in turn, and says whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'journal.db'}"
        program = [sys.executable, "-m", "durable_adapter.cli"]
        subprocess.run([*program, "migrate", "--journal", url], check=True, stdout=subprocess.DEVNULL)
        commands = {
            "an empty Python": [sys.executable, "-c", ""],
            "durable-adapter --help": [*program, "--help"],
            "durable-adapter list": [*program, "list", "--journal", url],
            "durable-adapter list --json": [*program, "list", "--json", "--journal", url],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for command in commands.values():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # warms the byte code
        for _ in range(given.rounds):
            for name, command in commands.items():
                started = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    rows = []
    broken = False
    for name, found in seconds.items():
        median = statistics.median(found)
        limited = name.startswith("durable")
        broken |= limited and median > LIMIT
        verdict = ("kept" if median <= LIMIT else "BROKEN") if limited else ""
        rows.append(
            [f"`{name}`", f"{median:.3f} ({min(found):.3f}-{max(found):.3f})", f"under {LIMIT}" if limited else "", verdict]
        )
    report.write(
        "startup",
        f"Start-up of the command line, {given.rounds} rounds, seconds",
        "python -m benchmarks.startup",
        [(["command", "median (min-max)", "limit", ""], rows)],
    )
    return int(broken)


if __name__ == "__main__":
    raise SystemExit(main())
