"""Runs the fake bank as a process of its own until it is terminated."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path

from .server import FakeBank


def main() -> None:
    """Reads the command line, serves, and writes the port to a file once the bank listens."""
    parser = argparse.ArgumentParser(prog="python -m legacy_sidekiq_style.bank", description=__doc__)
    parser.add_argument("--db", type=Path, required=True, help="SQLite file that holds the ledger; made if missing")
    parser.add_argument("--port", type=int, default=0, help="port on the loopback interface; 0 takes a free one")
    parser.add_argument("--port-file", type=Path, help="file that receives the port as soon as the bank listens")
    arguments = parser.parse_args()

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with FakeBank(arguments.db, port=arguments.port) as bank:
        if arguments.port_file:
            _write_whole(arguments.port_file, f"{bank.port}\n")
        print(f"the fake bank is open at {bank.url}", flush=True)
        ended.wait()


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the whole file or none."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(path)


if __name__ == "__main__":
    main()
