"""The pytest plugin: what it loads, which app it takes, and that it leaves an installed app as it found it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from durable_adapter.celery import binding_of, install, uninstall
from durable_adapter.testing import TestJournal
from durable_adapter.testing.celery import app_in_use
from durable_adapter.testing.recorded import redirected
from tests.testing.shop import Shop

ROOT = Path(__file__).parents[2]

TRY_IT = """
from celery import Celery
import durable_adapter as durable

app = Celery("mine")
done = []


@app.task
@durable.step
def charge(order):
    done.append(order)
    return order


def test_it(durable_journal):
    assert charge.delay("42").get() == "42"
    assert [workflow.status for workflow in durable_journal.workflows()] == ["succeeded"]


def test_it_again(my_journal):
    charge("43")
    assert my_journal.workflows()[0].steps == ["charge: succeeded"]


def test_plain():
    assert charge("44") == "44"
    assert done == ["42", "43", "44"]
"""


def test_every_pytest_run_loads_neither_sqlalchemy_nor_a_queue_library_for_it() -> None:
    code = "import sys, durable_adapter.testing.plugin; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    for heavy in ("sqlalchemy", "alembic", "celery", "kombu", "redis", "rq"):
        assert f"'{heavy}'" not in loaded


def test_the_distribution_names_the_plugin() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    plugin = import_module(points["durable_adapter"])
    assert hasattr(plugin, "durable_journal")


def test_a_users_own_project_has_the_fixture_under_both_names(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TRY_IT)
    (tmp_path / "conftest.py").write_text(
        "from durable_adapter.testing import journal as my_journal\n"
        "from durable_adapter.testing import durable_app, durable_journal, durable_redis, durable_template\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_examples_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "test-your-tasks.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    *tests, imports = examples
    assert "from durable_adapter.testing import journal" in imports
    (tmp_path / "test_page.py").write_text("\n\n".join(tests))
    (tmp_path / "conftest.py").write_text(
        imports + "from durable_adapter.testing import durable_app, durable_journal, durable_redis, durable_template\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{page.count('def test_')} passed" in done.stdout


def test_without_a_word_the_app_is_the_current_one() -> None:
    app = Celery("current")
    try:
        assert app_in_use() is app
    finally:
        app.close()


@pytest.mark.parametrize("mode", ["enforce", "off"])
def test_an_installed_app_is_redirected_and_put_back(
    shop: Shop, request: pytest.FixtureRequest, mode: str, tmp_path: Path
) -> None:
    """As a project's own code installs it when it is imported: with a journal that no unit test should touch."""
    binding = install(shop.app, journal="sqlite:////nowhere/at/all/production.db", mode=mode)
    before: dict[str, Any] = {name: getattr(binding, name) for name in ("journal", "host", "engine", "settings")}
    from durable_adapter.journal import Journal
    from durable_adapter.journal.migrations import migrate

    url = f"sqlite:///{tmp_path}/journal.db"
    made = Journal(url)
    migrate(made)
    made.close()
    with redirected(url, app=shop.app) as here:
        assert shop.charge.delay("42").get() == "ch-42"
        assert [run.status for run in here.journal.reads.listed()] == ["succeeded"]
    assert binding_of(shop.app) is binding
    assert {name: getattr(binding, name) for name in before} == before
    assert binding.in_process is None
    assert shop.charge("42") == "ch-42"  # plain again: the production journal is not asked
    uninstall(shop.app)


def test_a_task_that_waits_for_another_one_gets_its_result(durable_journal: TestJournal, shop: Shop) -> None:
    @shop.app.task(name="shop.parent", shared=False)
    def parent() -> Any:
        return shop.mail.delay("from the child").get()

    assert parent.delay().get() == "from the child"


def test_apply_inside_a_workflow_function_is_a_step_in_place_as_in_production(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    def function(order: str) -> Any:
        return shop.charge.apply((order,)).get()

    assert durable_journal.call(function, "42") == "ch-42"
    (workflow,) = durable_journal.workflows()
    assert [(step.name, step.kind) for step in workflow.steps] == [("function", "function"), ("charge", "step")]


def test_a_step_that_an_unmarked_task_calls_as_a_function_is_a_plain_call(
    durable_journal: TestJournal, shop: Shop, effects: list[Any]
) -> None:
    @shop.app.task(name="shop.legacy", shared=False)
    def legacy() -> Any:
        return [shop.charge("42"), shop.pack("42")]

    assert legacy.delay().get() == ["ch-42", "small box for 42"]
    assert effects == ["charge", "pack"]
    assert durable_journal.workflows() == []
