"""Bad input and bad places: each is told in a sentence, with what to do, and with the exit code of a look that failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

import durable_adapter.celery
from durable_adapter.celery.worker import check
from durable_adapter.errors import JournalUnmigrated
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import REVISION, REVISIONS, VERSION_TABLE
from tests.cli.conftest import SIGNED, Cli, Shop
from tests.journal.making import a_run, held
from tests.servers.addresses import free_port
from tests.servers.fixtures import FreshDatabase

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])

#: Commands that look at the journal, with what they need to get that far.
LOOKING = (
    ("list",), ("explain", "x"), ("reconcile",), ("resolve", "x", "--failed"), ("retry", "x"), ("rollback", "x"), ("cancel", "x"),
    ("doubt", "--since", "1h"), ("sweep", "--once"), ("doctor",), ("migrate",),
)  # fmt: skip


@pytest.mark.parametrize("command", LOOKING, ids=lambda c: c[0])
def test_no_journal_is_told_with_every_place_where_it_is_looked_for(nowhere: Cli, command: tuple[str, ...]) -> None:
    result = nowhere(*command, code=2)
    text = result.stdout + result.stderr
    for place in ("install(journal=...)", "DURABLE_ADAPTER_JOURNAL", "durable_adapter_journal", "[tool.durable_adapter]"):
        assert place in text


@pytest.mark.parametrize("command", [c for c in LOOKING if c[0] != "sweep"], ids=lambda c: c[0])
def test_a_journal_that_does_not_answer_is_told(nowhere: Cli, command: tuple[str, ...]) -> None:
    url = f"postgresql+psycopg://ann:hunter2@127.0.0.1:{free_port()}/gone"
    result = nowhere(*command, "--journal", url, code=2)
    text = result.stdout + result.stderr
    assert "the journal postgresql+psycopg://ann:***@127.0.0.1" in text
    assert "cannot be reached" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
@pytest.mark.parametrize("command", [("list",), ("reconcile",), ("explain", "x")], ids=lambda c: c[0])
def test_an_unmigrated_journal_is_told_with_the_command(
    nowhere: Cli, fresh_database: FreshDatabase, dialect: str, command: tuple[str, ...]
) -> None:
    result = nowhere(*command, "--journal", fresh_database(dialect), code=2)  # type: ignore[arg-type]
    assert f"has no tables; this version of durable-adapter needs {REVISION}. Run `durable-adapter migrate`" in result.stderr


@pytest.mark.parametrize("command", [c for c in LOOKING if c[0] != "migrate"], ids=lambda c: c[0])
def test_a_file_that_is_not_there_is_told_and_not_made(nowhere: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    missing = tmp_path / "jurnal.db"
    if command[0] == "sweep":
        command = ("-u", "redis://127.0.0.1:1", *command)
    result = nowhere(*command, "--journal", f"sqlite:///{missing}", code=2)
    told = " ".join((result.stdout + result.stderr).split())
    assert f"the file {missing} does not exist, and nothing was made. Correct the path, or make a new journal of it" in told
    assert not missing.exists()


def test_only_migrate_makes_a_file(nowhere: Cli, tmp_path: Path) -> None:
    missing = tmp_path / "journal.db"
    given = ("--journal", f"sqlite:///{missing}")
    assert (
        f"There is no file {missing}: `migrate` makes it.\nTo be applied: {', '.join(REVISIONS)}.\n"
        in nowhere("migrate", "--check", *given, code=1).stdout
    )
    assert nowhere.json("migrate", "--check", *given, code=1)["revision"] is None
    assert "CREATE TABLE durable_workflow" in nowhere("migrate", "--sql", *given, code=0).stdout
    assert not missing.exists()
    nowhere("migrate", *given, code=0)
    assert nowhere("list", *given, code=0).stdout == "No workflows.\n"


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_a_start_and_a_worker_whose_journals_file_is_not_there_fail_and_make_none(
    make_shop: Callable[..., Shop], tmp_path: Path
) -> None:
    missing = tmp_path / "jurnal.db"
    shop = make_shop(install=False)
    binding = durable_adapter.celery.install(shop.app, journal=f"sqlite:///{missing}")
    for operation in (lambda: shop.app.tasks["charge"].delay("42"), lambda: check(binding)):
        with pytest.raises(JournalUnmigrated, match=r"jurnal\.db does not exist, and nothing was made"):
            operation()
    assert (missing.exists(), shop.sent) == (False, [])


@pytest.fixture
def ahead(journal: Journal) -> Callable[[str], None]:
    """Writes another revision into the journal."""

    def write(revision: str) -> None:
        table = sa.table(VERSION_TABLE, sa.column("version_num"))
        journal.db.transaction(lambda conn: conn.execute(sa.update(table).values(version_num=revision)))

    return write


def test_a_journal_of_a_newer_version_is_told(cli: Cli, ahead: Callable[[str], None]) -> None:
    ahead("0009")
    try:
        for command in (("list",), ("reconcile",), ("migrate",), ("migrate", "--check")):
            told = cli(*command, code=2).stderr
            assert f"is at revision 0009, which this version of durable-adapter (it knows up to {REVISION})" in told
        assert "upgrade durable-adapter here" in cli("doctor", code=2).stdout
        ahead("0002")
        assert cli("list").exit_code == 0, "code of one version runs on the next schema"
    finally:
        ahead(REVISION)


@on_sqlite
def test_errors_are_json_where_json_is_asked_for(cli: Cli, nowhere: Cli) -> None:
    told = nowhere.json("list", code=2)
    assert told["error"]["type"] == "NotInstalled"
    assert "no journal is named" in told["error"]["message"]
    assert cli.json("explain", "order-9", code=2)["error"]["type"] == "UnknownWorkflow"


@on_sqlite
@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (("frobnicate",), "UsageError", "There are: list, explain"),
        (("list", "--staus", "x"), "NoSuchOption", "--staus"),
        (("--jurnal", "x", "list"), "NoSuchOption", "--jurnal"),
        (("list", "--since", "yesterday"), "BadParameter", "is no time: give a span such as 2h"),
        (("list", "--limit", "many"), "BadParameter", "Invalid value for '--limit'"),
        (("explain",), "MissingParameter", "Missing argument 'ID'"),
        (("resolve", "x"), "UsageError", "say what happened, with exactly one of --happened VALUE"),
        (("cancel", "x", "--apply"), "UsageError", "--apply needs --by WHO and --why TEXT"),
        (("reconcile", "--kind", "no-such"), "BadParameter", "is no kind of finding. There are:"),
        (("sweep", "--once", "--for", "3"), "UsageError", "--once and --for exclude each other"),
        (("demo", "--story", "no-such"), "BadParameter", "there is no story 'no-such'"),
    ],
)
def test_bad_usage_is_json_where_json_is_asked_for(cli: Cli, words: tuple[str, ...], kind: str, told: str) -> None:
    for given in ((*words, "--json"), ("--json", *words)):
        result = cli(*given, code=2)
        error = json.loads(result.stdout)["error"]
        assert (error["type"], told in " ".join(error["message"].split())) == (kind, True), error
        assert result.stderr == ""


@on_sqlite
def test_an_unknown_command_option_or_setting(cli: Cli) -> None:
    assert "No such command 'reconsile'. Did you mean 'reconcile'?" in cli("reconsile", code=2).stderr
    assert "There are: list, explain, reconcile" in cli("frobnicate", code=2).stderr
    assert "No such option: --staus" in cli("list", "--staus", "x", code=2).stderr.replace("No such option '", "No such option: ")
    told = cli("list", code=2, DURABLE_ADAPTER_JURNAL="x").stderr
    assert "jurnal" in told.lower()
    assert "is no setting of durable-adapter; there are: journal, namespace" in told


@pytest.mark.parametrize(
    ("journal_url", "told"),
    [
        ("order.db", "the journal's URL 'order.db' is not one"),
        ("oracle://x/y", "names the database 'oracle'; supported are postgresql, mysql, mariadb and sqlite"),
        ("sqlite://", "a journal in memory is lost with its process"),
    ],
)
def test_a_url_that_is_none(nowhere: Cli, journal_url: str, told: str) -> None:
    assert told in nowhere("list", "--journal", journal_url, code=2).stderr


@on_sqlite
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_app_anywhere", "the app 'no_such_app_anywhere' cannot be loaded: ModuleNotFoundError"),
        ("json:dumps", "'json:dumps' is a function, not a Celery app"),
    ],
)
def test_an_app_that_is_none(cli: Cli, name: str, told: str) -> None:
    assert told in cli("-A", name, "list", code=2).stderr


@on_sqlite
def test_an_app_without_the_plugin(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(install=False)
    told = cli("-A", shop.name, "reconcile", code=2).stderr
    assert f"the app '{shop.name}' does not have durable-adapter installed: call durable_adapter.celery.install" in told


@on_sqlite
def test_an_app_whose_tasks_cannot_be_imported(cli: Cli, make_shop: Callable[..., Shop]) -> None:
    shop = make_shop(include=["no_such_tasks"])
    told = cli("-A", shop.name, "list", code=2).stderr
    assert "the app's task modules cannot be imported: ModuleNotFoundError: No module named 'no_such_tasks'" in told


@on_sqlite
def test_sweeping_needs_an_app(cli: Cli) -> None:
    told = cli("sweep", "--once", code=2).stderr
    assert "sweep sends messages, and for that it needs the app: name it with -A, as `celery -A` does." in told


@on_sqlite
def test_options_hold_before_the_command_and_behind_it(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge", namespace="other")
    before = cli("--namespace", "other", "--json", "list", code=0).stdout
    behind = cli("list", "--namespace", "other", "--json", code=0).stdout
    assert before == behind
    assert json.loads(before)["workflows"][0]["ref"] == ref


@on_sqlite
def test_printed_commands_reach_the_same_journal_and_tell_no_password(url: str, journal: Journal, nowhere: Cli) -> None:
    held(journal, a_run(journal, "charge"), "charge")
    found = nowhere.json("reconcile", "--kind", "held", "--journal", url)["findings"][0]
    assert found["command"].startswith(f"durable-adapter --journal {url} resolve ")
    assert nowhere.run_printed(found["command"]).exit_code == 0


def test_printed_commands_leave_a_url_with_a_password_out() -> None:
    from durable_adapter.cli.options import Invocation
    from durable_adapter.cli.session import open_session

    for url, kept in (
        ("postgresql://ann:hunter2@db/x", False),
        ("postgresql://db/x?user=ann&password=hunter2", False),
        ("postgresql://ann@db:5432/x", True),
        ("sqlite:////var/journal.db", True),
    ):
        caller = open_session(Invocation(journal=url)).caller
        assert ("--journal" in caller.program) is kept
        assert "hunter2" not in caller.program


@on_sqlite
def test_settings_come_from_the_file_as_well(url: str, journal: Journal, nowhere: Cli, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.durable_adapter]\njournal = "{url}"\nnamespace = "filed"\n')
    a_run(journal, "charge", namespace="filed")
    assert len(nowhere.json("list", code=0)["workflows"]) == 1


@on_sqlite
def test_the_version_is_told(cli: Cli) -> None:
    assert cli("--version", code=0).stdout.startswith("durable-adapter 0.")


@on_sqlite
def test_a_steps_status_is_no_status_of_a_workflow_and_what_lists_it_is_told(cli: Cli) -> None:
    told = " ".join(cli("list", "--status", "held", code=2).stderr.split())
    assert "'held' is no status of a workflow; there are: running, suspended," in told
    assert "A step can be held: `durable-adapter reconcile` lists what is held or in doubt" in told
    told = " ".join(cli("list", "--status", "waiting", code=2).stderr.split())
    assert "A step can be waiting: `list` shows where each stands" in told
    assert "A step can be" not in cli("list", "--status", "lost", code=2).stderr
    assert cli("list", "--status", "rolling-back", code=0).stdout == "No workflows.\n"


@on_sqlite
def test_on_a_terminal_a_long_look_says_how_far_it_has_come_and_nowhere_else(url: str, journal: Journal, tmp_path: Path) -> None:
    for _ in range(3):
        held(journal, a_run(journal, "charge"), "charge")
    master, terminal = os.openpty()
    words = [sys.executable, "-m", "durable_adapter.cli", "--journal", url]
    for command in (["reconcile"], ["cancel", "--task", "charge", "--since", "1h"], ["reconcile", "--json"]):
        done = subprocess.run([*words, *command], stdout=subprocess.PIPE, stderr=terminal, timeout=60, cwd=tmp_path)
        assert b"looked at\r" not in done.stdout
    os.close(terminal)
    shown = os.read(master, 10_000).decode()
    os.close(master)
    assert shown.count("3 workflows looked at\r\x1b[K") == 2
    done = subprocess.run([*words, "reconcile"], capture_output=True, timeout=60, cwd=tmp_path)
    assert b"looked at" not in done.stderr


@on_sqlite
def test_a_name_that_is_too_long_to_be_recorded(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    words = [w if w != "ann" else "a" * 300 for w in SIGNED]
    assert "--by is longer than 200 characters" in cli("resolve", ref, "--failed", *words, code=2).stderr
