"""Who sends what an order made due: a sweep from here where the engine is at hand, else the sweepers in the workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..model import SECOND
from .blockers import idle_engines, nobody_sweeps
from .case import read_surroundings
from .commands import Caller
from .repair import sweep_until_done
from .words import plural, span, vocabulary

if TYPE_CHECKING:
    from ..journal import Journal
    from ..runtime.engine import Engine


class Sending:
    """Sweeps for single orders at once, and for many orders once, behind the last of them.

    Args:
        journal: the journal.
        engines: the bindings that can send, by name.
        caller: how printed commands are called.
        stale: seconds of silence after which a worker may be declared dead.
        in_bulk: there are many orders.
    """

    def __init__(
        self, journal: Journal, engines: Mapping[str, Engine], caller: Caller, *, stale: float = 60.0, in_bulk: bool = False
    ) -> None:
        self._journal = journal
        self._engines = engines
        self._caller = caller
        self._stale = stale
        self._in_bulk = in_bulk
        self._put_off: set[str] = set()

    def due(self, engine: str) -> str:
        """Something of an engine is due: has it sent, and says by whom; empty where that is told at the end."""
        if self._in_bulk:
            self._put_off.add(engine)
            return ""
        return self._told(engine)

    def at_the_end(self) -> str:
        """Has what was put off sent, and says by whom; empty where nothing was."""
        engines = sorted(self._put_off)
        here = [engine for engine in engines if engine in self._engines]
        # One sweep serves all engines that are at hand.
        return " ".join(self._told(engine) for engine in [*here[:1], *(e for e in engines if e not in here)])

    def _told(self, engine: str) -> str:
        if engine not in self._engines:
            look = read_surroundings(self._journal, caller=self._caller, stale=int(self._stale * SECOND))
            idle = next(nobody_sweeps(look, idle_engines(look, [engine])), None)
            if idle is not None:
                return idle.told
            beat = max(worker.beat_at for worker in look.living.values() if worker.sweeps(engine))
            return f"The sweepers take it from here; the last one beat {span(look.now - beat)} ago."
        try:
            reports = sweep_until_done(self._journal, list(self._engines.values()), stale=self._stale)
        except Exception as error:
            return f"It could not be sent now ({type(error).__name__}: {error}); the sweepers send it."
        sent = sum(r.woken + r.sent_again + r.undone for r in reports)
        wrong = [error for r in reports for error in r.errors]
        said = f"A sweep sent {plural(sent, vocabulary(engine).message)}." if sent else "A sweep found nothing to send yet."
        return f"{said} It could not do all: {wrong[0]}" if wrong else said
