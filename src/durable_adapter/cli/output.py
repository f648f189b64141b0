"""Printing: JSON of a stable shape, or text for people. Tables are drawn only on a terminal, and only then is rich loaded.

Everything that a command prints goes through here, so that nothing from outside reaches a terminal unescaped.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..printable import json_text, line, lines

#: Characters that a plain table gives one column at the most.
WIDEST = 60
#: Characters of a line of text at the most; a narrower terminal has fewer.
WIDTH, NARROWEST = 120, 40


@dataclass(frozen=True)
class Output:
    """Where a command prints.

    Attributes:
        as_json: print JSON; text is then left out.
    """

    as_json: bool = False

    def json(self, value: Any) -> None:
        """Prints one JSON document."""
        click.echo(json_text(json.dumps(value, indent=2, ensure_ascii=False, default=str)))

    def json_line(self, value: Any) -> None:
        """Prints one JSON document on one line, for loops."""
        click.echo(json_text(json.dumps(value, ensure_ascii=False, default=str)))

    def say(self, text: str = "", **style: Any) -> None:
        """Prints one line for people, behind as many empty ones as *text* begins with; not among JSON."""
        if not self.as_json:
            body = text.lstrip("\n")
            click.secho("\n" * (len(text) - len(body)) + line(body), **style)

    def paragraph(self, text: str, first: str = "", rest: str | None = None, **style: Any) -> None:
        """Prints a text at a readable width, with an indent; no word is broken. Not among JSON.

        Args:
            text: what is printed; line ends in it count as spaces.
            first: what the first line begins with.
            rest: what the other lines begin with; as many spaces as *first* has characters if not given.
            **style: as click has it.
        """
        if self.as_json:
            return
        filled = textwrap.fill(
            line(" ".join(text.split())), width=_width(), initial_indent=line(first),
            subsequent_indent=" " * len(first) if rest is None else rest, break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        click.secho(filled, **style)

    def command(self, text: str, indent: str) -> None:
        """Prints a command to be copied: no line of it is broken. Not among JSON."""
        self.say(f"{indent}{text}")

    def warn(self, text: str) -> None:
        """Prints a warning for people, on standard error; not among JSON."""
        if not self.as_json:
            click.secho(line(text), err=True, fg="yellow")

    def error(self, kind: str, message: str) -> None:
        """Says what went wrong: on standard error, or as JSON on standard output."""
        if self.as_json:
            self.json({"error": {"type": kind, "message": message}})
        else:
            click.secho(f"Error: {lines(message)}", err=True, fg="red")

    def progress(self, text: str = "") -> None:
        """Shows how far something has come, on a terminal only, over what was shown before; nothing takes it away."""
        if not self.as_json and sys.stderr.isatty():
            click.echo(f"\r\x1b[K{line(text)}", err=True, nl=False)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], *, styles: Sequence[str | None] = ()) -> None:
        """Prints a table: drawn on a terminal, plain columns elsewhere. No word is broken.

        Where the terminal is too narrow for that, each row is a few lines: its first cell, and below it the others.
        """
        if self.as_json:
            return
        cells = [[line(cell) for cell in row] for row in rows]
        if not sys.stdout.isatty():
            widths = [min(WIDEST, max(len(row[i]) for row in [headings, *cells])) for i in range(len(headings))]
            for row in [headings, *cells]:
                click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            return
        if _least_width(headings, cells) <= shutil.get_terminal_size().columns:
            self._drawn(headings, cells, styles)
        else:
            self._stacked(headings, cells, styles)

    @staticmethod
    def _stacked(headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> None:
        """Rows one below the other, for narrow terminals."""
        label = max(len(heading) for heading in headings)
        for number, (first, *others) in enumerate(rows):
            click.secho(first, bold=True, fg=styles[number] if number < len(styles) else None)
            for heading, cell in zip(headings[1:], others, strict=True):
                if cell:
                    click.echo(f"  {heading.ljust(label)}  {cell}")

    @staticmethod
    def _drawn(headings: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str | None]) -> None:
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE, header_style="bold", pad_edge=False)
        for number, heading in enumerate(headings):
            widest = _longest_word(row[number] for row in [headings, *rows])
            table.add_column(heading, min_width=widest, no_wrap=number == 0)
        for number, row in enumerate(rows):
            table.add_row(*(Text(cell) for cell in row), style=styles[number] if number < len(styles) else None)
        Console().print(table)


def _width() -> int:
    """Characters of a line: the terminal's, within reason."""
    if not sys.stdout.isatty():
        return WIDTH
    return min(WIDTH, max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns))


def _least_width(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Characters that a drawn table needs so that no word of it is broken; its first column keeps each cell on one line."""
    first = max(_cells(row[0]) for row in [headings, *rows])
    others = [_longest_word(row[i] for row in [headings, *rows]) for i in range(1, len(headings))]
    return first + sum(others) + 2 * len(headings) + 2


def _longest_word(cells: Iterable[str]) -> int:
    return max((_cells(word) for cell in cells for word in cell.split(" ")), default=0)


def _cells(text: str) -> int:
    """How many places a text takes on a terminal: wide characters take two."""
    from rich.cells import cell_len

    return cell_len(text)
