"""The docstrings of `durable.step` and `durable.workflow` are the manual: their examples run as they stand."""

from __future__ import annotations

import doctest
import sys
from types import ModuleType

import pytest
from sqlalchemy import text

from durable_adapter import inline
from durable_adapter.declare.decorators import step, workflow
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from tests.servers.fixtures import FreshDatabase


def prepare(url: str) -> None:
    """Gives an empty database the journal's tables, and the one that the transactional step writes to."""
    journal = Journal(url)
    migrate(journal)
    with journal.db.engine.begin() as connection:
        connection.execute(text("CREATE TABLE stock (sku TEXT, free INTEGER)"))
    journal.close()


@pytest.mark.parametrize("decorator", [step, workflow])
def test_the_manuals_examples_run(
    decorator: object, fresh_database: FreshDatabase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("manual")
    monkeypatch.setitem(sys.modules, "manual", module)
    examples = doctest.DocTestParser().get_doctest(decorator.__doc__ or "", {}, decorator.__name__, None, 0)  # type: ignore[attr-defined]
    examples.globs = vars(module)  # not a copy: the inline binding imports what it runs
    examples.globs["__name__"] = "manual"
    inline.install(fresh_database("sqlite", prepare))
    try:
        with capsys.disabled():
            results = doctest.DocTestRunner().run(examples, clear_globs=False)
    finally:
        inline.uninstall()
    assert results.attempted > 5
    assert results.failed == 0
