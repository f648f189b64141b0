"""What the documentation shows: examples run, diffs fit the code, tables are complete, and what is named exists."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from durable_adapter import errors, model
from durable_adapter.celery.branches import GROUPS
from durable_adapter.declare.decorators import _STEP_OPTIONS, _WORKFLOW_OPTIONS
from durable_adapter.declare.retry import RetryPolicy
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.journal.schema import metadata
from durable_adapter.settings import NAMES, Settings
from tests.docs.pages import DOCS, ROOT, Block, blocks, pages

EXAMPLES = ROOT / "examples" / "legacy_sidekiq_style"
#: Runs in a test of its own.
FOLLOWED = {"docs/tutorial/quick-start.md", "docs/tutorial/quick-start-rq.md", "docs/how-to/django-rq.md"}
#: A bank for pages that show how a step talks to one.
BANK = """
from pathlib import Path

class bank:
    @staticmethod
    def book(text, key=None):
        with Path("bank.txt").open("a") as book:
            book.write(text + "\\n")

    @staticmethod
    def find(text):
        return [line for line in Path("bank.txt").read_text().splitlines() if line == text]
"""
#: What the examples of a page take for granted.
GRANTED = {
    "docs/how-to/migrate-one-chain.md": "from legacy_sidekiq_style.client import BankClient, CardDeclined\nbank = BankClient()\n",
    "docs/how-to/migrate-one-rq-chain.md": BANK,
}


def with_python() -> list[Path]:
    """Pages with examples in Python."""
    found = [page for page in pages() if any(block.language == "python" for block in blocks(page))]
    ours = [page for page in found if page.relative_to(ROOT).as_posix() not in FOLLOWED]
    return [page for page in ours if page.is_relative_to(DOCS) or page.parent == ROOT]


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path):
    journal = f"sqlite:///{tmp_path}/journal.sqlite3"
    migrate(Journal(journal))
    found = [block for block in blocks(page) if block.language == "python"]
    text = GRANTED.get(found[0].page, "") + "\n".join(f"# line {block.line}\n{block.text}" for block in found)
    text = re.sub(r'"postgresql\+psycopg://[^"]*"', repr(journal), text)
    (tmp_path / "page.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'examples'}", "FAKE_BANK_URL": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{text}\n{done.stderr}"


def diffs() -> list[Block]:
    """Diffs that show the examples' before and after."""
    shown = [ROOT / "README.md", EXAMPLES / "README.md"]
    return [block for page in shown for block in blocks(page) if block.language == "diff"]


@pytest.mark.parametrize("block", diffs(), ids=lambda block: f"{block.page}:{block.line}")
def test_a_diff_shows_lines_that_are_there(block: Block):
    lines = {side: _lines(EXAMPLES / side) | _lines(EXAMPLES / "on_rq" / side) for side in ("before", "after")}
    for line in block.text.splitlines():
        shown = line[1:]
        if line.startswith("-"):
            assert shown in lines["before"], line
        elif line.startswith("+"):
            assert not shown or shown in lines["after"], line
        elif shown:
            assert shown in lines["before"] | lines["after"], line


def _lines(folder: Path) -> set[str]:
    return {line for file in folder.glob("*.py") for line in file.read_text().splitlines()}


def test_every_error_is_in_the_reference():
    text = (DOCS / "reference" / "errors.md").read_text()
    source = "\n".join(file.read_text() for file in (ROOT / "src").rglob("*.py") if file.name != "errors.py")
    used = [name for name, cls in vars(errors).items() if inspect.isclass(cls) and re.search(rf"\b{name}\b", source)]
    assert len(used) > 20
    assert [name for name in used if f"`{name}`" not in text and f"`durable_adapter.{name}`" not in text] == []
    claimed = set(re.findall(r"^\| `(\w+)`", text, re.M))
    assert claimed <= set(vars(errors))


def test_every_setting_is_in_the_reference_with_its_default():
    text = (DOCS / "reference" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.M))
    assert list(rows) == list(NAMES)
    for name, shown in rows.items():
        default = getattr(Settings(), name)
        expected = {None: "none", True: "true", False: "false"}.get(default, str(default).removesuffix(".0"))
        assert shown.strip().strip("`") == expected, name


def test_every_option_of_a_declaration_is_in_the_reference():
    text = (DOCS / "reference" / "declarations.md").read_text()
    for option in (*_STEP_OPTIONS, *_WORKFLOW_OPTIONS, *inspect.signature(RetryPolicy).parameters):
        assert re.search(rf"^\| `{option}\b", text, re.M), option


def test_every_table_column_and_status_is_in_the_reference():
    text = (DOCS / "reference" / "database.md").read_text()
    for table in metadata.tables.values():
        part = text[text.index(f"### `{table.name}`") :].split("\n#", 1)[0]
        named = set(re.findall(r"`(\w+)`", part))
        assert {column.name for column in table.columns} - named == set(), table.name
    for status in (*model.StepStatus, *model.WorkflowStatus):
        assert f"`{status.value}`" in text


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path):
    named = set(re.findall(r"`((?:tests|src|examples|benchmarks|migrations)/[\w./-]+)`", page.read_text()))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_documents_at_the_root_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_a_page_names_exist(page: Path):
    from durable_adapter.cli.group import COMMANDS

    named = re.findall(r"(?:`|\$ )durable-adapter (?:-A \S+ |--\w+ )?([a-z]+)", page.read_text())
    assert set(named) <= {*COMMANDS, "demo"}


def test_the_documentation_says_that_groups_are_refused_as_long_as_they_are():
    assert "not durable yet" in GROUPS
    assert "groups and chords with marked members" in (DOCS / "reference" / "support.md").read_text()
