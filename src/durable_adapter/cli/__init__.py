"""`durable-adapter`: the command line for people who run durable workflows.

Each command lives in a file of its own under `commands/` and is imported only when it is called; a command imports the
journal only when it runs. Exit codes: 0 clean or done, 1 findings or refused, 2 could not look.
"""

from __future__ import annotations

import gc

from .group import Commands, command_line

__all__ = ["Commands", "command_line", "main"]

#: New objects between two collections of garbage. Most that a command makes are modules and statements, which stay: at
#: Python's own 700, looking through them again and again is about a tenth of the time that `list` takes.
GC_THRESHOLD = 50_000


def main() -> None:
    """The entry point of the console script."""
    gc.set_threshold(GC_THRESHOLD)
    command_line(prog_name="durable-adapter")
