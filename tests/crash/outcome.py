"""What became of a cell: waiting for its end, deciding what is held as the bank's truth has it, and counting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from durable_adapter.model import StepRow, StepStatus, WorkflowRow, WorkflowStatus
from tests.crash.cells import Cell, Promise
from tests.crash.engines import Engine
from tests.crash.faults import Play
from tests.crash.stage import Stage
from tests.crash.words import KINDS
from tests.servers import eventually

#: Seconds that a cell may take to come to its end, after its fault is over.
PATIENCE = 75.0
#: Seconds for the broker to deliver again what a dead worker had taken, and for that to be let go of.
QUIET = 30.0
#: How often in a row the broker has to be found empty.
LOOKS = 5


class NotAsPromised(AssertionError):
    """A cell ended otherwise than its promise says."""


@dataclass
class Result:
    """How one cell went."""

    cell: Cell
    passed: bool
    counts: tuple[int, ...] = ()
    was_held: bool = False
    seconds: float = 0.0
    why: str = ""
    notes: list[str] = field(default_factory=list)
    order: str = ""
    evidence: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        kept = asdict(self)
        del kept["cell"], kept["evidence"]
        return {"cell": self.cell.id, "promise": self.cell.promise.value, **kept}


def play(engine: Engine, stage: Stage, cell: Cell, order: str, away: float) -> Result:
    """Plays one cell on its stage and says how it went. Never raises for what the system under test does."""
    under_way = Play(stage, cell, order, away)
    result = Result(cell, passed=False, order=order)
    began = time.monotonic()
    try:
        stage.suit(cell)
        engine.acts[cell.deed](under_way)
        _FINISH[cell.promise](under_way, result)
        _is_told(under_way)
        _is_quiet(under_way)
        _counted(under_way, result)
        result.passed = True
    except AssertionError as error:
        result.why = str(error)
    except Exception as error:
        result.why = f"{type(error).__name__}: {error}"
    finally:
        result.seconds = round(time.monotonic() - began, 1)
        result.notes = under_way.notes
        stage.bank.behave()
    if not result.passed:
        result.counts = stage.counts(order)
        result.evidence = evidence(under_way)
    return result


def _done(play: Play, result: Result) -> None:
    """Nobody helps: the run succeeds, each effect is there once."""

    def is_over() -> bool:
        run = _run(play)
        if run is None:
            return False
        _refuse_held(play, run, result)
        if run.status is WorkflowStatus.FAILED:
            raise NotAsPromised("the run failed")
        return run.status is WorkflowStatus.SUCCEEDED

    eventually(is_over, PATIENCE, lambda: f"the end of the run; {_stand(play)}")


def _refuse_held(play: Play, run: WorkflowRow, result: Result) -> None:
    held = play.stage.held(run.ref)
    if held:
        result.was_held = True
        raise NotAsPromised(f"{held[0].name} is held: {held[0].evidence}")


def _held(play: Play, result: Result) -> None:
    """Held, listed, nothing behind it begun; one verdict by the bank's truth, and it goes on by itself."""

    def found() -> StepRow | None:
        run = _run(play)
        if run is not None and run.status is not WorkflowStatus.RUNNING:
            raise NotAsPromised(f"it was not held: the run is {run.status}")
        held = play.stage.held(run.ref) if run is not None else []
        return held[0] if held else None

    row = eventually(found, PATIENCE, lambda: f"a held step; {_stand(play)}")
    result.was_held = True
    if not row.name.endswith(f".{play.cell.step}"):
        raise NotAsPromised(f"{row.name} is held, not {play.cell.step}")
    counts = play.stage.counts(play.order)
    position = play.cell.effects_before
    if any(counts[position + 1 :]) or any(count != 1 for count in counts[:position]) or counts[position] > 1:
        raise NotAsPromised(f"the counts while it is held are {counts}")
    reported = _findings(play, row)
    if "held" not in reported:
        raise NotAsPromised(f"it is held, and `reconcile` reports {reported or 'nothing'}")
    _resolve(play, row, happened=counts[position] == 1)
    _done(play, result)
    result.was_held = True


def _findings(play: Play, row: StepRow) -> list[str]:
    """What `durable-adapter reconcile` says about a step."""
    _, printed = play.stage.command("reconcile")
    return [finding["kind"] for finding in printed["findings"] if (finding["ref"], finding["key"]) == (row.ref, row.key)]


def _resolve(play: Play, row: StepRow, *, happened: bool) -> None:
    """One `durable-adapter resolve`, as the bank's ledger has it."""
    verdict = ["--happened", json.dumps(f"{play.kind}-{play.order}")] if happened else ["--did-not-happen"]
    told = ["--apply", "--by", "the matrix", "--why", "the bank's ledger says so"]
    code, printed = play.stage.command("resolve", row.ref, row.key, *verdict, *told)
    if code != 0:
        raise NotAsPromised(f"the verdict was refused: {printed}")


