"""`durable-adapter demo`: the stories with real workers and real kills, from a checkout and from a wheel."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from durable_adapter.cli.demo import demo

module = importlib.import_module("durable_adapter.cli.demo")
ROOT = Path(__file__).parents[2]
RUN = "from durable_adapter.cli.demo import demo; demo()"


def run_demo(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The demo in a process of its own, with next to no environment."""
    minimal = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", **environment}
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=minimal, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("engine", [[], ["--engine", "rq"]], ids=["celery", "rq"])
def test_the_demo_counts_what_the_bank_was_made_to_do_before_and_after(engine: list[str], tmp_path: Path):
    done = run_demo("--json", *engine, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert list(told) == ["stories"]
    exchange, order = told["stories"]
    assert exchange == {
        "name": "exchange",
        "before": {"charges": 0, "debits": 2, "shipped": 0, "mailed": 0},
        "after": {"charges": 0, "debits": 1, "shipped": 0, "mailed": 0},
    }
    assert order == {
        "name": "order",
        "before": {"charges": 2, "debits": 0, "shipped": 1, "mailed": 1},
        "after": {"charges": 1, "debits": 0, "shipped": 1, "mailed": 1},
    }
    assert "kill -9" in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.parametrize(
    ("engine", "shop", "told", "never_done"),
    [
        ("celery", "", ("order-chain", "order-early-ack", "order-worker-lost"), ("order-early-ack", "order-worker-lost")),
        (
            "rq",
            "on_rq/",
            ("order-chain", "order-no-retry", "order-requeued", "order-worker-lost"),
            ("order-no-retry", "order-worker-lost"),
        ),
    ],
)
def test_the_demo_runs_from_a_wheel_and_survives_every_kill(
    engine: str, shop: str, told: tuple[str, ...], never_done: tuple[str, ...], installed: Path, tmp_path: Path
):
    where = tmp_path / "work"
    stories = [word for name in told for word in ("--story", name)]
    done = run_demo("--engine", engine, *stories, "--workdir", str(where), cwd=installed.parent, PYTHONPATH=str(installed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"diff -u installed/durable_adapter/_examples/legacy_sidekiq_style/{shop}before " in done.stdout
    for name in never_done:
        ledger = done.stdout[done.stdout.index(f"\n{name}  ") :].split("\n\n", 1)[0]
        assert re.search(r"^  done +no +yes$", ledger, re.M)
        assert re.search(r"^  shipments +0 +1 +1 missing$", ledger, re.M)
    chain = done.stdout[done.stdout.index("\norder-chain  ") :].split("\n\n", 1)[0]
    assert re.search(r"^order-chain +before +after +wrong before$", chain, re.M)
    assert re.search(r"^  charges +2 +148\.00 +1 +74\.00 +1 too many, 74\.00$", chain, re.M)
    _, explained = done.stdout.split("$ durable-adapter explain -- order-42\n")
    assert explained.startswith("order-42 · ")
    assert "probe decided: " in explained
    assert "the workflow ended: succeeded" in explained
    assert (where / "order-worker-lost-after" / "journal.sqlite3").is_file()


def test_a_story_that_does_not_exist_is_named_with_those_that_do():
    done = CliRunner().invoke(demo, ["--story", "nonesuch"])
    assert done.exit_code == 2
    assert "there is no story 'nonesuch'; there are: exchange, order," in done.output


@pytest.mark.parametrize(
    ("engine", "missing", "extra"),
    [
        ("celery", {"celery"}, "celery"),
        ("rq", {"rq", "fakeredis"}, "demo"),
        ("rq", {"fakeredis"}, "demo"),
        ("all", {"rq"}, "demo"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    engine: str, missing: set[str], extra: str, monkeypatch: pytest.MonkeyPatch
):
    find = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    done = CliRunner().invoke(demo, ["--engine", engine])
    assert done.exit_code == 2
    assert all(name in done.output for name in missing)
    assert f"pip install 'durable-adapter[{extra}]'" in done.output


def test_a_story_of_the_other_engine_is_not_told():
    done = CliRunner().invoke(demo, ["--engine", "rq", "--story", "order-early-ack"])
    assert done.exit_code == 2
    assert "there is no story 'order-early-ack'; there are: exchange, order," in done.output


def test_files_of_an_earlier_demo_are_not_written_over(tmp_path: Path):
    (tmp_path / "order-before").mkdir()
    (tmp_path / "order-before" / "ledger").write_text("")
    done = CliRunner().invoke(demo, ["--story", "order", "--workdir", str(tmp_path)])
    assert done.exit_code == 2
    assert "is not empty: name another --workdir" in done.output


@dataclass
class Told:
    """A telling, as far as the demo looks at it."""

    story: Any
    is_right: bool
    counts: dict[str, int] = field(default_factory=lambda: {"charges": 2})
    finished: bool = True

    @property
    def ledger(self) -> dict[str, Any]:
        return {"counts": {"charges": 2, "mails": 0}, "sums": {"charges": 14800}}

    def columns(self) -> dict[str, int]:
        return {"charges": 2, "debits": 0, "shipped": 0, "mailed": 0}


class Scenario:
    """Tells at once; what it tells is right on one side."""

    DidNotStart = RuntimeError
    ENGINES: ClassVar[dict[str, Any]] = {"celery": SimpleNamespace(place=""), "rq": SimpleNamespace(place="on_rq")}

    def __init__(self, right: str, *, silent: bool = False) -> None:
        self.right, self.silent = right, silent
        self.staged: list[tuple[str, str]] = []
        self.STORIES = {
            "celery": {"order": self.story("celery"), "order-early-ack": self.story("celery")},
            "rq": {"order": self.story("rq")},
        }

    def story(self, engine: str) -> Any:
        return SimpleNamespace(engine=engine, title="it goes wrong", subject=SimpleNamespace(workflow="order-42"))

    def stage(self, story: Any, workdir: Path) -> Any:
        self.staged.append((story.engine, workdir.name))
        return SimpleNamespace(close=lambda: None)

    def explain(self, story: Any, _stage: Any) -> str:
        if self.silent:
            raise self.DidNotStart("the journal is gone")
        return f"{story.subject.workflow} on {story.engine}, as explain tells it"

    def tell(self, story: Any, side: str, _stage: Any, _say: Any) -> Told:
        return Told(story, is_right=side == self.right)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--json"], '{"stories": [{"name": "order", '), ([], "  charges             2     148.00  2     148.00\n")],
)
def test_a_ledger_that_is_wrong_afterwards_is_a_failure(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(module, "_scenario", lambda _place, _engines: Scenario(right="before"))
    done = CliRunner().invoke(demo, [*arguments, "--story", "order", "--workdir", str(tmp_path)])
    assert done.exit_code == 1
    assert expected in done.stdout


def test_the_demo_ends_with_what_explain_says_about_the_last_story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "_scenario", lambda _place, _engines: Scenario(right="after"))
    done = CliRunner().invoke(demo, ["--engine", "all", "--story", "order", "--workdir", str(tmp_path)])
    assert "\n$ durable-adapter explain -- order-42\norder-42 on rq, as explain tells it\n" in done.stdout


def test_an_explain_that_fails_is_a_demo_that_was_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "_scenario", lambda _place, _engines: Scenario(right="after", silent=True))
    done = CliRunner().invoke(demo, ["--story", "order", "--workdir", str(tmp_path)])
    assert done.exit_code == 2
    assert "order: the journal is gone" in done.output


def test_all_engines_tell_a_story_each_under_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    scenario = Scenario(right="after")
    monkeypatch.setattr(module, "_scenario", lambda _place, _engines: scenario)
    told = ["--engine", "all", "--story", "order", "--story", "order-early-ack"]
    done = CliRunner().invoke(demo, [*told, "--json", "--workdir", str(tmp_path)])
    assert done.exit_code == 0
    assert [story["name"] for story in json.loads(done.stdout)["stories"]] == [
        "order-celery",
        "order-early-ack-celery",
        "order-rq",
    ]
    assert ("rq", "order-rq-before") in scenario.staged
    shown = CliRunner().invoke(demo, [*told, "--workdir", str(tmp_path)])
    assert "legacy_sidekiq_style/before " in shown.stdout
    assert "legacy_sidekiq_style/on_rq/before " in shown.stdout
