"""How a command ends: 0 clean or done, 1 findings or refused, 2 for every failure to look, a crash included."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ..printable import line, told_traceback, words_of
from ..urls import scrubbed
from .output import Output

#: Exit codes: nothing is wrong, or done; there are findings, or it was refused; it could not be looked at.
CLEAN, FINDINGS, COULD_NOT_LOOK = 0, 1, 2
#: Where people report what should not have happened.
REPORT_AT = "the project's issue tracker"
#: Where URLs are looked for that no option names, each of which may hold a secret.
URL_VARIABLES = ("DURABLE_ADAPTER_JOURNAL", "RQ_REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "DATABASE_URL")
#: Set to anything but 0, a crash is told with its traceback.
DEBUG = "DURABLE_ADAPTER_DEBUG"


@contextmanager
def failures_told(as_json: bool) -> Iterator[None]:
    """Ends with `COULD_NOT_LOOK` whatever keeps a command from its end, and tells it in one message.

    Bad usage, a crash of ours or of the user's code, an interruption: none of them may pass for "there are findings", which
    is 1, and none for "nothing is wrong".
    """
    out = Output(as_json=as_json)
    try:
        yield
    except click.exceptions.Exit:
        raise
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help itself, as click 8.2 shows it
            raise
        if as_json:
            out.error(type(error).__name__, error.format_message())
        else:
            if error.ctx is not None:
                click.echo(error.ctx.get_usage(), err=True)
                click.echo(f"Try '{line(error.ctx.command_path)} --help' for help.\n", err=True)
            out.error("", error.format_message())
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error
    except click.ClickException as error:
        out.error(type(error).__name__, error.format_message())
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error
    except (KeyboardInterrupt, click.Abort) as error:
        out.error("Interrupted", "interrupted before the end")
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error
    except BrokenPipeError as error:
        # Whoever read has gone. What is still to be flushed goes nowhere, without another error at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error
    except SystemExit as error:
        out.error("SystemExit", f"code that was imported ended the process (SystemExit: {error.code!r}); nothing was looked at")
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error
    except Exception as error:
        _tell_crash(out, error)
        raise click.exceptions.Exit(COULD_NOT_LOOK) from error


def hidden(text: str, *urls: str | None) -> str:
    """An error's text without the secrets of some URLs, nor of those in the environment: a driver may quote any piece."""
    return scrubbed(text, *urls, *(os.environ.get(name) for name in URL_VARIABLES))


def _tell_crash(out: Output, error: Exception) -> None:
    """An error that nobody foresaw: what it is, where to report it, and its traceback where that is asked for."""
    kind = type(error).__name__
    debug = os.environ.get(DEBUG, "") not in ("", "0")
    more = "The traceback is above." if debug else f"Set {DEBUG}=1 to see the traceback."
    if debug:
        raw = "".join(traceback.format_exception(error)).rstrip("\n")
        click.echo(hidden(told_traceback(error) or raw), err=True)
    out.error(
        kind,
        f"the command failed with an unexpected {kind}: {hidden(words_of(error))}\n"
        f"{more} If it is a fault of durable-adapter, please report it with the traceback at {REPORT_AT}",
    )
