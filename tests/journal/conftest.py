"""A migrated, empty journal for each test, on every dialect; further ones on the same database; races between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from durable_adapter.journal import Journal
from durable_adapter.journal.migrations import migrate
from tests.journal.interleaving import Interleaving
from tests.journal.making import a_worker, empty
from tests.servers import Databases, Unavailable
from tests.servers.databases import DIALECTS

OpenJournal = Callable[..., Journal]


def pytest_configure(config: pytest.Config) -> None:
    """Names the mark of the tests that fill tables: `-m "not slow"` leaves them out."""
    config.addinivalue_line("markers", "slow: takes ten seconds or more, because it fills a database first")


@pytest.fixture(scope="session")
def migrated(databases: Databases) -> Callable[[Any], str]:
    """`migrated(dialect)`: the URL of a database of this session with the journal's tables, the same one every time."""
    urls: dict[str, str] = {}

    def url(dialect: Any) -> str:
        if dialect not in urls:
            try:
                urls[dialect] = databases.fresh(dialect)
            except Unavailable as reason:
                pytest.skip(str(reason))
            journal = Journal(urls[dialect])
            migrate(journal)
            journal.close()
        return urls[dialect]

    return url


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> str:
    """The dialect that the test runs on; a test may name its own."""
    return str(request.param)


@pytest.fixture
def url(dialect: str, migrated: Callable[[Any], str]) -> str:
    """The URL of the journal's database."""
    return migrated(dialect)


@pytest.fixture
def elsewhere(url: str) -> Iterator[OpenJournal]:
    """`elsewhere()`: the same journal from another process, as it were: with connections of its own."""
    opened: list[Journal] = []

    def open_journal(at: str = url, **given: Any) -> Journal:
        opened.append(Journal(at, **given))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal.close()


@pytest.fixture
def journal(elsewhere: OpenJournal) -> Journal:
    """An empty journal with one living worker, `w1`."""
    found = elsewhere()
    empty(found)
    a_worker(found)
    return found


@pytest.fixture
def meanwhile(journal: Journal, elsewhere: OpenJournal) -> Interleaving:
    """Operations that run into each other; see `Interleaving`."""
    return Interleaving(journal, elsewhere)
