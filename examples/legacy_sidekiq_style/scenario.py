"""Tells the stories with real processes: a bank, workers, a customer, and `kill -9` at the telling moment.

The same on Celery and on RQ: how those differ is in `engines.py`. `run_story` needs nothing but a directory: Celery's
broker is a SQLite file, RQ's a Redis in Python in a process of its own, and everything else SQLite, all of it in
`workdir`. It knows the moment because the bank holds its answer back at a gate until the worker is dead. What happened
is read from the bank's ledger; that it came to its end, from the shop's own table.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .control import BankControl
from .engines import CELERY, PACKAGE, RQ, Engine
from .processes import DidNotStart, Processes, kill_child, kill_with_children, port_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .control import Rule

Side = Literal["before", "after"]
Progress = Callable[[str], None]

#: Names of the columns of a telling's result, and the kinds of the bank's ledger that they count.
COLUMNS = {"charges": "charges", "debits": "debits", "shipped": "shipments", "mailed": "mails"}
#: A story is over when nothing has reached the bank for so many seconds: the redelivery after a killed child and the
#: retry after a time-out have begun by then.
QUIET = 4.0
#: Seconds that the shop waits for the bank's answer, in stories where an answer comes too late and in the others.
SHORT_TIMEOUT, LONG_TIMEOUT = 2.0, 30.0
#: Seconds after which a telling is read as it stands.
LONGEST = 90.0

#: Exit codes of `explain` that are not a failure to look: nothing is wrong, something is.
EXPLAINED = (0, 1)

_IMPORT_ROOT = Path(__file__).resolve().parents[1]

#: What `durable-adapter migrate` does, without the command line.
_MIGRATE = (
    "from durable_adapter.journal import Journal\n"
    "from durable_adapter.journal.migrations import migrate\n"
    "from durable_adapter.settings import load\n"
    "migrate(Journal(load().url()))"
)


@dataclass(frozen=True)
class Subject:
    """What a story is about.

    `made` is the Python that makes it, `reference` how the bank knows it, `status` the shop's own row about it (a
    query) and `done` what that says in the end; `ledger` is what the bank's books hold when all went right. `workflow` is
    the id under which durable-adapter knows it.
    """

    made: str
    reference: str
    workflow: str
    status: str
    done: str
    ledger: dict[str, int]


_ORDER = Subject(
    made="shop.Order(42, email='ada@example.com', card='4242', total=7400, items={'teapot': 1, 'cup': 6})",
    reference="order-42",
    workflow="order-42",
    status="SELECT status FROM orders WHERE id = 42",
    done="fulfilled",
    ledger={"charges": 1, "stock_moves": 2, "mails": 1, "shipments": 1},
)
_EXCHANGE = Subject(
    made="shop.Transaction('fx-7', source='ada-usd', target='ada-eur', pair='USD/EUR', amount=10000)",
    reference="fx-7",
    workflow="exchange-fx-7",
    status="SELECT status FROM transactions WHERE id = 'fx-7'",
    done="completed",
    ledger={"checks": 1, "debits": 1, "quotes": 1, "credits": 1, "bookings": 1},
)
#: Where a whole worker dies, nobody saw it die: how many seconds of silence are a death, and how soon a sweeper looks.
#: These are for a demonstration; the defaults are 60, 10 and 5.
_HASTE = {"DURABLE_ADAPTER_STALE": "3", "DURABLE_ADAPTER_BEAT": "0.5", "DURABLE_ADAPTER_SWEEP_EVERY": "0.5"}


@dataclass(frozen=True)
class Story:
    """What is started, and what goes wrong.

    `killed_in` names the bank's operation that has done its work, and has not answered yet, when `victim` is killed;
    `times_out` one whose first answer comes too late for the client. `forgets` loses what carries the jobs together with
    the victim, and `requeued` has somebody requeue what failed. `repeated` are the operations that the engine alone is
    going to repeat: before, the story is not over until it has.
    """

    name: str
    title: str
    handler: str
    subject: Subject
    killed_in: str
    repeated: tuple[str, ...] = ()
    victim: Literal["child", "worker"] = "child"
    times_out: str | None = None
    forgets: bool = False
    requeued: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    engine: Engine = CELERY


_BOTH = (
    Story(
        "exchange",
        "a currency exchange; the credit call times out, and the process that books is killed after booking",
        "exchange.request_exchange",
        _EXCHANGE,
        killed_in="bookings",
        repeated=("credits", "bookings"),
        times_out="credits",
    ),
    Story(
        "order",
        "an order is fulfilled by one job; its process is killed after the charge",
        "orders.place_order",
        _ORDER,
        killed_in="charges",
        repeated=("charges",),
    ),
    Story(
        "order-chain",
        "an order is fulfilled by a chain of jobs; the process is killed after the charge",
        "orders.place_order_as_chain",
        _ORDER,
        killed_in="charges",
        repeated=("charges",),
    ),
    Story(
        "order-worker-lost",
        "one job; the whole worker is killed after the charge, and the broker has forgotten the message",
        "orders.place_order",
        _ORDER,
        killed_in="charges",
        victim="worker",
        forgets=True,
        settings=_HASTE,
    ),
)
_CELERY = (
    Story(
        "order-early-ack",
        "one job, acknowledged early as is Celery's default; its process is killed after the charge",
        "orders.place_order",
        _ORDER,
        killed_in="charges",
        settings={"SHOP_ACKS_LATE": "0"},
    ),
)
_RQ = (
    Story(
        "order-no-retry",
        "one job that is not retried, as is RQ's default; its process is killed after the charge",
        "orders.place_order",
        _ORDER,
        killed_in="charges",
        settings={"SHOP_RETRIES": "0"},
    ),
    Story(
        "order-requeued",
        "the same, and somebody on call requeues the job that failed",
        "orders.place_order",
        _ORDER,
        killed_in="charges",
        repeated=("charges",),
        requeued=True,
        settings={"SHOP_RETRIES": "0"},
    ),
)

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (CELERY, RQ)}
#: By the engine's name and the story's.
STORIES: dict[str, dict[str, Story]] = {
    engine.name: {story.name: replace(story, engine=engine) for story in _BOTH + own}
    for engine, own in ((CELERY, _CELERY), (RQ, _RQ))
}


@dataclass(frozen=True)
class Telling:
    """How a story went: the bank's ledger about it, whether the shop says that it came to its end, and the seconds from
    the customer's click to the last effect."""

    story: Story
    side: Side
    ledger: dict[str, Any]
    finished: bool
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of thing happened; only what did."""
        return {kind: count for kind, count in self.ledger["counts"].items() if count}

    @property
    def is_right(self) -> bool:
        """Whether everything happened that should have, nothing twice, and the shop knows that it is done."""
        return self.finished and self.counts == self.story.subject.ledger

    def columns(self) -> dict[str, int]:
        """What the demo counts."""
        return {column: self.ledger["counts"][kind] for column, kind in COLUMNS.items()}


def run_story(name: str, side: Side, workdir: Path, on_progress: Progress = print, engine: str = CELERY.name) -> dict[str, int]:
    """Tells one story on one side, and returns how often what happened.

    Args:
        name: one of the engine's `STORIES`.
        side: `before` or `after`.
        workdir: an empty directory for the broker, the databases and the logs.
        on_progress: is handed one line of text per event.
        engine: `celery` or `rq`.

    Returns:
        `{"charges": n, "debits": n, "shipped": n, "mailed": n}` from the bank's ledger.
    """
    story = STORIES[engine][name]
    return tell(story, side, stage(story, workdir), on_progress).columns()


def stage(story: Story, workdir: Path) -> Processes:
    """The processes that will tell *story* in *workdir*; none is started yet."""
    workdir = workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    return Processes(workdir, _environment(story, workdir))


def tell(story: Story, side: Side, on: Processes, on_progress: Progress = print) -> Telling:
    """Tells *story* with the processes of a `stage`, ends them, and returns what the bank's ledger says.

    Raises:
        DidNotStart: a process was of no use, or the stage was closed meanwhile; the message holds the end of its log.
    """
    with on as processes:
        bank = _open_bank(processes)
        processes.env["FAKE_BANK_URL"] = bank.url
        story.engine.open(processes)
        if side == "after":
            processes.run(["-c", _MIGRATE], "migrate.log")
        if story.times_out:
            bank.rule(story.times_out, "slow", "after", seconds=SHORT_TIMEOUT + 1, times=1)
        gate = bank.gate(story.killed_in, "after", reference=story.subject.reference, times=1)

        news = News(bank, on_progress)
        workers = Workers(processes, story.engine.workers(side))
        on_progress(f"the customer presses the button ({story.handler})")
        pressed = time.time()
        processes.run(["-c", _customer(story, side)], "web.log")
        pid = _arrival(gate, news)
        if pid is None:
            raise DidNotStart(f"no worker asked for {story.killed_in}:\n{processes.tail('worker.log')}")
        _kill(story, workers, pid, on_progress)
        if story.forgets:
            story.engine.forget(processes)
        gate.release()
        if story.requeued:
            on_progress("somebody on call requeues what failed")
            story.engine.requeue(processes)

        finished = _watch(story, side, processes.workdir, news, workers, on_progress)
        ledger = bank.ledger()
        ended = max((row["at"] for row in ledger["rows"]), default=pressed)
        return Telling(story, side, ledger, finished, round(ended - pressed, 1))


def explain(story: Story, on: Processes) -> str:
    """Returns what `durable-adapter explain` prints about the subject of a story that was told after, from its journal.

    Raises:
        DidNotStart: the command failed; the message holds what it said.
    """
    command = [sys.executable, "-m", "durable_adapter.cli", "explain", "--", story.subject.workflow]
    done = subprocess.run(command, check=False, cwd=on.workdir, env=on.env, capture_output=True, text=True, timeout=60)
    if done.returncode not in EXPLAINED:
        raise DidNotStart(f"durable-adapter explain failed:\n{done.stderr}")
    return done.stdout.strip("\n")


class Workers:
    """Workers that are started again whenever they are gone, as a supervisor does."""

    def __init__(self, processes: Processes, commands: Sequence[Sequence[str]]) -> None:
        self._processes, self._commands = processes, commands
        self._current = [self._start(command) for command in commands]

    def supervise(self) -> bool:
        """Starts a new worker for each one that is gone; returns whether there was one."""
        gone = [place for place, worker in enumerate(self._current) if worker.poll() is not None]
        for place in gone:
            self._current[place] = self._start(self._commands[place])
        return bool(gone)

    def of(self, pid: int) -> subprocess.Popen[bytes]:
        """The worker to which process *pid* belongs.

        Raises:
            ValueError: there is none.
        """
        for worker in self._current:
            if worker.pid == os.getsid(pid):
                return worker
        raise ValueError(f"process {pid} belongs to no worker that was started here")

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return self._processes.start(command, "worker.log")


class News:
    """What the bank was asked and what its ledger has gained since it was last looked at."""

    def __init__(self, bank: BankControl, on_progress: Progress) -> None:
        self._bank, self._on_progress = bank, on_progress
        self._asked, self._done = 0, 0
        self._keys: set[tuple[str, str]] = set()

    def report(self) -> list[str]:
        """Reports what is new, and returns the operations that the bank was asked for so far, done or not."""
        requests, rows = self._bank.requests(), self._bank.ledger()["rows"]
        news = [(row["at"], self._row(row)) for row in rows[self._done :]]
        news += [(request["at"], self._request(request)) for request in requests[self._asked :]]
        for _, line in sorted(news):
            if line:
                self._on_progress(line)
        self._asked, self._done = len(requests), len(rows)
        return [request["operation"] for request in requests]

    @staticmethod
    def _row(row: dict[str, Any]) -> str:
        details = ", ".join(f"{name}={value}" for name, value in row["details"].items())
        return f"ledger: {row['kind']} {row['reference']} {details}"

    def _request(self, request: dict[str, Any]) -> str:
        """A question, or a request that came before under the same key; nothing for one that the ledger will show."""
        operation, key = request["operation"], request["key"]
        known = (operation, key) in self._keys
        self._keys.add((operation, key))
        if operation.startswith("find "):
            return f"the bank is asked whether it happened: {operation.removeprefix('find ')}"
        return f"the bank is asked for {operation} again, under the same idempotency key" if key and known else ""


def _environment(story: Story, workdir: Path) -> dict[str, str]:
    """What the processes of a telling are told; nothing of ours leaks in from outside."""
    ours = ("SHOP_", "FAKE_BANK_", "DURABLE_", "CELERY_", "RQ_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    python_path = [str(_IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    journal = f"sqlite:///{workdir / 'journal.sqlite3'}"
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONUNBUFFERED": "1",
        "SHOP_DIR": str(workdir / "shop"),
        "SHOP_DB": str(workdir / "shop.sqlite3"),
        "SHOP_JOURNAL": journal,
        "DURABLE_ADAPTER_JOURNAL": journal,
        "FAKE_BANK_TIMEOUT": str(SHORT_TIMEOUT if story.times_out else LONG_TIMEOUT),
        **story.settings,
    }


def _open_bank(processes: Processes) -> BankControl:
    """Starts the bank, gives the customer money and fills the shelves."""
    database = processes.workdir / "bank.sqlite3"
    port = port_of(processes, ["-m", f"{PACKAGE}.bank", "--db", str(database)], "bank")
    bank = BankControl(f"http://127.0.0.1:{port}")
    bank.open_account("ada-usd", "USD", 100_000)
    bank.open_account("ada-eur", "EUR", 0)
    for item in ("teapot", "cup"):
        bank.fill_shelf(item, 100)
    return bank


def _customer(story: Story, side: Side) -> str:
    """What the web process runs: the handler, as the shop's web framework would call it."""
    module, _, function = story.handler.partition(".")
    made = story.subject.made
    return f"from {PACKAGE} import shop\nfrom {story.engine.side(side)}.{module} import {function}\n{function}({made})"


