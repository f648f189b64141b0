"""The commands on RQ: a real Redis, jobs that RQ lost in every way it can, and the printed command that mends each."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.results import Result
from sqlalchemy import make_url

import durable_adapter.rq
from durable_adapter.cli.checks.rq import _old_workers
from durable_adapter.declare.registry import DECLARED
from durable_adapter.journal import Journal
from durable_adapter.model import StepStatus
from durable_adapter.rq import command
from durable_adapter.rq.binding import Binding
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.making import a_run, a_step, a_worker, age, held, statuses, succeed
from tests.servers.addresses import free_port
from tests.servers.fixtures import StartProcess
from tests.servers.process import RunningProcess
from tests.servers.waiting import eventually

pytestmark = pytest.mark.parametrize("dialect", ["sqlite"])

CODE = """
import durable_adapter as durable

@durable.step
def charge(order, card=""):
    return f"ch_{order}"

@durable.step(idempotent=True, redact=("address",))
def ship(order, address=""):
    return f"sh_{order}"

def mail(order):
    return f"mailed {order}"
"""

_number = itertools.count()


def lose_everything(redis: Redis) -> None:
    """Redis loses all that RQ had in it. Not the whole database: the key by which this session claims it has to stay."""
    found: Any = redis.keys("rq:*")
    if found:
        redis.delete(*found)


class InProcess(durable_adapter.rq.SimpleWorker):
    """A worker in the test's own process: it leaves the process's signals alone, and takes no commands."""

    pubsub_thread = None

    def subscribe(self) -> None:
        """No commands: the thread that listens for them takes a second to end."""

    def _install_signal_handlers(self) -> None:
        """None: Ctrl-C is pytest's."""


@dataclass
class Bakery:
    """A module with marked functions, a queue, and the processes that publish and work."""

    name: str
    path: Path
    url: str
    journal: Journal
    journal_url: str
    redis: Redis

    @property
    def code(self) -> Any:
        """The module."""
        return import_module(self.name)

    @property
    def queue(self) -> Queue:
        """The queue."""
        return Queue("bread", connection=self.redis)

    @property
    def options(self) -> tuple[str, ...]:
        """What names RQ."""
        return "-u", self.url

    def publish(self, *names: str, **given: Any) -> list[Job]:
        """Enqueues functions as a process with the plugin does, each behind the one before it."""
        durable_adapter.rq.install(self.journal_url)
        try:
            jobs: list[Job] = []
            for name in names:
                jobs.append(self.queue.enqueue(getattr(self.code, name), "42", depends_on=jobs[-1:] or None, **given))
            return jobs
        finally:
            durable_adapter.rq.uninstall()

    def work(self) -> None:
        """Runs what is queued, as a worker with the plugin does."""
        durable_adapter.rq.install(self.journal_url)
        try:
            InProcess(["bread"], connection=self.redis).work(burst=True, logging_level="CRITICAL")
        finally:
            durable_adapter.rq.uninstall()

    def listened(self) -> None:
        """A worker with the plugin listens on the queue, so that what was not begun certainly never ran."""
        a_worker(self.journal, "listener", engine="rq", queues=["bread"], pid=7)

    def run(self) -> str:
        """The reference of the one run."""
        (found,) = self.journal.reads.newest_refs("default")
        return found[1]

    def aged(self, seconds: float = 60) -> str:
        """Lets time pass over the one run, and returns its reference."""
        ref, by = self.run(), int(seconds * 1_000_000)
        age(self.journal, ref, by=by)
        for step in self.journal.reads.steps(ref):
            age(self.journal, ref, step.key, by=by)
        return ref

    def story(self) -> dict[str, str]:
        """What became of each step, by the last part of its name, and of the run."""
        ref = self.run()
        steps = {s.name.rpartition(".")[2]: s.status.value for s in self.journal.reads.steps(ref)}
        return {"run": statuses(self.journal, ref)["run"], **steps}


