"""The inline binding by itself: what it refuses, what it leaves, and how the next process goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durable_adapter import inline
from durable_adapter.errors import (
    DeclarationError,
    InstallConflict,
    JournalUnreachable,
    NotFinished,
    NotInstalled,
    SettingError,
    UnknownWorkflow,
    UnsupportedCanvas,
)
from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from durable_adapter.model import WorkflowStatus
from tests.runtime import shop
from tests.servers.fixtures import FreshDatabase

ROOT = Path(__file__).parents[2]


def prepare(url: str) -> None:
    """Gives an empty database the journal's tables."""
    journal = Journal(url)
    migrate(journal)
    journal.close()


@pytest.fixture
def url(fresh_database: FreshDatabase) -> str:
    """A journal of this test's own."""
    return fresh_database("sqlite", prepare)


@pytest.fixture
def install() -> Iterator[Callable[..., inline.Binding]]:
    """`install(...)`, taken out after the test; the shop's bank is new."""
    shop.bank.__init__()  # type: ignore[misc]
    yield inline.install
    inline.uninstall()


def test_a_function_runs_here_and_its_result_is_at_hand(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    assert inline.enqueue(shop.in_place, "42").result() == ["ch-42", "sh-42"]
    assert shop.bank.effects == ["body 42", "charge 42", "ship 42"]
    assert inline.handle("order-42").status is WorkflowStatus.SUCCEEDED


def test_a_chain_runs_one_call_after_the_other(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    handle = inline.enqueue(inline.call(shop.charge, "42"), inline.call(shop.mail, "42"), inline.call(shop.ship, "42"))
    assert handle.result() == "sh-42"
    assert shop.bank.effects == ["charge 42", "mail 42", "ship 42"]


def test_what_fails_is_raised_by_its_result(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    handle = inline.start("order-42", inline.call(shop.reserve, "42"), inline.call(shop.decline, "42"))
    assert handle.status is WorkflowStatus.COMPENSATED
    with pytest.raises(shop.Declined, match="no money for 42"):
        handle.result()


def test_what_waits_says_so_and_goes_on_when_it_is_due(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    handle = inline.start("order-42", shop.sleeper, "42", seconds=0.2)
    with pytest.raises(NotFinished, match=r"workflow order-42 is .*sleep waiting.*durable-adapter explain -- order-42"):
        handle.result()
    until = time.monotonic() + 20
    while handle.status is not WorkflowStatus.SUCCEEDED and time.monotonic() < until:
        inline.work(seconds=0.1)
    assert handle.result() == ["ch-42", "sh-42"]


def test_a_start_inside_of_a_step_runs_when_that_has_ended(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    shop.bank.send = inline.enqueue
    shop.BOOKINGS.create(inline.installed().journal.db.engine)
    inline.enqueue(shop.book_and_send, "42")
    assert shop.bank.effects == ["book 42", "charge 42"]


def test_threads_run_what_they_started_themselves(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    found: dict[str, object] = {}

    def run(order: str) -> None:
        found[order] = inline.start(order, inline.call(shop.charge, order), inline.call(shop.ship, order)).result()

    threads = [threading.Thread(target=run, args=(order,)) for order in ("1", "2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {order: f"sh-{order}" for order in ("1", "2", "3")}


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb"])
def test_the_next_process_goes_on_where_one_was_killed(fresh_database: FreshDatabase, tmp_path: Path, dialect: str) -> None:
    journal_url = fresh_database(dialect, prepare)  # type: ignore[arg-type]
    ledger = tmp_path / "ledger"
    command = [sys.executable, "-c", "from tests.inline import order; order.main()", journal_url, str(ledger)]
    died = subprocess.run([*command, "die"], cwd=ROOT, timeout=60)
    assert died.returncode == -signal.SIGKILL
    subprocess.run([*command, "go on"], cwd=ROOT, timeout=90, check=True)
    happened = ledger.read_text().splitlines()
    journal = Journal(journal_url)
    run = journal.reads.latest("default", "order-42")
    journal.close()
    assert run is not None
    assert run.status is WorkflowStatus.SUCCEEDED
    assert [line.split()[0] for line in happened] == ["reserve", "charge", "charge", "ship"]
    assert happened[1] == happened[2]  # with the same key, so that the bank does it once


def test_while_it_is_off_calls_run_plain(install: Callable[..., inline.Binding], url: str) -> None:
    binding = install(url, mode="off")
    assert inline.enqueue(shop.charge, "42").result() == "ch-42"
    assert binding.journal.reads.listed() == []


def test_installing_twice_alike_is_nothing_and_differently_an_error(install: Callable[..., inline.Binding], url: str) -> None:
    first = install(url)
    assert install(url) is first
    assert install() is first
    with pytest.raises(InstallConflict, match="another stale"):
        install(url, stale=120)


def test_without_install_there_is_nothing_to_start_with() -> None:
    with pytest.raises(NotInstalled, match=r"durable_adapter\.inline\.install"):
        inline.enqueue(shop.charge, "42")


def test_an_unknown_setting_is_refused_by_name(install: Callable[..., inline.Binding], url: str) -> None:
    with pytest.raises(SettingError, match="colour"):
        install(url, colour="blue")


def test_a_journal_that_is_away_is_an_error_at_the_caller_and_nothing_is_run(install: Callable[..., inline.Binding]) -> None:
    install("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(JournalUnreachable, match="Nothing was sent"):
        inline.enqueue(shop.charge, "42")
    assert shop.bank.effects == []


def test_an_id_that_nobody_started_is_unknown(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    with pytest.raises(UnknownWorkflow, match="no workflow 'order-43'"):
        inline.handle("order-43")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((shop.mail, "42"), DeclarationError, r"nothing here is durable\. Mark what has effects with @durable\.step"),
        ((lambda: None,), DeclarationError, "cannot be found again under the name"),
        (("shop.charge", "42"), DeclarationError, "is no function"),
        ((inline.call(shop.charge, "42"), "43"), DeclarationError, "a chain is made of calls alone"),
        (
            (inline.call(shop.charge, "42"), inline.call(shop.in_place, "42")),
            UnsupportedCanvas,
            "is a workflow function and stands in a chain",
        ),
    ],
    ids=["unmarked", "lambda", "a name", "not only calls", "function in a chain"],
)
def test_what_cannot_be_made_durable_is_refused_and_nothing_is_run(
    install: Callable[..., inline.Binding], url: str, given: tuple[object, ...], error: type[Exception], message: str
) -> None:
    binding = install(url)
    with pytest.raises(error, match=message):
        inline.enqueue(*given)  # type: ignore[arg-type]
    assert shop.bank.effects == []
    assert binding.journal.reads.listed() == []


def test_a_dispatched_result_is_for_the_function_that_sent_it(install: Callable[..., inline.Binding], url: str) -> None:
    install(url)
    with pytest.raises(NotFinished, match="for the workflow function that sent it"):
        inline.Dispatched("some id").result()
