"""`celery -A proj durable ...`: the same commands, with the app that Celery has loaded.

Celery's entry point names this file, and every `celery` command imports it: it loads neither the journal nor a binding.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from ..printable import shell_word
from .group import HELP, Commands
from .options import common, invocation


@click.group("durable", cls=Commands, help=HELP, short_help="Durable workflows: see and mend what stopped half-way.")
@common
def durable(**_: Any) -> None:
    """The commands, with the app that `celery -A` loaded."""
    ctx = click.get_current_context()
    given = invocation(ctx)
    given.preset = ctx.obj.app
    given.preset_is_named = ctx.parent is not None and ctx.parent.params.get("app") is not None
    named = _named(ctx.parent) if ctx.parent is not None else None
    given.program = f"celery -A {shell_word(named)} durable" if named else "celery durable"


def _named(celery: click.Context) -> str | None:
    """The app's name, as it was given to `-A` or in the environment; None where nobody named one."""
    app = celery.params.get("app")
    if app is None or isinstance(app, str):
        return app
    # Older versions of Celery keep the app that they found in the place of its name.
    with contextlib.suppress(click.UsageError):
        options, _, _ = celery.command.make_parser(celery).parse_args(sys.argv[1:])
        if "app" in options:
            return str(options["app"])
    return next(option.resolve_envvar_value(celery) for option in celery.command.params if option.name == "app")
