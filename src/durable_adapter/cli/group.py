"""The group of all commands: `--help` lists them without importing any."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from .exits import failures_told
from .options import check_words, common

#: Every command, with the line that `--help` shows.
COMMANDS: dict[str, str] = {
    "list": "List workflows.",
    "explain": "Tell the story of one workflow.",
    "reconcile": "Find partial executions, and mend what is safe.",
    "resolve": "Decide what happened to a step in doubt.",
    "retry": "Go on with a workflow that failed or came to rest.",
    "rollback": "Undo a workflow, in reverse order.",
    "cancel": "End a workflow without undoing it.",
    "doubt": "After a restore: put in doubt what may have run.",
    "sweep": "Do what is due: timers, deaths, doubt, lost messages.",
    "doctor": "Check settings, journal, workers and app.",
    "migrate": "Bring the journal's tables up to date.",
    "demo": "Kill workers in the middle, and compare ledgers.",
}
#: Commands that are not the function `command` of the module of their name in `commands`.
ELSEWHERE: dict[str, str] = {"demo": ".demo:demo"}


#: Where a context keeps that JSON was asked for, before its options have been read.
_JSON = "durable_adapter.json"


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the options before the command's name."""
        options = args[: args.index("--")] if "--" in args else args
        wanted = "--json" in options
        with failures_told(wanted):
            check_words(args)
            ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[_JSON] = wanted
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the command, whose own options are read only now."""
        with failures_told(ctx.meta.get(_JSON, False)):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = ELSEWHERE.get(cmd_name, f".commands.{cmd_name}:command").partition(":")
        found: click.Command = getattr(import_module(module, __package__), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command; an unknown one is told with the nearest of those that there are."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"{error.message.rstrip('.')}.{hint}", ctx) from error


HELP = """Durable execution for Celery and RQ: see what stopped half-way, know what is certain, and mend it.

Start with `reconcile`: it lists every partial execution, with the command that mends it.

What changes something shows what it would do, and does it with --apply, --by (who you are) and --why (how you know).
Put -- before an ID that begins with a dash. Exit codes: 0 clean or done, 1 findings or refused, 2 could not look.
"""


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"durable-adapter {version('durable-adapter')}")
    ctx.exit()


@click.group(cls=Commands, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version, and exit.")
@common
def command_line(**_: Any) -> None:
    """All commands; the options before the command's name hold for any command."""
