"""Where a soak takes place: a PostgreSQL database, a Redis of its own, proxies before both, a bank, a web process, workers.

Everything here belongs to one run. Only processes that it started are ended, by their PIDs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import redis
import sqlalchemy as sa
from legacy_sidekiq_style.bank import FakeBank
from legacy_sidekiq_style.control import BankControl

from tests.crash.sql_proxy import SqlProxy
from tests.crash.stage import ROOT, START, prepare_database
from tests.crash.web import ANSWERS, COMMANDS
from tests.servers import RedisServer, RunningProcess, TcpProxy
from tests.servers.postgres import PostgresServer
from tests.soak.engines import Engine
from tests.soak.sagas import Saga

#: Seconds that a killed parent's children are left alone, to end what they are at, before a supervisor ends them.
ORPHANED = 5.0
#: Seconds that `durable-adapter` may take for a report.
REPORT = 300.0


class Site:
    """Servers and processes of one run on one engine.

    Args:
        engine: whose workers these are.
        directory: for logs and the bank's ledger.
        postgres: the server on which the journal's database is made.
    """

    def __init__(self, engine: Engine, directory: Path, postgres: PostgresServer) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.engine, self.directory = engine, directory
        self.counts: Counter[str] = Counter()
        """What was done to it, and how often."""
        self._ends = contextlib.ExitStack()
        self._lock = threading.RLock()
        self._number = 0
        self._workers: dict[str, RunningProcess] = {}
        # Workers that took messages when they were last looked at. The others are spared: one that is killed while it starts
        # shows nothing, and a machine that does nothing but start workers shows nothing either.
        self._ready: set[str] = set()
        self._orphaned: list[tuple[float, RunningProcess]] = []
        with contextlib.ExitStack() as undo:
            undo.enter_context(self._ends)
            enter = self._ends.enter_context
            name = f"durable_soak_{os.getpid()}_{engine.name}"
            postgres.create(name)
            self._ends.callback(postgres.drop, name)
            self.database = postgres.url(name)
            prepare_database(self.database)
            self.redis = enter(RedisServer())
            bank = enter(FakeBank(directory / "bank.sqlite3"))
            self.bank = BankControl(bank.url)
            self.sql_proxy = enter(SqlProxy.before(self.database))
            self.broker_proxy = enter(TcpProxy.before(self.redis.url))
            self.db = sa.create_engine(self.database, pool_size=1, isolation_level="AUTOCOMMIT")
            self._ends.callback(self.db.dispose)
            broker, results, control = (self.redis.url.removesuffix("/0") + f"/{number}" for number in range(3))
            self.broker = enter(redis.Redis.from_url(broker))
            self._control = enter(redis.Redis.from_url(control, socket_timeout=2 * START))
            self._broker_url = self.broker_proxy.url(broker)
            self._environment = {
                "CRASH_BROKER": self._broker_url,
                "CRASH_RESULTS": self.broker_proxy.url(results),
                "CRASH_CONTROL": control,
                "CRASH_SHOW_SQL": "1",  # statements are on the wire in full, where the proxy can tell them apart
                "CRASH_JOURNAL": self.sql_proxy.url(self.database),
                "FAKE_BANK_URL": bank.url,
                "FAKE_BANK_TIMEOUT": "30",
                "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("src", "", "examples")),
            }
            self._web = enter(self._process("web", ["-m", "tests.crash.web", engine.shop]))
            self._ends.callback(self._end_workers)
            for _ in range(engine.workers):
                self._start_worker()
            self._web.wait_for_line("the shop is open", START)
            for worker in self._workers.values():
                worker.wait_for_line(engine.ready, START)
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ends.close()

    # What is started

    def _process(self, name: str, arguments: list[str]) -> RunningProcess:
        log = self.directory / f"{name}.log"
        return RunningProcess([sys.executable, *arguments], log=log, env=self._environment, cwd=ROOT, name=name)

    def start(self, saga: Saga) -> str | None:
        """Has the web process publish a saga; returns the error that it got, None if it got none."""
        self._number += 1
        command = {"number": self._number, "saga": saga.name, "shape": saga.shape, "safeties": saga.safeties}
        self._control.lpush(COMMANDS, json.dumps(command))
        answer: Any = self._control.brpop([ANSWERS.format(self._number)], timeout=START)
        if answer is None:
            raise AssertionError(f"the web process did not answer for {START:g} s:\n{self._web.tail()}")
        told = json.loads(answer[1])
        return f"{told['error']}: {told['text']}" if "error" in told else None

    # Workers

    def _start_worker(self) -> None:
        with self._lock:
            self.counts["workers started"] += 1
            name = f"worker-{self.counts['workers started']}"
            self._workers[name] = self._process(name, self.engine.command(name, self._broker_url))

    def look_after_workers(self) -> None:
        """What a supervisor does: starts another worker in place of one that ended, and ends what is left of it in the end."""
        with self._lock:
            for name, worker in list(self._workers.items()):
                if worker.returncode is not None:
                    self.counts["workers that ended by themselves"] += 1
                    self._replace(name)
            due = [entry for entry in self._orphaned if time.monotonic() >= entry[0]]
            self._orphaned = [entry for entry in self._orphaned if entry not in due]
        for _, worker in due:
            worker.stop()

    def _takers(self) -> list[str]:
        """The names of the workers that take messages."""
        for name, worker in self._workers.items():
            if name not in self._ready and re.search(self.engine.ready, worker.output):
                self._ready.add(name)
        return sorted(self._ready)

    def _replace(self, name: str) -> None:
        self._ready.discard(name)
        self._orphaned.append((time.monotonic() + ORPHANED, self._workers.pop(name)))
        self._start_worker()

    def kill_child(self, rng: random.Random) -> bool:
        """`kill -9` of one process that runs messages for a worker; False if there is none now."""
        with self._lock:
            children = sorted(child for name in self._takers() for child in self._workers[name].children())
            if not children:
                return False
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(children), signal.SIGKILL)
                self.counts["children killed"] += 1
            return True

    def kill_worker(self, rng: random.Random) -> bool:
        """`kill -9` of a worker with all its children at once, the loss of a machine; False if none takes messages now."""
        return self._kill_one_of(self._takers(), rng, "workers killed", lambda worker: worker.kill_all(signal.SIGKILL))

    def kill_parent(self, rng: random.Random) -> bool:
        """`kill -9` of a worker's parent alone, whose children may end what they are at; False if none takes messages now."""
        return self._kill_one_of(self._takers(), rng, "parents killed", lambda worker: worker.kill(signal.SIGKILL))

    def _kill_one_of(self, names: Sequence[str], rng: random.Random, count: str, kill: Callable[[RunningProcess], None]) -> bool:
        if not names:
            return False
        with self._lock:
            name = rng.choice(names)
            kill(self._workers[name])
            self.counts[count] += 1
            self._workers[name].wait(START)
            self._replace(name)
        return True

    def _end_workers(self) -> None:
        """Ends all workers at once, then makes sure that nothing is left of any."""
        with self._lock:
            workers = [*self._workers.values(), *(worker for _, worker in self._orphaned)]
            self._workers, self._orphaned = {}, []
        for worker in workers:
            with contextlib.suppress(psutil.Error, OSError):
                worker.kill(signal.SIGTERM)
        for worker in workers:
            worker.stop()

    # What is broken

    def flush(self) -> None:
        """Empties the broker's database of this run's own Redis: what is queued and what was taken. Results are elsewhere."""
        self.broker.flushdb()
        self.counts["flushes"] += 1

    # What there is to see

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        """What the journal's database answers."""
        with self.db.connect() as connection:
            return list(connection.execute(sa.text(query), parameters))

    def messages(self) -> int:
        """How many messages the broker holds."""
        return self.engine.messages(self.broker)

    def effects(self) -> list[tuple[str, str]]:
        """Reference and kind of each effect there is, by the bank's ledger and by the shop's own table."""
        theirs = [(row["reference"], row["kind"]) for row in self.bank.ledger(prefix="saga-")["rows"]]
        return theirs + [(row.reference, row.kind) for row in self.rows("SELECT reference, kind FROM crash_effect")]

    def evidence(self, names: Sequence[str]) -> str:
        """Everything that helps to understand what became of some sagas."""
        lines = []
        for name in names:
            # A chain of RQ jobs has no ID of its own: it is found by its first job's.
            for id in (name, f"{name}-check"):
                lines += [f"=== {id}", self.command(*self.engine.cli(self.redis.url), "explain", "--", id)[1]]
            query = (
                "SELECT e.* FROM durable_event e WHERE e.ref IN (SELECT ref FROM durable_workflow WHERE id = :name UNION "
                "SELECT ref FROM durable_step WHERE task_id = :first) ORDER BY e.id"
            )
            lines += [str(tuple(row)) for row in self.rows(query, name=name, first=f"{name}-check")]
            lines += [str(request) for request in self.bank.requests(name)]
        return "\n".join(lines)

    def command(self, *arguments: str) -> tuple[int, str]:
        """What a person types: `durable-adapter ...`. Returns the exit code and what it printed."""
        ended = subprocess.run(
            [sys.executable, "-m", "durable_adapter.cli", "--journal", self.database, *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=REPORT,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr
