"""The cells of the RQ matrix. Letters name the reproductions of what plain RQ does in the same place.

A declaration is varied where it can make a difference, between a step's begin and its end; elsewhere a cell is played for
`undeclared` alone. All steps are struck where the worker forks, as RQ does by itself; with the other classes the one with a
predecessor and a successor is.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.crash.cells import UNKNOWN, Cell, Promise
from tests.crash.words import SAFETIES, SHAPES

HOW = """\
Each stage has a Redis, a database, a bank, a web process and two workers of one class: `durable_adapter.rq.Worker` (fork),
`SimpleWorker` (simple) or `SpawnWorker` (spawn), with RQ's own settings as they come: nothing here waits for RQ's time-outs.
Jobs have `Retry(max=3)` unless a row says otherwise. A letter in brackets names what plain RQ does in the same place: A to
D, F and G charge twice or lose the rest, and so on.

A SimpleWorker is its own horse. An *orphaned horse* has lost its parent and goes on; meanwhile RQ's maintenance gives the
job up (its registry's cleanup, as an hour later) and the other worker takes it. *Before the body* is behind RQ's
`prepare_job_execution`; *while the bank is still working on it* means that the effect is made after the process that asked
for it is dead (for a transactional step: the database is held up inside the `INSERT`); *after the end is committed* is
before `handle_job_success` (or between two steps of a function); *before the successor is queued* is between RQ's two
writes. Frozen workers (SIGSTOP to all) stand still until they are declared dead and what follows from that has happened. A
plain `rq worker` runs the shop's old code. Where an answer to a commit is lost, the commit itself happened. What strikes
the web process is played once, not for each class of worker.
"""

WORKERS = ("fork", "simple", "spawn")
#: Where a process is killed, in the order in which a job passes them, and how the document calls it.
MOMENTS = {
    "taken": "when it has taken the job, before anything in Redis says so (I)",
    "before-body": "before the body",
    "before-effect": "in the body, before the effect",
    "bank-working": "while the bank is still working on it",
    "after-effect": "after the effect, before the body returns (A)",
    "after-end": "after the end is committed, before RQ has the result (F)",
    "after-commit": "after RQ has the result, before the successor is queued (H)",
    "after-result": "after RQ has the result and the successor is queued",
}
VICTIMS = {
    "kill-horse": "horse killed",
    "kill-both": "worker and horse killed at once",
    "orphan": "worker killed, RQ gives the job up, and the orphaned horse goes on (L),",
}
#: The faults that are not simply a kill, and how the document calls them.
OTHERS = {
    "unretried-horse@after-effect": "horse killed after the effect, no `Retry` (B)",
    "requeued": "the same, and an operator requeues the job (B2)",
    "always": "horse killed after the effect, three times if it comes to that (C)",
    "unretried-horse@after-end": "horse killed after the end is committed, no `Retry`",
    "unretried-both@after-end": "worker and horse killed there, RQ gives the job up and calls it failed (F')",
    "two-queues": "killed when it has taken the job, by a worker of two queues (J)",
    "callback": "`on_success` raises once (E)",
    "redis-away@retry": "Redis away when the end is committed (G)",
    "redis-away@plain": "the same, no `Retry` (G')",
    "given-up@retry": "longer than RQ's heartbeat: RQ gives it up and sends it again",
    "given-up@plain": "the same, no `Retry`: RQ calls it failed",
    "twice": "one job delivered twice at once",
    "flush": "Redis flushed at every hop",
    "flush-running": "Redis flushed while the step runs (K)",
    "cold": "SIGTERM twice after the effect (M)",
    "stop": "`send_stop_job_command` after the effect (N)",
    "timeout@retry": "`job_timeout` after the effect",
    "timeout@plain": "the same, no `Retry`",
    "error@retry": "error after the effect (D)",
    "error@plain": "the same, no `Retry`",
    "again": "the function returns a `Retry` once",
    "away@start": "database away when it is started",
    "away@join": "database away when a job joins the run of what it depends on",
    "away@claim": "database away at the claim",
    "away@end": "database away at the end",
    "lost@start": "answer to the start's commit lost",
    "lost@join": "answer to the commit of a job that joins lost",
    "lost@claim": "answer to the claim's commit lost",
    "lost@end": "answer to the end's commit lost",
    "frozen@before-effect": "worker and horse frozen before the effect, thawed later",
    "frozen@after-effect": "worker and horse frozen after the effect, thawed later",
    "plain-all": "a plain `rq worker` runs all of it",
    "plain-first": "a plain `rq worker` runs the first step",
}
#: Which steps a fault strikes; those not named here strike the whole workflow, or always the same step of it.
STRIKE_STEP = (
    "unretried-horse@after-effect", "requeued", "always", "given-up@retry", "given-up@plain", "cold", "stop",
    "timeout@retry", "timeout@plain", "error@retry", "error@plain", "frozen@before-effect", "frozen@after-effect",
    "flush-running", "lost@claim", "lost@end", "away@end",
)  # fmt: skip
#: These strike a job, and a function is one as a whole.
STRIKE_JOB = (
    "unretried-horse@after-end",
    "unretried-both@after-end",
    "callback",
    "again",
    "redis-away@retry",
    "redis-away@plain",
)
#: What happens to these between a step's begin and its end depends on what is declared.
VARIED = {
    *STRIKE_STEP, "twice", "again", "plain-all", "plain-first",
} - {"flush-running", "away@end"}  # fmt: skip
#: How long these take does not depend on the worker, and they take long.
OF_THE_WEB = ("away@start", "away@join", "lost@start", "lost@join")

NO_HORSE = "a SimpleWorker is its own horse: see the line of both"
NO_SUCCESSOR = {
    "lone": "a lone job has no successor",
    "function": "its steps run in place: nothing is queued between them",
}
NO_CLAIM = {
    "transactional": "its claim and its end are one commit",
}


def all_cells() -> Iterator[Cell]:
    """Every cell, also those that make no sense."""
    for shape in SHAPES:
        for worker in WORKERS:
            for victim in VICTIMS:
                for moment in MOMENTS:
                    yield from _kills(shape, worker, victim, moment)
            for fault in OTHERS:
                for step in _steps(shape, worker, fault):
                    yield from _others(shape, worker, fault, step)


def _struck(shape: str, worker: str) -> tuple[str, ...]:
    if shape == "lone":
        return ("charge",)
    return ("charge", "ship") if worker == "fork" else ("ship",)


def _kills(shape: str, worker: str, victim: str, moment: str) -> Iterator[Cell]:
    nonsense = NO_SUCCESSOR.get(shape) if moment == "after-commit" else None
    if worker == "simple" and victim != "kill-both":
        nonsense = NO_HORSE
    if moment == "taken" and victim != "kill-both":
        return  # there is no horse yet
    if moment == "bank-working" and victim == "orphan":
        return  # nobody that the bank works for dies
    for step in _steps_of_moment(shape, worker, moment):
        for safety in SAFETIES if moment in UNKNOWN else SAFETIES[:1]:
            held = safety == "undeclared" and moment in UNKNOWN and victim != "orphan"
            promise = Promise.HELD if held else Promise.DONE
            yield Cell(shape, safety, f"{victim}@{moment}:{step}", promise, nonsense, worker)


def _steps_of_moment(shape: str, worker: str, moment: str) -> tuple[str, ...]:
    """A function's job is taken, begun and ended once; its steps have their own begins and ends."""
    steps = _struck(shape, worker)
    if moment == "taken":
        return steps[:1]
    if shape != "function" or moment in UNKNOWN:
        return steps
    return (*steps, "fulfil") if moment == "after-end" else ("fulfil",)


def _steps(shape: str, worker: str, fault: str) -> tuple[str, ...]:
    if worker != "fork" and fault in OF_THE_WEB:
        return ()
    if fault.endswith("@join") and shape != "chain":
        return ()
    if fault in STRIKE_JOB:
        return ("fulfil",) if shape == "function" else _struck(shape, worker)[-1:]
    if fault in STRIKE_STEP:
        # Before its first claim a function reads: what comes before the second one is a claim alone.
        return _struck(shape, worker)[-1:]
    return ("",)


def _others(shape: str, worker: str, fault: str, step: str) -> Iterator[Cell]:
    for safety in SAFETIES if fault in VARIED else SAFETIES[:1]:
        promise, nonsense = Promise.DONE, None
        undeclared = safety == "undeclared"
        match fault:
            case "unretried-horse@after-effect" | "unretried-horse@after-end" | "requeued" if worker == "simple":
                nonsense = NO_HORSE
            case "stop" if worker == "simple":
                nonsense = "RQ does not stop a job that its SimpleWorker runs"
            case "unretried-horse@after-effect" | "requeued" | "always" | "cold" | "stop" | "timeout@retry" | "error@retry":
                promise = Promise.HELD if undeclared else promise
            case "timeout@plain" | "error@plain" if undeclared:
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
            case "again" if shape == "function":
                nonsense = "a workflow function may not return a `Retry`: it runs from the top on every wake anyway"
            case "plain-first" if shape != "chain":
                nonsense = "it has only one job: see the line above"
        yield Cell(shape, safety, f"{fault}:{step}" if step else fault, promise, nonsense, worker)


def title(cell: Cell) -> str:
    """How the document calls a cell's fault."""
    if cell.deed in VICTIMS:
        return f"{VICTIMS[cell.deed]} {MOMENTS[cell.moment]}"
    return OTHERS[cell.fault.partition(":")[0]]
