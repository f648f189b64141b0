"""The cells of the Celery matrix."""

from __future__ import annotations

from collections.abc import Iterator

from tests.crash.cells import UNKNOWN, Cell, Promise
from tests.crash.words import SAFETIES, SHAPES

HOW = """\
Each stage has a Redis, a database, a bank, a web process and two prefork workers (`-c 1`, late acknowledgement, prefetch 1,
a visibility timeout of 4 s). A worker that is killed as a whole loses its parent and its child at once, and another is
started in its place. *Before the body* is in `task_prerun`; *while the bank is still working on it* means that the effect
is made after the process that asked for it is dead (for a transactional step: the database is held up inside the
`INSERT`); *after the end is committed* is before the successor is published (lone task: in the task's own `__call__`;
function: between two steps); *after the successor is published* is before the result is stored. Frozen workers (SIGSTOP to
parent and child) stand still until they are declared dead and what follows from that has happened. A worker without the
plugin runs the shop's old code. Where an answer to a commit is lost, the commit itself happened.
"""

#: Where a process is killed, in the order in which a step passes them, and how the document calls it.
MOMENTS = {
    "before-body": "before the body",
    "before-effect": "in the body, before the effect",
    "bank-working": "while the bank is still working on it",
    "after-effect": "after the effect, before the body returns",
    "after-end": "after the end is committed",
    "after-publish": "after the successor is published",
    "after-result": "after the result is stored",
}
#: Which steps are struck. The second one has both a predecessor and a successor.
STRUCK = {"lone": ("charge",), "chain": ("charge", "ship"), "function": ("charge", "ship")}

#: The faults that are not simply a kill, and how the document calls them.
OTHERS = {
    "slow": "longer than the visibility timeout",
    "countdown": "countdown longer than the visibility timeout",
    "twice": "one message delivered twice at once",
    "flush": "broker flushed at every hop",
    "early@before-body": "acknowledged early, child killed before the body",
    "early@before-effect": "acknowledged early, child killed in the body, before the effect",
    "early@after-effect": "acknowledged early, child killed after the effect",
    "soft-limit": "soft time limit after the effect",
    "hard-limit": "hard time limit after the effect",
    "error@plain": "error after the effect",
    "error@autoretry": "error after the effect, `autoretry_for=(Exception,)`",
    "error@retry": "error after the effect, `self.retry`",
    "away@start": "database away when it is started",
    "away@claim": "database away at the claim",
    "away@end": "database away at the end",
    "lost@start": "answer to the start's commit lost",
    "lost@claim": "answer to the claim's commit lost",
    "lost@end": "answer to the end's commit lost",
    "frozen@before-effect": "worker frozen before the effect, thawed later",
    "frozen@after-effect": "worker frozen after the effect, thawed later",
    "plain-all": "a worker without the plugin runs all of it",
    "plain-first": "a worker without the plugin runs the first step",
}
#: Faults that strike the whole workflow, or always the same step of it.
WHOLE = ("slow", "countdown", "twice", "flush", "away@start", "away@claim", "away@end", "lost@start", "plain-all", "plain-first")

NO_SUCCESSOR = {
    "lone": "a lone task has no successor",
    "function": "its steps run in place: nothing is published between them",
}
NO_CLAIM = {
    "transactional": "its claim and its end are one commit",
}


def all_cells() -> Iterator[Cell]:
    """Every cell, also those that make no sense."""
    for shape in SHAPES:
        for safety in SAFETIES:
            for victim in ("child", "worker"):
                for moment in MOMENTS:
                    yield from _kills(shape, safety, victim, moment)
            for fault in OTHERS:
                for step in ("",) if fault in WHOLE else STRUCK[shape]:
                    if _is_own(shape, fault, step):
                        yield _other(shape, safety, fault, step)


def _kills(shape: str, safety: str, victim: str, moment: str) -> Iterator[Cell]:
    held = safety == "undeclared" and moment in UNKNOWN
    nonsense = NO_SUCCESSOR.get(shape) if moment == "after-publish" else None
    for step in STRUCK[shape]:
        if _is_own(shape, moment, step):
            fault = f"kill-{victim}@{moment}:{step}"
            yield Cell(shape, safety, fault, Promise.HELD if held else Promise.DONE, nonsense)


def _is_own(shape: str, fault: str, step: str) -> bool:
    """Whether a step of a function has this moment for itself: begin and result are the function's, the claim is not."""
    if shape != "function":
        return True
    if fault in ("before-body", "after-result", "early@before-body"):
        return step == "charge"
    # Before its first claim a function reads: what comes before the second one is a claim alone.
    return fault != "lost@claim" or step == "ship"


def _other(shape: str, safety: str, fault: str, step: str) -> Cell:
    promise, nonsense = Promise.DONE, None
    undeclared = safety == "undeclared"
    match fault:
        case "early@before-effect" | "early@after-effect" | "hard-limit" | "error@autoretry" | "error@retry" if undeclared:
            promise = Promise.HELD
        case "soft-limit" | "error@plain" if undeclared:
            promise = Promise.FAILED
        case "frozen@before-effect" | "frozen@after-effect" if undeclared:
            promise = Promise.SETTLED
        case "frozen@before-effect" if safety == "probe":
            nonsense = (
                "not promised: a process that is frozen past every bound can still act, after its probe has said that "
                "nothing happened; against that only idempotent and transactional help"
            )
        case "lost@claim":
            nonsense = NO_CLAIM.get(safety)
        case "plain-first" if shape != "chain":
            nonsense = "it has only one message: see the line above"
    return Cell(shape, safety, f"{fault}:{step}" if step else fault, promise, nonsense)


def title(cell: Cell) -> str:
    """How the document calls a cell's fault."""
    if cell.deed in ("kill-child", "kill-worker"):
        return f"{cell.deed.removeprefix('kill-')} killed {MOMENTS[cell.moment]}"
    return OTHERS[cell.fault.partition(":")[0]]
