"""Who sweeps: without a fresh sweeper nothing that is lost is sent again and no doubt is settled. Reports say so first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..model import WorkerRow
from .case import Look
from .commands import Caller
from .words import is_silent, iso, since, tongue

#: What nobody does for an engine that no sweeper serves.
_DOES = {"rq": "sweeps for RQ", "inline": "runs what is inline"}


@dataclass(frozen=True, slots=True)
class Unswept:
    """An engine that no fresh sweeper serves.

    Attributes:
        engine: its name.
        last: when a sweeper of it beat last; None where the journal knows of none.
    """

    engine: str
    last: int | None

    def told(self, caller: Caller, now: int) -> str:
        """That nobody sweeps, since when, and what to do."""
        what = f"Nobody {_DOES.get(self.engine, 'sweeps')}"
        when = f"the last beat of a sweeper was at {since(self.last, now)}" if self.last is not None else "none is known"
        sweep = caller.sweep(engines=[self.engine])
        return f"{what}: {when}. Start {tongue(self.engine).worker}, or run `{sweep}`."

    def shown(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"engine": self.engine, "last_beat_at": iso(self.last)}


def unswept(look: Look, engines: Iterable[str]) -> list[Unswept]:
    """Returns those of some engines that nobody sweeps for, judged by the sweepers' own rows.

    Args:
        look: what holds for every run.
        engines: the engines.
    """
    found = []
    for engine in sorted(set(engines)):
        its = [sweeper for sweeper in look.sweepers if engine in sweeper.engine.split(",")]
        if not any(_is_fresh(sweeper, look) for sweeper in its):
            found.append(Unswept(engine, max((sweeper.beat_at for sweeper in its), default=None)))
    return found


def _is_fresh(sweeper: WorkerRow, look: Look) -> bool:
    return sweeper.dead_at is None and sweeper.stopped_at is None and not is_silent(sweeper, look.now)
