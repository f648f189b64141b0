"""One command as `--help` shows it: what it does, examples for each engine, its own options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from .options import COMMON

#: What an example shows, and the example.
Example = tuple[str, str]
#: A list in the help, made only when the help is shown: its heading, and its rows.
Listing = Callable[[], tuple[str, Sequence[tuple[str, str]]]]


class Command(click.Command):
    """A command with examples.

    Args:
        *args: as click has them.
        examples: what each shows, and the whole line.
        listing: a list to be shown behind the examples.
        **settings: as click has them.
    """

    def __init__(self, *args: Any, examples: Sequence[Example] = (), listing: Listing | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        self.listing = listing

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes what it does, then the examples, which no line is broken for: they are there to be copied."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for what, line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}# {what}\n")
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        if self.listing is not None:
            heading, rows = self.listing()
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes its own options; those that every command takes are told once, in the help of the group."""
        parameters = self.get_params(ctx)
        shared = COMMON if {parameter.name for parameter in parameters} >= COMMON else frozenset()
        own = [
            parameter.get_help_record(ctx)
            for parameter in parameters
            if parameter.name not in shared and isinstance(parameter, click.Option)
        ]
        with formatter.section("Options"):
            formatter.write_dl([record for record in own if record is not None])
        if shared:
            group = ctx.parent.command_path if ctx.parent is not None else "durable-adapter"
            formatter.write_paragraph()
            formatter.write_text(
                "Which journal, app (-A), Redis (-u, -c) and namespace, and --json: every command takes these. See "
                f"`{group} --help`."
            )
