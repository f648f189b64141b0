"""What the command line never does: show hostile text as it is, show a secret, call a failure to look "findings", decide."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from durable_adapter.cli.commands import list as listing
from durable_adapter.journal import Journal
from durable_adapter.runtime.alerts import explain
from tests.cli.conftest import Cli
from tests.journal.making import a_run, a_worker, change, held, statuses
from tests.unit.test_printable import HOSTILE, is_safe

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])
on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"])
#: Ids that a shell, an option parser or a careless template would take for something else.
AWKWARD = ["-42", "--apply", "it's", 'say "x"', "a b", "$(touch forged)", "`touch forged`", "a;touch forged", "!!", "*", "ü"]


def is_clean(output: str) -> bool:
    return all(is_safe(part) for part in output.split("\n"))


def hostile_run(journal: Journal) -> str:
    """A held step and a failed one whose every text from outside is hostile."""
    ref = a_run(journal, "charge", "ship")
    error = json.dumps({"type": "Declined", "message": HOSTILE}, ensure_ascii=False).encode()
    held(journal, ref, "charge")
    shown = HOSTILE.replace("\0", "")
    change(journal, ref, "charge", error=error, doubt=shown, evidence=shown, reference=shown, queue=shown, verdict=shown)
    change(journal, ref, "charge", attention="effect_unknown", status="failed", effect="unknown")
    return ref


@on_sqlite
@pytest.mark.parametrize("extra", [(), ("--json",)], ids=["text", "json"])
def test_nothing_hostile_reaches_the_terminal(cli: Cli, journal: Journal, extra: tuple[str, ...]) -> None:
    ref = hostile_run(journal)
    for words in (("explain", ref), ("reconcile",), ("list",), ("explain", "\x1b[2Jgone"), ("list", "--status", "\x1b[2J")):
        result = cli(*words, *extra)
        assert is_clean(result.stdout), words
        assert is_clean(result.stderr), words
        assert result.stdout or result.stderr
    if extra:
        told = cli.json("reconcile")["findings"][0]["certain"]
        assert "\x1b[1A" in told, "JSON loses nothing"


def test_a_url_with_a_secret_is_shown_without_it_and_a_broken_one_is_no_finding(nowhere: Cli) -> None:
    for url in (
        "postgresql+psycopg://ann:hun@ter2@127.0.0.1:1/x",
        "postgresql+psycopg://127.0.0.1:1/x?user=ann&password=hunter2",
        "postgresql+psycopg://127.0.0.1:1/x?user=ann&sslpassword=hunter2",
        "postgresql+psycopg://ann:hunter2@127.0.0.1:port/x",
        "mysql+pymysql://ann:hun@ter2@127.0.0.1:1/x",
    ):
        for words in (("doctor",), ("list",), ("reconcile", "--json"), ("doctor", "--json")):
            result = nowhere(*words, "--journal", url, code=2)
            shown = result.stdout + result.stderr
            assert "ter2" not in shown
            assert "hun@" not in shown
            assert "Traceback" not in shown


@on_sqlite
def test_a_redis_that_cannot_be_parsed_is_told_without_a_piece_of_its_password(cli: Cli) -> None:
    for url in ("redis://:hun@ter2@localhost:port/0", "redis://:hunter2@localhost:x/0", "nonsense://:hunter2@h"):
        result = cli("reconcile", "-u", url, code=2)
        assert "ter2" not in result.stdout + result.stderr


@on_sqlite
@pytest.mark.parametrize("extra", [(), ("--json",)], ids=["text", "json"])
def test_a_crash_is_no_finding(cli: Cli, journal: Journal, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"boom {HOSTILE} redis://:hunter2@h/0")

    a_run(journal, "charge")
    monkeypatch.setattr(listing, "_shown", crash)
    result = cli("list", *extra, code=2)
    shown = result.stdout + result.stderr
    assert "unexpected RuntimeError: boom" in shown
    assert "please report it" in shown
    assert "DURABLE_ADAPTER_DEBUG=1" in shown
    assert "Traceback" not in shown
    assert is_clean(shown)
    assert "hunter2" not in shown
    debugged = cli("list", *extra, code=2, DURABLE_ADAPTER_DEBUG="1")
    assert "Traceback" in debugged.stderr
    assert is_clean(debugged.stderr)
    assert "hunter2" not in debugged.stderr
    if extra:
        assert json.loads(debugged.stdout)["error"]["type"] == "RuntimeError"


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DURABLE_")}
    return subprocess.run([*words], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=120)


BIN = Path(sys.executable).parent


@on_sqlite
def test_code_that_ends_the_process_or_an_interruption_is_no_finding(url: str, journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(1)\n")
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt\n")
    for words in (["-A", "leaves"], ["--import", "leaves"], ["--import", "stopped"], ["-A", "stopped"]):
        done = run(str(BIN / "durable-adapter"), *words, "list", cwd=tmp_path, DURABLE_ADAPTER_JOURNAL=url)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("Error: ")


@on_sqlite
def test_a_reader_that_went_away_is_no_finding(url: str, journal: Journal, tmp_path: Path) -> None:
    for _ in range(60):
        a_run(journal, "charge", "ship")
    script = f"{shlex.quote(str(BIN / 'durable-adapter'))} list --limit 5000 | true; echo ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", script, cwd=tmp_path, DURABLE_ADAPTER_JOURNAL=url, PYTHONUNBUFFERED="1")
    assert done.stdout.strip() in ("0", "2"), "0 where all was written before the reader went"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@on_sqlite
def test_the_exit_codes_of_celerys_own_command_are_the_same(url: str, journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "bakery.py").write_text(
        "import os\nfrom celery import Celery\nimport durable_adapter.celery\n"
        "app = Celery('bakery', broker='memory://')\n"
        "durable_adapter.celery.install(app, journal=os.environ['JOURNAL'])\n"
    )
    celery = [str(BIN / "celery"), "-A", "bakery", "durable"]
    assert run(*celery, "reconcile", cwd=tmp_path, JOURNAL=url).returncode == 1, "nobody sweeps"
    a_worker(journal, "s1", role="sweeper")
    assert run(*celery, "reconcile", cwd=tmp_path, JOURNAL=url).returncode == 0
    held(journal, a_run(journal, "charge"), "charge")
    assert run(*celery, "reconcile", cwd=tmp_path, JOURNAL=url).returncode == 1
    for words in (["explain", "nobody"], ["list", "--limit", "x"], ["nothing"], ["explain", "--", "a", "b"]):
        done = run(*celery, *words, cwd=tmp_path, JOURNAL=url)
        assert done.returncode == 2, done.stderr
    gone = run(*celery, "list", cwd=tmp_path, JOURNAL=f"sqlite:///{tmp_path}/no/such.db")
    assert gone.returncode == 2


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
def test_what_no_journal_can_hold_is_bad_usage(cli: Cli) -> None:
    for words in (
        ("explain", "a\0b"),
        ("explain", "a\udcffb"),
        ("list", "--name", "a\0b"),
        ("resolve", "a\0b", "--failed"),
        ("retry", "--task", "a\0b", "--since", "1h"),
        ("list", "--namespace", "a\0b"),
        ("list", "--since", "99999999999h"),
        ("list", "--since", "9" * 400 + "h"),
        ("reconcile", "--waiting-longer-than", "99999999999d"),
    ):
        result = cli(*words, code=2)
        assert result.stderr.count("Error: ") == 1, words
        assert "unexpected" not in result.stderr, words
        assert "sql" not in result.stderr.lower(), words


@on_postgresql
def test_a_role_that_may_only_read_looks_and_is_told_what_it_lacks(cli: Cli, journal: Journal, url: str) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    role = f"reader_{os.getpid()}"
    with journal.db.open_transaction() as connection:
        connection.execute(text(f"DROP ROLE IF EXISTS {role}"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'hunter2'"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"))
    try:
        reader = re.sub(r"//[^@/]*@", f"//{role}:hunter2@", url)
        assert "HELD  " in cli("reconcile", "--journal", reader, code=1).stdout
        signed = ("--by", "ann", "--why", "the bank says so", "--apply")
        refused = cli("resolve", ref, "--failed", *signed, "--journal", reader, code=2).stderr
        assert "cannot be written: permission denied" in refused
        assert "hunter2" not in refused
        assert statuses(journal, ref)["charge"] == "held"
    finally:
        with journal.db.open_transaction() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


def in_a_shell(command: str, url: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Pastes a printed command."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return run("bash", "-c", command, cwd=cwd, DURABLE_ADAPTER_JOURNAL=url, PATH=path)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@on_sqlite
def test_printed_commands_pasted_unedited_run_and_decide_nothing(cli: Cli, journal: Journal, url: str, tmp_path: Path) -> None:
    for id in AWKWARD:
        ref = a_run(journal, "charge", id=id, declared=True)
        held(journal, ref, "charge")
    findings = cli.json("reconcile", code=1)["findings"]
    assert {f["workflow"] for f in findings} == set(AWKWARD)
    for finding in findings:
        explained = in_a_shell(explain(None, finding["workflow"]), url, tmp_path)
        assert explained.returncode == 1, explained.stderr
        (command,) = [r["command"] for r in finding["remedies"] if "--failed" in r["command"]]
        unedited = in_a_shell(command, url, tmp_path)
        assert unedited.returncode == 0, unedited.stderr
        assert "Nothing was changed." in unedited.stdout
        assert statuses(journal, finding["ref"])["charge"] == "held"
    assert not (tmp_path / "forged").exists()
    finding = next(f for f in findings if f["workflow"] == "-42")
    happened, again, _ = (remedy["command"] for remedy in finding["remedies"])
    for command, says in (
        (happened, "VALUE"),
        (again.replace(" -- ", " --apply -- "), "--why 'how you know' is what the printed command says"),
        (f"{again} --apply", "unexpected extra argument (--apply)"),
    ):
        refused = in_a_shell(command, url, tmp_path)
        assert refused.returncode == 2, refused.stdout
        assert says in refused.stderr
        assert statuses(journal, finding["ref"])["charge"] == "held"
    decided = in_a_shell(again.replace("'how you know'", "'asked the bank' --apply"), url, tmp_path)
    assert decided.returncode == 0, decided.stderr
    assert statuses(journal, finding["ref"])["charge"] == "waiting"


@on_sqlite
@pytest.mark.parametrize(
    ("by", "why"), [("WHO", "x"), ("ann", "how you know"), ("ann", "How you know"), ("ann", "TEXT"), ("ann", "…")]
)
def test_placeholders_are_no_reasons(cli: Cli, journal: Journal, by: str, why: str) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    result = cli("resolve", "--failed", "--by", by, "--why", why, "--apply", "--", ref, code=2)
    assert "in the place of your own words" in result.stderr
    assert statuses(journal, ref)["charge"] == "held"


@on_sqlite
def test_every_command_takes_a_double_dash(cli: Cli, journal: Journal) -> None:
    a_run(journal, "charge", id="-42", declared=True)
    for verb in ("explain", "cancel", "rollback", "retry"):
        result = cli(verb, "--", "-42")
        assert "No such option" not in result.stderr
        assert "-42" in result.stdout + result.stderr
    assert cli("explain", "--", "--json", code=2).stderr.startswith("Error: "), "what stands behind it is no option"


@on_sqlite
def test_many_findings_of_one_cause_are_one_paragraph_with_one_command(cli: Cli, journal: Journal) -> None:
    for number in range(7):
        ref = a_run(journal, "charge", id=f"order-{number}", declared=True, attributes={"total": "10.50"}, amount="total")
        held(journal, ref, "charge")
    for number in range(5):
        ref = a_run(journal, "ship", id=f"parcel-{number}", declared=True)
        held(journal, ref, "ship")
    told = cli("reconcile", code=1).stdout
    assert told.count("HELD  ") == 2
    assert "HELD  charge · 7 findings · 73.50 at stake" in told
    assert "such as    order-0, order-1, order-2 and 4 more" in told
    command = next(line.strip() for line in told.splitlines() if "--failed --task charge --since " in line)
    assert cli.run_printed(command).exit_code == 0
    left = cli.json("reconcile", code=1)["findings"]
    assert {f["step"] for f in left} == {"ship"}, "all of one group, and nothing else"
    assert cli("reconcile", "--all", code=1).stdout.count("HELD  ") == 5


@on_sqlite
def test_at_eighty_columns_no_id_is_broken(url: str, journal: Journal, tmp_path: Path) -> None:
    ids = [f"order-{'x' * 50}-{number}" for number in range(3)]
    for id in ids:
        a_run(journal, "a_service.payments.tasks.charge_the_customers_card", id=id, declared=True)
    master, terminal = pty.openpty()
    env = {"DURABLE_ADAPTER_JOURNAL": url, "COLUMNS": "80", "TERM": "xterm", "PATH": os.environ["PATH"]}
    words = [sys.executable, "-m", "durable_adapter.cli", "list"]
    process = subprocess.Popen(words, stdout=terminal, stderr=subprocess.PIPE, env=env, cwd=tmp_path)
    os.close(terminal)
    shown = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError:
            break
        if not read:
            break
        shown += read
    assert process.wait(60) == 0
    os.close(master)
    told = shown.decode()
    for id in ids:
        assert id in told
    assert told.count("a_service.payments.tasks.charge_the_customers_card") >= 3


@pytest.mark.skipif(os.name != "posix", reason="files have owners on POSIX")
def test_a_sqlite_journal_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    before = os.umask(0)
    try:
        done = run(str(BIN / "durable-adapter"), "migrate", "--journal", f"sqlite:///{path}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        journal = Journal(f"sqlite:///{path}")
        a_run(journal, "charge")
        files = sorted(tmp_path.glob("journal.db*"))
        assert [file.name for file in files] == ["journal.db", "journal.db-shm", "journal.db-wal"]
        assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
        journal.close()
    finally:
        os.umask(before)