def _arrival(gate: Rule, news: News) -> int | None:
    """The process that waits at the gate; None when nobody came in time. Reports meanwhile."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(TimeoutError):
            visit = gate.arrived(timeout=0.3)
            news.report()
            return int(visit["pid"])
        news.report()
    return None


def _kill(story: Story, workers: Workers, pid: int, on_progress: Progress) -> None:
    """Kills who waits for the answer that the bank holds back: process *pid*, or its whole worker."""
    if story.victim == "child":
        on_progress(f"the bank has done its work in {story.killed_in}, not answered: kill -9 of process {pid}")
        kill_child(workers.of(pid), pid)
    else:
        on_progress(f"the bank has done its work in {story.killed_in}, not answered: kill -9 of the whole worker")
        kill_with_children(workers.of(pid))


def _watch(story: Story, side: Side, workdir: Path, news: News, workers: Workers, on_progress: Progress) -> bool:
    """Reports what the ledger gains until the story is over; returns whether the shop says that it is done.

    Before, it is over when what the engine repeats was repeated and nothing more happens; after, when the shop says that it
    is done and nothing more happens.
    """
    asked = 0
    last = started = time.monotonic()
    while time.monotonic() - started < LONGEST:
        if workers.supervise():
            on_progress("a new worker is started")
            last = time.monotonic()
        requests = news.report()
        if len(requests) != asked:
            asked, last = len(requests), time.monotonic()
        done = _status(story.subject, workdir) == story.subject.done
        over = done if side == "after" else all(requests.count(kind) > 1 for kind in story.repeated)
        if over and time.monotonic() - last >= QUIET:
            return done
        time.sleep(0.1)
    on_progress(f"still not at its end after {LONGEST:.0f} s")
    return False


def _status(subject: Subject, workdir: Path) -> str:
    """What the shop's own table says about the subject."""
    with contextlib.closing(sqlite3.connect(workdir / "shop.sqlite3", timeout=30)) as db:
        row = db.execute(subject.status).fetchone()
    return str(row[0]) if row else "unknown"