@pytest.fixture
def bakery(tmp_path: Path, redis_url: str, url: str, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bakery]:
    """Marked functions in a module of their own, on this journal and an empty Redis."""
    for variable in ("RQ_REDIS_URL", "RQ_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    name = f"bakery_rq_{next(_number)}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    redis = Redis.from_url(redis_url)
    lose_everything(redis)
    declared, paths = dict(DECLARED._entries), list(sys.path)
    yield Bakery(name, tmp_path, redis_url, journal, url, redis)
    durable_adapter.rq.uninstall()
    lose_everything(redis)
    redis.close()
    sys.modules.pop(name, None)
    sys.path[:] = paths
    DECLARED._entries.clear()
    DECLARED._entries.update(declared)
    DECLARED.generation += 1


def mended(cli: Cli, bakery: Bakery, command: str) -> None:
    """Runs a printed command as it is, works, and sees the workflow complete."""
    # A server of our own has a password, which is for the environment and not for a printed command.
    named = '"$RQ_REDIS_URL"' if make_url(bakery.url).password else bakery.url
    assert f"-u {named} " in command, "the printed command reaches the same Redis"
    done = cli.run_printed(command, redis=bakery.url)
    assert done.exit_code == 0, done.output
    bakery.work()
    assert bakery.story()["run"] == "succeeded"


def test_sweep_sends_a_job_that_redis_lost_under_its_own_id(cli: Cli, bakery: Bakery) -> None:
    (job,) = bakery.publish("ship")
    lose_everything(bakery.redis)
    bakery.aged()
    told = cli.json(*bakery.options, "sweep", "--once", code=0)
    assert told["sent_again"] == 1
    assert bakery.queue.get_job_ids() == [job.id]
    bakery.work()
    assert bakery.story() == {"run": "succeeded", "ship": "succeeded"}


@pytest.mark.parametrize("by", ["variable", "module", "module in the environment"])
def test_rq_is_named_as_rqs_own_commands_name_it(cli: Cli, bakery: Bakery, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = f"settings_of_{bakery.name}"
    (bakery.path / f"{settings}.py").write_text(f"REDIS_URL = {bakery.url!r}\nQUEUES = ['bread']\n")
    bakery.publish("ship")
    lose_everything(bakery.redis)
    bakery.aged()
    words = ("-c", settings) if by == "module" else ()
    if by == "variable":
        monkeypatch.setenv("RQ_REDIS_URL", bakery.url)
    if by == "module in the environment":
        monkeypatch.setenv("RQ_CONFIG", settings)
    assert cli.json(*words, "sweep", "--once", code=0)["sent_again"] == 1
    assert bakery.queue.count == 1


def test_one_sweep_serves_both_engines_and_says_what_it_leaves(cli: Cli, bakery: Bakery, shop: Shop) -> None:
    shop.app.tasks["ship"].apply_async(("9",))
    bakery.publish("ship")
    lose_everything(bakery.redis)
    for _, ref in bakery.journal.reads.newest_refs("default"):
        for key in (None, bakery.journal.reads.steps(ref)[0].key):
            age(bakery.journal, ref, key)
    left = cli("-A", shop.name, "sweep", "--once", code=0)
    assert "Workflows on rq are left to other sweepers: this one was not given -u." in left.stderr
    assert bakery.queue.count == 0
    told = cli.json("-A", shop.name, *bakery.options, "sweep", "--once", code=0)
    assert told["errors"] == []
    assert bakery.queue.count == 1


def test_a_job_that_is_gone_is_found_and_the_printed_command_mends_it(cli: Cli, bakery: Bakery) -> None:
    bakery.listened()
    (job,) = bakery.publish("charge")
    assert cli.findings(*bakery.options) == {}, "it waits in its queue, and that is no trouble"
    lose_everything(bakery.redis)
    bakery.aged()
    assert cli.findings() == {}, "the journal alone waits for longer"
    found = cli.findings(*bakery.options)["lost_message"]
    assert f"Redis has no job {job.id}." in found["certain"]
    assert found["uncertain"] == ""
    mended(cli, bakery, found["command"])


def test_a_job_that_rq_calls_queued_and_no_list_holds(cli: Cli, bakery: Bakery) -> None:
    bakery.listened()
    (job,) = bakery.publish("charge")
    bakery.redis.delete(bakery.queue.key)
    bakery.aged()
    found = cli.findings(*bakery.options)["lost_message"]
    assert f"RQ says that job {job.id} is queued, and the list of 'bread' does not hold it" in found["certain"]
    mended(cli, bakery, found["command"])


def test_a_job_behind_one_that_rq_calls_failed_although_the_journal_has_its_result(cli: Cli, bakery: Bakery) -> None:
    bakery.listened()
    first, second = bakery.publish("charge", "ship")
    ref = bakery.run()
    key = bakery.journal.reads.steps(ref)[0].key
    succeed(bakery.journal, ref, key, completes_run=True)
    bakery.redis.lrem(bakery.queue.key, 0, first.id)
    first.set_status(JobStatus.FAILED)
    Result.create_failure(first, ttl=500, exc_string="the horse was killed")
    bakery.aged()
    found = cli.findings(*bakery.options)["lost_message"]
    assert found["step"] == f"{bakery.name}.ship"
    assert f"RQ keeps job {second.id} deferred behind job {first.id}, which failed." in found["certain"]
    assert f"RQ says that {bakery.name}.charge failed; the journal has its result, and that is what counts." in found["certain"]
    mended(cli, bakery, found["command"])


def test_explain_speaks_of_jobs_and_says_what_redis_holds(cli: Cli, bakery: Bakery) -> None:
    (job,) = bakery.publish("charge")
    ref = bakery.run()
    text = cli(*bakery.options, "explain", job.id, code=0).stdout
    assert "a single job on RQ" in text
    assert f", job {job.id}" in text
    assert f"seen now: job {job.id} waits in the queue 'bread'" in text
    told = cli.json(*bakery.options, "explain", ref, code=0)
    assert told["steps"][0]["engine_says"] == f"job {job.id} waits in the queue 'bread'"
    assert cli.json("explain", ref, code=0)["steps"][0]["engine_says"] is None
    assert "seen now" not in cli("explain", ref, code=0).stdout


def test_explain_names_arguments_with_the_code_at_hand(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("ship", address="Elm Street")
    ref = bakery.run()
    told = cli.json(*bakery.options, "explain", ref, "--show-values", code=0)
    assert told["steps"][0]["arguments"] == {"args": [], "kwargs": {"order": "42", "address": "[redacted]"}}


def test_a_command_for_an_engine_that_was_not_named_carries_its_option(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("charge", "mail")
    ref = bakery.run()
    succeed(bakery.journal, ref, bakery.journal.reads.steps(ref)[0].key, completes_run=True)
    bakery.aged(7200)
    found = cli.findings()["stopped_at_unmarked"]
    assert "only marked jobs are recorded and sent again" in found["uncertain"]
    command = found["remedies"][1]["command"]
    assert command.startswith("durable-adapter -u REDIS_URL resolve ")
    refused = cli.run_printed(command.replace(" -u REDIS_URL", ""))
    assert refused.exit_code == 1
    assert "to send it again RQ's Redis is needed. Give it with -u redis://..., or with -c MODULE" in refused.stderr
    lose_everything(bakery.redis)
    done = cli.run_printed(command, redis=bakery.url)
    assert done.exit_code == 0, done.output
    assert bakery.queue.count == 1
    bakery.work()
    assert bakery.story() == {"run": "succeeded", "charge": "succeeded", "mail": "succeeded"}


@pytest.mark.usefixtures("unswept")
def test_without_its_engine_an_order_leaves_the_sending_to_its_own_sweepers(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("ship")
    ref = bakery.aged()
    a_worker(bakery.journal, "s1", role="sweeper", engine="celery")
    told = cli("retry", ref, *SIGNED, code=0).stdout
    assert "Nobody sweeps for RQ: no sweeper is known. Timers, deaths, doubt and lost jobs wait. " in told
    assert "Start a worker (`rq worker -w durable_adapter.rq.Worker`), or run this: " in told
    assert "`durable-adapter -u REDIS_URL sweep`" in told
    assert cli.findings()["nobody_sweeps"]["name"] == "rq"


def test_printed_commands_tell_no_password_of_redis(cli: Cli, bakery: Bakery) -> None:
    ref = a_run(bakery.journal, a_step("charge"), engine="rq")
    held(bakery.journal, ref, "charge")
    url = f"redis://ann:hunter2@127.0.0.1:{free_port()}/0"
    result = cli("-u", url, "reconcile", "--json", code=1)
    assert "hunter2" not in result.output
    assert 'durable-adapter -u \\"$RQ_REDIS_URL\\" resolve ' in result.stdout


def test_a_redis_that_does_not_answer_is_told_and_the_journal_is_still_reported(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("ship")
    bakery.aged(7200)
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    result = cli("-u", nobody, "reconcile", code=1)
    assert f"{nobody} does not answer" in result.stderr
    assert "what it holds was not compared with the journal" in result.stderr
    assert "LOST MESSAGE" in result.stdout
    assert "does not answer" in cli("-u", nobody, "explain", bakery.run()).stderr
    failed = {c["check"]: c for c in cli.json("-u", nobody, "doctor", code=1)["checks"]}["rq_redis"]
    assert failed["level"] == "failed"
    assert "check the URL and the server" in failed["cure"]
    assert cli.json("-u", nobody, "sweep", "--once", code=1)["errors"] != []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-u", "localhost:6379"), "the Redis URL 'localhost:6379' is not accepted: "),
        (("-u", "http://x:secret@host"), "the Redis URL 'http://x:***@host' is not accepted: "),
        (("-c", "no_such_settings"), "RQ's settings module (-c no_such_settings) cannot be imported: ModuleNotFoundError"),
        (
            ("-c", "conf/settings.py"),
            "is given as a file. Give its dotted name, such as conf.settings, and its directory with -P",
        ),
        (("--import", "no.such.jobs"), "the module of --import no.such.jobs cannot be imported: ModuleNotFoundError"),
        (("-u", "redis://localhost", "-P", "/no/such/place"), "-P '/no/such/place' is no directory."),
        (("-u", "redis://localhost", "-S", "no.such.Serializer"), "the serializer 'no.such.Serializer' is not accepted: "),
    ],
)
def test_what_names_rq_wrongly_is_told_with_what_is_accepted(cli: Cli, bakery: Bakery, words: tuple[str, ...], told: str) -> None:
    result = cli(*words, "sweep", "--once", code=2)
    assert told in result.stderr
    assert "Give" in result.stderr
    assert cli.json(*words, "sweep", "--once", code=2)["error"]["type"] == "SettingError"


def test_sweeping_names_every_way_to_name_an_engine(cli: Cli, bakery: Bakery) -> None:
    told = cli("sweep", "--once", code=2).stderr
    for word in ("-A", "-u redis://", "RQ_REDIS_URL", "-c MODULE", "RQ_CONFIG"):
        assert word in told


def test_what_the_code_installed_with_is_what_the_command_uses(nowhere: Cli, bakery: Bakery, tmp_path: Path) -> None:
    code = f"import durable_adapter.rq\ndurable_adapter.rq.install({bakery.journal_url!r}, namespace='bread')\n"
    (bakery.path / f"publisher_{bakery.name}.py").write_text(code)
    a_run(bakery.journal, "charge", namespace="bread", engine="rq")
    told = nowhere.json("--import", f"publisher_{bakery.name}", "list", code=0)
    assert len(told["workflows"]) == 1
    rows = {s["name"]: s for s in nowhere.json("--import", f"publisher_{bakery.name}", "doctor")["settings"]}
    assert (rows["namespace"]["value"], rows["stale"]["origin"]) == ("bread", "default")


def test_an_app_and_rq_on_two_journals_are_not_mixed_up(cli: Cli, bakery: Bakery, shop: Shop) -> None:
    code = "import durable_adapter.rq\ndurable_adapter.rq.install('sqlite:////tmp/elsewhere.db')\n"
    (bakery.path / f"elsewhere_{bakery.name}.py").write_text(code)
    words = ("-A", shop.name, "--import", f"elsewhere_{bakery.name}")
    told = cli(*words, "list", code=2).stderr
    assert "the Celery app and durable_adapter.rq.install() were given another journal each" in told
    assert cli(*words, "--journal", bakery.journal_url, "list", code=0).stdout == "No workflows.\n"


def checks(cli: Cli, *words: str) -> dict[str, dict[str, str]]:
    return {c["check"]: c for c in cli.json(*words, "doctor")["checks"]}


def a_real_worker(bakery: Bakery, start: StartProcess, *words: str, **env: str) -> RunningProcess:
    """A process of RQ's own command line."""
    command = [sys.executable, "-m", "rq.cli", "worker", "-u", bakery.url, *words, "bread"]
    environment = {"DURABLE_ADAPTER_JOURNAL": bakery.journal_url, "PYTHONPATH": str(bakery.path), **env}
    process = start(command, cwd=bakery.path, env=environment, name="rq-worker")
    process.wait_for_line(r"Listening on")
    return process


@pytest.mark.usefixtures("unswept")
def test_doctor_tells_workers_without_the_plugin_from_those_with_it(
    cli: Cli, bakery: Bakery, start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    bakery.publish("ship")
    bakery.redis.delete(bakery.queue.key)  # the worker is to be looked at, not to work
    monkeypatch.setattr("durable_adapter.cli.checks.rq.YOUNG", 0.0)
    plain = a_real_worker(bakery, start_process, "-n", "plain")
    found = checks(cli, *bakery.options)
    assert found["rq_workers"]["level"] == "unsafe"
    assert "1 of 1 workers are not known to the journal: plain on " in found["rq_workers"]["found"]
    assert f"pid {plain.pid} (bread)" in found["rq_workers"]["found"]
    assert "-w durable_adapter.rq.Worker" in found["rq_workers"]["cure"]
    assert found["rq_timings"]["level"] == "slow"
    assert found["rq_sweeper"]["level"] == "unsafe"
    plain.stop()
    a_real_worker(bakery, start_process, "-n", "ours", "-w", "durable_adapter.rq.Worker")

    def settled() -> dict[str, dict[str, str]] | None:
        found = checks(cli, *bakery.options)
        return found if found["rq_workers"]["level"] == found["rq_sweeper"]["level"] == "ok" else None

    found = eventually(settled, 20)
    assert found["rq_workers"]["found"] == "1 with the plugin"
    assert found["rq_timings"]["level"] == "note"
    assert found["rq_sweeper"]["level"] == "ok"
    assert found["rq_persistence"]["level"] == "ok"


@pytest.mark.parametrize(
    ("version", "level", "told"),
    [
        ("1.15.1", "unsafe", "older than 1.16: install() refuses it"),
        ("2.0.0", "note", "memo, rollback and reconciliation hold; a workflow function cannot wait"),
        ("3.0.0", "ok", "every promise"),
    ],
)
def test_doctor_tells_how_much_holds_on_the_rq_that_it_found(
    cli: Cli, bakery: Bakery, monkeypatch: pytest.MonkeyPatch, version: str, level: str, told: str
) -> None:
    monkeypatch.setattr("durable_adapter.rq.command.FOUND", version)
    found = checks(cli, "-u", bakery.url)["rq_version"]
    assert found["level"] == level
    assert f"RQ {version}" in found["found"]
    assert told in found["found"]


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        (["1.15.1", "3.0.0"], ["too old: w0"]),
        (
            ["2.0.0", "3.0.0"],
            ["different versions of RQ: 2.0.0, 3.0.0", "cannot wait (durable.sleep(), steps that it enqueues): w0"],
        ),
        (["2.1.0", "2.1.0", "somebody's own"], ["different versions"]),
        (["3.0.0", "3.0.0"], []),
    ],
)
def test_doctor_tells_workers_on_whose_rq_less_holds(
    monkeypatch: pytest.MonkeyPatch, dialect: str, versions: list[str], told: list[str]
) -> None:
    monkeypatch.setattr("durable_adapter.rq.command.FOUND", "3.0.0")
    workers = [
        command.SeenWorker(f"w{n}", "here", n, version, ["default"], "idle", 9, None) for n, version in enumerate(versions)
    ]
    found = list(_old_workers(types.SimpleNamespace(command=command), workers))  # type: ignore[arg-type]
    assert [words in check.found for words, check in zip(told, found, strict=True)] == [True] * len(told)


def test_doctor_finds_jobs_that_were_enqueued_without_the_plugin(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("charge")
    bakery.queue.enqueue(bakery.code.mail, "42")
    with_code = (*bakery.options, "--import", bakery.name)
    assert checks(cli, *with_code)["rq_publishers"]["level"] == "ok", "an unmarked one is nobody's business"
    bakery.queue.enqueue(bakery.code.charge, "43")
    found = checks(cli, *with_code)
    assert found["rq_publishers"]["level"] == "unsafe"
    assert f"{bakery.name}.charge (1)" in found["rq_publishers"]["found"]
    assert "call durable_adapter.rq.install()" in found["rq_publishers"]["cure"]
    assert found["rq_marked"]["found"] == "2 durable functions: 1 idempotent, 1 protected"
    assert found["rq_installed"]["level"] == "note"
    assert found["rq_queues"]["level"] == "slow"
    assert "bread (3 waiting)" in found["rq_queues"]["found"]


def test_doctor_lists_what_is_patched_in_rq_and_leaves_this_process_as_it_was(cli: Cli, bakery: Bakery) -> None:
    told = cli.json(*bakery.options, "doctor", "--patches")["patches"]
    assert "rq.job.Job.create" in [patch["where"] for patch in told]
    assert all(patch["why"] for patch in told)
    assert Binding.installed == []
    assert Job.__dict__["create"].__func__.__module__ == "rq.job"
    assert "name the Celery app with -A, or RQ with -u or -c" in cli("doctor", "--patches", code=2).stderr


#: Runs a command where a library is not installed.
WITHOUT = """
import sys
for name in {names}: sys.modules[name] = None
from durable_adapter.cli import main
main()
"""


@pytest.fixture
def without(bakery: Bakery) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`without(names, *words)`: a command in a process in which these packages cannot be imported."""

    def run(names: list[str], *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DURABLE_ADAPTER_JOURNAL": bakery.journal_url, **env}
        command = [sys.executable, "-c", WITHOUT.format(names=names), *words]
        return subprocess.run(command, env=environment, cwd=bakery.path, capture_output=True, text=True, timeout=60)

    return run


def test_commands_work_where_only_one_engine_or_neither_is_installed(
    bakery: Bakery, without: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    bakery.publish("ship")
    ref = bakery.aged()
    a_worker(bakery.journal, "s1", role="sweeper", engine="rq", queues=["bread"])
    neither = ["rq", "redis", "celery", "kombu"]
    for words in (("list",), ("explain", ref), ("reconcile",)):
        done = without(neither, *words, RQ_REDIS_URL=bakery.url)
        assert done.returncode == 0, done.stderr
    done = without(["celery", "kombu"], "-u", bakery.url, "sweep", "--once")
    assert done.returncode == 0, done.stderr
    missing = without(["rq", "redis"], "-u", bakery.url, "sweep", "--once")
    assert missing.returncode == 2
    assert "RQ is named with -u or -c, and it is not installed in this Python environment: pip install" in missing.stderr
    missing = without(["celery", "kombu"], "-A", "shop", "sweep", "--once")
    assert missing.returncode == 2
    assert "Celery is not installed in this Python environment" in missing.stderr


def test_listing_loads_no_queue_library_even_where_rq_is_named(bakery: Bakery) -> None:
    code = (
        "import sys; from durable_adapter.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'rq', 'redis', 'celery', 'kombu'}), file=sys.stderr)"
    )
    env = {**os.environ, "DURABLE_ADAPTER_JOURNAL": bakery.journal_url, "RQ_REDIS_URL": bakery.url}
    command = [sys.executable, "-c", code, "-u", bakery.url, "list"]
    done = subprocess.run(command, env=env, cwd=bakery.path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "No workflows.\n"
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_step_in_doubt_is_settled_with_the_printed_command(cli: Cli, bakery: Bakery) -> None:
    bakery.publish("charge", "ship")
    ref = bakery.run()
    first = bakery.journal.reads.steps(ref)[0]
    held(bakery.journal, ref, first.key)
    lose_everything(bakery.redis)
    found = cli.findings(*bakery.options)["held"]
    done = cli.run_printed(found["command"], '"ch_42"', redis=bakery.url)
    assert done.exit_code == 0, done.output
    bakery.aged()
    assert cli.json(*bakery.options, "sweep", "--once", code=0)["sent_again"] == 1
    bakery.work()
    assert bakery.story() == {"run": "succeeded", "charge": "succeeded", "ship": "succeeded"}
    assert bakery.journal.reads.steps(ref)[0].status is StepStatus.SUCCEEDED
