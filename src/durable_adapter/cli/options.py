"""The options that commands share, and what was given for them.

Common options may stand before the command's name or after it. They are collected in one `Invocation` per call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import update_wrapper
from typing import Any, ClassVar, TypeVar

import click

from ..model import SECOND, can_be_kept

F = TypeVar("F", bound=Callable[..., Any])

#: Workflows that one order in bulk concerns at the most, unless another limit is given.
BULK = 1000
#: The names of the options that every command takes.
COMMON = frozenset({"journal", "namespace", "schema", "app", "url", "config", "paths", "modules", "serializer", "as_json"})
#: Where the invocation is kept in click's own context.
_KEY = "durable_adapter.invocation"


@dataclass
class Invocation:
    """What was given on the command line for every command.

    Attributes:
        journal: URL of the journal.
        namespace: whose workflows.
        schema: PostgreSQL schema of the journal's tables.
        app: the Celery app, as `celery -A` takes it.
        url: RQ's Redis, as `rq -u` takes it.
        config: RQ's settings module, as `rq -c` takes it.
        serializer: the serializer of RQ's jobs, as `rq -S` takes it.
        paths: directories in which modules are looked for.
        modules: the user's modules to import.
        as_json: print JSON.
        preset: an app object that the caller has loaded already (`celery -A proj durable`).
        preset_is_named: somebody named that app; otherwise it is only Celery's default one.
        program: how printed commands begin.
    """

    journal: str | None = field(default=None, repr=False)
    namespace: str | None = None
    schema: str | None = None
    app: str | None = None
    url: str | None = field(default=None, repr=False)
    config: str | None = None
    serializer: str | None = None
    paths: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    as_json: bool = False
    preset: Any = None
    preset_is_named: bool = False
    program: str = "durable-adapter"


def invocation(ctx: click.Context) -> Invocation:
    """What was given in this call so far."""
    found: Invocation = ctx.meta.setdefault(_KEY, Invocation())
    return found


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value not in (None, False):
            setattr(invocation(ctx), name, value)

    return keep


def _add(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def add(ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> None:
        known = getattr(invocation(ctx), name)
        known += [value for value in values if value not in known]

    return add


def common(function: F) -> F:
    """Adds the options that every command takes."""
    for option in reversed(
        (
            click.option("--journal", metavar="URL", callback=_keep("journal"), expose_value=False,
                         help="The journal; else from the environment, the app or pyproject.toml."),
            click.option("--namespace", metavar="NAME", callback=_keep("namespace"), expose_value=False,
                         help="Whose workflows; 'default' if nothing else says so."),
            click.option("--schema", metavar="NAME", callback=_keep("schema"), expose_value=False,
                         help="PostgreSQL schema of the journal's tables."),
            click.option("-A", "--app", metavar="APP", callback=_keep("app"), expose_value=False,
                         help="The Celery app, as `celery -A` takes it: needed to send tasks. -A shop"),
            click.option("-u", "--url", metavar="REDIS_URL", callback=_keep("url"), expose_value=False,
                         help="RQ's Redis, as `rq -u` takes it (or RQ_REDIS_URL): needed to send jobs. "
                         "-u redis://localhost:6379/0"),
            click.option("-c", "--config", metavar="MODULE", callback=_keep("config"), expose_value=False,
                         help="RQ's settings module, as `rq -c` takes it (or RQ_CONFIG), with REDIS_URL and QUEUES. -c settings"),
            click.option("-P", "--path", "paths", metavar="DIR", multiple=True, callback=_add("paths"), expose_value=False,
                         help="Where your modules are; this directory if not given. -P src"),
            click.option("--import", "modules", metavar="MODULE", multiple=True, callback=_add("modules"), expose_value=False,
                         help="A module with marked functions, or one that calls install(); repeatable. --import shop.jobs"),
            click.option("-S", "--serializer", metavar="NAME", callback=_keep("serializer"), expose_value=False,
                         help="The serializer of RQ's jobs, as `rq worker -S` takes it. -S json"),
            click.option("--json", "as_json", is_flag=True, callback=_keep("as_json"), expose_value=False,
                         help="Print JSON."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@dataclass(frozen=True)
class Signed:
    """Whether a change is made, by whom and why.

    Attributes:
        apply: make it; else only say what would be done.
        who: the person.
        why: their reason.
    """

    apply: bool
    who: str
    why: str

    #: What a command says that only showed what it would do.
    UNCHANGED: ClassVar[str] = "Nothing was changed. Add --apply, --by WHO and --why TEXT to do it."


def changing(function: Callable[..., int]) -> Callable[..., int]:
    """Adds --apply, --by and --why to a command that changes something; it takes them as one `Signed` named *signed*."""

    def run(*args: Any, apply_: bool, by: str | None, why: str | None, **kwargs: Any) -> int:
        return function(*args, signed=check_changing(apply_, by, why), **kwargs)

    wrapped: Callable[..., int] = update_wrapper(run, function)
    for option in reversed(
        (
            click.option("--apply", "apply_", is_flag=True, help="Do it; without this, only say what would be done."),
            click.option("--by", metavar="WHO", help="Who you are; recorded with the change."),
            click.option("--why", metavar="TEXT", help="How you know, or why; recorded with the change."),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


def bulk(*, task: str, since: str) -> Callable[[F], F]:
    """Adds the options by which one order is given for many workflows at once.

    Args:
        task: what --task chooses, for its help.
        since: what --since leaves out, for its help.
    """

    def decorate(function: F) -> F:
        for option in reversed(
            (
                click.option("--task", metavar="NAME", help=f"In bulk: {task}."),
                click.option("--since", type=moment, metavar="TIME", help=f"In bulk: only {since} since: 2h (ago), 2025-11-23."),
                click.option("--limit", metavar="N", type=click.IntRange(1), default=BULK, show_default=True,
                             help="In bulk: how many at the most."),
            )
        ):  # fmt: skip
            function = option(function)
        return function

    return decorate


#: Stand in examples and printed commands for what only the person knows.
PLACEHOLDERS = frozenset({"who", "text", "why", "name", "reason", "by", "how you know", "your name", "...", "…"})


def check_words(words: Sequence[str]) -> None:
    """Refuses arguments that no database can keep, before any is looked for.

    Raises:
        click.UsageError: one holds a NUL, or bytes that are no UTF-8.
    """
    for word in words:
        if not can_be_kept(word):
            raise click.UsageError(f"{word!r:.80} holds a NUL or bytes that are not UTF-8: nothing in a journal is called so")


def check_changing(apply: bool, by: str | None, why: str | None) -> Signed:
    """Returns the decision to change something, with the person and the reason that it needs.

    Raises:
        click.UsageError: one of them is missing or empty.
    """
    by, why = (by or "").strip(), (why or "").strip()
    if apply and not (by and why):
        missing = " and ".join(name for name, value in (("--by WHO", by), ("--why TEXT", why)) if not value)
        raise click.UsageError(f"--apply needs {missing}: what people change is recorded with who did it, and why.")
    for option, value in (("--by", by), ("--why", why)) if apply else ():
        if value.casefold().strip("<>[]{}'\"") in PLACEHOLDERS:
            raise click.UsageError(
                f"{option} {value!r} is what the printed command says in the place of your own words: write "
                + ("who you are." if option == "--by" else "how you know, or why. It is kept with the change.")
            )
    if len(by) > 200:
        raise click.UsageError("--by is longer than 200 characters: give a name.")
    return Signed(apply, by or "you", why or "not said yet")


_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d|w)")
#: Seconds of the longest span that is accepted: a hundred years.
LONGEST = 100 * 365 * 86_400
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def read_span(text: str) -> int | None:
    """A span such as `90s`, `15m`, `2h`, `7d` in microseconds; None where it is none.

    Raises:
        click.BadParameter: it is longer than any journal is old.

    Example:
        >>> read_span("1.5h")
        5400000000
    """
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None:
        return None
    seconds = float(found[1]) * _UNITS[found[2]]
    if seconds > LONGEST:
        raise click.BadParameter(f"{text:.40} is longer than {LONGEST // _UNITS['d'] // 365} years")
    return int(seconds * SECOND)


def span(text: str) -> int:
    """An option's span in microseconds.

    Raises:
        click.BadParameter: it is none.
    """
    found = read_span(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no span of time: give a number with s, m, h or d, such as 90s, 15m, 2h or 7d")
    return found


@dataclass(frozen=True)
class When:
    """A moment that was given: absolute, or so long ago. What "ago" counts from is the database's clock."""

    at: int | None = None
    ago: int | None = None

    def on(self, now: int) -> int:
        """The moment in microseconds, where *now* is the database's time."""
        return self.at if self.at is not None else now - (self.ago or 0)


def moment(text: str | When) -> When:
    """An option's moment: `2h` (ago), `2025-11-23`, `2025-11-23T09:00`. Without an offset it is UTC, as all that is printed.

    Raises:
        click.BadParameter: it is none.
    """
    if isinstance(text, When):
        return text
    ago = read_span(text)
    if ago is not None:
        return When(ago=ago)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: give a span such as 2h or 7d (ago), or a date such as 2025-11-23 or 2025-11-23T09:00 "
            "(UTC unless it has an offset)"
        ) from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return When(at=int(at.timestamp() * SECOND))
