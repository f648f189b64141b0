"""`sweep`: the loop that every worker runs as well, for where no worker does: timers, deaths, doubt, lost messages."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..session import CLEAN, FINDINGS, Session, durable_command

if TYPE_CHECKING:
    from ...recovery import Report, Sweeper

#: Unfinished runs that are looked through for engines that were not named.
LOOKED_AT = 500


EXAMPLES = (
    ("Celery: as a service", "durable-adapter -A shop sweep"),
    ("RQ: once, for cron", "durable-adapter -u redis://localhost:6379 sweep --once"),
    ("Both engines", "durable-adapter -A shop -u redis://localhost:6379 sweep"),
)


@durable_command("sweep", examples=EXAMPLES)
@click.option("--once", is_flag=True, help="One sweep, then end.")
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Sweep for so long, then end."
)
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Seconds between two sweeps; the setting `sweep_every` if not given.",
)
def command(session: Session, once: bool, seconds: float | None, every: float | None) -> int:
    """Do what is due: wake timers, declare deaths, settle doubt, send what was lost, go on with rollbacks.

    Every worker does this by itself. It is safe in any number of places at once. It sends, and therefore needs the Celery app
    (-A), RQ's Redis (-u, -c), or both; it runs no task. A dead worker is declared dead only after its beat was watched standing
    still, so --once finds only deaths that are known already.
    """
    from ...recovery import Sweeper

    if once and seconds is not None:
        raise click.UsageError("--once and --for exclude each other")
    journal = session.checked()
    engines = session.needs_engines("sweep")
    settings = session.settings
    if every is not None and every > settings.stale / 4:
        raise click.UsageError(
            f"--every {every:g} is more than a quarter of stale={settings.stale:g}: a sweeper that looks away for so long can "
            "declare nobody dead"
        )
    _warn_of_others(session, engines)
    sweeper = Sweeper(journal, engines.values(), stale=settings.stale, beat=settings.beat, retention=settings.retention)
    try:
        if once:
            report = sweeper.sweep()
            if session.out.as_json:
                session.out.json(_shown(report))
            else:
                _print(session, report, always=True)
            return FINDINGS if report.errors else CLEAN
        _loop(session, sweeper, every or settings.sweep_every, seconds)
    finally:
        sweeper.stop()
    return CLEAN


def _warn_of_others(session: Session, engines: Collection[str]) -> None:
    """Says which unfinished workflows this sweep leaves to others, because their engine was not named."""
    from ...reconcile.commands import INLINE
    from ...reconcile.words import vocabulary

    for engine in sorted({run.engine for run in session.journal.reads.unfinished(limit=LOOKED_AT)} - set(engines)):
        if engine == INLINE:
            session.out.warn("What runs inline is left to its own program: no sweeper has its functions.")
        else:
            session.out.warn(
                f"Workflows on {engine} are left to other sweepers: this one was not given {vocabulary(engine).option}."
            )


def _loop(session: Session, sweeper: Sweeper, every: float, seconds: float | None) -> None:
    """Sweeps until told to stop; a sweep that is under way ends first."""
    until = None if seconds is None else time.monotonic() + seconds
    with _stopping() as stop:
        session.out.say(f"Sweeping every {every:g} s; stop with Ctrl-C.")
        while not stop.is_set():
            report = sweeper.safely()
            if session.out.as_json:
                if report.did_anything:
                    session.out.json_line(_shown(report))
            else:
                _print(session, report, always=False)
            pause = 0.0 if report.more else every
            left = pause if until is None else min(pause, until - time.monotonic())
            if left < 0 or stop.wait(left):
                break


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, while the block runs."""
    stop = threading.Event()

    def told(_number: int, _frame: Any) -> None:
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(report: Report) -> dict[str, Any]:
    return dict(vars(report))


def _print(session: Session, report: Report, *, always: bool) -> None:
    counted = {name: count for name, count in vars(report).items() if name not in ("errors", "more") and count}
    did = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counted.items())
    if did or always:
        session.out.say(did or "Nothing was due.")
    for error in report.errors:
        session.out.warn(f"A sweep could not do everything: {error}")
