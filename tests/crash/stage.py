"""One stage of the matrix: a bank, a broker, a journal behind a proxy, a web process, and two workers.

A stage is used by one cell at a time. Several stages stand side by side and share nothing but the database server. What
the workers of one engine are, and what there is to see of its messages, is in `celery_stage` and `rq_stage`.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import redis
import sqlalchemy as sa
from legacy_sidekiq_style.bank import FakeBank
from legacy_sidekiq_style.control import BankControl, Rule

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.model import StepRow, StepStatus, WorkflowRow
from tests.crash.cells import Cell
from tests.crash.sql_proxy import SqlProxy
from tests.crash.words import KINDS
from tests.servers import RedisServer, RunningProcess, eventually

ROOT = Path(__file__).resolve().parents[2]
#: Where the effects of transactional steps are: a table of the shop in the journal's own database.
EFFECTS_DDL = "CREATE TABLE crash_effect (seq serial PRIMARY KEY, reference text NOT NULL, kind text NOT NULL)"
#: The workers that a stage has, unless a fault says otherwise.
USUAL = ("a", "b")
#: Seconds that a process may take to start, on a machine that is busy with other cells.
START = 60.0
#: Seconds that whatever is certain to happen may take.
SOON = 30.0


def prepare_database(url: str) -> None:
    """Makes the journal's tables and the shop's."""
    journal = Journal(url)
    migrate(journal)
    with journal.db.engine.begin() as connection:
        connection.execute(sa.text(EFFECTS_DDL))
    journal.close()


class Stage(abc.ABC):
    """Servers and processes for one cell at a time; each engine has its own kind.

    Args:
        directory: for logs and the bank's ledger.
        database: URL of a database that `prepare_database` made.
        show_sql: the workers and the web process use no prepared statements, so that `SqlProxy` can read along.
    """

    #: The module of the shop, whose `start` publishes a workflow.
    shop: ClassVar[str]
    #: What a worker says when it takes messages.
    ready: ClassVar[str]
    #: How the shop treats errors where a fault says nothing of it.
    flavour: ClassVar[str]

    def __init__(self, directory: Path, database: str, *, show_sql: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.show_sql = show_sql
        self._ends = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._workers: dict[str, RunningProcess] = {}
        enter = self._ends.enter_context
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._ends)
            self.redis = enter(RedisServer())
            bank = enter(FakeBank(directory / "bank.sqlite3"))
            self.bank = BankControl(bank.url)
            self.worker_proxy = enter(SqlProxy.before(database))
            self.web_proxy = enter(SqlProxy.before(database))
            self.journal = Journal(database)
            self._ends.callback(self.journal.close)
            broker, results, control = (self.redis.url.removesuffix("/0") + f"/{number}" for number in range(3))
            self.broker = enter(redis.Redis.from_url(broker))
            self.results = enter(redis.Redis.from_url(results))
            self._control = enter(redis.Redis.from_url(control, socket_timeout=2 * START))
            self._directly = database
            self._environment = {
                "CRASH_BROKER": broker,
                "CRASH_RESULTS": results,
                "CRASH_CONTROL": control,
                "CRASH_SHOW_SQL": "1" if show_sql else None,
                "CRASH_JOURNAL": self.worker_proxy.url(database),
                "FAKE_BANK_URL": bank.url,
                "FAKE_BANK_TIMEOUT": "300",
                "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("src", "", "examples")),
            }
            web = ["-m", "tests.crash.web", self.shop]
            self._web = enter(self._process("web", web, CRASH_JOURNAL=self.web_proxy.url(database)))
            self._ends.callback(self.stop_workers)
            self.start_workers()
            self._web.wait_for_line("the shop is open", START)
            self.await_workers()
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ends.close()

    # Processes

    def _process(self, name: str, arguments: list[str], **environment: str | None) -> RunningProcess:
        return RunningProcess(
            [sys.executable, *arguments],
            log=self.directory / f"{name}.log",
            env={**self._environment, **environment},
            cwd=ROOT,
            name=name,
        )

    @abc.abstractmethod
    def _worker(self, name: str, *, plain: bool, options: dict[str, str]) -> RunningProcess:
        """Starts one worker."""

    def start_workers(self, *names: str, plain: bool = False, **options: str) -> None:
        """Starts the workers that are not running, without waiting until they are ready; by default the two usual ones.

        Args:
            *names: which.
            plain: without the plugin.
            **options: what is otherwise than usual, in the engine's own words.
        """
        for name in names or USUAL:
            if name not in self._workers:
                self._workers[name] = self._worker(name, plain=plain, options=options)

    def suit(self, cell: Cell) -> None:
        """Makes the stage ready for a cell: its workers run, and are of its class."""
        self.start_workers()
        self.await_workers()

    def await_workers(self) -> None:
        """Waits until every worker that was started takes messages."""
        for worker in self._workers.values():
            worker.wait_for_line(self.ready, START)

    def stop_workers(self, *names: str) -> None:
        """Ends workers in an orderly way: warm, then hard."""
        for name in names or list(self._workers):
            worker = self._workers.pop(name)
            worker.stop()

    def ask_to_stop(self, name: str) -> None:
        """Asks for a warm shutdown: what runs is finished, nothing new is taken."""
        self._workers[name].kill(signal.SIGTERM)

    def has_stopped(self, name: str) -> None:
        """Waits until a worker that was asked to stop has."""
        self._workers.pop(name).wait(SOON)

    def renew(self) -> None:
        """A fresh start after a cell that went wrong: new workers, an empty broker, a bank that behaves."""
        self.bank.behave()
        self.worker_proxy.restore()
        self.web_proxy.restore()
        for worker in self._workers.values():
            worker.kill_all(signal.SIGKILL)
        self.stop_workers()
        self.lose_messages()
        with self.journal.db.engine.connect() as connection:  # what was left undone is not this stage's any more
            connection.execute(sa.text("UPDATE durable_workflow SET next_check_at = NULL"))
            connection.execute(sa.text("UPDATE durable_step SET next_check_at = NULL"))
        self.start_workers()

    def worker_of(self, pid: int) -> tuple[str, RunningProcess]:
        """The worker that a process is, or belongs to."""
        for name, worker in self._workers.items():
            if pid == worker.pid or pid in worker.children():
                return name, worker
        raise AssertionError(f"process {pid} belongs to none of {list(self._workers)}")

    def kill_child(self, pid: int) -> None:
        """`kill -9` of one process that runs messages for a worker."""
        name, worker = self.worker_of(pid)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid not in worker.children(), SOON, f"the end of child {pid} of worker {name}")

    @abc.abstractmethod
    def kill_worker(self, pid: int) -> None:
        """`kill -9` of a whole worker at once: its parent and its children. Another one is started in its place."""

    def replace_worker(self, name: str) -> None:
        """Waits for the end of a worker that was killed, and starts another in its place if it was one of the usual two."""
        self._workers.pop(name).wait(SOON)
        if name in USUAL:
            self.start_workers(name)

    def freeze_worker(self, pid: int) -> RunningProcess:
        """SIGSTOP to a whole worker at once."""
        _, worker = self.worker_of(pid)
        worker.kill_all(signal.SIGSTOP)
        return worker

    @staticmethod
    def thaw(worker: RunningProcess) -> None:
        """SIGCONT to a whole worker."""
        worker.kill_all(signal.SIGCONT)

    def beating(self, pid: int) -> int:
        """The process whose row in the journal beats for what a process runs."""
        return pid

    # The web process

    def start(self, shape: str, safety: str, flavour: str, order: str, target: str = "charge", **options: Any) -> dict[str, Any]:
        """Has the web process start a workflow; its answer is the ids of the tasks, or the error that it got."""
        command = {"shape": shape, "safety": safety, "flavour": flavour, "order": order, "target": target, "options": options}
        return self._ask(command)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        self._control.lpush("web:commands", json.dumps({"number": number, **command}))
        answer = self._control.brpop([f"web:answers:{number}"], timeout=START)
        if answer is None:
            raise AssertionError(f"the web process did not answer:\n{self._web.tail()}")
        found: dict[str, Any] = json.loads(answer[1])
        return found

    @contextlib.contextmanager
    def occupied(self, order: str) -> Iterator[list[Rule]]:
        """Keeps both workers busy with something unmarked: what is published meanwhile stays in the queue."""
        references = [f"{order}-busy-{number}" for number in range(2)]
        rules = [self.bank.gate("find checks", reference=f"{r}/occupy/running", times=1) for r in references]
        for rule, reference in zip(rules, references, strict=True):
            self._ask({"shape": "occupy", "safety": "", "flavour": "", "order": reference, "target": "", "options": {}})
            rule.arrived(timeout=SOON)
        try:
            yield rules
        finally:
            for rule in rules:
                rule.release()

    def command(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """What a person types: `durable-adapter --json ...`. Returns the exit code and what it printed."""
        ended = subprocess.run(
            [sys.executable, "-m", "durable_adapter.cli", "--journal", self._directly, "--json", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(self._environment["PYTHONPATH"])},
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
        try:
            return ended.returncode, json.loads(ended.stdout)
        except ValueError:
            raise AssertionError(f"{' '.join(arguments)} ended with {ended.returncode}: {ended.stderr}") from None

    # What there is to see

    def counts(self, order: str) -> tuple[int, ...]:
        """How often each effect happened, by the bank's ledger and by the shop's own table."""
        ledger = self.bank.counts(order)
        with self.journal.db.engine.connect() as connection:
            query = sa.text("SELECT kind FROM crash_effect WHERE reference = :order")
            own = [row.kind for row in connection.execute(query, {"order": order})]
        return tuple(ledger[kind] + own.count(kind) for kind in KINDS.values())

    def run_of(self, task_id: str) -> WorkflowRow | None:
        """The run that a task belongs to."""
        with self.journal.db.engine.connect() as connection:
            query = sa.text("SELECT ref FROM durable_step WHERE task_id = :id")
            ref = connection.execute(query, {"id": task_id}).scalar()
        return None if ref is None else self.journal.reads.run(ref)

    def unsettled(self, ref: str) -> list[StepRow]:
        """What of a run began and is not decided, as reconciliation sees it."""
        return [row for row in self.journal.reads.unsettled() if row.ref == ref]

    def held(self, ref: str) -> list[StepRow]:
        """The steps of a run that wait for a person."""
        return [row for row in self.unsettled(ref) if row.status is StepStatus.HELD]

    @abc.abstractmethod
    def told(self, cell: Cell, moment: str) -> tuple[str, str]:
        """The step and the word under which the shop tells the bank of a moment of a cell's struck step."""

    @abc.abstractmethod
    def result_state(self, task_id: str) -> str | None:
        """What the engine's result store says about a task."""

    @abc.abstractmethod
    def has_succeeded(self, task_id: str) -> bool:
        """Whether the engine's result store calls a task a success."""

    @abc.abstractmethod
    def queued(self) -> int:
        """How many messages wait for a worker."""

    @abc.abstractmethod
    def messages(self) -> int:
        """How many messages the broker still holds, taken by a worker or not."""

    @abc.abstractmethod
    def repeat_message(self, task_id: str) -> None:
        """Puts a second copy of a message that a worker has taken into the queue."""

    def lose_messages(self) -> None:
        """Empties the broker: what is queued and what was taken."""
        self.broker.flushdb()

    def events(self, ref: str) -> list[str]:
        """What the journal's log says of a run."""
        query = sa.text("SELECT at, kind, key, token, who, why FROM durable_event WHERE ref = :ref ORDER BY id")
        with self.journal.db.engine.connect() as connection:
            return [str(tuple(row)) for row in connection.execute(query, {"ref": ref})]

    def sessions(self) -> str:
        """What the database's sessions are doing, and whom they wait for."""
        query = sa.text(
            "SELECT pid, state, wait_event_type, pg_blocking_pids(pid), left(query, 80) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with self.journal.db.engine.connect() as connection:
            return "; ".join(str(tuple(row)) for row in connection.execute(query))

    def logs(self, lines: int = 150) -> list[str]:
        """The ends of the logs of all processes."""
        found = []
        for path in sorted(self.directory.glob("*.log")):
            found += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]]
        return found
