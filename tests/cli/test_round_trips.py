"""Reports take a few round trips to the journal, however much there is to tell: over a slow line that is all that counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from durable_adapter.journal import Journal
from tests.cli.conftest import Cli
from tests.journal.making import a_run, a_step, a_worker, claim, fail, held

#: Statements that every connection begins with.
SET_UP = 5
#: Statements of a report beside those.
AT_MOST = 5

on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"])


@contextmanager
def sent() -> Iterator[list[str]]:
    """Every statement that reaches PostgreSQL meanwhile, those of the connection's beginning among them."""
    found: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(self: Any, query: Any, *values: Any, **options: Any) -> Any:
        found.append(str(query))
        return execute(self, query, *values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", noted)
        yield found


def much(journal: Journal, count: int) -> str:
    """Runs in several kinds of trouble, with workers that are dead; returns one of the references."""
    refs = []
    for number in range(count):
        ref = a_run(journal, a_step("reserve", compensation="release"), "charge", "ship")
        refs.append(ref)
        if number % 3 == 0:
            held(journal, ref, "reserve")
        elif number % 3 == 1:
            a_worker(journal, f"dead-{number}", parent="p", pid=number + 2)
            claim(journal, ref, "reserve", f"dead-{number}")
            journal.workers.child_died("p", number + 2, "signal 9")
        else:
            fail(journal, ref, "reserve")
    return refs[1]


@on_postgresql
@pytest.mark.parametrize("count", [3, 120])
@pytest.mark.parametrize("command", ["list", "explain", "reconcile"])
def test_a_report_takes_five_round_trips_whatever_there_is_to_tell(cli: Cli, journal: Journal, command: str, count: int) -> None:
    ref = much(journal, count)
    words = (command, ref) if command == "explain" else (command,)
    with sent() as statements:
        cli(*words)
    of_the_journal = [statement for statement in statements if "durable_" in statement]
    assert 2 <= len(of_the_journal) <= AT_MOST, statements
    assert len(statements) - len(of_the_journal) <= SET_UP, statements


@on_postgresql
def test_explain_finds_a_run_by_each_of_its_names_in_as_few(cli: Cli, journal: Journal) -> None:
    ref = a_run(journal, a_step("charge", task_id="t1"), id="t1.0", declared=False)
    declared = a_run(journal, "charge", id="order-42", declared=True)
    for word, expected in (("order-42", declared), ("t1", ref), (ref, ref)):
        with sent() as statements:
            told = cli.json("explain", word)
        assert told["workflow"]["ref"] == expected
        assert len([s for s in statements if "durable_" in s]) <= AT_MOST, statements
