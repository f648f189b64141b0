"""An order waits for somebody else's lock for a moment only, and says who may hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from durable_adapter.cli.locks import holders
from durable_adapter.journal import Journal
from durable_adapter.journal.schema import step
from durable_adapter.model import Safety, StepStatus, attempt_name, new_ref
from tests.cli.conftest import SIGNED, Cli
from tests.journal.making import a_run, a_step, a_worker, the


@pytest.fixture
def kept(journal: Journal, elsewhere: Any) -> Iterator[str]:
    """A run whose steps' rows a transactional body holds, somewhere else; the run's reference."""
    a_worker(journal, "till", host="web-7", pid=4711, namespace="default")
    ref = a_run(journal, a_step("charge", safety=Safety.TRANSACTIONAL), "ship", id="order-42", declared=True)
    journal.workers.beat("till", [attempt_name(ref, "charge", "token")])
    other = elsewhere()
    with other.db.open_transaction() as connection:
        connection.execute(sa.update(step).where(step.c.ref == ref).values(evidence="in its body"))
        yield ref


def test_cancel_ends_with_a_word_and_changes_nothing(cli: Cli, journal: Journal, kept: str) -> None:
    told = cli("cancel", "order-42", *SIGNED, code=1)
    assert "another transaction keeps a row of this run" in " ".join(told.stderr.split())
    assert the(journal, kept, "ship").status is StepStatus.PLANNED


def test_doubt_says_who_may_keep_the_row_and_that_nothing_was_changed(cli: Cli, journal: Journal, kept: str) -> None:
    told = cli("doubt", "--since", "1h", *SIGNED, code=2)
    assert "Nothing was changed" in told.stderr
    assert f"charge of run {kept} in pid 4711 on web-7" in told.stderr
    assert the(journal, kept, "ship").status is StepStatus.PLANNED


def test_where_nobody_says_that_it_runs_a_step_of_it_a_gone_host_is_named(journal: Journal) -> None:
    assert "until the database gives its connection up" in holders(journal, new_ref())
