"""Commands stay quick because of what they do not load: help loads no database library, and no list loads a table drawer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from durable_adapter.cli.group import COMMANDS
from durable_adapter.journal import Journal
from tests.journal.making import a_run, held

on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"])

PROBE = """
import json, sys
from durable_adapter.cli import main
sys.argv = ["durable-adapter", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code
loaded = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps({"code": code, "loaded": loaded}), file=sys.stderr)
"""

QUEUES = {"celery", "kombu", "billiard", "redis", "rq"}


def loaded_by(*words: str, journal: str | None = None, cwd: Path | None = None) -> set[str]:
    """The packages that a command loads, in a process of its own."""
    env = {"PATH": ""} | ({"DURABLE_ADAPTER_JOURNAL": journal} if journal else {})
    done = subprocess.run([sys.executable, "-c", PROBE, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["code"] in (0, 1), done.stderr
    return set(told["loaded"])


@pytest.mark.parametrize("words", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)], ids=" ".join)
def test_help_loads_no_database_no_queue_and_no_table_drawer(words: tuple[str, ...]) -> None:
    assert not loaded_by(*words) & {"sqlalchemy", "alembic", "rich", "typed_settings", *QUEUES}


@on_sqlite
@pytest.mark.parametrize(
    "words", [("list",), ("list", "--json"), ("reconcile",), ("reconcile", "--json"), ("doctor",), ("resolve", "R", "--failed")],
    ids=" ".join,
)  # fmt: skip
def test_looking_at_the_journal_loads_neither_alembic_nor_a_queue_nor_rich(
    url: str, journal: Journal, words: tuple[str, ...], tmp_path: Path
) -> None:
    ref = a_run(journal, "charge")
    held(journal, ref, "charge")
    words = tuple(ref if word == "R" else word for word in words)
    assert not loaded_by(*words, journal=url, cwd=tmp_path) & {"alembic", "rich", *QUEUES}


@on_sqlite
def test_a_check_of_the_revision_does_not_load_alembic(url: str, journal: Journal, tmp_path: Path) -> None:
    assert "alembic" not in loaded_by("migrate", "--check", journal=url, cwd=tmp_path)


def test_the_entry_point_of_celery_is_found_without_the_binding() -> None:
    code = (
        "import sys; from importlib.metadata import entry_points;"
        "(p,) = [p for p in entry_points(group='celery.commands') if p.name == 'durable']; print(p.load().name);"
        "assert not {'sqlalchemy', 'durable_adapter.celery'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "durable", done.stderr


def test_celerys_own_commands_load_our_entry_point_and_no_sqlalchemy() -> None:
    code = (
        "import sys; sys.argv = ['celery', '--help']\n"
        "from celery.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'durable_adapter.cli.plugin' in sys.modules\n"
        "print(sorted({name for name in sys.modules if name.startswith(('sqlalchemy', 'alembic', 'durable_adapter.journal'))}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "durable" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
