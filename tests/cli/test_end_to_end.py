"""A real worker is killed inside a charge; the operator finds it, runs the printed command in a shell, and it is finished."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus
from tests.servers.fixtures import StartProcess
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

APP = """
import os, signal
from celery import Celery, chain
import durable_adapter as durable
import durable_adapter.celery

app = Celery("bakery", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(task_default_queue=os.environ["QUEUE"], task_acks_late=True, task_reject_on_worker_lost=True,
                worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True, worker_lost_wait=1.0)

@durable.step
@app.task(name="charge")
def charge(order):
    os.kill(os.getpid(), signal.SIGKILL)

@durable.step
@app.task(name="ship")
def ship(charged):
    return f"shipped {charged}"

@app.task(name="mail")
def mail(shipped):
    return f"mailed {shipped}"

durable_adapter.celery.install(app, stale=3, beat=0.5, sweep_every=0.3, resend_after=3)
"""

START = """
import durable_adapter as durable
from celery import chain
from bakery import charge, ship, mail
print(durable.start("order-42", chain(charge.s("42"), ship.s(), mail.s())).id)
"""


class Place:
    """A directory with the app, and an environment in which commands are run as an operator runs them."""

    def __init__(self, path: Path, journal: str, broker: str, queue: str) -> None:
        self.path = path
        self.env = {
            "DURABLE_ADAPTER_JOURNAL": journal, "BROKER": broker, "QUEUE": queue,
            "PATH": f"{path}{os.pathsep}{os.environ.get('PATH', '')}",
        }  # fmt: skip
        (path / "bakery.py").write_text(APP)
        # The commands as they are installed, whatever the environment of the tests has on its path.
        for name, module in (("durable-adapter", "durable_adapter.cli"), ("celery", "celery.__main__")):
            script = path / name
            code = f"import sys; sys.path.insert(0, ''); from {module} import main; sys.exit(main())"
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
            script.chmod(0o755)

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a line in a shell."""
        env = {**os.environ, **self.env}
        return subprocess.run(["sh", "-c", command], env=env, cwd=self.path, capture_output=True, text=True, timeout=60)

    def json(self, command: str) -> dict[str, object]:
        """Runs a line that prints JSON."""
        done = self.sh(command)
        found: dict[str, object] = json.loads(done.stdout)
        return found


@pytest.fixture
def place(tmp_path: Path, url: str, journal: Journal, redis_url: str, queue_prefix: str) -> Place:
    """The bakery."""
    return Place(tmp_path, url, redis_url, f"{queue_prefix}bakery")


@pytest.fixture
def worker(place: Place, start_process: StartProcess) -> RunningProcess:
    """A real prefork worker."""
    command = [sys.executable, "-m", "celery", "-A", "bakery", "worker", "-c", "1", "-l", "INFO",
               "--without-gossip", "--without-mingle", "--without-heartbeat"]  # fmt: skip
    process = start_process(command, cwd=place.path, env=place.env, name="worker")
    process.wait_for_line(r"@\S+ ready\.")
    return process


@pytest.mark.parametrize("dialect", ["postgresql"])
@pytest.mark.parametrize("program", ["durable-adapter", "celery -A bakery durable"])
def test_from_a_kill_to_the_end_with_nothing_but_the_printed_command(
    place: Place, worker: RunningProcess, journal: Journal, program: str
) -> None:
    started = place.sh(f"{sys.executable} -c '{START}'")
    assert started.returncode == 0, started.stderr
    task_id = started.stdout.strip()
    ref = eventually(lambda: journal.reads.latest("default", "order-42"), 10).ref
    eventually(lambda: journal.reads.steps(ref)[0].status is StepStatus.HELD, 20)

    found = place.json(f"{program} reconcile --json")["findings"]
    assert isinstance(found, list)
    (finding,) = found
    assert (finding["kind"], finding["workflow"], finding["step"]) == ("held", "order-42", "charge")
    command = finding["command"]
    assert command.startswith(f'{program} resolve --happened VALUE --by "$(id -un)" --why ')
    shown = place.sh(command.replace("VALUE", "'\"ch_42\"'"))
    assert "Nothing was changed." in shown.stdout
    done = place.sh(command.replace("VALUE", "'\"ch_42\"'").replace("'how you know'", "'asked the bank' --apply"))
    assert done.returncode == 0, done.stderr
    assert "charge is recorded as happened." in done.stdout
    eventually(lambda: journal.reads.run(ref).status == "succeeded", 20)  # type: ignore[union-attr]
    told = place.json(f"{program} explain {task_id} --json --show-values")
    assert (told["findings"], told["others"]) == ([], [])
    assert [s["outcome"] for s in told["steps"]] == ["ch_42", "shipped ch_42", "mailed shipped ch_42"]  # type: ignore[attr-defined]
    assert told["steps"][0]["verdict"] == f"{pwd.getpwuid(os.getuid()).pw_name}: happened: asked the bank"  # type: ignore[index]
