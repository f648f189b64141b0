"""`durable-adapter demo`: a legacy shop is killed in the middle, before and after, and the bank's ledger is shown.

Runs the stories of `examples/legacy_sidekiq_style` with real workers, of Celery or of RQ, and a real `kill -9`. It needs
no service and leaves nothing behind: it only ever signals processes that it started.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..printable import shell_word
from .command import Command
from .options import invocation

#: The stories told when none is named: one where nothing ties the jobs together, one where a single job does it all.
STORIES = ("exchange", "order")
SIDES = ("before", "after")
#: What an engine's stories need to be installed, and the extra that brings it.
NEEDS: dict[str, tuple[tuple[str, ...], str]] = {"celery": (("celery",), "celery"), "rq": (("rq", "fakeredis"), "demo")}
ENGINES = tuple(NEEDS)
#: The package of the examples, beside this one in a wheel and beside `src` in a checkout.
EXAMPLES = "legacy_sidekiq_style"
#: Exit codes: the ledgers of the after sides are right, are not, or the stories could not be told.
RIGHT, WRONG, NOT_TOLD = 0, 1, 2

#: Called with a side and a line of news.
Say = Callable[[str, str], None]


class CannotTell(click.ClickException):
    """The stories could not be told to their end."""

    exit_code = NOT_TOLD


SHOWN = (
    ("Celery", "durable-adapter demo"),
    ("RQ", "durable-adapter demo --engine rq"),
    ("One story, with its databases and logs kept", "durable-adapter demo --story order --workdir /tmp/demo"),
)


def stories() -> tuple[str, list[tuple[str, str]]]:
    """Every story by name, for the help."""
    known = _load(_examples()).STORIES
    told = {name: story.title for engine in ENGINES for name, story in known[engine].items()}
    return "Stories", list(told.items())


@click.command("demo", cls=Command, examples=SHOWN, listing=stories)
@click.option("--engine", type=click.Choice([*ENGINES, "all"]), default=ENGINES[0], show_default=True, help="Whose workers.")
@click.option("--story", "names", multiple=True, metavar="NAME", help="A story by name, or `all`; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print only the counts, as JSON; progress goes to stderr.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep databases, messages and logs here; without it they are thrown away.",
)
@click.pass_context
def demo(ctx: click.Context, engine: str, names: tuple[str, ...], as_json: bool, workdir: Path | None) -> None:
    """Kill a legacy shop in the middle, before and after, and show the bank's ledger.

    Starts a small bank and real workers of Celery or RQ, ends them with kill -9 at the telling moment, counts what the bank
    was made to do, and ends with what `durable-adapter explain` says about the last story. Needs no service: Celery's
    broker is a SQLite file, RQ's Redis is one in Python, everything else SQLite. Exits with 0 only if the shop with
    durable-adapter did everything exactly as often as it should.
    """
    engines = ENGINES if engine == "all" else (engine,)
    place = _examples()
    scenario = _scenario(place, engines)
    chosen = _chosen(names, {name: scenario.STORIES[name] for name in engines})
    as_json = as_json or invocation(ctx).as_json
    printer = _Printer(as_json)
    with _folder(workdir) as folder, _terminated_means_interrupted():
        tellings, explained = [], ""
        for number, (name, story) in enumerate(chosen.items(), start=1):
            printer.title(f"Story {number} of {len(chosen)}, {name}: {story.title}")
            tellings.append((name, _tell_both_sides(scenario, name, story, folder, printer.clock())))
        if not as_json:
            explained = _explained(scenario, *list(chosen.items())[-1], folder)
    right = all(told["after"].is_right for _, told in tellings)
    if as_json:
        click.echo(json.dumps({"stories": [_counts(name, told) for name, told in tellings]}))
    else:
        printer.ledger(tellings)
        printer.explanation(story.subject.workflow, explained)
        printer.end(right, [place / EXAMPLES / scenario.ENGINES[name].place for name in engines], workdir)
    ctx.exit(RIGHT if right else WRONG)


def _examples() -> Path:
    """The folder that holds the examples' package."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "_examples", package.parents[1] / "examples"):
        if (place / EXAMPLES / "scenario.py").is_file():
            return place
    raise CannotTell(f"the examples of durable-adapter are not installed: {package / '_examples'} is missing")


def _scenario(place: Path, engines: Sequence[str]) -> Any:
    """The module that tells the stories."""
    for engine in engines:
        modules, extra = NEEDS[engine]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise CannotTell(
                f"the demo with --engine {engine} needs {' and '.join(missing)}, not installed here: "
                f"pip install 'durable-adapter[{extra}]'"
            )
    return _load(place)


def _load(place: Path) -> Any:
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    return importlib.import_module(f"{EXAMPLES}.scenario")


def _chosen(given: Sequence[str], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The stories that are to be told, each once, by the name under which they are shown.

    Args:
        given: what was asked for.
        known: the stories by name, for each engine that is to tell them.
    """
    names = list(dict.fromkeys(name for stories in known.values() for name in stories))
    for name in given:
        if name not in (*names, "all"):
            raise click.BadParameter(f"there is no story {name!r}; there are: {', '.join(names)}, and all", param_hint="--story")
    wanted = names if "all" in given else list(dict.fromkeys(given)) or STORIES
    return {
        name if len(known) == 1 else f"{name}-{engine}": stories[name]
        for engine, stories in known.items()
        for name in wanted
        if name in stories
    }


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Where the stories leave their files. A temporary folder is removed, unless something went wrong."""
    if given is not None:
        yield given
        return
    made = Path(tempfile.mkdtemp(prefix="durable-demo-"))
    try:
        yield made
    except click.ClickException:
        click.echo(f"the logs are in {made}", err=True)
        raise
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def _terminated_means_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that no process that it started outlives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell_both_sides(scenario: Any, name: str, story: Any, folder: Path, say: Say) -> dict[str, Any]:
    """Tells a story before and after, at the same time."""
    stages = {}
    for side in SIDES:
        workdir = folder / f"{name}-{side}"
        if workdir.exists() and any(workdir.iterdir()):
            raise CannotTell(f"{workdir} is not empty: name another --workdir")
        stages[side] = scenario.stage(story, workdir)
    with ThreadPoolExecutor(len(SIDES)) as pool:
        told = {side: pool.submit(scenario.tell, story, side, stages[side], _on_side(say, side)) for side in SIDES}
        try:
            return {side: future.result() for side, future in told.items()}
        except scenario.DidNotStart as error:
            raise CannotTell(f"{name}: {error}") from error
        finally:
            for stage in stages.values():
                stage.close()


def _explained(scenario: Any, name: str, story: Any, folder: Path) -> str:
    """Returns what `explain` says about the after side of a story that was told."""
    try:
        return str(scenario.explain(story, scenario.stage(story, folder / f"{name}-after")))
    except scenario.DidNotStart as error:
        raise CannotTell(f"{name}: {error}") from error


def _on_side(say: Say, side: str) -> Callable[[str], None]:
    return lambda line: say(side, line)


def _counts(name: str, told: dict[str, Any]) -> dict[str, Any]:
    """One story as `--json` prints it."""
    return {"name": name, **{side: told[side].columns() for side in SIDES}}


@dataclass(frozen=True)
class _Line:
    """One effect, as the table shows it."""

    effect: str
    before: str
    after: str
    difference: str


def _lines(told: dict[str, Any]) -> list[_Line]:
    """Returns a line for each kind of effect that either side had, and one that says whether the shop came to its end."""
    before, after = told["before"], told["after"]
    kinds = [kind for kind in after.ledger["counts"] if kind in before.counts or kind in after.counts]
    lines = [
        _Line(kind.replace("_", " "), _amount(before.ledger, kind), _amount(after.ledger, kind), _difference(told, kind))
        for kind in kinds
    ]
    ended = ["yes" if side.finished else "no" for side in (before, after)]
    return [*lines, _Line("done", ended[0], ended[1], "")]


def _amount(ledger: dict[str, Any], kind: str) -> str:
    """How often something happened, and how much money it moved."""
    count, total = ledger["counts"][kind], ledger["sums"].get(kind, 0)
    return f"{count}  {_money(total):>9}"


def _difference(told: dict[str, Any], kind: str) -> str:
    """Returns what was wrong before, as far as the after side differs: how many, and how much money."""
    before, after = told["before"].ledger, told["after"].ledger
    count = before["counts"][kind] - after["counts"][kind]
    money = _money(abs(before["sums"].get(kind, 0) - after["sums"].get(kind, 0)))
    if not count:
        return ""
    return f"{abs(count)} {'too many' if count > 0 else 'missing'}{f', {money}' if money else ''}"


def _money(total: int) -> str:
    """An amount in minor units as people write it; nothing where no money moved."""
    return f"{total / 100:,.2f}" if total else ""


class _Printer:
    """What a person sees: progress as it comes, then the ledger; plain text where the output is no terminal."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=as_json, highlight=False, soft_wrap=True, markup=False)
        self._lock = threading.Lock()

    def title(self, text: str) -> None:
        """Announces a story."""
        self._console.print(text, style="bold")

    def clock(self) -> Say:
        """Prints a line of one side, with the seconds since now."""
        began = time.monotonic()

        def say(side: str, line: str) -> None:
            with self._lock:
                self._console.print(f"{time.monotonic() - began:5.1f} s  {side:6}  {line}", style=_style(side))

        return say

    def ledger(self, tellings: list[tuple[str, dict[str, Any]]]) -> None:
        """The bank's ledger: each effect before and after, side by side, and what was wrong before."""
        self._console.print("\nWhat the bank's ledger says", style="bold")
        if not self._console.is_terminal:
            for name, told in tellings:
                rows = [_Line(name, "before", "after", "wrong before"), *_lines(told)]
                self._console.print()
                for number, row in enumerate(rows):
                    effect = row.effect if number == 0 else f"  {row.effect}"
                    line = f"{effect:22}{row.before:>12}  {row.after:>12}   {row.difference}"
                    self._console.print(line.rstrip())
            return
        from rich.table import Table
        from rich.text import Text

        table = Table("story", "effect", *SIDES, "wrong before")
        for name, told in tellings:
            for number, row in enumerate(_lines(told)):
                differs = row.before != row.after
                sides = Text(row.before, "red" if differs else ""), Text(row.after, "green" if differs else "")
                table.add_row("" if number else name, row.effect, *sides, Text(row.difference, "red"))
            table.add_section()
        self._console.print(table)

    def explanation(self, workflow: str, text: str) -> None:
        """What `explain` says about a workflow."""
        self._console.print(f"\nWhat the journal says\n\n$ durable-adapter explain -- {shell_word(workflow)}", style="bold")
        self._console.print(text)

    def end(self, right: bool, shops: Sequence[Path], workdir: Path | None) -> None:
        """How it ended, and where to look further."""
        if right:
            self._console.print("\nAfter: everything once, and every story came to its end.", style="green")
        else:
            self._console.print("\nAfter: NOT as it should be. Please report this.", style="bold red")
        for shop in shops:
            self._console.print(f"The whole difference: diff -u {_near(shop / 'before')} {_near(shop / 'after')}")
        if workdir is not None:
            self._console.print(f"Databases and logs: {_near(workdir)}")


def _style(side: str) -> str:
    return "yellow" if side == "before" else "cyan"


def _near(path: Path) -> Path:
    """A path as short as it can be written from here."""
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd())
    return path
