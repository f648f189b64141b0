"""The stage with prefork `celery worker` processes of one child each, and Redis as broker and result store."""

from __future__ import annotations

import json
import os
import signal

from tests.crash.cells import Cell
from tests.crash.stage import SOON, Stage
from tests.crash.words import QUEUE, STEPS
from tests.servers import RunningProcess, eventually

UNACKED = "unacked"


class CeleryStage(Stage):
    """Celery's workers and messages."""

    shop = "tests.crash.app"
    ready = r"shop ready\."
    flavour = "plain"

    def _worker(self, name: str, *, plain: bool, options: dict[str, str]) -> RunningProcess:
        command = ["-m", "celery", "-A", self.shop, "worker", "-c", "1", "-l", "INFO", "-n", f"{name}@shop"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return self._process(f"worker-{name}", command, CRASH_PLAIN="1" if plain else None, **options)

    def await_workers(self) -> None:
        """Waits until every worker that was started takes messages and has its child."""
        super().await_workers()
        for worker in self._workers.values():
            eventually(worker.children, SOON, f"a child of {worker.name}")

    def kill_worker(self, pid: int) -> None:
        """`kill -9` of a process group. Another worker is started in its place."""
        name, worker = self.worker_of(pid)
        os.killpg(worker.pid, signal.SIGKILL)
        self.replace_worker(name)

    def told(self, cell: Cell, moment: str) -> tuple[str, str]:
        """As Celery's signals tell it: a step's end is the moment before its successor is published."""
        following = STEPS[STEPS.index(cell.step) + 1] if cell.shape == "chain" else ""
        match moment:
            case "before-body" | "after-result":
                return ("fulfil" if cell.shape == "function" else cell.step), moment
            case "after-end" if cell.shape == "chain":
                return following, "before-publish"
            case "after-publish":
                return following, moment
            case _:
                return cell.step, moment

    def result_state(self, task_id: str) -> str | None:
        """What Celery's result store says about a task."""
        stored = self.results.get(f"celery-task-meta-{task_id}")
        return None if stored is None else str(json.loads(stored)["status"])

    def has_succeeded(self, task_id: str) -> bool:
        """Whether Celery calls a task a success."""
        return self.result_state(task_id) == "SUCCESS"

    def queued(self) -> int:
        """How many messages wait for a worker."""
        return int(self.broker.llen(QUEUE))

    def messages(self) -> int:
        """How many messages the broker still holds, taken by a worker or not."""
        return self.queued() + int(self.broker.hlen(UNACKED))

    def repeat_message(self, task_id: str) -> None:
        """Puts a second copy of a message that a worker has taken into the queue."""
        for stored in self.broker.hvals(UNACKED):
            message = json.loads(stored)[0]
            if message["headers"]["id"] == task_id:
                message["properties"]["delivery_tag"] = f"copy-{message['properties']['delivery_tag']}"
                self.broker.lpush(QUEUE, json.dumps(message))
                return
        raise AssertionError(f"no worker has taken the message of task {task_id}")
