"""What is done to a workflow while it runs. Every fault comes from outside: signals, the bank, the broker, the network.

Here are the faults that every engine knows; its own are in `celery_faults` and `rq_faults`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import sqlalchemy as sa
from legacy_sidekiq_style.control import Rule

from durable_adapter.model import OPEN_WORKFLOWS
from tests.crash.cells import Cell
from tests.crash.stage import SOON, Stage
from tests.crash.words import KINDS, SETTLE, STEPS
from tests.servers import eventually

#: Seconds of a time limit.
LIMIT = 2
#: Statements by which the proxy knows the write whose commit is to be lost: of a canvas member, of a step in place.
WRITES = {
    "start": (b"INSERT INTO durable_workflow",),
    "join": (b"INSERT INTO durable_step",),
    "claim": (b"over_at=NULL", b"INSERT INTO durable_step"),
    "end": (b"outcome=$", b"INSERT INTO durable_step"),
}


@dataclass
class Play:
    """One cell under way on its stage."""

    stage: Stage
    cell: Cell
    order: str
    away: float
    ids: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """The task in which the struck step runs."""
        return "fulfil" if self.cell.shape == "function" else self.cell.step

    @property
    def kind(self) -> str:
        """The struck effect, in the bank's words."""
        return KINDS[self.cell.step]

    @property
    def task_id(self) -> str:
        """The id of the task in which the struck step runs."""
        return self.ids[STEPS.index(self.cell.step)] if self.cell.shape == "chain" else self.ids[0]

    def start(self, flavour: str | None = None, **options: Any) -> None:
        """Has the web process start the workflow."""
        self.is_started(self.ask_to_start(flavour, **options))

    def ask_to_start(self, flavour: str | None = None, **options: Any) -> dict[str, Any]:
        """Has the web process start the workflow, or fail to; returns its answer."""
        cell = self.cell
        return self.stage.start(cell.shape, cell.safety, flavour or self.stage.flavour, self.order, cell.step, **options)

    def is_started(self, answer: dict[str, Any]) -> None:
        """Takes the web process's answer."""
        if "error" in answer:
            raise AssertionError(f"the start failed: {answer['error']}: {answer['text']}")
        self.ids = answer["ids"]

    def passing(self, step: str, moment: str, *, times: int | None = 1) -> Rule:
        """A gate at a moment that the shop tells the bank of."""
        return self.stage.bank.gate("find checks", reference=f"{self.order}/{step}/{moment}", times=times)

    def gate(self, moment: str, *, times: int | None = 1) -> Rule:
        """A gate at a moment of the struck step."""
        cell = self.cell
        match moment:
            case "after-effect" if cell.safety != "transactional":
                return self.stage.bank.gate(self.kind, "after", self.order, times=times)
            case "bank-working":
                return self.stage.bank.gate(self.kind, "before", self.order, times=times)
            case _:
                return self.passing(*self.stage.told(cell, moment), times=times)

    def deliveries(self) -> int:
        """How often a worker began to run the struck task."""
        return len(self.visits("find checks", f"{self.order}/{self.task}/before-body"))

    def visits(self, operation: str, reference: str) -> list[dict[str, Any]]:
        """The requests of one sort that the bank has had."""
        return [v for v in self.stage.bank.requests(reference) if v["operation"] == operation]


def kill_child(play: Play) -> None:
    """Kills the process that runs the struck step."""
    kill(play, play.stage.kill_child)


def kill_worker(play: Play) -> None:
    """Kills everything of the worker that runs the struck step."""
    kill(play, play.stage.kill_worker)


def kill(play: Play, kill: Callable[[int], None]) -> None:
    """Kills at the cell's moment."""
    if play.cell.moment == "bank-working":
        _kill_while_working(play, kill)
        return
    with open_at_last(play.gate(play.cell.moment)) as gate:
        play.start()
        kill(gate.arrived(timeout=SOON)["pid"])


def _kill_while_working(play: Play, kill: Callable[[int], None]) -> None:
    """The effect is made after the death of the process that asked for it."""
    if play.cell.safety == "transactional":
        _kill_in_a_statement(play, kill)
        return
    with open_at_last(play.gate("bank-working")) as gate:
        play.start()
        kill(gate.arrived(timeout=SOON)["pid"])
        if play.cell.safety == "probe":
            # The probe is asked, and says truthfully that nothing happened, before it does. This bank is done within the
            # time that was declared for it, also where the worker takes longer than that to ask.
            with contextlib.suppress(AssertionError):
                eventually(lambda: play.visits(f"find {play.kind}", play.order), SETTLE / 2, "the probe's first question")


def _kill_in_a_statement(play: Play, kill: Callable[[int], None]) -> None:
    """The database is the bank here: it works on the insertion, held up by another transaction's lock."""
    blocked = sa.text(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'crash_effect'::regclass "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with open_at_last(play.passing(play.cell.step, "before-effect")) as gate:
        play.start()
        pid = gate.arrived(timeout=SOON)["pid"]
        with play.stage.journal.db.engine.connect() as locker, play.stage.journal.db.engine.connect() as watcher:
            locker.exec_driver_sql("BEGIN")
            locker.exec_driver_sql("LOCK TABLE crash_effect IN SHARE MODE")
            gate.release()
            try:
                eventually(lambda: watcher.execute(blocked).first(), SOON, "the insertion that waits")
                kill(pid)
            finally:
                locker.exec_driver_sql("ROLLBACK")


def twice(play: Play) -> None:
    """One message is delivered to both workers at once."""
    with open_at_last(play.gate("before-body", times=None)) as gate:
        play.start()
        gate.arrived(timeout=SOON)
        play.stage.repeat_message(play.ids[0])
        gate.arrived(2, timeout=SOON)


def lose_the_message(stage: Stage) -> None:
    """Loses a message between its publication and its delivery."""
    eventually(lambda: stage.queued() == 1, SOON, "a message that nobody takes")
    stage.lose_messages()


def error(play: Play) -> None:
    """The effect happens, and the step raises: once."""
    if play.cell.safety == "transactional":
        reference = f"{play.order}/{play.cell.step}/after-effect"
        play.stage.bank.rule("find checks", "fail", "after", reference=reference, times=1)
    else:
        play.stage.bank.rule(play.kind, "fail", "after", reference=play.order, times=1)
    play.start(play.cell.moment)


def away(play: Play) -> None:
    """The database is gone at the moment of one write, for as long as the whole matrix says."""
    if play.cell.moment == "start":
        _away_at_start(play)
        return
    with open_at_last(_before_write(play)) as gate:
        play.start()
        gate.arrived(timeout=SOON)
        play.stage.worker_proxy.cut()
        try:
            gate.release()
            stay_away(play)
        finally:
            play.stage.worker_proxy.restore()


def stay_away(play: Play) -> None:
    """Waits for as long as the database is to be away."""
    time.sleep(play.away)  # how long it is away is the fault itself


def _away_at_start(play: Play) -> None:
    """The caller is told, and nothing is sent; when the database is back, the caller tries again."""
    play.stage.web_proxy.cut()
    try:
        answer = play.ask_to_start()
        if answer.get("error") != "JournalUnreachable":
            raise AssertionError(f"the journal is away, and the start answered {answer}")
        if play.stage.messages() or any(play.stage.counts(play.order)):
            raise AssertionError("something was sent although the start was refused")
        stay_away(play)
    finally:
        play.stage.web_proxy.restore()
    play.start()


def _before_write(play: Play) -> Rule:
    """A gate directly before a write. Before its first claim a function reads: there it is the second one's."""
    if play.cell.moment == "end":
        return play.gate("after-effect")
    return play.passing("charge", "after-end") if play.cell.shape == "function" else play.gate("before-body")


def lost(play: Play) -> None:
    """The write is committed, and its answer never arrives."""
    moment = play.cell.moment
    if moment == "start":
        lost = play.stage.web_proxy.lose_commit_of(*WRITES[moment])
        play.start()
        lost.wait(SOON)
        return
    with open_at_last(_before_write(play)) as gate:
        play.start()
        gate.arrived(timeout=SOON)
        lost = play.stage.worker_proxy.lose_commit_of(*WRITES[moment])
        gate.release()
        lost.wait(SOON)


def frozen(play: Play) -> None:
    """A worker stands still until it is declared dead, and what follows from that has happened; then it goes on."""
    with open_at_last(play.gate(play.cell.moment)) as gate:
        play.start()
        pid = gate.arrived(timeout=SOON)["pid"]
        worker = play.stage.freeze_worker(pid)
        try:
            gate.release()
            sessions = play.stage.sessions
            row = play.stage.beating(pid)
            eventually(lambda: _is_dead(play, row), SOON, lambda: f"the death of the frozen worker; {sessions()}")
            eventually(lambda: _is_dealt_with(play), SOON, lambda: f"what follows from that death; {sessions()}")
        finally:
            play.stage.thaw(worker)


def plain_all(play: Play) -> None:
    """Both workers with the plugin are busy: one without it does everything."""
    with play.stage.occupied(play.order):
        play.stage.start_workers("plain", plain=True)
        play.stage.await_workers()
        play.start()
        eventually(lambda: play.stage.has_succeeded(play.ids[-1]), SOON, "the end of the plain worker's work")
        play.stage.ask_to_stop("plain")
        play.stage.has_stopped("plain")


def plain_first(play: Play) -> None:
    """The worker without the plugin is being replaced: it finishes what it has, and the others take the rest at once."""
    with play.stage.occupied(play.order) as busy, open_at_last(play.passing("charge", "before-effect")) as gate:
        play.stage.start_workers("plain", plain=True)
        play.stage.await_workers()
        play.start()
        gate.arrived(timeout=SOON)
        play.stage.ask_to_stop("plain")
        for other in busy:
            other.release()
        gate.release()
        play.stage.has_stopped("plain")


@contextlib.contextmanager
def open_at_last(gate: Rule) -> Iterator[Rule]:
    """A gate that is open when all is done, come what may."""
    try:
        yield gate
    finally:
        gate.release()


def is_alive(pid: int) -> bool:
    """Whether there is such a process; not one that has ended and that its parent has not asked for yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def is_connected(play: Play, pid: int) -> bool:
    """Whether a process still waits for the bank's answer at a gate."""
    port = int(play.stage.bank.url.rpartition(":")[2])
    with contextlib.suppress(psutil.NoSuchProcess):
        connections = psutil.Process(pid).net_connections("tcp")
        return any(c.raddr and c.raddr.port == port for c in connections)
    return False


def _is_dead(play: Play, pid: int) -> bool:
    query = sa.text("SELECT 1 FROM durable_worker WHERE pid = :pid AND dead_at IS NOT NULL")
    with play.stage.journal.db.engine.connect() as connection:
        return connection.execute(query, {"pid": pid}).first() is not None


def _is_dealt_with(play: Play) -> bool:
    """What others make of a step whose worker is silent: held, taken over, or waited for because its row is locked."""
    run = play.stage.run_of(play.ids[0])
    if run is None:
        return False
    if play.cell.safety == "undeclared":
        return bool(play.stage.held(run.ref))
    if play.cell.safety == "transactional":
        return play.deliveries() > 1
    return play.stage.counts(play.order) == play.cell.expected and run.status not in OPEN_WORKFLOWS
