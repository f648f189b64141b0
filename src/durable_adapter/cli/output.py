"""Printing: JSON of a stable shape, or text for people. Tables are drawn only on a terminal, and only then is rich loaded."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

#: Characters that a plain table gives one column at the most.
WIDEST = 60


@dataclass(frozen=True)
class Output:
    """Where a command prints.

    Attributes:
        as_json: print JSON; text is then left out.
    """

    as_json: bool = False

    def json(self, value: Any) -> None:
        """Prints one JSON document."""
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))

    def json_line(self, value: Any) -> None:
        """Prints one JSON document on one line, for loops."""
        click.echo(json.dumps(value, ensure_ascii=False, default=str))

    def say(self, text: str = "", **style: Any) -> None:
        """Prints a line for people; not among JSON."""
        if not self.as_json:
            click.secho(text, **style)

    def warn(self, text: str) -> None:
        """Prints a warning for people, on standard error; not among JSON."""
        if not self.as_json:
            click.secho(text, err=True, fg="yellow")

    def progress(self, text: str = "") -> None:
        """Shows how far something has come, on a terminal only, over what was shown before; nothing takes it away."""
        if not self.as_json and sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Sequence[str | None] = ()) -> None:
        """Prints a table: drawn on a terminal, plain columns elsewhere."""
        rows = list(rows)
        if self.as_json:
            return
        if sys.stdout.isatty():
            self._drawn(headings, rows, styles)
            return
        widths = [min(WIDEST, max(len(row[i]) for row in [headings, *rows])) for i in range(len(headings))]
        for row in [headings, *rows]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    @staticmethod
    def _drawn(headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> None:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE, header_style="bold", pad_edge=False)
        for number, heading in enumerate(headings):
            table.add_column(heading, overflow="fold", no_wrap=number == 0)
        for number, row in enumerate(rows):
            table.add_row(*(Text(cell) for cell in row), style=styles[number] if number < len(styles) else None)
        Console().print(table)