def _failed(play: Play, result: Result) -> None:
    """The error reached the caller as ever; the journal says that the effect may have happened, and for whom."""
    run = eventually(
        lambda: found if (found := _run(play)) is not None and found.status is WorkflowStatus.FAILED else None,
        PATIENCE,
        lambda: f"the failure of the run; {_stand(play)}",
    )
    steps = play.stage.journal.reads.steps(run.ref)
    struck = next(s for s in steps if s.name.endswith(f".{play.cell.step}"))
    found = _findings(play, struck)
    if "failed_effect_unknown" not in found:
        raise NotAsPromised(f"{struck.name} failed, and `reconcile` reports {found or 'nothing'}")


def _settled(play: Play, result: Result) -> None:
    """It was held while its worker was silent (the fault waited for that); the worker's own outcome settles it."""
    result.was_held = True
    run = _run(play)
    assert run is not None

    def is_over() -> bool:
        found = play.stage.journal.reads.run(run.ref)
        return found is not None and found.status is WorkflowStatus.SUCCEEDED

    eventually(is_over, PATIENCE, lambda: f"the end of the run; {_stand(play)}")


def _is_told(play: Play) -> None:
    """The caller's own result object says so too."""
    if play.cell.promise is not Promise.FAILED:
        stage, last = play.stage, play.ids[-1]
        told = f"the caller's result: it is {{}}; {_stand(play)}"
        eventually(lambda: stage.has_succeeded(last), QUIET, lambda: told.format(stage.result_state(last)))


def _is_quiet(play: Play) -> None:
    """Every message that could still make something run again has come and gone.

    One that a worker takes is for a moment neither in its queue nor among those that are taken.
    """
    looks = 0

    def is_quiet() -> bool:
        nonlocal looks
        looks = 0 if play.stage.messages() else looks + 1
        return looks == LOOKS

    eventually(is_quiet, QUIET, lambda: f"an empty broker; it still holds {play.stage.messages()} messages")


def _counted(play: Play, result: Result) -> None:
    """The verdict of the bank, once nothing can happen any more; and what the journal and the caller say of it."""
    result.counts = play.stage.counts(play.order)
    expected = play.cell.expected
    if play.cell.promise is Promise.FAILED:
        position = play.cell.effects_before
        expected = tuple(int(number <= position) for number in range(len(KINDS)))  # type: ignore[assignment]
    if result.counts != expected:
        raise NotAsPromised(f"the counts are {result.counts}, not {expected}")
    if play.cell.promise is Promise.FAILED:
        return
    run = _run(play)
    assert run is not None
    steps = play.stage.journal.reads.steps(run.ref)
    # What a worker without the plugin ran may stay planned in the journal, where another one went on with it.
    fine = {StepStatus.SUCCEEDED, StepStatus.PLANNED} if play.cell.deed == "plain-first" else {StepStatus.SUCCEEDED}
    unfinished = [f"{s.name}: {s.status}" for s in steps if s.status not in fine]
    if unfinished:
        raise NotAsPromised(f"the run succeeded with steps that did not: {', '.join(unfinished)}")
    marked = [f"{s.name}: {s.attention}" for s in steps if s.attention is not None]
    if marked:
        raise NotAsPromised(f"the journal reports trouble that there is not: {', '.join(marked)}")


def _run(play: Play) -> WorkflowRow | None:
    return play.stage.run_of(play.ids[0]) if play.ids else None


def _stand(play: Play) -> str:
    """Where the run stands, in one line."""
    run = _run(play)
    if run is None:
        return "there is no run"
    steps = ", ".join(f"{s.name.rpartition('.')[2]} {s.status}" for s in play.stage.journal.reads.steps(run.ref))
    return f"the run is {run.status}: {steps}; counts {play.stage.counts(play.order)}"


def evidence(play: Play) -> str:
    """Everything that helps to understand a cell that went wrong."""
    lines = [f"=== {play.cell.id} {play.order}", f"ids {play.ids}"]
    run = _run(play)
    if run is not None:
        lines.append(repr(run))
        lines += [repr(s) for s in play.stage.journal.reads.steps(run.ref)]
        lines += [repr(e) for e in play.stage.events(run.ref)]
    lines += [str(v) for v in play.stage.bank.requests() if str(v["reference"]).startswith(play.order)]
    lines += [f"broker: {play.stage.messages()} messages"]
    lines += play.stage.logs()
    return "\n".join(lines)


_FINISH: dict[Promise, Callable[[Play, Result], None]] = {
    Promise.DONE: _done,
    Promise.HELD: _held,
    Promise.FAILED: _failed,
    Promise.SETTLED: _settled,
}
