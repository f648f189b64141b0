"""`world`: the shop on each engine in turn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable_adapter.testing import durable_template
from tests.runtime.worlds import World, opened

__all__ = ["durable_template"]


@pytest.fixture(params=["inline", "celery", "rq"])
def world(request: pytest.FixtureRequest, tmp_path: Path, durable_template: Path) -> Iterator[World]:
    """The shop on an engine; its messages are run in this process, and its clock is the test's."""
    path = tmp_path / "journal.sqlite3"
    shutil.copy(durable_template, path)
    with opened(request.param, f"sqlite:///{path}") as made:
        yield made
